"""Artifacts from the producer to the peer, in a zone with a folder and in one with a real S3 server."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.artifacts import make_bucket
from tests.support.lab_zones import ENTERPRISE, OPERATIONAL, Lab, Zone, run, running_lab
from tests.support.radosgw import REGION, RadosGateway

from bsfg.lab.example_facts import EXAMPLE_ARTIFACTS

CONTENT = os.urandom(9 * 1024 * 1024 + 5)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(scope="module")
def file_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab with its example facts and artifacts, as it is out of the box."""
    with running_lab(tmp_path_factory.mktemp("file") / "lab", empty=False) as lab:
        yield lab


@pytest.fixture(scope="module")
def s3_lab(radosgw: RadosGateway, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """The same, but that enterprise's artifacts lie in S3."""
    with running_lab(tmp_path_factory.mktemp("s3") / "lab", empty=False) as lab:
        use_s3(lab, radosgw)
        yield lab


@pytest.fixture(params=["file", pytest.param("s3", marks=pytest.mark.slow)])
def zones(request: pytest.FixtureRequest) -> Lab:
    lab: Lab = request.getfixturevalue(f"{request.param}_lab")
    return lab


def use_s3(lab: Lab, server: RadosGateway) -> None:
    """Enterprise's store is S3 from now on; what its folder had is put again."""
    bucket = f"enterprise-{secrets.token_hex(4)}-artifacts"
    make_bucket(server, bucket)
    zone = lab.enterprise
    credentials = server.credentials_file(zone.paths.config)
    section = f"{{store: s3, endpoint: '{server.endpoint}', region: {REGION}, bucket: {bucket},"
    section += f" credentials_file: config/{credentials.name}}}"
    with zone.paths.zone_file.open("a") as file:
        file.write(f"artifacts: {section}\n")
    peers = lab.plant.paths.peers_file
    line = f"    artifact_bucket: {bucket}\n"
    peers.write_text(peers.read_text().replace("    authorized: true\n", f"    authorized: true\n{line}", 1))
    zone.stop_gateway()
    zone.start_gateway()
    lab.plant.ask("config", "reload")
    lab.healthy()
    for example in EXAMPLE_ARTIFACTS:
        if example.zone == ENTERPRISE:
            words = ("--type", example.artifact_type, "--key", example.key)
            zone.ask("artifact", "put", str(example.path), *words)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "batch-900.bin"
    path.write_bytes(CONTENT)
    return path


def put(zone: Zone, file: Path, *more: str) -> dict[str, Any]:
    answer: dict[str, Any] = zone.ask("artifact", "put", str(file), "--type", "batch-files", *more)
    return answer


def curl(lab: Lab, name: str, *more: str) -> tuple[str, bytes]:
    """The status and the body as plant-a's own certificate gets them, whatever address it is sent to not followed."""
    certs, body = lab.plant.home / "certs", lab.plant.home / "answer"
    body.unlink(missing_ok=True)
    done = run(
        "curl", "-s", "-o", body, "-w", "%{http_code}", "--cacert", certs / "ca.crt", "--cert", certs / "server.crt",
        "--key", certs / "server.key", *more, "-G", "--data-urlencode", f"uri={name}",
        f"https://{lab.enterprise.place.endpoint}/v1/artifacts",
    )  # fmt: skip
    return done.output, body.read_bytes() if body.exists() else b""


def test_an_artifact_goes_from_a_file_to_the_peer(zones: Lab, file: Path, tmp_path: Path) -> None:
    answer = put(zones.enterprise, file)
    assert answer["uri"].endswith("-artifacts/batch-files/batch-900.bin")
    assert (answer["sha256"], answer["size"]) == (SHA256, len(CONTENT))
    assert answer["media_type"] == "application/octet-stream"
    assert put(zones.enterprise, file) == answer
    out = tmp_path / "fetched"
    fetched = zones.plant.ask("artifact", "fetch", "--uri", answer["uri"], "--out", str(out))
    assert (fetched["sha256"], out.read_bytes()) == (SHA256, CONTENT)
    assert curl(zones, answer["uri"], "--range", "5000000-5000099") == ("206", CONTENT[5_000_000:5_000_100])


def test_other_bytes_under_the_same_key_are_refused(zones: Lab, tmp_path: Path) -> None:
    file = tmp_path / "same.txt"
    file.write_bytes(b"one")
    answer = put(zones.enterprise, file)
    assert answer["media_type"] == "text/plain"
    file.write_bytes(b"two")
    status, code, message = zones.enterprise.refused("artifact", "put", str(file), "--type", "batch-files")
    assert (status, code) == (1, "conflicting_duplicate")
    assert answer["sha256"] in message
    assert put(zones.enterprise, file, "--key", "other.txt")["size"] == 3
    assert curl(zones, answer["uri"]) == ("200", b"one")


def test_a_fact_brings_its_artifact_along(zones: Lab, file: Path, tmp_path: Path) -> None:
    fact = tmp_path / "fact.json"
    fact.write_bytes(b'{"batch": 12345678901234567890.50}\n')
    words = (
        "--artifact",
        str(file),
        "--type",
        "batch-files",
        "--key",
        "2025/900.bin",
        "--media-type",
        "x-plant/batch",
    )
    zones.enterprise.ask("append", "--stream", OPERATIONAL, "--subject", "json", *words, str(fact))
    zones.enterprise.ask("append", "--stream", OPERATIONAL, "--subject", "opaque", *words, "-", stdin=b"\xff")
    lines = zones.enterprise.bsfg("read", "--stream", OPERATIONAL).output.splitlines()
    as_json, as_headers = (json.loads(line) for line in lines[-2:])
    named = json.loads(as_json["data"])
    assert as_json["data"].startswith('{"batch": 12345678901234567890.50, ')
    expected = {
        "artifact_sha256": SHA256,
        "artifact_size": len(CONTENT),
        "artifact_media_type": "x-plant/batch",
    }
    assert {name: named[name] for name in expected} == expected
    assert dict(as_headers["headers"]) == {name: str(named[name]) for name in ("artifact_uri", *expected)}
    assert zones.plant.ask("artifact", "fetch", "--uri", named["artifact_uri"])["sha256"] == SHA256


def test_the_lab_has_artifacts_that_its_facts_refer_to(zones: Lab) -> None:
    keys = {row["uri"].partition("-artifacts/")[2] for row in zones.enterprise.ask("artifact", "list")["own"]}
    wanted = {f"{each.artifact_type}/{each.key}" for each in EXAMPLE_ARTIFACTS if each.zone == ENTERPRISE}
    assert wanted <= keys
    orders = zones.plant.bsfg("read", "--stream", "facts.orders").output.splitlines()
    named = json.loads(json.loads(orders[-1])["data"])["artifact_uri"]
    assert zones.enterprise.ask("artifact", "fetch", "--uri", named)["size"] == named_size()


def named_size() -> int:
    return next(each.path.stat().st_size for each in EXAMPLE_ARTIFACTS if each.stream == "facts.orders")


def test_what_no_fact_refers_to_goes_and_nothing_else(zones: Lab, tmp_path: Path) -> None:
    file = tmp_path / "orphan.txt"
    file.write_bytes(b"nobody's")
    orphan = put(zones.enterprise, file)["uri"]
    named = tmp_path / "named.txt"
    named.write_bytes(b"somebody's")
    words = ("--artifact", str(named), "--type", "batch-files")
    zones.enterprise.ask("append", "--stream", "facts.telemetry", *words, "-", stdin=b'{"deep": [{}]}')
    young = zones.enterprise.ask("artifact", "gc", "--dry-run")
    assert young["count"] == 0
    found = zones.enterprise.ask("artifact", "gc", "--dry-run", "--older-than", "0")
    uris = {row["uri"] for row in found["orphans"]}
    assert orphan in uris
    assert not [each for each in uris if each.endswith("named.txt")]
    assert curl(zones, orphan)[0] == "200"
    status, code, _ = zones.enterprise.refused("artifact", "gc", "--older-than", "0")
    assert (status, code) == (2, "invalid_request")
    removed = zones.enterprise.ask("artifact", "gc", "--older-than", "0", "--reason", "drill")
    assert removed["removed"] == found["count"]
    assert curl(zones, orphan)[0] == "404"
    left = {row["uri"] for row in zones.enterprise.ask("artifact", "list")["own"]}
    assert [each for each in left if each.endswith("named.txt")]
    assert not left & uris
    audit = (zones.enterprise.paths.data / "audit.jsonl").read_text()
    assert orphan in audit and "artifact.gc" in audit


@pytest.mark.parametrize(
    ("words", "status", "code"),
    [
        ("artifact put {file} --type a/b", 2, "invalid_uri"),
        ("artifact put {file} --type ..", 2, "invalid_uri"),
        ("artifact put {file} --type batch-files --key ../x", 2, "invalid_uri"),
        ("artifact put {file} --type batch-files --key a%2fb", 2, "invalid_uri"),
        ("artifact put {file} --type batch-files --key /x", 2, "invalid_uri"),
        ("artifact put {file} --type batch-files --media-type nonsense", 2, "invalid_request"),
        ("artifact put - --type batch-files", 2, "invalid_request"),
        ("artifact put {file}.none --type batch-files", 2, "invalid_request"),
        ("append --stream facts.operational --artifact {file}", 2, "invalid_request"),
        ("append --stream facts.operational --type batch-files", 2, "invalid_request"),
        (
            "append --stream facts.operational --ndjson --artifact {file} --type batch-files",
            2,
            "invalid_request",
        ),
        ("artifact gc", 2, "invalid_request"),
    ],
)
def test_wrong_words_are_refused_with_a_code(
    file_lab: Lab, tmp_path: Path, words: str, status: int, code: str
) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"x")
    done = file_lab.enterprise.refused(*shlex.split(words.format(file=file)))
    assert done[:2] == (status, code)


