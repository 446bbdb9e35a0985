"""A lab of real processes: what ``lab up`` promises, and the runbook's own lines against it."""

from __future__ import annotations

import asyncio
import json
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from bsfg.lab import held, processes, stores
from bsfg.lab.demo_compare import difference, inbound_prefix
from bsfg.lab.demo_stage import inbound_stream, local_stream
from bsfg.lab.example_facts import EXAMPLE_ARTIFACTS, FEW_FACTS
from bsfg.lab.homes import ZONES, peer_of

PROGRAM: Final = [sys.executable, "-m", "bsfg.cli.main"]
COMMAND_SECONDS: Final = 60.0
ZONE_KEYS: Final = {
    "home", "endpoint", "local", "nats", "nats_credentials", "nats_admin_credentials", "log", "ca_cert", "ca_key",
    "pid",
}  # fmt: skip


def bsfg(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [*PROGRAM, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False)


def lab_up(directory: Path, *options: str) -> dict[str, Any]:
    done = bsfg("lab", "up", "--dir", directory, *options)
    assert done.returncode == 0, done.stderr
    description: dict[str, Any] = json.loads(done.stdout)
    return description


def running(directory: Path) -> list[int]:
    """The pids of all the lab's processes."""
    homes = [directory / spec.zone for spec in ZONES]
    found = [find(home) for home in homes for find in (held.find_gateway, held.find_server)]
    return [pid for pid in found if pid is not None]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """A lab in a folder whose socket paths are longer than a Unix socket's address may be."""
    directory = tmp_path_factory.mktemp("lab") / ("deep-" * 12) / ("folder-" * 8)
    try:
        yield lab_up(directory)
    finally:
        if directory.exists():
            bsfg("lab", "down", "--dir", directory)
    assert running(directory) == []


def shell(line: str, status: int = 0) -> str:
    done = subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, timeout=COMMAND_SECONDS, check=False
    )
    assert done.returncode == status, (line, done.returncode, done.stdout, done.stderr)
    return done.stdout


class TestRunning:
    def test_it_says_where_everything_is(self, lab: dict[str, Any]) -> None:
        assert set(lab) == {"dir", "zones"}
        assert list(lab["zones"]) == ["enterprise", "plant-a"]
        for zone, told in lab["zones"].items():
            assert set(told) == ZONE_KEYS
            assert held.find_gateway(Path(told["home"])) == told["pid"]
            assert Path(told["home"]) == Path(lab["dir"]) / zone
            for key in ("nats_credentials", "nats_admin_credentials", "log", "ca_cert", "ca_key"):
                assert Path(told[key]).is_file(), key

    def test_it_is_up_when_up_returns(self, lab: dict[str, Any]) -> None:
        for told in lab["zones"].values():
            status = json.loads(bsfg("status", "--home", told["home"], "--output", "json").stdout)
            assert status["health"] == "ok"
            assert {row["state"] for row in status["links"]} == {"level"}
            assert [row["reachable"] for row in status["peers"]] == [True]

    def test_up_again_changes_nothing(self, lab: dict[str, Any]) -> None:
        before = running(Path(lab["dir"]))
        assert lab_up(Path(lab["dir"])) == lab
        assert running(Path(lab["dir"])) == before

    def test_every_exported_stream_has_its_facts_on_both_sides(self, lab: dict[str, Any]) -> None:
        async def compare() -> None:
            for source in ZONES:
                for stream in source.exports:
                    sent = await read(lab, source.zone, local_stream(stream))
                    held_ = await read(lab, peer_of(source).zone, inbound_stream(source.zone, stream))
                    with_artifact = sum(each.stream == stream for each in EXAMPLE_ARTIFACTS)
                    assert len(sent) == len(held_) == FEW_FACTS + with_artifact
                    prefix = inbound_prefix(source.zone, stream)
                    pairs = zip(sent, held_, strict=True)
                    assert not [pair for pair in pairs if difference(*pair, stream, prefix)]

        asyncio.run(compare())

    def test_local_applications_may_publish_to_local_subjects_alone(self, lab: dict[str, Any]) -> None:
        zone = processes.zone_of(Path(lab["dir"]), "plant-a")
        to = inbound_prefix("enterprise", "facts.operational") + ".batch"

        async def publish() -> None:
            async with stores.opened(zone, zone.nats_credentials) as local:
                assert await local.publish("facts.operational.test", b"{}") > 0
                assert "permissions violation" in str(await local.is_refused_publish(to, b"{}")).lower()
            async with stores.opened(zone, zone.nats_admin_credentials) as admin:
                stale = {"Nats-Expected-Last-Sequence": "1"}
                assert await admin.refused_append(to, b"{}", stale) == stores.STALE_SEQUENCE

        asyncio.run(publish())

    def test_no_process_of_a_zone_has_a_file_of_the_other_open(self, lab: dict[str, Any]) -> None:
        for spec in ZONES:
            home = Path(lab["dir"]) / spec.zone
            own, other = str(home), str(Path(lab["dir"]) / peer_of(spec).zone)
            pids = (held.find_gateway(home), held.find_server(home))
            opened = [
                str(link.readlink())
                for pid in pids
                for link in Path(f"/proc/{pid}/fd").iterdir()
                if link.is_symlink()
            ]
            assert [path for path in opened if path.startswith(own)]
            assert not [path for path in opened if path.startswith((other, str(Path(lab["dir"]) / "ca")))]


