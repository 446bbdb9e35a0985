"""Appending pages to one inbound stream: the hot path of the receiver, with one writer and a fence.

The server itself refuses whatever is not behind the fence, so a stale writer, a second one, and a replay change
nothing. Whatever goes wrong after a byte was written ends the connection: who appends again reads back first.

A fence is a count, and whatever somebody else stores counts too: it takes the place of a refused message, so that the
one behind that one would find its own fence met and be stored beyond a hole. A second gateway is somebody else: it may
have read its page before a fact was deleted at the source, and store as many facts that are others. Asking for an
acknowledgement of each message only tells afterwards. So nothing is sent behind a batch or a message that is not
acknowledged yet, unless nobody else can publish to the stream (:class:`Exclusivity`).
"""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Final

from bsfg.errors import Fenced, OutcomeUnknown, SubstrateUnavailable
from bsfg.model.cursor import Fence
from bsfg.model.fact import Fact
from bsfg.model.names import StreamName, ZoneId
from bsfg.substrates.append_acks import BatchTooLarge, ChunkAcks
from bsfg.substrates.append_plan import BATCH_MESSAGES_MAX, Exclusivity, plan_appends
from bsfg.substrates.inbound_messages import Encoded, Encoder, Origin, Strategy
from bsfg.substrates.nats_connection import NatsConnection
from bsfg.substrates.nats_frames import Messages
from bsfg.substrates.nats_stream_api import stream_state
from bsfg.substrates.server_version import takes_batches

__all__ = ["PageWriter", "Strategy"]

ACK_SECONDS: Final = 5.0
PAYLOAD_BYTES_DEFAULT: Final = 1024 * 1024
UNLIMITED: Final = -1
BATCH_ID_DIGITS: Final = 24


