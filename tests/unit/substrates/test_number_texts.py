"""Columns as text say exactly what one by one would say."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bsfg.model.moment import NANOSECONDS, format_time
from bsfg.substrates.number_texts import (
    SECONDS_AT_ONCE_MAX,
    SECONDS_END,
    UnspeltTime,
    decimals,
    stand_in,
    time_texts,
)

NUMBERS = st.integers(min_value=0, max_value=2**63 - 1)
NOW = 1_767_225_600 * NANOSECONDS
NEAR = st.integers(min_value=NOW, max_value=NOW + 3 * SECONDS_AT_ONCE_MAX * NANOSECONDS)


@given(st.lists(NUMBERS, min_size=1), st.binary(max_size=9), st.binary(max_size=9))
@example([1], b",", b",")
def test_numbers_stand_between_the_texts(numbers: list[int], before: bytes, behind: bytes) -> None:
    before, behind = before.replace(b"\0", b"-"), behind.replace(b"\0", b"-")
    assert decimals(numbers, before, behind) == [b"%b%d%b" % (before, number, behind) for number in numbers]


@given(st.lists(NEAR, min_size=1))
@example([NOW])
@example([NOW + SECONDS_AT_ONCE_MAX * NANOSECONDS - 1, NOW])
@example([NOW + SECONDS_AT_ONCE_MAX * NANOSECONDS, NOW])
@example([NOW, NOW, NOW - 1])
def test_times_of_one_page(times: list[int]) -> None:
    assert time_texts(times, b"\r\n") == [format_time(time).encode() + b"\r\n" for time in times]


@given(st.lists(NUMBERS, min_size=1))
@example([0])
@example([10**18 - 1, 10**18])
@example([2**63 - 1])
def test_times_of_any_age(times: list[int]) -> None:
    assert time_texts(times) == [format_time(time).encode() for time in times]


@pytest.mark.parametrize("odd", [-1, SECONDS_END * NANOSECONDS])
def test_a_time_that_can_not_be_spelt_is_named(odd: int) -> None:
    with pytest.raises(UnspeltTime) as raised:
        time_texts([NOW, odd, NOW])
    assert raised.value.time == odd
    assert time_texts([NOW, SECONDS_END * NANOSECONDS - 1])[1].startswith(b"9999-12-31T23:59:59.")


@given(
    st.lists(st.integers(0, 130), min_size=1, unique=True).map(sorted),
    st.lists(st.integers(0, 130), min_size=1),
    st.integers(0, 3),
)
def test_numbers_are_found_only_where_they_stand(rising: list[int], others: list[int], at: int) -> None:
    found = (others + rising)[: len(rising)]
    for written in (rising, found):
        fields = [b"-" * at + b"%d" % number for number in written]
        step = max(map(len, fields))
        text = b"".join(field.ljust(step, b".") for field in fields)
        is_of_one_width = len({len(str(number)) for number in rising}) == 1
        # What follows the digits is the caller's to look at: 1 stands where 10 does.
        begin_so = all(str(a).startswith(str(b)) for a, b in zip(written, rising, strict=True))
        assert stand_in(text, at, step, rising) == (begin_so and is_of_one_width)
