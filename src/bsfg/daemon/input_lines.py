"""Lines out of a stream of bytes, in pages: read ahead within limits, handed out when they can be used."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any, Final

from bsfg.errors import BsfgError, Code

AHEAD_BYTES_MAX: Final = 4 * 1024 * 1024
"""What is read beyond what has been taken; the sender waits from there on."""
PAGE_LINES_MAX: Final = 1_000
PAGE_BYTES: Final = 4 * 1024 * 1024
"""A page that has so many bytes takes no further line."""

Line = tuple[int, bytes]


class InputLines:
    """The lines that are not blank, each with its number; a context that stops reading when it is left.

    The bytes behind the last newline are a line only where the input ended in order: an input that broke off may have
    lost the rest of it.
    """

    def __init__(self, pieces: AsyncIterator[bytes], line_bytes_max: int) -> None:
        self._pieces = pieces
        self._line_bytes_max = line_bytes_max
        self._lines: deque[Line] = deque()
        self._bytes = 0
        self._count = 0
        self._error: BsfgError | None = None
        self._has_ended = False
        self._filled = asyncio.Event()
        self._room = asyncio.Event()
        self._reading: asyncio.Task[None] | None = None

    async def __aenter__(self) -> InputLines:
        self._reading = asyncio.create_task(self._read(), name="input lines")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait([self._reading])

    async def take(self, busy: asyncio.Future[Any] | None) -> list[Line] | None:
        """The next page; None at the end. While ``busy`` is not done it waits for a page to be full.

        When ``busy`` is done and no line is there, the page is empty, so that its outcome is looked at. An error of
        the input is raised when all lines before it were taken.
        """
        while not self._is_full() and not self._has_ended:
            is_busy = busy is not None and not busy.done()
            if not is_busy and (self._lines or busy is not None):
                break
            self._filled.clear()
            await _first(self._filled.wait(), busy if is_busy else None)
        if not self._lines and self._has_ended:
            if self._error is not None:
                raise self._error
            return None
        return self._page()

    def _is_full(self) -> bool:
        return len(self._lines) >= PAGE_LINES_MAX or self._bytes >= PAGE_BYTES

    def _page(self) -> list[Line]:
        page: list[Line] = []
        size = 0
        while self._lines and len(page) < PAGE_LINES_MAX and size < PAGE_BYTES:
            line = self._lines.popleft()
            page.append(line)
            size += len(line[1])
        self._bytes -= size
        if self._bytes < AHEAD_BYTES_MAX:
            self._room.set()
        return page

    async def _read(self) -> None:
        rest = b""
        try:
            async for piece in self._pieces:
                *whole, rest = (rest + piece).split(b"\n")
                for line in whole:
                    self._add(line)
                self._check_length(rest, self._count + 1)
                self._filled.set()
                while self._bytes >= AHEAD_BYTES_MAX:
                    self._room.clear()
                    await self._room.wait()
            self._add(rest)
        except BsfgError as error:
            self._error = error
        except (OSError, EOFError) as error:
            self._error = BsfgError(Code.UNAVAILABLE, f"the input broke off: {error or type(error).__name__}")
        except Exception as error:  # The server has its own kinds of broken request; each ends the input.
            self._error = BsfgError(Code.INVALID_REQUEST, f"the input can't be read: {type(error).__name__}")
        finally:
            self._has_ended = True
            self._filled.set()

    def _add(self, line: bytes) -> None:
        self._count += 1
        self._check_length(line, self._count)
        if line and not line.isspace():
            self._lines.append((self._count, line))
            self._bytes += len(line)

    def _check_length(self, line: bytes, number: int) -> None:
        if len(line) > self._line_bytes_max:
            raise BsfgError(
                Code.TOO_LARGE,
                f"line {number}: the line is longer than {self._line_bytes_max} bytes",
                lines=[number, number],
            )


async def _first(filled: Any, busy: asyncio.Future[Any] | None) -> None:
    """Wait for more lines, or for what is under way."""
    waiting = asyncio.ensure_future(filled)
    try:
        await asyncio.wait([waiting, busy] if busy is not None else [waiting], return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await waiting
