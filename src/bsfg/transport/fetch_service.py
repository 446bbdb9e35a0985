"""The sender's rules: what a peer is answered, over ports alone (contract, section 4; design, decisions 4, 5 and 8).

Nothing here knows HTTP. Who asks is a :class:`Caller`; it is asked again whenever the access may have changed, and
always last before an answer is given, so that no byte leaves on yesterday's permission (I31, I34).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple, TypeVar
from weakref import WeakValueDictionary

from bsfg.errors import BsfgError
from bsfg.model.cursor import Cursor
from bsfg.model.fact import digest
from bsfg.model.moment import format_time
from bsfg.model.names import StreamName, ZoneId
from bsfg.model.page import Agreement, FetchRequest, LogDescription, LogSlice, Page, PageLimits
from bsfg.model.policy import ReadStream
from bsfg.ports import Clock, Confirmations, Confirmed, ExportedLog
from bsfg.tasks import end_tasks
from bsfg.transport.agreement import (
    agreement_on,
    history_mismatch,
    must_be_same_history,
    must_follow,
    must_not_be_ahead,
)
from bsfg.transport.page_codec import continued
from bsfg.transport.served_log import Caller, NotHere, describe, in_time, read_while_allowed
from bsfg.transport.wire import ConfirmCall, FetchCall

PAGES_SECONDS_MAX: Final = 30.0
"""No further page of an answer is begun after this; the receiver asks again."""
GIVEN_MAX: Final = 4_096
"""Of how many streams and peers the last page is remembered."""


@dataclass(frozen=True, slots=True)
class _Agreed:
    """Where a page may start, and how sure that is."""

    log: LogDescription
    """As it was when both agreed."""
    agreement: Agreement
    start_sequence: int
    after: Cursor | None = None
    """The fact to agree on, once more when the page has been read; None at a start."""
    accept_gap: tuple[int, int] | None = None
    reader: str = ""
    """Who read the last page, where this is what it led to."""


class _Read(NamedTuple):
    """A page, and what is agreed behind it."""

    page: Page
    behind: _Agreed


_Formed = TypeVar("_Formed")


class FetchService:
    """Fetch, confirm and the stream list of one zone; all lasting state is in the ports."""

    def __init__(self, log: ExportedLog, confirmations: Confirmations, clock: Clock) -> None:
        self._log = log
        self._confirmations = confirmations
        self._clock = clock
        self._given: dict[tuple[ZoneId, StreamName], _Agreed] = {}
        """What the last page of each stream to each peer leads to."""
        self._confirming: WeakValueDictionary[tuple[ZoneId, StreamName], asyncio.Lock] = WeakValueDictionary()

    async def fetch(self, caller: Caller, request: FetchRequest) -> Page:
        """One page; raises every refusal of the contract, and ``unavailable`` when the store does not answer."""
        return (await self._first(caller, request)).page

    async def pages(
        self, caller: Caller, call: FetchCall, form: Callable[[Page], Awaitable[_Formed]]
    ) -> AsyncGenerator[_Formed, None]:
        """Up to that many pages, each continuing the one before, in the form to send; the last may be empty.

        No page is kept beside its form, and no form while the next one is awaited. What is refused before the first
        page is raised. Later a refusal only ends the answer behind the last good page: the next request is told why.
        """
        began, limits = self._clock.monotonic(), replace(call.request.limits, wait_seconds=0.0)
        read: _Read | None = await self._first(caller, call.request)
        for number in range(1, call.pages + 1):
            assert read is not None
            page, agreed, read = read.page, read.behind, None
            is_late = self._clock.monotonic() - began > PAGES_SECONDS_MAX
            is_last = number == call.pages or not page.facts or not page.pending or is_late
            # The next page is read while this one is on its way; permission is asked for again before it goes out.
            reading = [] if is_last else [asyncio.ensure_future(self._page(caller, page.stream, agreed, limits))]
            try:
                forming = form(page)
                del page
                yield await forming
                if is_last:
                    return
                read = await reading[0]
                caller.demand(ReadStream(call.request.stream))
            except BsfgError:
                return
            finally:
                await end_tasks(*reading)

    async def confirm(self, caller: Caller, call: ConfirmCall) -> int:
        """The peer's word is durable on return; returns the highest sequence that it has confirmed of this epoch."""
        caller.demand(ReadStream(call.stream))
        lock = self._confirming.setdefault((caller.peer, call.stream), asyncio.Lock())
        async with lock:
            description = await self._describe(call.stream)
            must_be_same_history(call.epoch, description)
            must_not_be_ahead(call.sequence, description)
            known = await in_time(self._confirmations.load(caller.peer, call.stream))
            if known is not None and known.epoch == call.epoch and call.sequence < known.sequence:
                return known.sequence
            await self._must_be_our_fact(call, known)
            caller.demand(ReadStream(call.stream))
            confirmed = Confirmed(call.epoch, call.sequence, call.digest, self._clock.now())
            await in_time(self._confirmations.save(caller.peer, call.stream, confirmed))
        return call.sequence

    async def streams(self, caller: Caller) -> list[dict[str, Any]]:
        """What the caller may read and what of it exists, in the order of names."""
        rows = []
        for stream in sorted(caller.streams):
            with contextlib.suppress(NotHere):
                rows.append(_row(await self._describe(stream)))
        allowed = caller.streams
        return [row for row in rows if row["stream"] in allowed]

    async def _first(self, caller: Caller, request: FetchRequest) -> _Read:
        caller.demand(ReadStream(request.stream))
        if request.after is None:
            start = await self._agree(caller.peer, request)
            return await self._page(caller, request.stream, start, request.limits)
        facts = read_while_allowed(
            self._log, caller, request.stream, request.after.scanned_through, request.limits
        )
        agreed = self._agreed_before(caller.peer, request)
        if agreed is not None:
            seen = await facts
            if not _proves(seen, agreed):
                agreed = await self._agree(caller.peer, request)
            return await self._page_of(caller, agreed, seen)
        # The reader waits for facts while both agree, and nothing that it brings is used before they have.
        reading = asyncio.ensure_future(facts)
        try:
            agreed = await self._agree(caller.peer, request)
            return await self._page_of(caller, agreed, await reading)
        finally:
            await end_tasks(reading)

    def _agreed_before(self, peer: ZoneId, request: FetchRequest) -> _Agreed | None:
        """What was agreed with the last page, where the cursor is the one that it gave: that of most fetches.

        Then nothing is asked of the store but the facts, until it gives none or can't vouch for them.
        """
        agreed = self._given.get((peer, request.stream))
        return agreed if agreed and agreed.reader and agreed.after == request.after else None

    def _remember(self, peer: ZoneId, stream: StreamName, agreed: _Agreed) -> None:
        if len(self._given) >= GIVEN_MAX:
            self._given.clear()
        self._given[peer, stream] = agreed

    async def _agree(self, peer: ZoneId, request: FetchRequest) -> _Agreed:
        description = await self._describe(request.stream)
        if request.after is None:
            assert request.start is not None
            resolving = self._log.resolve_start(request.stream, request.start, self._clock.now())
            return _Agreed(description, Agreement.EPOCH, await in_time(resolving))
        must_be_same_history(request.after.epoch, description)
        must_not_be_ahead(request.after.scanned_through, description)
        agreement = await self._agreement(peer, request.stream, request.after)
        must_follow(request.after.scanned_through, description, request.accept_gap)
        start = request.after.scanned_through + 1
        return _Agreed(description, agreement, start, request.after, request.accept_gap)

    async def _agreement(self, peer: ZoneId, stream: StreamName, after: Cursor) -> Agreement:
        if after.sequence is None:
            return Agreement.EPOCH
        fact = await in_time(self._log.fact_at(stream, after.sequence))
        ours = None if fact is None else digest(fact)
        known = None if fact else await in_time(self._confirmations.load(peer, stream))
        agreement = agreement_on(after, ours, known)
        if agreement is None:
            raise history_mismatch(stream, f"the fact at sequence {after.sequence} is another one here")
        return agreement

    async def _agree_again(self, peer: ZoneId, agreed: _Agreed, seen: LogSlice) -> tuple[LogDescription, Agreement]:
        """What is agreed once the facts are read.

        A stream that was made again or restored meanwhile would give another history's facts behind the cursor; and
        what expired or was purged between the look and the read is a gap, and no hole to be passed over (I18).
        """
        if _proves(seen, agreed):
            return agreed.log, agreed.agreement
        log, agreement = await asyncio.gather(
            self._describe(agreed.log.stream), self._agreement_behind(peer, agreed, seen)
        )
        must_be_same_history(agreed.log.epoch, log)
        if not _follows(seen, agreed):
            must_follow(agreed.start_sequence - 1, log, agreed.accept_gap)
        return log, agreement

    async def _agreement_behind(self, peer: ZoneId, agreed: _Agreed, seen: LogSlice) -> Agreement:
        if agreed.after is None or not seen.facts:
            return agreed.agreement
        return await self._agreement(peer, agreed.log.stream, agreed.after)

    async def _must_be_our_fact(self, call: ConfirmCall, known: Confirmed | None) -> None:
        """A digest is only kept if it is that of our fact, where we can still tell: later it decides alone."""
        fact = await in_time(self._log.fact_at(call.stream, call.sequence))
        cursor = Cursor(call.epoch, call.sequence, call.digest, call.sequence)
        if agreement_on(cursor, None if fact is None else digest(fact), known) is None:
            raise history_mismatch(call.stream, f"the fact at sequence {call.sequence} is another one here")

    async def _page(self, caller: Caller, stream: StreamName, agreed: _Agreed, limits: PageLimits) -> _Read:
        seen = await read_while_allowed(self._log, caller, stream, agreed.start_sequence - 1, limits)
        return await self._page_of(caller, agreed, seen)

    async def _page_of(self, caller: Caller, agreed: _Agreed, seen: LogSlice) -> _Read:
        stream = agreed.log.stream
        log, agreement = await self._agree_again(caller.peer, agreed, seen)
        caller.demand(ReadStream(stream))
        page = Page(
            stream=stream,
            epoch=log.epoch,
            agreement=agreement,
            start_sequence=agreed.start_sequence,
            scanned_through=seen.scanned_through,
            head=seen.head,
            pending=seen.pending,
            sender_time=self._clock.now(),
            next_time=seen.next_time,
            facts=seen.facts,
            pending_bytes=_pending_bytes(seen.pending, log),
        )
        behind = _behind(page, agreed.after, log, seen.reader)
        self._remember(caller.peer, stream, behind)
        return _Read(page, behind)

    async def _describe(self, stream: StreamName) -> LogDescription:
        return await describe(self._log, stream)


