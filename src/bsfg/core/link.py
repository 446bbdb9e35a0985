"""How a fact travels: one link as a pure state machine, ``advance(link, event) -> (link, commands)``.

A link is one (peer, stream) import. It asks the peer for the page behind its cursor, appends the page to the inbound
stream behind a fence, and only then moves its cursor; only then may the peer be told (confirm). Nothing here waits,
reads a clock or does I/O: the driver carries commands out and feeds back what happened.

    LOCATING    read the end of the inbound stream: cursor and fence by one read
    FLOWING     fetch pages, and append them behind each other; the request carries the cursor behind everything in
                flight, so that the peer can say whether our histories agree
    RECORDING   make durable what the facts can't say: the resolved start, a gap, a scan past the last fact
    WAITING     after a failure, with a named reason and a bounded delay
    RESTING     start: manual, until an operator asks
    PARTITIONED an operator cut this peer off
    HALTED      only an operator goes on from here

The fence of each page in flight follows by arithmetic from the one read of the cursor. If one append fails, all behind
it do: everything in flight is forgotten, and the link starts again from what the stream itself holds.

Timer, notification and reconnect are one event, ``Woken``, so a lost or forged notification changes nothing but the
time of a poll. Everything that is out carries a ticket, and an answer to any other ticket is dropped (I15).
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
from bsfg.core.link_state import Flight, Link, Phase, Recovery, SenderWord, StepFailure
from bsfg.core.reconcile import Halt, NeedsStart, Resume, resume
from bsfg.errors import Code, Fenced, OutcomeUnknown, PeerRefused
from bsfg.model.cursor import Cursor, Fence, Gap, HaltReason, Init, LinkRecord, LinkState, LocalPosition
from bsfg.model.fact import digest
from bsfg.model.page import FetchRequest, Page


def advance(link: Link, event: Event) -> tuple[Link, Commands]:
    """The link after an event, and what is to be done about it."""
    ticket = getattr(event, "ticket", None)
    if ticket is not None and ticket not in link.tickets:
        return link, ()
    match event:
        case Started() | Waited():
            return _locate(link)
        case Located(position=position):
            return _located(replace(link, step=None), position)
        case PageFetched(page=page, is_last=is_last):
            return _page_fetched(replace(link, fetch=None) if is_last else link, page)
        case RecordSaved():
            return _record_saved(replace(link, step=None, saved=link.cursor))
        case Appended(ticket=appended, fence=fence):
            return _appended(link, appended, fence)
        case StepFailed(ticket=failed, failure=failure):
            return _failed(link, failed, failure)
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


# Steps that nothing runs beside.


def _locate(link: Link) -> tuple[Link, Commands]:
    link = _step(_forget(link), Phase.LOCATING)
    return link, (Locate(link.ticket),)


def _step(link: Link, phase: Phase) -> Link:
    return replace(link, phase=phase, ticket=link.ticket + 1, step=link.ticket + 1)


def _forget(link: Link) -> Link:
    """Take back everything that is out."""
    return replace(link, step=None, fetch=None, is_polling=False, flights=(), held=None, fetch_failure=None)


def _rest(link: Link, phase: Phase) -> Link:
    """Nothing is out until an outside word comes."""
    return replace(_forget(link), phase=phase)


def _located(link: Link, position: LocalPosition) -> tuple[Link, Commands]:
    link = replace(link, fence=position.fence, word=None if link.cursor is None else link.word)
    match resume(position):
        case Halt() as halt:
            return _halt(link, halt)
        case NeedsStart():
            link = replace(link, cursor=None, init=None, gaps=())
            if not link.settings.starts_on_load and not link.is_requested:
                return _rest(link, Phase.RESTING), ()
        case Resume(cursor, init, gaps):
            saved = position.record.cursor if position.record else None
            link = replace(link, cursor=cursor, init=init, gaps=gaps, saved=saved)
    return _pump(replace(link, phase=Phase.FLOWING), looks_first=True)


def _save_record(link: Link) -> tuple[Link, Commands]:
    cursor, fence = link.cursor, link.fence
    assert cursor is not None and fence is not None and not link.flights
    record = LinkRecord(
        generation=fence.generation,
        created=fence.created,
        local_sequence=fence.local_sequence,
        cursor=cursor,
        init=link.init,
        gaps=link.gaps,
    )
    link = _step(link, Phase.RECORDING)
    return link, (SaveRecord(link.ticket, record),)


def _record_saved(link: Link) -> tuple[Link, Commands]:
    link = replace(link, phase=Phase.FLOWING)
    if link.held is not None:
        return _take_in(replace(link, held=None), link.held)
    return _pump(link)


# Fetching.


def _pump(link: Link, *, looks_first: bool = False) -> tuple[Link, Commands]:
    """Ask for what comes next, if that is what the link should do now.

    The peer holds its answer only if, by its last word, there is nothing more; the first fetch after an interruption
    always looks at once.
    """
    if link.phase is not Phase.FLOWING or link.fetch is not None:
        return link, ()
    if link.is_partitioned:
        return (link, ()) if link.flights else (_rest(link, Phase.PARTITIONED), ())
    if link.fetch_failure is not None:
        return (link, ()) if link.flights else _peer_failure(link, link.fetch_failure)
    if not link.has_room:
        return link, ()
    is_behind = looks_first or link.word is None or link.word.pending > 0
    return _fetch(link, 0.0 if is_behind else link.settings.limits.wait_seconds)


def _fetch(link: Link, wait_seconds: float) -> tuple[Link, Commands]:
    ticket, after = link.ticket + 1, link.cursor_ahead
    link = replace(link, ticket=ticket, fetch=ticket, is_polling=wait_seconds > 0)
    request = FetchRequest(
        stream=link.name.stream,
        limits=replace(link.settings.limits, wait_seconds=wait_seconds),
        start=link.settings.init_mode if after is None else None,
        after=after,
        accept_gap=link.accept_gap,
    )
    is_behind = link.word is not None and link.word.pending > 0
    return link, (Fetch(ticket, request, link.settings.pages_max if is_behind else 1),)


def _page_fetched(link: Link, page: Page) -> tuple[Link, Commands]:
    word = SenderWord(page.head, page.pending, page.sender_time, page.next_time)
    link = replace(link, word=word, accept_gap=None)
    ahead = link.cursor_ahead
    if ahead is None:
        return _start_resolved(link, page)
    if page.epoch != ahead.epoch or page.scanned_through < ahead.scanned_through:
        asked, said = f"{ahead.epoch}:{ahead.scanned_through}", f"{page.epoch}:{page.scanned_through}"
        return _halt(
            link, Halt(HaltReason.DIVERGED, f"asked behind {asked}, the peer answered for {said}")
        )
    link, announcements = _announce_recovery(link, page)
    link, commands = _take_in(link, page)
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
    link = replace(link, init=init, cursor=cursor, held=page, fetch=None)
    link, announcements = _announce_recovery(link, page)
    link, commands = _save_record(link)
    return link, announcements + commands


def _take_in(link: Link, page: Page) -> tuple[Link, Commands]:
    """Append what is not here yet; nothing at or below the cursor is ever appended again (I10)."""
    ahead, fence = link.cursor_ahead, link.fence_ahead
    assert ahead is not None and fence is not None
    facts = tuple(fact for fact in page.facts if fact.sequence > ahead.scanned_through)
    link = replace(link, facts_duplicate=link.facts_duplicate + len(page.facts) - len(facts))
    if not facts:
        return _scanned(link, page.scanned_through)
    ticket = link.ticket + 1
    flight = Flight(
        ticket=ticket,
        facts=len(facts),
        oldest_time=facts[0].time,
        cursor=Cursor(page.epoch, facts[-1].sequence, digest(facts[-1]), page.scanned_through),
        fence=replace(fence, local_sequence=fence.local_sequence + len(facts)),
    )
    link, commands = _pump(replace(link, ticket=ticket, flights=(*link.flights, flight)))
    return link, (Append(ticket, fence, page.epoch, facts), *commands)


def _scanned(link: Link, scanned_through: int) -> tuple[Link, Commands]:
    """The sender's scan went on without a fact."""
    if link.flights:
        last = link.flights[-1]
        moved = replace(last, cursor=replace(last.cursor, scanned_through=scanned_through))
        return _pump(replace(link, flights=(*link.flights[:-1], moved)))
    assert link.cursor is not None
    return _applied(link, replace(link.cursor, scanned_through=scanned_through))


