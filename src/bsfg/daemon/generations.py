"""Builds a new generation of a link's inbound stream beside the one in force, and switches to it (contract, section 2).

A second driver with the same state machine fills the new stream from the sender while the link goes on into the old
one. When it has caught up, the facts of both are held against each other, the link is stopped, the new generation
brought to the very place of the old one, and the link record written: that one write is the switch. Before it the old
generation is in force, behind it the new one, and a crash at any point leaves one of the two; what is half built is
found again by its plan and continued.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Final, NoReturn

from structlog.typing import FilteringBoundLogger

from bsfg.core.backoff import Backoff
from bsfg.core.link_state import Link, Phase
from bsfg.core.reconcile import Resume, resume
from bsfg.daemon.audit import AuditLog
from bsfg.daemon.comparison import Comparison
from bsfg.daemon.driver import LinkDriver, LinkObserver
from bsfg.daemon.links import LinkMeans
from bsfg.daemon.repair_source import KeptFacts, RepairSource
from bsfg.daemon.running_link import Links
from bsfg.errors import BsfgError, Code
from bsfg.model.cursor import Cursor, LinkName, LinkRecord, LinkState
from bsfg.model.moment import format_time
from bsfg.ports import InboundLog, PageSource
from bsfg.substrates.generations import JetStreamGenerations, Kept, Plan
from bsfg.substrates.inbound_log import JetStreamInboundLog
from bsfg.tasks import end_tasks

NEAR_FACTS: Final = 5_000
"""So close to the sender's head, the rest is fetched while the link is stopped."""
SWITCH_SECONDS_MAX: Final = 20.0
"""How long a link stands still for the switch before it goes on in the old generation and the switch is tried again."""
LOOK_SECONDS: Final = 1.0
RESUME_SECONDS: Final = 2.0
REPAIR: Final = "repair"
"""The purpose of a generation that is proved against the sender before it comes into force."""
_NOTHING: Final = Plan(0, "", "", 0, "", 0, 0)


class BuildHalted(BsfgError):
    """The generation can't be completed by itself; an operator aborts it, or begins it again."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(Code.HALTED, message, hint=hint)


@dataclass
class Build:
    """One generation that is being built."""

    name: LinkName
    plan: Plan
    state: str = "filling"
    """``filling``, ``comparing``, ``switching``, ``halted`` or ``done``."""
    problem: str | None = None
    driver: LinkDriver | None = None
    source: RepairSource | None = None
    """Where its facts come from if not all from the peer."""
    appended: int = 0
    comparison: Comparison = field(default_factory=Comparison)
    switching: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held from the moment at which the link is stopped until one generation is in force; no abort comes between."""
    task: asyncio.Task[None] | None = None

    def as_json(self) -> dict[str, Any]:
        link = self.driver.link if self.driver else None
        waiting = link.error.message if link and link.error and link.phase is Phase.WAITING else None
        return {
            "generation": self.plan.generation,
            "purpose": self.plan.purpose,
            "to": self.plan.start_sequence,
            "epoch": self.plan.epoch,
            "state": self.state,
            "problem": self.problem or waiting,
            "began": format_time(self.plan.began),
            "scanned_through": link.cursor.scanned_through if link and link.cursor else None,
            "pending": link.word.pending if link and link.word else None,
            "appended": self.appended,
            **self.taken(),
            **self.compared(),
        }

    def taken(self) -> dict[str, Any]:
        """Where its facts came from since the gateway started; everything is fetched where nothing is taken over."""
        return {} if self.source is None else {"copied": self.source.copied, "fetched": self.source.fetched}

    def compared(self) -> dict[str, Any]:
        """What was held against the generation in force."""
        found = self.comparison
        return {
            "compared": found.same,
            "different": found.different,
            "only_before": found.only_before,
            "only_new": found.only_new,
        }


