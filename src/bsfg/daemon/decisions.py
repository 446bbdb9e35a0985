"""What only an operator may decide about a link: let a gap go, accept another epoch, read again from an earlier fact.

Each says first what would be skipped or repeated, is recorded in the audit with its reason before it acts, and
changes nothing with ``dry_run`` (contract, section 6; I7).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from bsfg.core.conversation import Event, GapAccepted, StartChosen
from bsfg.core.link_state import Phase
from bsfg.daemon.gateway import Gateway
from bsfg.daemon.generations import Generations
from bsfg.daemon.running_link import RunningLink
from bsfg.errors import BsfgError, Code, PeerRefused
from bsfg.model.cursor import Cursor, HaltReason, Init, LinkName, LinkState, parse_init_mode
from bsfg.model.page import FetchRequest, Page, PageLimits
from bsfg.model.ranges import Ranges
from bsfg.ports import PeerClient
from bsfg.substrates.generations import Kept, Plan

MOVE_SECONDS: Final = 60.0
REASON_CHARACTERS_MAX: Final = 500
ONE_FACT: Final = PageLimits(facts=1, bytes=1)
ACCEPTS_EPOCH: Final = (
    HaltReason.DIVERGED,
    HaltReason.AHEAD_OF_SOURCE,
    HaltReason.CONFLICTING_DUPLICATE,
    HaltReason.CURSOR_UNKNOWN,
    HaltReason.INIT_REJECTED,
)

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Start:
    """A start as the sender resolved it."""

    mode: str
    timestamp: int | None
    page: Page

    @property
    def facts(self) -> int:
        """Facts from the start on."""
        return self.page.pending + len(self.page.facts)


@dataclass
class Decisions:
    """The decisions about links; ``driver_of`` and ``row_of`` are those of every other operation."""

    gateway: Gateway
    driver_of: Callable[[str, str], RunningLink]
    row_of: Callable[[RunningLink], Row]

    @property
    def _generations(self) -> Generations:
        return self.gateway.parts.generations

    # A gap.

    async def accept_gap(self, peer: str, stream: str, reason: str, dry_run: bool) -> Row:
        """Go on behind what the sender no longer has; for a link that is halted for just that."""
        driver = self.driver_of(peer, stream)
        check_reason(reason)
        halt = driver.link.halt if driver.link.phase is Phase.HALTED else None
        if halt is None or halt.gap is None:
            raise _not_this(driver, "a gap", "bsfg cursor query says what the link does")
        first, last = halt.gap
        answer = self._answer(driver, dry_run) | {"skipped": span(first, last)}
        if dry_run:
            return answer
        self._audit("cursor.accept_gap", driver.name, reason, **answer["skipped"])
        await self._tell(driver, GapAccepted(driver.clock.now()))
        return answer | {"cursor": self.row_of(driver)}

    # Another epoch.

    async def accept_epoch(
        self, peer: str, stream: str, start: str, init_timestamp: str | None, reason: str, dry_run: bool
    ) -> Row:
        """Go on with the sender's present epoch, in the same generation, from an explicit start."""
        driver = self.driver_of(peer, stream)
        check_reason(reason)
        halt = driver.link.halt if driver.link.phase is Phase.HALTED else None
        if halt is None or halt.reason not in ACCEPTS_EPOCH:
            raise _not_this(
                driver, "another history", "bsfg cursor rewind reads again whatever the link's state is"
            )
        client = self.gateway.parts.peers.client(driver.name.peer)
        found = await _resolve(client, driver.name, start, init_timestamp)
        await self._refuse_known_epoch(driver, found.page.epoch)
        answer = self._answer(driver, dry_run) | await _epoch_preview(client, driver, found)
        if dry_run:
            return answer
        self._audit(
            "cursor.accept_epoch",
            driver.name,
            reason,
            **{name: answer[name] for name in ("old_epoch", "epoch", "start_sequence", "skipped", "present")},
        )
        await self._leave_epoch(driver)
        init = Init(
            mode=found.mode,
            timestamp=found.timestamp,
            justification=reason,
            epoch=found.page.epoch,
            start_sequence=found.page.start_sequence,
            resolved_at=found.page.sender_time,
        )
        await self._tell(driver, StartChosen(init))
        return answer | {"cursor": self.row_of(driver)}

    async def _refuse_known_epoch(self, driver: RunningLink, epoch: str) -> None:
        """No sequence of one epoch may come twice into one generation, with whatever content (I10)."""
        cursor, fence = driver.link.cursor, driver.link.fence
        if cursor is not None and cursor.sequence is not None and cursor.epoch == epoch:
            raise BsfgError(
                Code.HISTORY_MISMATCH,
                f"link {driver.name}: the sender says epoch {epoch} as before, though its history is another one",
                hint=f"its operator has to begin a new one: bsfg stream new-epoch {driver.name.stream} --reason ...",
            )
        if fence is None:
            return
        if epoch in await self._generations.store.past_epochs(driver.name, fence.generation):
            raise BsfgError(
                Code.HISTORY_MISMATCH,
                f"link {driver.name}: generation {fence.generation} holds facts of epoch {epoch} from earlier",
                hint="bsfg cursor rewind reads it into a new generation",
            )

    async def _leave_epoch(self, driver: RunningLink) -> None:
        cursor, fence = driver.link.cursor, driver.link.fence
        if cursor is not None and fence is not None:
            await self._generations.store.leave_epoch(driver.name, fence.generation, cursor.epoch)

    # Reading again.

    async def rewind(
        self,
        peer: str,
        stream: str,
        to: int,
        reason: str,
        accept_differences: bool,
        dry_run: bool,
        purpose: str = "rewind",
        kept: Kept | None = None,
    ) -> Row:
        """Build a new generation from a sequence on and switch to it; returns once the plan is durable."""
        driver = self.driver_of(peer, stream)
        check_reason(reason)
        if to < 1:
            raise BsfgError(
                Code.INVALID_REQUEST, f"cursor rewind: sequence {to} does not exist; the first is 1"
            )
        client = self.gateway.parts.peers.client(driver.name.peer)
        page = (await _page_from(client, driver.name, to)).page
        present = await self._present(driver)
        self._refuse_other_history(driver, present, page)
        plan = Plan(
            generation=await self._generations.store.next_number(driver.name),
            purpose=purpose,
            epoch=page.epoch,
            start_sequence=to,
            reason=reason,
            began=driver.clock.now(),
            resolved_at=page.sender_time,
            accepts_differences=accept_differences,
            kept=kept,
        )
        answer = self._answer(driver, dry_run) | _rewind_preview(plan, present, page)
        if dry_run:
            return answer
        self._audit(f"cursor.{purpose}", driver.name, reason, plan=answer)
        is_new = await self._generations.begin(driver.name, plan)
        building = self._generations.building(driver.name) or {}
        return answer | {"is_new": is_new, "generation": building.get("generation", plan.generation)}

    async def abort_rewind(self, peer: str, stream: str, reason: str) -> Row:
        """Give up the generation that is being built; nothing to give up is done already."""
        driver = self.driver_of(peer, stream)
        check_reason(reason)
        plan = await self._generations.abort(driver.name, reason)
        return self._answer(driver, False) | {"aborted": plan.generation if plan else None}

    async def _present(self, driver: RunningLink) -> Cursor | None:
        """The cursor; where the link does not know it any more, what its record last said."""
        if driver.link.cursor is not None:
            return driver.link.cursor
        record = await self._generations.store.inbound.record(driver.name)
        return record.cursor if record else None

    def _refuse_other_history(self, driver: RunningLink, present: Cursor | None, page: Page) -> None:
        """Only beside a halted link may a rewind change the epoch, or begin behind the cursor."""
        if present is None or driver.link.phase is Phase.HALTED:
            return
        if present.epoch != page.epoch:
            raise BsfgError(
                Code.HISTORY_MISMATCH,
                f"link {driver.name}: the sender has begun epoch {page.epoch}, the link is in {present.epoch}",
                hint="bsfg cursor accept-epoch goes on with it",
            )
        if page.start_sequence > present.scanned_through + 1:
            raise BsfgError(
                Code.INVALID_REQUEST,
                f"link {driver.name}: sequence {page.start_sequence} lies ahead; "
                f"the cursor has scanned through {present.scanned_through}",
                hint="a rewind goes back",
            )

    # What all share.

    async def _tell(self, driver: RunningLink, event: Event) -> None:
        """Tell the link and wait until it has moved; a peer that is away does not undo what is decided."""
        before = await driver.instruct(event)
        try:
            async with asyncio.timeout(MOVE_SECONDS):
                while driver.link.rounds == before.rounds:
                    await driver.changed()
                    if driver.link.ticket != before.ticket:
                        _raise_halt(driver)
                    if driver.link.phase is Phase.WAITING:
                        return _raise_local(driver)
        except TimeoutError:
            raise BsfgError(
                Code.TIMED_OUT,
                f"link {driver.name} has not moved within {MOVE_SECONDS:.0f} s",
                hint="the decision stands; bsfg cursor query shows the link's state",
            ) from None

    def _answer(self, driver: RunningLink, dry_run: bool) -> Row:
        return {"peer": driver.name.peer, "stream": driver.name.stream, "dry_run": dry_run}

    def _audit(self, action: str, name: LinkName, reason: str, **details: Any) -> None:
        self.gateway.parts.audit.record(
            action, "allowed", peer=name.peer, stream=name.stream, reason=reason, **details
        )


