"""Digests of ranges of facts, by which two zones compare what they hold (contract, section 4; docs/verify.md).

The digest of a range is sha-256 over its facts in the order of their sequences, each as its sequence in 8 bytes and
the lengths of its three fields in 4 each, big-endian, and then the fields: the subject as published, the block of
allowed headers (``Name: value\\r\\n`` for each), the payload. So one update of the hash takes a whole page.
"""

from __future__ import annotations

import hashlib
import sys
from array import array
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from struct import Struct
from typing import Final

from bsfg.model.facts import Facts
from bsfg.model.names import StreamName

PARTS_MAX: Final = 256
EMPTY_DIGEST: Final = hashlib.sha256().hexdigest()

CUTS_CACHED_MAX: Final = 4

_LENGTHS: Final = Struct(">QIII")
_SEQUENCE_BYTES: Final = 8
_UINT64: Final = "Q"


@dataclass(frozen=True, slots=True)
class DigestCall:
    """Digests of one range of one history, cut into parts: both ends included."""

    stream: StreamName
    epoch: str
    first: int
    last: int
    parts: int


@dataclass(frozen=True, slots=True)
class PartDigest:
    """How many facts a part holds, and the digest over them."""

    count: int
    digest: str


@dataclass(frozen=True, slots=True)
class DigestAnswer:
    """Digests of the first parts of a range, at least one of them: who answers may stop early, never in a part."""

    parts: list[PartDigest]
    first_sequence: int
    """The first sequence that the log still had when all of it had been read."""


def width_of(first: int, last: int, parts: int) -> int:
    """How many sequences each part of a range has; the last one may have fewer."""
    return -(-(last - first + 1) // parts)


def split(first: int, last: int, parts: int) -> list[tuple[int, int]]:
    """The parts of a range, at most so many, none of them empty."""
    width = width_of(first, last, parts)
    return [(start, min(start + width - 1, last)) for start in range(first, last + 1, width)]


def hashed(facts: Facts) -> bytes:
    """What a digest is taken over, for these facts."""
    if shared := _shared(facts):
        numbers = array(_UINT64, facts.sequences)
        if sys.byteorder == "little":
            numbers.byteswap()
        return _woven(_cut(len(facts)).unpack(numbers), [shared] * len(facts), facts.payloads)
    headers, payloads = facts.headers, facts.payloads
    names = [each.encode() for each in facts.subjects]
    lengths = map(_LENGTHS.pack, facts.sequences, map(len, names), map(len, headers), map(len, payloads))
    return _woven(list(lengths), names, headers, payloads)


def _shared(facts: Facts) -> bytes:
    """What lies between sequence and payload in each of these facts; empty unless it is the same in all of them."""
    if not facts or not _are_equal(facts.subjects) or not _are_equal(facts.headers):
        return b""
    lengths = list(map(len, facts.payloads))
    if not _are_equal(lengths):
        return b""
    name, headers = facts.subjects[0].encode(), facts.headers[0]
    return _LENGTHS.pack(0, len(name), len(headers), lengths[0])[_SEQUENCE_BYTES:] + name + headers


def _are_equal(column: Sequence[object]) -> bool:
    return column.count(column[0]) == len(column)


@lru_cache(maxsize=CUTS_CACHED_MAX)
def _cut(count: int) -> Struct:
    return Struct(f"{_SEQUENCE_BYTES}s" * count)


def _woven(*columns: Sequence[bytes]) -> bytes:
    """The first of each column, then the second of each, and so on."""
    pieces = [b""] * (len(columns) * len(columns[0]))
    for place, column in enumerate(columns):
        pieces[place :: len(columns)] = column
    return b"".join(pieces)


def joined_digest(parts: list[PartDigest]) -> str:
    """The digest of a range that was digested in parts: that of the only one, or sha-256 over the bytes of all."""
    if len(parts) == 1:
        return parts[0].digest
    return hashlib.sha256(b"".join(bytes.fromhex(part.digest) for part in parts)).hexdigest()


class RangeDigester:
    """Takes facts in strictly rising order and gives the digest of each part of a range as soon as it is complete."""

    def __init__(self, first: int, last: int, width: int) -> None:
        self.parts: list[PartDigest] = []
        self._last = last
        self._width = width
        self._end = min(first + width - 1, last)
        self._hasher = hashlib.sha256()
        self._count = 0

    def add(self, facts: Facts) -> None:
        """Facts of the range, each above all before it."""
        start = 0
        while start < len(facts):
            end = bisect_right(facts.sequences, self._end, lo=start)
            if end > start:
                self.take(facts[start:end])
            if end < len(facts):
                self.reach(facts.sequences[end])
            start = end

    def take(self, facts: Facts) -> None:
        """Facts of the part that is open."""
        self._hasher.update(hashed(facts))
        self._count += len(facts)

    def reach(self, sequence: int) -> None:
        """Nothing below this sequence comes any more: every part that ends before it is complete."""
        while self._end < sequence and self._end <= self._last:
            self._close()

    def finish(self) -> list[PartDigest]:
        """All parts, with nothing more to come."""
        self.reach(self._last + 1)
        return self.parts

    def _close(self) -> None:
        self.parts.append(PartDigest(self._count, self._hasher.hexdigest()))
        self._hasher, self._count = hashlib.sha256(), 0
        is_last = self._end == self._last
        self._end = self._last + 1 if is_last else min(self._end + self._width, self._last)