def _behind(page: Page, after: Cursor | None, log: LogDescription, reader: str) -> _Agreed:
    """What a page leads to; the log need not be looked at before more is read: that says whether it still is it."""
    cursor = continued(after, page)
    agreement = Agreement.EXACT if page.facts else page.agreement
    return _Agreed(log, agreement, cursor.scanned_through + 1, cursor, reader=reader)


def _follows(seen: LogSlice, agreed: _Agreed) -> bool:
    """Whether the first fact is the very next one."""
    return bool(seen.facts) and seen.facts[0].sequence == agreed.start_sequence


def _proves(seen: LogSlice, agreed: _Agreed) -> bool:
    """Whether the log is still what both agreed on, by what was read of it."""
    is_same_reader = not agreed.reader or seen.reader == agreed.reader
    return seen.is_continuous and is_same_reader and _follows(seen, agreed)


def _pending_bytes(pending: int, description: LogDescription) -> int:
    return pending * description.bytes // max(1, description.messages)


def _row(description: LogDescription) -> dict[str, Any]:
    return {
        "stream": description.stream,
        "epoch": description.epoch,
        "first_sequence": description.first_sequence,
        "last_sequence": description.last_sequence,
        "first_time": _time(description.first_time),
        "last_time": _time(description.last_time),
    }


def _time(nanoseconds: int | None) -> str | None:
    return None if nanoseconds is None else format_time(nanoseconds)
