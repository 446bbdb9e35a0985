"""Publishing one call's facts to a local stream, in order and without a fence, as producers publish there too.

Nothing is stored behind a fact that was refused: a batch is sent while the one before it is under way, but committed
only when that one is acknowledged. Single messages wait for each other. Only where the server has no batches are
messages in flight together, and what is stored is counted one by one.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import msgspec

from bsfg.errors import BsfgError, OutcomeUnknown, SubstrateUnavailable
from bsfg.model.names import StreamName, physical, printable
from bsfg.substrates.append_plan import BATCH_MESSAGES_MAX
from bsfg.substrates.jetstream_answers import refusal
from bsfg.substrates.nats_connection import NO_RESPONDERS, NatsConnection
from bsfg.substrates.nats_frames import HEADER_FRAME_BYTES, Frame, encode_publish, status_of
from bsfg.substrates.new_facts import Outgoing
from bsfg.substrates.stream_configs import LOCAL_MESSAGE_BYTES_MAX

RUN_FACTS_MAX: Final = BATCH_MESSAGES_MAX
"""The most that we have unacknowledged, too."""
RUN_BYTES_MAX: Final = 8 * 1024 * 1024
ATOMIC_FACTS_MIN: Final = 16
"""Below this a batch costs the server more than single messages: it stages each batch on disk (measured)."""
BATCH_MARKS_BYTES: Final = 256
"""More than the header lines that make a message part of a batch."""
ACK_SECONDS: Final = 10.0
BATCH_REFUSED_FOR_IDS: Final = frozenset({10177, 10201})
"""A server of 2.12.0 takes no message ids in a batch; a later one no batch with an id that its window knows."""


class Ack(msgspec.Struct):
    """JetStream's answer to a publish."""

    stream: str = ""
    seq: int = 0
    duplicate: bool = False
    batch: str = ""
    count: int = 0
    error: dict[str, object] | None = None


class _Batch(NamedTuple):
    id: str
    facts: Sequence[Outgoing]
    asked: asyncio.Future[Frame]


Stored = Callable[[Sequence[Outgoing], int], None]
"""Told of facts in a row that are stored, and of the first one's sequence."""

_DECODER: Final = msgspec.json.Decoder(Ack)


