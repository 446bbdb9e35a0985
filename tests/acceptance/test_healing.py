"""What a zone survives without a human: a full disk, a silent server, a silent peer (I25 to I28; runbook 8)."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import nats.errors
import pytest
from tests.support.lab_zones import (
    ENTERPRISE,
    INBOUND_STREAM,
    OPERATIONAL,
    Lab,
    Zone,
    eventually,
    printed_seconds,
    running_lab,
)
from tests.support.stories import Pages, Story, told

from bsfg.lab import held, processes
from bsfg.lab.homes import LabPaths
from bsfg.lab.stores import Store

ORDERS: Final = "facts.orders"
ORDERS_INBOUND: Final = "in_plant-a_facts_orders_g1"
DISK_MEBIBYTES: Final = 32
FREE_BYTES: Final = 300_000
FACT_BYTES: Final = 20_000


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A file system of its own on the folder, of a few mebibytes."""
    options = f"size={DISK_MEBIBYTES}m,mode=700"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Two zones without facts; plant-a's data lies on a small disk."""
    directory = tmp_path_factory.mktemp("lab") / "lab"
    processes.build(directory)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("PYTHONFAULTHANDLER", "1")
        with small_disk(LabPaths(directory).home("plant-a") / "data"), running_lab(directory) as running:
            yield running


def is_live(zone: Zone) -> bool:
    """Whether ``/live`` answers; a gateway that does not is made to say where it hangs."""
    try:
        return zone.local("/live")[0] == 200
    except OSError as error:
        zone.signal_gateway(signal.SIGABRT)
        stderr = zone.paths.data / "gateway.stderr"
        eventually("it says where it hangs", 5, lambda: "Current thread" in stderr.read_text())
        raise AssertionError(f"{error}; the gateway hangs in {stderr.read_text()[-4_000:]}") from error


@dataclass
class Producer:
    """An application that publishes orders straight to NATS, and knows which were acknowledged."""

    zone: Zone
    acknowledged: list[int] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)

    async def publish_until_full(self, count: int) -> None:
        """Some orders, then the disk gets full, then more until one is not acknowledged."""
        async with self.zone.nats(admin=False) as store:
            for number in range(count):
                assert await self._publish(store, number)
            fill(self.zone)
            while await self._publish(store, count):
                count += 1
                assert count < 200, "the disk does not get full"

    async def repeat_refused(self) -> None:
        """What was not acknowledged is published again under its id, as a producer does."""
        async with self.zone.nats(admin=False) as store:
            for number in self.refused[:]:
                assert await self._publish(store, number)

    async def _publish(self, store: Store, number: int) -> bool:
        payload, id_ = str(number).encode().ljust(FACT_BYTES), {"Nats-Msg-Id": f"order-{number}"}
        try:
            await store.client.jetstream().publish(f"{ORDERS}.created", payload, timeout=2, headers=id_)
        except (nats.errors.Error, OSError):
            self.refused.append(number)
            return False
        self.acknowledged.append(number)
        return True


def filler(zone: Zone) -> Path:
    return zone.home / "data" / "filler"


def fill(zone: Zone) -> None:
    """Leave little space on the zone's disk."""
    found = os.statvfs(zone.home / "data")
    with filler(zone).open("wb") as file:
        file.write(bytes(found.f_bfree * found.f_frsize - FREE_BYTES))


@contextmanager
def disk_85_percent_full(lab: Lab) -> Iterator[None]:
    found = os.statvfs(lab.plant.home / "data")
    with filler(lab.plant).open("wb") as file:
        file.write(bytes((found.f_bfree - round(0.15 * found.f_blocks)) * found.f_frsize))
    yield
    filler(lab.plant).unlink()


def server_pid(zone: Zone) -> int | None:
    return held.find_server(zone.home)


def problems(zone: Zone) -> str:
    return "; ".join(zone.status()["problems"])


def stored(zone: Zone, stream: str) -> list[int]:
    """The numbers in a JetStream stream, in its order."""

    async def read() -> list[int]:
        async with zone.nats() as store:
            return [int(message.payload) for message in await store.read_all(stream)]

    return asyncio.run(read())


DISK_FILLS: Final = Story(
    "disk 85 % full", disk_85_percent_full, 15, "bsfg_disk_fill_ratio", {}, lambda value: 0.8 < value < 0.95,
    "BsfgDiskFilling", 2, "the disk of data/ is 8", "the disk of data/ is 8",
)  # fmt: skip


def test_a_disk_that_fills_is_told_of_before_it_is_full(lab: Lab, tmp_path: Path) -> None:
    told(DISK_FILLS, lab, Pages(lab.plant), tmp_path)


