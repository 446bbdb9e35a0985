"""Messages of equal length in a row, found and cut at once.

Facts of one kind often have the same size, and then each frame begins where the last one's length says: what would be
looked at frame by frame is looked at by the column, across all of them.
"""

from __future__ import annotations

from functools import lru_cache
from struct import Struct
from typing import Final, NamedTuple

EVEN_FRAMES_MIN: Final = 8
"""Fewer cost as much to find as to cut one by one."""
CUTS_CACHED_MAX: Final = 16
_LINE_END_BYTES: Final = 2


class Shape(NamedTuple):
    """A message as it was cut: how its control line begins and ends, and how long each part is."""

    beginning: bytes
    lengths: bytes
    line_bytes: int
    """Without the line's end."""
    header_bytes: int
    total_bytes: int
    """Of header and payload."""

    @property
    def frame_bytes(self) -> int:
        return self.line_bytes + self.total_bytes + 2 * _LINE_END_BYTES


class EvenFrames(NamedTuple):
    """The columns of messages in a row; no headers where they are ``MSG``."""

    lines: list[bytes]
    headers: list[bytes]
    payloads: list[bytes]


_NONE: Final = EvenFrames([], [], [])


def even_frames(buffer: bytes, position: int, shape: Shape) -> EvenFrames:
    """The messages from here on that are of this shape; none where they are few.

    Each has been seen to end its line and its payload where the shape says, and its line to begin and to end like it.
    """
    count = _count(buffer, position, shape.frame_bytes, shape.line_bytes)
    if not count:
        return _NONE
    has_headers = shape.beginning.startswith(b"HMSG ")
    header_bytes = shape.header_bytes if has_headers else None
    cut = _cut(shape.line_bytes, header_bytes, shape.total_bytes - shape.header_bytes, count)
    parts, columns = cut.unpack_from(buffer, position), 3 if has_headers else 2
    lines = list(parts[0::columns])
    if not _are_alike(lines, shape):
        return _NONE
    return EvenFrames(lines, list(parts[1::columns]) if has_headers else [], list(parts[columns - 1 :: columns]))


@lru_cache(maxsize=CUTS_CACHED_MAX)
def _cut(line_bytes: int, header_bytes: int | None, payload_bytes: int, count: int) -> Struct:
    """Takes the parts of all these frames out of their bytes in one call, three times as fast as slice by slice."""
    header = "" if header_bytes is None else f"{header_bytes}s"
    frame = f"{line_bytes}s{_LINE_END_BYTES}x{header}{payload_bytes}s{_LINE_END_BYTES}x"
    return Struct("=" + frame * count)


def _count(buffer: bytes, position: int, stride: int, line_bytes: int) -> int:
    """How many frames of this length lie here, by the four bytes that end their parts."""
    count = (len(buffer) - position) // stride
    for offset, byte in ((stride - 1, b"\n"), (stride - 2, b"\r"), (line_bytes + 1, b"\n"), (line_bytes, b"\r")):
        if count < EVEN_FRAMES_MIN:
            return 0
        column = buffer[position + offset : position + count * stride : stride]
        count -= len(column.lstrip(byte))
    return count if count >= EVEN_FRAMES_MIN else 0


def _are_alike(lines: list[bytes], shape: Shape) -> bool:
    """Whether each of these begins and ends as the shape has it, and is one line."""
    seam = shape.lengths + b"\n" + shape.beginning
    return (
        b"\n" not in b"".join(lines)
        and lines[0].startswith(shape.beginning)
        and lines[-1].endswith(shape.lengths)
        and b"\n".join(lines).count(seam) == len(lines) - 1
    )
