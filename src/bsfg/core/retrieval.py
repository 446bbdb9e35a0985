"""How a wanted artifact comes: one artifact as a pure state machine, ``advance(retrieval, event)``.

    WAITING   until its time: at once, or after a failure with a bounded and jittered pause that survives restarts
    FETCHING  a transfer is out; what a cut leaves is kept, and the next transfer goes on behind it
    REFUSED   the peer forbids it: only a change of policy or an operator goes on from here
    DONE      verified here, under its name; nothing of it stays in the list

The phase says what happens next; ``WantedArtifact.state`` what people are told: pending, missing, corrupt, forbidden
or verified. It changes only by a definite answer, so a peer that is away leaves a missing artifact missing. Whatever
comes, cuts, restarts, retries, the end is verified bytes or a named state with a time for the next attempt.

Nothing here waits, reads a clock or does I/O. A transfer carries a ticket, and what comes of another is dropped.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum, auto
from typing import Final

from bsfg.core.backoff import Backoff
from bsfg.errors import ArtifactCorrupt, BsfgError, Code
from bsfg.model.artifact import ArtifactState
from bsfg.model.moment import NANOSECONDS
from bsfg.model.wanted import MESSAGE_LENGTH_MAX, Cause, WantedArtifact

_CAUSES: Final = {
    Code.ARTIFACT_NOT_FOUND: Cause.MISSING,
    Code.ARTIFACT_DENIED: Cause.FORBIDDEN,
    Code.QUOTA_EXCEEDED: Cause.NO_ROOM,
    Code.LOCAL_FULL: Cause.NO_ROOM,
    Code.CONFLICTING_DUPLICATE: Cause.CORRUPT,
    Code.UNAVAILABLE: Cause.UNREACHABLE,
    Code.PARTITIONED: Cause.UNREACHABLE,
    Code.TOO_MANY: Cause.UNREACHABLE,
    Code.TIMED_OUT: Cause.UNREACHABLE,
}
_STATES: Final = {
    Cause.MISSING: ArtifactState.MISSING,
    Cause.CORRUPT: ArtifactState.CORRUPT,
    Cause.FORBIDDEN: ArtifactState.FORBIDDEN,
}
_EVENTS: Final = {
    Cause.MISSING: "artifact_missing",
    Cause.CORRUPT: "artifact_corrupt",
    Cause.FORBIDDEN: "artifact_forbidden",
    Cause.NO_ROOM: "artifact_no_room",
    Cause.REFUSED: "artifact_refused",
}


class Phase(Enum):
    WAITING = auto()
    FETCHING = auto()
    REFUSED = auto()
    DONE = auto()


@dataclass(frozen=True, slots=True)
class Patience:
    """The pauses before another attempt."""

    absent: Backoff = field(default_factory=lambda: Backoff(1.0, 300.0))
    """After an answer that will hardly change soon: missing, corrupt, no room."""
    cut: Backoff = field(default_factory=lambda: Backoff(0.2, 8.0))
    """After an interruption: what is here already is kept."""

    def pause(self, attempt: int, chance: float, *, is_cut: bool) -> int:
        """Nanoseconds."""
        return int((self.cut if is_cut else self.absent).delay(attempt, chance) * NANOSECONDS)


@dataclass(frozen=True, slots=True)
class Retrieval:
    """Everything that decides what becomes of one wanted artifact."""

    artifact: WantedArtifact
    patience: Patience = field(default_factory=Patience)
    phase: Phase = Phase.WAITING
    ticket: int = 0
    cuts: int = 0
    """Interruptions since bytes last came."""
    is_policy_changed: bool = False
    """Policy changed while a transfer was out: what it brings may be the old policy's word."""


# Events: what happened. Moments are nanoseconds since 1970, ``chance`` is random in [0, 1).


@dataclass(frozen=True, slots=True)
class Restarted:
    now: int


@dataclass(frozen=True, slots=True)
class Referenced:
    """So many more facts name it."""

    count: int


@dataclass(frozen=True, slots=True)
class Due:
    """Its time has come, and there is room for a transfer."""


@dataclass(frozen=True, slots=True)
class Verified:
    ticket: int


@dataclass(frozen=True, slots=True)
class TransferFailed:
    ticket: int
    error: BsfgError
    has_moved: bool
    """Whether bytes came that are kept for the next transfer."""
    now: int
    chance: float


@dataclass(frozen=True, slots=True)
class Retried:
    """An operator asks for it now."""

    now: int


@dataclass(frozen=True, slots=True)
class PolicyChanged:
    """What the peer lets us have, or whom we ask, is not what it was."""

    now: int


@dataclass(frozen=True, slots=True)
class PeerBack:
    """The peer answers again."""

    now: int


Event = Restarted | Referenced | Due | Verified | TransferFailed | Retried | PolicyChanged | PeerBack


# Commands: what is to be done.


@dataclass(frozen=True, slots=True)
class Transfer:
    """Bring it here, going on behind what is kept; answered by ``Verified`` or ``TransferFailed``."""

    ticket: int


@dataclass(frozen=True, slots=True)
class Keep:
    """Make the entry durable as it is now."""


@dataclass(frozen=True, slots=True)
class Forget:
    """The entry is no longer wanted: take it off the durable list."""


@dataclass(frozen=True, slots=True)
class Announce:
    """One line for people; ``is_alert`` where somebody should look."""

    event: str
    message: str
    is_alert: bool


