"""Appending a zone's own facts to a local stream, which producers also publish to directly: so without a fence."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import msgspec

from bsfg.errors import BsfgError, Code, OutcomeUnknown
from bsfg.model.fact import HEADERS_BYTES_MAX, MESSAGE_ID_HEADER, PAYLOAD_BYTES_MAX, is_allowed_block
from bsfg.model.names import StreamName, is_valid_tail, physical, printable
from bsfg.substrates.jetstream_answers import refusal
from bsfg.substrates.nats_connection import NatsConnection
from bsfg.substrates.nats_frames import HEADER_FRAME_BYTES, Frame, encode_publish, status_of
from bsfg.substrates.stream_configs import LOCAL_MESSAGE_BYTES_MAX

FACTS_MAX: Final = 10_000
CALL_BYTES_MAX: Final = 16 * 1024 * 1024
"""Payloads and headers of one call together."""
RUN_FACTS_MAX: Final = 1_000
"""The most that JetStream takes in one atomic batch, and that we have unacknowledged."""
ATOMIC_FACTS_MIN: Final = 16
"""Below this a batch costs the server more than single messages: it stages each batch on disk (measured)."""
BATCH_MARKS_BYTES: Final = 256
"""More than the header lines that make a message part of a batch."""
ACK_SECONDS: Final = 10.0

_RESERVED_NAME: Final = re.compile(r"(nats|bsfg)-", re.IGNORECASE)


class NewFact(NamedTuple):
    """A fact that a local producer wants to append."""

    tail: str | None
    """What follows the stream's name in the subject; None or empty for the bare name."""
    message_id: str | None
    """The producer's id; the stream drops another message with it inside its duplicate window."""
    headers: Sequence[tuple[str, str]]
    payload: bytes


class _Ack(msgspec.Struct):
    stream: str = ""
    seq: int = 0
    duplicate: bool = False
    batch: str = ""
    count: int = 0
    error: dict[str, object] | None = None


def check_new_facts(facts: Sequence[NewFact]) -> list[bytes]:
    """The header block of each fact; ``INVALID_REQUEST``, ``TOO_LARGE`` or ``TOO_MANY`` names the one that can't be."""
    if len(facts) > FACTS_MAX:
        raise BsfgError(Code.TOO_MANY, f"append: {len(facts)} facts in one call; {FACTS_MAX} is the most")
    blocks = [_checked_block(number, NewFact(*fact)) for number, fact in enumerate(facts, start=1)]
    total = sum(len(fact[3]) for fact in facts) + sum(map(len, blocks))
    if total > CALL_BYTES_MAX:
        raise BsfgError(
            Code.TOO_LARGE, f"append: {total} bytes in one call; {CALL_BYTES_MAX} is the most", hint="split it"
        )
    return blocks


