"""Ranges of sequences: joined where they touch, and asked by sequence."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bsfg.model.ranges import Ranges

PAIRS = st.lists(st.tuples(st.integers(1, 40), st.integers(0, 5)).map(lambda pair: (pair[0], sum(pair))))


@given(PAIRS, st.integers(0, 50), st.integers(0, 10))
def test_they_say_what_the_single_sequences_say(pairs: list[tuple[int, int]], at: int, width: int) -> None:
    ranges = Ranges(pairs)
    inside = {sequence for first, last in pairs for sequence in range(first, last + 1)}
    assert {sequence for first, last in ranges for sequence in range(first, last + 1)} == inside
    assert ranges.sequences == len(inside)
    assert (ranges.holding(at) is not None) == (at in inside)
    assert ranges.touches(at, at + width) == any(at <= each <= at + width for each in inside)
    rows = list(ranges)
    assert all(before[1] + 1 < behind[0] for before, behind in pairwise(rows))
    assert ranges.next_first(at) == next((first for first, _ in rows if first > at), None)


def test_a_range_that_ends_before_it_begins_is_refused() -> None:
    with pytest.raises(ValueError, match="3 lies before 4"):
        Ranges([(4, 3)])