class PageWriter:
    """The one writer of one inbound stream, on a connection of its own that ``connect`` makes when one is needed.

    ``strategy`` is the one preferred; batches need a server of 2.12 and a stream that allows them, else every message
    is acknowledged by itself. ``exclusivity`` allows several chunks in flight. Appends may overlap: they are written
    in the order of their calls, and when one fails, so do those that were called before that was known.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[NatsConnection]],
        jetstream_stream: str,
        strategy: Strategy = Strategy.ATOMIC,
        *,
        exclusivity: Exclusivity = Exclusivity.NONE,
    ) -> None:
        self._connect = connect
        self._jetstream_stream = jetstream_stream
        self._preferred = strategy
        self._exclusivity = exclusivity
        self.plan = plan_appends(strategy, exclusivity, has_batches=False)
        """What is done on the present connection."""
        self._has_failed = False
        self._failures = 0
        self._batch_messages_max = self.plan.batch_messages
        self._connection: NatsConnection | None = None
        self._created = ""
        self._message_bytes_max = UNLIMITED
        self._inbox = b""
        self._chunks_written = 0
        self._in_flight: dict[int, ChunkAcks] = {}
        self._window: deque[ChunkAcks] = deque()
        self._writing = asyncio.Lock()

    async def append(
        self,
        fence: Fence,
        subject_prefix: str,
        zone: ZoneId,
        stream: StreamName,
        epoch: str,
        facts: Sequence[Fact],
    ) -> Fence:
        """Append facts of (zone, stream, epoch) in order behind the fence; returns the fence behind them.

        All are as durable on return as the server's acknowledgements are. Raises ``Fenced``, ``StoreFull`` or
        ``SubstrateUnavailable`` if nothing of what was not yet acknowledged was stored, ``OutcomeUnknown`` if that
        can't be said; a prefix of the facts may be stored after any of them. ``TOO_LARGE`` and ``BAD_ANSWER`` name,
        in ``details["sequence"]``, a fact that can't be stored; where NATS did not say it, nothing was written.
        """
        if not facts:
            return fence
        origin = Origin(zone, stream, epoch)
        try:
            return await self._append(fence, subject_prefix, origin, facts)
        except BatchTooLarge:
            self._batch_messages_max = BATCH_MESSAGES_MAX
            return await self._append(fence, subject_prefix, origin, facts)

    def close(self) -> None:
        """Close the connection; appends under way fail, and a later one opens a new connection."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    async def _append(
        self, fence: Fence, subject_prefix: str, origin: Origin, facts: Sequence[Fact]
    ) -> Fence:
        written: list[ChunkAcks] = []
        connection: NatsConnection | None = None
        failures = self._failures
        try:
            async with self._writing:
                self._check_none_failed_since(failures)
                connection = await self._ready(fence)
                for encoded in self._encode(connection, fence, subject_prefix, origin, facts):
                    await self._write(connection, encoded, written)
            for acks in written:
                await self._settle(acks)
        except BaseException as error:
            self._failures += 1
            self._has_failed = True
            if written and connection is not None:
                connection.abort("an append did not succeed")
            if written and isinstance(error, SubstrateUnavailable):
                _judge_all(written, error)
            raise
        self._has_failed = False
        return replace(fence, local_sequence=fence.local_sequence + len(facts))

    def _check_none_failed_since(self, failures: int) -> None:
        if self._failures != failures:
            raise Fenced(f"appending to {self._jetstream_stream}: the append before this one did not succeed")

    async def _ready(self, fence: Fence) -> NatsConnection:
        """A connection on which the stream was seen to be the fence's own."""
        connection = self._connection
        if connection is None or connection.is_closed:
            connection = await self._open()
        elif fence.local_sequence == 0 or fence.created != self._created:
            # A stream made again is empty too, so at 0 the sequence alone would not hold anybody back.
            await self._look(connection)
        if self._created != fence.created:
            raise Fenced(
                f"appending to {self._jetstream_stream}: the stream was created {self._created}, not {fence.created}"
            )
        return connection

    async def _open(self) -> NatsConnection:
        connection = await self._connect()
        try:
            await self._look(connection)
            inbox = connection.new_inbox()
            connection.subscribe(f"{inbox}>", self._received)
        except BaseException:
            connection.close()
            raise
        self._inbox = inbox.encode()
        self._in_flight.clear()
        self._window.clear()
        self._connection = connection
        return connection

    async def _look(self, connection: NatsConnection) -> None:
        state = await stream_state(connection, self._jetstream_stream)
        self._created = state.created
        self._message_bytes_max = int(state.config.get("max_msg_size") or UNLIMITED)
        has_batches = state.allow_atomic and takes_batches(str(connection.server_info.get("version", "")))
        plan = plan_appends(self._preferred, self._exclusivity, has_batches=has_batches)
        self.plan = replace(plan, batch_messages=min(plan.batch_messages, self._batch_messages_max))

    def _encode(
        self,
        connection: NatsConnection,
        fence: Fence,
        subject_prefix: str,
        origin: Origin,
        facts: Sequence[Fact],
    ) -> list[Encoded]:
        bytes_max = int(connection.server_info.get("max_payload", PAYLOAD_BYTES_DEFAULT))
        if self._message_bytes_max > 0:
            # Of a batch the server would only say that it is incomplete, and not which of its facts is too large.
            bytes_max = min(bytes_max, self._message_bytes_max)
        encoder = Encoder(origin, subject_prefix, bytes_max)
        numbers = iter(range(self._chunks_written, self._chunks_written + len(facts)))

        def new_reply() -> tuple[str, bytes]:
            # Of decimal digits alone, so that stored headers differ in such digits and are read back by the column.
            batch_id = f"{secrets.randbelow(10**BATCH_ID_DIGITS):0{BATCH_ID_DIGITS}d}"
            return batch_id, b"%b%d." % (self._inbox, next(numbers))

        strategy = self.plan.careful if self._has_failed else self.plan.strategy
        return encoder.chunks(
            facts, fence.local_sequence, strategy, new_reply, self.plan.messages_max(strategy)
        )

    async def _write(self, connection: NatsConnection, encoded: Encoded, written: list[ChunkAcks]) -> None:
        acks = ChunkAcks(encoded.chunk, self._jetstream_stream, connection.waiter())
        number = self._chunks_written
        self._chunks_written += 1
        self._in_flight[number] = acks
        self._window.append(acks)
        acks.arrived.add_done_callback(lambda _: self._in_flight.pop(number, None))
        written.append(acks)
        for piece in encoded.pieces:
            connection.write(piece)
            await connection.drain()
        while len(self._window) >= self.plan.chunks_in_flight:
            await self._settle(self._window.popleft())

    async def _settle(self, acks: ChunkAcks) -> None:
        """Wait for a chunk's answers and judge them."""
        try:
            async with asyncio.timeout(ACK_SECONDS):
                await asyncio.shield(acks.arrived)
        except TimeoutError:
            pass
        acks.judge()

    def _received(self, messages: Messages) -> None:
        for frame in messages:
            chunk_number, _, number = frame.subject[len(self._inbox) :].partition(b".")
            if chunk_number.isdigit() and number.isdigit():
                acks = self._in_flight.get(int(chunk_number))
                if acks is not None:
                    acks.take(int(number), frame)


def _judge_all(written: list[ChunkAcks], error: SubstrateUnavailable) -> None:
    """The connection broke: raise what the answers that did come say, or that the outcome is unknown."""
    for acks in written:
        try:
            acks.judge()
        except OutcomeUnknown:
            raise OutcomeUnknown(
                f"{error.message}, before NATS had acknowledged all that was appended"
            ) from None
