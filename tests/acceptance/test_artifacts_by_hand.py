"""The runbook's section 7 as it is typed, and what an operator may type wrong."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from tests.support.artifact_lab import BUCKET, put, reaches, reference, row, tell, uri
from tests.support.lab_zones import ENTERPRISE, OPERATIONAL, Lab, Zone, eventually, run

KEY = "2025/001/batch-123.json"
CONTENT = os.urandom(50_000)


def curl(lab: Lab, name: str, *more: str | Path) -> tuple[int, bytes]:
    certs = lab.plant.home / "certs"
    body = lab.plant.home / "downloaded-file"
    done = run(
        "curl", "-s", "-o", body, "-w", "%{http_code}", "--cacert", certs / "ca.crt",
        "--cert", certs / "server.crt", "--key", certs / "server.key", *more,
        f"https://{lab.enterprise.place.endpoint}/v1/artifacts?uri={name}",
    )  # fmt: skip
    assert done.status == 0, done.errors
    return int(done.output), body.read_bytes()


def test_a_fact_names_an_artifact_and_it_is_fetched_and_verified(lab: Lab, tmp_path: Path) -> None:
    fact = put(lab.enterprise, KEY, CONTENT)
    tell(lab.enterprise, {"batch": 123} | fact)
    lab.level()
    (shown,) = lab.plant.ask("consumer", "next", "--stream", OPERATIONAL, "--peer", ENTERPRISE)["facts"]
    named = json.loads(shown["data"])
    assert named["artifact_uri"] == f"s3://{BUCKET}/batch-files/{KEY}"

    answer = lab.plant.ask("artifact", "fetch", "--uri", named["artifact_uri"])
    assert set(answer) == {"uri", "sha256", "size", "path"}
    assert (answer["sha256"], answer["size"]) == (named["artifact_sha256"], named["artifact_size"])
    checked = run("sha256sum", answer["path"])
    assert checked.output.split()[0] == named["artifact_sha256"]

    out = tmp_path / "downloaded-file"
    answer = lab.plant.ask("artifact", "fetch", "--uri", named["artifact_uri"], "--out", str(out), "--peer", ENTERPRISE)
    assert (answer["path"], out.read_bytes()) == (str(out), CONTENT)
    assert [path.name for path in tmp_path.iterdir()] == ["downloaded-file"]

    status, body = curl(lab, named["artifact_uri"])
    assert (status, body) == (200, CONTENT)
    status, body = curl(lab, named["artifact_uri"], "--range", "100-199")
    assert (status, body) == (206, CONTENT[100:200])


def test_a_missing_one_by_hand_is_named_listed_and_tried_again(lab: Lab) -> None:
    name = uri("invalid/nonexistent.json")
    done = lab.plant.bsfg("artifact", "fetch", "--uri", name)
    assert done.status == 1
    assert "artifact_not_found" in done.errors and "tried again at 20" in done.errors
    assert curl(lab, name)[0] == 404
    (listed,) = lab.plant.ask("artifact", "list", "--peer", ENTERPRISE, "--state", "missing")["artifacts"]
    assert listed["uri"] == name and listed["next_retry"]
    screen = lab.plant.bsfg("artifact", "list", "--peer", ENTERPRISE).output
    assert name in screen and "next retry 20" in " ".join(screen.split())
    eventually("it is tried again", 10, lambda: (row(lab.plant, name) or {}).get("failures", 0) > 1)
    status, code, _ = lab.plant.refused("artifact", "fetch", "--uri", name)
    assert (status, code) == (1, "artifact_not_found")
    put(lab.enterprise, "invalid/nonexistent.json", b"now")
    reaches(lab.plant, name, "verified")
    assert lab.plant.ask("artifact", "fetch", "--uri", name)["size"] == 3


def test_a_forbidden_one_by_hand(lab: Lab) -> None:
    put(lab.enterprise, "there.txt", b"secret", "plans")
    for name in (uri("there.txt", "plans"), uri("not-there.txt", "plans")):
        status, code, _ = lab.plant.refused("artifact", "fetch", "--uri", name)
        assert (status, code) == (4, "artifact_denied")
        assert curl(lab, name)[0] == 403


@pytest.mark.parametrize(
    ("arguments", "status", "code"),
    [
        (("--uri", f"https://{BUCKET}/batch-files/1"), 2, "invalid_uri"),
        (("--uri", f"s3://{BUCKET}/batch-files/../documents/1"), 2, "invalid_uri"),
        (("--uri", f"s3://{BUCKET}/batch-files/%2e%2e/1"), 2, "invalid_uri"),
        (("--uri", f"s3://user@{BUCKET}/batch-files/1"), 2, "invalid_uri"),
        (("--uri", f"s3://{BUCKET}//1"), 2, "invalid_uri"),
        (("--uri", f"s3://{BUCKET}/batch-files/" + "x" * 2_000), 2, "invalid_uri"),
        (("--uri", ""), 2, "invalid_request"),
        (("--uri", f"s3://{BUCKET}-2/batch-files/1"), 2, "invalid_request"),
        (("--uri", "s3://plant-a-bsfg-artifacts/order-files/1"), 2, "invalid_request"),
        (("--uri", f"s3://{BUCKET}/batch-files/1", "--peer", "plant-b"), 2, "configuration"),
    ],
)
def test_what_is_typed_wrong(lab: Lab, arguments: tuple[str, ...], status: int, code: str) -> None:
    assert lab.plant.refused("artifact", "fetch", *arguments)[:2] == (status, code)
    assert "artifacts" not in lab.plant.status()["problems"]


def test_a_copy_that_can_not_be_written(lab: Lab, tmp_path: Path) -> None:
    name = put(lab.enterprise, "copied.bin", b"bytes")["artifact_uri"]
    status, code, message = lab.plant.refused("artifact", "fetch", "--uri", name, "--out", str(tmp_path / "no" / "f"))
    assert (status, code) == (2, "invalid_request") and "can't be written" in message


def test_a_peer_that_is_cut_off_is_not_asked(lab: Lab) -> None:
    name = put(lab.enterprise, "partitioned.bin", b"bytes")["artifact_uri"]
    lab.plant.ask("admin", "partition", "--peer", ENTERPRISE, "--reason", "drill")
    try:
        assert lab.plant.refused("artifact", "fetch", "--uri", name)[:2] == (3, "partitioned")
    finally:
        lab.plant.ask("admin", "reconcile", "--peer", ENTERPRISE)
    assert lab.plant.ask("artifact", "fetch", "--uri", name)["size"] == 5


def test_retrying_what_nobody_wants(lab: Lab) -> None:
    assert lab.plant.refused("artifact", "retry", "--uri", uri("nobody"))[:2] == (1, "artifact_not_found")
    assert lab.plant.ask("artifact", "list", "--state", "pending")["artifacts"] == []


def test_a_zone_without_the_links_that_mirror_fetches_by_hand_alone(lab: Lab) -> None:
    """The positive twin is in the other module: what a link that mirrors reads comes by itself."""
    cursors: Path = lab.plant.paths.cursors_file
    fact = put(lab.enterprise, "not-mirrored.bin", b"bytes")
    with lab.plant.changed(cursors, ("    artifacts: mirror\n", "")):
        lab.plant.ask("config", "reload")
        tell(lab.enterprise, fact)
        lab.level()
        assert not _comes(lab.plant, fact["artifact_uri"])
        assert lab.plant.ask("artifact", "fetch", "--uri", fact["artifact_uri"])["size"] == 5
    lab.plant.ask("config", "reload")
    other = put(lab.enterprise, "mirrored-again.bin", b"BYTES")
    tell(lab.enterprise, other)
    reaches(lab.plant, other["artifact_uri"], "verified")
    assert reference("mirrored-again.bin", b"BYTES") == other


def _comes(zone: Zone, name: str) -> bool:
    try:
        reaches(zone, name, "verified", 1.0)
    except AssertionError:
        return False
    return True