class LocalAppend:
    """One call's appends over one connection; nothing of it is used again."""

    def __init__(self, connection: NatsConnection, stream: StreamName, *, is_atomic: bool) -> None:
        self._connection = connection
        self._stream = stream
        self._name = physical(stream)
        self._is_atomic = is_atomic
        self._appended = 0
        self._first: int | None = None
        self._last: int | None = None
        self._duplicates = 0

    async def run(self, facts: Sequence[NewFact], blocks: Sequence[bytes]) -> dict[str, int | None]:
        """Append all, in order; the errors of ``LocalAccess.append_local``, with what was appended in ``details``."""
        try:
            for start, stop in _runs(facts):
                if self._fits_batch(facts[start:stop], blocks[start:stop]):
                    await self._batch(facts[start:stop], blocks[start:stop])
                else:
                    await self._singles(facts[start:stop], blocks[start:stop])
        except BsfgError as error:
            error.details |= self._result()
            raise
        return self._result()

    def _result(self) -> dict[str, int | None]:
        return {
            "appended": self._appended,
            "first_sequence": self._first,
            "last_sequence": self._last,
            "duplicates": self._duplicates,
        }

    def _fits_batch(self, facts: Sequence[NewFact], blocks: Sequence[bytes]) -> bool:
        """Whether these go in one atomic batch: enough of them, without ids, and each with room for a batch's marks."""
        return (
            self._is_atomic
            and len(facts) >= ATOMIC_FACTS_MIN
            and not facts[0][1]
            and all(
                len(fact[3]) + len(block) + BATCH_MARKS_BYTES <= LOCAL_MESSAGE_BYTES_MAX
                for fact, block in zip(facts, blocks, strict=True)
            )
        )

    async def _batch(self, facts: Sequence[NewFact], blocks: Sequence[bytes]) -> None:
        """All or none of the facts, with one acknowledgement."""
        batch_id = secrets.token_hex(12)
        frames = []
        for number, (fact, block) in enumerate(zip(facts, blocks, strict=True), start=1):
            marks = f"Nats-Batch-Id: {batch_id}\r\nNats-Batch-Sequence: {number}\r\n".encode()
            if number < len(facts):
                frames.append(encode_publish(self._subject(fact), b"", block + marks, fact[3]))
            else:
                commit = block + marks + b"Nats-Batch-Commit: 1\r\n"
        self._connection.write(b"".join(frames))
        asked = self._connection.ask(self._subject(fact).decode(), fact[3], headers=commit)
        [ack] = await self._acks([asked])
        if (ack.batch, ack.count) != (batch_id, len(facts)):
            raise OutcomeUnknown(f"append to {self._stream}: NATS acknowledged {ack.count} of {len(facts)} facts")
        self._count(ack.seq - len(facts) + 1, ack.seq, len(facts))

    async def _singles(self, facts: Sequence[NewFact], blocks: Sequence[bytes]) -> None:
        """Each fact by itself, all sent before the first acknowledgement is looked at."""
        asked = [
            self._connection.ask(self._subject(fact).decode(), fact[3], headers=block)
            for fact, block in zip(facts, blocks, strict=True)
        ]
        await self._connection.drain()
        for ack in await self._acks(asked):
            if ack.duplicate:
                self._duplicates += 1
            else:
                self._count(ack.seq, ack.seq, 1)

    async def _acks(self, asked: list[asyncio.Future[Frame]]) -> list[_Ack]:
        """Every acknowledgement; the first refusal or missing one is raised after the others were counted."""
        await asyncio.wait(asked, timeout=ACK_SECONDS)
        acks, failure = [], None
        for future in asked:
            try:
                acks.append(self._ack(future))
            except BsfgError as error:
                failure = failure or error
                future.cancel()
        if failure is not None:
            for ack in acks:
                if not ack.duplicate and not ack.batch:
                    self._count(ack.seq, ack.seq, 1)
            raise failure
        return acks

    def _ack(self, future: asyncio.Future[Frame]) -> _Ack:
        operation = f"append to {self._stream}"
        if not future.done() or future.exception() is not None:
            raise OutcomeUnknown(f"{operation}: NATS has not acknowledged every fact")
        frame = future.result()
        try:
            ack = msgspec.json.decode(frame.payload, type=_Ack) if status_of(frame) is None else _Ack()
        except msgspec.MsgspecError:
            ack = _Ack()
        if ack.error is not None:
            raise refusal(operation, ack.error)
        if ack.stream != self._name:
            raise OutcomeUnknown(f"{operation}: acknowledged by stream {printable(ack.stream)}, not {self._name}")
        return ack

    def _count(self, first: int, last: int, facts: int) -> None:
        self._appended += facts
        self._first = first if self._first is None else min(first, self._first)
        self._last = last if self._last is None else max(last, self._last)

    def _subject(self, fact: NewFact) -> bytes:
        return (f"{self._stream}.{fact[0]}" if fact[0] else str(self._stream)).encode()


def _runs(facts: Sequence[NewFact]) -> Iterator[tuple[int, int]]:
    """Stretches of facts that all have a message id, or all have none, each of at most ``RUN_FACTS_MAX``.

    One known id would refuse a whole atomic batch, so facts with ids never go in one.
    """
    start = 0
    for index in range(1, len(facts) + 1):
        is_end = index == len(facts) or index - start == RUN_FACTS_MAX
        if is_end or bool(facts[index][1]) != bool(facts[start][1]):
            yield start, index
            start = index


def _checked_block(number: int, fact: NewFact) -> bytes:
    where = f"append: fact {number}"
    if fact.tail and not is_valid_tail(fact.tail):
        raise BsfgError(
            Code.INVALID_REQUEST,
            f"{where}: {printable(fact.tail)} can't follow the stream's name in a subject",
            hint="plain words joined by single dots, without spaces and wildcards",
        )
    if len(fact.payload) > PAYLOAD_BYTES_MAX:
        raise BsfgError(
            Code.TOO_LARGE,
            f"{where}: a payload of {len(fact.payload)} bytes; {PAYLOAD_BYTES_MAX} is the most",
            hint="put it into the artifact store and append its URI",
        )
    return _header_block(where, fact)


def _header_block(where: str, fact: NewFact) -> bytes:
    reserved = [name for name, _ in fact.headers if _RESERVED_NAME.match(name)]
    if reserved:
        raise BsfgError(
            Code.INVALID_REQUEST,
            f"{where}: the header {printable(reserved[0])} is reserved",
            hint="names that begin with Nats- or Bsfg- have a meaning of their own; a message id has its own field",
        )
    pairs = list(fact.headers)
    if fact.message_id:
        pairs.append((MESSAGE_ID_HEADER, fact.message_id))
    try:
        lines = [f"{name}: {value}\r\n".encode() for name, value in pairs]
    except UnicodeEncodeError:
        raise BsfgError(Code.INVALID_REQUEST, f"{where}: a header is not Unicode text") from None
    block = b"".join(lines)
    header_bytes = len(block) + HEADER_FRAME_BYTES
    if header_bytes > HEADERS_BYTES_MAX:
        raise BsfgError(
            Code.TOO_LARGE, f"{where}: {header_bytes} bytes of headers; {HEADERS_BYTES_MAX} is the most"
        )
    if block.count(b"\n") != len(pairs) or not is_allowed_block(block):
        raise BsfgError(
            Code.INVALID_REQUEST,
            f"{where}: a header's name or value, or the message id, has characters that it can't have",
            hint="names are visible ASCII without a colon; values are one line and don't begin with a space",
        )
    return block
