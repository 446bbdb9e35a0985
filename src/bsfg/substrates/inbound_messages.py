"""The bytes of an append: facts of one origin as NATS frames, each with its coordinates and the fence that it needs.

One pass over the facts and one join a chunk. What a peer sent is checked here once more, because a line break in a
subject or a header would be a frame of the peer's own making.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, NamedTuple

from bsfg.errors import BsfgError, Code
from bsfg.model.fact import ORIGIN_HEADER, Fact, inbound_block, is_allowed_block
from bsfg.model.moment import NANOSECONDS, format_time
from bsfg.model.names import StreamName, ZoneId, printable, tail_of
from bsfg.substrates.nats_frames import HEADER_FRAME_BYTES

PIPELINED_MESSAGES_MAX: Final = 2_000
BATCH_MESSAGES_MAX: Final = 1_000
"""The most that nats-server takes in one atomic batch; as near to it as possible is fastest."""
CHUNK_BYTES_MAX: Final = 8 * 1024 * 1024
SECONDS_END: Final = 253_402_300_800
"""The first second of the year 10000, which RFC 3339 can't spell."""
FENCE_HEADER: Final = b"Nats-Expected-Last-Sequence: %d\r\n"


class Strategy(Enum):
    """How the server is made to store a chunk as a prefix.

    ATOMIC: all at once. EACH: message by message, each behind its own fence and with its own acknowledgement.
    PIPELINED: each behind its own fence, and one acknowledgement for the last; that proves the whole only where nobody
    else can publish (design, decision 3), and no fsync is shared, so it is for ``lazy`` alone.
    """

    ATOMIC = "atomic"
    EACH = "each"
    PIPELINED = "pipelined"


_COUNTS_MAX: Final = {
    Strategy.ATOMIC: BATCH_MESSAGES_MAX,
    Strategy.PIPELINED: PIPELINED_MESSAGES_MAX,
}


class Origin(NamedTuple):
    """Where the facts of an append come from."""

    zone: ZoneId
    stream: StreamName
    epoch: str


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some facts in a row as frames; ``batch_id`` is empty unless they are one atomic batch."""

    buffer: bytes
    facts: int
    base_sequence: int
    """The stream's last sequence before the chunk."""
    batch_id: str
    replies: int
    """How many acknowledgements the server owes: one for the whole, or one a fact."""


