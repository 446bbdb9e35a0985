"""What the end of an inbound stream says about the link: its cursor, or that somebody else has written there."""

from __future__ import annotations

from dataclasses import dataclass

from bsfg.model.cursor import Cursor, LinkName
from bsfg.model.fact import ORIGIN_HEADER, Fact, Origin, digest, origin_block, parse_origin, split_headers
from bsfg.model.names import inbound_subject, is_valid_tail, printable
from bsfg.substrates.nats_stream_api import StoredMessage


@dataclass(frozen=True, slots=True)
class Tip:
    """The cursor that a message spells, or why it spells none."""

    cursor: Cursor | None = None
    foreign: str | None = None


def read_tip(message: StoredMessage, link: LinkName, generation: int) -> Tip:
    """The cursor of a link from the last message of its inbound stream (design, decision 2)."""
    try:
        origin, fact = origin_fact(message, link, generation)
    except ValueError as error:
        return Tip(foreign=f"message {message.sequence}: {error}")
    return Tip(Cursor(origin.epoch, origin.sequence, digest(fact), origin.sequence))


def origin_fact(message: StoredMessage, link: LinkName, generation: int) -> tuple[Origin, Fact]:
    """An inbound message as the fact that its origin stored; ValueError if this gateway did not write it."""
    origin = origin_of(message.headers)
    if origin is None:
        raise ValueError(f"it has no {ORIGIN_HEADER} header")
    if (origin.zone, origin.stream) != (link.peer, link.stream):
        raise ValueError(f"its origin is {printable(origin.zone)} {printable(origin.stream)}, not {link}")
    subject = _origin_subject(message.subject, link, generation)
    return origin, Fact(
        origin.sequence, subject, origin.time, origin_block(message.headers), message.payload
    )


def origin_of(raw_headers: bytes) -> Origin | None:
    """The coordinates in a raw NATS header; None without them, ValueError for anything but exactly one set."""
    name = ORIGIN_HEADER.encode()
    values = [value for found, value in split_headers(raw_headers) if found == name]
    if not values:
        return None
    if len(values) > 1:
        raise ValueError(f"it has {len(values)} {ORIGIN_HEADER} headers")
    return parse_origin(values[0].decode("ascii", "backslashreplace"))


def _origin_subject(subject: str, link: LinkName, generation: int) -> str:
    prefix = inbound_subject(link.peer, link.stream, generation)
    if subject == prefix:
        return link.stream
    tail = subject.removeprefix(prefix + ".")
    if tail == subject or not is_valid_tail(tail):
        raise ValueError(f"its subject {printable(subject)} is not under {prefix}")
    return f"{link.stream}.{tail}"