@dataclass
class Generations:
    """Every generation that is being built in this zone; one a link."""

    store: JetStreamGenerations
    links: Links
    means: LinkMeans
    observer: LinkObserver
    """Of the links themselves; it is told of the peer and of faults."""
    audit: AuditLog
    journal: FilteringBoundLogger
    is_store_ready: Callable[[], bool]
    guarded: Callable[[InboundLog], InboundLog]
    """The log with what else stands before every append in this zone."""
    keeping: Callable[[LinkName, Plan, Kept], KeptFacts] | None = None
    """What a plan takes over from the generation in force."""
    prove: Callable[[LinkName, Plan, Cursor], Awaitable[str | None]] | None = None
    """Says why a generation built for a repair is not what the sender has; None if it is."""
    _builds: dict[LinkName, Build] = field(default_factory=dict)
    _waiting: dict[LinkName, Plan] = field(default_factory=dict)
    """Plans whose links do not run."""

    async def run(self) -> None:
        """Continue what was being built when the gateway ended; runs until cancelled."""
        are_found = False
        while True:
            are_found = are_found or await self._found()
            await self._follow_links()
            await asyncio.sleep(RESUME_SECONDS)

    async def _follow_links(self) -> None:
        """A generation is built while its link runs, and waits while it does not."""
        for name in [name for name in self._builds if self.links.driver(name) is None]:
            build = self._builds.pop(name)
            await _end(build.task)
            if build.state != "done":
                self._waiting[name] = build.plan
        for name in [name for name in self._waiting if self.links.driver(name) is not None]:
            self._start(name, self._waiting.pop(name))

    async def stop(self) -> None:
        """Builds end where they are; the next gateway continues them."""
        for build in self._builds.values():
            await _end(build.task)

    def building(self, name: LinkName) -> dict[str, Any] | None:
        """What is being built for a link, for ``cursor query``; None if nothing is."""
        build = self._builds.get(name)
        return build.as_json() if build is not None and build.state != "done" else None

    async def begin(self, name: LinkName, plan: Plan) -> bool:
        """Build this generation; the plan is durable on return. False if just that is being built already.

        Raises ``check_failed`` while something else is being built for the link.
        """
        build = self._builds.get(name)
        if build is not None and build.state != "done":
            if (build.plan.epoch, build.plan.start_sequence) != (plan.epoch, plan.start_sequence):
                raise BsfgError(
                    Code.CHECK_FAILED,
                    f"link {name}: generation {build.plan.generation} is being built from sequence "
                    f"{build.plan.start_sequence} on",
                    hint="wait for it, or give it up with bsfg cursor rewind --abort",
                )
            if build.state != "halted":
                return False
            plan = replace(plan, generation=build.plan.generation)
        await self.store.save_plan(name, plan)
        self._start(name, plan)
        return True

    async def abort(self, name: LinkName, reason: str) -> Plan | None:
        """Give up what is being built; its stream is gone on return. None if nothing is being built."""
        build = self._builds.get(name) or Build(name, await self.store.plan(name) or _NOTHING)
        async with build.switching:
            if build.state == "done" or build.plan is _NOTHING:
                return None
            await _end(build.task)
            self.audit.record(
                "generation.abort", "allowed", **_words(name), generation=build.plan.generation, reason=reason
            )
            self._builds.pop(name, None)
            self._waiting.pop(name, None)
            await self.store.end_plan(name)
            await self.store.drop(name, build.plan.generation)
        return build.plan

    async def _found(self) -> bool:
        """Whether the plans could be read; they wait for their links, and what nobody builds is told."""
        if not self.is_store_ready():
            return False
        try:
            found = await self.store.plans()
            for driver in self.links.drivers:
                for row in await self.store.rows(driver.name):
                    if row.is_building and driver.name not in found and driver.name not in self._builds:
                        self.journal.warning(
                            "generation_abandoned",
                            **_words(driver.name),
                            message=f"{row.jetstream} is half built and nobody builds it: bsfg stream drop removes it",
                        )
        except BsfgError:
            return False
        self._waiting |= {name: plan for name, plan in found.items() if name not in self._builds}
        return True

    def _start(self, name: LinkName, plan: Plan) -> None:
        build = self._builds[name] = Build(name, plan)
        build.task = asyncio.create_task(self._run(build), name=f"generation {plan.generation} of {name}")

    async def _run(self, build: Build) -> None:
        """Build until done or halted; what fails for now is tried again from what is durable."""
        backoff, attempt = Backoff(), 0
        self._tell(build, "generation_begun", f"is being built from sequence {build.plan.start_sequence} on")
        while True:
            try:
                return await self._build(build)
            except BuildHalted as error:
                build.state, build.problem = "halted", error.message
                return self._tell(build, "generation_halted", error.message, is_bad=True)
            except BsfgError as error:
                build.problem = error.message
            except Exception as error:
                build.problem = f"unexpected error: {error!r}"
                self._tell(build, "link_fault", f"building failed unexpectedly: {error!r}", is_bad=True)
            attempt += 1
            await asyncio.sleep(backoff.delay(attempt, random.random()))

    async def _build(self, build: Build) -> None:
        name, plan = build.name, build.plan
        if await self._is_in_force(build):
            # The write of the record arrived although its answer did not.
            async with build.switching, self.links.stopped(name):
                await self._finish(build)
            build.state = "done"
            return
        log = await self.store.open(name, plan)
        driver = self._driver(build, log)
        build.driver, build.state, build.comparison = driver, "filling", Comparison()
        driving = asyncio.create_task(driver.run(), name=f"filling generation {plan.generation} of {name}")
        try:
            await self._fill(build, driver)
            build.state, build.problem = "comparing", None
            await self._compare(build)
            await self._prove(build, driver)
            await self._switch(build, driver, driving, log)
            build.state = "done"
        finally:
            await _end(driving)
            log.close()
            if build.source is not None:
                await build.source.facts.close()

    def _source(self, build: Build) -> PageSource:
        """The peer, or what is undamaged here and the peer for the rest."""
        peer, kept = self.means.client_of(build.name.peer), build.plan.kept
        if kept is None or self.keeping is None:
            return peer
        facts = self.keeping(build.name, build.plan, kept)
        build.source = RepairSource(build.name.stream, build.plan, kept, facts, peer)
        return build.source

    def _driver(self, build: Build, log: JetStreamInboundLog) -> LinkDriver:
        """A second driver of the same link into the new generation."""
        running = self.links.driver(build.name)
        if running is None:
            raise BsfgError(Code.UNAVAILABLE, f"link {build.name} does not run")
        # Without its record a generation would begin by the link's init mode; it rests instead.
        settings = replace(running.link.settings, starts_on_load=False)
        return LinkDriver(
            Link(build.name, settings),
            self._source(build),
            self.guarded(log),
            self.means.quarantine,
            self.means.clock,
            _BuildObserver(build, self.observer),
        )

    async def _fill(self, build: Build, driver: LinkDriver) -> None:
        while not self._is_near(build, driver.link):
            _check(build, driver.link)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LOOK_SECONDS):
                    await driver.changed()

    def _is_near(self, build: Build, link: Link) -> bool:
        """Whether the rest can be fetched while the link is stopped; beside a link that stands still, all of it is."""
        main = self.links.driver(build.name)
        if link.cursor is None or link.word is None or main is None:
            return False
        kept = build.plan.kept
        if kept is not None and link.cursor.scanned_through < kept.through:
            # What is taken over has to be there when the generation is proved.
            return False
        ours = main.link.cursor
        if main.state is LinkState.HALTED or ours is None or ours.epoch != link.cursor.epoch:
            return link.word.pending == 0 and not link.facts_in_hand
        return link.word.pending <= NEAR_FACTS or link.cursor.scanned_through >= ours.scanned_through

    async def _compare(self, build: Build) -> None:
        """Hold what both generations have of the epoch against each other; refuses to go on where they differ."""
        name, plan = build.name, build.plan
        if plan.kept is not None:
            # What is taken over is what was in force, and all of it is proved against the sender.
            return
        if build.comparison.is_begun:
            await build.comparison.advance()
        elif (before := await self.store.inbound.in_force(name)) is not None:
            position = await self.store.first_at(name, before, plan.epoch, plan.start_sequence)
            read = self.store.facts
            build.comparison.begin(
                plan.epoch, partial(read, name, before), position, partial(read, name, plan.generation)
            )
            await build.comparison.advance()
        found = build.comparison
        if found.different and not plan.accepts_differences:
            raise BuildHalted(
                f"{found.different} of {found.different + found.same} facts differ from those in force, the first at "
                f"sequence {found.first_different}",
                hint="the sender's history or ours was rewritten; --accept-differences lets the sender's count",
            )

    async def _prove(self, build: Build, driver: LinkDriver) -> None:
        """A repair comes into force only when its facts are the sender's, to the byte."""
        cursor = driver.link.cursor
        if build.plan.purpose != REPAIR or self.prove is None or cursor is None:
            return
        problem = await self.prove(build.name, build.plan, cursor)
        if problem is not None:
            raise BuildHalted(f"it is not what the sender has: {problem}")

    async def _switch(
        self, build: Build, driver: LinkDriver, driving: asyncio.Task[None], log: JetStreamInboundLog
    ) -> None:
        async with build.switching, self.links.stopped(build.name):
            build.state = "switching"
            target = await self._present(build)
            try:
                async with asyncio.timeout(SWITCH_SECONDS_MAX):
                    while not _has_reached(driver.link, target):
                        _check(build, driver.link)
                        await driver.changed()
            except TimeoutError:
                raise BsfgError(
                    Code.TIMED_OUT, f"it did not reach the link's cursor within {SWITCH_SECONDS_MAX:.0f} s"
                ) from None
            await _end(driving)
            await self._compare(build)
            judged = resume(position := await log.locate(build.name))
            if not isinstance(judged, Resume):
                raise BuildHalted(f"its end can't be read: {judged}")
            fence = position.fence
            record = LinkRecord(
                fence.generation, fence.created, fence.local_sequence, judged.cursor, judged.init, judged.gaps
            )
            await self.store.complete(build.name, build.plan.generation)
            self.audit.record(
                "generation.switch",
                "allowed",
                **_words(build.name),
                generation=fence.generation,
                purpose=build.plan.purpose,
                reason=build.plan.reason,
                before=None if target is None else target.scanned_through,
                scanned_through=judged.cursor.scanned_through,
                **build.taken(),
                **build.compared(),
            )
            await self.means.inbound.save_record(build.name, record)
            await self._finish(build)

    async def _present(self, build: Build) -> Cursor | None:
        """Where the stopped link is, if that can be known and is of the same epoch."""
        try:
            judged = resume(await self.store.inbound.locate(build.name))
        except BsfgError as error:
            if error.code is not Code.NOT_FOUND:
                raise
            return None
        is_comparable = isinstance(judged, Resume) and judged.cursor.epoch == build.plan.epoch
        main = self.links.driver(build.name)
        if not is_comparable or (main is not None and main.state is LinkState.HALTED):
            return None
        return judged.cursor if isinstance(judged, Resume) else None

    async def _is_in_force(self, build: Build) -> bool:
        record = await self.store.inbound.record(build.name)
        return record is not None and record.generation == build.plan.generation

    async def _finish(self, build: Build) -> None:
        build.problem = None
        self._tell(build, "generation_switched", "is in force; the one before stays until bsfg stream drop")
        await self.store.end_plan(build.name)

    def _tell(self, build: Build, event: str, message: str, *, is_bad: bool = False) -> None:
        write = self.journal.error if is_bad else self.journal.info
        text = f"generation {build.plan.generation} of {build.name}: {message}"
        write(event, **_words(build.name), message=text, generation=build.plan.generation, **build.compared())


