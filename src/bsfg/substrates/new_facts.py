"""Facts that a local producer wants to append: checked, and made into what NATS is sent."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final, NamedTuple

from bsfg.errors import BsfgError, Code
from bsfg.model.fact import HEADERS_BYTES_MAX, MESSAGE_ID_HEADER, PAYLOAD_BYTES_MAX, is_allowed_block
from bsfg.model.names import StreamName, is_valid_tail, printable
from bsfg.substrates.message_index import content_of, key_of
from bsfg.substrates.nats_frames import HEADER_FRAME_BYTES

_RESERVED_NAME: Final = re.compile(r"(nats|bsfg)-", re.IGNORECASE)


class NewFact(NamedTuple):
    """A fact that a local producer wants to append."""

    tail: str | None
    """What follows the stream's name in the subject; None or empty for the bare name."""
    message_id: str | None
    """The producer's id; None or empty for none. The same id and content again is the fact that is there."""
    headers: Sequence[tuple[str, str]]
    payload: bytes


class Outgoing(NamedTuple):
    """A checked fact as it is published."""

    number: int
    """Which one of its call it is, from 1: for messages."""
    subject: bytes
    block: bytes
    """Its header lines, the message id among them."""
    payload: bytes
    message_id: str = ""
    key: bytes = b""
    """What the index knows the message id by; empty without one."""
    content: bytes = b""
    """What the index knows the content by; empty without a message id."""


def subject_of(stream: StreamName, tail: str | None, where: str) -> bytes:
    """The subject of a fact; ``INVALID_REQUEST`` for a tail that can't follow the stream's name."""
    if not tail:
        return stream.encode()
    if not is_valid_tail(tail):
        raise BsfgError(
            Code.INVALID_REQUEST,
            f"{where}: {printable(tail)} can't follow the stream's name in a subject",
            hint="plain words joined by single dots, without spaces and wildcards",
        )
    try:
        return f"{stream}.{tail}".encode()
    except UnicodeEncodeError:
        raise BsfgError(Code.INVALID_REQUEST, f"{where}: the subject is not Unicode text") from None


def check_payload(payload: bytes, where: str) -> None:
    """``TOO_LARGE`` for a payload above 1 MiB."""
    if len(payload) > PAYLOAD_BYTES_MAX:
        raise BsfgError(
            Code.TOO_LARGE,
            f"{where}: a payload of {len(payload)} bytes; {PAYLOAD_BYTES_MAX} is the most",
            hint="put it into the artifact store and append its URI",
        )


def prepare(stream: StreamName, fact: NewFact, number: int, where: str) -> Outgoing:
    """The fact as it is published; ``INVALID_REQUEST`` or ``TOO_LARGE``, beginning with ``where``, if it can't be."""
    subject = subject_of(stream, fact.tail, where)
    check_payload(fact.payload, where)
    if not fact.headers and not fact.message_id:
        return Outgoing(number, subject, b"", fact.payload)
    others = _block(where, fact.headers) if fact.headers else b""
    if not fact.message_id:
        return Outgoing(number, subject, others, fact.payload)
    block = _checked(where, others + _lines(where, [(MESSAGE_ID_HEADER, fact.message_id)]), len(fact.headers) + 1)
    key, content = key_of(fact.message_id.encode()), content_of(subject.decode(), others, fact.payload)
    return Outgoing(number, subject, block, fact.payload, fact.message_id, key, content)


def _block(where: str, headers: Sequence[tuple[str, str]]) -> bytes:
    reserved = [name for name, _ in headers if _RESERVED_NAME.match(name)]
    if reserved:
        raise BsfgError(
            Code.INVALID_REQUEST,
            f"{where}: the header {printable(reserved[0])} is reserved",
            hint="names that begin with Nats- or Bsfg- have a meaning of their own; a message id has its own field",
        )
    return _checked(where, _lines(where, headers), len(headers))


def _lines(where: str, pairs: Sequence[tuple[str, str]]) -> bytes:
    try:
        return b"".join(f"{name}: {value}\r\n".encode() for name, value in pairs)
    except UnicodeEncodeError:
        raise BsfgError(Code.INVALID_REQUEST, f"{where}: a header is not Unicode text") from None


def _checked(where: str, block: bytes, count: int) -> bytes:
    header_bytes = len(block) + HEADER_FRAME_BYTES
    if header_bytes > HEADERS_BYTES_MAX:
        raise BsfgError(
            Code.TOO_LARGE, f"{where}: {header_bytes} bytes of headers; {HEADERS_BYTES_MAX} is the most"
        )
    if block.count(b"\n") != count or not is_allowed_block(block):
        raise BsfgError(
            Code.INVALID_REQUEST,
            f"{where}: a header's name or value, or the message id, has characters that it can't have",
            hint="names are visible ASCII without a colon; values are one line and don't begin with a space",
        )
    return block
