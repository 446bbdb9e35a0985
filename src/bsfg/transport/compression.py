"""Pages compressed with zstd for thin links: asked for by the receiver, each page a zstd frame of its own.

An answer of several pages is one zstd frame behind another, which is what ``Content-Encoding: zstd`` means anyway
(RFC 8878, section 3.1), so a page can be flushed when it is full and any HTTP client can read the whole. Requests are
never compressed. What a peer compressed is hostile: it is inflated in steps, never to more than a page may hold, and
with no larger window than RFC 9659 allows in HTTP.
"""

from __future__ import annotations

import sys
from typing import Final, Protocol

from bsfg.transport.page_check import bad_answer

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

ZSTD: Final = "zstd"
LEVEL: Final = 3
WINDOW_LOG_MAX: Final = 23
"""8 MiB, the most that a decoder in HTTP must offer (RFC 9659, section 3)."""
STEP_BYTES: Final = 256 * 1024
READ_BYTES_MAX: Final = 64 * 1024


class ByteSource(Protocol):
    """What compressed pages are read from; ``b""`` is its end."""

    async def read(self, count: int) -> bytes: ...


def compress(frame: bytes | bytearray) -> bytes:
    """The page's binary frame as one zstd frame. It takes milliseconds a page and lets other threads run meanwhile."""
    return zstd.compress(frame, LEVEL)


def compressed_bytes_max(bytes_max: int) -> int:
    """The longest zstd frame of so many bytes: what can't be compressed grows by a header a block."""
    return bytes_max + bytes_max // 256 + 512


def accepts_zstd(header: str) -> bool:
    """Whether an ``Accept-Encoding`` header names zstd, and not to exclude it (RFC 9110, section 12.5.3)."""
    for entry in header.split(","):
        name, *parameters = (part.strip().lower() for part in entry.split(";"))
        if name == ZSTD:
            return not any(_is_zero_quality(parameter) for parameter in parameters)
    return False


def _is_zero_quality(parameter: str) -> bool:
    name, _, value = parameter.partition("=")
    return name.strip() == "q" and not value.strip().strip("0.")


class Inflation:
    """One zstd frame on its way to being bytes again, at most ``bytes_max`` of them.

    Every failure is ``bad_answer``. ``rest`` is what was fed and lies behind the frame.
    """

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._fed = 0
        self._inflated = bytearray()
        self._decompressor = zstd.ZstdDecompressor(
            options={zstd.DecompressionParameter.window_log_max: WINDOW_LOG_MAX}
        )

    @property
    def is_whole(self) -> bool:
        return self._decompressor.eof

    @property
    def rest(self) -> bytes:
        return self._decompressor.unused_data

    @property
    def bytes_held(self) -> int:
        return len(self._inflated)

    def feed(self, compressed: bytes) -> None:
        """Take in some more, if the frame is not whole yet."""
        self._fed += len(compressed)
        if self._fed > compressed_bytes_max(self._bytes_max) + READ_BYTES_MAX:
            raise bad_answer(f"a compressed page is longer than one of {self._bytes_max} bytes can be")
        while not self.is_whole:
            step = self._step(compressed)
            compressed = b""
            self._inflated += step
            if len(self._inflated) > self._bytes_max:
                raise bad_answer(f"a page inflates to more than {self._bytes_max} bytes")
            if not step and self._decompressor.needs_input:
                return

    def frame(self) -> bytes:
        """What was inflated."""
        return bytes(self._inflated)

    def _step(self, compressed: bytes) -> bytes:
        room = self._bytes_max + 1 - len(self._inflated)
        try:
            return self._decompressor.decompress(compressed, min(STEP_BYTES, room))
        except zstd.ZstdError as error:
            raise bad_answer(f"a page can't be inflated: {error}") from error


def inflate(body: bytes, bytes_max: int) -> bytes:
    """The one frame that this whole body is."""
    inflation = Inflation(bytes_max)
    for start in range(0, len(body), READ_BYTES_MAX):
        if inflation.is_whole:
            raise bad_answer(f"{len(body) - start} bytes follow the compressed page")
        inflation.feed(body[start : start + READ_BYTES_MAX])
    if not inflation.is_whole:
        raise bad_answer("the compressed page ends before it is whole")
    if inflation.rest:
        raise bad_answer(f"{len(inflation.rest)} bytes follow the compressed page")
    return inflation.frame()


class InflatingReader:
    """Cuts an answer of several compressed pages into their frames."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._ahead = b""
        """Read and belonging to the next page."""

    async def next_frame(self, content: ByteSource) -> bytes | None:
        """The next page's frame; None where the answer has ended before it."""
        ahead, self._ahead = self._ahead, b""
        ahead = ahead or await content.read(READ_BYTES_MAX)
        if not ahead:
            return None
        inflation = Inflation(self._bytes_max)
        inflation.feed(ahead)
        while not inflation.is_whole:
            more = await content.read(READ_BYTES_MAX)
            if not more:
                raise bad_answer("the compressed answer ends within a page")
            inflation.feed(more)
        self._ahead = inflation.rest
        return inflation.frame()
