"""Where a link starts, where it is, and what it must remember (contract, section 1; runbook, section 5)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

from bsfg.model.moment import NANOSECONDS, parse_time
from bsfg.model.names import StreamName, ZoneId

HOURS_MAX: Final = 24 * 366 * 100
_BOUNDED: Final = re.compile(r"bounded_backfill_([1-9][0-9]*)h", re.ASCII)
INIT_MODES: Final = "bounded_backfill_<N>h, start_now, full_backfill or explicit_timestamp"


class StartKind(StrEnum):
    BOUNDED_BACKFILL = "bounded_backfill"
    START_NOW = "start_now"
    FULL_BACKFILL = "full_backfill"
    EXPLICIT_TIMESTAMP = "explicit_timestamp"


@dataclass(frozen=True, slots=True)
class InitMode:
    """How a link without a cursor finds its first fact (runbook 5.1)."""

    text: str
    """The mode as written: ``bounded_backfill_24h``, ``start_now``, ``full_backfill``, ``explicit_timestamp``."""
    kind: StartKind
    hours: int | None = None
    timestamp: int | None = None
    """Nanoseconds since 1970, inclusive; only, and always, with ``explicit_timestamp``."""

    def from_time(self, sender_now: int) -> int | None:
        """The earliest stored time wanted, by the sender's clock; None where time does not decide."""
        if self.hours is not None:
            return max(0, sender_now - self.hours * 3600 * NANOSECONDS)
        return self.timestamp


def parse_init_mode(text: str, timestamp: str | None = None) -> InitMode:
    """The mode of a configuration entry or a request; ValueError says what is wrong with it."""
    bounded = _BOUNDED.fullmatch(text)
    if text != StartKind.EXPLICIT_TIMESTAMP and timestamp is not None:
        raise ValueError("init_timestamp is only for init_mode explicit_timestamp")
    if bounded:
        hours = int(bounded[1])
        if hours > HOURS_MAX:
            raise ValueError(f"a backfill of {hours} hours is longer than {HOURS_MAX}; use full_backfill")
        return InitMode(text, StartKind.BOUNDED_BACKFILL, hours=hours)
    if text in (StartKind.START_NOW, StartKind.FULL_BACKFILL):
        return InitMode(text, StartKind(text))
    if text == StartKind.EXPLICIT_TIMESTAMP:
        if timestamp is None:
            raise ValueError("init_mode explicit_timestamp needs init_timestamp")
        return InitMode(text, StartKind.EXPLICIT_TIMESTAMP, timestamp=parse_time(timestamp))
    raise ValueError(f"init_mode is not one of {INIT_MODES}")


class LinkState(StrEnum):
    """What a link is doing, in every place that shows it; only ``halted`` needs an operator."""

    STARTING = "starting"
    LEVEL = "level"
    CATCHING_UP = "catching_up"
    BACKING_OFF = "backing_off"
    DENIED = "denied"
    PARTITIONED = "partitioned"
    LOCAL_UNAVAILABLE = "local_unavailable"
    LOCAL_FULL = "local_full"
    STALLED = "stalled"
    HALTED = "halted"


class HaltReason(StrEnum):
    """Why a link waits for an operator."""

    GAP = "gap"
    DIVERGED = "diverged"
    AHEAD_OF_SOURCE = "ahead_of_source"
    LOCAL_RESET = "local_reset"
    FOREIGN_WRITER = "foreign_writer"
    CONFLICTING_DUPLICATE = "conflicting_duplicate"
    UNSTORABLE_FACT = "unstorable_fact"
    CURSOR_UNKNOWN = "cursor_unknown"
    INIT_REJECTED = "init_rejected"


class LinkName(NamedTuple):
    """One import: a peer and a stream, one direction, one cursor."""

    peer: ZoneId
    stream: StreamName

    def __str__(self) -> str:
        return f"{self.peer}/{self.stream}"


@dataclass(frozen=True, slots=True)
class Cursor:
    """How far a link is: the last fact that is durably in the inbound stream, and how far the sender's scan reached.

    ``sequence`` and ``digest`` are None before the first fact; ``scanned_through`` is then the resolved start minus 1.
    """

    epoch: str
    sequence: int | None
    digest: str | None
    scanned_through: int


@dataclass(frozen=True, slots=True)
class Init:
    """What ``init_mode`` resolved to, once per (peer, stream, epoch) (I21)."""

    mode: str
    timestamp: int | None
    justification: str | None
    epoch: str
    start_sequence: int
    resolved_at: int
    """The sender's time at the resolution, nanoseconds since 1970."""


@dataclass(frozen=True, slots=True)
class Begun:
    """What is known outside the store of a link that had a start on record."""

    init: Init | None
    """None where its record did not say, or nobody knows any more."""


@dataclass(frozen=True, slots=True)
class Gap:
    """Facts that the sender no longer has and that we never got: both ends included."""

    first: int
    last: int
    time: int
    reason: str


@dataclass(frozen=True, slots=True)
class LinkRecord:
    """What the inbound stream's own facts can't say; believed only while it agrees with that stream (design, 3.2)."""

    generation: int
    created: str
    """The inbound stream's creation time, as the store spells it."""
    local_sequence: int
    """The inbound stream's last sequence when this was written; 0 while it is empty."""
    cursor: Cursor
    init: Init | None
    """None only where the record was lost and the cursor was read off the inbound stream again."""
    gaps: tuple[Gap, ...] = ()


@dataclass(frozen=True, slots=True)
class Fence:
    """What an append demands of the inbound stream: this very stream, at this very last sequence (design, 3.3)."""

    generation: int
    created: str
    local_sequence: int


@dataclass(frozen=True, slots=True)
class LocalPosition:
    """One read of a link's inbound stream: the fence and the cursor that belong together, and the record beside them.

    ``tip`` is the cursor that the stream's last message spells, with ``scanned_through`` equal to its sequence; it is
    None when the stream holds no message. ``foreign`` says that the last message was not written by this gateway,
    ``removed`` that messages are gone which this gateway did not remove (I20). ``revision`` is that of the record, also
    of one that can't be read or was deleted; 0 where there never was one. ``begun`` is looked for only where there is
    no message and no record that says where the link started: None for a link that never had a start on record.
    """

    fence: Fence
    messages: int
    tip: Cursor | None
    record: LinkRecord | None
    foreign: str | None = None
    removed: str | None = None
    revision: int = 0
    begun: Begun | None = None


@dataclass(frozen=True, slots=True)
class StreamMark:
    """What can be told of an inbound stream without reading in it: whatever is added or removed changes it.

    ``removed`` counts the messages that are gone between the first and the last.
    """

    fence: Fence
    first_sequence: int
    messages: int
    removed: int

    def fits(self, position: LocalPosition) -> bool:
        """Whether the stream was read in just this state."""
        return (self.fence, self.messages) == (position.fence, position.messages)