# Storing.


def _appended(link: Link, ticket: int, fence: Fence) -> tuple[Link, Commands]:
    """A page is durable here. The cursor moves over it, and now only, once all before it are durable too (I1)."""
    marked = tuple(
        replace(flight, is_stored=True) if flight.ticket == ticket else flight for flight in link.flights
    )
    stored = next((index for index, flight in enumerate(marked) if not flight.is_stored), len(marked))
    link = replace(link, flights=marked)
    if stored == 0:
        return link, ()
    last = marked[stored - 1]
    count = sum(flight.facts for flight in marked[:stored])
    link = replace(link, flights=marked[stored:], fence=last.fence, facts_appended=link.facts_appended + count)
    return _applied(link, last.cursor)


def _applied(link: Link, cursor: Cursor) -> tuple[Link, Commands]:
    link = replace(link, cursor=cursor, failures=0, trouble=None, error=None, rounds=link.rounds + 1)
    link, confirms = _confirm(link)
    link, announcements = _announce_arrival(link)
    link, commands = _save_record(link) if _is_worth_saving(link) else _pump(link)
    return link, confirms + announcements + commands


def _is_worth_saving(link: Link) -> bool:
    """A scan past the last fact is known to nobody but the record; everything else is read off the stream.

    While pages keep coming the next one supersedes it, so it is saved only when there is nothing more to fetch.
    """
    assert link.cursor is not None and link.word is not None
    is_quiet = link.fetch is None and not link.flights and link.word.pending == 0
    is_past_last_fact = link.cursor.scanned_through != link.cursor.sequence
    return is_quiet and is_past_last_fact and link.saved != link.cursor