def check_reason(reason: str) -> None:
    """A decision needs a reason, of a length that a person reads."""
    if not reason.strip() or len(reason) > REASON_CHARACTERS_MAX:
        raise BsfgError(
            Code.INVALID_REQUEST,
            f"the reason is empty or longer than {REASON_CHARACTERS_MAX} characters",
            hint="say why, with --reason",
        )


def _raise_halt(driver: RunningLink) -> None:
    halt = driver.link.halt
    if halt is not None and driver.link.phase is Phase.HALTED:
        raise BsfgError(
            Code.HALTED,
            f"link {driver.name} is halted again: {halt.reason}: {halt.message}",
            hint="look at it, and decide again",
        )


def _raise_local(driver: RunningLink) -> None:
    """Where our own store is in trouble, the decision may not be durable; where the peer is away, it is."""
    error = driver.link.error
    if error is not None and driver.link.trouble in (LinkState.LOCAL_UNAVAILABLE, LinkState.LOCAL_FULL):
        raise error


def span(first: int, last: int) -> Row:
    """Sequences, both ends included; ``count`` is the most facts that they can be."""
    return {"from": first, "to": last, "count": last - first + 1}


def _not_this(driver: RunningLink, what: str, hint: str) -> BsfgError:
    halt = driver.link.halt if driver.link.phase is Phase.HALTED else None
    found = f"halted for {halt.reason}" if halt else f"{driver.state}"
    return BsfgError(
        Code.CHECK_FAILED, f"link {driver.name} is not halted for {what}: it is {found}", hint=hint
    )


