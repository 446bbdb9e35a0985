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
time of a poll. ``StoreDoubted`` and ``Looked`` are about our own store: what a link believes is held against it, and
read anew where that does not agree (:mod:`bsfg.core.looking`). Everything that is out carries a ticket, and an answer
to any other ticket is dropped (I15).
"""

from __future__ import annotations

from dataclasses import replace

from bsfg.core.conversation import (
    Append,
    Appended,
    Commands,
    Confirm,
    Confirmed,
    ConfirmFailed,
    Event,
    Fetch,
    GapAccepted,
    Located,
    Looked,
    PageFetched,
    PartitionBegan,
    PartitionEnded,
    Reconfigured,
    RecordSaved,
    SetAside,
    StartChosen,
    Started,
    StepFailed,
    StoreDoubted,
    Waited,
    Woken,
)
from bsfg.core.failures import local_failure, peer_failure, set_aside, unstorable
from bsfg.core.link_state import Flight, Link, LinkSettings, Phase, Recovery, SenderWord, StepFailure
from bsfg.core.looking import agrees, conflict
from bsfg.core.reconcile import Halt, NeedsStart, Resume, resume
from bsfg.core.recovery import announce_arrival, announce_recovery
from bsfg.core.steps import RETENTION, halt_link, locate, pass_gap, rest, save_record
from bsfg.errors import Code
from bsfg.model.cursor import Cursor, Fence, Gap, HaltReason, Init, LocalPosition
from bsfg.model.fact import digest
from bsfg.model.facts import Facts
from bsfg.model.page import FetchRequest, Page


def advance(link: Link, event: Event) -> tuple[Link, Commands]:
    """The link after an event, and what is to be done about it."""
    ticket = getattr(event, "ticket", None)
    if ticket is not None and ticket not in link.tickets:
        return link, ()
    match event:
        case Started() | Waited():
            return locate(link)
        case Located(position=position):
            return _located(link._replace(step=None), position)
        case PageFetched(page=page, is_last=is_last):
            return _page_fetched(link._replace(fetch=None if is_last else link.fetch, word=SenderWord.of(page)), page)
        case RecordSaved(revision=revision):
            return _record_saved(link._replace(step=None, saved=link.cursor, revision=revision))
        case Appended(ticket=appended, fence=fence):
            return _appended(link, appended, fence)
        case StepFailed(ticket=failed, failure=failure):
            return _failed(link, failed, failure)
        case Woken(by_operator=by_operator):
            return _woken(link, by_operator)
        case StoreDoubted():
            return _store_doubted(link)
        case Looked(since=since, position=position):
            is_in_doubt = link.phase is Phase.FLOWING and not agrees(link, since, position)
            return locate(link) if is_in_doubt else (link, ())
        case Confirmed(sequence=sequence):
            return _confirm(link._replace(confirming=False, confirmed=sequence))
        case ConfirmFailed():
            return link._replace(confirming=False), ()
        case PartitionBegan():
            return _partition_began(link)
        case PartitionEnded():
            return _partition_ended(link)
        case Reconfigured(settings=settings):
            return _reconfigured(link, settings)
        case GapAccepted(now=now):
            return _gap_accepted(link, now)
        case StartChosen(init=init):
            return _start_chosen(link, init)
        case SetAside(sequence=sequence, now=now):
            return set_aside(link._replace(step=None), sequence, now)


# Steps that nothing runs beside.


def _located(link: Link, position: LocalPosition) -> tuple[Link, Commands]:
    before, now, old, start = link.fence, position.fence, link.cursor, link.start_to_take
    conflicting = conflict(link.doubtful, position)
    word = None if old is None else link.word
    link = link._replace(fence=now, word=word, revision=position.revision, doubtful=(), start_to_take=None)
    if before is not None and before.generation == now.generation and before.created != now.created:
        # Also where the record is lost with the stream: a start is resolved once (I20, I21).
        words = (
            f"the inbound stream was made again: it was created at {before.created}, and now at {now.created}"
        )
        return halt_link(link, Halt(HaltReason.LOCAL_RESET, words))
    if conflicting is not None:
        return halt_link(link, conflicting)
    match resume(position):
        case Halt(reason=HaltReason.CURSOR_UNKNOWN) | NeedsStart() if start is not None:
            return _take_start(link, start)
        case Halt() as halt:
            return halt_link(link, halt)
        case NeedsStart():
            link = link._replace(cursor=None, init=None, gaps=())
            if not link.settings.starts_on_load and not link.is_requested:
                return rest(link, Phase.RESTING), ()
        case Resume(cursor, init, gaps):
            saved = position.record.cursor if position.record else None
            link = link._replace(cursor=cursor, init=init, gaps=gaps, saved=saved)
    return _go_on(link, old, start)


def _go_on(link: Link, old: Cursor | None, start: Init | None) -> tuple[Link, Commands]:
    """What waited until the end was read, if it still fits: an operator's start, or a gap. Else the flow."""
    if start is not None and not _is_begun(link, start):
        return _take_start(link, start)
    gap, link = link.gap_to_record, link._replace(gap_to_record=None)
    if gap is not None and old is not None and _is_still_to_record(link, old, gap):
        if gap.reason == RETENTION:
            return pass_gap(link, gap)
        return save_record(link._replace(gaps=(*link.gaps, gap)))
    return _pump(link._replace(phase=Phase.FLOWING), looks_first=True)