def test_a_full_disk_is_named_and_facts_resume_when_it_is_freed(lab: Lab) -> None:
    """Definite errors while it is full; nothing acknowledged lost, nothing twice, nobody needed (I28)."""
    plant, enterprise, producer = lab.plant, lab.enterprise, Producer(lab.plant)
    enterprise.append(OPERATIONAL, *(b"%d" % number for number in range(100)))
    lab.level()
    before, log_start = server_pid(plant), plant.log_size()
    asyncio.run(producer.publish_until_full(20))
    eventually("health names the disk", 5, lambda: "is full" in problems(plant))
    status, code, message = plant.refused("append", "--stream", ORDERS, "-", stdin=b"-1")
    assert (status, code) == (1, "local_full"), message
    enterprise.append(OPERATIONAL, *(b"%d" % number for number in range(100, 200)))
    eventually("the link says so", 12, lambda: plant.cursor()["state"] == "local_full")
    assert server_pid(plant) == before, "without space a restart heals nothing"

    filler(plant).unlink()
    freed = time.monotonic()
    eventually("appends resume", 30, lambda: plant.bsfg("append", "--stream", ORDERS, "-", stdin=b"-1").status == 0)
    eventually("facts resume", 30, lambda: plant.cursor()["state"] == "level")
    lab.level(30)
    eventually("health is ok", 30, lambda: not problems(plant))
    printed_seconds("from free space to everything resumed", time.monotonic() - freed)
    assert time.monotonic() - freed < 30
    healed = [line["message"] for line in plant.log(log_start) if line["event"] == "substrate_healed"]
    assert len(healed) == 1, healed
    assert server_pid(plant) not in (before, None)

    asyncio.run(producer.repeat_refused())
    kept = stored(plant, "facts_orders")
    assert len(set(kept)) == len(kept), "an order is there twice"
    assert not set(producer.acknowledged) - set(kept), "an acknowledged order is lost"
    eventually("enterprise has them", 20, lambda: stored(enterprise, ORDERS_INBOUND) == kept)
    assert stored(plant, INBOUND_STREAM) == list(range(200))


def test_a_silent_server_is_named_and_everything_resumes_by_itself(lab: Lab) -> None:
    """SIGSTOP: connections stay open and nothing is answered (I26, I27)."""
    plant, before = lab.plant, server_pid(lab.plant)
    with plant.paused_server():
        began = time.monotonic()
        eventually("health names the server", 15, lambda: "does not answer" in problems(plant))
        printed_seconds("until health named the silent server", time.monotonic() - began)
        for command in (("append", "--stream", ORDERS, "-"), ("stream", "list")):
            status, code, message = plant.refused(*command, stdin=b"{}", seconds=26)
            assert (status, code) == (3, "unavailable"), f"{command}: {code} {message}"
        time.sleep(max(0.0, began + 18 - time.monotonic()))
        lab.enterprise.append(OPERATIONAL, b"1000")
        assert is_live(plant)
    resumed = time.monotonic()
    eventually("append works", 5, lambda: plant.bsfg("append", "--stream", ORDERS, "-", stdin=b"-2").status == 0)
    eventually("facts flow", 5, lambda: plant.cursor()["state"] == "level")
    printed_seconds("from SIGCONT of the server to facts and appends", time.monotonic() - resumed)
    assert time.monotonic() - resumed < 5 + 3, "the commands themselves take a second each"
    lab.level(5)
    assert server_pid(plant) == before, "a silent server is not restarted: it may come back, as it did"


def test_a_silent_peer_is_named_and_catch_up_needs_no_new_traffic(lab: Lab) -> None:
    """The peer's kernel takes connections, and nobody answers (I25)."""
    plant, enterprise = lab.plant, lab.enterprise

    async def publish() -> None:
        async with enterprise.nats(admin=False) as store:
            for number in range(2_000, 2_100):
                await store.publish(f"{OPERATIONAL}.batch", b"%d" % number)

    lab.level()
    with enterprise.paused_gateway():
        began = time.monotonic()
        eventually(
            "the peer is unreachable",
            10,
            lambda: plant.metric("bsfg_peer_reachable", peer=ENTERPRISE) == 0,
            promised=True,
        )
        printed_seconds("until bsfg_peer_reachable was 0", time.monotonic() - began)
        asyncio.run(publish())
        time.sleep(6)
        began = time.monotonic()
        assert plant.append(ORDERS, b"-3")["appended"] == 1
        assert time.monotonic() - began < 3, "a silent peer slows a local append"
    resumed = time.monotonic()
    eventually(
        "catch-up", 10, lambda: plant.cursor()["state"] == "level" and plant.cursor()["lag_facts"] == 0, promised=True
    )
    assert stored(plant, INBOUND_STREAM)[-1] == 2_099
    printed_seconds("from SIGCONT of the peer to level", time.monotonic() - resumed)
    assert plant.metric("bsfg_peer_reachable", peer=ENTERPRISE) == 1
