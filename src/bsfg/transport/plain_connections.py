"""The connections of our own to one peer (see ``plain_connection``), and when they are used.

Whatever is out of the ordinary goes the ordinary way, over aiohttp's client, which is made for it and knows what to
call it; a question may be asked twice.
"""

from __future__ import annotations

import asyncio
import math
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from bsfg.transport.frame_reader import FrameReader, Framing
from bsfg.transport.plain_connection import Deadlines, PlainAnswer, PlainConnection, SharedTimer
from bsfg.transport.resolver import NameResolver, is_address

CONNECTIONS_MAX: Final = 256
"""To one peer, in this way and in the ordinary one each."""
IDLE_SECONDS: Final = 30.0
"""Shorter than listeners keep a connection, so that a request seldom meets one that is being closed."""


@dataclass(eq=False)
class PlainConnections:
    """The connections of one peer, under one trust. ``close`` them in the end."""

    host: str
    port: int
    context: ssl.SSLContext
    server_name: str | None
    resolver: NameResolver
    is_proved: bool = False
    """Whether the peer has answered the ordinary way since the last failure: a failure is named there alone."""
    _is_closed: bool = False
    _open: set[PlainConnection] = field(default_factory=set)
    _free: list[PlainConnection] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._timer = SharedTimer(asyncio.get_running_loop(), self._expire)

    async def ask(self, request: bytes, bytes_max: int, deadlines: Deadlines) -> PlainAnswer | None:
        """The answer; None where the question has to go the ordinary way.

        Raises ``TimeoutError`` when there is no connection, or no answer, within its time, and ``ConnectionError``
        when they are closed meanwhile.
        """
        if not self.is_proved:
            return None
        connection, answer = None, None
        try:
            connection = await self._connection(deadlines.connect)
            if connection is not None:
                answer = await connection.ask(request, bytes_max, deadlines)
        finally:
            self.is_proved = answer is not None and not self._is_closed
            if connection is not None:
                self._take_back(connection, is_good=answer is not None and not answer.head.is_last)
        if self._is_closed and answer is None:
            raise ConnectionResetError("the connections to this peer are closed")
        return answer

    @asynccontextmanager
    async def frames(
        self, request: bytes, framing: Framing, refusal_bytes_max: int, deadlines: Deadlines
    ) -> AsyncIterator[PlainAnswer | FrameReader | None]:
        """For as long as the block runs, the frames of a success; else as :meth:`ask`."""
        if not self.is_proved:
            yield None
            return
        connection, answer = None, None
        try:
            connection = await self._connection(deadlines.connect)
            if connection is not None:
                answer = await connection.ask_for_frames(request, framing, refusal_bytes_max, deadlines)
            if answer is None and self._is_closed:
                raise ConnectionResetError("the connections to this peer are closed")
            yield answer
        finally:
            is_good = answer.is_over if isinstance(answer, FrameReader) else answer is not None
            self.is_proved = is_good and not self._is_closed
            if connection is not None:
                connection.is_back()
                self._take_back(connection, is_good=is_good and answer is not None and not answer.head.is_last)

    def close(self) -> None:
        """Nothing of it stays open; who waits for an answer goes the ordinary way."""
        self._is_closed, self.is_proved = True, False
        self._timer.stop()
        for connection in self._open:
            connection.close()
        self._open.clear()
        self._free.clear()

    def _expire(self, now: float) -> float:
        """Whoever's time is over hears of it; when the next one's is."""
        for connection in self._open:
            if connection.due <= now:
                connection.expire()
        return min((connection.due for connection in self._open if connection.due > now), default=math.inf)

    def _take_back(self, connection: PlainConnection, *, is_good: bool) -> None:
        if is_good and connection.is_open and not self._is_closed:
            connection.idle_since = asyncio.get_running_loop().time()
            self._free.append(connection)
            return
        connection.close()
        self._open.discard(connection)

    async def _connection(self, seconds: float) -> PlainConnection | None:
        now = asyncio.get_running_loop().time()
        while self._free:
            connection = self._free.pop()
            if connection.is_open and now - connection.idle_since < IDLE_SECONDS:
                return connection
            connection.close()
            self._open.discard(connection)
        if len(self._open) >= CONNECTIONS_MAX:
            return None
        try:
            async with asyncio.timeout(seconds):
                opened = await self._dialled()
        except TimeoutError:
            raise
        except OSError:
            return None
        if self._is_closed:
            opened.close()
            return None
        self._open.add(opened)
        return opened

    async def _dialled(self) -> PlainConnection:
        failure: OSError = OSError(f"the name {self.host} has no address")
        for place in await self._places():
            try:
                return await self._dial(place)
            except OSError as error:
                failure = error
        raise failure

    async def _places(self) -> list[str]:
        if is_address(self.host):
            return [self.host]
        return [
            found["host"] for found in await self.resolver.resolve(self.host, self.port, socket.AF_UNSPEC)
        ]

    async def _dial(self, place: str) -> PlainConnection:
        loop = asyncio.get_running_loop()
        made = partial(PlainConnection, loop, self._timer)
        _, connection = await loop.create_connection(
            made, place, self.port, ssl=self.context, server_hostname=self.server_name
        )
        return connection
