"""Worker processes: from outside the same gateway, and nothing of it goes on when the gateway does not (issue 3).

The zone plant-a reads from two peers, and has two workers: one for each. The rest of what must hold with workers is
what holds without: every other acceptance test of links passes with ``limits.worker_processes``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest
from cryptography import x509
from prometheus_client.parser import text_string_to_metric_families
from tests.support.lab_zones import (
    ENTERPRISE,
    OPERATIONAL,
    Lab,
    Zone,
    eventually,
    printed_seconds,
    running_lab,
)
from tests.support.patience import busyness
from tests.support.third_zone import ENERGY, NORTH, build_third_zone

from bsfg.cli.local_client import route
from bsfg.errors import BsfgError
from bsfg.lab import held, processes
from bsfg.model.names import inbound_physical, parse_stream, parse_zone
from bsfg.transport.development_ca import issue_crl

ACTS_SECONDS_MAX: Final = 5.0
STARTS_SECONDS_MAX: Final = 5.0
STOPS_SECONDS_MAX: Final = 10.0
HEALS_SECONDS_MAX: Final = 60.0
SERVE_SECONDS_MAX: Final = 20.0
WORKERS: Final = "limits: {worker_processes: 2}\n"
RECOVERY: Final = (
    "reachable",
    "cursor comparison",
    "backfill required",
    "replay initiated",
    "cursor advanced",
)
ENTRY: Final = f"  - peer: {NORTH}\n    stream: {ENERGY}\n    init_mode: bounded_backfill_24h\n"


@dataclass
class Three:
    """The lab and its third zone; plant-a has two workers."""

    lab: Lab
    north: Zone
    alone: dict[str, Any]
    """What plant-a looked like from outside while it had no worker."""

    @property
    def plant(self) -> Zone:
        return self.lab.plant

    @property
    def enterprise(self) -> Zone:
        return self.lab.enterprise

    def append(self, count: int) -> None:
        self.north.append(ENERGY, *[b'{"kwh":%d}' % number for number in range(count)])

    def level(self, seconds: float = HEALS_SECONDS_MAX) -> dict[str, Any]:
        """Wait until plant-a runs and has every fact of both peers; north's cursor."""
        eventually("plant-a is ready", seconds, lambda: _is_ready(self.plant))
        return [
            self._level(zone, peer, stream, seconds)
            for zone, peer, stream in (
                (self.enterprise, ENTERPRISE, OPERATIONAL),
                (self.north, NORTH, ENERGY),
            )
        ][-1]

    def _level(self, sender: Zone, peer: str, stream: str, seconds: float) -> dict[str, Any]:
        head = int(sender.api.get(route("streams", stream))["last_sequence"])

        def row() -> dict[str, Any] | None:
            with contextlib.suppress(BsfgError):
                found = self.cursor(peer, stream)
                return found if found["state"] == "level" and found["scanned_through"] >= head else None
            return None

        found = eventually(f"plant-a is level with {peer}", seconds, row)
        assert found is not None
        return found

    def cursor(self, peer: str = NORTH, stream: str = ENERGY) -> dict[str, Any]:
        found: dict[str, Any] = self.plant.api.get(route("cursors", peer, stream))
        return found

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self.plant.api.get(route("status"))
        return found

    def reload(self) -> None:
        assert self.plant.api.post(route("config", "reload"), b"")["reloaded"] is True

    def worker_of(self, peer: str) -> int:
        """The pid of the worker that has a peer's links, by the last word of the log."""
        lines = [line["message"] for line in self.plant.log() if line["event"] == "worker_started"]
        found = [re.search(r"\(process (\d+)\)", line) for line in lines if peer in line]
        assert found and found[-1], lines
        return int(found[-1][1])

    def stored(self, generation: int) -> list[int]:
        """The origin sequence of every fact in a generation of north's inbound stream, in order."""
        name = inbound_physical(parse_zone(NORTH), parse_stream(ENERGY), generation)

        async def read() -> list[int]:
            async with self.plant.nats() as store:
                return [message.origin.sequence for message in await store.read_all(name)]

        return asyncio.run(read())


