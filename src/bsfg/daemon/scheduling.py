"""Who fetches next while several links of one peer catch up, and how fast one link may go.

Peers have nothing to do with each other here: each has a queue of its own, so that one peer's links can't hold up
another's (I24). Only a fetch that is behind asks for a turn; a fetch that waits at the peer for facts to come does not.

A link's weight is ``2 ** priority``: 9 goes first, 0 last, 5 is the default. Equal links fetch side by side, at most
four at once, and beyond that the one that has had the fewest bytes is next. A lighter link has its next page when, by
weight, it is its share (weighted fair queueing: it comes when its page would end before that of the heavier one), so
after an outage audit with priority 9 gets sixteen bytes for each of telemetry with priority 5, and telemetry never
nothing. A heavier link never waits for a lighter one.

A link counts for the others only while pages really come: not while it fails, waits for its own store or is held to
its own limit, and no longer than five seconds without a page. No link waits longer than ten seconds for a turn.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from typing import Final

from bsfg.config.values import PRIORITY_DEFAULT
from bsfg.core.conversation import Fetch
from bsfg.daemon.page_room import PageRoom
from bsfg.daemon.ticks import to_tick
from bsfg.model.cursor import LinkName
from bsfg.model.facts import Facts
from bsfg.model.page import BYTES_MAX, Page
from bsfg.ports import Clock

PRIORITY_MAX: Final = 9
FETCHES_MAX: Final = 4
"""Of one peer's links that catch up at the same time."""
TURN_SECONDS_MAX: Final = 10.0
LEASE_SECONDS: Final = 5.0
"""How long a fetch counts for others after its last page."""
GRACE_SECONDS: Final = 0.5
"""How long a link that has more to fetch is expected back."""
ANSWER_SECONDS: Final = 2.0
"""About how long one answer may take, so that a heavier link that comes meanwhile is not held up by many pages."""
PAGE_SECONDS: Final = 0.5
"""What one page of a link with a limit may be of its rate."""
DEBT_SECONDS_MAX: Final = 30.0
"""A single fact may be larger than a page; it is not paid for longer than this."""
CHECK_SECONDS: Final = 0.1
ADMISSION_SECONDS_MAX: Final = TURN_SECONDS_MAX + DEBT_SECONDS_MAX + 1.0
"""The longest that a fetch may wait before it begins."""
FACT_OVERHEAD_BYTES: Final = 64
"""What a fact takes in a page beside headers and payload: its subject and numbers, about."""


@dataclass(frozen=True, slots=True)
class Pace:
    """What configuration says of a link's traffic (contract, section 3)."""

    priority: int = PRIORITY_DEFAULT
    bytes_per_second: int | None = None
    is_compressible: bool = False


def page_bytes(page: Page) -> int:
    """About what the page takes uncompressed; this is what limits and shares are counted in."""
    facts = Facts.of(page.facts)
    return facts.content_bytes + len(facts) * FACT_OVERHEAD_BYTES


@dataclass
class Throttle:
    """A rate in bytes a second, by one moment: when what came so far is paid for. Idleness earns nothing."""

    bytes_per_second: int | None = None
    _free_at: float = 0.0

    def delay(self, now: float) -> float:
        """Seconds until the next fetch may begin."""
        return 0.0 if self.bytes_per_second is None else max(0.0, self._free_at - now)

    def charge(self, count: int, began: float, now: float) -> None:
        """So many bytes came by now of an answer that was asked for then."""
        if self.bytes_per_second is None:
            return
        paid_at = max(self._free_at, began) + count / max(1, self.bytes_per_second)
        self._free_at = min(paid_at, now + DEBT_SECONDS_MAX)

    def page_bytes_max(self, wanted: int) -> int:
        if self.bytes_per_second is None:
            return wanted
        return max(1, min(wanted, int(self.bytes_per_second * PAGE_SECONDS)))


@dataclass(eq=False)
class Lane:
    """One link in its peer's queue. Times are monotonic seconds."""

    priority: int = PRIORITY_DEFAULT
    tag: float = 0.0
    """Bytes had so far, each divided by the weight: what fair queueing calls virtual time."""
    is_proven: bool = False
    """Whether the last fetch brought a page; one that has to show it yet neither waits nor holds others up."""
    page_seconds: float = 0.0
    """How long the last page took to come."""
    waiting_since: float | None = None
    moved_at: float | None = None
    """When the fetch that is out began or last brought a page; None while none is out."""
    is_paused: bool = False
    """Pages are not taken, because the link's own store is behind."""
    due_until: float = float("-inf")

    @property
    def cost(self) -> int:
        """Of one byte."""
        return int(2 ** (PRIORITY_MAX - self.priority))

    @property
    def finish(self) -> float:
        """The tag after one more page."""
        return self.tag + BYTES_MAX * self.cost

    def is_fetching(self, now: float) -> bool:
        return self.moved_at is not None and not self.is_paused and now - self.moved_at < LEASE_SECONDS

    def counts(self, now: float) -> bool:
        """Whether others must reckon with this link."""
        is_here = self.waiting_since is not None or self.is_fetching(now) or now < self.due_until
        return self.is_proven and is_here


