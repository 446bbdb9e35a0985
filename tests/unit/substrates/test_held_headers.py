"""The headers of an inbound stream by the column: whatever they are, the same is read as header by header."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bsfg.model.cursor import LinkName
from bsfg.model.names import StreamName, ZoneId
from bsfg.substrates.held_headers import HeaderReading, HeldHeaders

LINK = LinkName(ZoneId("enterprise"), StreamName("facts.operational"))
EPOCH = "0123456789abcdef"


def header(sequence: int, before: str = "", time: str = "2026-11-28T19:50:00.000000001Z", behind: str = "") -> bytes:
    line = f"Bsfg-Origin: enterprise facts.operational {EPOCH} {sequence} {time}\r\n"
    return f"NATS/1.0\r\n{before}{line}{behind}\r\n".encode()


def fenced(sequence: int) -> bytes:
    return header(sequence, f"Nats-Expected-Last-Sequence: {sequence + 3}\r\n")


def of_batch(sequence: int, place: int, count: int) -> bytes:
    fence = "Nats-Expected-Last-Sequence: 7\r\n" if place == 1 else ""
    commit = "Nats-Batch-Commit: 1\r\n" if place == count else ""
    return header(sequence, f"Nats-Batch-Id: 012345678901\r\nNats-Batch-Sequence: {place}\r\n{fence}{commit}")


class Reading(HeaderReading):
    """Counts the headers that are read by the column."""

    def __init__(self, *, is_by_column: bool = True) -> None:
        super().__init__(LINK, EPOCH)
        self.by_column = 0
        self._is_by_column = is_by_column

    def _even(self, headers: list[bytes]) -> HeldHeaders | None:
        found = super()._even(headers) if self._is_by_column else None
        self.by_column += len(found.sequences) if found else 0
        return found


def read(headers: list[bytes]) -> tuple[HeldHeaders | None, int]:
    """What is read, and how many of them by the column; seen to be the same as header by header."""
    reading = Reading()
    found = reading.plain(headers)
    assert found == Reading(is_by_column=False).plain(headers)
    return found, reading.by_column


@pytest.mark.parametrize("one", [fenced, header], ids=["fenced", "of a batch's kind"])
def test_headers_that_differ_in_numbers_alone_are_read_by_the_column(one: Callable[[int], bytes]) -> None:
    found, by_column = read([one(sequence) for sequence in range(100, 140)])
    assert (found, by_column) == (HeldHeaders(list(range(100, 140)), [b""] * 40), 40)


def test_a_batch_is_read_in_its_stretches() -> None:
    found, by_column = read([of_batch(5_000 + place, place, 200) for place in range(1, 201)])
    assert found is not None
    assert found.sequences == list(range(5_001, 5_201))
    assert by_column == 200


def test_headers_of_all_lengths_are_read_at_once() -> None:
    found, by_column = read([header(sequence, f"Nats-A: {'b' * (sequence % 5)}\r\n") for sequence in range(100, 140)])
    assert found is not None
    assert (found.sequences, by_column) == (list(range(100, 140)), 0)


@pytest.mark.parametrize(
    "numbers",
    [
        [*range(100, 130), *range(131, 160)],
        [*range(90, 130)],
        [*range(100, 120), 119, *range(121, 140)],
        [*range(140, 100, -1)],
        [100] * 40,
    ],
    ids=["a hole", "one more digit", "one twice", "falling", "all the same"],
)
def test_sequences_are_those_that_the_headers_bear(numbers: list[int]) -> None:
    found, _ = read([fenced(number) for number in numbers])
    assert found is not None
    assert found.sequences == numbers


@pytest.mark.parametrize("before", ["", "Nats-Expected-Last-Sequence: 55\r\n"])
def test_one_wrong_byte_anywhere_is_judged_as_header_by_header(before: str) -> None:
    headers = [header(sequence, before) for sequence in range(100, 120)]
    for row in (0, 7, 19):
        for place in range(len(headers[0])):
            for byte in (b"\n", b"\r", b" ", b"7", b"x", b":"):
                wrong = headers[row][:place] + byte + headers[row][place + 1 :]
                read([*headers[:row], wrong, *headers[row + 1 :]])


def test_a_producers_own_headers_are_read() -> None:
    found, by_column = read([header(sequence, behind="Tone: c\r\n") for sequence in range(100, 140)])
    assert found is not None
    assert (found.blocks, by_column) == ([b"Tone: c\r\n"] * 40, 0)


def test_none_at_all() -> None:
    assert read([]) == (None, 0)


ANY_HEADER = st.builds(
    header,
    st.integers(98, 104),
    st.sampled_from(["", "Nats-A: 1\r\n", "Nats-B: 2\r\n", "Nats-A: x\r\n", "Tone: 1\r\n", "Nats-A: 1\n"]),
    st.sampled_from(["2026-11-28T19:50:00.000000001Z", "2026-11-28T19:50:00.1Z", "2026-11-28 19:50:00.000000001Z"]),
    st.sampled_from(["", "Tone: c\r\n"]),
)


@given(st.lists(st.tuples(st.lists(ANY_HEADER, min_size=1, max_size=3), st.integers(1, 40)), min_size=1, max_size=3))
def test_whatever_the_headers_are(stretches: list[tuple[list[bytes], int]]) -> None:
    read([each for some, count in stretches for each in some * count])


@given(st.integers(0, 2_000), st.integers(1, 60), st.sampled_from([fenced, header]))
def test_whatever_the_first_sequence_is(first: int, count: int, one: Callable[[int], bytes]) -> None:
    found, _ = read([one(sequence) for sequence in range(first, first + count)])
    assert found is not None
    assert found.sequences == list(range(first, first + count))