def workers() -> list[int]:
    """Every worker process of this machine that belongs to the lab's gateway."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdecimal() and b"bsfg.bootstrap.worker" in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


def children(zone: Zone) -> list[int]:
    """The workers of a zone's gateway."""
    gateway = held.find_gateway(zone.home)
    return [pid for pid in workers() if _parent(pid) == gateway]


def _parent(pid: int) -> int | None:
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return None


def is_alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    return False


def outside(zone: Zone) -> dict[str, Any]:
    """Which numbers and fields a zone shows: all names and labels, no values."""
    samples = {
        (sample.name, *sorted(sample.labels.items()))
        for family in text_string_to_metric_families(zone.local("/metrics")[1])
        for sample in family.samples
        # What fails now and then has a sample only once it did.
        if "failures" not in sample.name and sample.labels.get("result", "ok") == "ok"
    }
    status = zone.status()
    return {"metrics": samples, "status": sorted(status), "link": sorted(status["links"][0])}


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Three]:
    directory = tmp_path_factory.mktemp("lab") / "lab"
    processes.build(directory)
    north = build_third_zone(Lab(directory))
    try:
        north.start_gateway()
        with running_lab(directory) as lab:
            found = Three(lab, north, {})
            found.append(3)
            lab.enterprise.append(OPERATIONAL, b"{}", b"{}")
            found.level()
            found.alone = outside(lab.plant)
            alone = _restart(lab.plant)
            zone_file = lab.plant.paths.zone_file
            lab.plant.install(zone_file, zone_file.read_text() + WORKERS)
            with_workers = _restart(lab.plant)
            printed_seconds("start alone, until ready", alone)
            printed_seconds("start with two workers, until ready", with_workers)
            assert with_workers < STARTS_SECONDS_MAX * busyness()
            yield found
    finally:
        processes.stop_zone(north.home)


def _restart(zone: Zone) -> float:
    """Seconds from the start until it is ready."""
    zone.stop_gateway()
    began = time.monotonic()
    zone.start_gateway()
    eventually(f"{zone.place.zone} is ready", HEALS_SECONDS_MAX, lambda: _is_ready(zone))
    return time.monotonic() - began


def _is_ready(zone: Zone) -> bool:
    with contextlib.suppress(OSError):
        return zone.local("/ready")[0] == 200
    return False


@pytest.fixture(autouse=True)
def settled(three: Three) -> None:
    """Before each test all is well."""
    three.level()
    eventually("plant-a is healthy", HEALS_SECONDS_MAX, lambda: not three.status()["problems"])


def test_each_peer_has_a_worker_and_nothing_else_tells(three: Three) -> None:
    assert three.worker_of(NORTH) != three.worker_of(ENTERPRISE)
    assert sorted(children(three.plant)) == sorted({three.worker_of(NORTH), three.worker_of(ENTERPRISE)})
    three.append(2)
    three.enterprise.append(OPERATIONAL, b"{}")
    three.level()
    # A sample is there once what it counts has happened, which a worker tells a little later.
    eventually(
        "all samples are there",
        HEALS_SECONDS_MAX,
        lambda: outside(three.plant)["metrics"] >= three.alone["metrics"],
    )
    now = outside(three.plant)
    assert (now["status"], now["link"]) == (three.alone["status"], three.alone["link"])
    count = three.plant.metric("bsfg_facts_appended_total", peer=NORTH, stream=ENERGY)
    assert count == 2
    for state, value in (("level", 1.0), ("starting", 0.0)):
        assert three.plant.metric("bsfg_link_state", peer=NORTH, stream=ENERGY, state=state) == value


def test_no_secret_is_in_arguments_environment_or_log(three: Three) -> None:
    seed = three.plant.place.nats_admin_credentials.read_bytes().strip()
    key = three.plant.paths.server_key.read_bytes().splitlines()[1]
    for pid in children(three.plant):
        for name in ("cmdline", "environ"):
            text = Path(f"/proc/{pid}/{name}").read_bytes()
            assert text
            assert seed not in text and key not in text
    assert key not in three.plant.place.log.read_bytes()


