"""The bounded answer to one fetch, and what a receiver may ask (contract, section 4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from bsfg.model.cursor import Cursor, InitMode
from bsfg.model.fact import Fact
from bsfg.model.names import StreamName

FACTS_DEFAULT: Final = 1_000
FACTS_MAX: Final = 10_000
BYTES_DEFAULT: Final = 1024 * 1024
BYTES_MAX: Final = 4 * 1024 * 1024
WAIT_MILLISECONDS_MAX: Final = 30_000
PAGES_MAX: Final = 16


class Agreement(StrEnum):
    """How sender and receiver know that they speak of one history (design, decision 4)."""

    EXACT = "exact"
    EPOCH = "epoch"


@dataclass(frozen=True, slots=True)
class PageLimits:
    """The most that one page may hold: facts, their bytes, and how long to wait for the first one."""

    facts: int = FACTS_DEFAULT
    bytes: int = BYTES_DEFAULT
    wait_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class FetchRequest:
    """One request for a page: from a start to be resolved, or from a cursor; exactly one of the two is given."""

    stream: StreamName
    limits: PageLimits
    start: InitMode | None = None
    after: Cursor | None = None
    accept_gap: tuple[int, int] | None = None
    is_compressible: bool = False
    """Whether the answer may travel compressed; no part of the question itself."""


@dataclass(frozen=True, slots=True)
class LogSlice:
    """What one read of an exported log saw, starting behind a given sequence.

    ``scanned_through`` is how far the read reached: at least the last fact's sequence, and the log's last sequence
    only where that was known before the read came back empty (design, decision 5). ``pending`` counts the facts that
    lie behind it. ``next_time`` is the stored time of the first of these, None if there are none.
    """

    facts: Sequence[Fact]
    scanned_through: int
    head: int
    pending: int
    next_time: int | None
    is_continuous: bool = False
    """Whether the log can't have become another one since it was last described, so that nothing need be looked at
    again: the reader has stood at this place since before, in a log that was neither made again nor restored."""
    reader: str = ""
    """Who read, and in which epoch; slices of the same came from one log. Empty where nobody can say so."""


@dataclass(frozen=True, slots=True)
class Page:
    """The sender's answer: facts in order, and the sender's word on how far they reach; times by the sender's clock."""

    stream: StreamName
    epoch: str
    agreement: Agreement
    start_sequence: int
    scanned_through: int
    head: int
    pending: int
    sender_time: int
    next_time: int | None
    facts: Sequence[Fact]
    pending_bytes: int | None = None
    """About how many stored bytes ``pending`` stands for, by the log's mean; for people, not for decisions."""


@dataclass(frozen=True, slots=True)
class LogDescription:
    """An exported log at one moment; sequences are 0 and times None while it never held a fact."""

    stream: StreamName
    created: str
    epoch: str
    first_sequence: int
    last_sequence: int
    first_time: int | None
    last_time: int | None
    messages: int
    bytes: int
    replicas: int
    durability: str
    """``strict``, ``lazy`` or ``unverified`` (design, decision 6)."""