def _is_begun(link: Link, start: Init) -> bool:
    """Whether facts of the chosen epoch are here already: then another gateway has taken the start."""
    return link.cursor is not None and link.cursor.epoch == start.epoch and link.cursor.sequence is not None


def _is_still_to_record(link: Link, old: Cursor, gap: Gap) -> bool:
    """Whether the gap still lies behind the cursor: since it was met another gateway may have stored the facts."""
    cursor = link.cursor
    if cursor is None or cursor.epoch != old.epoch:
        return False
    is_next = gap.first == cursor.scanned_through + 1
    return is_next if gap.reason == RETENTION else gap.first > cursor.scanned_through


def _record_saved(link: Link) -> tuple[Link, Commands]:
    link = link._replace(phase=Phase.FLOWING)
    if link.held is not None:
        return _take_in(link._replace(held=None), link.held)
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
        return (link, ()) if link.flights else (rest(link, Phase.PARTITIONED), ())
    if link.fetch_failure is not None:
        return (link, ()) if link.flights else peer_failure(link, link.fetch_failure)
    if not link.has_room:
        return link, ()
    is_behind = looks_first or link.word is None or link.word.pending > 0
    return _fetch(link, 0.0 if is_behind else link.settings.limits.wait_seconds)


def _fetch(link: Link, wait_seconds: float) -> tuple[Link, Commands]:
    ticket, after, limits = link.ticket + 1, link.cursor_ahead, link.settings.limits
    link = link._replace(ticket=ticket, fetch=ticket, is_polling=wait_seconds > 0)
    request = FetchRequest(
        stream=link.name.stream,
        limits=limits if limits.wait_seconds == wait_seconds else replace(limits, wait_seconds=wait_seconds),
        start=link.settings.init_mode if after is None else None,
        after=after,
        accept_gap=link.accept_gap,
    )
    is_behind = link.word is not None and link.word.pending > 0
    # Behind a fence that is not proved one page goes out at a time, so no more are asked for.
    pages = link.settings.pages_max if is_behind and link.is_fence_proved else 1
    return link, (Fetch(ticket, request, pages),)


def _page_fetched(link: Link, page: Page) -> tuple[Link, Commands]:
    link = link._replace(accept_gap=None) if link.accept_gap is not None else link
    ahead = link.cursor_ahead
    if ahead is None:
        return _start_resolved(link, page)
    if page.epoch != ahead.epoch or page.scanned_through < ahead.scanned_through:
        asked, said = f"{ahead.epoch}:{ahead.scanned_through}", f"{page.epoch}:{page.scanned_through}"
        return halt_link(
            link, Halt(HaltReason.DIVERGED, f"asked behind {asked}, the peer answered for {said}")
        )
    link, announcements = announce_recovery(link, page)
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
    link = link._replace(init=init, cursor=cursor, held=page, fetch=None)
    link, announcements = announce_recovery(link, page)
    link, commands = save_record(link)
    return link, announcements + commands


def _take_in(link: Link, page: Page) -> tuple[Link, Commands]:
    """Append what is not here yet; nothing at or below the cursor is ever appended again (I10)."""
    ahead, fence = link.cursor_ahead, link.fence_ahead
    assert ahead is not None and fence is not None
    if not page.facts:
        return _scanned(link, page.scanned_through)
    fresh = Facts.of(page.facts).behind(ahead.scanned_through)
    facts = fresh.without(link.set_aside) if link.gaps else fresh
    link = link._replace(facts_duplicate=link.facts_duplicate + len(page.facts) - len(fresh))
    if not facts:
        return _scanned(link, page.scanned_through)
    ticket = link.ticket + 1
    flight = Flight(
        ticket=ticket,
        facts=facts,
        cursor=Cursor(page.epoch, facts[-1].sequence, digest(facts[-1]), page.scanned_through),
        fence=replace(fence, local_sequence=fence.local_sequence + len(facts)),
    )
    link, commands = _pump(link._replace(ticket=ticket, flights=(*link.flights, flight)))
    return link, (Append(ticket, fence, page.epoch, facts), *commands)


def _scanned(link: Link, scanned_through: int) -> tuple[Link, Commands]:
    """The sender's scan went on without a fact."""
    if link.flights:
        last = link.flights[-1]
        moved = replace(last, cursor=replace(last.cursor, scanned_through=scanned_through))
        return _pump(link._replace(flights=(*link.flights[:-1], moved)))
    cursor = link.cursor
    assert cursor is not None
    has_moved = cursor.scanned_through != scanned_through
    return _applied(link, replace(cursor, scanned_through=scanned_through) if has_moved else cursor)


# Storing.


