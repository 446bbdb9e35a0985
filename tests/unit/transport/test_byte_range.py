"""What a Range header asks for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bsfg.transport.byte_range import ByteRange, NoSuchRange, parse_range

SIZE = 1_000


@pytest.mark.parametrize(
    ("header", "part"),
    [
        ("bytes=0-0", (0, 1)),
        ("bytes=0-999", (0, 1_000)),
        ("bytes=500-", (500, 1_000)),
        ("bytes=999-5000", (999, 1_000)),
        ("bytes=-1", (999, 1_000)),
        ("bytes=-5000", (0, 1_000)),
        ("Bytes=1-2", (1, 3)),
        ("bytes=0-" + "9" * 5_000, (0, 1_000)),
        ("bytes=00000000000000000000001-2", (1, 3)),
    ],
)
def test_one_range(header: str, part: tuple[int, int]) -> None:
    assert parse_range(header, SIZE) == ByteRange(*part)


@pytest.mark.parametrize("header", [None, "", "lines=0-1", "0-1"])
def test_no_range_is_the_whole(header: str | None) -> None:
    assert parse_range(header, SIZE) is None


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ("bytes=0-1,5-6", "one range"),
        ("bytes=5-4", "before its beginning"),
        ("bytes=1000-", "has 1000 bytes"),
        ("bytes=" + "9" * 5_000 + "-", "has 1000 bytes"),
        ("bytes=-0", "has 1000 bytes"),
        ("bytes=-", "is not"),
        ("bytes=a-b", "is not"),
        ("bytes=+1-2", "is not"),
        ("bytes=\u0661-\u0662", "is not"),
        ("bytes=0x1-2", "is not"),
        ("bytes=", "is not"),
    ],
)
def test_what_can_not_be_sent(header: str, reason: str) -> None:
    with pytest.raises(NoSuchRange, match=reason):
        parse_range(header, SIZE)


def test_nothing_has_no_range() -> None:
    with pytest.raises(NoSuchRange):
        parse_range("bytes=0-", 0)


@given(st.text(alphabet="bytes=0123456789-, ", max_size=40), st.integers(0, 10**12))
def test_any_header_stays_within_the_artifact(text: str, size: int) -> None:
    try:
        part = parse_range("bytes=" + text, size)
    except NoSuchRange:
        return
    assert part is None or 0 <= part.start < part.end <= size
