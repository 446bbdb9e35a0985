"""Carries out what a link's state machine orders, and feeds back what happened. One driver is one task.

A step runs as a task of its own so that an outside word (an operator, a notification, a partition) can replace a
step that only waits. A step that stores something is never replaced: the state machine sees to that.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Final, Protocol

from bsfg.core.conversation import (
    Announce,
    Append,
    Appended,
    Command,
    Confirm,
    Confirmed,
    ConfirmFailed,
    Event,
    Fetch,
    Locate,
    Located,
    Looked,
    PageFetched,
    Quarantine,
    RecordSaved,
    SaveRecord,
    SetAside,
    Started,
    Step,
    StepFailed,
    StoreDoubted,
    Wait,
    Waited,
)
from bsfg.core.level import still_level
from bsfg.core.link import advance
from bsfg.core.link_state import Link, Phase, StepFailure, state_of
from bsfg.core.looking import agrees
from bsfg.daemon import failpoints
from bsfg.daemon.canary import Canary
from bsfg.daemon.recent_marks import RecentMarks
from bsfg.daemon.running_link import NOTHING_IN_HAND, InHand
from bsfg.daemon.scheduling import ADMISSION_SECONDS_MAX, LinkTraffic, PeerTraffic, Turn
from bsfg.daemon.ticks import to_tick
from bsfg.daemon.watchdog import Watchdog
from bsfg.errors import BsfgError, Code, PeerRefused
from bsfg.model.cursor import Fence, LinkName, LinkState, LocalPosition, StreamMark
from bsfg.model.page import Page
from bsfg.ports import Clock, InboundLog, PageSource
from bsfg.ports import Quarantine as QuarantineStore
from bsfg.tasks import end_tasks

EVENTS_MAX: Final = 1_000
STEP_SECONDS_MAX: Final = 120.0
CONFIRM_RETRY_SECONDS: Final = 1.0
CONFIRM_PERIOD_SECONDS: Final = 0.2
"""A confirm costs the sender a durable write; it serves views and later agreement, so it may be a little late."""
POLLS_MAX: Final = 12
"""How often a poll is asked within one step while nothing is new."""
LOOK_SECONDS: Final = 10.0
"""How often a link that flows holds against the stream itself what it believes of it (I20)."""


class LinkObserver(Protocol):
    """What the rest of the gateway learns from a link; called in the loop, must not block."""

    def announced(self, name: LinkName, event: str, message: str) -> None: ...

    def state_changed(self, name: LinkName, before: LinkState, link: Link) -> None: ...

    def peer_answered(self, name: LinkName) -> None: ...

    def peer_silent(self, name: LinkName, error: BsfgError) -> None: ...

    def fetched(self, name: LinkName, seconds: float, error: BsfgError | None) -> None: ...

    def appended(self, name: LinkName, facts: int, seconds: float, error: BsfgError | None) -> None: ...

    def confirmed(self, name: LinkName, error: BsfgError | None) -> None: ...

    def set_aside(self, name: LinkName, sequence: int) -> None: ...

    def arrived(self, name: LinkName, seconds: float) -> None: ...

    def failed_unexpectedly(self, name: LinkName, step: str, error: BaseException) -> None: ...


@dataclass
class LinkDriver:
    """One link's task. ``link`` is its state, ``heard_at`` when the sender last spoke (monotonic seconds)."""

    link: Link
    client: PageSource
    inbound: InboundLog
    quarantine: QuarantineStore
    clock: Clock
    observer: LinkObserver
    chance: Callable[[], float] = random.random
    heard_at: float | None = None
    traffic: LinkTraffic | None = None
    """The link's turns among its peer's; by default it is alone."""
    canary: Canary | None = None
    marks: RecentMarks | None = None
    """Tells whether a look can bring anything new; without it each look reads in the stream."""
    _seen: StreamMark | None = None
    """The stream's mark when it was last found to be what the link believes."""
    _events: asyncio.Queue[Event] = field(default_factory=lambda: asyncio.Queue(EVENTS_MAX))
    _tasks: dict[int, asyncio.Task[None]] = field(default_factory=dict)
    """What is out, by ticket."""
    _confirm: asyncio.Task[None] | None = None
    _watch: asyncio.Task[None] | None = None
    _confirm_due: float = 0.0
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self._traffic = self.traffic or LinkTraffic(self.name, PeerTraffic(), self.clock)
        now = self.clock.monotonic()
        self._watchdog = Watchdog(now, now)

    @property
    def name(self) -> LinkName:
        return self.link.name

    @property
    def state(self) -> LinkState:
        """The link's state; ``stalled`` when it has got nowhere for a minute (I26)."""
        return self._watchdog.state(self.link, self.clock.monotonic())

    @property
    def in_hand(self) -> InHand:
        """Facts that were fetched and are not yet durable."""
        flights, count = self.link.flights, self.link.facts_in_hand
        return InHand(count, flights[0].facts[0].time if flights else None) if count else NOTHING_IN_HAND

    def tell(self, event: Event) -> None:
        """Give the link an outside word; dropped when the link is so far behind that it will look anyway."""
        with contextlib.suppress(asyncio.QueueFull):
            self._events.put_nowait(event)

    async def instruct(self, event: Event) -> Link:
        """As :meth:`tell`; the link as it was just before (``running_link.RunningLink``)."""
        self.tell(event)
        return self.link

    async def run(self) -> None:
        """Drive the link until cancelled."""
        try:
            self._take(Started())
            self._watch = asyncio.create_task(self._keep_looking(), name=f"looking at {self.name}")
            while True:
                self._take(await self._events.get())
        finally:
            await self._stop_tasks()

    async def changed(self) -> None:
        """Wait until the link has taken another event."""
        await self._changed.wait()

    def _take(self, event: Event) -> None:
        before, link_before = state_of(self.link), self.link
        link, commands = advance(self.link, event)
        self._become(link)
        if link is not link_before:
            self._take_back(link_before.tickets - link.tickets)
        if isinstance(event, PageFetched):
            failpoints.passed("page.taken")
        for command in commands:
            self._carry_out(command)
        if state_of(self.link) is not before:
            self.observer.state_changed(self.name, before, self.link)

    def _become(self, link: Link) -> None:
        self._watchdog.note(self.link, link, self.clock.monotonic())
        self.link = link
        self._changed.set()
        self._changed = asyncio.Event()

    def _take_back(self, tickets: frozenset[int]) -> None:
        for ticket in tickets:
            task = self._tasks.pop(ticket, None)
            if task is not None:
                task.cancel()

    def _carry_out(self, command: Command) -> None:
        match command:
            case Announce(event=event, message=message):
                self.observer.announced(self.name, event, message)
            case Confirm():
                self._confirm = asyncio.create_task(self._send_confirm(command))
            case _:
                self._tasks[command.ticket] = asyncio.create_task(self._run_step(command))

    async def _run_step(self, step: Step) -> None:
        try:
            async with asyncio.timeout(STEP_SECONDS_MAX + _waits_by_design_seconds(step)):
                event = await self._perform(step)
        except BsfgError as error:
            event = self._failure(step, error)
        except TimeoutError:
            event = self._failure(
                step, BsfgError(Code.TIMED_OUT, f"{type(step).__name__} took over {STEP_SECONDS_MAX:.0f} s")
            )
        except Exception as error:
            # A link must outlive a fault of ours: it is named, counted and tried again.
            self.observer.failed_unexpectedly(self.name, type(step).__name__, error)
            event = self._failure(step, BsfgError(Code.INTERNAL, f"{type(step).__name__} failed: {error!r}"))
        await self._events.put(event)

    def _failure(self, step: Step, error: BsfgError) -> StepFailed:
        return StepFailed(step.ticket, StepFailure(error, self.chance(), self.clock.now()))

    async def _perform(self, step: Step) -> Event:
        match step:
            case Locate(ticket=ticket):
                failpoints.passed("locate.before")
                position = await self.inbound.locate(self.name)
                failpoints.passed("locate.after")
                return Located(ticket, position)
            case Fetch():
                async with self._traffic.turn(step) as turn:
                    is_poll = step.request.limits.wait_seconds > 0
                    return await (self._poll(turn) if is_poll else self._fetch(turn))
            case SaveRecord(ticket=ticket, record=record, revision=revision):
                failpoints.passed("record.before")
                saved = await self.inbound.save_record(self.name, record, revision)
                failpoints.passed("record.after")
                return RecordSaved(ticket, saved)
            case Append():
                return await self._append(step)
            case Quarantine(ticket=ticket, epoch=epoch, fact=fact):
                await self.quarantine.put(self.name, epoch, fact)
                self.observer.set_aside(self.name, fact.sequence)
                return SetAside(ticket, fact.sequence, self.clock.now())
            case Wait(ticket=ticket, seconds=seconds):
                await self.clock.sleep(seconds)
                return Waited(ticket)

    async def _poll(self, turn: Turn) -> Event:
        """Asked again and again in one step, as long as nothing is new: that is all that a link at rest does."""
        event = await self._fetch(turn)
        for _ in range(POLLS_MAX - 1):
            rested = still_level(self.link, event.ticket, event.page)
            if rested is None:
                break
            self._become(rested)
            await turn.again()
            event = await self._fetch(turn)
        return event

    async def _fetch(self, turn: Turn) -> PageFetched:
        """Every page but the last is told of as it comes; the next is taken in when the link has room for it."""
        await failpoints.frozen("fetch.frozen")
        began = self.clock.monotonic()
        failpoints.passed("fetch.before")
        try:
            page = await self._last_page(turn)
        except BsfgError as error:
            if isinstance(error, PeerRefused) and error.code is not Code.PARTITIONED:
                self.observer.peer_answered(self.name)
            else:
                self.observer.peer_silent(self.name, error)
            self.observer.fetched(self.name, self.clock.monotonic() - began, error)
            raise
        self._heard()
        self.observer.fetched(self.name, self.clock.monotonic() - began, None)
        return PageFetched(turn.step.ticket, page)

    async def _last_page(self, turn: Turn) -> Page:
        step, page = turn.step, None
        if step.pages == 1:
            page = await self.client.fetch(step.request)
            self._note_page(page, turn)
            return page
        async with aclosing(self.client.pages(step.request, step.pages)) as pages:
            async for following in pages:
                self._note_page(following, turn)
                if page is not None:
                    await self._page_came(PageFetched(step.ticket, page, is_last=False), turn)
                page = following
        if page is None:
            raise BsfgError(Code.BAD_ANSWER, f"peer {self.name.peer} answered a fetch without a page")
        return page

    def _note_page(self, page: Page, turn: Turn) -> None:
        turn.came(page)
        if self.canary is not None:
            self.canary.page_came(page)

    async def _page_came(self, event: PageFetched, turn: Turn) -> None:
        self._heard()
        await self._events.put(event)
        if self.link.has_room:
            return
        with turn.paused():
            while event.ticket in self.link.tickets and not self.link.has_room:
                await self._changed.wait()

    def _heard(self) -> None:
        failpoints.passed("fetch.answered")
        self.heard_at = self.clock.monotonic()
        self.observer.peer_answered(self.name)

    async def _append(self, step: Append) -> Event:
        began = self.clock.monotonic()
        failpoints.passed("append.before")
        failpoints.sent("append.sent")
        try:
            fence = await self.inbound.append(self.name, step.fence, step.epoch, step.facts)
        except BsfgError as error:
            self.observer.appended(self.name, len(step.facts), self.clock.monotonic() - began, error)
            raise
        failpoints.passed("append.after")
        self.observer.appended(self.name, len(step.facts), self.clock.monotonic() - began, None)
        if self.canary is not None and (seconds := self.canary.stored(step.facts)) is not None:
            self.observer.arrived(self.name, seconds)
        return Appended(step.ticket, fence)

    async def _send_confirm(self, command: Confirm) -> None:
        """Tell the peer, a few times a second at most, and then of everything that is durable by then."""
        due = self._confirm_due - self.clock.monotonic()
        if due > 0:
            await self.clock.sleep(due)
        self._confirm_due = self.clock.monotonic() + CONFIRM_PERIOD_SECONDS
        cursor = self.link.cursor or command.cursor
        if cursor.epoch != command.cursor.epoch or cursor.sequence is None:
            cursor = command.cursor
        failpoints.passed("confirm.before")
        failpoints.sent("confirm.sent")
        try:
            await self.client.confirm(self.name.stream, cursor)
            failpoints.passed("confirm.after")
            event: Event = Confirmed(cursor.sequence or 0)
            self.observer.confirmed(self.name, None)
        except BsfgError as error:
            self.observer.confirmed(self.name, error)
            await self.clock.sleep(CONFIRM_RETRY_SECONDS)
            event = ConfirmFailed()
        except Exception as error:
            self.observer.failed_unexpectedly(self.name, "Confirm", error)
            await self.clock.sleep(CONFIRM_RETRY_SECONDS)
            event = ConfirmFailed()
        await self._events.put(event)

    async def _keep_looking(self) -> None:
        """Beside the steps, so that nothing waits for it: whatever it finds wrong, the link reads anew."""
        while True:
            pause = LOOK_SECONDS * (0.75 + 0.5 * self.chance())
            await self.clock.sleep(to_tick(pause, self.clock.monotonic()))
            if self.link.phase is not Phase.FLOWING or self.link.fence is None or self._is_as_seen():
                continue
            try:
                async with asyncio.timeout(LOOK_SECONDS):
                    await self._look(self.link.fence)
            except BsfgError as error:
                # That the store is away the steps find out themselves; that the stream is gone they may not.
                if error.code is Code.NOT_FOUND:
                    self.tell(StoreDoubted())
            except TimeoutError:
                continue
            except Exception as error:
                self.observer.failed_unexpectedly(self.name, "Look", error)

    def _is_as_seen(self) -> bool:
        """Whether an answer that others have just had says so; the store is not asked."""
        return self.marks is not None and self._is_seen(self.marks.recent(self.name))

    def _is_seen(self, mark: StreamMark | None) -> bool:
        return mark is not None and mark == self._seen and mark.fence == self.link.fence

    async def _look(self, since: Fence) -> None:
        mark = await self.marks.mark(self.name) if self.marks is not None else None
        if self._is_seen(mark):
            return
        position = await self.inbound.locate(self.name)
        self._seen = mark if mark is not None and self._is_proved(mark, position) else None
        self.tell(Looked(since, position))

    def _is_proved(self, mark: StreamMark, position: LocalPosition) -> bool:
        """Whether the stream is what the link believes for as long as it has this mark."""
        fence = self.link.fence
        is_at_rest = fence is not None and position.fence == fence and not self.link.flights
        return is_at_rest and mark.fits(position) and agrees(self.link, position.fence, position)

    async def _stop_tasks(self) -> None:
        tasks = [*self._tasks.values(), *(task for task in (self._confirm, self._watch) if task)]
        await end_tasks(*tasks)


def _waits_by_design_seconds(step: Step) -> float:
    match step:
        case Wait(seconds=seconds):
            return seconds
        case Fetch(request=request):
            return ADMISSION_SECONDS_MAX + POLLS_MAX * request.limits.wait_seconds
        case _:
            return 0.0
