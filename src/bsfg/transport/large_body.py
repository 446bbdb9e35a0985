"""The body of a large answer, read into pieces that are as they come (design, section 3, decision 12).

aiohttp reads the head and keeps the exchange; from there on its connection belongs to this reader. Decrypted bytes go
straight into the piece that is handed on: one wait and no copy a megabyte, where aiohttp has a step and three copies
for each 64 KiB. The connection is of no use to anybody else afterwards, so a body should be worth a handshake.
"""

from __future__ import annotations

import asyncio
from collections import deque
from types import TracebackType
from typing import Final

import aiohttp

from bsfg.transport.tls_buffers import read_much

PIECE_BYTES: Final = 1024 * 1024
PIECES_MAX: Final = 2
"""That nobody has taken yet; the peer waits then."""
PATIENCE_SECONDS: Final = 0.25
"""A piece that is not full by then is handed on as it is."""


class LargeBody(asyncio.BufferedProtocol):
    """Reads ``length`` bytes, the rest of an answer whose head has been read. For a ``with`` block, which closes the
    connection at its end. Used from the event loop alone."""

    def __init__(self, response: aiohttp.ClientResponse, length: int, silence_seconds: float) -> None:
        """``TimeoutError`` where nothing comes for so long while it is awaited."""
        self._loop = asyncio.get_running_loop()
        self._silence_seconds = silence_seconds
        self._left = length
        self._pieces: deque[memoryview] = deque()
        self._piece = memoryview(b"")
        self._filled = 0
        self._waiter: asyncio.Future[None] | None = None
        self._has_ended = False
        self._error: BaseException | None = None
        self._transport: asyncio.Transport | None = None
        self._take_over(response)

    def _take_over(self, response: aiohttp.ClientResponse) -> None:
        """Between two events of the connection: what came already is the beginning, and nothing is between."""
        early = response.content.read_nowait()
        if early:
            self._pieces.append(memoryview(early))
        self._left -= len(early)
        connection = response.connection
        if connection is None or connection.protocol is None or connection.transport is None:
            # All of it is here, or it was cut.
            self._has_ended = True
            return
        assert isinstance(connection.transport, asyncio.Transport)
        self._before = connection.protocol
        self._before.force_close()
        self._transport = connection.transport
        self._transport.set_protocol(self)
        read_much(self._transport)
        self._begin_piece()
        self._transport.resume_reading()

    def __enter__(self) -> LargeBody:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._transport is not None:
            self._transport.abort()

    async def piece(self) -> memoryview:
        """The next bytes, as many as have come, at most ``PIECE_BYTES`` and what came with the head; none at the end.

        They are the taker's own. Raises what ended the connection, once all that came before has been taken.
        """
        began = self._loop.time()
        while not self._pieces and not self._has_ended:
            await self._wait()
            if self._filled and not self._pieces:
                self._end_piece()
            elif not self._has_ended and self._loop.time() - began >= self._silence_seconds:
                raise TimeoutError
        if self._pieces:
            piece = self._pieces.popleft()
            self._read_on()
            return piece
        if self._error is not None:
            raise self._error
        return memoryview(b"")

    async def _wait(self) -> None:
        """Until there is a whole piece, or nothing comes any more, or patience ends."""
        waiter = self._waiter = self._loop.create_future()
        timer = self._loop.call_later(PATIENCE_SECONDS, self._wake)
        try:
            await waiter
        finally:
            timer.cancel()
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _begin_piece(self) -> None:
        self._piece, self._filled = memoryview(bytearray(min(PIECE_BYTES, max(1, self._left)))), 0

    def _end_piece(self) -> None:
        if self._filled == len(self._piece):
            self._pieces.append(self._piece)
            self._begin_piece()
        else:
            # A few bytes that wait for more of a slow peer's must not hold a megabyte each.
            self._pieces.append(memoryview(bytes(self._piece[: self._filled])))
            self._piece, self._filled = self._piece[: self._left], 0
        # What follows the body is nobody's.
        if (len(self._pieces) >= PIECES_MAX or not self._left) and self._transport is not None:
            self._transport.pause_reading()

    def _read_on(self) -> None:
        if self._left and self._transport is not None and not self._has_ended:
            self._transport.resume_reading()

    # asyncio.BufferedProtocol

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._piece[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        self._filled += nbytes
        self._left -= nbytes
        if self._filled == len(self._piece):
            self._end_piece()
            self._has_ended = not self._left
            self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._filled and self._left:
            self._pieces.append(self._piece[: self._filled])
            self._filled = 0
        if self._left:
            self._error = exc
        self._has_ended = True
        self._transport = None
        self._wake()
        # Whoever closes the pool waits until the one before has heard of it.
        self._before.connection_lost(exc)
