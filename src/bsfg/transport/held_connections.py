"""Connections for polls that a peer holds: what a gateway with many level links does all the time, and nothing else.

A poll of a level link is the same request on the same connection every few seconds, and its answer is one small page.
Over aiohttp's client one takes 0.35 ms of CPU, here a third of that (measured); with 500 links that is the difference
between 3.4 and 1.2 % of a core. Only answers of the plainest form are taken: one with a length. Whatever else happens,
the question goes the ordinary way, which is made for it and knows what to call it; a question may be asked twice.
"""

from __future__ import annotations

import asyncio
import math
import re
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Final

from bsfg.transport.resolver import NameResolver, is_address

CONNECTIONS_MAX: Final = 256
IDLE_SECONDS: Final = 30.0
HEAD_BYTES_MAX: Final = 16 * 1024
HEADERS_MAX: Final = 64
_START: Final = b"HTTP/1.1 "
_STATUS: Final = re.compile(rb"HTTP/1\.1 ([2-5][0-9][0-9])(?: [\t\x20-\x7e]*)?")
_FIELD: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[\t ]*([\t\x20-\x7e]*)")
_LENGTH: Final = re.compile(rb"[0-9]{1,12}")
_READ: Final = (b"content-length", b"content-type", b"content-encoding", b"retry-after", b"connection")
_OTHER_FRAMING: Final = (b"transfer-encoding", b"upgrade", b"trailer")


@dataclass(frozen=True, slots=True)
class Head:
    """The head of an answer with a length; header values are empty where there is none."""

    status: int
    length: int
    content_type: str
    encoding: str
    retry_after: str
    is_last: bool
    """Whether the peer closes the connection behind it."""


