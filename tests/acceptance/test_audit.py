"""The audit trail of two running zones: who read what, who was refused, what was loaded; and quiet while idle (I48)."""

from __future__ import annotations

import json
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from tests.support.certificates import TestAuthority
from tests.support.lab_zones import Lab, Zone, eventually, running_lab

from bsfg.errors import EXIT_DONE, EXIT_FAILED
from bsfg.lab import processes
from bsfg.lab.homes import LabPaths

AUDIT: Final = "facts.audit"
CONNECTIONS_MAX: Final = 8
SETTLES_SECONDS_MAX: Final = 60.0
IDLE_SECONDS: Final = 6.0
"""Longer than a long poll of each link."""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Two zones without facts; enterprise tells of its audit in facts.audit, which plant-a reads."""
    directory = tmp_path_factory.mktemp("lab") / "lab"
    processes.build(directory)
    zone_file = LabPaths(directory).home("enterprise") / "config" / "zone.yaml"
    zone_file.write_text(zone_file.read_text() + f"audit_stream: {AUDIT}\n")
    with running_lab(directory) as running:
        yield running


def records(zone: Zone) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (zone.paths.data / "audit.jsonl").read_bytes().splitlines()]


def loads(zone: Zone) -> int:
    return sum(record["action"] == "configuration.load" for record in records(zone))


def facts(zone: Zone) -> list[dict[str, Any]]:
    """The audit facts that plant-a has of enterprise."""
    done = zone.bsfg("read", "--stream", AUDIT, "--peer", "enterprise")
    assert done.status == EXIT_DONE, done.errors
    return [json.loads(json.loads(line)["data"]) for line in done.output.splitlines()]


def quiet(zone: Zone) -> list[str] | None:
    """The times of all audit facts, if none came in IDLE_SECONDS."""
    before = [fact["time"] for fact in facts(zone)]
    time.sleep(IDLE_SECONDS)
    return before if [fact["time"] for fact in facts(zone)] == before else None


def stranger(zone: Zone, folder: Path, port: int = 0) -> None:
    """A connection with a certificate that no anchor vouches for."""
    issued = TestAuthority(folder / "stranger").issue("stranger", dns=["stranger"])
    context = ssl.create_default_context(cafile=str(zone.paths.anchors))
    context.load_cert_chain(issued.certificate_path, issued.key_path)
    try:
        with (
            socket.create_connection(zone.address, timeout=10) as plain,
            context.wrap_socket(plain, server_hostname=f"{zone.place.zone}-bsfg") as tls,
        ):
            tls.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            tls.recv(1)
    except OSError:
        return


def test_reads_are_recorded_once_and_the_chain_holds(lab: Lab) -> None:
    def reads() -> list[dict[str, Any]]:
        return [record for record in records(lab.enterprise) if record["action"] == "read"]

    eventually(
        "reads are recorded", 20, lambda: {each["stream"] for each in reads()} >= {"facts.operational", AUDIT}
    )
    lab.enterprise.append("facts.operational", *[b"{}"] * 50)
    lab.level()
    time.sleep(IDLE_SECONDS)
    for stream in ("facts.operational", "facts.batch_completed", AUDIT):
        numbers = [record["connection"] for record in reads() if record["stream"] == stream]
        assert numbers == list(range(1, len(numbers) + 1))
        # A few connections of one peer, and not one record a request.
        assert len(numbers) <= CONNECTIONS_MAX
    one = reads()[0]
    assert (one["peer"], one["outcome"], len(one["policy"]), len(one["request_id"])) == (
        "plant-a",
        "allowed",
        16,
        16,
    )
    assert one["rule"] == f"plant-a: streams has {one['stream']}"
    done = lab.enterprise.bsfg("audit", "verify")
    assert done.status == EXIT_DONE, done.output


def test_refusals_and_loads_become_facts_that_the_peer_has_and_idling_makes_none(
    lab: Lab, tmp_path: Path
) -> None:
    stranger(lab.enterprise, tmp_path)

    def has(action: str) -> dict[str, Any] | None:
        return next((fact for fact in facts(lab.plant) if fact["action"] == action), None)

    refusal = eventually("the refusal arrived", 20, lambda: has("handshake_failed"))
    assert refusal is not None
    assert refusal["outcome"] == "denied"
    peers = lab.enterprise.paths.peers_file
    begun = loads(lab.enterprise)
    with lab.enterprise.changed(peers, ("reference: LAB-1", "reference: LAB-1b")):
        loaded = eventually(
            "the load arrived",
            20,
            lambda: next(
                (fact for fact in facts(lab.plant) if fact.get("changed") == ["config/peers.yaml"]), None
            ),
        )
        assert loaded is not None
        assert loaded["settings"] == ["peers[plant-a].reference"]
        assert set(loaded["files"]) == {"config/zone.yaml", "config/peers.yaml", "config/cursors.yaml"}
        assert all(len(digest) == 64 for digest in loaded["files"].values())
    eventually("it was loaded back", 20, lambda: loads(lab.enterprise) == begun + 2)
    # A poll that was held over the change is answered, read again under the new policy, told and replicated: how
    # long that takes is the machine's affair. A trail that told of its own replication would never be quiet.
    before = eventually("idling makes no fact", SETTLES_SECONDS_MAX, lambda: quiet(lab.plant))
    assert before
    assert not [fact for fact in facts(lab.plant) if fact.get("stream") == AUDIT]
    kept = {record["time"] for record in records(lab.enterprise)}
    assert set(before) <= kept


def test_a_changed_line_is_found_and_the_gateway_goes_on(lab: Lab) -> None:
    log = lab.plant.paths.data / "audit.jsonl"
    lab.plant.stop_gateway()
    whole = log.read_bytes()
    lines = whole.splitlines(keepends=True)
    assert len(lines) > 1
    log.write_bytes(b"".join([lines[0].replace(b"allowed", b"denied!"), *lines[1:]]))
    done = lab.plant.bsfg("audit", "verify")
    assert done.status == EXIT_FAILED
    assert "audit.jsonl:2: the chain breaks" in done.output
    log.write_bytes(whole)
    lab.healthy()
    assert lab.plant.bsfg("audit", "verify").status == EXIT_DONE
    last_load = [record for record in records(lab.plant) if record["action"] == "configuration.load"][-1]
    assert last_load["changed"] == []


def test_kill_9_leaves_the_chain_whole(lab: Lab, tmp_path: Path) -> None:
    stranger(lab.enterprise, tmp_path)
    lab.enterprise.kill_gateway()
    lab.healthy()
    assert lab.enterprise.bsfg("audit", "verify").status == EXIT_DONE
