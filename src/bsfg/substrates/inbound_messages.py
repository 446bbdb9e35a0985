"""The bytes of an append: facts of one origin as NATS frames, each with its coordinates and the fence that it needs.

Work is done by columns, and one join a chunk. What a peer sent is checked here once more, because a line break in a
subject or a header would be a frame of the peer's own making.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import accumulate, chain, repeat
from operator import add
from typing import Any, Final, NamedTuple, TypeVar

from bsfg.errors import BsfgError, Code
from bsfg.model.fact import ORIGIN_HEADER, Fact, inbound_block, is_allowed_block
from bsfg.model.facts import Facts
from bsfg.model.moment import NANOSECONDS, format_time
from bsfg.model.names import StreamName, ZoneId, printable, tail_of
from bsfg.substrates.nats_frames import HEADER_FRAME_BYTES

PIPELINED_MESSAGES_MAX: Final = 2_000
BATCH_MESSAGES_MAX: Final = 1_000
"""The most that nats-server takes in one atomic batch; as near to it as possible is fastest."""
CHUNK_BYTES_MAX: Final = 8 * 1024 * 1024
SECONDS_END: Final = 253_402_300_800
"""The first second of the year 10000, which RFC 3339 can't spell."""
FENCE_HEADER: Final = b"Nats-Expected-Last-Sequence: "
_FRACTION_DIGITS: Final = 9
_SECOND_CHARACTERS: Final = len("1970-01-01T00:00:00.")
_BEFORE_PAYLOAD: Final = b"Z\r\n\r\n"
_END_OF_FRAME: Final = b"\r\n"
_FIXED_BYTES: Final = 1 + _SECOND_CHARACTERS + _FRACTION_DIGITS + len(b"Z\r\n")
"""Of a header, what stands between its sequence and its end."""
LENGTHS_CACHED_MAX: Final = 4_096

_K = TypeVar("_K", str, bytes)


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
        self._bytes_max = payload_bytes_max
        self._targets = _Targets(origin.stream, subject_prefix)
        self._seconds = _Seconds()
        self._coordinates = f"{ORIGIN_HEADER}: {origin.zone} {origin.stream} {origin.epoch} ".encode()

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
        rows = self._rows(Facts.of(facts))
        chunks: list[Chunk] = []
        start, count_max = 0, _COUNTS_MAX.get(strategy, singles_max)
        fits = rows.facts.content_bytes <= CHUNK_BYTES_MAX
        while start < len(facts):
            end = min(len(facts), start + count_max) if fits else _end_of_chunk(rows.facts, start, count_max)
            batch_id, reply = new_reply()
            base, part = base_sequence + start, rows.part(start, end)
            if strategy is Strategy.ATOMIC and end - start > 1:
                buffer = self._batch(part, base, batch_id.encode(), reply)
                chunks.append(Chunk(buffer, end - start, base, batch_id, 1))
            elif strategy is Strategy.PIPELINED:
                buffer = self._fenced(part, base, {end - start - 1: reply + b"0 "})
                chunks.append(Chunk(buffer, end - start, base, "", 1))
            else:
                replies = {each: b"%b%d " % (reply, each) for each in range(end - start)}
                buffer = self._fenced(part, base, replies)
                chunks.append(Chunk(buffer, end - start, base, "", end - start))
            start = end
        return chunks

    def _rows(self, facts: Facts) -> _Rows:
        """What of each fact's frame does not depend on its chunk."""
        times = decimals(facts.times) if min(facts.times) >= NANOSECONDS else [b"%010d" % t for t in facts.times]
        seconds = [text[:-_FRACTION_DIGITS] for text in times]
        return _Rows(
            facts,
            self._looked_up(self._targets, facts.subjects, facts),
            list(map(self._block, facts)) if any(facts.headers) else None,
            decimals(facts.sequences),
            self._looked_up(self._seconds, seconds, facts),
            [text[-_FRACTION_DIGITS:] for text in times],
        )

    def _looked_up(self, texts: dict[_K, bytes], keys: list[_K], facts: Facts) -> list[bytes]:
        try:
            return list(map(texts.__getitem__, keys))
        except _Unfit as unfit:
            raise self._unfit(facts[keys.index(unfit.key)], unfit.what) from None

    def _batch(self, rows: _Rows, base: int, batch_id: bytes, reply: bytes) -> bytes:
        """One atomic batch: the fence on the first message, the commit and the only reply on the last."""
        count = len(rows.facts)
        controls = _COUNTED[1 : count + 1]
        controls[0] += b"\r\n%b%d" % (FENCE_HEADER, base)
        controls[-1] += b"\r\nNats-Batch-Commit: 1"
        lead = b"Nats-Batch-Id: " + batch_id + b"\r\nNats-Batch-Sequence: "
        return self._frames(rows, lead, controls, {count - 1: reply + b"0 "})

    def _fenced(self, rows: _Rows, base: int, replies: Mapping[int, bytes]) -> bytes:
        """Messages that each have their own fence."""
        controls = decimals(range(base, base + len(rows.facts)))
        return self._frames(rows, FENCE_HEADER, controls, replies)

    def _frames(
        self, rows: _Rows, lead: bytes, controls: list[bytes], replies: Mapping[int, bytes]
    ) -> bytes:
        """The frames of all rows in one join; each header begins with ``lead`` and the row's control."""
        targets = rows.targets.copy()
        for place, reply in replies.items():
            targets[place] += reply
        targets[0] = targets[0].removeprefix(_END_OF_FRAME)
        behind_control = b"\r\n" + self._coordinates
        if rows.blocks is not None:
            controls = list(map(b"%b\r\n%b".__mod__, zip(controls, rows.blocks, strict=True)))
            behind_control = self._coordinates
        return b"".join(
            chain(
                chain.from_iterable(
                    zip(
                        targets,
                        self._lengths(rows, len(lead) + len(behind_control), controls),
                        repeat(lead),
                        controls,
                        repeat(behind_control),
                        rows.sequences,
                        rows.seconds,
                        rows.fractions,
                        repeat(_BEFORE_PAYLOAD),
                        rows.facts.payloads,
                    )
                ),
                (_END_OF_FRAME,),
            )
        )

    def _lengths(self, rows: _Rows, constant_bytes: int, controls: list[bytes]) -> list[bytes]:
        """The end of each control line, from its two lengths on, and what every header begins with."""
        fixed = HEADER_FRAME_BYTES + constant_bytes + _FIXED_BYTES
        header_bytes = [fixed + len(a) + len(b) for a, b in zip(controls, rows.sequences, strict=True)]
        totals = list(map(add, header_bytes, map(len, rows.facts.payloads)))
        if max(totals) > self._bytes_max:
            raise self._too_large(rows.facts, totals)
        return list(map(_LENGTHS.__getitem__, zip(header_bytes, totals, strict=True)))

    def _block(self, fact: Fact) -> bytes:
        if not is_allowed_block(fact.headers):
            raise self._unfit(fact, "headers that no peer may send")
        return inbound_block(fact.headers)

    def _unfit(self, fact: Fact, what: str) -> BsfgError:
        return BsfgError(
            Code.BAD_ANSWER,
            f"appending {self._origin.zone}/{self._origin.stream}: fact {fact.sequence} has {what}",
            sequence=fact.sequence,
        )

    def _too_large(self, facts: Facts, totals: list[int]) -> BsfgError:
        place = next(index for index, total in enumerate(totals) if total > self._bytes_max)
        sequence = facts.sequences[place]
        return BsfgError(
            Code.TOO_LARGE,
            f"appending {self._origin.zone}/{self._origin.stream}: fact {sequence} would be a message of "
            f"{totals[place]} bytes with our headers; NATS takes {self._bytes_max}",
            hint="raise max_payload of the NATS server",
            sequence=sequence,
        )