def _confirm(link: Link) -> tuple[Link, Commands]:
    """Tell the peer what is durable here, one confirm at a time, the latest only."""
    cursor = link.cursor
    if cursor is None or cursor.sequence is None or link.confirming or link.is_partitioned:
        return link, ()
    if link.confirmed is not None and link.confirmed >= cursor.sequence:
        return link, ()
    return replace(link, confirming=True), (Confirm(cursor),)


# Failures.

_DENIALS: Final = (Code.IDENTITY_REJECTED, Code.PEER_UNKNOWN, Code.STREAM_DENIED)
_HALTS: Final = {
    Code.HISTORY_MISMATCH: HaltReason.DIVERGED,
    Code.AHEAD_OF_SOURCE: HaltReason.AHEAD_OF_SOURCE,
    Code.INIT_REJECTED: HaltReason.INIT_REJECTED,
}


def _failed(link: Link, ticket: int, failure: StepFailure) -> tuple[Link, Commands]:
    if ticket == link.fetch:
        return _pump(replace(link, fetch=None, fetch_failure=failure))
    return _local_failure(link, failure)


def _local_failure(link: Link, failure: StepFailure) -> tuple[Link, Commands]:
    """After any failed append only the stream itself says what it holds (I5)."""
    error = failure.error
    if isinstance(error, Fenced | OutcomeUnknown) and link.failures == 0:
        return _locate(replace(link, failures=1, error=error))
    if error.code is Code.TOO_LARGE:
        return _halt(link, Halt(HaltReason.UNSTORABLE_FACT, error.message))
    if error.code is Code.NOT_FOUND:
        return _halt(link, Halt(HaltReason.LOCAL_RESET, error.message))
    is_full = error.code is Code.LOCAL_FULL
    return _wait(link, failure, LinkState.LOCAL_FULL if is_full else LinkState.LOCAL_UNAVAILABLE)


