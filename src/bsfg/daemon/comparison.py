"""Holding two generations of one link against each other, page by page: the same coordinates, the same digest."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from bsfg.substrates.generations import InboundFact

PAGE_FACTS: Final = 1_000

ReadFacts = Callable[[int, int], Awaitable[list[InboundFact]]]
"""At most so many facts from a local sequence on; none at the end of what is there now."""


@dataclass
class _Side:
    """One generation being read: a page of it, and where the next begins."""

    read: ReadFacts
    epoch: str
    position: int
    _page: list[InboundFact] = field(default_factory=list)
    _index: int = 0

    async def peek(self) -> InboundFact | None:
        """The next fact of the epoch; None where there is none yet."""
        while True:
            while self._index < len(self._page):
                fact = self._page[self._index]
                if fact.epoch == self.epoch and fact.sequence is not None:
                    return fact
                self._index += 1
            self._page, self._index = await self.read(self.position, PAGE_FACTS), 0
            if not self._page:
                return None
            self.position = self._page[-1].local_sequence + 1

    def take(self) -> None:
        self._index += 1


@dataclass
class Comparison:
    """What was compared so far; of each generation at most a page is held."""

    same: int = 0
    only_before: int = 0
    """Facts that the sender no longer gives, or that somebody put into the generation before."""
    only_new: int = 0
    """Facts that the generation before lacks: removed there, or lost."""
    different: int = 0
    first_different: int | None = None
    """Origin sequence of the first fact whose digests differ."""
    _before: _Side | None = None
    _new: _Side | None = None

    @property
    def is_begun(self) -> bool:
        return self._new is not None

    def begin(self, epoch: str, before: ReadFacts, position: int, new: ReadFacts) -> None:
        """Compare the facts of one epoch: those before from a local sequence on, the new ones from their first."""
        self._before, self._new = _Side(before, epoch, position), _Side(new, epoch, 1)

    async def advance(self) -> None:
        """Compare until one of the two has nothing more; what comes later is for the next call."""
        if self._before is None or self._new is None:
            return
        while True:
            old, new = await self._before.peek(), await self._new.peek()
            if old is None or new is None:
                return
            self._compare(old, new)
            if _place(old) <= _place(new):
                self._before.take()
            if _place(new) <= _place(old):
                self._new.take()

    def _compare(self, old: InboundFact, new: InboundFact) -> None:
        if _place(old) < _place(new):
            self.only_before += 1
        elif _place(old) > _place(new):
            self.only_new += 1
        elif old.digest == new.digest:
            self.same += 1
        else:
            self.different += 1
            if self.first_different is None:
                self.first_different = new.sequence


def _place(fact: InboundFact) -> int:
    return fact.sequence or 0
