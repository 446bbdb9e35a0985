"""How a fact travels: one link as a pure state machine, ``advance(link, event) -> (link, commands)``.

A link is one (peer, stream) import. It asks the peer for the page behind its cursor, appends the page to the inbound
stream behind a fence, and only then moves its cursor; only then may the peer be told (confirm). Nothing here waits,
reads a clock or does I/O: the driver carries commands out and feeds back what happened.

    LOCATING    read the end of the inbound stream: cursor and fence by one read
    FETCHING    ask the peer; the request carries the cursor, so that the peer can say whether our histories agree
    RECORDING   make durable what the facts can't say: the resolved start, a gap, a scan past the last fact
    APPENDING   store the page; if the store's answer is no, or never comes, LOCATING again before anything else
    WAITING     after a failure, with a named reason and a bounded delay
    RESTING     start: manual, until an operator asks
    PARTITIONED an operator cut this peer off
    HALTED      only an operator goes on from here

Timer, notification and reconnect are one event, ``Woken``, so a lost or forged notification changes nothing but the
time of a poll. At most one step is out at a time; each carries a ticket, and an answer to any other ticket is
dropped (I15). Confirms run beside the steps.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from bsfg.core.conversation import (
    Announce,
    Append,
    Appended,
    Commands,
    Confirm,
    Confirmed,
    ConfirmFailed,
    Event,
    Fetch,
    Locate,
    Located,
    PageFetched,
    PartitionBegan,
    PartitionEnded,
    Reconfigured,
    RecordSaved,
    SaveRecord,
    Started,
    StepFailed,
    Wait,
    Waited,
    Woken,
)
from bsfg.core.link_state import Link, Phase, Recovery, SenderWord
from bsfg.core.reconcile import Halt, NeedsStart, Resume, resume
from bsfg.errors import Code, Fenced, OutcomeUnknown, PeerRefused
from bsfg.model.cursor import Cursor, Fence, Gap, HaltReason, Init, LinkRecord, LinkState, LocalPosition
from bsfg.model.fact import digest
from bsfg.model.page import FetchRequest, Page


def advance(link: Link, event: Event) -> tuple[Link, Commands]:
    """The link after an event, and what is to be done about it."""
    ticket = getattr(event, "ticket", None)
    if ticket is not None and ticket != link.ticket:
        return link, ()
    match event:
        case Started():
            return _locate(link)
        case Located(position=position):
            return _located(link, position)
        case PageFetched(page=page):
            return _page_fetched(link, page)
        case RecordSaved():
            return _record_saved(link)
        case Appended(fence=fence):
            return _appended(link, fence)
        case StepFailed():
            return _step_failed(link, event)
        case Waited():
            return _locate(link)
        case Woken(by_operator=by_operator):
            return _woken(link, by_operator)
        case Confirmed(sequence=sequence):
            return _confirm(replace(link, confirming=False, confirmed=sequence))
        case ConfirmFailed():
            return replace(link, confirming=False), ()
        case PartitionBegan():
            return _partition_began(link)
        case PartitionEnded():
            return _partition_ended(link)
        case Reconfigured(settings=settings):
            return _woken(replace(link, settings=settings), False)


# Steps.


def _locate(link: Link) -> tuple[Link, Commands]:
    link = _next_step(link, Phase.LOCATING)
    return link, (Locate(link.ticket),)


def _next_step(link: Link, phase: Phase) -> Link:
    return replace(link, phase=phase, ticket=link.ticket + 1)


def _located(link: Link, position: LocalPosition) -> tuple[Link, Commands]:
    link = replace(link, fence=position.fence, page=None)
    match resume(position):
        case Halt() as halt:
            return _halt(link, halt)
        case NeedsStart():
            link = replace(link, cursor=None, init=None, gaps=())
            if not link.settings.starts_on_load and not link.is_requested:
                return _next_step(link, Phase.RESTING), ()
        case Resume(cursor, init, gaps):
            saved = position.record.cursor if position.record else None
            link = replace(link, cursor=cursor, init=init, gaps=gaps, saved=saved)
    return _fetch(link, wait_seconds=0.0)


def _fetch(link: Link, wait_seconds: float) -> tuple[Link, Commands]:
    if link.is_partitioned:
        return _next_step(link, Phase.PARTITIONED), ()
    link = _next_step(link, Phase.FETCHING)
    request = FetchRequest(
        stream=link.name.stream,
        limits=replace(link.settings.limits, wait_seconds=wait_seconds),
        start=link.settings.init_mode if link.cursor is None else None,
        after=link.cursor,
        accept_gap=link.accept_gap,
    )
    return link, (Fetch(link.ticket, request),)


def _page_fetched(link: Link, page: Page) -> tuple[Link, Commands]:
    word = SenderWord(page.head, page.pending, page.sender_time, page.next_time)
    link = replace(link, word=word, accept_gap=None)
    if link.cursor is None:
        return _start_resolved(link, page)
    if page.epoch != link.cursor.epoch or page.scanned_through < link.cursor.scanned_through:
        return _halt(
            link,
            Halt(
                HaltReason.DIVERGED,
                f"asked behind {link.cursor.epoch}:{link.cursor.scanned_through}, "
                f"the peer answered for {page.epoch}:{page.scanned_through}",
            ),
        )
    link, announcements = _announce_recovery(link, page)
    link, commands = _apply(link, page)
    return link, announcements + commands


def _start_resolved(link: Link, page: Page) -> tuple[Link, Commands]:
    """The start is durable before the first fact (I21)."""
    mode = link.settings.init_mode
    init = Init(
        mode=mode.text,
        timestamp=mode.timestamp,
        justification=link.settings.justification,
        epoch=page.epoch,
        start_sequence=page.start_sequence,
        resolved_at=page.sender_time,
    )
    cursor = Cursor(page.epoch, None, None, page.start_sequence - 1)
    link, announcements = _announce_recovery(replace(link, init=init, cursor=cursor, page=page), page)
    link, commands = _save_record(link)
    return link, announcements + commands


def _apply(link: Link, page: Page) -> tuple[Link, Commands]:
    """Append what the cursor does not have yet; nothing at or below it is ever appended again (I10)."""
    cursor, fence = link.cursor, link.fence
    assert cursor is not None and fence is not None
    facts = tuple(fact for fact in page.facts if fact.sequence > cursor.scanned_through)
    duplicates = len(page.facts) - len(facts)
    link = replace(link, page=page, facts_duplicate=link.facts_duplicate + duplicates)
    if facts:
        link = _next_step(link, Phase.APPENDING)
        return link, (Append(link.ticket, fence, page.epoch, facts),)
    return _applied(link, replace(cursor, scanned_through=page.scanned_through))


def _appended(link: Link, fence: Fence) -> tuple[Link, Commands]:
    """The page is durable here: now, and only now, the cursor moves (I1)."""
    assert link.page is not None and link.page.facts and link.fence is not None
    last = link.page.facts[-1]
    cursor = Cursor(link.page.epoch, last.sequence, digest(last), link.page.scanned_through)
    count = fence.local_sequence - link.fence.local_sequence
    link = replace(link, fence=fence, facts_appended=link.facts_appended + count)
    return _applied(link, cursor)


def _applied(link: Link, cursor: Cursor) -> tuple[Link, Commands]:
    link = replace(
        link, cursor=cursor, page=None, failures=0, trouble=None, error=None, rounds=link.rounds + 1
    )
    link, confirms = _confirm(link)
    link, announcements = _announce_arrival(link)
    link, commands = _save_record(link) if _is_worth_saving(link) else _go_on(link)
    return link, confirms + announcements + commands


def _is_worth_saving(link: Link) -> bool:
    """A scan past the last fact is known to nobody but the record; everything else is read off the stream.

    While pages keep coming the next one supersedes it, so it is saved only when there is nothing more to fetch.
    """
    assert link.cursor is not None and link.word is not None
    is_past_last_fact = link.cursor.scanned_through != link.cursor.sequence
    return is_past_last_fact and link.word.pending == 0 and link.saved != link.cursor


def _go_on(link: Link) -> tuple[Link, Commands]:
    has_more = link.word is None or link.word.pending > 0
    return _fetch(link, 0.0 if has_more else link.settings.limits.wait_seconds)


def _save_record(link: Link) -> tuple[Link, Commands]:
    cursor, fence = link.cursor, link.fence
    assert cursor is not None and fence is not None
    record = LinkRecord(
        generation=fence.generation,
        created=fence.created,
        local_sequence=fence.local_sequence,
        cursor=cursor,
        init=link.init,
        gaps=link.gaps,
    )
    link = _next_step(link, Phase.RECORDING)
    return link, (SaveRecord(link.ticket, record),)


def _record_saved(link: Link) -> tuple[Link, Commands]:
    link = replace(link, saved=link.cursor)
    if link.page is not None:
        return _apply(link, link.page)
    return _go_on(link)


def _confirm(link: Link) -> tuple[Link, Commands]:
    """Tell the peer what is durable here, one confirm at a time, the latest only."""
    cursor = link.cursor
    if cursor is None or cursor.sequence is None or link.confirming or link.is_partitioned:
        return link, ()
    if link.confirmed is not None and link.confirmed >= cursor.sequence:
        return link, ()
    return replace(link, confirming=True), (Confirm(cursor),)


# Failures.

_LOCAL_PHASES: Final = (Phase.LOCATING, Phase.RECORDING, Phase.APPENDING)
_DENIALS: Final = (Code.IDENTITY_REJECTED, Code.PEER_UNKNOWN, Code.STREAM_DENIED)
_HALTS: Final = {
    Code.HISTORY_MISMATCH: HaltReason.DIVERGED,
    Code.AHEAD_OF_SOURCE: HaltReason.AHEAD_OF_SOURCE,
    Code.INIT_REJECTED: HaltReason.INIT_REJECTED,
}


def _step_failed(link: Link, event: StepFailed) -> tuple[Link, Commands]:
    if link.phase in _LOCAL_PHASES:
        return _local_failure(link, event)
    return _peer_failure(link, event)


def _local_failure(link: Link, event: StepFailed) -> tuple[Link, Commands]:
    """After any failed append only the stream itself says what it holds (I5)."""
    error = event.error
    if isinstance(error, Fenced | OutcomeUnknown) and link.failures == 0:
        return _locate(replace(link, failures=1, error=error))
    if error.code is Code.TOO_LARGE:
        return _halt(link, Halt(HaltReason.UNSTORABLE_FACT, error.message))
    if error.code is Code.NOT_FOUND:
        return _halt(link, Halt(HaltReason.LOCAL_RESET, error.message))
    trouble = (
        LinkState.LOCAL_FULL if error.code is Code.LOCAL_FULL else LinkState.LOCAL_UNAVAILABLE
    )
    return _wait(link, event, trouble)


def _peer_failure(link: Link, event: StepFailed) -> tuple[Link, Commands]:
    error = event.error
    link = replace(link, recovery=Recovery(), confirmed=None)
    if isinstance(error, PeerRefused):
        if error.code is Code.GAP:
            return _gap_met(link, event)
        if error.code in _HALTS:
            return _halt(link, Halt(_HALTS[error.code], error.message))
        if error.code is Code.PARTITIONED:
            return _wait(link, event, LinkState.PARTITIONED)
    if error.code in _DENIALS:
        return _wait(link, event, LinkState.DENIED)
    return _wait(link, event, LinkState.BACKING_OFF)


def _gap_met(link: Link, event: StepFailed) -> tuple[Link, Commands]:
    """The peer no longer has what comes next: never passed over in silence (I18)."""
    first, last = event.error.details.get("from"), event.error.details.get("to")
    if not isinstance(first, int) or not isinstance(last, int) or link.cursor is None:
        return _wait(link, event, LinkState.BACKING_OFF)
    if first != link.cursor.scanned_through + 1 or last < first:
        return _wait(link, event, LinkState.BACKING_OFF)
    if not link.settings.records_gaps:
        return _halt(link, Halt(HaltReason.GAP, event.error.message))
    gap = Gap(first, last, event.now, "retention")
    known = tuple(other for other in link.gaps if other.first != first)
    return _save_record(replace(link, gaps=(*known, gap), accept_gap=(first, last)))


def _wait(link: Link, event: StepFailed, trouble: LinkState) -> tuple[Link, Commands]:
    failures = link.failures + 1
    seconds = link.settings.backoff.delay(failures, event.chance)
    link = _next_step(link, Phase.WAITING)
    link = replace(link, failures=failures, trouble=trouble, error=event.error, page=None)
    if link.is_partitioned:
        return replace(link, phase=Phase.PARTITIONED), ()
    return link, (Wait(link.ticket, seconds),)


def _halt(link: Link, halt: Halt) -> tuple[Link, Commands]:
    link = replace(_next_step(link, Phase.HALTED), halt=halt, page=None)
    return link, (Announce("link_halted", f"link halted: {halt.reason}: {halt.message}"),)


# Outside words.


def _woken(link: Link, by_operator: bool) -> tuple[Link, Commands]:
    link = replace(link, is_requested=link.is_requested or by_operator)
    if link.phase is Phase.WAITING or (link.phase is Phase.RESTING and link.is_requested):
        return _locate(link)
    if link.phase is Phase.FETCHING:
        return _fetch(link, wait_seconds=0.0)
    return link, ()


def _partition_began(link: Link) -> tuple[Link, Commands]:
    """A page that is being stored is stored to its end; nothing new is asked for."""
    link = replace(link, is_partitioned=True, recovery=Recovery())
    if link.phase in (Phase.FETCHING, Phase.WAITING, Phase.RESTING):
        return replace(_next_step(link, Phase.PARTITIONED), trouble=None), ()
    return link, ()


def _partition_ended(link: Link) -> tuple[Link, Commands]:
    link = replace(link, is_partitioned=False)
    return _locate(link) if link.phase is Phase.PARTITIONED else (link, ())


# The lines of a recovery.


def _announce_recovery(link: Link, page: Page) -> tuple[Link, Commands]:
    if link.recovery is None or link.recovery.target is not None or link.cursor is None:
        return link, ()
    missing = page.pending + len(page.facts)
    lines = (
        Announce("cursor_comparison", f"cursor comparison: local={link.cursor.sequence or 0}, peer={page.head}"),
        Announce("backfill_required", f"backfill required: {missing} facts"),
        Announce("replay_initiated", "replay initiated"),
    )
    return replace(link, recovery=Recovery(target=page.head)), lines


def _announce_arrival(link: Link) -> tuple[Link, Commands]:
    recovery, cursor = link.recovery, link.cursor
    if recovery is None or recovery.target is None or cursor is None:
        return link, ()
    if cursor.scanned_through < recovery.target:
        return link, ()
    line = Announce("cursor_advanced", f"cursor advanced to {recovery.target}")
    return replace(link, recovery=None), (line,)