def _peer_failure(link: Link, failure: StepFailure) -> tuple[Link, Commands]:
    error = failure.error
    link = replace(link, recovery=Recovery(), confirmed=None, fetch_failure=None)
    if isinstance(error, PeerRefused):
        if error.code is Code.GAP:
            return _gap_met(link, failure)
        if error.code in _HALTS:
            return _halt(link, Halt(_HALTS[error.code], error.message))
        if error.code is Code.PARTITIONED:
            return _wait(link, failure, LinkState.PARTITIONED)
    if error.code in _DENIALS:
        return _wait(link, failure, LinkState.DENIED)
    return _wait(link, failure, LinkState.BACKING_OFF)


def _gap_met(link: Link, failure: StepFailure) -> tuple[Link, Commands]:
    """The peer no longer has what comes next: never passed over in silence (I18)."""
    first, last = failure.error.details.get("from"), failure.error.details.get("to")
    if not isinstance(first, int) or not isinstance(last, int) or link.cursor is None:
        return _wait(link, failure, LinkState.BACKING_OFF)
    if first != link.cursor.scanned_through + 1 or last < first:
        return _wait(link, failure, LinkState.BACKING_OFF)
    if not link.settings.records_gaps:
        return _halt(link, Halt(HaltReason.GAP, failure.error.message))
    gap = Gap(first, last, failure.now, "retention")
    known = tuple(other for other in link.gaps if other.first != first)
    return _save_record(replace(link, gaps=(*known, gap), accept_gap=(first, last)))


def _wait(link: Link, failure: StepFailure, trouble: LinkState) -> tuple[Link, Commands]:
    failures = link.failures + 1
    link = replace(link, failures=failures, trouble=trouble, error=failure.error)
    if link.is_partitioned:
        return _rest(link, Phase.PARTITIONED), ()
    link = _step(_forget(link), Phase.WAITING)
    return link, (Wait(link.ticket, link.settings.backoff.delay(failures, failure.chance)),)


def _halt(link: Link, halt: Halt) -> tuple[Link, Commands]:
    link = replace(_rest(link, Phase.HALTED), halt=halt)
    return link, (Announce("link_halted", f"link halted: {halt.reason}: {halt.message}"),)


# Outside words.


def _woken(link: Link, by_operator: bool) -> tuple[Link, Commands]:
    link = replace(link, is_requested=link.is_requested or by_operator)
    if link.phase is Phase.WAITING or (link.phase is Phase.RESTING and link.is_requested):
        return _locate(link)
    if link.phase is Phase.FLOWING and link.is_polling and link.fetch is not None:
        return _fetch(link, wait_seconds=0.0)
    return link, ()


def _partition_began(link: Link) -> tuple[Link, Commands]:
    """Pages that are being stored are stored to their end; nothing new is asked for."""
    link = replace(link, is_partitioned=True, recovery=Recovery(), trouble=None)
    if link.phase is Phase.FLOWING:
        return _pump(replace(link, fetch=None, is_polling=False, fetch_failure=None))
    if link.phase in (Phase.WAITING, Phase.RESTING):
        return _rest(link, Phase.PARTITIONED), ()
    return link, ()


def _partition_ended(link: Link) -> tuple[Link, Commands]:
    link = replace(link, is_partitioned=False)
    return _locate(link) if link.phase is Phase.PARTITIONED else _pump(link)


# The lines of a recovery.


def _announce_recovery(link: Link, page: Page) -> tuple[Link, Commands]:
    if link.recovery is None or link.recovery.target is not None or link.cursor is None:
        return link, ()
    local, missing = link.cursor.sequence or 0, page.pending + len(page.facts)
    lines = (
        Announce("cursor_comparison", f"cursor comparison: local={local}, peer={page.head}"),
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
