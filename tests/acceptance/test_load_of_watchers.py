"""Whoever watches a zone much too often changes nothing in it: a thousand probes and a hundred scrapes a second.

What is asserted is what happens to the zone, not how fast this machine answers.
"""

from __future__ import annotations

import asyncio
import ssl
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp
from prometheus_client.parser import text_string_to_metric_families
from tests.support.lab_zones import ENTERPRISE, OPERATIONAL, Lab, Zone, eventually

from bsfg.cli.local_client import route
from bsfg.lab import held

BURST_SECONDS: Final = 5.0
TICK_SECONDS: Final = 0.01
HEALTH_PER_TICK: Final = 10
SCRAPES_PER_TICK: Final = 1
IN_FLIGHT_MAX: Final = 40
APPEND_SECONDS: Final = 0.1
GROWTH_MIB_MAX: Final = 16.0
LINES_MAX: Final = 10
FILES_MORE_MAX: Final = 5
"""The links' own connections come and go."""


@dataclass
class Answers:
    """What came back: statuses of each path, and everything that was not as it should be."""

    statuses: Counter[tuple[str, int]] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def health(self, status: int, body: Any) -> None:
        self.statuses["/health", status] += 1
        if (body.get("zone"), body.get("identity"), body.get("status")) != (
            ENTERPRISE,
            f"{ENTERPRISE}-bsfg",
            "ok",
        ):
            self.wrong.append(repr(body)[:200])

    def scrape(self, status: int, text: str) -> None:
        self.statuses["/metrics", status] += 1
        families = {family.name for family in text_string_to_metric_families(text)}
        if not {"bsfg_peer_reachable", "bsfg_link_state", "bsfg_backlog_facts"} <= families:
            self.wrong.append(text[:200])


async def hammer(lab: Lab, seconds: float) -> Answers:
    """As many requests as ordered, or as this machine manages; none is left out when the zone is slow to answer."""
    plant, answers = lab.plant.paths, Answers()
    context = ssl.create_default_context(cafile=str(plant.anchors))
    context.load_cert_chain(plant.server_certificate, plant.server_key)
    host, port = lab.enterprise.address
    free = asyncio.Semaphore(IN_FLIGHT_MAX)
    connector = aiohttp.TCPConnector(ssl=context, limit=IN_FLIGHT_MAX)
    async with aiohttp.ClientSession(connector=connector) as session, asyncio.TaskGroup() as asking:

        async def health() -> None:
            async with free, session.get(f"https://{host}:{port}/health") as response:
                answers.health(response.status, await response.json())

        async def scrape() -> None:
            async with free, session.get(f"http://{lab.enterprise.place.local}/metrics") as response:
                answers.scrape(response.status, await response.text())

        began = time.monotonic()
        for tick in range(round(seconds / TICK_SECONDS)):
            for _ in range(HEALTH_PER_TICK):
                asking.create_task(health())
            for _ in range(SCRAPES_PER_TICK):
                asking.create_task(scrape())
            await asyncio.sleep(max(0.0, began + (tick + 1) * TICK_SECONDS - time.monotonic()))
    return answers


@contextmanager
def appending(zone: Zone) -> Iterator[list[int]]:
    """Facts go on being appended inside the block; their sequences."""
    sequences: list[int] = []
    is_over = threading.Event()

    def append() -> None:
        while not is_over.wait(APPEND_SECONDS):
            body = {"facts": [{"subject": "test", "data": f"{len(sequences)}"}]}
            sequences.append(zone.api.post(route("append"), body, stream=OPERATIONAL)["last_sequence"])

    thread = threading.Thread(target=append)
    thread.start()
    try:
        yield sequences
    finally:
        is_over.set()
        thread.join()


def gateway_pid(zone: Zone) -> int:
    with held.gateway_of(zone.home) as process:
        assert process is not None
        return process.pid


def resident_mib(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS:"))


def open_files(pid: int) -> int:
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


def audit_lines(zone: Zone) -> int:
    return len((zone.paths.data / "audit.jsonl").read_text().splitlines())


def test_a_thousand_probes_and_a_hundred_scrapes_a_second_change_nothing(lab: Lab) -> None:
    sender, pid = lab.enterprise, gateway_pid(lab.enterprise)
    lab.level()
    files = open_files(pid)
    with appending(sender) as warm:
        asyncio.run(hammer(lab, 1.0))
    mib = resident_mib(pid)
    audited, log_start = audit_lines(sender), sender.log_size()

    with appending(sender) as sequences:
        answers = asyncio.run(hammer(lab, BURST_SECONDS))
        arrived = lab.plant.cursor()["sequence"]
    assert answers.wrong == []
    assert answers.statuses == {
        ("/health", 200): BURST_SECONDS / TICK_SECONDS * HEALTH_PER_TICK,
        ("/metrics", 200): BURST_SECONDS / TICK_SECONDS * SCRAPES_PER_TICK,
    }

    # Facts went on flowing meanwhile, and each is there once.
    assert len(sequences) > len(warm) and arrived > sequences[0]
    assert lab.level()["sequence"] == sequences[-1]
    assert sequences == list(range(sequences[0], sequences[0] + len(sequences)))

    # Nothing of it is left: no connection, no memory, no line a request.
    eventually("connections are closed", 15, lambda: open_files(pid) <= files + FILES_MORE_MAX)
    assert resident_mib(pid) - mib < GROWTH_MIB_MAX
    assert audit_lines(sender) - audited <= LINES_MAX
    assert len(sender.log(log_start)) <= LINES_MAX
    assert gateway_pid(sender) == pid