class Publisher:
    """One call's publishes over one connection."""

    def __init__(
        self, connection: NatsConnection, stream: StreamName, stored: Stored, *, is_atomic: bool
    ) -> None:
        self._connection = connection
        self._stream = stream
        self._name = physical(stream)
        self._stored = stored
        self.is_atomic = is_atomic
        self._pending: _Batch | None = None

    @property
    def is_closed(self) -> bool:
        return self._connection.is_closed

    @property
    def in_flight(self) -> asyncio.Future[Frame] | None:
        """The acknowledgement that is waited for; None if there is none."""
        return self._pending.asked if self._pending is not None else None

    def close(self) -> None:
        self._connection.close()

    def fits_batch(self, facts: Sequence[Outgoing]) -> bool:
        """Whether these go in one atomic batch: enough of them, and each with room for a batch's marks."""
        room = LOCAL_MESSAGE_BYTES_MAX - BATCH_MARKS_BYTES
        return (
            self.is_atomic
            and len(facts) >= ATOMIC_FACTS_MIN
            and all(len(fact.payload) + len(fact.block) <= room for fact in facts)
        )

    async def batch(self, facts: Sequence[Outgoing]) -> None:
        """All or none of the facts; on return they are under way, and everything before them is stored."""
        batch_id = secrets.token_hex(8)
        mark = f"Nats-Batch-Id: {batch_id}\r\nNats-Batch-Sequence: ".encode()
        self._connection.write(_staged(facts[:-1], mark))
        await self._connection.drain()
        await self.settle()
        last = facts[-1]
        commit = b"%b%b%d\r\nNats-Batch-Commit: 1\r\n" % (last.block, mark, len(facts))
        asked = self._connection.ask(last.subject.decode(), last.payload, headers=commit)
        self._pending = _Batch(batch_id, facts, asked)

    async def settle(self) -> None:
        """What is under way is stored, or the error says why not."""
        batch, self._pending = self._pending, None
        if batch is None:
            return
        with _Place(batch.facts):
            ack = await self._ack(batch.asked)
            if (ack.batch, ack.count) != (batch.id, len(batch.facts)):
                raise OutcomeUnknown(
                    f"append to {self._stream}: NATS acknowledged {ack.count} of {len(batch.facts)} facts"
                )
        self._stored(batch.facts, ack.seq - len(batch.facts) + 1)

    async def single(self, fact: Outgoing) -> int | None:
        """One fact by itself: None when it is stored; the sequence of another one with its id, by the server's word."""
        await self.settle()
        with _Place([fact]):
            ack = await self._ack(self._ask(fact))
        if ack.duplicate:
            return ack.seq
        self._stored([fact], ack.seq)
        return None

    async def together(self, facts: Sequence[Outgoing]) -> None:
        """Facts without ids as single messages, all sent before the first acknowledgement is looked at.

        Every one that was stored is told of, also where an error is raised: that of the first that was refused.
        """
        await self.settle()
        asked = [self._ask(fact) for fact in facts]
        failure: BsfgError | None = None
        try:
            await self._connection.drain()
            await asyncio.wait(asked, timeout=ACK_SECONDS)
            for fact, future in zip(facts, asked, strict=True):
                try:
                    with _Place([fact]):
                        ack = self._judged(future)
                    self._stored([fact], ack.seq)
                except BsfgError as error:
                    failure = failure or error
        finally:
            for future in asked:
                future.cancel()
        if failure is not None:
            raise failure

    def _ask(self, fact: Outgoing) -> asyncio.Future[Frame]:
        return self._connection.ask(fact.subject.decode(), fact.payload, headers=fact.block)

    async def _ack(self, asked: asyncio.Future[Frame]) -> Ack:
        await asyncio.wait([asked], timeout=ACK_SECONDS)
        try:
            return self._judged(asked)
        finally:
            asked.cancel()

    def _judged(self, asked: asyncio.Future[Frame]) -> Ack:
        operation = f"append to {self._stream}"
        if not asked.done() or asked.exception() is not None:
            raise OutcomeUnknown(f"{operation}: NATS has not acknowledged every fact")
        frame = asked.result()
        if (status := status_of(frame)) is not None and status[0] == NO_RESPONDERS:
            raise SubstrateUnavailable(f"{operation}: no stream takes the subject")
        try:
            ack = _DECODER.decode(frame.payload)
        except msgspec.MsgspecError:
            ack = Ack()
        if ack.error is not None:
            raise refusal(operation, ack.error)
        if ack.stream != self._name:
            raise OutcomeUnknown(
                f"{operation}: acknowledged by stream {printable(ack.stream)}, not {self._name}"
            )
        return ack


def _staged(facts: Sequence[Outgoing], mark: bytes) -> bytes:
    """The messages of a batch but for its last: they ask for no answer."""
    parts = []
    marked_bytes = HEADER_FRAME_BYTES + len(mark) + len(b"\r\n")
    for number, (_, fact_subject, block, payload, *_) in enumerate(facts, start=1):
        if block:
            parts.append(encode_publish(fact_subject, b"", b"%b%b%d\r\n" % (block, mark, number), payload))
            continue
        # The common case spelled out: this line is what an append of many small facts costs.
        header_bytes = marked_bytes + len(str(number))
        parts.append(
            b"HPUB %b %d %d\r\nNATS/1.0\r\n%b%d\r\n\r\n%b\r\n"
            % (fact_subject, header_bytes, header_bytes + len(payload), mark, number, payload)
        )
    return b"".join(parts)


class _Place:
    """Puts into an error of publishing which facts it is about; before the first of them everything is stored."""

    def __init__(self, facts: Sequence[Outgoing]) -> None:
        self._first, self._last = facts[0].number, facts[-1].number

    def __enter__(self) -> None:
        """Nothing is to be done before."""

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, BsfgError):
            error.details.setdefault("facts", [self._first, self._last])
