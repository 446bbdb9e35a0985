"""What every side is to the bench: two zones, facts in the first, and a moment from which they may travel."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Final

import nats
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from bench.facts import Facts, Place, payload

SAMPLES: Final = 25


@dataclass(frozen=True)
class Setting:
    """How both zones of a side are set up."""

    is_strict: bool = False
    """Every acknowledgement on disk in both zones, or the store's default in both."""
    round_trip_seconds: float = 0.0
    """What a fault proxy adds between the zones; 0 leaves the proxy out."""
    streams: tuple[str, ...] = ("facts.operational",)


class Watch(ABC):
    """The target as the bench sees it from outside."""

    @abstractmethod
    async def arrived(self) -> int:
        """How many facts the target holds now."""

    @abstractmethod
    async def require_equal(self) -> None:
        """RuntimeError unless it holds exactly what was published: the count, and a sample byte for byte."""


class Pair(ABC):
    """Two running zones. ``fill`` comes first, then ``release``."""

    @abstractmethod
    def fill(self, facts: Facts) -> float:
        """Put the facts into the source while nothing may travel; facts a second."""

    @abstractmethod
    def watch(self, facts: Facts) -> AbstractAsyncContextManager[Watch]:
        """Look at the target."""

    @abstractmethod
    async def release(self) -> None:
        """From now on the facts may travel."""

    @abstractmethod
    def pids(self) -> Mapping[str, frozenset[int]]:
        """The processes that belong to this side, by what they are."""


class JetStreamPair(Pair):
    """A side whose zones hold their facts in JetStream."""

    source: Place
    target: Place

    @abstractmethod
    def target_stream(self, stream: str) -> str:
        """The JetStream stream that the facts arrive in."""

    @asynccontextmanager
    async def watch(self, facts: Facts) -> AsyncIterator[Watch]:
        client = await nats.connect(self.target.url, nkeys_seed_str=self.target.seed(), allow_reconnect=False)
        try:
            yield _JetStreamWatch(client.jetstream(), self, facts)
        finally:
            await client.close()


def source_stream(stream: str) -> str:
    """The JetStream stream at the source; its names have no dots."""
    return stream.replace(".", "_")


@dataclass(frozen=True)
class _JetStreamWatch(Watch):
    jetstream: JetStreamContext
    pair: JetStreamPair
    facts: Facts

    async def arrived(self) -> int:
        return sum([await self._messages(self.pair.target_stream(stream)) for stream in self.facts.streams])

    async def _messages(self, name: str) -> int:
        try:
            return int((await self.jetstream.stream_info(name)).state.messages)
        except NotFoundError:
            return 0

    async def require_equal(self) -> None:
        for stream in self.facts.streams:
            name, count = self.pair.target_stream(stream), self.facts.of(stream)
            state = (await self.jetstream.stream_info(name)).state
            if state.messages != count:
                raise RuntimeError(f"{name} holds {state.messages} facts, {count} were published")
            for place in sample(count):
                message = await self.jetstream.get_msg(name, seq=state.first_seq + place)
                if message.data != payload(place, self.facts.size_bytes):
                    raise RuntimeError(f"{name}: fact {place} differs from what was published")


def sample(count: int) -> list[int]:
    """Which of so many facts are compared: the first, the last, and some between."""
    return sorted({round(step * (count - 1) / (SAMPLES - 1)) for step in range(SAMPLES)})
