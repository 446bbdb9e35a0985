"""The bytes of an append: facts of one origin as NATS frames, each with its coordinates and the fence that it needs.

Work is done by columns, and frames are joined as they are sent, some at a time: what is joined is still in the
processor's cache when it is sent, and an append holds no second copy of its facts. What a peer sent is checked here
once more, because a line break in a subject or a header would be a frame of the peer's own making.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import accumulate, chain, islice
from operator import add
from typing import Final, NamedTuple

from bsfg.errors import BsfgError, Code
from bsfg.model.fact import ORIGIN_HEADER, Fact, inbound_block, is_allowed_block
from bsfg.model.facts import Facts
from bsfg.model.names import StreamName, ZoneId, printable, tail_of
from bsfg.substrates.nats_frames import HEADER_FRAME_BYTES
from bsfg.substrates.number_texts import UnspeltTime, decimals, time_texts

CHUNK_BYTES_MAX: Final = 8 * 1024 * 1024
PIECE_BYTES: Final = 256 * 1024
"""About what is joined at once."""
FENCE_HEADER: Final = b"Nats-Expected-Last-Sequence: "
_BEFORE_PAYLOAD: Final = b"\r\n\r\n"
_END_OF_FRAME: Final = b"\r\n"
_TIME_BYTES: Final = len("1970-01-01T00:00:00.000000000Z\r\n")
"""Of a header, what stands behind its sequence and a space."""
_FIXED_HEADER_BYTES: Final = HEADER_FRAME_BYTES + _TIME_BYTES


class Strategy(Enum):
    """How the server is made to store a chunk as a prefix.

    ATOMIC: all at once. EACH: message by message, each behind its own fence and with its own acknowledgement.
    PIPELINED: each behind its own fence, and one acknowledgement for the last; that proves the whole only where nobody
    else can publish (design, decision 3), and no fsync is shared, so it is for ``lazy`` alone.
    """

    ATOMIC = "atomic"
    EACH = "each"
    PIPELINED = "pipelined"


class Origin(NamedTuple):
    """Where the facts of an append come from."""

    zone: ZoneId
    stream: StreamName
    epoch: str


@dataclass(frozen=True, slots=True)
class Chunk:
    """Some facts in a row, stored as a prefix; ``batch_id`` is empty unless they are one atomic batch."""

    facts: int
    base_sequence: int
    """The stream's last sequence before the chunk."""
    batch_id: str
    replies: int
    """How many acknowledgements the server owes: one for the whole, or one a fact."""


class Encoded(NamedTuple):
    """A chunk, and its frames: some whole ones at a time, to be taken once."""

    chunk: Chunk
    pieces: Iterator[bytes]


