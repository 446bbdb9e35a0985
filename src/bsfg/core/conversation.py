"""What a link is told and what it orders: events say what happened, commands what is to be done."""

from __future__ import annotations

from dataclasses import dataclass

from bsfg.core.link_state import LinkSettings, StepFailure
from bsfg.model.cursor import Cursor, Fence, Init, LinkRecord, LocalPosition
from bsfg.model.fact import Fact
from bsfg.model.facts import Facts
from bsfg.model.page import FetchRequest, Page

# Events: what happened.


@dataclass(frozen=True, slots=True)
class Started:
    pass


@dataclass(frozen=True, slots=True)
class Located:
    ticket: int
    position: LocalPosition


@dataclass(frozen=True, slots=True)
class PageFetched:
    """One page of the answer; the fetch is over with the last."""

    ticket: int
    page: Page
    is_last: bool = True


@dataclass(frozen=True, slots=True)
class RecordSaved:
    ticket: int
    revision: int = 0


@dataclass(frozen=True, slots=True)
class Appended:
    ticket: int
    fence: Fence


@dataclass(frozen=True, slots=True)
class StepFailed:
    ticket: int
    failure: StepFailure


@dataclass(frozen=True, slots=True)
class Waited:
    ticket: int


@dataclass(frozen=True, slots=True)
class Woken:
    """Look now rather than later; by an operator also for a link that starts by hand."""

    by_operator: bool = False


@dataclass(frozen=True, slots=True)
class StoreDoubted:
    """The local store was away, or has lost something: what it acknowledged may be gone."""


@dataclass(frozen=True, slots=True)
class Looked:
    """What the inbound stream held, asked beside the steps when the link's fence was ``since``."""

    since: Fence
    position: LocalPosition


@dataclass(frozen=True, slots=True)
class Confirmed:
    sequence: int


@dataclass(frozen=True, slots=True)
class ConfirmFailed:
    pass


@dataclass(frozen=True, slots=True)
class PartitionBegan:
    pass


@dataclass(frozen=True, slots=True)
class PartitionEnded:
    pass


@dataclass(frozen=True, slots=True)
class Reconfigured:
    settings: LinkSettings


@dataclass(frozen=True, slots=True)
class GapAccepted:
    """An operator lets go what the sender no longer has; for a link that is halted for just that."""

    now: int


@dataclass(frozen=True, slots=True)
class StartChosen:
    """An operator accepts the sender's present epoch, from this start; for a halted link."""

    init: Init


@dataclass(frozen=True, slots=True)
class SetAside:
    """A fact that can't be stored here lies in the quarantine, durably."""

    ticket: int
    sequence: int
    now: int


Event = (
    Started
    | Located
    | PageFetched
    | RecordSaved
    | Appended
    | StepFailed
    | Waited
    | Woken
    | StoreDoubted
    | Looked
    | Confirmed
    | ConfirmFailed
    | PartitionBegan
    | PartitionEnded
    | Reconfigured
    | GapAccepted
    | StartChosen
    | SetAside
)


# Commands: what is to be done. What has a ticket is answered by an event with that ticket, or taken back.


@dataclass(frozen=True, slots=True)
class Locate:
    ticket: int


@dataclass(frozen=True, slots=True)
class Fetch:
    """Ask for up to ``pages`` pages in one answer, each continuing the one before."""

    ticket: int
    request: FetchRequest
    pages: int


@dataclass(frozen=True, slots=True)
class SaveRecord:
    """Save the record in place of the one with this revision, and of no other: another gateway may have written it."""

    ticket: int
    record: LinkRecord
    revision: int = 0


@dataclass(frozen=True, slots=True)
class Append:
    ticket: int
    fence: Fence
    epoch: str
    facts: Facts


@dataclass(frozen=True, slots=True)
class Wait:
    ticket: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Quarantine:
    """Put a fact that can't be stored here where an operator finds its bytes."""

    ticket: int
    epoch: str
    fact: Fact


@dataclass(frozen=True, slots=True)
class Confirm:
    """Beside the steps: tell the peer what is durable here."""

    cursor: Cursor


@dataclass(frozen=True, slots=True)
class Announce:
    """One line for people, in the words of the contract."""

    event: str
    message: str


Step = Locate | Fetch | SaveRecord | Append | Quarantine | Wait
Command = Step | Confirm | Announce
Commands = tuple[Command, ...]
