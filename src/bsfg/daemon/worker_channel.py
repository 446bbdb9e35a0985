"""Words between a gateway and its worker processes: length-prefixed frames over a pair of sockets that only they have.

Both ends are one installation and one user, so a word is a pickled value of our own classes; nothing else is let in,
and what peers said travels in it as data alone. Frames are bounded, and so is what waits to be sent.
"""

from __future__ import annotations

import asyncio
import io
import pickle
import socket
import struct
from typing import Any, Final

from bsfg.errors import BsfgError, Code

FRAME_BYTES_MAX: Final = 64 * 1024 * 1024
"""Orders carry revocation lists, which may be long."""
WAITING_BYTES_MAX: Final = 128 * 1024 * 1024
CLOSE_SECONDS: Final = 1.0
_LENGTH: Final = struct.Struct(">I")
_OTHERS: Final = frozenset({("pathlib", "PosixPath"), ("builtins", "frozenset"), ("builtins", "set")})


class _Words(pickle.Unpickler):
    """Classes of our own, and nothing that could do anything."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _OTHERS and not (module.startswith("bsfg.") and "." not in name):
            raise pickle.UnpicklingError(f"{module}.{name} is no word of ours")
        found = super().find_class(module, name)
        if module.startswith("bsfg.") and getattr(found, "__module__", None) != module:
            raise pickle.UnpicklingError(f"{module}.{name} is no word of ours")
        return found


def encode(word: object) -> bytes:
    """The frame of a word; ``too_large`` if it is longer than a frame may be."""
    body = pickle.dumps(word, protocol=pickle.HIGHEST_PROTOCOL)
    if len(body) > FRAME_BYTES_MAX:
        raise BsfgError(Code.TOO_LARGE, f"a word of {len(body)} bytes does not fit between processes")
    return _LENGTH.pack(len(body)) + body


def decode(body: bytes) -> object:
    """The word of a frame's body; ``bad_answer`` if it is none."""
    try:
        return _Words(io.BytesIO(body)).load()
    except Exception as error:
        # Whatever a damaged body makes the loader do, it is no word.
        raise BsfgError(Code.BAD_ANSWER, f"a frame holds no word: {error!r}") from error


class Channel:
    """One end of the pair."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, end: socket.socket) -> Channel:
        """The channel over this end, which it closes in the end."""
        return cls(*await asyncio.open_unix_connection(sock=end))

    def send(self, word: object) -> None:
        """Put a word on its way, without waiting; ``too_many`` if the other end does not read."""
        if self._writer.transport.get_write_buffer_size() > WAITING_BYTES_MAX:
            raise BsfgError(Code.TOO_MANY, "the other end does not read")
        if not self._writer.is_closing():
            self._writer.write(encode(word))

    async def sent(self) -> None:
        """Wait until little waits to be sent; ``unavailable`` if the other end is gone."""
        try:
            await self._writer.drain()
        except OSError as error:
            raise BsfgError(Code.UNAVAILABLE, f"the other end is gone: {error.strerror}") from error

    async def receive(self) -> object | None:
        """The next word; None once the other end is gone. Raises ``bad_answer`` for what is no word."""
        try:
            (length,) = _LENGTH.unpack(await self._reader.readexactly(_LENGTH.size))
            if length > FRAME_BYTES_MAX:
                raise BsfgError(Code.BAD_ANSWER, f"a frame announces {length} bytes, more than {FRAME_BYTES_MAX}")
            return decode(await self._reader.readexactly(length))
        except (asyncio.IncompleteReadError, OSError):
            return None

    async def close(self) -> None:
        """Nothing of it stays open; what was not sent by then is dropped."""
        self._writer.close()
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._writer.wait_closed()
        except (TimeoutError, OSError):
            self._writer.transport.abort()