def test_status_says_how_much_room_is_taken(zones: Lab) -> None:
    room = zones.enterprise.status()["artifacts"]
    stored = zones.enterprise.ask("artifact", "list")["own"]
    sizes = {row["sha256"]: row["size"] for row in stored}
    assert room["bytes_used"] >= sum(sizes.values()) > 0
    assert room["quota_bytes"] == 50 * 1024**3


def test_a_quota_refuses_clearly_and_a_reload_lifts_it(file_lab: Lab, tmp_path: Path) -> None:
    file = tmp_path / "large.bin"
    file.write_bytes(bytes(2_000_000))
    zone = file_lab.enterprise
    with zone.changed(
        zone.paths.zone_file, ("lab: true", "lab: true\nartifacts: {quota: 1MB, quota_per_peer: 1MB}")
    ):
        zone.ask("config", "reload")
        status, code, message = zone.refused("artifact", "put", str(file), "--type", "batch-files")
        assert (status, code) == (1, "quota_exceeded")
        assert "of 1000000 are taken" in message
    zone.ask("config", "reload")
    assert put(zone, file)["size"] == 2_000_000


def test_peers_are_sent_to_the_object_store_where_that_is_on(zones: Lab, file: Path) -> None:
    zone = zones.enterprise
    if "store: s3" not in zone.paths.zone_file.read_text():
        status, code, message = with_redirect(zone)
        assert (status, code) == (2, "configuration")
        assert "redirect" in message
        return
    answer = put(zone, file, "--key", "redirected.bin")
    text = zone.paths.zone_file.read_text()
    with zone.changed(zone.paths.zone_file, (text, text.replace("store: s3,", "store: s3, redirect: on,"))):
        zone.ask("config", "reload")
        assert curl(zones, answer["uri"]) == ("307", b"")
        assert curl(zones, answer["uri"], "--head")[0] == "200"
        assert curl(zones, answer["uri"].replace("batch-files", "secret-files"))[0] == "403"
        assert curl(zones, answer["uri"], "--location") == ("200", CONTENT)
    zone.ask("config", "reload")


def with_redirect(zone: Zone) -> tuple[int, str, str]:
    with zone.changed(zone.paths.zone_file, ("lab: true", "lab: true\nartifacts: {redirect: on}")):
        return zone.refused("config", "reload")
