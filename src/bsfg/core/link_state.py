"""Everything that decides what a link does next, as one frozen value."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final, NamedTuple

from bsfg.core.backoff import Backoff
from bsfg.core.reconcile import Halt
from bsfg.errors import BsfgError
from bsfg.model.cursor import Cursor, Fence, Gap, HaltReason, Init, InitMode, LinkName, LinkState
from bsfg.model.facts import Facts
from bsfg.model.page import Page, PageLimits

FLIGHTS_MAX: Final = 3
"""Pages being stored at once, behind each other; with the page being fetched this keeps sender and store busy."""


class Phase(Enum):
    LOCATING = auto()
    FLOWING = auto()
    RECORDING = auto()
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
    sets_aside: bool = False
    """``on_unstorable: quarantine``."""
    limits: PageLimits = field(default_factory=PageLimits)
    """Of one page; ``wait_seconds`` is how long a level link asks the peer to hold the answer."""
    pages_max: int = 1
    """Pages in one answer while there is much to catch up; more fill the line over a distance."""
    backoff: Backoff = field(default_factory=Backoff)


@dataclass(frozen=True, slots=True)
class SenderWord:
    """What the sender last said about its end of the stream; times by the sender's clock."""

    head: int
    pending: int
    sender_time: int
    next_time: int | None
    pending_bytes: int | None = None
    """About how many bytes ``pending`` stands for; for people, not for decisions."""

    @classmethod
    def of(cls, page: Page) -> SenderWord:
        """What a page says beside its facts."""
        return cls(page.head, page.pending, page.sender_time, page.next_time, page.pending_bytes)


@dataclass(frozen=True, slots=True)
class Recovery:
    """An outage that ended, or is about to: announced once the peer has answered (contract, section 8)."""

    target: int | None = None
    """The head that the cursor must reach; None until the peer has answered."""


@dataclass(frozen=True, slots=True)
class Flight:
    """A page that is being stored: where the link will be when it is, by arithmetic from the one read of the cursor."""

    ticket: int
    facts: Facts
    cursor: Cursor
    fence: Fence
    is_stored: bool = False


@dataclass(frozen=True, slots=True)
class StepFailure:
    """Why a step ended; ``chance`` is random in [0, 1), ``now`` the wall clock in nanoseconds."""

    error: BsfgError
    chance: float
    now: int


class Link(NamedTuple):
    """Everything that decides what a link does next; a tuple, because each event makes new ones of it."""

    name: LinkName
    settings: LinkSettings
    phase: Phase = Phase.LOCATING
    ticket: int = 0
    """The last one given out."""
    step: int | None = None
    """Ticket of the step that nothing else may run beside: locate, save a record, wait."""
    fetch: int | None = None
    """Ticket of the fetch that is out."""
    is_polling: bool = False
    """Whether that fetch waits at the peer for facts to come."""
    flights: tuple[Flight, ...] = ()
    """Pages being stored, in order."""
    is_fence_proved: bool = False
    """Whether an append behind the fence was stored since it was read: until then one page goes out at a time."""
    fence: Fence | None = None
    cursor: Cursor | None = None
    """Of the facts that are durably here; pages in flight are not in it."""
    init: Init | None = None
    gaps: tuple[Gap, ...] = ()
    held: Page | None = None
    """Fetched, and waiting until the resolved start is durable."""
    fetch_failure: StepFailure | None = None
    """Why the fetch ended, while pages in flight are still being stored."""
    accept_gap: tuple[int, int] | None = None
    gap_to_record: Gap | None = None
    """To be recorded once the link has read where it is, if it is still behind the cursor then."""
    start_to_take: Init | None = None
    """An operator's choice, to be taken once the link has read where it is."""
    revision: int = 0
    """Of the record that was last read or saved."""
    doubtful: tuple[Flight, ...] = ()
    """Pages whose append failed, until the stream's end has been read back."""
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
    recovery: Recovery | None = Recovery()
    facts_appended: int = 0
    facts_duplicate: int = 0
    rounds: int = 0
    """Pages applied since the start, empty ones too."""

    @property
    def tickets(self) -> frozenset[int]:
        """What is out; an answer to anything else is dropped (I15)."""
        single = {ticket for ticket in (self.step, self.fetch) if ticket is not None}
        return frozenset(single.union(flight.ticket for flight in self.flights) if self.flights else single)

    @property
    def has_room(self) -> bool:
        """Whether another page may be taken in."""
        return len(self.flights) < (FLIGHTS_MAX if self.is_fence_proved else 1)

    @property
    def cursor_ahead(self) -> Cursor | None:
        """Where the link will be when everything in flight is stored."""
        return self.flights[-1].cursor if self.flights else self.cursor

    @property
    def fence_ahead(self) -> Fence | None:
        return self.flights[-1].fence if self.flights else self.fence

    @property
    def owes_confirm(self) -> bool:
        """Whether the peer is to be told how far the link is, and nobody is telling it."""
        if self.cursor is None or self.cursor.sequence is None or self.confirming or self.is_partitioned:
            return False
        return self.confirmed is None or self.confirmed < self.cursor.sequence

    @property
    def is_record_behind(self) -> bool:
        """Whether the scan is past the last fact, which only the record can tell, and the record does not."""
        cursor = self.cursor
        return cursor is not None and cursor.scanned_through != cursor.sequence and self.saved != cursor

    @property
    def set_aside(self) -> frozenset[int]:
        """Sequences of facts that could not be stored here and lie in the quarantine."""
        return frozenset(gap.first for gap in self.gaps if gap.reason == HaltReason.UNSTORABLE_FACT)

    @property
    def facts_in_hand(self) -> int:
        """Facts fetched and not yet durable."""
        if not self.flights and self.held is None:
            return 0
        return sum(len(flight.facts) for flight in self.flights) + (len(self.held.facts) if self.held else 0)


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
    is_level = link.word.pending == 0 and link.facts_in_hand == 0
    return LinkState.LEVEL if is_level else LinkState.CATCHING_UP
