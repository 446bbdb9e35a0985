"""A fact, its digest, and its coordinates as they travel in the ``Bsfg-Origin`` header (contract, sections 1 and 2).

A fact's headers are kept as one block of bytes, ``Name: value\\r\\n`` for each allowed header in the producer's order,
so that a page of facts can be forwarded without building an object for each header. The block is empty when there are
none. The producer's ``Nats-Msg-Id`` stands in the block under that name; it becomes ``Bsfg-Message-Id`` only in the
inbound stream. No other ``Nats-*`` or ``Bsfg-*`` header is ever in a block: ``Nats-Rollup: all`` erases a stream.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from bsfg.model.moment import format_time, parse_time

PAYLOAD_BYTES_MAX: Final = 1024 * 1024
HEADERS_BYTES_MAX: Final = 32 * 1024
NATS_HEADER_LINE: Final = b"NATS/1.0"
ORIGIN_HEADER: Final = "Bsfg-Origin"
MESSAGE_ID_HEADER: Final = "Nats-Msg-Id"
INBOUND_MESSAGE_ID_HEADER: Final = "Bsfg-Message-Id"

_RESERVED_NAME: Final = re.compile(rb"(?:nats|bsfg)-", re.IGNORECASE)
_RESERVED_LINE: Final = re.compile(rb"(?:\A|\n)(?:nats|bsfg)-", re.IGNORECASE)
_ONLY_OF_NATS: Final = re.compile(rb"NATS/1\.0\r\n(?:Nats-(?!Msg-Id:)[^\r]*\r\n)*\r\n")
"""A raw header with nothing of the producer's: what an atomic batch or a fence leaves on a message."""
_LINE: Final = re.compile(rb"[!-9;-~]+: (?:[^\s][^\r\n\x00]*)?")
_VALUE_SPACE: Final = b" \t"


class Fact(NamedTuple):
    """One immutable message of a stream, as its origin stored it."""

    sequence: int
    subject: str
    time: int
    """When the origin's stream stored it, nanoseconds since 1970."""
    headers: bytes
    """The block of allowed headers."""
    payload: bytes


class Origin(NamedTuple):
    """The coordinates of a fact at its origin, and its stored time there."""

    zone: str
    stream: str
    epoch: str
    sequence: int
    time: int

    def header_value(self) -> str:
        return f"{self.zone} {self.stream} {self.epoch} {self.sequence} {format_time(self.time)}"


def parse_origin(value: str) -> Origin:
    """The coordinates in a ``Bsfg-Origin`` header; ValueError if it is not one."""
    parts = value.split(" ")
    if len(parts) != 5 or not parts[3].isdecimal() or not parts[3].isascii():
        raise ValueError(f"not a {ORIGIN_HEADER} header: {value!r}")
    return Origin(parts[0], parts[1], parts[2], int(parts[3]), parse_time(parts[4]))


def split_headers(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Name and value of each header line of a block or of a raw NATS header (whose first line is skipped)."""
    for line in block.split(b"\r\n"):
        name, colon, value = line.partition(b":")
        if colon and name:
            yield name, value.strip(_VALUE_SPACE)


def join_headers(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The block of these headers."""
    return b"".join(b"%b: %b\r\n" % pair for pair in headers)


def allowed_headers(raw: bytes) -> bytes:
    """The block of allowed headers of a raw NATS header as the origin's stream stored it."""
    if not raw or _ONLY_OF_NATS.fullmatch(raw):
        return b""
    return join_headers(
        (name, value)
        for name, value in split_headers(raw)
        if name == b"Nats-Msg-Id" or not _RESERVED_NAME.match(name)
    )


def is_allowed_block(block: bytes) -> bool:
    """Whether a block that a peer sent is well-formed and holds no reserved header but ``Nats-Msg-Id``."""
    if not block:
        return True
    if len(block) > HEADERS_BYTES_MAX or not block.endswith(b"\r\n"):
        return False
    lines = block[:-2].split(b"\r\n")
    if not all(_LINE.fullmatch(line) for line in lines):
        return False
    if not _RESERVED_LINE.search(block):
        return True
    return all(line.startswith(b"Nats-Msg-Id: ") or not _RESERVED_NAME.match(line) for line in lines)


def inbound_block(block: bytes) -> bytes:
    """The block as the inbound stream stores it: the producer's message id under BSFG's name, in its place."""
    if b"Nats-Msg-Id: " not in block:
        return block
    return join_headers(
        (b"Bsfg-Message-Id" if name == b"Nats-Msg-Id" else name, value)
        for name, value in split_headers(block)
    )


def origin_block(raw: bytes) -> bytes:
    """The origin's block, from the raw header of an inbound message: the inverse of :func:`inbound_block`."""
    return join_headers(
        (b"Nats-Msg-Id" if name == b"Bsfg-Message-Id" else name, value)
        for name, value in split_headers(raw)
        if name == b"Bsfg-Message-Id" or not _RESERVED_NAME.match(name)
    )


def header_pairs(block: bytes) -> list[tuple[str, str]]:
    """The headers of a block as text; bytes that aren't UTF-8 are shown as surrogates."""
    return [
        (name.decode("utf-8", "surrogateescape"), value.decode("utf-8", "surrogateescape"))
        for name, value in split_headers(block)
    ]


def digest(fact: Fact) -> str:
    """Lower-case hexadecimal sha-256 over subject, header names and values, and payload, each with its length."""
    hasher = hashlib.sha256()
    for field in _digest_fields(fact):
        hasher.update(len(field).to_bytes(4, "big"))
        hasher.update(field)
    return hasher.hexdigest()


def _digest_fields(fact: Fact) -> Iterator[bytes]:
    yield fact.subject.encode()
    for name, value in split_headers(fact.headers):
        yield name
        yield value
    yield fact.payload
