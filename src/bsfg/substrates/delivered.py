"""Where the messages of a consumer stand in their stream: what their control lines say, read by the page.

JetStream puts all of it into the reply subject, as
``$JS.ACK.<stream>.<consumer>.<deliveries>.<sequence>.<consumer sequence>.<time>.<pending>``.
"""

from __future__ import annotations

from functools import lru_cache
from struct import Struct
from typing import Final, NamedTuple

import msgspec

from bsfg.substrates.nats_frames import Messages

ACK_TOKENS: Final = 9
ACK_TOKENS_WITH_DOMAIN: Final = 11
"""The same with ``<domain>.<account>`` in front of the stream; a random token may follow."""
CELLS_CACHED_MAX: Final = 16

_ACK_BEGINS: Final = [b"$JS", b"ACK"]
_NUMBERS: Final = 4
"""Of an acknowledgement subject: stream sequence, consumer sequence, time, pending."""
_DOTS_AS_COMMAS: Final = bytes.maketrans(b".", b",")
_INTEGERS: Final = msgspec.json.Decoder(list[int])
_TIME: Final = 2
"""The place of the time among them."""
_TIME_DIGITS: Final = len("1790000000000000000")
"""Of every time between the years 2001 and 2286."""
_MSG_TOKENS: Final = 5
_HMSG_TOKENS: Final = 6
_TOKENS_BEFORE_REPLY: Final = 3


class Delivered(NamedTuple):
    """What the control lines of one run say, in columns."""

    subjects: list[bytes]
    sequences: list[int]
    times: list[int]
    consumer_sequence: int
    """Of the last of them."""
    pending: int
    is_of_one_subject: bool = False
    """True where all subjects have been seen to be the same; False says nothing."""


def delivered(run: Messages) -> Delivered:
    """The control lines of a run of messages, all taken apart at once; ValueError if they can't be."""
    return _alike(run) or _each(run)


def numbers_of(replies: list[bytes]) -> list[int]:
    """Stream sequence, consumer sequence, time and pending of each acknowledgement subject, one behind the other.

    What stands before the numbers is the same in all, so that it is taken off once, and the numbers are read at once.
    """
    count, words = len(replies), replies[0].split(b".")
    at = _numbers_at(words)
    if following := len(words) - at - _NUMBERS:
        replies = [reply.rsplit(b".", following)[0] for reply in replies]
    same = b".".join(words[:at]) + b"."
    # A subject of another consumer keeps its beginning, which is no number.
    found = _integers(b",".join([reply.removeprefix(same) for reply in replies]))
    if len(found) != count * _NUMBERS:
        raise ValueError("an acknowledgement subject of another number of words")
    return found


def _alike(run: Messages) -> Delivered | None:
    """As :func:`delivered`, for lines of one subject and one length whose sequences have no hole; else None.

    There only the times have to be read, and each stands where it stands in the first line.
    """
    lines, count = run.lines, len(run.lines)
    tokens, last_tokens = lines[0].split(b" "), lines[-1].split(b" ")
    reply = tokens[_TOKENS_BEFORE_REPLY]
    sequence, _, _, _, *last = numbers_of([reply, last_tokens[_TOKENS_BEFORE_REPLY]])
    line_bytes, text = len(lines[0]) + 1, b"\n".join([b"", *lines])
    words = reply.split(b".")
    at = _numbers_at(words)
    beginning = b"\n%b %b." % (b" ".join(tokens[:_TOKENS_BEFORE_REPLY]), b".".join(words[:at]))
    is_alike = (
        last[0] - sequence == count - 1
        and len(text) == line_bytes * count
        and text[::line_bytes] == b"\n" * count
        and text.count(beginning) == count
    )
    if not is_alike:
        return None
    skipped = len(b"%b%b." % (beginning, b".".join(words[at : at + _TIME])))
    times = _times(text, skipped, line_bytes, count)
    if times is None:
        return None
    return Delivered([tokens[1]] * count, list(range(sequence, last[0] + 1)), times, last[1], last[3], True)


def _times(text: bytes, skipped: int, line_bytes: int, count: int) -> list[int] | None:
    """The times that stand behind so many bytes of each line; None where it is not just them that stand there."""
    cell = _TIME_DIGITS + 1
    cells = b"".join(_cells(skipped, cell, line_bytes - skipped - cell, count).unpack(text))
    if cells[_TIME_DIGITS::cell] != b"." * count or cells.count(b".") != count:
        return None
    return _integers(cells[:-1])


@lru_cache(maxsize=CELLS_CACHED_MAX)
def _cells(before: int, cell: int, behind: int, count: int) -> Struct:
    return Struct("=" + f"{before}x{cell}s{behind}x" * count)


def _each(run: Messages) -> Delivered:
    count = len(run.lines)
    tokens = b" ".join(run.lines).split(b" ")
    width = _HMSG_TOKENS if run.headers else _MSG_TOKENS
    replies = tokens[_TOKENS_BEFORE_REPLY::width]
    if len(tokens) != count * width:
        raise ValueError("a control line of another number of words")
    numbers = numbers_of(replies)
    last = numbers[-_NUMBERS:]
    return Delivered(tokens[1::width], numbers[0::_NUMBERS], numbers[2::_NUMBERS], last[1], last[3])


def _integers(digits: bytes) -> list[int]:
    return _INTEGERS.decode(b"[%b]" % digits.translate(_DOTS_AS_COMMAS))


def _numbers_at(words: list[bytes]) -> int:
    """Where the numbers begin in an acknowledgement subject; ValueError if it is none."""
    count = len(words)
    from_right = _NUMBERS if count == ACK_TOKENS else _NUMBERS + max(0, count - ACK_TOKENS_WITH_DOMAIN)
    at = count - from_right
    if at < len(_ACK_BEGINS) or words[: len(_ACK_BEGINS)] != _ACK_BEGINS:
        raise ValueError("not an acknowledgement subject")
    return at
