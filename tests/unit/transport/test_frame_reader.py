"""Frames of one answer, whatever pieces its bytes come in, and as bounded as a single one."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bsfg.errors import BsfgError, Code
from bsfg.transport.answer_head import Head
from bsfg.transport.frame_reader import FrameReader, Framing
from bsfg.transport.page_check import bad_answer

HEADER_BYTES = 3


def body_bytes(header: bytes) -> int:
    if not header.isdigit():
        raise bad_answer("it is no header")
    return int(header)


def frame(body: bytes) -> bytes:
    return b"%03d%b" % (len(body), body)


def chunk(content: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(content), content)


END = b"0\r\n\r\n"
FRAMES = [frame(b"abc"), frame(b""), frame(b"d" * 50)]
WHOLE = b"".join(FRAMES)


@dataclass
class Line:
    """A transport of which only reading is looked at."""

    is_paused: bool = False
    pauses: int = 0

    def pause_reading(self) -> None:
        assert not self.is_paused
        self.is_paused, self.pauses = True, self.pauses + 1

    def resume_reading(self) -> None:
        assert self.is_paused
        self.is_paused = False


@dataclass
class Reading:
    """A reader, fed with pieces as long as it takes them."""

    length: int | None = None
    line: Line = field(default_factory=Line)
    is_expecting: bool = False

    def __post_init__(self) -> None:
        head = Head(200, self.length, "", "", "", False)
        framing = Framing(HEADER_BYTES, body_bytes)
        self.reader = FrameReader(self.line, head, framing, self._expect)  # type: ignore[arg-type]
        self.frames: list[bytes] = []

    def _expect(self, is_expected: bool) -> None:
        self.is_expecting = is_expected

    async def feed(self, piece: bytes) -> None:
        """As a transport does: into the reader's own buffer, and nothing while it is paused."""
        while piece:
            while self.line.is_paused:
                await self.take()
            buffer = self.reader.get_buffer(-1)
            part, piece = piece[: len(buffer)], piece[len(buffer) :]
            buffer[: len(part)] = part
            self.reader.buffer_updated(len(part))

    async def take(self) -> None:
        taken = await asyncio.wait_for(self.reader.frame(), 1)
        assert taken is not None
        self.frames.append(bytes(taken))

    async def take_rest(self) -> None:
        while (taken := await asyncio.wait_for(self.reader.frame(), 1)) is not None:
            self.frames.append(bytes(taken))


@given(
    bodies=st.lists(st.binary(max_size=40), max_size=5),
    chunks=st.lists(st.integers(1, 30), max_size=20),
    pieces=st.lists(st.integers(1, 30), max_size=20),
    is_chunked=st.booleans(),
)
def test_any_pieces_of_any_chunks_are_the_same_frames(
    bodies: list[bytes], chunks: list[int], pieces: list[int], is_chunked: bool
) -> None:
    content = sent = b"".join(map(frame, bodies))
    if is_chunked:
        sent = b""
        for size in [*chunks, 1_000]:
            part, content = content[:size], content[size:]
            sent += chunk(part) if part else b""
        sent += END

    async def run() -> None:
        reading = Reading(None if is_chunked else len(sent))
        left = sent
        for size in [*pieces, 10_000]:
            piece, left = left[:size], left[size:]
            await reading.feed(piece)
        await reading.take_rest()
        assert reading.frames == list(map(frame, bodies))
        assert reading.reader.is_over and not reading.line.is_paused

    asyncio.run(run())


@pytest.mark.parametrize("is_chunked", [True, False])
async def test_a_cut_at_any_byte_gives_what_came_whole_and_says_so(is_chunked: bool) -> None:
    first, second = chunk(WHOLE[:20]), chunk(WHOLE[20:])
    sent = first + second + END if is_chunked else WHOLE
    for end in range(len(sent)):
        in_second = end - len(first) - 4
        content = max(0, min(20, end - 4)) + max(0, min(len(WHOLE) - 20, in_second)) if is_chunked else end
        reading = Reading(None if is_chunked else len(sent))
        await reading.feed(sent[:end])
        reading.reader.connection_lost(None)
        with pytest.raises(aiohttp.ClientPayloadError):
            await reading.take_rest()
        assert reading.frames == [each for each in FRAMES if WHOLE.index(each) + len(each) <= content]
        assert not reading.reader.is_over


async def test_an_answer_that_ends_within_a_frame_is_cut() -> None:
    for end in range(1, len(WHOLE)):
        if end in (6, 9):
            continue
        reading = Reading(None)
        await reading.feed(chunk(WHOLE[:end]) + END)
        with pytest.raises(aiohttp.ClientPayloadError):
            await reading.take_rest()
        assert not reading.reader.is_over


