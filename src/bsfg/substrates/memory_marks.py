"""The in-memory twin of :mod:`bsfg.substrates.inbound_marks`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from bsfg.model.cursor import Fence, LinkName, StreamMark
from bsfg.model.names import inbound_physical
from bsfg.substrates.inbound_marks import marks_of
from bsfg.substrates.memory import MemoryZone


@dataclass
class MemoryInboundMarks:
    """``ports.InboundMarks`` over the twin, which is told its links: its streams don't know their subjects."""

    zone: MemoryZone
    links: Collection[LinkName]

    async def marks(self) -> Mapping[LinkName, StreamMark]:
        """See ``ports.InboundMarks.marks``."""
        return marks_of(
            [
                (link, self._mark(link, generation))
                for link in self.links
                for generation in await self.zone.generations(link)
            ]
        )

    def _mark(self, link: LinkName, generation: int) -> StreamMark:
        log = self.zone.stream(inbound_physical(link.peer, link.stream, generation))
        held = len(log.messages)
        between = log.last_sequence - log.first_sequence + 1 - held if held else 0
        return StreamMark(
            Fence(generation, log.created, log.last_sequence), log.first_sequence, held, between
        )
