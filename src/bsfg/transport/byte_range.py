"""One range of bytes as HTTP asks for it (RFC 9110, section 14): a value, and no more than one."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

DIGITS_MAX: Final = 18
"""Longer numbers are larger than any artifact."""
_ONE_RANGE: Final = re.compile(r"bytes=[ \t]*([0-9]*)-([0-9]*)[ \t]*", re.ASCII)


@dataclass(frozen=True, slots=True)
class ByteRange:
    """From ``start`` up to and without ``end``; a range has at least one byte."""

    start: int
    end: int

    def content_range(self, size: int) -> str:
        return f"bytes {self.start}-{self.end - 1}/{size}"


class NoSuchRange(Exception):
    """The range is backwards, malformed, several, or has no byte of what there is."""


def parse_range(header: str | None, size: int) -> ByteRange | None:
    """The range that is asked for, or None for the whole; a unit that is not bytes is as if nothing were asked.

    Raises :class:`NoSuchRange` with words for a peer.
    """
    if header is None or not header.lower().startswith("bytes="):
        return None
    if "," in header:
        raise NoSuchRange("one range at a time")
    match = _ONE_RANGE.fullmatch("bytes=" + header[6:])
    if match is None or match[1] == match[2] == "":
        raise NoSuchRange("it is not bytes=FIRST-LAST, bytes=FIRST- or bytes=-COUNT")
    if match[1] == "":
        start, end = max(0, size - _number(match[2])), size
    else:
        start, end = _number(match[1]), _number(match[2]) + 1 if match[2] else size
        if match[2] and end <= start:
            raise NoSuchRange("its end comes before its beginning")
    end = min(end, size)
    if start >= end:
        raise NoSuchRange(f"the artifact has {size} bytes")
    return ByteRange(start, end)


def _number(digits: str) -> int:
    digits = digits.lstrip("0") or "0"
    return int(digits) if len(digits) <= DIGITS_MAX else 10**DIGITS_MAX