class FairQueue:
    """The links of one peer. Nothing here waits or reads a clock."""

    def __init__(self) -> None:
        self._lanes: dict[LinkName, Lane] = {}

    def lane(self, name: LinkName) -> Lane:
        """The link's lane, made when it is asked for first; :meth:`remove` it with the link."""
        return self._lanes.setdefault(name, Lane())

    def remove(self, name: LinkName) -> None:
        self._lanes.pop(name, None)

    @property
    def is_shared(self) -> bool:
        return len(self._lanes) > 1

    def wants(self, lane: Lane, now: float) -> None:
        """The link asks for a turn. One that was away is owed nothing and owes nothing."""
        if not lane.counts(now):
            lane.tag = min((rival.tag for rival in self._rivals(lane, now)), default=0.0)
        lane.waiting_since = now

    def may_begin(self, lane: Lane, now: float) -> bool:
        since = lane.waiting_since
        if not lane.is_proven or since is None or now - since >= TURN_SECONDS_MAX:
            return True
        rivals = [rival for rival in self._rivals(lane, now) if rival.priority >= lane.priority]
        if any(rival.priority > lane.priority and lane.finish > rival.finish for rival in rivals):
            return False
        fetching = sum(rival.is_fetching(now) for rival in rivals)
        ahead = sum(_is_ahead(rival, lane) for rival in rivals if not rival.is_fetching(now))
        return fetching + ahead < FETCHES_MAX

    def pages(self, lane: Lane, wanted: int, now: float) -> int:
        """How many pages this turn may bring; one where a heavier link is here, even if it has to prove itself yet."""
        if not lane.is_proven or any(
            other.priority > lane.priority and (other.counts(now) or other.is_fetching(now))
            for other in self._lanes.values()
        ):
            return 1
        if lane.page_seconds * wanted <= ANSWER_SECONDS:
            return wanted
        return max(1, int(ANSWER_SECONDS / lane.page_seconds))

    def began(self, lane: Lane, now: float) -> None:
        lane.waiting_since, lane.moved_at, lane.is_paused = None, now, False

    def came(self, lane: Lane, count: int, now: float) -> None:
        """So many bytes came for this link."""
        if lane.moved_at is not None:
            lane.page_seconds = now - lane.moved_at
            lane.moved_at = now
        lane.tag += count * lane.cost
        lane.is_proven = True

    def paused(self, lane: Lane, is_paused: bool, now: float) -> None:
        lane.is_paused = is_paused
        if lane.moved_at is not None:
            lane.moved_at = now

    def ended(self, lane: Lane, now: float, *, has_more: bool, has_failed: bool) -> None:
        """The fetch is over, or was given up before it began."""
        lane.waiting_since, lane.moved_at, lane.is_paused = None, None, False
        lane.due_until = now + GRACE_SECONDS if has_more else float("-inf")
        lane.is_proven = lane.is_proven and not has_failed

    def _rivals(self, lane: Lane, now: float) -> list[Lane]:
        return [other for other in self._lanes.values() if other is not lane and other.counts(now)]


def _is_ahead(rival: Lane, lane: Lane) -> bool:
    if rival.waiting_since is None or lane.waiting_since is None:
        return False
    return (-rival.priority, rival.tag, rival.waiting_since) < (-lane.priority, lane.tag, lane.waiting_since)


@dataclass
class PeerTraffic:
    """One peer's queue, and a bell for those who wait in it."""

    queue: FairQueue = field(default_factory=FairQueue)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def tell(self) -> None:
        """Somebody's turn has begun or ended."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def changed(self) -> None:
        """Wait for that, or until leases may have run out."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CHECK_SECONDS):
                await self._changed.wait()


