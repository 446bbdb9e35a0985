"""Reading an exported stream page by page: the hot path of the sender.

A pull consumer without acknowledgements, kept as long as its position goes on, is the fastest way out of JetStream. It
forgets what it delivered, so this module proves that nothing was lost on the way: consumer sequences are consecutive,
and an empty read counts only when the consumer itself has delivered exactly what arrived.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Awaitable, Callable
from typing import Final

from bsfg.errors import BsfgError, SubstrateUnavailable
from bsfg.model.fact import Fact
from bsfg.model.facts import Facts
from bsfg.model.names import StreamName
from bsfg.model.page import LogSlice, PageLimits
from bsfg.substrates.epochs import bound_epoch
from bsfg.substrates.nats_connection import NatsConnection
from bsfg.substrates.nats_frames import Frame
from bsfg.substrates.nats_stream_api import (
    StoredMessage,
    StreamState,
    last_message,
    message_at,
    message_from,
    parse_stream_state,
    stream_info_subject,
    stream_state,
)
from bsfg.substrates.pull_consumer import ConsumerLost, PullConsumer, Pulled

__all__ = [
    "PageReader",
    "StoredMessage",
    "StreamState",
    "last_message",
    "message_at",
    "message_from",
    "stream_state",
]

ATTEMPTS_MAX: Final = 3
RETRY_SECONDS: Final = 0.05
_NOTHING: Final = Facts([], [], [], [], [])


class PageReader:
    """Pages of one stream for one reader; its connection is its own, made by ``connect`` when one is needed.

    Reads of one reader run one after the other. One fact behind each page is read ahead, so that the page can say
    when it was stored; it opens the next page.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[NatsConnection]],
        jetstream_stream: str,
        stream: StreamName,
    ) -> None:
        self._connect = connect
        self._jetstream_stream = jetstream_stream
        self._stream = stream
        self._connection: NatsConnection | None = None
        self._consumer: PullConsumer | None = None
        self._delivered = 0
        self._scanned = 0
        self._ahead: Fact | None = None
        self._ahead_pending = 0
        self._turn = asyncio.Lock()
        self.created = ""
        """``created`` of the JetStream stream that the last slice came from: the history that its facts belong to."""

    async def read(self, after: int, limits: PageLimits) -> LogSlice:
        """Facts behind ``after`` in order, at least one if there is one, waiting up to the limit for the first.

        Raises ``NOT_FOUND`` if the stream does not exist, ``SubstrateUnavailable`` when the store is away. Cancelling
        is safe at any moment: the consumer is given up, and the next read begins where it is told to.
        """
        async with self._turn:
            for attempt in range(ATTEMPTS_MAX):
                try:
                    return await self._read(after, limits)
                except ConsumerLost as lost:
                    self._give_up()
                    if attempt == ATTEMPTS_MAX - 1:
                        raise SubstrateUnavailable(f"reading {self._stream}: {lost}") from None
                except SubstrateUnavailable:
                    self.close()
                    raise
                except BaseException:
                    self._give_up()
                    raise
                await asyncio.sleep(RETRY_SECONDS * (1 + secrets.randbelow(100) / 100))
        raise AssertionError("the last attempt returns or raises")

    def close(self) -> None:
        """Give the consumer back and close the connection; a later read opens both again."""
        self._give_up()
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    async def _read(self, after: int, limits: PageLimits) -> LogSlice:
        before = self._consumer
        consumer = await self._positioned(after)
        held = Facts.of([self._ahead] if self._ahead is not None else [])
        held_pending, self._ahead = self._ahead_pending, None
        room = limits.bytes - sum(_size(fact) for fact in held)
        asked = _AskedState(consumer.connection, self._jetstream_stream)
        try:
            pulled = Pulled(_NOTHING, held_pending)
            if room > 0:
                wait_seconds = 0.0 if held else limits.wait_seconds
                pulled = await consumer.pull(
                    limits.facts + 1 - len(held), room, wait_seconds, at_least_one=not held
                )
                if held and not pulled.facts and not pulled.is_end:
                    pulled = Pulled(_NOTHING, held_pending)
            state = await asked.state()
        finally:
            asked.cancel()
        if state.created != self.created:
            raise ConsumerLost("the stream was made again")
        if not held and not pulled.facts:
            pulled = await consumer.pull(limits.facts + 1, limits.bytes, 0.0)
            if not pulled.facts:
                return await self._nothing(consumer, after, state.last_seq)
        facts = Facts.joined([held, pulled.facts]) if held else pulled.facts
        # A consumer ends with its stream and, being in memory, with its server: one that has answered proves both.
        is_continuous = consumer is before and room > 0
        return await self._slice(consumer, facts, pulled.pending, limits, state, is_continuous=is_continuous)

    async def _positioned(self, after: int) -> PullConsumer:
        """The consumer that stands behind ``after``: the one we have if it does, else a new one."""
        consumer = self._consumer
        if consumer is not None and not consumer.connection.is_closed:
            behind = self._ahead.sequence - 1 if self._ahead is not None else self._scanned
            if self._delivered <= after <= behind:
                return consumer
        self._give_up()
        connection = await self._connected()
        state = await stream_state(connection, self._jetstream_stream)
        self.created = state.created
        self._consumer = await PullConsumer.create(
            connection, self._jetstream_stream, self._stream, after + 1
        )
        self._delivered = self._scanned = after
        return self._consumer

    async def _connected(self) -> NatsConnection:
        if self._connection is None or self._connection.is_closed:
            self._connection = await self._connect()
        return self._connection

    async def _nothing(self, consumer: PullConsumer, after: int, last_seq: int) -> LogSlice:
        """The empty slice: the scan reached the last sequence that was known before the pull came back empty."""
        await consumer.check_nothing_lost()
        self._delivered = after
        self._scanned = max(after, last_seq)
        return LogSlice(_NOTHING, self._scanned, last_seq, 0, None)

    async def _slice(
        self,
        consumer: PullConsumer,
        facts: Facts,
        pending: int,
        limits: PageLimits,
        state: StreamState,
        *,
        is_continuous: bool,
    ) -> LogSlice:
        if len(facts) > limits.facts or (pending and len(facts) > 1):
            self._ahead, self._ahead_pending, facts = facts[-1], pending, facts[:-1]
            pending += 1
        self._delivered = self._scanned = facts[-1].sequence
        next_time = self._ahead.time if self._ahead is not None else None
        if pending and next_time is None:
            following = await message_from(consumer.connection, self._jetstream_stream, self._scanned + 1)
            next_time = following.time if following is not None else None
            pending = pending if following is not None else 0
        head = max(state.last_seq, self._scanned, self._ahead.sequence if self._ahead is not None else 0)
        return LogSlice(
            facts, self._scanned, head, pending, next_time, is_continuous, _reader(consumer, state)
        )

    def _give_up(self) -> None:
        self._ahead = None
        if self._consumer is not None:
            self._consumer.delete()
            self._consumer = None


