"""Messages of equal length are cut at once, and into the very same as one by one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.unit.substrates.test_nats_frames import LOOK_ALIKES, parse, wire

from bsfg.substrates import even_frames, nats_frames
from bsfg.substrates.nats_frames import FRAME_BYTES_MAX, Frame, FrameError, FrameParser

HEADER = b"NATS/1.0\r\nA: b\r\n\r\n"
ACK = b"$JS.ACK.s.c.1.%d.%d.1796000000000000000.%d"


@contextmanager
def one_by_one() -> Iterator[None]:
    """No number of frames is enough to be cut at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(even_frames, "EVEN_FRAMES_MIN", 10**9)
        yield


def acknowledged(number: int, payload: bytes, header: bytes = b"", subject: bytes = b"facts.a") -> tuple[int, Frame]:
    return 1, Frame(subject, ACK % (number, number, 900 - number), header, payload)


def outcome(wire_bytes: bytes) -> object:
    """Everything that the parser makes of these bytes, or why it refuses them."""
    parser = FrameParser()
    try:
        runs, operations = parser.feed(wire_bytes)
    except FrameError as error:
        return str(error)
    columns = [(sid, run.lines, run.headers, run.payloads) for sid, run in runs]
    return columns, operations, parser.is_empty, parser._held


@pytest.fixture
def cut_at_once(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many frames each look found."""
    counts: list[int] = []
    original = even_frames.even_frames

    def counting(*arguments: object) -> even_frames.EvenFrames:
        found = original(*arguments)  # type: ignore[arg-type]
        counts.append(len(found.lines))
        return found

    monkeypatch.setattr(nats_frames, "even_frames", counting)
    return counts


@pytest.mark.parametrize("header", [b"", HEADER], ids=["MSG", "HMSG"])
def test_frames_of_equal_length_are_cut_at_once(header: bytes, cut_at_once: list[int]) -> None:
    frames = [acknowledged(number, b"x%dy" % number, header) for number in range(100, 140)]
    assert parse([b"".join(map(wire, frames))])[0] == frames
    assert cut_at_once == [38]


def test_a_number_with_one_more_digit_only_begins_another_stretch(cut_at_once: list[int]) -> None:
    frames = [acknowledged(number, bytes(9)) for number in range(80, 130)]
    assert parse([b"".join(map(wire, frames))])[0] == frames
    assert cut_at_once == [18, 28]


def test_frames_of_all_lengths_are_looked_at_in_vain_twice(cut_at_once: list[int]) -> None:
    frames = [acknowledged(100 + number, bytes(number % 3)) for number in range(60)]
    assert parse([b"".join(map(wire, frames))])[0] == frames
    assert cut_at_once == [0, 0]


segments = st.tuples(
    st.integers(1, 30),
    st.sampled_from([b"", HEADER, HEADER.replace(b"b", b"bcd")]),
    st.one_of(st.binary(max_size=30), st.sampled_from(LOOK_ALIKES)),
    st.sampled_from([b"facts.a", b"facts.b", b"facts.ab"]),
    st.sampled_from([b"", b"PING\r\n", b"+OK\r\n"]),
)


@given(st.lists(segments, min_size=1, max_size=5), st.integers(0, 400))
def test_stretches_of_all_kinds_give_the_same_as_one_by_one(
    stretches: list[tuple[int, bytes, bytes, bytes, bytes]], cut: int
) -> None:
    whole, number = b"", 90
    for count, header, payload, subject, between in stretches:
        for _ in range(count):
            whole += wire(acknowledged(number, payload, header, subject))
            number += 1
        whole += between
    for piece in (whole, whole[:cut], whole[: -1 - cut]):
        at_once = outcome(piece)
        with one_by_one():
            assert at_once == outcome(piece)


@pytest.mark.parametrize("header", [b"", HEADER], ids=["MSG", "HMSG"])
def test_one_wrong_byte_anywhere_is_judged_as_one_by_one(header: bytes) -> None:
    frames = [wire(acknowledged(number, b"{}", header)) for number in range(101, 116)]
    whole = b"".join(frames)
    for place in range(len(frames[0]) * 3, len(frames[0]) * 13):
        for byte in (b"\n", b"\r", b" ", b"7", b"x"):
            wrong = whole[:place] + byte + whole[place + 1 :]
            at_once = outcome(wrong)
            with one_by_one():
                assert at_once == outcome(wrong), (place, byte)


@pytest.mark.parametrize(
    "line", [b"HMSG facts.a 1 r 20 19", b"HMSG facts.a 1 r 18 %d" % (FRAME_BYTES_MAX + 1), b"HMSG facts.a 1 r 18 x"]
)
def test_lengths_that_change_are_read_as_carefully_as_the_first(line: bytes) -> None:
    before = wire((1, Frame(b"facts.a", b"r", HEADER, b"x"))) * 2
    with pytest.raises(FrameError):
        FrameParser().feed(before + line + b"\r\n" + HEADER + b"xy\r\n")


def test_lengths_that_change_on_a_line_without_a_carriage_return_are_refused() -> None:
    before = wire((1, Frame(b"facts.a", b"r", b"", b"x"))) * 2
    with pytest.raises(FrameError, match="without a carriage return"):
        FrameParser().feed(before + b"MSG facts.a 1 r 123\n" + bytes(11) + b"\r\n")


@pytest.mark.parametrize("header", [b"", HEADER], ids=["MSG", "HMSG"])
def test_a_message_without_a_reply_is_of_another_run_whatever_its_lengths(header: bytes) -> None:
    sizes = [(b"r", 1), (b"r", 1_000), (b"", 1_000), (b"r", 1), (b"", 100_000)]
    frames = [(1, Frame(b"facts.a", reply, header, bytes(size))) for reply, size in sizes]
    runs, _ = FrameParser().feed(b"".join(map(wire, frames)))
    assert [(sid, frame) for sid, run in runs for frame in run] == frames
    assert [len(run) for _, run in runs] == [2, 1, 1, 1]