class Encoder:
    """Encodes the facts of one append under one subject prefix; ``TOO_LARGE`` or ``BAD_ANSWER`` names the culprit."""

    def __init__(self, origin: Origin, subject_prefix: str, payload_bytes_max: int) -> None:
        if not origin.epoch or not origin.epoch.isprintable() or " " in origin.epoch:
            raise BsfgError(Code.BAD_ANSWER, f"appending: {printable(origin.epoch)} can't be an epoch")
        self._origin = origin
        self._bytes_max = payload_bytes_max
        self._targets = _Targets(origin.stream, subject_prefix)
        self._coordinates = f"{ORIGIN_HEADER}: {origin.zone} {origin.stream} {origin.epoch} ".encode()

    def chunks(
        self,
        facts: Sequence[Fact],
        base_sequence: int,
        strategy: Strategy,
        new_reply: Callable[[], tuple[str, bytes]],
        messages_max: int,
    ) -> list[Encoded]:
        """The facts as chunks, in order; ``new_reply`` gives each chunk its id and its reply subject.

        ``messages_max`` is how many messages a chunk may hold. Nothing has been sent when this
        raises.
        """
        rows = self._rows(Facts.of(facts))
        chunks: list[Encoded] = []
        start = 0
        fits = rows.facts.content_bytes <= CHUNK_BYTES_MAX
        while start < len(facts):
            end = min(len(facts), start + messages_max) if fits else _end_of_chunk(rows.facts, start, messages_max)
            batch_id, reply = new_reply()
            base, part = base_sequence + start, rows.part(start, end)
            if strategy is Strategy.ATOMIC and end - start > 1:
                pieces = self._batch(part, base, batch_id.encode(), reply)
                chunk = Chunk(end - start, base, batch_id, 1)
            elif strategy is Strategy.PIPELINED:
                pieces = self._fenced(part, base, {end - start - 1: reply + b"0 "})
                chunk = Chunk(end - start, base, "", 1)
            else:
                replies = {each: b"%b%d " % (reply, each) for each in range(end - start)}
                pieces = self._fenced(part, base, replies)
                chunk = Chunk(end - start, base, "", end - start)
            chunks.append(Encoded(chunk, pieces))
            start = end
        return chunks

    def _rows(self, facts: Facts) -> _Rows:
        """What of each fact's frame does not depend on its chunk."""
        try:
            targets = list(map(self._targets.__getitem__, facts.subjects))
            times = time_texts(facts.times, _BEFORE_PAYLOAD)
        except _UnfitSubject as unfit:
            raise self._unfit(facts[facts.subjects.index(unfit.fact_subject)], str(unfit)) from None
        except UnspeltTime as unspelt:
            fact = facts[facts.times.index(unspelt.time)]
            raise self._unfit(fact, "a time that no store has given it") from None
        return _Rows(
            facts,
            targets,
            list(map(self._block, facts)) if any(facts.headers) else None,
            decimals(facts.sequences, self._coordinates, b" "),
            times,
        )

    def _batch(self, rows: _Rows, base: int, batch_id: bytes, reply: bytes) -> Iterator[bytes]:
        """One atomic batch: the fence on the first message, the commit and the only reply on the last."""
        count = len(rows.facts)
        controls = decimals(
            list(range(1, count + 1)), b"Nats-Batch-Id: " + batch_id + b"\r\nNats-Batch-Sequence: ", b"\r\n"
        )
        controls[0] += b"%b%d\r\n" % (FENCE_HEADER, base)
        controls[-1] += b"Nats-Batch-Commit: 1\r\n"
        return self._frames(rows, controls, {count - 1: reply + b"0 "})

    def _fenced(self, rows: _Rows, base: int, replies: Mapping[int, bytes]) -> Iterator[bytes]:
        """Messages that each have their own fence."""
        controls = decimals(list(range(base, base + len(rows.facts))), FENCE_HEADER, b"\r\n")
        return self._frames(rows, controls, replies)

    def _frames(self, rows: _Rows, controls: list[bytes], replies: Mapping[int, bytes]) -> Iterator[bytes]:
        """The frames of all rows; each header begins with the row's control line."""
        if rows.blocks is not None:
            controls = list(map(add, controls, rows.blocks))
        lines = self._lines(rows, controls)
        for place, reply in replies.items():
            target = rows.targets[place]
            lines[place] = target + reply + lines[place][len(target) :]
        count = len(lines)
        rows_at_once = max(1, count * PIECE_BYTES // max(1, rows.facts.content_bytes))
        for start in range(0, count, rows_at_once):
            lines[start] = lines[start].removeprefix(_END_OF_FRAME)
        return _joined((lines, controls, rows.origins, rows.times, rows.facts.payloads), rows_at_once)

    def _lines(self, rows: _Rows, controls: list[bytes]) -> list[bytes]:
        """The control line of each frame behind another, without a reply, and what every header begins with."""
        targets, payloads = rows.targets, list(map(len, rows.facts.payloads))
        headers = list(map(add, map(len, controls), map(len, rows.origins)))
        if _FIXED_HEADER_BYTES + max(headers) + max(payloads) > self._bytes_max:
            self._check_sizes(rows.facts, headers, payloads)
        count, target, header = len(payloads), targets[-1], headers[-1]
        if targets.count(target) == count and headers.count(header) == count:
            alike = _AlikeLines(target, header)
            return list(map(alike.__getitem__, payloads))
        return list(map(_Lines().__getitem__, zip(targets, headers, payloads, strict=True)))

    def _check_sizes(self, facts: Facts, headers: list[int], payloads: list[int]) -> None:
        for sequence, total in zip(facts.sequences, map(add, headers, payloads), strict=True):
            if total + _FIXED_HEADER_BYTES > self._bytes_max:
                raise self._too_large(sequence, total + _FIXED_HEADER_BYTES)

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

    def _too_large(self, sequence: int, total: int) -> BsfgError:
        return BsfgError(
            Code.TOO_LARGE,
            f"appending {self._origin.zone}/{self._origin.stream}: fact {sequence} would be a message of "
            f"{total} bytes with our headers; NATS takes {self._bytes_max}",
            hint="raise max_payload of the NATS server",
            sequence=sequence,
        )


@dataclass(frozen=True, slots=True)
class _Rows:
    """Facts, and the texts of their frames, as columns."""

    facts: Facts
    targets: list[bytes]
    """How each frame begins behind another."""
    blocks: list[bytes] | None
    """None where no fact has headers."""
    origins: list[bytes]
    """The header of each fact's coordinates, up to its time."""
    times: list[bytes]
    """And from there to the payload."""

    def part(self, start: int, end: int) -> _Rows:
        return _Rows(
            self.facts[start:end],
            self.targets[start:end],
            None if self.blocks is None else self.blocks[start:end],
            self.origins[start:end],
            self.times[start:end],
        )


class _UnfitSubject(Exception):
    """A subject that can't be stored."""

    def __init__(self, fact_subject: str) -> None:
        super().__init__(f"the subject {printable(fact_subject)}, which can't be stored")
        self.fact_subject = fact_subject


class _Targets(dict[str, bytes]):
    """How a frame begins behind another, by the subject at the origin: the subject is set under our prefix."""

    def __init__(self, stream: StreamName, subject_prefix: str) -> None:
        super().__init__()
        self._stream = stream
        self._prefix = subject_prefix

    def __missing__(self, fact_subject: str) -> bytes:
        tail = tail_of(fact_subject, self._stream)
        if tail is None or not tail.isprintable():
            raise _UnfitSubject(fact_subject)
        target = f"{self._prefix}.{tail}" if tail else self._prefix
        self[fact_subject] = text = _END_OF_FRAME + f"HPUB {target} ".encode()
        return text


class _AlikeLines(dict[int, bytes]):
    """Control lines of messages with one subject and headers of one length, by the length of the payload."""

    def __init__(self, target: bytes, header: int) -> None:
        super().__init__()
        self._target, self._header = target, header

    def __missing__(self, payload: int) -> bytes:
        self[payload] = text = _control_line(self._target, self._header, payload)
        return text


class _Lines(dict[tuple[bytes, int, int], bytes]):
    """Control lines by subject, length of the header and length of the payload; most pages need few of them."""

    def __missing__(self, frame: tuple[bytes, int, int]) -> bytes:
        self[frame] = text = _control_line(*frame)
        return text


def _joined(columns: tuple[list[bytes], ...], rows_at_once: int) -> Iterator[bytes]:
    rows = zip(*columns, strict=True)
    while parts := list(chain.from_iterable(islice(rows, rows_at_once))):
        parts.append(_END_OF_FRAME)
        yield b"".join(parts)


def _control_line(target: bytes, header: int, payload: int) -> bytes:
    header += _FIXED_HEADER_BYTES
    return b"%b%d %d\r\nNATS/1.0\r\n" % (target, header, header + payload)


def _end_of_chunk(facts: Facts, start: int, count_max: int) -> int:
    """Where the chunk that begins at ``start`` ends: by count or by bytes, with one fact at least."""
    stop = min(len(facts), start + count_max)
    sizes = map(add, map(len, facts.payloads[start:stop]), map(len, facts.headers[start:stop]))
    return max(start + 1, start + bisect_right(list(accumulate(sizes)), CHUNK_BYTES_MAX))