class _BuildObserver:
    """What a generation's driver reports: counted here, and nothing of it is the link's own state."""

    def __init__(self, build: Build, observer: LinkObserver) -> None:
        self._build = build
        self._observer = observer

    def announced(self, name: LinkName, event: str, message: str) -> None:
        """The lines of a recovery are the link's."""

    def state_changed(self, name: LinkName, before: LinkState, link: Link) -> None:
        """Shown by ``cursor query``."""

    def peer_answered(self, name: LinkName) -> None:
        self._observer.peer_answered(name)

    def peer_silent(self, name: LinkName, error: BsfgError) -> None:
        self._observer.peer_silent(name, error)

    def fetched(self, name: LinkName, seconds: float, error: BsfgError | None) -> None:
        """Not the link's."""

    def appended(self, name: LinkName, facts: int, seconds: float, error: BsfgError | None) -> None:
        if error is None:
            self._build.appended += facts

    def confirmed(self, name: LinkName, error: BsfgError | None) -> None:
        """Not the link's."""

    def arrived(self, name: LinkName, seconds: float) -> None:
        """A generation that is built follows no fact."""

    def set_aside(self, name: LinkName, sequence: int) -> None:
        self._observer.set_aside(name, sequence)

    def failed_unexpectedly(self, name: LinkName, step: str, error: BaseException) -> None:
        self._observer.failed_unexpectedly(name, step, error)


def _check(build: Build, link: Link) -> None:
    if link.phase is Phase.HALTED and link.halt is not None:
        _halt(f"{link.halt.reason}: {link.halt.message}")
    if link.phase is Phase.RESTING:
        _halt("its record is gone before its first fact")
    build.problem = None


def _halt(message: str) -> NoReturn:
    raise BuildHalted(message, hint="bsfg cursor rewind --abort gives it up")


def _has_reached(link: Link, target: Cursor | None) -> bool:
    if link.cursor is None:
        return False
    if target is None:
        return link.word is not None and link.word.pending == 0 and not link.facts_in_hand
    return link.cursor.scanned_through >= target.scanned_through


def _words(name: LinkName) -> dict[str, str]:
    return {"peer": name.peer, "stream": name.stream}


async def _end(task: asyncio.Task[None] | None) -> None:
    if task is not None:
        await end_tasks(task)
