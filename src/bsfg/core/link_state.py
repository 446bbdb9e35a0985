"""Everything that decides what a link does next, as one frozen value."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto

from bsfg.core.backoff import Backoff
from bsfg.core.reconcile import Halt
from bsfg.errors import BsfgError
from bsfg.model.cursor import Cursor, Fence, Gap, Init, InitMode, LinkName, LinkState
from bsfg.model.page import Page, PageLimits


class Phase(Enum):
    LOCATING = auto()
    FETCHING = auto()
    RECORDING = auto()
    APPENDING = auto()
    WAITING = auto()
    RESTING = auto()
    PARTITIONED = auto()
    HALTED = auto()


@dataclass(frozen=True, slots=True)
class LinkSettings:
    """What configuration says of a link."""

    init_mode: InitMode
    justification: str | None = None
    starts_on_load: bool = True
    records_gaps: bool = False
    """``on_gap: record_and_continue``."""
    limits: PageLimits = field(default_factory=PageLimits)
    """Of one page; ``wait_seconds`` is how long a level link asks the peer to hold the answer."""
    backoff: Backoff = field(default_factory=Backoff)


@dataclass(frozen=True, slots=True)
class SenderWord:
    """What the sender last said about its end of the stream; times by the sender's clock."""

    head: int
    pending: int
    sender_time: int
    next_time: int | None


@dataclass(frozen=True, slots=True)
class Recovery:
    """An outage that ended, or is about to: announced once the peer has answered (contract, section 8)."""

    target: int | None = None
    """The head that the cursor must reach; None until the peer has answered."""


@dataclass(frozen=True, slots=True)
class Link:
    """Everything that decides what a link does next."""

    name: LinkName
    settings: LinkSettings
    phase: Phase = Phase.LOCATING
    ticket: int = 0
    fence: Fence | None = None
    cursor: Cursor | None = None
    init: Init | None = None
    gaps: tuple[Gap, ...] = ()
    page: Page | None = None
    """Fetched, not yet applied."""
    accept_gap: tuple[int, int] | None = None
    saved: Cursor | None = None
    """The cursor of the last saved record; ``scanned_through`` beyond the last fact lives only there."""
    word: SenderWord | None = None
    failures: int = 0
    trouble: LinkState | None = None
    """Why the link is WAITING."""
    error: BsfgError | None = None
    """The last failure; None once a page was applied."""
    halt: Halt | None = None
    is_partitioned: bool = False
    is_requested: bool = False
    """An operator has asked for a ``start: manual`` link."""
    confirming: bool = False
    confirmed: int | None = None
    recovery: Recovery | None = field(default_factory=Recovery)
    facts_appended: int = 0
    facts_duplicate: int = 0
    rounds: int = 0
    """Pages applied since the start, empty ones too."""


def state_of(link: Link) -> LinkState:
    """The link's state as every view shows it; ``stalled`` is the watchdog's word, not the link's."""
    if link.phase is Phase.HALTED:
        return LinkState.HALTED
    if link.phase is Phase.PARTITIONED or link.is_partitioned:
        return LinkState.PARTITIONED
    if link.trouble is not None:
        return link.trouble
    if link.cursor is None or link.word is None:
        return LinkState.STARTING
    return LinkState.LEVEL if link.word.pending == 0 else LinkState.CATCHING_UP
