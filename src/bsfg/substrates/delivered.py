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
from bsfg.substrates.number_texts import stand_in

ACK_TOKENS: Final = 9
ACK_TOKENS_WITH_DOMAIN: Final = 11
"""The same with ``<domain>.<account>`` in front of the stream; a random token may follow."""
ALIKE_LINES_MIN: Final = 32
"""Fewer are read one by one as fast."""
CUTS_CACHED_MAX: Final = 16

_ACK_BEGINS: Final = [b"$JS", b"ACK"]
_NUMBERS: Final = 4
"""Of an acknowledgement subject: stream sequence, consumer sequence, time, pending."""
_DOTS_AS_COMMAS: Final = bytes.maketrans(b".", b",")
_INTEGERS: Final = msgspec.json.Decoder(list[int])
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
    return (len(run) >= ALIKE_LINES_MIN and _alike(run)) or _each(run)


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
    """As :func:`delivered`, for lines of one subject and one length whose sequences have no hole; None for others.

    What stands before the numbers is seen to be the same in all such lines, so that each number stands in one place;
    sequences that rise from the first to the last and are as many need not be read.
    """
    lines, count = run.lines, len(run.lines)
    tokens, last_reply = lines[0].split(b" "), lines[-1].split(b" ")[_TOKENS_BEFORE_REPLY]
    first, _, _, _, last, consumer_sequence, _, pending = numbers_of([tokens[_TOKENS_BEFORE_REPLY], last_reply])
    form = _form(tokens, len(lines[0]) + 1)
    text = b"\n".join([b"", *lines])
    is_even = last - first == count - 1 and len(text) == form.line_bytes * count
    if not is_even or form.time_at + _TIME_DIGITS >= form.line_bytes or text.count(form.beginning) != count:
        return None
    sequences = list(range(first, last + 1))
    if not stand_in(text, len(form.beginning), form.line_bytes, sequences):
        return None
    times = b"".join(_cut(form, count).unpack(text))
    behind_sequence, before_time = len(form.beginning) + len(str(first)), form.time_at - 1
    dots = text[behind_sequence :: form.line_bytes] + text[before_time :: form.line_bytes]
    if dots + times[_TIME_DIGITS :: _TIME_DIGITS + 1] != b"." * (3 * count):
        return None
    return Delivered([tokens[1]] * count, sequences, _integers(times[:-1]), consumer_sequence, pending, True)


class _Form(NamedTuple):
    """How lines that are alike look, each with a line end in front."""

    beginning: bytes
    time_at: int
    line_bytes: int


def _form(tokens: list[bytes], line_bytes: int) -> _Form:
    words = tokens[_TOKENS_BEFORE_REPLY].split(b".")
    at = _numbers_at(words)
    beginning = b"\n%b %b." % (b" ".join(tokens[:_TOKENS_BEFORE_REPLY]), b".".join(words[:at]))
    sequence, consumer_sequence = words[at : at + 2]
    time_at = len(beginning) + len(sequence) + 1 + len(consumer_sequence) + 1
    return _Form(beginning, time_at, line_bytes)


@lru_cache(maxsize=CUTS_CACHED_MAX)
def _cut(form: _Form, count: int) -> Struct:
    """Takes the time with the dot behind it out of so many lines."""
    time_bytes = _TIME_DIGITS + 1
    behind = form.line_bytes - form.time_at - time_bytes
    return Struct("=" + f"{form.time_at}x{time_bytes}s{behind}x" * count)


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