MALFORMED = {
    "no end of a chunk": b"1\r\n0xx",
    "half an end of a chunk": b"1\r\n0\rx",
    "no size": b"\r\n" + WHOLE,
    "a size that is none": b"xyz\r\n",
    "a negative size": b"-1\r\n",
    "a size with an extension": b"1;a=b\r\n0",
    "a size without a carriage return": b"1\n0",
    "an endless size": b"1" * 100,
    "a larger size than any answer": b"fffffffff\r\n",
    "a trailer": chunk(FRAMES[0]) + b"0\r\nDigest: x\r\n\r\n",
}


@pytest.mark.parametrize("sent", MALFORMED.values(), ids=list(MALFORMED))
@pytest.mark.parametrize("size", [1, 1_000])
async def test_what_is_no_chunk_is_named(sent: bytes, size: int) -> None:
    reading = Reading()
    for start in range(0, len(sent), size):
        await reading.feed(sent[start : start + size])
    with pytest.raises(BsfgError) as caught:
        await reading.take_rest()
    assert caught.value.code is Code.BAD_ANSWER and "HTTP" in caught.value.message
    assert not reading.reader.is_over
    await reading.feed(b"more")


async def test_whoever_waits_hears_at_once_of_what_is_no_chunk() -> None:
    reading = Reading()
    waiting = asyncio.create_task(reading.reader.frame())
    await asyncio.sleep(0)
    await reading.feed(b"what?")
    with pytest.raises(BsfgError):
        await asyncio.wait_for(waiting, 1)


async def test_a_header_that_is_none_is_named_before_anything_of_its_frame_is_held() -> None:
    reading = Reading()
    await reading.feed(chunk(FRAMES[0] + b"x01"))
    with pytest.raises(BsfgError) as caught:
        await reading.take_rest()
    assert reading.frames == FRAMES[:1]
    assert "no header" in caught.value.message


@pytest.mark.parametrize("length", [None, len(WHOLE)])
async def test_what_follows_the_end_spoils_the_connection_and_not_the_answer(length: int | None) -> None:
    reading = Reading(length)
    await reading.feed((WHOLE if length else chunk(WHOLE) + END) + b"more")
    await reading.take_rest()
    assert reading.frames == FRAMES
    assert not reading.reader.is_over


@pytest.mark.parametrize("length", [None, len(WHOLE)])
async def test_a_connection_that_ends_behind_the_answer_cuts_nothing(length: int | None) -> None:
    reading = Reading(length)
    await reading.feed(WHOLE if length else chunk(WHOLE) + END)
    reading.reader.connection_lost(ConnectionResetError())
    await reading.take_rest()
    assert reading.frames == FRAMES


async def test_what_nobody_has_taken_is_not_over() -> None:
    reading = Reading(len(FRAMES[0]))
    await reading.feed(FRAMES[0] + b"more")
    assert not reading.reader.is_over


async def test_no_more_than_one_frame_waits() -> None:
    reading = Reading()
    sent = chunk(WHOLE) * 3 + END
    await reading.feed(sent[:15])
    assert reading.line.is_paused, "the peer waits as soon as a frame is whole"
    for start in range(15, len(sent), 7):
        await reading.feed(sent[start : start + 7])
    await reading.take_rest()
    assert reading.frames == FRAMES * 3
    assert reading.line.pauses > 5 and not reading.line.is_paused


async def test_a_frame_is_in_memory_of_its_own() -> None:
    reading = Reading()
    await reading.feed(chunk(WHOLE) + END)
    first = await reading.reader.frame()
    second = await reading.reader.frame()
    assert first is not None and second is not None
    assert (bytes(first), bytes(second)) == (FRAMES[0], FRAMES[1])
    assert len(first.obj) == len(FRAMES[0])  # type: ignore[arg-type]


async def test_bytes_are_expected_only_while_somebody_waits_for_them() -> None:
    reading = Reading()
    await reading.feed(chunk(FRAMES[0][:2]))
    assert not reading.is_expecting
    waiting = asyncio.create_task(reading.reader.frame())
    await asyncio.sleep(0)
    assert reading.is_expecting
    reading.is_expecting = False
    await reading.feed(chunk(FRAMES[0][2:4]))
    assert reading.is_expecting, "anew, whenever some have come"
    await reading.feed(chunk(FRAMES[0][4:]))
    assert await waiting is not None
    assert not reading.is_expecting
    waiting = asyncio.create_task(reading.reader.frame())
    await asyncio.sleep(0)
    reading.reader.expire()
    with pytest.raises(TimeoutError):
        await waiting
    assert not reading.is_expecting
