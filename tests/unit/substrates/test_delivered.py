"""What control lines say of where messages stand, in columns."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bsfg.substrates import delivered as delivered_module
from bsfg.substrates.delivered import Delivered, delivered
from bsfg.substrates.nats_frames import Messages

PLAIN = b"$JS.ACK.facts_energy.c1.1."
WITH_DOMAIN = b"$JS.ACK.hub.ACCOUNT.facts_energy.c1.1."


def lines(*replies: bytes, sizes: bytes = b"5") -> Messages:
    run = Messages()
    operation = b"HMSG" if b" " in sizes else b"MSG"
    run.lines = [b"%b facts.energy.%d 7 %b %b" % (operation, n, each, sizes) for n, each in enumerate(replies)]
    run.headers = [b"NATS/1.0\r\n\r\n"] * len(replies) if b" " in sizes else []
    run.payloads = [b"12345"] * len(replies)
    return run


EXPECTED = Delivered([b"facts.energy.0", b"facts.energy.1"], [41, 43], [1_700_000_000, 1_800_000_000], 8, 6)


@pytest.mark.parametrize("sizes", [b"5", b"12 17"])
@pytest.mark.parametrize(
    ("before", "behind"),
    [(PLAIN, (b"", b"")), (WITH_DOMAIN, (b"", b"")), (WITH_DOMAIN, (b".x1", b".y2"))],
    ids=["plain", "domain", "domain and a random token"],
)
def test_every_form_of_acknowledgement_subject(before: bytes, behind: tuple[bytes, bytes], sizes: bytes) -> None:
    first = before + b"41.7.1700000000.7" + behind[0]
    second = before + b"43.8.1800000000.6" + behind[1]
    assert delivered(lines(first, second, sizes=sizes)) == EXPECTED


@pytest.mark.parametrize(
    "odd",
    [
        b"$JS.ACK.facts_energy.c2.1.43.8.1800000000.6",
        b"$JS.ACK.facts_energy.c1.2.43.8.1800000000.6",
        PLAIN + b"43.8.1800000000",
        PLAIN + b"43.8.1800000000.6.1",
        PLAIN + b"43.8..6",
        PLAIN + b"43.8.18e9.6",
        PLAIN + b"43.8.1800000000.6 7",
    ],
)
def test_a_line_of_another_kind_is_no_place(odd: bytes) -> None:
    good = PLAIN + b"41.7.1700000000.7"
    assert delivered(lines(good)).sequences == [41]
    with pytest.raises(ValueError):
        delivered(lines(good, odd))


@pytest.mark.parametrize("odd", [b"_INBOX.a.1", b"$JS.ACK.1.2.3", b"$JX.ACK.facts_energy.c1.1.41.7.1700000000.7"])
def test_a_reply_that_is_no_acknowledgement_subject_is_no_place(odd: bytes) -> None:
    with pytest.raises(ValueError):
        delivered(lines(odd))


TIME = 1_790_000_000_000_000_000
LINE = b"MSG facts.energy 7 $JS.ACK.facts_energy.c1.1.%d.%d.%d.%d 512"


@pytest.fixture(scope="module", autouse=True)
def few_are_enough() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(delivered_module, "ALIKE_LINES_MIN", 1)
        yield


def ordinary(count: int = 12, first: int = 400) -> list[bytes]:
    """Lines of one subject, one length and no hole."""
    return [LINE % (first + n, 100 + n, TIME + n, 900 - n) for n in range(count)]


def run_of(lines: list[bytes]) -> Messages:
    run = Messages()
    run.lines, run.payloads = lines, [b""] * len(lines)
    run.headers = [b"NATS/1.0\r\n\r\n"] * len(lines) if lines[0].startswith(b"HMSG") else []
    return run


def outcome(lines: list[bytes]) -> object:
    try:
        return delivered(run_of(lines))._replace(is_of_one_subject=False)
    except ValueError:
        return ValueError


def outcome_one_by_one(lines: list[bytes]) -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(delivered_module, "_alike", lambda run: None)
        return outcome(lines)


@pytest.mark.parametrize("is_with_headers", [False, True])
def test_lines_that_differ_in_numbers_alone_are_read_by_the_column(is_with_headers: bool) -> None:
    lines = ordinary()
    if is_with_headers:
        lines = [b"H" + line.replace(b" 512", b" 12 512") for line in lines]
    found = delivered(run_of(lines))
    assert found.is_of_one_subject
    assert found.sequences == list(range(400, 412)) and found.times == [TIME + n for n in range(12)]
    assert found.subjects == [b"facts.energy"] * 12 and (found.consumer_sequence, found.pending) == (111, 889)


def _changed(place: int, before: bytes, now: bytes) -> list[bytes]:
    lines = ordinary()
    assert before in lines[place]
    lines[place] = lines[place].replace(before, now)
    return lines


@pytest.mark.parametrize(
    "lines",
    [
        _changed(5, b"MSG facts.energy 7", b"MSG facts.enermy 7"),
        _changed(5, b"MSG facts.energy 7", b"MSG facts.energy 8"),
        _changed(5, b".c1.1.", b".c2.1."),
        _changed(5, b".c1.1.", b".c1.2."),
        _changed(5, b" 512", b" 5120"),
        [*ordinary(6), *ordinary(6, first=407)],
        [*ordinary(6), *ordinary(6, first=407)[1:], ordinary(1, first=411)[0]],
        _changed(5, b".17900000000000000", b".1790000000000000"),
        _changed(5, b".405.105.17900000000000000", b".4050.105.1790000000000000"),
        _changed(10, b".410.110.", b".41.1110."),
        _changed(5, b".405.105.", b".4051.10."),
        _changed(5, b".105.1790000000000000005.", b".10.17900000000000000055."),
        _changed(5, b".1790000000000000005.895", b".179000000000000005.8950"),
        _changed(5, b".105.1790000000000000005", b".105.179000000000.000000"),
        _changed(5, b".105.1790000000000000", b".105.17900000000000x0"),
        _changed(5, b".105.1790000000000000", b".105.179000000000 000"),
        [line.replace(b".c1.1.", b".c1.1.1.1.") for line in ordinary()],
        ordinary(1),
        ordinary(12, first=995),
    ],
)
def test_by_the_column_and_line_by_line_the_same_is_read(lines: list[bytes]) -> None:
    assert outcome(lines) == outcome_one_by_one(lines)


NUMBER = st.sampled_from([0, 1, 9, 10, 99, 1_000]) | st.integers(0, 10**6)
ANY_LINE = st.builds(
    LINE.__mod__, st.tuples(NUMBER, NUMBER, NUMBER.map(TIME.__add__) | NUMBER, NUMBER)
)


@given(st.lists(ANY_LINE, min_size=1, max_size=8))
def test_whatever_the_numbers_are(lines: list[bytes]) -> None:
    assert outcome(lines) == outcome_one_by_one(lines)


@given(st.integers(0, 2000), st.integers(2, 40), st.lists(st.integers(0, 10**12), min_size=40, max_size=40))
def test_whatever_the_first_sequence_is(first: int, count: int, times: list[int]) -> None:
    lines = [LINE % (first + n, 1 + n, TIME + times[n], count - n) for n in range(count)]
    assert outcome(lines) == outcome_one_by_one(lines)


def test_few_lines_are_read_one_by_one() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(delivered_module, "ALIKE_LINES_MIN", 32)
        few, many = delivered(run_of(ordinary(31))), delivered(run_of(ordinary(32)))
    assert (few.is_of_one_subject, many.is_of_one_subject) == (False, True)
    assert few.sequences == many.sequences[:31]
