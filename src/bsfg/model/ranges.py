"""Ranges of sequences that rise and lie apart: which of a history is damaged."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from typing import Final

RANGES_MAX: Final = 2_000
"""So many the plan of a repair names; where more is damaged, everything is fetched."""

Range = tuple[int, int]
"""First and last sequence, both included."""


class Ranges:
    """Ranges in order, each apart from the next by at least one sequence."""

    def __init__(self, ranges: Iterable[Range] = ()) -> None:
        """In any order; what overlaps or touches becomes one. ValueError for one that ends before it begins."""
        self._firsts: list[int] = []
        self._lasts: list[int] = []
        for first, last in sorted(ranges):
            if first > last:
                raise ValueError(f"{last} lies before {first}")
            if self._lasts and first <= self._lasts[-1] + 1:
                self._lasts[-1] = max(self._lasts[-1], last)
            else:
                self._firsts.append(first)
                self._lasts.append(last)

    def holding(self, sequence: int) -> Range | None:
        """The range that this sequence lies in."""
        index = bisect_right(self._firsts, sequence) - 1
        is_inside = index >= 0 and sequence <= self._lasts[index]
        return (self._firsts[index], self._lasts[index]) if is_inside else None

    def next_first(self, sequence: int) -> int | None:
        """Where the first range behind a sequence begins."""
        index = bisect_right(self._firsts, sequence)
        return self._firsts[index] if index < len(self._firsts) else None

    def touches(self, first: int, last: int) -> bool:
        """Whether any sequence between these two, both included, lies in a range."""
        following = self.next_first(first)
        return self.holding(first) is not None or (following is not None and following <= last)

    @property
    def sequences(self) -> int:
        """How many sequences lie in all of them together."""
        return sum(last - first + 1 for first, last in self)

    def __iter__(self) -> Iterator[Range]:
        return zip(self._firsts, self._lasts, strict=True)

    def __len__(self) -> int:
        return len(self._firsts)
