"""Columns of numbers and times as text: written at once and taken apart, at a fraction of the cost of one by one."""

from __future__ import annotations

from typing import Final

import msgspec

from bsfg.model.moment import NANOSECONDS, format_time

SECONDS_END: Final = 253_402_300_800
"""The first second of the year 10000, which RFC 3339 can't spell."""
SECONDS_AT_ONCE_MAX: Final = 8
"""Each second among the times of a page takes a look through all of them."""

_SECOND_CHARACTERS: Final = len("1970-01-01T00:00:00.")
_ONE_IN_FRONT: Final = 10
_BETWEEN: Final = b"\0"
"""Stands in none of the texts around the numbers."""
_ENCODER: Final = msgspec.json.Encoder()


def decimals(numbers: list[int], before: bytes = b"", behind: bytes = b"") -> list[bytes]:
    """Each number in decimal digits between the same two texts, which hold no NUL; there is one number at least."""
    digits = _ENCODER.encode(numbers)[1:-1]
    return (before + digits.replace(b",", behind + _BETWEEN + before) + behind).split(_BETWEEN)


def stand_in(text: bytes, at: int, step: int, rising: list[int]) -> bool:
    """Whether a text of as many steps as there are numbers has one in each step, at this place, in their order.

    The numbers rise. Told digit by digit for all of them, and only where all have as many digits; False says nothing
    where they don't.
    """
    digits, width = _ENCODER.encode(rising), len(str(rising[0]))
    return all(text[at + place :: step] == digits[1 + place :: width + 1] for place in range(width))


def time_texts(times: list[int], behind: bytes = b"") -> list[bytes]:
    """Each time (nanoseconds since 1970) as RFC 3339 spells it, to the last digit; there is one time at least.

    ``behind`` holds neither NUL nor comma. Raises :class:`UnspeltTime` for the first that has no spelling.
    """
    first, last = min(times) // NANOSECONDS, max(times) // NANOSECONDS
    if first < 0 or last >= SECONDS_END or last - first >= SECONDS_AT_ONCE_MAX:
        return [_time_text(time) + b"Z" + behind for time in times]
    # Counted from the first second and with a 1 in front, all have eleven digits, and the second one is the second.
    shift = (_ONE_IN_FRONT - first) * NANOSECONDS
    text = b"," + _ENCODER.encode([time + shift for time in times])[1:-1]
    ends = b"Z%b" % behind
    for second in range(first, last + 1):
        text = text.replace(b",1%d" % (second - first), ends + _BETWEEN + _second_text(second))
    return (text[len(ends) + len(_BETWEEN) :] + ends).split(_BETWEEN)


class UnspeltTime(ValueError):
    """A time that RFC 3339 can't spell."""

    def __init__(self, time: int) -> None:
        super().__init__(f"{time} ns since 1970")
        self.time = time


def _time_text(time: int) -> bytes:
    second, fraction = divmod(time, NANOSECONDS)
    if not 0 <= second < SECONDS_END:
        raise UnspeltTime(time)
    return _second_text(second) + b"%09d" % fraction


def _second_text(second: int) -> bytes:
    return format_time(second * NANOSECONDS)[:_SECOND_CHARACTERS].encode()