class Encoder:
    """Encodes the facts of one append under one subject prefix; ``TOO_LARGE`` or ``BAD_ANSWER`` names the culprit."""

    def __init__(self, origin: Origin, subject_prefix: str, payload_bytes_max: int) -> None:
        if not origin.epoch or not origin.epoch.isprintable() or " " in origin.epoch:
            raise BsfgError(Code.BAD_ANSWER, f"appending: {printable(origin.epoch)} can't be an epoch")
        self._origin = origin
        self._prefix = subject_prefix
        self._bytes_max = payload_bytes_max
        self._subjects: dict[str, bytes] = {}
        coordinates = f"{ORIGIN_HEADER}: {origin.zone} {origin.stream} {origin.epoch} "
        self._coordinates = coordinates.encode().replace(b"%", b"%%") + b"%d %b%09dZ\r\n"
        self._second = -1
        self._second_text = b""

    def chunks(
        self,
        facts: Sequence[Fact],
        base_sequence: int,
        strategy: Strategy,
        new_reply: Callable[[], tuple[str, bytes]],
        singles_max: int = 1,
    ) -> list[Chunk]:
        """The facts as chunks, in order; ``new_reply`` gives each chunk its id and its reply subject.

        ``singles_max`` is how many messages a chunk may hold that is no atomic batch. Nothing has been sent when this
        raises.
        """
        chunks: list[Chunk] = []
        start, count_max = 0, _COUNTS_MAX.get(strategy, singles_max)
        while start < len(facts):
            end = _end_of_chunk(facts, start, count_max)
            batch_id, reply = new_reply()
            base = base_sequence + start
            if strategy is Strategy.ATOMIC and end - start > 1:
                buffer = self._batch(facts[start:end], base, batch_id.encode(), reply)
                chunks.append(Chunk(buffer, end - start, base, batch_id, 1))
            elif strategy is Strategy.PIPELINED:
                buffer = self._pipelined(facts[start:end], base, reply)
                chunks.append(Chunk(buffer, end - start, base, "", 1))
            else:
                buffer = self._singles(facts[start:end], base, reply)
                chunks.append(Chunk(buffer, end - start, base, "", end - start))
            start = end
        return chunks

    def _batch(self, facts: Sequence[Fact], base: int, batch_id: bytes, reply: bytes) -> bytes:
        """One atomic batch: the fence on the first message, the commit and the only reply on the last."""
        parts: list[bytes] = []
        marked = b"Nats-Batch-Id: " + batch_id + b"\r\nNats-Batch-Sequence: %d\r\n"
        last = len(facts)
        for number, fact in enumerate(facts, start=1):
            control = marked % number
            if number == 1:
                control = FENCE_HEADER % base + control
            if number == last:
                self._add(parts, fact, control + b"Nats-Batch-Commit: 1\r\n", b" " + reply + b"0")
            else:
                self._add(parts, fact, control, b"")
        return b"".join(parts)

    def _pipelined(self, facts: Sequence[Fact], base: int, reply: bytes) -> bytes:
        """Messages that each have their own fence; the last has the only reply."""
        parts: list[bytes] = []
        for number, fact in enumerate(facts[:-1]):
            self._add(parts, fact, FENCE_HEADER % (base + number), b"")
        self._add(parts, facts[-1], FENCE_HEADER % (base + len(facts) - 1), b" " + reply + b"0")
        return b"".join(parts)

    def _singles(self, facts: Sequence[Fact], base: int, reply: bytes) -> bytes:
        """Messages that each have their own fence and their own reply."""
        parts: list[bytes] = []
        for number, fact in enumerate(facts):
            self._add(parts, fact, FENCE_HEADER % (base + number), b" %b%d" % (reply, number))
        return b"".join(parts)

    def _add(self, parts: list[bytes], fact: Fact, control: bytes, reply: bytes) -> None:
        sequence, fact_subject, time, block, payload = fact
        if block:
            block = self._block(fact)
        second, fraction = divmod(time, NANOSECONDS)
        if second != self._second:
            self._turn_second(fact, second)
        headers = control + block + self._coordinates % (sequence, self._second_text, fraction)
        header_bytes = len(headers) + HEADER_FRAME_BYTES
        total = header_bytes + len(payload)
        if total > self._bytes_max:
            raise self._too_large(fact, total)
        nats_subject = self._subjects.get(fact_subject) or self._subject(fact)
        parts.append(
            b"HPUB %b%b %d %d\r\nNATS/1.0\r\n%b\r\n" % (nats_subject, reply, header_bytes, total, headers)
        )
        parts.append(payload)
        parts.append(b"\r\n")

    def _subject(self, fact: Fact) -> bytes:
        """The origin's subject under our prefix, kept for the next fact that has it."""
        tail = tail_of(fact.subject, self._origin.stream)
        if tail is None or not tail.isprintable():
            raise self._unfit(fact, f"the subject {printable(fact.subject)}, which can't be stored")
        self._subjects[fact.subject] = encoded = (f"{self._prefix}.{tail}" if tail else self._prefix).encode()
        return encoded

    def _block(self, fact: Fact) -> bytes:
        if not is_allowed_block(fact.headers):
            raise self._unfit(fact, "headers that no peer may send")
        return inbound_block(fact.headers)

    def _turn_second(self, fact: Fact, second: int) -> None:
        if not 0 <= second < SECONDS_END:
            raise self._unfit(fact, "a time that no store has given it")
        self._second, self._second_text = second, format_time(second * NANOSECONDS)[:20].encode()

    def _unfit(self, fact: Fact, what: str) -> BsfgError:
        return BsfgError(
            Code.BAD_ANSWER,
            f"appending {self._origin.zone}/{self._origin.stream}: fact {fact.sequence} has {what}",
            sequence=fact.sequence,
        )

    def _too_large(self, fact: Fact, total: int) -> BsfgError:
        return BsfgError(
            Code.TOO_LARGE,
            f"appending {self._origin.zone}/{self._origin.stream}: fact {fact.sequence} would be a message of {total} "
            f"bytes with our headers; NATS takes {self._bytes_max}",
            hint="raise max_payload of the NATS server",
            sequence=fact.sequence,
        )


def _end_of_chunk(facts: Sequence[Fact], start: int, count_max: int) -> int:
    """Where the chunk that begins at ``start`` ends: by count or by bytes, with one fact at least."""
    stop, total = min(len(facts), start + count_max), 0
    for index in range(start, stop):
        total += len(facts[index].payload) + len(facts[index].headers)
        if total > CHUNK_BYTES_MAX and index > start:
            return index
    return stop