def _appended(link: Link, ticket: int, fence: Fence) -> tuple[Link, Commands]:
    """A page is durable here. The cursor moves over it, and now only, once all before it are durable too (I1)."""
    marked = tuple(
        replace(flight, is_stored=True) if flight.ticket == ticket else flight for flight in link.flights
    )
    stored = next((index for index, flight in enumerate(marked) if not flight.is_stored), len(marked))
    if stored == 0:
        return link._replace(flights=marked), ()
    last = marked[stored - 1]
    count = sum(len(flight.facts) for flight in marked[:stored])
    link = link._replace(
        flights=marked[stored:],
        fence=last.fence,
        is_fence_proved=True,
        facts_appended=link.facts_appended + count,
    )
    return _applied(link, last.cursor)


def _applied(link: Link, cursor: Cursor) -> tuple[Link, Commands]:
    link = link._replace(cursor=cursor, failures=0, trouble=None, error=None, rounds=link.rounds + 1)
    link, confirms = _confirm(link)
    link, announcements = announce_arrival(link)
    link, commands = save_record(link) if _is_worth_saving(link) else _pump(link)
    return link, confirms + announcements + commands


def _is_worth_saving(link: Link) -> bool:
    """A scan past the last fact is known to nobody but the record; everything else is read off the stream.

    While pages keep coming the next one supersedes it, so it is saved only when there is nothing more to fetch.
    """
    assert link.word is not None
    is_quiet = link.fetch is None and not link.flights and link.word.pending == 0
    return is_quiet and link.is_record_behind


def _confirm(link: Link) -> tuple[Link, Commands]:
    """Tell the peer what is durable here, one confirm at a time, the latest only."""
    if link.cursor is None or not link.owes_confirm:
        return link, ()
    return link._replace(confirming=True), (Confirm(link.cursor),)


# Failures.


def _failed(link: Link, ticket: int, failure: StepFailure) -> tuple[Link, Commands]:
    if ticket == link.fetch:
        return _pump(link._replace(fetch=None, fetch_failure=failure))
    if failure.error.code is Code.TOO_LARGE:
        return unstorable(link, ticket, failure)
    return local_failure(link, failure)


# Outside words.


def _woken(link: Link, by_operator: bool) -> tuple[Link, Commands]:
    link = link._replace(is_requested=link.is_requested or by_operator)
    if link.phase is Phase.WAITING or (link.phase is Phase.RESTING and link.is_requested):
        return locate(link)
    if link.phase is Phase.FLOWING and link.is_polling and link.fetch is not None:
        return _fetch(link, wait_seconds=0.0)
    return link, ()


def _store_doubted(link: Link) -> tuple[Link, Commands]:
    """What is under way may be lost with what was stored, so everything begins with reading the end again."""
    if link.phase in (Phase.LOCATING, Phase.FLOWING, Phase.RECORDING, Phase.WAITING):
        return locate(link)
    return link, ()


def _reconfigured(link: Link, settings: LinkSettings) -> tuple[Link, Commands]:
    """What an operator changed may be what a halt waited for: look again, and halt again if it was not."""
    link = link._replace(settings=settings)
    if link.phase is Phase.HALTED:
        return locate(link._replace(halt=None, word=None))
    return _woken(link, False)


def _partition_began(link: Link) -> tuple[Link, Commands]:
    """Pages that are being stored are stored to their end; nothing new is asked for."""
    link = link._replace(is_partitioned=True, recovery=Recovery(), trouble=None)
    if link.phase is Phase.FLOWING:
        return _pump(link._replace(fetch=None, is_polling=False, fetch_failure=None))
    if link.phase in (Phase.WAITING, Phase.RESTING):
        return rest(link, Phase.PARTITIONED), ()
    return link, ()


def _partition_ended(link: Link) -> tuple[Link, Commands]:
    link = link._replace(is_partitioned=False)
    return locate(link) if link.phase is Phase.PARTITIONED else _pump(link)


def _gap_accepted(link: Link, now: int) -> tuple[Link, Commands]:
    """What a halted link knows may be old: it reads where it is, and the gap is recorded if it is still there."""
    gap = link.halt.gap if link.phase is Phase.HALTED and link.halt else None
    if gap is None:
        return link, ()
    return locate(link._replace(halt=None, gap_to_record=Gap(*gap, now, RETENTION)))


def _start_chosen(link: Link, init: Init) -> tuple[Link, Commands]:
    """What a halted link knows may be old: it reads where it is before it takes the start."""
    if link.phase is not Phase.HALTED:
        return link, ()
    return locate(link._replace(halt=None, start_to_take=init))


def _take_start(link: Link, init: Init) -> tuple[Link, Commands]:
    """The accepted epoch has no fact here yet; what was stored of the one before stays (contract, ``accept-epoch``).

    Gaps are told in sequences of one epoch, so those of the one before are not carried over.
    """
    cursor = Cursor(init.epoch, None, None, init.start_sequence - 1)
    link = link._replace(init=init, cursor=cursor, confirmed=None, recovery=Recovery(), word=None)
    return save_record(link._replace(gaps=(), accept_gap=None, gap_to_record=None))