async def _resolve(client: PeerClient, name: LinkName, start: str, timestamp: str | None) -> _Start:
    """A mode or a sequence, resolved by the sender in its present epoch."""
    if start.isascii() and start.isdecimal():
        if timestamp is not None:
            raise BsfgError(
                Code.INVALID_REQUEST, "init_timestamp is only for explicit_timestamp, not for a sequence"
            )
        return await _page_from(client, name, max(1, int(start)))
    try:
        mode = parse_init_mode(start, timestamp)
    except ValueError as error:
        raise BsfgError(
            Code.INVALID_REQUEST, f"from {start!a}: {error}", hint="a mode, or a sequence of the sender"
        ) from None
    page = await client.fetch(FetchRequest(name.stream, ONE_FACT, start=mode))
    return _Start(mode.text, mode.timestamp, page)


async def _page_from(client: PeerClient, name: LinkName, sequence: int) -> _Start:
    now = await client.fetch(FetchRequest(name.stream, ONE_FACT, start=parse_init_mode("start_now")))
    after = Cursor(now.epoch, None, None, sequence - 1)
    try:
        page = await client.fetch(FetchRequest(name.stream, ONE_FACT, after=after))
    except PeerRefused as error:
        raise _unavailable_start(name, sequence, error) from None
    return _Start(f"sequence:{sequence}", None, page)


def _unavailable_start(name: LinkName, sequence: int, error: PeerRefused) -> BsfgError:
    last_missing, head = error.details.get("to"), error.details.get("head")
    if error.code is Code.GAP and isinstance(last_missing, int):
        first = last_missing + 1
        return BsfgError(
            Code.GAP,
            f"{name.peer} no longer has sequence {sequence} of {name.stream}: the first that it still has is {first}",
            hint=f"begin at {first}, or ask its operator for what is missing",
            first_sequence=first,
            **{"from": sequence, "to": last_missing},
        )
    if error.code is Code.AHEAD_OF_SOURCE and isinstance(head, int):
        return BsfgError(
            Code.AHEAD_OF_SOURCE,
            f"{name.peer} has {name.stream} only up to sequence {head}, so nothing can begin at {sequence}",
            hint=f"begin at {head + 1} at most",
            head=head,
        )
    return error


async def _epoch_preview(client: PeerClient, driver: RunningLink, found: _Start) -> Row:
    """What of the accepted epoch would be skipped and fetched, by the sender's word."""
    cursor, start = driver.link.cursor, found.page.start_sequence
    rows = [row for row in await client.streams() if row["stream"] == driver.name.stream]
    first = max(1, int(rows[0]["first_sequence"])) if rows else start
    return {
        "old_epoch": cursor.epoch if cursor else None,
        "epoch": found.page.epoch,
        "start": found.mode,
        "start_sequence": start,
        "head": found.page.head,
        "skipped": span(first, start - 1) if first < start else None,
        "facts": found.facts,
        "present": _cursor_row(cursor),
    }


def _rewind_preview(plan: Plan, present: Cursor | None, page: Page) -> Row:
    is_same = present is not None and present.epoch == page.epoch
    scanned = present.scanned_through if present is not None and is_same else None
    to, facts, size = plan.start_sequence, page.pending + len(page.facts), page.pending_bytes
    wanted = facts if plan.kept is None else min(facts, _fetched_at_most(plan.kept, page.head))
    return {
        "generation": plan.generation,
        "to": to,
        "epoch": plan.epoch,
        "head": page.head,
        "facts": wanted,
        "bytes": size if size is None or wanted == facts else size * wanted // facts,
        "taken_over": facts - wanted,
        "repeated": span(to, scanned) if scanned is not None and to <= scanned else None,
        "skipped": span(scanned + 1, to - 1) if scanned is not None and to > scanned + 1 else None,
        "present": _cursor_row(present),
    }


def _fetched_at_most(kept: Kept, head: int) -> int:
    return Ranges(kept.damaged).sequences + max(0, head - kept.through)


def _cursor_row(cursor: Cursor | None) -> Row | None:
    if cursor is None:
        return None
    return {"epoch": cursor.epoch, "sequence": cursor.sequence, "scanned_through": cursor.scanned_through}