def test_commands_act_on_a_link_in_a_worker(three: Three) -> None:
    link = ("--peer", NORTH, "--stream", ENERGY)
    three.append(1)
    fetched = three.plant.ask("fetch", *link)
    assert fetched["cursor"]["sequence"] == fetched["cursor"]["head"] == three.level()["sequence"]
    before = three.plant.metric("bsfg_notify_available_total", peer=NORTH, stream=ENERGY) or 0
    three.north.ask("admin", "notify", "--peer", "plant-a", "--stream", ENERGY)
    assert three.plant.metric("bsfg_notify_available_total", peer=NORTH, stream=ENERGY) == before + 1
    assert three.plant.refused("cursor", "accept-gap", *link, "--reason", "none there")[1] == "check_failed"
    three.plant.ask("cursor", "rewind", *link, "--to", "2", "--reason", "test")
    eventually("the new generation is in force", HEALS_SECONDS_MAX, lambda: three.cursor()["generation"] == 2)
    three.append(1)
    assert three.level()["generation"] == 2
    three.plant.ask("cursor", "rewind", *link, "--to", "1", "--reason", "as it was")
    eventually("the third is in force", HEALS_SECONDS_MAX, lambda: three.cursor()["generation"] == 3)


def test_a_partition_cuts_a_worker_off_and_its_end_begins_a_recovery(three: Three) -> None:
    began = time.monotonic()
    three.plant.ask("admin", "partition", "--peer", NORTH, "--reason", "drill")
    eventually(
        "the link is partitioned", ACTS_SECONDS_MAX, lambda: three.cursor()["state"] == "partitioned", promised=True
    )
    printed_seconds("partition", time.monotonic() - began)
    held_at = three.cursor()["sequence"]
    three.append(4)
    time.sleep(1.0)
    assert three.cursor()["sequence"] == held_at
    start = three.plant.log_size()
    three.plant.ask("admin", "reconcile", "--peer", NORTH)
    assert three.level()["sequence"] == held_at + 4
    said = [line["message"] for line in three.plant.log(start) if line.get("peer") == NORTH]
    places = [next(i for i, line in enumerate(said) if part in line) for part in RECOVERY]
    assert places == sorted(places), said
    assert "backfill required: 4 facts" in said


def test_reload_removes_denies_and_brings_back(three: Three) -> None:
    generation, before = three.cursor()["generation"], three.level()["sequence"]
    peers = three.plant.paths.peers_file
    entry = peers.read_text().partition(f"  - id: {NORTH}\n")[2]
    for path, replacement in (
        (three.plant.paths.cursors_file, (ENTRY, "")),
        (peers, (entry, entry.replace("authorized: true", "authorized: false"))),
    ):
        with three.plant.changed(path, replacement):
            three.reload()
            assert NORTH not in [row["peer"] for row in three.status()["links"]]
            three.append(1)
            time.sleep(1.0)
            assert three.stored(generation)[-1] == before
        three.reload()
        before = three.level()["sequence"]
        assert three.stored(generation)[-1] == before


def test_another_address_of_a_peer_acts_on_its_links(three: Three) -> None:
    endpoint = three.north.place.endpoint
    with three.plant.changed(three.plant.paths.peers_file, (endpoint, "127.2.1.11:9")):
        three.reload()
        eventually(
            "it is not found there", ACTS_SECONDS_MAX, lambda: three.cursor()["state"] == "backing_off"
        )
    three.reload()


def _crls(three: Three, number: int, revoked: Zone | None) -> bytes:
    """The lists of both peers' authorities, with or without one peer's certificate."""
    text, now = b"", datetime.now(UTC)
    for zone in (three.north, three.enterprise):
        certificate = x509.load_pem_x509_certificate(zone.paths.server_certificate.read_bytes())
        serials = [certificate.serial_number] if zone is revoked else []
        out = three.lab.directory / "crl.pem"
        ends = now + timedelta(days=1)
        issue_crl(zone.place.ca_cert, zone.place.ca_key, serials, number, now - timedelta(hours=1), ends, out)
        text += out.read_bytes()
    return text


