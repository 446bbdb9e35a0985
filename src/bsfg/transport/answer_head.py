"""The head of an answer of the plainest form (RFC 9112): what our own connections read, and nothing else."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

HEAD_BYTES_MAX: Final = 16 * 1024
HEADERS_MAX: Final = 64
_START: Final = b"HTTP/1.1 "
_STATUS: Final = re.compile(rb"HTTP/1\.1 ([2-5][0-9][0-9])(?: [\t\x20-\x7e]*)?")
_FIELD: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[\t ]*([\t\x20-\x7e]*)")
_LENGTH: Final = re.compile(rb"[0-9]{1,12}")
_READ: Final = (
    b"content-length",
    b"transfer-encoding",
    b"content-type",
    b"content-encoding",
    b"retry-after",
    b"connection",
)
_OTHER_FRAMING: Final = (b"upgrade", b"trailer")


@dataclass(frozen=True, slots=True)
class Head:
    """The head of an answer; header values are empty where there is none."""

    status: int
    length: int | None
    """None for a chunked answer."""
    content_type: str
    encoding: str
    retry_after: str
    is_last: bool
    """Whether the peer closes the connection behind it."""


def may_begin_head(block: bytes | bytearray) -> bool:
    """Whether a head that is not whole yet may become one."""
    return len(block) < HEAD_BYTES_MAX and block.startswith(_START[: len(block)])


@lru_cache(maxsize=64)
def parse_head(block: bytes) -> Head | None:
    """The head without its empty line; None for what is not of the plainest form.

    Answers of one second have the same head as long as they have the same length, so a few are remembered.
    """
    first, *lines = block.split(b"\r\n")
    status = _STATUS.fullmatch(first)
    found = _fields(lines)
    if status is None or found is None:
        return None
    length, coding = found.get(b"content-length"), found.get(b"transfer-encoding")
    if length is None:
        is_framed = coding is not None and coding.lower() == b"chunked"
    else:
        is_framed = coding is None and _LENGTH.fullmatch(length) is not None
    if not is_framed:
        return None
    text = {name: value.decode("ascii") for name, value in found.items()}
    return Head(
        int(status[1]),
        None if length is None else int(length),
        text.get(b"content-type", "").partition(";")[0].strip().lower(),
        text.get(b"content-encoding", ""),
        text.get(b"retry-after", ""),
        text.get(b"connection", "").lower() == "close",
    )


def _fields(lines: list[bytes]) -> dict[bytes, bytes] | None:
    """What of the headers is read; None where one is malformed, there twice, or frames the body in another way."""
    if len(lines) > HEADERS_MAX:
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
    return found