@dataclass(frozen=True, slots=True)
class _Rows:
    """Facts, and the texts of their frames, as columns."""

    facts: Facts
    targets: list[bytes]
    blocks: list[bytes] | None
    """None where no fact has headers."""
    sequences: list[bytes]
    seconds: list[bytes]
    fractions: list[bytes]

    def part(self, start: int, end: int) -> _Rows:
        return _Rows(
            self.facts[start:end],
            self.targets[start:end],
            None if self.blocks is None else self.blocks[start:end],
            self.sequences[start:end],
            self.seconds[start:end],
            self.fractions[start:end],
        )


class _Unfit(Exception):
    """A text that can't be made, for all facts that have this key."""

    def __init__(self, key: Any, what: str) -> None:
        super().__init__(what)
        self.key = key
        self.what = what


class _Targets(dict[str, bytes]):
    """How a frame begins behind another, by the subject at the origin: the subject is set under our prefix."""

    def __init__(self, stream: StreamName, subject_prefix: str) -> None:
        super().__init__()
        self._stream = stream
        self._prefix = subject_prefix

    def __missing__(self, fact_subject: str) -> bytes:
        tail = tail_of(fact_subject, self._stream)
        if tail is None or not tail.isprintable():
            raise _Unfit(fact_subject, f"the subject {printable(fact_subject)}, which can't be stored")
        target = f"{self._prefix}.{tail}" if tail else self._prefix
        self[fact_subject] = text = _END_OF_FRAME + f"HPUB {target} ".encode()
        return text


class _Seconds(dict[bytes, bytes]):
    """A space and the time up to the decimal point, by the digits of the seconds since 1970."""

    def __missing__(self, digits: bytes) -> bytes:
        if not digits.isdigit() or int(digits) >= SECONDS_END:
            raise _Unfit(digits, "a time that no store has given it")
        text = format_time(int(digits) * NANOSECONDS)[:_SECOND_CHARACTERS]
        self[digits] = encoded = f" {text}".encode()
        return encoded


def decimals(numbers: Iterable[int]) -> list[bytes]:
    """The numbers in decimal digits: written at once and taken apart, in half the time of one after the other."""
    text = str(list(numbers))
    return text[1:-1].encode().split(b", ")


class _Lengths(dict[tuple[int, int], bytes]):
    """The end of a control line, by the lengths of header and whole; most pages need few of them."""

    def __missing__(self, lengths: tuple[int, int]) -> bytes:
        if len(self) >= LENGTHS_CACHED_MAX:
            self.clear()
        self[lengths] = text = b"%d %d\r\nNATS/1.0\r\n" % lengths
        return text


_LENGTHS: Final = _Lengths()
_COUNTED: Final = decimals(range(BATCH_MESSAGES_MAX + 1))


def _end_of_chunk(facts: Facts, start: int, count_max: int) -> int:
    """Where the chunk that begins at ``start`` ends: by count or by bytes, with one fact at least."""
    stop = min(len(facts), start + count_max)
    sizes = map(add, map(len, facts.payloads[start:stop]), map(len, facts.headers[start:stop]))
    return max(start + 1, start + bisect_right(list(accumulate(sizes)), CHUNK_BYTES_MAX))
