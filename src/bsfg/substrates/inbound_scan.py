"""Reading an inbound stream from one place to another as its origin's facts, page by page and as fast as it goes.

For ``bsfg verify`` and ``bsfg repair``.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import Final

from bsfg.errors import SubstrateUnavailable
from bsfg.model.cursor import LinkName
from bsfg.model.facts import NO_FACTS
from bsfg.model.names import inbound_physical
from bsfg.substrates.control import Control
from bsfg.substrates.held_pages import HeldPage, PageReading, joined, places_of
from bsfg.substrates.nats_connection import NatsConnection
from bsfg.substrates.nats_frames import Messages
from bsfg.substrates.pull_consumer import OVER_BYTES, ConsumerLost, PullConsumer
from bsfg.tasks import end_tasks

PAGE_FACTS: Final = 10_000
PAGE_BYTES: Final = 4 * 1024 * 1024
ATTEMPTS_MAX: Final = 3
RETRY_SECONDS: Final = 0.1

Look = Callable[[Messages, int], HeldPage]
"""Messages in a row, without those behind a local sequence."""


@dataclass(frozen=True, slots=True)
class InboundState:
    """An inbound stream at one moment."""

    created: str
    first_sequence: int
    last_sequence: int
    messages: int
    bytes: int


class InboundScan:
    """One generation of one link, and the epoch whose facts are wanted."""

    def __init__(
        self,
        control: Control,
        connect: Callable[[], Awaitable[NatsConnection]],
        link: LinkName,
        generation: int,
        epoch: str,
        earlier_epochs: Collection[str] = (),
    ) -> None:
        self._control = control
        self._connect = connect
        self._name = inbound_physical(link.peer, link.stream, generation)
        self._reading = PageReading(link, generation, epoch, frozenset(earlier_epochs))

    async def state(self) -> InboundState:
        """The stream now; ``NOT_FOUND`` if it does not exist."""
        found = await self._control.api(f"STREAM.INFO.{self._name}")
        state = found["state"]
        return InboundState(
            found["created"], state["first_seq"], state["last_seq"], state["messages"], state["bytes"]
        )

    async def first_fact(self) -> int | None:
        """The origin's sequence of the first fact of the epoch that is held; None if none is."""
        state = await self.state()
        if not state.messages:
            return None
        async with contextlib.aclosing(self.pages(state.first_sequence, state.last_sequence)) as pages:
            async for page in pages:
                if page.facts:
                    return page.facts.sequences[0]
        return None

    def pages(
        self, first: int, last: int, take: Callable[[HeldPage], None] | None = None
    ) -> AsyncGenerator[HeldPage, None]:
        """Every message between two local sequences, both included, in the order in which they lie.

        The next page is on its way while one is being looked at; ``take`` is called with each in the thread that
        looked at it. Raises ``SubstrateUnavailable`` if the store is away, and what ``take`` raises.
        """

        def look(run: Messages, last: int) -> HeldPage:
            page = self._reading.page(run, last)
            if take is not None:
                take(page)
            return page

        return self._pages(first, last, look)

    def copies(self, first: int, last: int) -> AsyncGenerator[HeldPage, None]:
        """As :meth:`pages`, with the times at which the origin stored the facts."""
        return self._pages(first, last, self._reading.copies)

    async def _pages(self, first: int, last: int, look: Look) -> AsyncGenerator[HeldPage, None]:
        connection = await self._connect()
        try:
            attempt, position = 0, first - 1
            while position < last:
                try:
                    async for page in self._read(connection, position, last, look):
                        attempt, position = 0, page.through
                        yield page
                    return
                except ConsumerLost as lost:
                    attempt += 1
                    if attempt == ATTEMPTS_MAX:
                        raise SubstrateUnavailable(f"reading {self._name}: {lost}") from None
                    await asyncio.sleep(RETRY_SECONDS)
        finally:
            connection.close()

    async def _read(
        self, connection: NatsConnection, position: int, last: int, look: Look
    ) -> AsyncGenerator[HeldPage, None]:
        stream = self._reading.link.stream
        consumer = await _RunConsumer.create(connection, self._name, stream, position + 1)
        assert isinstance(consumer, _RunConsumer)
        coming = asyncio.ensure_future(consumer.next_messages(last - position))
        try:
            while messages := await coming:
                _, reached, _ = places_of(messages[-1])
                if reached < last:
                    coming = asyncio.ensure_future(consumer.next_messages(last - reached))
                for run in messages:
                    yield await asyncio.to_thread(look, run, last)
                if reached >= last:
                    return
            await consumer.check_nothing_lost()
            yield HeldPage(NO_FACTS, through=last)
        finally:
            await end_tasks(coming)
            consumer.delete()


class _RunConsumer(PullConsumer):
    """A pull consumer that gives messages as they are."""

    async def next_messages(self, count: int) -> list[Messages]:
        """The next messages, at least one if there is one; :class:`ConsumerLost` if any was lost on its way.

        All of one pull in one piece, or in a few where some have headers and others have none.
        """
        limits = {"batch": min(count, PAGE_FACTS), "max_bytes": PAGE_BYTES}
        runs, status = await self._exchange(limits, 0.0)
        if not runs and status is not None and status[1] == OVER_BYTES:
            runs, status = await self._exchange({"batch": 1}, 0.0)
        self._judge(status)
        if runs:
            self._consumer_sequence += self._came
            if places_of(runs[-1]).consumer_sequence != self._consumer_sequence:
                raise ConsumerLost("a message was lost on its way from the server")
        return joined(runs)


