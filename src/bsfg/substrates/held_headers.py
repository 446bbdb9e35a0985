"""The headers that this gateway writes into an inbound stream, read back by the page.

Each look gives nothing unless every header has coordinates of the link's epoch, once, in their place: what else there
is, is told one by one elsewhere.
"""

from __future__ import annotations

import contextlib
import re
from functools import lru_cache
from itertools import accumulate, chain, groupby, pairwise
from operator import add
from struct import Struct
from typing import Final, NamedTuple

from bsfg.model.cursor import LinkName
from bsfg.model.fact import ORIGIN_HEADER, origin_block
from bsfg.model.moment import parse_time
from bsfg.substrates.number_texts import stand_in

SECONDS_CACHED_MAX: Final = 4_096
CUTS_CACHED_MAX: Final = 8
EVEN_HEADERS_MIN: Final = 16
"""Headers of one length in a row, as many as this on the average, are worth a look by the column."""

_VERSION_LINE: Final = b"NATS/1.0\r\n"
_BEGINNING: Final = rb"(?:\A|(?<=\r\n\r\n))NATS/1\.0\r\n(?:Nats-.*+(?<=\r)\n)*+"
"""The beginning of a raw header, and what the server leaves in it; an empty line ends each header and is in none."""
_OWN: Final = rb"\r\n((?:[^\r\n]++\r\n)*+)\r\n"
"""The producer's own headers behind the coordinates."""
_END: Final = rb"([0-9]++) [0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]++Z" + _OWN
_TIMED_END: Final = rb"([0-9]++) ([0-9-]{10}T[0-9:]{8})\.([0-9]{9})Z" + _OWN
_MARK: Final = f"{ORIGIN_HEADER}: ".encode()
_DIGITS_AS_ZEROS: Final = bytes.maketrans(b"123456789", b"000000000")


class HeldHeaders(NamedTuple):
    """What the headers of messages in a row say of the facts that they were, in columns."""

    sequences: list[int]
    blocks: list[bytes]
    """The producer's own headers, as a fact has them."""


class TimedHeaders(NamedTuple):
    """The same with the times at which the origin stored the facts, in nanoseconds since 1970."""

    sequences: list[int]
    times: list[int]
    blocks: list[bytes]


class HeaderReading:
    """How the headers of one link and epoch look."""

    def __init__(self, link: LinkName, epoch: str) -> None:
        self._origin = f"{ORIGIN_HEADER}: {link.peer} {link.stream} {epoch} ".encode()
        origin = re.escape(self._origin)
        self._plain = re.compile(_BEGINNING + origin + _END)
        self._timed = re.compile(_BEGINNING + origin + _TIMED_END)
        self._seconds = _Seconds()

    def plain(self, headers: list[bytes]) -> HeldHeaders | None:
        """These raw headers; None if any of them is not as this link writes them."""
        if not headers:
            return None
        stretches = _stretches(headers)
        if len(stretches) == 1:
            return self._even(headers) or self._each(headers)
        if len(headers) < EVEN_HEADERS_MIN * len(stretches):
            return self._each(headers)
        found = [self._even(each) or self._each(each) for each in stretches]
        whole = [each for each in found if each is not None]
        if len(whole) < len(found):
            return None
        return HeldHeaders(*(list(chain.from_iterable(column)) for column in zip(*whole, strict=True)))

    def timed(self, headers: list[bytes]) -> TimedHeaders | None:
        """As :meth:`plain`, with times; None as well if one of these can't be read."""
        if not (found := _found(headers, self._timed)):
            return None
        sequences, seconds, fractions, own = zip(*found, strict=True)
        with contextlib.suppress(ValueError):
            times = list(map(add, map(self._seconds.__getitem__, seconds), map(int, fractions)))
            return TimedHeaders(list(map(int, sequences)), times, _blocks(headers, own))
        return None

    def _each(self, headers: list[bytes]) -> HeldHeaders | None:
        if not (found := _found(headers, self._plain)):
            return None
        sequences, own = zip(*found, strict=True)
        return HeldHeaders(list(map(int, sequences)), _blocks(headers, own))

    def _even(self, headers: list[bytes]) -> HeldHeaders | None:
        """Headers of one length without any of the producer's that differ in decimal digits alone.

        Beside the digits all are as the first; their sequences have no hole. None for others.
        """
        look = self._plain.fullmatch(headers[0])
        if look is None or look[2]:
            return None
        count, first, at = len(headers), int(look[1]), look.start(1)
        of_server, end = headers[0][len(_VERSION_LINE) : at - len(self._origin)], headers[0][at:]
        parts = _cut(len(of_server), len(self._origin), len(end), count).unpack(b"".join(headers))
        ends, sequences = b"".join(parts[3::4]), list(range(first, first + count))
        if (
            parts[0::4].count(_VERSION_LINE) == count
            and _without_digits(b"".join(parts[1::4])) == _without_digits(of_server) * count
            and parts[2::4].count(self._origin) == count
            and _without_digits(ends) == _without_digits(end) * count
            and stand_in(ends, 0, len(end), sequences)
        ):
            return HeldHeaders(sequences, [b""] * count)
        return None


def _stretches(headers: list[bytes]) -> list[list[bytes]]:
    """The headers in pieces, all of a piece of one length."""
    lengths = list(map(len, headers))
    if lengths.count(lengths[0]) == len(lengths):
        return [headers]
    ends = list(accumulate(len(list(group)) for _, group in groupby(lengths)))
    return [headers[begin:end] for begin, end in pairwise([0, *ends])]


def _without_digits(text: bytes) -> bytes:
    return text.translate(_DIGITS_AS_ZEROS)


def _found(headers: list[bytes], pattern: re.Pattern[bytes]) -> list[tuple[bytes, ...]]:
    """What one look finds in the headers of all; nothing unless each has coordinates of ours, once, in their place."""
    text = b"".join(headers)
    found = pattern.findall(text)
    return found if len(found) == len(headers) == text.count(_MARK) else []


def _blocks(headers: list[bytes], own: tuple[bytes, ...]) -> list[bytes]:
    if not any(own):
        return [b""] * len(own)
    return [origin_block(raw) if rest else b"" for raw, rest in zip(headers, own, strict=True)]


@lru_cache(maxsize=CUTS_CACHED_MAX)
def _cut(of_server_bytes: int, origin_bytes: int, end_bytes: int, count: int) -> Struct:
    """Takes so many headers apart: the version, the server's lines, the origin up to the sequence, and the rest."""
    return Struct("=" + f"{len(_VERSION_LINE)}s{of_server_bytes}s{origin_bytes}s{end_bytes}s" * count)


class _Seconds(dict[bytes, int]):
    """Times without their fractions as nanoseconds since 1970; ValueError for what is none."""

    def __missing__(self, text: bytes) -> int:
        if len(self) >= SECONDS_CACHED_MAX:
            self.clear()
        self[text] = parse_time(f"{text.decode()}Z")
        return self[text]
