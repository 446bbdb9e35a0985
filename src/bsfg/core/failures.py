"""What a failure means: try again later, ask an operator, or look first at what is really stored."""

from __future__ import annotations

from typing import Final

from bsfg.core.changing import changed
from bsfg.core.conversation import Commands, Quarantine
from bsfg.core.link_state import Link, Phase, Recovery, StepFailure
from bsfg.core.reconcile import Halt
from bsfg.core.steps import RETENTION, forget, halt_link, locate, next_step, wait
from bsfg.errors import Code, Fenced, OutcomeUnknown, PeerRefused
from bsfg.model.cursor import Gap, HaltReason, LinkState

_DENIALS: Final = (Code.IDENTITY_REJECTED, Code.PEER_UNKNOWN, Code.STREAM_DENIED)
_HALTS: Final = {
    Code.HISTORY_MISMATCH: HaltReason.DIVERGED,
    Code.AHEAD_OF_SOURCE: HaltReason.AHEAD_OF_SOURCE,
    Code.INIT_REJECTED: HaltReason.INIT_REJECTED,
}


def local_failure(link: Link, failure: StepFailure) -> tuple[Link, Commands]:
    """After any failed append only the stream itself says what it holds (I5)."""
    error = failure.error
    if isinstance(error, Fenced | OutcomeUnknown) and link.failures == 0:
        return locate(changed(link, failures=1, error=error, doubtful=link.flights))
    if error.code is Code.NOT_FOUND:
        return halt_link(link, Halt(HaltReason.LOCAL_RESET, error.message))
    if error.code is Code.QUOTA_EXCEEDED:
        return halt_link(link, Halt(HaltReason.UNSTORABLE_FACT, error.message))
    is_full = error.code is Code.LOCAL_FULL
    return wait(link, failure, LinkState.LOCAL_FULL if is_full else LinkState.LOCAL_UNAVAILABLE)


def unstorable(link: Link, ticket: int, failure: StepFailure) -> tuple[Link, Commands]:
    """A fact that this zone's store can't take: halt, or set it aside where policy says so; never skip it silently."""
    wanted = failure.error.details.get("sequence")
    if wanted is None and link.failures == 0:
        # The store itself refused, and does not say which; from what it holds now, the writer can.
        return locate(changed(link, failures=1, error=failure.error))
    flight = next((flight for flight in link.flights if flight.ticket == ticket), None)
    fact = next((fact for fact in flight.facts if fact.sequence == wanted), None) if flight else None
    if flight is None or fact is None or not link.settings.sets_aside:
        return halt_link(link, Halt(HaltReason.UNSTORABLE_FACT, failure.error.message))
    link = next_step(forget(link), Phase.RECORDING)
    return link, (Quarantine(link.ticket, flight.cursor.epoch, fact),)


def set_aside(link: Link, sequence: int, now: int) -> tuple[Link, Commands]:
    """The gap is durable before any fact behind it; from then on the fact is left out wherever it appears."""
    gap = Gap(sequence, sequence, now, HaltReason.UNSTORABLE_FACT.value)
    return locate(changed(link, gap_to_record=gap))


def peer_failure(link: Link, failure: StepFailure) -> tuple[Link, Commands]:
    error = failure.error
    link = changed(link, recovery=Recovery(), confirmed=None, fetch_failure=None)
    if isinstance(error, PeerRefused):
        if error.code is Code.GAP:
            return _gap_met(link, failure)
        if error.code in _HALTS:
            return halt_link(link, Halt(_HALTS[error.code], error.message))
        if error.code is Code.PARTITIONED:
            return wait(link, failure, LinkState.PARTITIONED)
    if error.code is Code.BAD_ANSWER and "sequence" in error.details:
        # It is one fact that no page may carry, and asking again brings it again.
        return halt_link(link, Halt(HaltReason.UNSTORABLE_FACT, error.message))
    if error.code in _DENIALS:
        return wait(link, failure, LinkState.DENIED)
    return wait(link, failure, LinkState.BACKING_OFF)


def _gap_met(link: Link, failure: StepFailure) -> tuple[Link, Commands]:
    """The peer no longer has what comes next: never passed over in silence (I18)."""
    first, last = failure.error.details.get("from"), failure.error.details.get("to")
    if not isinstance(first, int) or not isinstance(last, int) or link.cursor is None:
        return wait(link, failure, LinkState.BACKING_OFF)
    if first != link.cursor.scanned_through + 1 or last < first:
        return wait(link, failure, LinkState.BACKING_OFF)
    if link.accept_gap == (first, last):
        # The peer was told that we let this gap go; that it asks again is its fault, and no reason to hurry.
        return wait(link, failure, LinkState.BACKING_OFF)
    known = next((gap for gap in link.gaps if (gap.first, gap.last) == (first, last)), None)
    if known is None and not link.settings.records_gaps:
        return halt_link(link, Halt(HaltReason.GAP, failure.error.message, (first, last)))
    return locate(changed(link, gap_to_record=known or Gap(first, last, failure.now, RETENTION)))