def test_revocation_acts_in_a_worker_within_five_seconds(three: Three) -> None:
    three.plant.install(three.plant.paths.crl, _crls(three, 1, None))
    eventually("the list is in force", 10.0, lambda: three.plant.metric("bsfg_crl_expiry_seconds"))
    three.append(1)
    before = three.level()
    began = time.monotonic()
    three.plant.install(three.plant.paths.crl, _crls(three, 2, three.north))
    found = eventually("the link is refused", 10.0, lambda: _unless(three.cursor(), "level", "catching_up"))
    printed_seconds(f"revocation in a worker, link {found['state']}", time.monotonic() - began)
    assert time.monotonic() - began < ACTS_SECONDS_MAX
    assert "revoked" in found["error"] or "refused" in found["error"], found
    three.append(1)
    time.sleep(1.0)
    assert three.stored(before["generation"])[-1] == before["sequence"]
    three.enterprise.append(OPERATIONAL, b"{}")
    three.plant.install(three.plant.paths.crl, _crls(three, 3, None))


def _unless(row: dict[str, Any], *states: str) -> dict[str, Any] | None:
    return None if row["state"] in states else row


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_a_lost_worker_is_named_and_its_links_go_on(three: Three, how: signal.Signals) -> None:
    pid, other, start = three.worker_of(NORTH), three.worker_of(ENTERPRISE), three.plant.log_size()
    generation, began = three.cursor()["generation"], time.monotonic()
    os.kill(pid, how)
    three.append(5)

    def named() -> list[str]:
        problems = [text for text in three.status()["problems"] if str(pid) in text]
        return problems or [
            line["message"] for line in three.plant.log(start) if line["event"] == "worker_lost"
        ]

    said = eventually("the worker is named", 10.0, named)
    printed_seconds(f"{how.name}: named as {said[0]!r}", time.monotonic() - began)
    three.append(5)
    row = three.level()
    printed_seconds(f"{how.name}: level again", time.monotonic() - began)
    lines = three.plant.log(start)
    assert [
        line["message"] for line in lines if line["event"] == "worker_lost" and str(pid) in line["message"]
    ]
    assert not is_alive(pid)
    assert three.worker_of(NORTH) not in (pid, other)
    first = three.stored(generation)[0]
    assert three.stored(generation) == list(range(first, row["sequence"] + 1))
    assert three.worker_of(ENTERPRISE) == other and is_alive(other)
    assert not [line for line in lines if line.get("peer") == ENTERPRISE and line["event"] == "link_state"]


def test_no_worker_outlives_its_gateway(three: Three) -> None:
    left = children(three.plant)
    assert len(left) == 2
    three.plant.kill_gateway()
    began = time.monotonic()
    eventually("the workers have ended", ACTS_SECONDS_MAX, lambda: not any(map(is_alive, left)), promised=True)
    printed_seconds("gateway killed: its workers are gone", time.monotonic() - began)
    three.append(3)
    began = time.monotonic()
    three.plant.start_gateway()
    three.level()
    printed_seconds("killed gateway: level again", time.monotonic() - began)


def test_no_gateway_starts_beside_a_worker_that_another_has_left(three: Three) -> None:
    left = children(three.plant)
    os.kill(left[0], signal.SIGSTOP)
    try:
        three.plant.kill_gateway()
        done = three.plant.bsfg("serve", "--output", "json", seconds=SERVE_SECONDS_MAX)
        assert done.status == 2
        assert f"is held by process {left[0]}" in json.loads(done.errors.splitlines()[-1])["error"]["message"]
    finally:
        os.kill(left[0], signal.SIGCONT)
    three.append(3)
    three.plant.start_gateway()
    three.level()
    assert not any(map(is_alive, left))


def test_a_worker_ends_when_its_gateway_is_silent(three: Three) -> None:
    left = children(three.plant)
    with three.plant.paused_gateway():
        began = time.monotonic()
        eventually("the workers have ended", 10.0, lambda: not any(map(is_alive, left)))
        printed_seconds("gateway stopped by a signal: its workers are gone", time.monotonic() - began)
    three.append(3)
    three.level()
    assert not set(left) & set(children(three.plant))


def test_a_stop_takes_the_workers_along(three: Three) -> None:
    left = children(three.plant)
    began = time.monotonic()
    three.plant.stop_gateway()
    printed_seconds("stop with two workers", time.monotonic() - began)
    assert time.monotonic() - began < STOPS_SECONDS_MAX
    assert not any(map(is_alive, left))
    three.plant.start_gateway()
