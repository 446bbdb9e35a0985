"""A zone goes on when the other one dies, hangs or is shut, and catches up by itself (I23, I25, I46; runbook 8)."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import pytest
from tests.support.lab_zones import (
    ENTERPRISE,
    INBOUND_STREAM,
    OPERATIONAL,
    OPERATIONAL_STREAM,
    PLANT,
    Lab,
    Zone,
    eventually,
    printed_seconds,
)

from bsfg.cli.local_client import route
from bsfg.errors import BsfgError
from bsfg.lab import held
from bsfg.lab.stores import Store

APPENDS: Final = 300
P99_SECONDS_MAX: Final = 1.0
SLOWER_FACTOR_MAX: Final = 10.0
UNREACHABLE_SECONDS_MAX: Final = 10.0
CATCH_UP_SECONDS_MAX: Final = 10.0
ORDERS: Final = "facts.orders"


def _append_seconds(zone: Zone) -> list[float]:
    """How long each of the appends took, in order of size; any refusal fails."""
    taken = []
    for number in range(APPENDS):
        body = {"facts": [{"subject": "latency", "data": f'{{"number":{number}}}'}]}
        began = time.perf_counter()
        answer = zone.api.post(route("append"), body, stream=ORDERS)
        taken.append(time.perf_counter() - began)
        assert answer["appended"] == 1
    return sorted(taken)


def _figures(what: str, seconds: list[float]) -> tuple[float, float]:
    p50, p99 = seconds[len(seconds) // 2], seconds[len(seconds) * 99 // 100]
    print(f"{what}: local append p50 {p50 * 1000:.1f} ms, p99 {p99 * 1000:.1f} ms")
    return p50, p99


def _reachable(lab: Lab) -> float | None:
    return lab.plant.metric("bsfg_peer_reachable", peer=ENTERPRISE)


def _states(zone: Zone) -> set[str]:
    return {row["state"] for row in zone.api.get(route("cursors"))["cursors"]}


@pytest.fixture(scope="module")
def baseline(lab: Lab) -> tuple[float, float]:
    """p50 and p99 of local appends while both zones are up."""
    return _figures("both zones up", _append_seconds(lab.plant))


@contextmanager
def _hanging(lab: Lab) -> Iterator[None]:
    with lab.enterprise.paused_gateway():
        yield


@contextmanager
def _stopped(lab: Lab) -> Iterator[None]:
    lab.enterprise.stop_gateway()
    try:
        yield
    finally:
        lab.enterprise.start_gateway()


@contextmanager
def _killed(lab: Lab) -> Iterator[None]:
    """Gateway and nats-server both at once, as when the machine loses its power."""
    with held.gateway_of(lab.enterprise.home) as gateway, held.server_of(lab.enterprise.home) as server:
        assert gateway is not None
        assert server is not None
        gateway.kill()
        server.kill()
    try:
        yield
    finally:
        lab.enterprise.start_gateway()


ABSENCES: Final = {"hangs": _hanging, "is shut": _stopped, "lost its power": _killed}


@pytest.mark.parametrize("name", ABSENCES)
def test_local_work_does_not_notice_that_the_other_zone_is_away(
    lab: Lab, baseline: tuple[float, float], name: str
) -> None:
    lab.healthy()
    began = time.monotonic()
    with ABSENCES[name](lab):
        p50, p99 = _figures(f"the other zone {name}", _append_seconds(lab.plant))
        assert p99 < P99_SECONDS_MAX
        assert p50 < max(SLOWER_FACTOR_MAX * baseline[0], 0.05)
        eventually("the peer counts as unreachable", UNREACHABLE_SECONDS_MAX, lambda: _reachable(lab) == 0.0)
        printed_seconds(f"unreachable when the other zone {name}", time.monotonic() - began)
        assert time.monotonic() - began < UNREACHABLE_SECONDS_MAX
        assert lab.plant.ask("consumer", "next", "--stream", ORDERS, "--count", "5")["facts"]
        status = lab.plant.api.get(route("status"))
        assert (status["peers"][0]["reachable"], bool(status["peers"][0]["reason"])) == (False, True)
        assert _states(lab.plant) <= {"backing_off", "level"}
        # What the sender last said is no longer fresh, so nothing is claimed about its head or our lag.
        row = lab.plant.cursor()
        assert (row["head"], row["lag_facts"], row["lag_seconds"]) == (None, None, None)
        assert lab.plant.metric("bsfg_replication_lag_facts", stream=OPERATIONAL) is None
        assert lab.plant.metric("bsfg_replication_lag_observed_age_seconds", stream=OPERATIONAL) is not None
    eventually("reachable again", 20, lambda: _reachable(lab) == 1.0)
    lab.level()
    head = lab.plant.stream(ORDERS)["last_sequence"]
    eventually(
        "the other zone has what was appended meanwhile",
        CATCH_UP_SECONDS_MAX + 10,
        lambda: lab.enterprise.cursor(PLANT, ORDERS)["sequence"] == head,
    )


async def _publish_many(store: Store, count: int) -> int:
    sequences = [await store.publish(f"{OPERATIONAL}.away", b'{"number":%d}' % number) for number in range(count)]
    return sequences[-1]


async def test_catch_up_starts_by_itself_when_the_peer_comes_back(lab: Lab) -> None:
    """Facts that were published while the gateway hung arrive without another one being published."""
    await asyncio.to_thread(lab.healthy)
    before = await asyncio.to_thread(lab.level)
    with lab.enterprise.paused_gateway():
        async with lab.enterprise.nats(admin=False) as store:
            head = await _publish_many(store, 200)
        await asyncio.to_thread(
            eventually, "unreachable", UNREACHABLE_SECONDS_MAX, lambda: _reachable(lab) == 0.0
        )
        assert lab.plant.cursor()["sequence"] == before["sequence"]
    began = time.monotonic()
    await asyncio.to_thread(
        eventually, "caught up", CATCH_UP_SECONDS_MAX, lambda: lab.plant.cursor()["sequence"] == head
    )
    printed_seconds("caught up after the peer came back", time.monotonic() - began)
    assert time.monotonic() - began < CATCH_UP_SECONDS_MAX
    async with lab.plant.nats() as store:
        held_sequences = [message.origin.sequence for message in await store.read_all(INBOUND_STREAM)]
    assert held_sequences == sorted(set(held_sequences))
    assert held_sequences[-200:] == list(range(head - 199, head + 1))


async def test_a_killed_gateway_leaves_its_nats_server_and_its_producers_alone(lab: Lab) -> None:
    await asyncio.to_thread(lab.healthy)
    enterprise = lab.enterprise
    server = held.find_server(enterprise.home)
    disturbed: list[float] = []
    async with enterprise.nats(admin=False) as store:
        await store.publish(f"{OPERATIONAL}.before", b"{}")
        await asyncio.to_thread(enterprise.kill_gateway)
        assert held.find_gateway(enterprise.home) is None
        for number in range(100):
            began = time.perf_counter()
            head = await store.publish(f"{OPERATIONAL}.without", b'{"number":%d}' % number)
            disturbed.append(time.perf_counter() - began)
        assert held.find_server(enterprise.home) == server
        await asyncio.to_thread(enterprise.start_gateway)
        # The same connection goes on while the next gateway takes the server over.
        await asyncio.to_thread(eventually, "adopted", 15, lambda: _adopted(enterprise, server))
        head = await store.publish(f"{OPERATIONAL}.after", b"{}")
        messages = (await store.state(OPERATIONAL_STREAM)).messages
    assert held.find_server(enterprise.home) == server
    assert messages == head
    _figures("without a gateway", sorted(disturbed))
    await asyncio.to_thread(
        eventually, "plant-a has it", 15, lambda: lab.plant.cursor()["sequence"] == head
    )


def _adopted(zone: Zone, server: int | None) -> bool:
    with suppress(BsfgError):
        substrate = zone.status()["substrate"]
        return bool(substrate["pid"] == server and substrate["connected"])
    return False


def test_no_process_of_a_zone_has_a_file_of_the_other_open(lab: Lab) -> None:
    """While facts flow both ways: nothing but the network connects them."""
    lab.healthy()
    seen: dict[str, set[str]] = {ENTERPRISE: set(), PLANT: set()}
    stop = threading.Event()
    watcher = threading.Thread(target=_watch_open_files, args=(lab, seen, stop))
    watcher.start()
    try:
        lab.enterprise.append(OPERATIONAL, *(b'{"flow":%d}' % number for number in range(2_000)))
        lab.plant.append(ORDERS, *(b'{"flow":%d}' % number for number in range(2_000)))
        lab.level()
        lab.plant.ask("config", "reload")
        lab.enterprise.ask("config", "reload")
    finally:
        stop.set()
        watcher.join()
    for zone, other in ((ENTERPRISE, PLANT), (PLANT, ENTERPRISE)):
        own, foreign = str(lab.zones[zone].home), str(lab.zones[other].home)
        assert any(path.startswith(own) for path in seen[zone])
        assert not [path for path in seen[zone] if path.startswith((foreign, str(lab.directory / "ca")))]


def _watch_open_files(lab: Lab, seen: dict[str, set[str]], stop: threading.Event) -> None:
    while not stop.is_set():
        for name, zone in lab.zones.items():
            for pid in (held.find_gateway(zone.home), held.find_server(zone.home)):
                if pid is not None:
                    seen[name] |= _open_files(pid)
        time.sleep(0.02)


def _open_files(pid: int) -> set[str]:
    found = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found.add(str(descriptor.readlink()))
        except OSError:
            continue
    return found | {str(Path(f"/proc/{pid}/cwd").readlink())}


def test_a_gateway_stops_in_order_within_ten_seconds_and_starts_alone(lab: Lab) -> None:
    """With its peer away too: neither waits for the other (I30)."""
    lab.healthy()
    with _stopped(lab):
        began = time.monotonic()
        lab.plant.stop_gateway()
        printed_seconds("stopped", time.monotonic() - began)
        assert time.monotonic() - began < 10.0
        assert held.find_server(lab.plant.home) is None
        began = time.monotonic()
        lab.plant.start_gateway()
        eventually("ready alone", 10, lambda: _is_ready(lab.plant))
        printed_seconds("ready without its peer", time.monotonic() - began)
        assert lab.plant.append(ORDERS, b"{}")["appended"] == 1
    lab.healthy()


def _is_ready(zone: Zone) -> bool:
    try:
        return zone.local("/ready")[0] == 200
    except OSError:
        return False
