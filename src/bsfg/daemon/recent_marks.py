"""One answer of the store for all links that look at it at about the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from bsfg.errors import BsfgError
from bsfg.model.cursor import LinkName, StreamMark
from bsfg.ports import Clock, InboundMarks

FRESH_SECONDS: Final = 5.0
"""How old the answer may be that a link is given: half of the time between two looks."""
REFUSED_SECONDS: Final = 60.0
"""How long nothing is asked of a store that gave no marks; each link looks for itself meanwhile."""


@dataclass
class RecentMarks:
    """The marks of all inbound streams as they were a few seconds ago."""

    store: InboundMarks
    clock: Clock
    _marks: Mapping[LinkName, StreamMark] = field(default_factory=dict)
    _good_until: float = float("-inf")
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    def recent(self, link: LinkName) -> StreamMark | None:
        """The link's mark, if others have asked for theirs a moment ago."""
        return self._marks.get(link) if self.clock.monotonic() < self._good_until else None

    async def mark(self, link: LinkName) -> StreamMark | None:
        """The link's mark; None where the store says nothing of it."""
        async with self._turn:
            if self.clock.monotonic() >= self._good_until:
                await self._ask()
        return self._marks.get(link)

    async def _ask(self) -> None:
        asked_at = self.clock.monotonic()
        try:
            self._marks, good_seconds = await self.store.marks(), FRESH_SECONDS
        except BsfgError:
            # That the store is away the links find out themselves; that it does not let us ask concerns nobody else.
            self._marks, good_seconds = {}, REFUSED_SECONDS
        self._good_until = asked_at + good_seconds