async def read(lab: dict[str, Any], name: str, stream: str) -> list[stores.StoredMessage]:
    zone = processes.zone_of(Path(lab["dir"]), name)
    async with stores.opened(zone, zone.nats_admin_credentials) as store:
        return await store.read_all(stream)


class TestRunbook:
    """Sections 3 to 6 as they are typed, with the lab's addresses."""

    @pytest.fixture
    def plant(self, lab: dict[str, Any]) -> dict[str, str]:
        """Words of the runbook's lines on zone B."""
        home = Path(lab["zones"]["plant-a"]["home"])
        words = {
            name: shlex.quote(str(home / "certs" / name)) for name in ("ca.crt", "server.crt", "server.key")
        }
        return words | {
            "home": shlex.quote(str(home)),
            "enterprise": lab["zones"]["enterprise"]["endpoint"],
            "own": lab["zones"]["plant-a"]["endpoint"],
            "curl": f"curl -sS --cacert {words['ca.crt']}",
            "mutual": f"--cert {words['server.crt']} --key {words['server.key']}",
            "bsfg": " ".join(map(shlex.quote, PROGRAM)),
        }

    def test_3_1_own_certificate(self, plant: dict[str, str]) -> None:
        said = shell(f"openssl x509 -in {plant['server.crt']} -noout -subject -dates")
        assert "CN = plant-a-bsfg" in said and "notAfter" in said
        assert ": OK" in shell(f"openssl verify -CAfile {plant['ca.crt']} {plant['server.crt']}")

    def test_3_2_peer_identity(self, plant: dict[str, str]) -> None:
        said = shell(
            f"echo | openssl s_client -connect {plant['enterprise']} -servername enterprise-bsfg 2>/dev/null"
            " | openssl x509 -noout -subject -ext subjectAltName"
        )
        assert "enterprise-bsfg" in said and "DNS:enterprise-bsfg" in said

    def test_3_3_validity(self, plant: dict[str, str]) -> None:
        shell(f"openssl x509 -checkend 2592000 -noout -in {plant['server.crt']}")

    def test_4_3_denials_and_6_1_handshake(self, plant: dict[str, str], tmp_path: Path) -> None:
        health = json.loads(shell(f"{plant['curl']} {plant['mutual']} https://{plant['enterprise']}/health"))
        assert (health["zone"], health["identity"], health["status"]) == (
            "enterprise",
            "enterprise-bsfg",
            "ok",
        )
        # With TLS 1.3 curl learns late that it was refused: an empty or a cut answer, not a failed handshake.
        shell(f"{plant['curl']} https://{plant['enterprise']}/health || (($? == 52 || $? == 56))")
        wrong = shlex.quote(str(tmp_path / "wrong"))
        shell(
            f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj /CN=plant-a-bsfg"
            f" -keyout {wrong}.key -out {wrong}.pem 2>/dev/null"
        )
        shell(
            f"{plant['curl']} --cert {wrong}.pem --key {wrong}.key https://{plant['enterprise']}/health"
            " || (($? == 52 || $? == 56))"
        )

    def test_6_3_first_fetch_through_the_api(self, plant: dict[str, str]) -> None:
        body = '{"stream":"facts.operational","cursor_policy":"bounded_backfill_24h"}'
        page = json.loads(
            shell(
                f"{plant['curl']} {plant['mutual']} -X POST https://{plant['enterprise']}/v1/fetch"
                f" -H 'Content-Type: application/json' -d '{body}'"
            )
        )
        assert len(page["facts"]) == FEW_FACTS
        denied = shell(
            f"{plant['curl']} {plant['mutual']} -o /dev/null -w '%{{http_code}}' -X POST"
            f" https://{plant['enterprise']}/v1/fetch -d '{body.replace('operational', 'telemetry')}'"
        )
        assert denied == "403"

    def test_6_4_and_6_5_cursor_and_consumer(self, plant: dict[str, str]) -> None:
        link = f"--peer enterprise --stream facts.operational --home {plant['home']} --output json"
        row = json.loads(shell(f"{plant['bsfg']} cursor query {link}"))
        assert (row["state"], row["sequence"], row["local_sequence"]) == ("level", FEW_FACTS, FEW_FACTS)
        assert row["init"]["mode"] == "bounded_backfill_24h"
        taken = json.loads(shell(f"{plant['bsfg']} consumer next --count 2 {link}"))
        assert [fact["sequence"] for fact in taken["facts"]] == [1, 2]


