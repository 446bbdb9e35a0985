"""A link between two twin zones: the real driver, core and sender's rules, with the network left out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import Any

from tests.support.patience import patience

from bsfg.core.backoff import Backoff
from bsfg.core.link_state import Link, LinkSettings
from bsfg.daemon.driver import LinkDriver
from bsfg.daemon.recent_marks import RecentMarks
from bsfg.daemon.system import SystemClock
from bsfg.errors import BsfgError, PeerRefused
from bsfg.model.cursor import Cursor, LinkName, LinkState, parse_init_mode
from bsfg.model.fact import Fact
from bsfg.model.names import StreamName, ZoneId, inbound_physical, parse_stream, parse_zone
from bsfg.model.page import FetchRequest, Page, PageLimits
from bsfg.model.policy import ReadStream
from bsfg.substrates.memory import MemoryZone
from bsfg.substrates.memory_marks import MemoryInboundMarks
from bsfg.transport.fetch_service import FetchService
from bsfg.transport.wire import ConfirmCall

SOURCE = parse_zone("enterprise")
RECEIVER = parse_zone("plant-a")
STREAM = parse_stream("facts.operational")
NAME = LinkName(SOURCE, STREAM)
INBOUND = inbound_physical(SOURCE, STREAM, 1)


@dataclass
class TwinCaller:
    """The receiver as the sender's rules see it; always allowed."""

    peer: ZoneId = RECEIVER
    streams: frozenset[StreamName] = frozenset({STREAM})

    def demand(self, wish: ReadStream) -> None:
        """Allowed."""

    async def changed(self) -> None:
        await asyncio.Event().wait()


@dataclass
class TwinPeer:
    """``ports.PeerClient`` by direct calls; ``fault`` is raised instead of an answer while it is set."""

    service: FetchService
    caller: TwinCaller = field(default_factory=TwinCaller)
    fault: BsfgError | None = None
    fetches: int = 0
    confirmed: list[int | None] = field(default_factory=list)
    served: list[int] = field(default_factory=list)
    """The sequences of all facts that it gave."""

    async def health(self) -> dict[str, Any]:
        return {}

    async def streams(self) -> list[dict[str, Any]]:
        return await self.service.streams(self.caller)

    async def fetch(self, request: FetchRequest) -> Page:
        self.fetches += 1
        if self.fault is not None:
            raise self.fault
        try:
            page = await self.service.fetch(self.caller, request)
        except BsfgError as error:
            raise PeerRefused(error.code, error.message, **error.details) from None
        self.served += [fact.sequence for fact in page.facts]
        return page

    async def pages(self, request: FetchRequest, count: int) -> AsyncGenerator[Page, None]:
        yield await self.fetch(request)

    async def confirm(self, stream: StreamName, cursor: Cursor) -> int:
        if self.fault is not None:
            raise self.fault
        assert cursor.sequence is not None and cursor.digest is not None
        self.confirmed.append(cursor.sequence)
        call = ConfirmCall(stream, cursor.epoch, cursor.sequence, cursor.digest)
        return await self.service.confirm(self.caller, call)


@dataclass
class Diary:
    """A ``LinkObserver`` that writes everything down."""

    said: list[str] = field(default_factory=list)
    states: list[LinkState] = field(default_factory=list)
    answered: int = 0
    silences: list[str] = field(default_factory=list)
    facts: int = 0
    refusals: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    aside: list[int] = field(default_factory=list)
    arrivals: list[float] = field(default_factory=list)

    def announced(self, name: LinkName, event: str, message: str) -> None:
        self.said.append(message)

    def state_changed(self, name: LinkName, before: LinkState, link: Link) -> None:
        self.states.append(before)

    def peer_answered(self, name: LinkName) -> None:
        self.answered += 1

    def peer_silent(self, name: LinkName, error: BsfgError) -> None:
        self.silences.append(error.message)

    def fetched(self, name: LinkName, seconds: float, error: BsfgError | None) -> None:
        """Counted by the peer."""

    def appended(self, name: LinkName, facts: int, seconds: float, error: BsfgError | None) -> None:
        if error is None:
            self.facts += facts
        else:
            self.refusals.append(error.code.label)

    def confirmed(self, name: LinkName, error: BsfgError | None) -> None:
        """Kept by the peer."""

    def arrived(self, name: LinkName, seconds: float) -> None:
        self.arrivals.append(seconds)

    def set_aside(self, name: LinkName, sequence: int) -> None:
        self.aside.append(sequence)

    def failed_unexpectedly(self, name: LinkName, step: str, error: BaseException) -> None:
        self.faults.append(f"{step}: {error!r}")


class Shelf:
    """A ``ports.Quarantine`` without a disk."""

    async def put(self, link: LinkName, epoch: str, fact: Fact) -> None:
        """Kept by the diary."""


class TwinLink:
    """Source, receiver and a running driver; use as an async context manager."""

    def __init__(self, mode: str = "full_backfill", page_facts: int = 10, *, records_gaps: bool = False) -> None:
        self.clock = SystemClock()
        self.source, self.receiver = MemoryZone(self.clock), MemoryZone(self.clock)
        self.source.create(STREAM)
        self.peer = TwinPeer(FetchService(self.source, self.source, self.clock))
        self.diary = Diary()
        self.settings = LinkSettings(
            parse_init_mode(mode),
            records_gaps=records_gaps,
            limits=PageLimits(facts=page_facts, wait_seconds=0.2),
            backoff=Backoff(0.01, 0.05),
        )
        self.driver = self.new_driver()
        self._task: asyncio.Task[None] | None = None

    def new_driver(self) -> LinkDriver:
        return LinkDriver(
            Link(NAME, self.settings),
            self.peer,
            self.receiver,
            Shelf(),
            self.clock,
            self.diary,
            marks=RecentMarks(MemoryInboundMarks(self.receiver, [NAME]), self.clock),
        )

    def publish(self, *numbers: int) -> None:
        for number in numbers:
            self.source.publish(STREAM, "batch", payload=b"%d" % number)

    def stored(self) -> list[int]:
        """The numbers in the receiver's inbound stream, in its order."""
        return [int(message.payload) for message in self.receiver.messages(INBOUND)]

    async def __aenter__(self) -> TwinLink:
        await self.receiver.provision(NAME)
        self._task = asyncio.create_task(self.driver.run())
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.kill()

    async def kill(self) -> None:
        """The driver is gone, wherever it was."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def restart(self) -> None:
        """A new driver that knows nothing but what is stored."""
        await self.kill()
        self.driver = self.new_driver()
        self._task = asyncio.create_task(self.driver.run())

    async def until(self, holds: Callable[[], bool], seconds: float = 5.0) -> None:
        async with asyncio.timeout(seconds * patience()):
            while not holds():
                await self.driver.changed()

    async def level(self, sequence: int) -> None:
        def is_level() -> bool:
            cursor = self.driver.link.cursor
            return self.driver.state is LinkState.LEVEL and cursor is not None and cursor.sequence == sequence

        await self.until(is_level)
