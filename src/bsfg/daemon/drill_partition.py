"""Carries out the partition drill: what only the gateway can do and see of it (runbook, section 8)."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any, Final

from bsfg.checks.drills.line import DrillLine
from bsfg.checks.drills.partition import LinkSeen, PartitionSeen, StreamSeen, judge, missing_line
from bsfg.daemon.connections import CutOff, own_connections
from bsfg.daemon.gateway import Gateway
from bsfg.daemon.held_parts import repeated
from bsfg.daemon.running_link import RunningLink
from bsfg.daemon.stream_operations import LocalStore
from bsfg.daemon.timeline import Timeline
from bsfg.daemon.verify_operations import Verifications
from bsfg.errors import BsfgError, Code
from bsfg.model.cursor import LinkState
from bsfg.model.moment import NANOSECONDS, format_time
from bsfg.model.names import StreamName, ZoneId, inbound_physical, physical
from bsfg.model.page import PageLimits
from bsfg.substrates.inbound_scan import InboundScan

APPENDED_BEFORE: Final = 10
APPENDED: Final = 40
READS: Final = 10
READ_FACTS: Final = 10
SETTLE_SECONDS: Final = 20.0
"""How long the peer may take to confirm what it was owed before the drill."""
WINDOW_SECONDS: Final = 6.0
"""Long enough for the peer to knock and be refused."""
OUTLIVE_SECONDS: Final = 1.0
LEVEL_SECONDS: Final = 60.0
POLL_SECONDS: Final = 0.25
_MOVING: Final = (LinkState.LEVEL, LinkState.CATCHING_UP)

Row = dict[str, Any]


@dataclass
class PartitionDrill:
    """One partition drill; :meth:`run` restores everything however it ends."""

    gateway: Gateway
    store: LocalStore
    verifications: Verifications
    cut_off: CutOff
    timeline: Timeline
    peer: ZoneId
    stream: StreamName
    reason: str
    seconds_max: float
    seen: PartitionSeen = field(init=False)
    _appended: int = 0
    _scans: dict[StreamName, tuple[InboundScan, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.seen = PartitionSeen(self.peer, self.stream, self.reason)

    async def run(self) -> AsyncGenerator[Row, None]:
        """The drill, step by step."""
        self._refuse_trouble()
        until = self.gateway.parts.clock.now() + int(self.seconds_max * NANOSECONDS)
        yield {
            "rollback": f"bsfg admin reconcile --peer {self.peer} --home {self.gateway.configuration.home}",
            "ends_at": format_time(until),
        }
        events: list[Row] = []
        with self.timeline.watched(events.append):
            async for row in self._before():
                yield row
            began = self.gateway.parts.clock.now()
            try:
                async for row in self._window():
                    yield row
            finally:
                events.clear()
                await self._let_back()
            yield {"step": f"{self.peer} is let back"}
            async for row in self._after(events):
                yield row
        self.seen.configuration_loads = await asyncio.to_thread(self._configuration_loads, began)

    def lines(self) -> list[DrillLine]:
        """What the drill has shown."""
        return judge(self.seen, self.gateway.parts.clock.now())

    def _refuse_trouble(self) -> None:
        for driver in self._drivers():
            if driver.state not in _MOVING:
                raise BsfgError(
                    Code.CHECK_FAILED,
                    f"link {driver.name} is {driver.state}, so its recovery would show nothing",
                    hint="bsfg cursor query says why",
                )

    # Before.

    async def _before(self) -> AsyncGenerator[Row, None]:
        yield {"step": f"before: {APPENDED_BEFORE} facts appended to {self.stream}"}
        self.seen.append_seconds_before = await self._append(APPENDED_BEFORE)
        ends = time.monotonic() + SETTLE_SECONDS
        while not await self._is_settled() and time.monotonic() < ends:
            yield {"waiting": "for both sides to be level"}
            await asyncio.sleep(POLL_SECONDS)
        self.seen.links_before = self._links()
        self.seen.streams_before = await self._streams()
        await self._remember_scans()

    async def _is_settled(self) -> bool:
        is_level = all(driver.state is LinkState.LEVEL for driver in self._drivers())
        return is_level and (await self._backlog())[1] == 0

    async def _append(self, count: int) -> list[float]:
        """Facts one by one, as an application would; how long each took."""
        seconds = []
        for _ in range(count):
            self._appended += 1
            payload = json.dumps({"test": "partition-drill", "drill": self.reason, "number": self._appended})
            began = time.monotonic()
            await self.store.appends.append(self.stream, [{"subject": "test", "data": payload}])
            seconds.append(time.monotonic() - began)
        return seconds

    # While the peer is cut off.

    async def _window(self) -> AsyncGenerator[Row, None]:
        seen, parts = self.seen, self.gateway.parts
        known = len(self.cut_off.of(self.peer))
        partition = await parts.partitions.begin(self.peer, self.reason, self.seconds_max)
        parts.audit.record("admin.partition", "allowed", **partition.as_json())
        began = time.monotonic()
        seen.until = format_time(partition.until or 0)
        yield {"step": f"{self.peer} is cut off, both ways; ends by itself at {seen.until}"}
        seen.head_before, seen.backlog_before = await self._backlog()
        seen.append_seconds = await self._append(APPENDED)
        seen.head_cut_off, seen.backlog_cut_off = await self._backlog()
        yield {"step": f"{APPENDED} facts appended, backlog {seen.backlog_before} -> {seen.backlog_cut_off}"}
        await self._read()
        yield {"step": f"{seen.facts_read} held facts read"}
        while time.monotonic() - began < WINDOW_SECONDS:
            yield {"waiting": "for the peer to knock"}
            await asyncio.sleep(POLL_SECONDS)
        seen.told = self.cut_off.of(self.peer)[known:]
        await asyncio.sleep(OUTLIVE_SECONDS)
        connections = await asyncio.to_thread(own_connections)
        seen.outlived = [each.remote for each in connections if each.remote in seen.told]
        there = await self._endpoint()
        seen.opened_to_peer = [
            f"{each.local} -> {each.remote}" for each in connections if each.remote in there
        ]
        seen.links_cut_off = self._links()

    async def _endpoint(self) -> set[str]:
        """Where the peer is dialled: its endpoint's addresses with the port, as the kernel prints them."""
        address = self.gateway.configuration.peers[self.peer].endpoint
        try:
            async with asyncio.timeout(3):
                found = await asyncio.get_running_loop().getaddrinfo(
                    address.host, address.port, type=socket.SOCK_STREAM
                )
        except (OSError, TimeoutError):
            return set()
        hosts = {str(each[4][0]) for each in found}
        return {f"[{host}]:{address.port}" if ":" in host else f"{host}:{address.port}" for host in hosts}

    async def _read(self) -> None:
        """Held facts, inbound ones where there are any, as a local application reads them."""
        places = [physical(self.stream)] + [
            inbound_physical(self.peer, driver.name.stream, driver.link.fence.generation)
            for driver in self._drivers()
            if driver.link.fence is not None
        ]
        for number in range(READS):
            place = places[number % len(places)]
            began = time.monotonic()
            found = await self.store.access.read_local(place, 1, PageLimits(READ_FACTS, 1024 * 1024, 0.0))
            self.seen.read_seconds.append(time.monotonic() - began)
            self.seen.facts_read += len(found)

    async def _let_back(self) -> None:
        """End what the drill began, and nothing that an operator has begun meanwhile."""
        partitions = self.gateway.parts.partitions
        in_force = partitions.in_force.get(self.peer)
        if in_force is not None and in_force.reason == self.reason:
            self.seen.restored = await partitions.end(self.peer, "the drill has ended") is not None

    # After.

    async def _after(self, events: list[Row]) -> AsyncGenerator[Row, None]:
        seen, began = self.seen, time.monotonic()
        while not await self._is_back(events):
            if time.monotonic() - began > LEVEL_SECONDS:
                break
            yield {"waiting": "for both sides to catch up"}
            await asyncio.sleep(POLL_SECONDS)
        else:
            seen.seconds_to_level = round(time.monotonic() - began, 3)
        seen.log = _of_recovery(events, self.peer)
        seen.links_after = self._links()
        seen.streams_after = await self._streams()
        yield {"step": "looking through the inbound streams for facts that lie twice"}
        for stream, (scan, begin) in self._scans.items():
            seen.repeated[stream] = await repeated(scan, begin)

    async def _is_back(self, events: list[Row]) -> bool:
        row = await self._confirmed()
        backlog = (await self._backlog())[1]
        self.seen.backlog_after = None if row is None else backlog
        log = _of_recovery(events, self.peer)
        are_told = all(missing_line(log, self.peer, link) is None for link in self.seen.links_before)
        are_level = all(driver.state is LinkState.LEVEL for driver in self._drivers())
        return are_told and are_level and (row is None or backlog <= self.seen.backlog_before)

    def _configuration_loads(self, began: int) -> list[Row]:
        """The audit's own records of loads since the peer was cut off."""
        path, found = self.gateway.configuration.paths.data / "audit.jsonl", list[Row]()
        since = format_time(began)
        with path.open("rb") as file:
            for line in file:
                if b'"configuration.load"' not in line:
                    continue
                try:
                    record = json.loads(line)
                except ValueError:
                    continue
                if record.get("action") == "configuration.load" and str(record.get("time")) >= since:
                    found.append(record)
        return found

    # What is where.

    def _drivers(self) -> list[RunningLink]:
        return [driver for driver in self.gateway.parts.links.drivers if driver.name.peer == self.peer]

    def _links(self) -> list[LinkSeen]:
        seen = []
        for driver in self._drivers():
            cursor = driver.link.cursor
            sequence, through = (cursor.sequence or 0, cursor.scanned_through) if cursor else (0, 0)
            seen.append(LinkSeen(driver.name.stream, driver.state.value, sequence, through))
        return seen

    async def _confirmed(self) -> Any:
        return await self.gateway.parts.exports.confirmations.load(self.peer, self.stream)

    async def _backlog(self) -> tuple[int, int]:
        """Head of the stream, and how many of its facts the peer has not confirmed."""
        log = await self.gateway.parts.exports.log.describe(self.stream)
        confirmed = await self._confirmed()
        known = confirmed.sequence if confirmed is not None and confirmed.epoch == log.epoch else None
        return log.last_sequence, log.last_sequence - (known if known is not None else log.first_sequence - 1)

    async def _streams(self) -> list[StreamSeen]:
        log = await self.gateway.parts.exports.log.describe(self.stream)
        configured = [each for each in self.gateway.configuration.zone.streams if each.name == self.stream]
        may_trim = any(each.max_age_seconds or each.max_bytes for each in configured)
        seen = [
            StreamSeen(self.stream, log.created, log.epoch, log.first_sequence, log.last_sequence, may_trim)
        ]
        for driver in self._drivers():
            fence, cursor = driver.link.fence, driver.link.cursor
            if fence is None:
                continue
            name = inbound_physical(self.peer, driver.name.stream, fence.generation)
            found = await self.store.control.api(f"STREAM.INFO.{name}")
            config = self.gateway.configuration.links.get(driver.name)
            seen.append(
                StreamSeen(
                    name,
                    found["created"],
                    cursor.epoch if cursor else None,
                    found["state"]["first_seq"],
                    found["state"]["last_seq"],
                    config is not None and config.keep is not None,
                )
            )
        return seen

    async def _remember_scans(self) -> None:
        for driver in self._drivers():
            fence, cursor = driver.link.fence, driver.link.cursor
            if fence is not None and cursor is not None:
                scan = self.verifications.make_scan(driver.name, fence.generation, cursor.epoch, ())
                self._scans[driver.name.stream] = (scan, max(1, fence.local_sequence - READ_FACTS))


def _of_recovery(events: list[Row], peer: ZoneId) -> list[Row]:
    names = (
        "peer_reachable",
        "cursor_comparison",
        "backfill_required",
        "replay_initiated",
        "cursor_advanced",
    )
    wanted = ("ts", "event", "peer", "stream", "message")
    return [
        {name: event[name] for name in wanted if name in event}
        for event in events
        if event.get("event") in names and event.get("peer") == peer
    ]