Command = Transfer | Keep | Forget | Announce
Commands = tuple[Command, ...]


def advance(retrieval: Retrieval, event: Event) -> tuple[Retrieval, Commands]:
    """The retrieval after an event, and what is to be done about it."""
    match event:
        case Restarted(now=now):
            return _restarted(retrieval, now), ()
        case Referenced(count=count):
            artifact = replace(retrieval.artifact, references=retrieval.artifact.references + count)
            return replace(retrieval, artifact=artifact), (Keep(),)
        case Due():
            return _due(retrieval)
        case Retried(now=now) | PolicyChanged(now=now) if retrieval.phase in (Phase.WAITING, Phase.REFUSED):
            return _now(retrieval, now), (Keep(),)
        case PolicyChanged():
            return replace(retrieval, is_policy_changed=True), ()
        case PeerBack(now=now) if _waits_for_peer(retrieval):
            return _now(retrieval, now), ()
        case Verified(ticket=ticket) if _is_out(retrieval, ticket):
            return _verified(retrieval)
        case TransferFailed(ticket=ticket) if _is_out(retrieval, ticket):
            return _failed(retrieval, event)
        case _:
            return retrieval, ()


def cause_of(error: BsfgError) -> Cause:
    """What a failed transfer means for its artifact."""
    if isinstance(error, ArtifactCorrupt):
        return Cause.CORRUPT
    return _CAUSES.get(error.code, Cause.REFUSED)


def _restarted(retrieval: Retrieval, now: int) -> Retrieval:
    """What a pause was is kept, and no more: a clock that was set back must not make it longer."""
    artifact = retrieval.artifact
    if artifact.due_at is None:
        return replace(retrieval, phase=Phase.REFUSED)
    latest = now + int(retrieval.patience.absent.delay_seconds_max * NANOSECONDS)
    return replace(
        retrieval, phase=Phase.WAITING, artifact=replace(artifact, due_at=min(artifact.due_at, latest))
    )


def _due(retrieval: Retrieval) -> tuple[Retrieval, Commands]:
    if retrieval.phase is not Phase.WAITING:
        return retrieval, ()
    ticket = retrieval.ticket + 1
    return replace(retrieval, phase=Phase.FETCHING, ticket=ticket), (Transfer(ticket),)


def _now(retrieval: Retrieval, now: int) -> Retrieval:
    return replace(retrieval, phase=Phase.WAITING, artifact=replace(retrieval.artifact, due_at=now))


def _waits_for_peer(retrieval: Retrieval) -> bool:
    return retrieval.phase is Phase.WAITING and retrieval.artifact.cause is Cause.UNREACHABLE


def _is_out(retrieval: Retrieval, ticket: int) -> bool:
    return retrieval.phase is Phase.FETCHING and retrieval.ticket == ticket


def _verified(retrieval: Retrieval) -> tuple[Retrieval, Commands]:
    before = retrieval.artifact
    artifact = replace(
        before,
        state=ArtifactState.VERIFIED,
        cause=None,
        message="",
        found_sha256=None,
        failures=0,
        due_at=None,
    )
    commands: Commands = (Forget(),)
    if before.told:
        words = f"artifact {artifact.uri} is here and verified; it was {' and '.join(before.told)}"
        commands = (*commands, Announce("artifact_recovered", words, False))
    return replace(retrieval, phase=Phase.DONE, artifact=artifact), commands


def _failed(retrieval: Retrieval, event: TransferFailed) -> tuple[Retrieval, Commands]:
    before, cause = retrieval.artifact, cause_of(event.error)
    is_cut = cause is Cause.UNREACHABLE
    cuts = (1 if event.has_moved else retrieval.cuts + 1) if is_cut else 0
    failures = before.failures if is_cut else before.failures + 1
    pause = retrieval.patience.pause(cuts if is_cut else failures, event.chance, is_cut=is_cut)
    is_refused = cause is Cause.FORBIDDEN and not retrieval.is_policy_changed
    found = event.error.details.get("sha256") if cause is Cause.CORRUPT else None
    artifact = replace(
        before,
        state=_STATES.get(cause, before.state),
        cause=cause,
        message=event.error.message[:MESSAGE_LENGTH_MAX],
        found_sha256=found if isinstance(found, str) else before.found_sha256,
        failures=failures,
        due_at=None if is_refused else event.now + pause,
    )
    artifact, commands = _told(artifact, cause)
    phase = Phase.REFUSED if is_refused else Phase.WAITING
    retrieval = replace(retrieval, phase=phase, artifact=artifact, cuts=cuts, is_policy_changed=False)
    if is_cut and before.cause is cause:
        # A peer that stays away is no news; what is kept of it need not be written at every attempt.
        return retrieval, commands
    return retrieval, (Keep(), *commands)


def _told(artifact: WantedArtifact, cause: Cause) -> tuple[WantedArtifact, Commands]:
    """One alert for each cause, not for each attempt."""
    event = _EVENTS.get(cause)
    if event is None or cause in artifact.told:
        return artifact, ()
    words = f"artifact {artifact.uri} of {artifact.peer} is {_WORDS[cause]}: {artifact.message}"
    return replace(artifact, told=(*artifact.told, cause)), (Announce(event, words, True),)


_WORDS: Final = {
    Cause.MISSING: "missing",
    Cause.CORRUPT: "not what was named",
    Cause.FORBIDDEN: "forbidden",
    Cause.NO_ROOM: "waiting for room",
    Cause.REFUSED: "not given",
}
