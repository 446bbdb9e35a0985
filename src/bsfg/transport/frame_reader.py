"""The frames of one long answer, each read into one piece of memory (contract, section 4; design, section 5).

Pages come by the megabyte, and TLS gives them in records of 16 KiB. Here decrypted bytes are put where they belong at
once: nothing is done for a piece of 64 KiB but to copy it into its frame, where aiohttp's client takes some hundred
steps and three more copies.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import aiohttp

from bsfg.errors import BsfgError
from bsfg.transport.answer_head import Head
from bsfg.transport.page_check import bad_answer
from bsfg.transport.tls_buffers import READ_BYTES

RECORD_BYTES: Final = 16 * 1024
"""So much more than one read brings may be held back from the one before; a full buffer costs one more step."""
_LINE_BYTES_MAX: Final = 16
_SIZE: Final = re.compile(rb"[0-9a-fA-F]{1,8}\r\n")
_SIZE_SO_FAR: Final = re.compile(rb"[0-9a-fA-F]{0,8}|[0-9a-fA-F]{1,8}\r")


@dataclass(frozen=True, slots=True)
class Framing:
    """How an answer is cut: a header of so many bytes says how many follow it."""

    header_bytes: int
    body_bytes: Callable[[bytes], int]
    """``bad_answer`` for a header that is none, or announces more than may come."""


class FrameReader(asyncio.BufferedProtocol):
    """The frames of one answer, from behind its head to its end. Used from the event loop alone."""

    def __init__(
        self, transport: asyncio.Transport, head: Head, framing: Framing, expect: Callable[[bool], None]
    ) -> None:
        """``expect`` is told whether bytes are waited for, anew whenever some have come."""
        self.head = head
        self._transport = transport
        self._framing = framing
        self._expect = expect
        self._loop = asyncio.get_running_loop()
        self._is_chunked = head.length is None
        self._left = head.length or 0
        """Bytes of the chunk, or of a body with a length, that are still to come."""
        self._line = b"\r\n" if self._is_chunked else b""
        """What has come between two chunks; the first has no end of one before it."""
        self._frame = memoryview(bytearray(framing.header_bytes))
        self._filled = 0
        self._is_in_body = False
        self._ready: memoryview | None = None
        """A whole frame that nobody has taken yet; the peer waits then."""
        self._rest = b""
        """What came behind it."""
        self._waiter: asyncio.Future[None] | None = None
        self._is_whole = head.length == 0
        self._error: BsfgError | None = None
        """What is wrong with it."""
        self._lost: BaseException | None = None
        """Why nothing more comes."""
        self._is_paused = False
        self._is_spoilt = False
        self._read_into = memoryview(bytearray(READ_BYTES + RECORD_BYTES))

    @property
    def is_over(self) -> bool:
        """Whether all of it has been taken, it ended well, and nothing came behind it."""
        return self._is_whole and not (self._ready or self._filled or self._is_spoilt)

    async def frame(self) -> memoryview | None:
        """The next frame, whole with its header, the taker's own; None where the answer has ended before it.

        What ends it otherwise is raised once all frames before have been taken: ``bad_answer``, ``TimeoutError``, and
        ``ClientPayloadError`` where it is cut within a frame.
        """
        while self._ready is None and not self._is_whole and self._error is None and self._lost is None:
            self._waiter = self._loop.create_future()
            self._expect(True)
            try:
                await self._waiter
            finally:
                self._waiter = None
                self._expect(False)
        if self._ready is not None:
            frame, self._ready = self._ready, None
            self._read_on()
            return frame
        if self._error is not None:
            raise self._error
        if self._lost is not None and not self._is_whole:
            raise self._lost
        if self._filled:
            raise cut_short()
        return None

    def _read_on(self) -> None:
        """There is room for one more frame: what came behind the last one first, then what the peer has sent since."""
        rest, self._rest = self._rest, b""
        self.take(memoryview(rest))
        if self._is_paused and self._ready is None:
            self._is_paused = False
            self._transport.resume_reading()

    def expire(self) -> None:
        """Nothing has come for too long."""
        self._lose(TimeoutError())

    def take(self, came: memoryview) -> None:
        """The next bytes of the answer."""
        try:
            while came and self._ready is None and self._error is None:
                came = came[self._take_some(came) :]
        except BsfgError as error:
            if self._is_whole:
                self._is_spoilt = True
            else:
                self._error = error
        if self._ready is not None and self._error is None:
            self._rest += bytes(came)
            if not self._is_paused and not self._is_whole:
                self._is_paused = True
                self._transport.pause_reading()
        if self._ready is not None or self._is_whole or self._error is not None:
            self._wake()
        elif self._waiter is not None:
            self._expect(True)

    def _take_some(self, came: memoryview) -> int:
        """How many of these bytes were taken: one at least, and none behind the end of a frame."""
        if self._left:
            taken = self._fill(came[: self._left])
            self._left -= taken
            self._is_whole = not (self._left or self._is_chunked)
            return taken
        if self._is_chunked and not self._is_whole:
            return self._take_line(came)
        raise _malformed("more bytes follow than the answer has")

    def _take_line(self, came: memoryview) -> int:
        """How many bytes belong to what stands between two chunks: the end of one, the size of the next."""
        seen = len(self._line)
        self._line += bytes(came[: _LINE_BYTES_MAX - seen])
        if not self._line.startswith(b"\r\n"[: len(self._line)]):
            raise _malformed("a chunk does not end where it should")
        end = self._line.find(b"\n", 2) + 1
        size = self._line[2 : end or _LINE_BYTES_MAX]
        if not (_SIZE if end else _SIZE_SO_FAR).fullmatch(size):
            raise _malformed("the size of a chunk is no number")
        if end == 0:
            return len(came)
        self._left = int(size, 16)
        if self._left == 0:
            return self._take_end(seen, end)
        self._line = b""
        return end - seen

    def _take_end(self, seen: int, end: int) -> int:
        """Behind the last chunk there is nothing but an empty line."""
        rest = self._line[end : end + 2]
        if not b"\r\n".startswith(rest):
            raise _malformed("something follows the last chunk")
        if len(rest) < 2:
            return len(self._line) - seen
        self._is_whole = True
        return end + 2 - seen

    def _fill(self, part: memoryview) -> int:
        """How much of it was taken, up to the end of the header or of the frame."""
        taken = part[: len(self._frame) - self._filled]
        end = self._filled + len(taken)
        self._frame[self._filled : end] = taken
        self._filled = end
        if end == len(self._frame):
            self._end_part()
        return len(taken)

    def _end_part(self) -> None:
        """A header is whole, or a frame is."""
        header_bytes = self._framing.header_bytes
        if not self._is_in_body:
            whole = memoryview(bytearray(header_bytes + self._framing.body_bytes(bytes(self._frame))))
            whole[:header_bytes] = self._frame
            self._frame, self._is_in_body = whole, True
        if self._filled == len(self._frame):
            self._ready = self._frame
            self._frame, self._filled, self._is_in_body = memoryview(bytearray(header_bytes)), 0, False

    def _lose(self, error: BaseException) -> None:
        """Nothing more comes; what has come already is still taken."""
        self._lost = self._lost or error
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # asyncio.BufferedProtocol

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._read_into

    def buffer_updated(self, nbytes: int) -> None:
        self.take(self._read_into[:nbytes])

    def connection_lost(self, exc: Exception | None) -> None:
        self._lose(exc or cut_short())


def cut_short() -> aiohttp.ClientPayloadError:
    """An answer that ends where more of it was promised."""
    return aiohttp.ClientPayloadError("the answer ends within a page")


def _malformed(what: str) -> BsfgError:
    return bad_answer(f"it is not well-formed HTTP: {what}")