@dataclass(frozen=True, slots=True)
class HeldAnswer:
    """What came back, whole; nothing of it has been looked at."""

    head: Head
    body: bytes


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Seconds: until there is a connection, until the first byte of the answer, and from there to its last."""

    connect: float
    silence: float
    answer: float


@lru_cache(maxsize=64)
def parse_head(block: bytes) -> Head | None:
    """The head without its empty line; None for what is not of the plainest form.

    Answers of one second have the same head as long as they have the same length, so a few are remembered.
    """
    first, *lines = block.split(b"\r\n")
    status = _STATUS.fullmatch(first)
    if status is None or len(lines) > HEADERS_MAX:
        return None
    found: dict[bytes, bytes] = {}
    for line in lines:
        parts = _FIELD.fullmatch(line)
        if parts is None:
            return None
        name = parts[1].lower()
        if name in _OTHER_FRAMING or name in found:
            return None
        if name in _READ:
            found[name] = parts[2].strip()
    length = found.get(b"content-length", b"")
    if not _LENGTH.fullmatch(length):
        return None
    text = {name: value.decode("ascii") for name, value in found.items()}
    return Head(
        int(status[1]),
        int(length),
        text.get(b"content-type", "").partition(";")[0].strip().lower(),
        text.get(b"content-encoding", ""),
        text.get(b"retry-after", ""),
        text.get(b"connection", "").lower() == "close",
    )


@dataclass(eq=False)
class _Timer:
    """One timer for all connections of a peer, set anew when it rings: one a poll would cost as much as the poll."""

    loop: asyncio.AbstractEventLoop
    ring: Callable[[float], float]
    """Takes the time by the loop's clock, and says when to ring next; infinity for never."""
    _handle: asyncio.TimerHandle | None = None

    def rings_by(self, due: float) -> None:
        """Ring then, or before."""
        if self._handle is None or self._handle.when() > due:
            self.stop()
            self._handle = self.loop.call_at(due, self._ring)

    def stop(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _ring(self) -> None:
        self._handle = None
        due = self.ring(self.loop.time())
        if due < math.inf:
            self.rings_by(due)


class _Connection(asyncio.Protocol):
    """One connection, asked one thing at a time. An answer of None says that there is none of the plainest form."""

    def __init__(self, loop: asyncio.AbstractEventLoop, timer: _Timer) -> None:
        self.idle_since = 0.0
        self.due = math.inf
        """When what is waited for must have come, by the loop's clock."""
        self._loop = loop
        self._timer = timer
        self._received = bytearray()
        self._head: Head | None = None
        self._bytes_max = 0
        self._waiting: asyncio.Future[HeldAnswer | None] | None = None
        self._answer_seconds = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    @property
    def is_open(self) -> bool:
        return not self._transport.is_closing()

    def close(self) -> None:
        self._transport.abort()

    async def ask(self, request: bytes, bytes_max: int, deadlines: Deadlines) -> HeldAnswer | None:
        """TimeoutError when the peer says nothing, or does not come to an end."""
        waiting = self._waiting = self._loop.create_future()
        self._bytes_max, self._answer_seconds, self._head = bytes_max, deadlines.answer, None
        self._expect_within(deadlines.silence)
        try:
            self._transport.write(request)
            answer: HeldAnswer | None = await waiting
        finally:
            self._waiting, self.due = None, math.inf
        return answer

    def data_received(self, data: bytes) -> None:
        if self._waiting is None or self._waiting.done():
            # Nobody has asked for this.
            self.close()
            return
        is_first = not self._received and self._head is None
        self._received += data
        if self._head is not None or self._take_head():
            self._take_body()
        if is_first and not self._waiting.done():
            self._expect_within(self._answer_seconds)

    def _take_body(self) -> None:
        assert self._head is not None
        if len(self._received) > self._head.length:
            self._give_up()
        elif len(self._received) == self._head.length:
            body = bytes(self._received)
            self._received.clear()
            self._end(HeldAnswer(self._head, body))

    def _expect_within(self, seconds: float) -> None:
        self.due = self._loop.time() + seconds
        self._timer.rings_by(self.due)

    def expire(self) -> None:
        """What was waited for has not come in time."""
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(TimeoutError())

    def connection_lost(self, error: Exception | None) -> None:
        self._end(None)

    def _take_head(self) -> bool:
        """Whether the head is there, and promises no more than was asked for."""
        end = self._received.find(b"\r\n\r\n", 0, HEAD_BYTES_MAX)
        if end < 0:
            if len(self._received) >= HEAD_BYTES_MAX or not self._received.startswith(_START[: len(self._received)]):
                self._give_up()
            return False
        self._head = parse_head(bytes(self._received[:end]))
        del self._received[: end + 4]
        if self._head is None or self._head.length > self._bytes_max:
            self._give_up()
            return False
        return True

    def _give_up(self) -> None:
        self._received.clear()
        self._end(None)
        self.close()

    def _end(self, answer: HeldAnswer | None) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(answer)


@dataclass(eq=False)
class HeldConnections:
    """The connections of one peer, under one trust. ``close`` them in the end."""

    host: str
    port: int
    context: ssl.SSLContext
    server_name: str | None
    resolver: NameResolver
    is_proved: bool = False
    """Whether the peer has answered the ordinary way since the last failure: a failure is named there alone."""
    _is_closed: bool = False
    _open: set[_Connection] = field(default_factory=set)
    _free: list[_Connection] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._timer = _Timer(asyncio.get_running_loop(), self._expire)

    async def ask(self, request: bytes, bytes_max: int, deadlines: Deadlines) -> HeldAnswer | None:
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

    def _take_back(self, connection: _Connection, *, is_good: bool) -> None:
        if is_good and connection.is_open and not self._is_closed:
            connection.idle_since = asyncio.get_running_loop().time()
            self._free.append(connection)
            return
        connection.close()
        self._open.discard(connection)

    async def _connection(self, seconds: float) -> _Connection | None:
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

    async def _dialled(self) -> _Connection:
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

    async def _dial(self, place: str) -> _Connection:
        loop = asyncio.get_running_loop()
        made = partial(_Connection, loop, self._timer)
        _, connection = await loop.create_connection(
            made, place, self.port, ssl=self.context, server_hostname=self.server_name
        )
        return connection