class Turn:
    """One fetch under way. ``step`` is what to ask for now."""

    def __init__(self, traffic: LinkTraffic, step: Fetch, began: float, is_queued: bool) -> None:
        self.step = traffic.paced(step)
        self.has_more = False
        self._asked = step
        self._traffic = traffic
        self._began = began
        self._is_queued = is_queued

    def came(self, page: Page) -> None:
        """A page has come; it is paid for and counted."""
        self.has_more = page.pending > 0
        self._traffic.charge(page, self._began, self._is_queued)

    async def again(self) -> None:
        """The same is to be asked once more, once it may be; for polls, which nobody queues up for."""
        self._began = await self._traffic.allowed()
        self.step = self._traffic.paced(self._asked)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Inside the block pages are not taken, and nobody reckons with this link."""
        self._traffic.pause(self._is_queued, True)
        try:
            yield
        finally:
            self._traffic.pause(self._is_queued, False)


class LinkTraffic:
    """One link's way to its peer: its limit, its place among the peer's links, whether answers come compressed."""

    def __init__(
        self, name: LinkName, peer: PeerTraffic, clock: Clock, room: PageRoom | None = None
    ) -> None:
        """``room`` is that of the process; without one the link has its own."""
        self._name = name
        self._peer = peer
        self._clock = clock
        self._room = room or PageRoom()
        self._throttle = Throttle()
        self._is_compressible = False
        self._lane = peer.queue.lane(name)
        self._ticket = 0
        """Of the fetch that has the lane; one that was given up may end after the next has begun."""

    def configure(self, pace: Pace) -> None:
        """From the next fetch on."""
        self._throttle.bytes_per_second = pace.bytes_per_second
        self._is_compressible = pace.is_compressible
        self._lane.priority = pace.priority
        self._peer.tell()

    def close(self) -> None:
        """The link is gone."""
        self._peer.queue.remove(self._name)
        self._peer.tell()

    @asynccontextmanager
    async def turn(self, step: Fetch) -> AsyncIterator[Turn]:
        """A fetch inside the block, once it may begin: within ``ADMISSION_SECONDS_MAX``, at once for a long poll."""
        began = await self.allowed()
        is_queued = step.pages > 1 and step.request.limits.wait_seconds == 0
        has_failed, turn = False, None
        if is_queued:
            self._ticket = step.ticket
        try:
            if is_queued:
                step = replace(step, pages=await self._queue_up(step.pages))
                began = self._clock.monotonic()
            with self._room.shared() if is_queued else contextlib.nullcontext():
                turn = Turn(self, step, began, is_queued)
                yield turn
        except Exception:
            has_failed = True
            raise
        finally:
            if is_queued and self._ticket == step.ticket:
                self._leave(has_more=turn is not None and turn.has_more, has_failed=has_failed)

    async def allowed(self) -> float:
        """Wait until what came so far is paid for; monotonic seconds of then."""
        now = self._clock.monotonic()
        if delay := self._throttle.delay(now):
            await self._clock.sleep(delay)
            now = self._clock.monotonic()
        return now

    def paced(self, step: Fetch) -> Fetch:
        """The fetch as it is to be asked for now."""
        limits, throttle = step.request.limits, self._throttle
        wait_seconds = to_tick(limits.wait_seconds, self._clock.monotonic())
        bytes_max = throttle.page_bytes_max(self._room.page_bytes(limits.bytes, step.pages))
        limits = replace(limits, bytes=bytes_max, wait_seconds=wait_seconds)
        request = replace(step.request, limits=limits, is_compressible=self._is_compressible)
        return replace(step, request=request, pages=step.pages if throttle.bytes_per_second is None else 1)

    def charge(self, page: Page, began: float, is_queued: bool) -> None:
        is_counted = self._throttle.bytes_per_second is not None or self._peer.queue.is_shared
        count, now = page_bytes(page) if is_counted else 0, self._clock.monotonic()
        self._throttle.charge(count, began, now)
        if is_queued:
            self._peer.queue.came(self._lane, count, now)
            self._peer.tell()

    def pause(self, is_queued: bool, is_paused: bool) -> None:
        if is_queued:
            self._peer.queue.paused(self._lane, is_paused, self._clock.monotonic())
            self._peer.tell()

    async def _queue_up(self, wanted: int) -> int:
        queue, lane = self._peer.queue, self._lane
        queue.wants(lane, self._clock.monotonic())
        while not queue.may_begin(lane, self._clock.monotonic()):
            await self._peer.changed()
        now = self._clock.monotonic()
        queue.began(lane, now)
        return queue.pages(lane, wanted, now)

    def _leave(self, *, has_more: bool, has_failed: bool) -> None:
        now = self._clock.monotonic()
        is_expected = has_more and not self._throttle.delay(now)
        self._peer.queue.ended(self._lane, now, has_more=is_expected, has_failed=has_failed)
        self._peer.tell()
