"""Names of zones and streams, and the one mapping from logical names to names in JetStream (contract, section 2)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, NewType

from bsfg.errors import BsfgError, Code

ZoneId = NewType("ZoneId", str)
StreamName = NewType("StreamName", str)

ZONE_PATTERN: Final = re.compile(r"[a-z][a-z0-9-]{0,31}")
STREAM_PATTERN: Final = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*")
STREAM_LENGTH_MAX: Final = 64
RESERVED_PREFIXES: Final = ("in.", "in_", "bsfg.", "bsfg_")
TAIL_LENGTH_MAX: Final = 255
LOCAL_CONSUMER: Final = "local-consumer"
BUCKET_LINKS: Final = "bsfg_links"
BUCKET_CONFIRMS: Final = "bsfg_confirms"
BUCKET_PARTITIONS: Final = "bsfg_partitions"

_FORBIDDEN_IN_TAIL: Final = re.compile(r"[\s*>\x00-\x20\x7f]")


def parse_zone(text: str) -> ZoneId:
    """A zone id, or ``invalid_request``."""
    if not ZONE_PATTERN.fullmatch(text):
        raise BsfgError(
            Code.INVALID_REQUEST,
            f"zone id {printable(text)} is not of the form [a-z][a-z0-9-]{{0,31}}",
            hint="use lower-case letters, digits and '-', for example plant-a",
        )
    return ZoneId(text)


def parse_stream(text: str) -> StreamName:
    """A logical stream name, or ``invalid_stream``."""
    if len(text) > STREAM_LENGTH_MAX:
        raise BsfgError(
            Code.INVALID_STREAM,
            f"stream name {printable(text)} is longer than {STREAM_LENGTH_MAX} characters",
        )
    if not STREAM_PATTERN.fullmatch(text):
        raise BsfgError(
            Code.INVALID_STREAM,
            f"stream name {printable(text)} is not lower-case words joined by single dots",
            hint="for example facts.operational; wildcards, spaces and '-' are not allowed",
        )
    if text.startswith(RESERVED_PREFIXES) or text in ("in", "bsfg"):
        raise BsfgError(
            Code.INVALID_STREAM,
            f"stream name {printable(text)} begins with a reserved word",
            hint="in.*, in_*, bsfg.* and bsfg_* are BSFG's own; inbound streams are never exported",
        )
    return StreamName(text)


def colliding(streams: Iterable[StreamName]) -> tuple[StreamName, StreamName] | None:
    """Two streams that map to one physical name, or of which one is a dotted prefix of the other; else None."""
    seen: list[StreamName] = []
    for stream in streams:
        for other in seen:
            if (
                physical(stream) == physical(other)
                or (stream + ".").startswith(other + ".")
                or (other + ".").startswith(stream + ".")
            ):
                return other, stream
        seen.append(stream)
    return None


def physical(stream: StreamName) -> str:
    """The JetStream stream that holds a local stream; JetStream names have no dots."""
    return stream.replace(".", "_")


def subjects(stream: StreamName) -> list[str]:
    """The NATS subjects of a local stream."""
    return [stream, f"{stream}.>"]


def inbound_physical(peer: ZoneId, stream: StreamName, generation: int) -> str:
    """The JetStream stream that holds one generation of a link's inbound facts."""
    return f"in_{peer}_{physical(stream)}_g{generation}"


def inbound_subject(peer: ZoneId, stream: StreamName, generation: int) -> str:
    """The NATS subject that a link's facts are appended under; the origin's tail follows it."""
    return f"in.{peer}.{stream}.g{generation}"


def inbound_consumer(peer: ZoneId, zone: ZoneId) -> str:
    """The durable consumer for local applications on each inbound stream from this peer (runbook 6.5)."""
    return f"{peer}-from-{zone}"


def link_key(peer: ZoneId, stream: StreamName) -> str:
    """The key of a (peer, stream) pair in a key-value bucket."""
    return f"{peer}.{stream}"


def is_valid_tail(tail: str) -> bool:
    """Whether this may follow a stream's name in a NATS subject: plain tokens, no wildcard, no white space."""
    return 0 < len(tail) <= TAIL_LENGTH_MAX and not _FORBIDDEN_IN_TAIL.search(tail) and all(tail.split("."))


def tail_of(subject: str, stream: StreamName) -> str | None:
    """What follows the stream's name in a subject: "" for the bare name, None if it isn't of this stream."""
    if subject == stream:
        return ""
    if not subject.startswith(stream + "."):
        return None
    tail = subject[len(stream) + 1 :]
    return tail if is_valid_tail(tail) else None


def printable(text: str, length_max: int = 80) -> str:
    """Foreign text as one quoted ASCII line, so that it can stand in a message or a log."""
    shown = text if len(text) <= length_max else text[:length_max] + "…"
    return "'" + shown.encode("ascii", "backslashreplace").decode().translate(_CONTROLS) + "'"


_CONTROLS: Final = {code: f"\\x{code:02x}" for code in (*range(32), 127)}