class TestDownAndUp:
    """Labs that come and go; the module's own one is up beside them, so that 9443 is taken."""

    @pytest.fixture
    def directory(self, tmp_path: Path) -> Iterator[Path]:
        yield tmp_path / "lab"
        if (tmp_path / "lab").exists():
            bsfg("lab", "down", "--dir", tmp_path / "lab")
        assert running(tmp_path / "lab") == []

    def test_one_zone_goes_and_comes_back_as_it_was(self, directory: Path) -> None:
        before = lab_up(directory, "--empty")
        enterprise = before["zones"]["enterprise"]
        done = bsfg("lab", "down", "--dir", directory, "--zone", "plant-a", "--output", "json")
        stopped = json.loads(done.stdout)["stopped"]
        assert stopped["plant-a"]["gateway"] == before["zones"]["plant-a"]["pid"]
        assert stopped["plant-a"]["nats_server"] is not None
        assert running(directory) == [enterprise["pid"], held.find_server(directory / "enterprise")]

        after = lab_up(directory)
        assert after["zones"]["enterprise"] == enterprise
        assert after["zones"]["plant-a"]["pid"] not in (None, before["zones"]["plant-a"]["pid"])
        without_pid = [{**each["zones"]["plant-a"], "pid": None} for each in (before, after)]
        assert without_pid[0] == without_pid[1]
        streams = json.loads(
            bsfg("stream", "list", "--home", directory / "plant-a", "--output", "json").stdout
        )["streams"]
        assert {row["messages"] for row in streams} == {0}

        assert bsfg("lab", "down", "--dir", directory).returncode == 0
        assert running(directory) == []
        assert bsfg("lab", "down", "--dir", directory).returncode == 0

    def test_a_server_without_its_gateway_is_stopped_too(self, directory: Path) -> None:
        lab_up(directory, "--empty")
        with held.gateway_of(directory / "plant-a") as gateway:
            assert gateway is not None
            gateway.kill()
        assert held.find_server(directory / "plant-a") is not None
        bsfg("lab", "down", "--dir", directory)
        assert running(directory) == []

    def test_a_taken_port_is_named(self, directory: Path) -> None:
        processes.build(directory)
        local = processes.zone_of(directory, "plant-a").local
        with socket.socket() as occupant:
            occupant.bind(("127.0.0.1", int(local.rpartition(":")[2])))
            occupant.listen()
            done = bsfg("lab", "up", "--dir", directory)
        assert done.returncode == 2
        assert f"zone plant-a can't start: local {local} is taken by another program" in done.stderr
        assert running(directory) == []

    def test_a_zone_that_does_not_start_is_named_with_its_last_words(self, directory: Path) -> None:
        processes.build(directory)
        (directory / "plant-a" / "certs" / "server.key").chmod(0o644)
        done = bsfg("lab", "up", "--dir", directory)
        assert done.returncode == 3
        assert "zone plant-a did not become healthy: its gateway ended" in done.stderr
        assert "server.key" in done.stderr and "Traceback" not in done.stderr
        assert running(directory) == []

    def test_a_folder_that_is_no_lab_is_refused(self, directory: Path) -> None:
        directory.mkdir()
        (directory / "letter.txt").write_text("dear")
        for verb in ("up", "down"):
            done = bsfg("lab", verb, "--dir", directory)
            assert done.returncode == 2 and "holds no lab" in done.stderr
