"""Where a generation that is built for a repair gets its facts: the undamaged ones from the generation in force.

Only what ``bsfg verify`` found damaged or missing, and what lies behind the range that it compared, is asked of the
peer. What is taken over is proved against the peer with all else before the generation comes into force.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from itertools import islice
from operator import lt

from bsfg.model.arrangement import arrange
from bsfg.model.cursor import Cursor
from bsfg.model.facts import NO_FACTS, Facts
from bsfg.model.names import StreamName
from bsfg.model.page import Agreement, FetchRequest, Page, PageLimits
from bsfg.model.ranges import Range, Ranges
from bsfg.ports import PageSource
from bsfg.substrates.generations import Kept, Plan
from bsfg.substrates.held_pages import HeldPage
from bsfg.substrates.inbound_scan import InboundScan

Copies = Callable[[], AsyncGenerator[HeldPage, None]]
"""Everything that a generation holds, from its first message on, with the times of the origin."""


def copies_of(scan: InboundScan) -> Copies:
    """All that a generation holds now."""

    async def copies() -> AsyncGenerator[HeldPage, None]:
        state = await scan.state()
        async with aclosing(scan.copies(max(1, state.first_sequence), state.last_sequence)) as pages:
            async for page in pages:
                yield page

    return copies


class KeptFacts:
    """The undamaged facts of a generation, in the order of their sequences; ``close`` it in the end.

    Reading goes on where it was; whoever asks for something before that makes it begin anew.
    """

    def __init__(self, copies: Copies, damaged: Ranges, left_out: frozenset[int]) -> None:
        self._copies = copies
        self._damaged = damaged
        self._left_out = left_out
        self._pages: AsyncGenerator[HeldPage, None] | None = None
        self._page = NO_FACTS
        self._gone = 0
        """Up to this sequence, nothing can be given without beginning anew."""

    async def take(self, after: int, through: int, limits: PageLimits) -> Facts:
        """Facts behind one sequence and up to another, within the limits but at least one if there is one."""
        if self._pages is None or after < self._gone:
            await self.close()
            self._pages = self._copies()
        while True:
            if found := self._page.behind(after):
                return _within(found.through(through), limits)
            if not await self._turn(self._pages):
                return NO_FACTS

    async def close(self) -> None:
        """Give back what reading holds; a later ``take`` begins anew."""
        if self._pages is not None:
            await self._pages.aclose()
        self._pages, self._page, self._gone = None, NO_FACTS, 0

    async def _turn(self, pages: AsyncGenerator[HeldPage, None]) -> bool:
        """The next page that has undamaged facts; False at the end."""
        before = self._page.sequences[-1] if self._page else self._gone
        async for page in pages:
            if facts := self._undamaged(page.facts, before):
                self._page, self._gone = facts, before
                return True
        return False

    def _undamaged(self, facts: Facts, before: int) -> Facts:
        """Rising: what does not fit is left out here, and then misses when the generation is proved."""
        if not facts:
            return facts
        first, last = min(facts.sequences), max(facts.sequences)
        if self._damaged.touches(first, last) or not self._left_out.isdisjoint(facts.sequences):
            facts = Facts.of(fact for fact in facts if self._is_undamaged(fact.sequence))
        sequences = facts.sequences
        if facts and not (sequences[0] > before and all(map(lt, sequences, islice(sequences, 1, None)))):
            facts = Facts.of(facts[index] for index in arrange(sequences, before).run)
        return facts

    def _is_undamaged(self, sequence: int) -> bool:
        return sequence not in self._left_out and self._damaged.holding(sequence) is None


def _within(facts: Facts, limits: PageLimits) -> Facts:
    """So many of the first facts that the page is about as large as it may be."""
    count = min(len(facts), limits.facts)
    if count and (mean := facts.content_bytes // len(facts)):
        count = min(count, max(1, limits.bytes // mean))
    return facts[:count] if count < len(facts) else facts


@dataclass
class RepairSource:
    """A ``ports.PageSource`` for the driver that fills the generation."""

    stream: StreamName
    plan: Plan
    kept: Kept
    facts: KeptFacts
    peer: PageSource
    copied: int = 0
    """Facts taken over from the generation in force."""
    fetched: int = 0
    """Facts that the peer sent."""
    damaged: Ranges = field(init=False)

    def __post_init__(self) -> None:
        self.damaged = Ranges(self.kept.damaged)

    async def fetch(self, request: FetchRequest) -> Page:
        """One page of ours, or what the peer says of what is damaged."""
        after, position = request.after, self._position(request)
        damaged = self.damaged.holding(position)
        if after is not None and damaged is None and position <= self.kept.through:
            return await self._own_page(after, request.limits)
        if damaged is not None:
            request = replace(request, limits=_at_most(request.limits, position, damaged))
        page = await self.peer.fetch(request)
        self.fetched += len(page.facts)
        return page

    async def pages(self, request: FetchRequest, count: int) -> AsyncGenerator[Page, None]:
        """As :meth:`fetch`; several only where there is nothing of ours."""
        position = self._position(request)
        if position <= self.kept.through or self.damaged.holding(position) is not None:
            yield await self.fetch(request)
            return
        async with aclosing(self.peer.pages(request, count)) as pages:
            async for page in pages:
                self.fetched += len(page.facts)
                yield page

    def _position(self, request: FetchRequest) -> int:
        """Where the page begins that is asked for."""
        return (self.kept.through if request.after is None else request.after.scanned_through) + 1

    async def confirm(self, stream: StreamName, cursor: Cursor) -> int:
        """As the peer."""
        return await self.peer.confirm(stream, cursor)

    async def _own_page(self, after: Cursor, limits: PageLimits) -> Page:
        """What the peer would answer; there is always more, because the last word is the peer's."""
        following = self.damaged.next_first(after.scanned_through)
        end = self.kept.through if following is None else min(self.kept.through, following - 1)
        facts = await self.facts.take(after.scanned_through, end, limits)
        scanned = facts.sequences[-1] if facts else end
        self.copied += len(facts)
        return Page(
            stream=self.stream,
            epoch=self.plan.epoch,
            agreement=Agreement.EPOCH if after.sequence is None else Agreement.EXACT,
            start_sequence=after.scanned_through + 1,
            scanned_through=scanned,
            head=self.kept.through,
            pending=self.kept.through - scanned + 1,
            sender_time=self.plan.resolved_at,
            next_time=self.plan.resolved_at,
            facts=facts,
        )


def _at_most(limits: PageLimits, position: int, damaged: Range) -> PageLimits:
    """No more facts than the damaged range can have from here on."""
    return replace(limits, facts=min(limits.facts, damaged[1] - position + 1))