class _AskedState:
    """The stream's state, asked for beside a pull and read while that still waits for facts."""

    def __init__(self, connection: NatsConnection, jetstream_stream: str) -> None:
        self._connection = connection
        self._jetstream_stream = jetstream_stream
        self._nats_subject = stream_info_subject(jetstream_stream)
        self._state: StreamState | None = None
        self._asked = connection.ask(self._nats_subject)
        self._asked.add_done_callback(self._answered)

    async def state(self) -> StreamState:
        """The state; errors are those of ``stream_state``."""
        if self._state is None:
            frame = await self._connection.answer(self._asked, self._nats_subject)
            self._state = parse_stream_state(frame, self._jetstream_stream)
        return self._state

    def cancel(self) -> None:
        """Nobody wants to know any more."""
        self._asked.cancel()

    def _answered(self, asked: asyncio.Future[Frame]) -> None:
        if not asked.cancelled() and asked.exception() is None:
            # What is wrong with an answer is said to whoever waits for it.
            with contextlib.suppress(BsfgError):
                self._state = parse_stream_state(asked.result(), self._jetstream_stream)


def _reader(consumer: PullConsumer, state: StreamState) -> str:
    epoch = bound_epoch({"config": state.config, "created": state.created})
    return "" if epoch is None else f"{consumer.name} {epoch}"


def _size(fact: Fact) -> int:
    return len(fact.subject) + len(fact.headers) + len(fact.payload)
