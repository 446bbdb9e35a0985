"""One pass over an inbound stream: the digest of each part of a range, and what lies where it should not.

A page waits until the next one shows that it is in order, so that a fact far ahead of its place is found to be the
stranger, and not all that come after it. What does not fit into the rising run is set aside by its place; of the facts
themselves two pages are held, whatever the stream's length.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from itertools import islice
from operator import lt
from typing import Final

from bsfg.errors import BsfgError, Code
from bsfg.model.arrangement import arrange
from bsfg.model.digests import RangeDigester, joined_digest
from bsfg.model.facts import NO_FACTS, Facts
from bsfg.substrates.held_pages import Foreign, HeldPage
from bsfg.substrates.inbound_scan import InboundScan

STRANGERS_MAX: Final = 1_000
"""Facts and messages out of their place; a stream with more of them is not worth a list."""
HELD_FACTS_MAX: Final = 40_000


class HeldDigester(RangeDigester):
    """A digester that also remembers between which local sequences each part lies."""

    def __init__(self, first: int, last: int, width: int) -> None:
        super().__init__(first, last, width)
        self.places: list[tuple[int, int] | None] = []
        self._place: tuple[int, int] | None = None

    def take(self, facts: Facts) -> None:
        super().take(facts)
        begins = self._place[0] if self._place else facts.times[0]
        self._place = (begins, facts.times[-1])

    def _close(self) -> None:
        super()._close()
        self.places.append(self._place)
        self._place = None


@dataclass
class HeldParts:
    """What a pass has found; feed it pages in the order in which they lie."""

    first: int
    last: int
    width: int
    strangers: dict[int, list[int]] = field(default_factory=dict)
    """Facts that do not fit into the rising run: sequence, and the local sequences at which copies of it lie."""
    misplaced: set[int] = field(default_factory=set)
    foreign: list[Foreign] = field(default_factory=list)
    of_earlier_epochs: int = 0
    facts: int = 0
    reached: int = 0
    """All up to this sequence has been digested."""
    parts: HeldDigester = field(init=False)
    _waiting: Facts = field(default_factory=lambda: NO_FACTS)

    def __post_init__(self) -> None:
        self.parts = HeldDigester(self.first, self.last, self.width)
        self.reached = self.first - 1

    async def read(self, scan: InboundScan, begin: int, end: int) -> AsyncGenerator[None, None]:
        """Take every page between two local sequences; returns now and then, so that one can see how far it is."""
        async with contextlib.aclosing(scan.pages(begin, end, self.add)) as pages:
            async for _ in pages:
                yield
        await asyncio.to_thread(self.finish)

    def add(self, page: HeldPage) -> None:
        """The next page."""
        self.foreign += page.foreign
        self.of_earlier_epochs += page.of_earlier_epochs
        facts = page.facts
        if facts and not (self.first <= min(facts.sequences) and max(facts.sequences) <= self.last):
            facts = Facts.of(fact for fact in facts if self.first <= fact.sequence <= self.last)
        if facts:
            self._arrange(facts)
        if len(self.foreign) + len(self.strangers) > STRANGERS_MAX:
            raise BsfgError(
                Code.CHECK_FAILED,
                f"more than {STRANGERS_MAX} messages of the inbound stream are foreign or out of order",
                hint="bsfg repair fetches everything again into a new generation",
            )

    def finish(self) -> None:
        """No page comes any more."""
        self._digest(self._waiting)
        self._waiting = NO_FACTS
        self.parts.finish()

    @property
    def digest(self) -> str:
        """Of the whole range: that of its only part, or the digest over the digests of its parts."""
        return joined_digest(self.parts.parts)

    def _arrange(self, facts: Facts) -> None:
        before = self._waiting.sequences[-1] if self._waiting else self.reached
        sequences = facts.sequences
        if sequences[0] > before and all(map(lt, sequences, islice(sequences, 1, None))):
            self._digest(self._waiting)
            self._waiting = facts
            return
        joined = Facts.joined([self._waiting, facts])
        found = arrange(joined.sequences, self.reached)
        for index in found.others:
            self.strangers.setdefault(joined.sequences[index], []).append(joined.times[index])
        self.misplaced |= found.misplaced
        rising = Facts.of(joined[index] for index in found.run)
        if len(rising) > HELD_FACTS_MAX:
            self._digest(rising[:-HELD_FACTS_MAX])
            rising = rising[-HELD_FACTS_MAX:]
        self._waiting = rising

    def _digest(self, facts: Facts) -> None:
        if facts:
            self.parts.add(facts)
            self.facts += len(facts)
            self.reached = facts.sequences[-1]


async def repeated(scan: InboundScan, begin: int) -> int:
    """How many facts from a local sequence on lie twice or out of order."""
    state = await scan.state()
    held = HeldParts(1, 2**62, 2**62)
    async for _ in held.read(scan, begin, state.last_sequence):
        pass
    return len(held.strangers)
