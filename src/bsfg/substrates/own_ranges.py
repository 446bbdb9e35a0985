"""Stretches of a stream that this gateway appended itself, so that its index need not read them back."""

from __future__ import annotations

from typing import Final, NamedTuple

RANGES_MAX: Final = 1_000
"""Beyond this the first ones are forgotten, and read like everybody else's."""


class OwnRange(NamedTuple):
    """Sequences from first to last, all of them ours, and the anchor of the last one."""

    first: int
    last: int
    anchor: bytes


class OwnRanges:
    """Own stretches in order; neighbours grow together."""

    def __init__(self) -> None:
        self._ranges: list[OwnRange] = []

    @property
    def last(self) -> int:
        """The highest of all; 0 without any."""
        return self._ranges[-1].last if self._ranges else 0

    def add(self, added: OwnRange) -> None:
        ranges = self._ranges
        place = len(ranges)
        while place and ranges[place - 1].first > added.first:
            place -= 1
        ranges.insert(place, added)
        for index in (place, place - 1):
            if 0 <= index < len(ranges) - 1 and ranges[index].last + 1 >= ranges[index + 1].first:
                low, high = ranges[index], ranges.pop(index + 1)
                ranges[index] = OwnRange(low.first, max(low.last, high.last), max(low, high, key=_end).anchor)
        del ranges[:-RANGES_MAX]

    def from_sequence(self, sequence: int) -> OwnRange | None:
        """The stretch that holds this sequence, if there is one; what lies below it is forgotten."""
        while self._ranges and self._ranges[0].last < sequence:
            self._ranges.pop(0)
        if self._ranges and self._ranges[0].first <= sequence:
            return self._ranges[0]
        return None

    def clear(self) -> None:
        self._ranges.clear()


def _end(stretch: OwnRange) -> int:
    return stretch.last
