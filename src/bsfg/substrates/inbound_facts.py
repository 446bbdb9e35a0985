"""The facts of an inbound stream for readers inside the gateway, page by page over a connection for each link."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from bsfg.model.cursor import LinkName
from bsfg.model.names import StreamName, inbound_physical, inbound_subject
from bsfg.model.page import LogSlice, PageLimits
from bsfg.substrates.nats_connection import NatsConnection
from bsfg.substrates.page_reader import PageReader


@dataclass(frozen=True, slots=True)
class _Held:
    generation: int
    reader: PageReader


class JetStreamInboundFacts:
    """``ports.InboundFacts`` over JetStream. ``close`` it in the end."""

    def __init__(self, connect: Callable[[], Awaitable[NatsConnection]]) -> None:
        self._connect = connect
        self._held: dict[LinkName, _Held] = {}

    async def read(
        self, link: LinkName, generation: int, after: int, limits: PageLimits
    ) -> tuple[str, LogSlice]:
        """See ``ports.InboundFacts.read``."""
        reader = self._reader(link, generation)
        found = await reader.read(after, limits)
        return reader.created, found

    def close(self) -> None:
        """Close every link's connection; a later read opens it again."""
        for held in self._held.values():
            held.reader.close()
        self._held.clear()

    def close_link(self, link: LinkName) -> None:
        """Close the connection of a link that is read no more."""
        held = self._held.pop(link, None)
        if held is not None:
            held.reader.close()

    def _reader(self, link: LinkName, generation: int) -> PageReader:
        held = self._held.get(link)
        if held is not None and held.generation == generation:
            return held.reader
        self.close_link(link)
        name = inbound_physical(link.peer, link.stream, generation)
        prefix = StreamName(inbound_subject(link.peer, link.stream, generation))
        reader = PageReader(self._connect, name, prefix)
        self._held[link] = _Held(generation, reader)
        return reader
