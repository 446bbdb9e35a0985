"""Two zones, one link, and everything that goes wrong between them in one seed."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any, Final, TypeVar

from tests.simulation.gateway import STILL_LEVEL, Gateway
from tests.simulation.history import History
from tests.simulation.ledger import Ledger
from tests.simulation.network import Caller, Network
from tests.simulation.profile import Profile, draw_profile
from tests.simulation.receiver_store import ReceiverStore
from tests.simulation.source_store import SourceStore
from tests.simulation.virtual_time import VirtualClock, VirtualLoop

from bsfg.core.conversation import (
    Event,
    GapAccepted,
    Located,
    PageFetched,
    PartitionBegan,
    PartitionEnded,
    StartChosen,
    StoreDoubted,
    Woken,
)
from bsfg.core.link_state import Link, LinkSettings, Phase
from bsfg.model.cursor import HaltReason, Init, LinkName, LinkState
from bsfg.model.names import parse_stream, parse_zone
from bsfg.transport.fetch_service import FetchService

SOURCE: Final = parse_zone("enterprise")
RECEIVER: Final = parse_zone("plant-a")
STREAM: Final = parse_stream("facts.operational")
DRAIN_SECONDS: Final = 90.0
"""Once everything is healed a link has this long to be level, or halted with a reason."""
FAULTS_MIN: Final = 5
POLLS_TO_NOTICE: Final = 2

T = TypeVar("T")
Trace = Callable[[str], None]


class Armed:
    """Faults that strike whoever comes next; they count when they strike."""

    def __init__(self, happened: Counter[str]) -> None:
        self._happened = happened
        self._waiting: list[str] = []

    def arm(self, name: str) -> None:
        self._waiting.append(name)

    def disarm(self) -> None:
        self._waiting.clear()

    def take(self, *names: str) -> str | None:
        for name in self._waiting:
            if name in names:
                self._waiting.remove(name)
                self._happened[name] += 1
                return name
        return None


@dataclass
class World:
    """Everything that a seed is about; ``tracing`` is told each event, command and fault."""

    seed: int
    loop: VirtualLoop
    tracing: Trace | None = None
    faults: Counter[str] = field(default_factory=Counter)
    """How often each fault really happened."""
    transitions: Counter[str] = field(default_factory=Counter)
    """How often a link in each phase was told each event."""
    halts: Counter[str] = field(default_factory=Counter)
    quarantined: set[tuple[str, int]] = field(default_factory=set)
    excuses: set[HaltReason] = field(default_factory=set)
    """Reasons for which a link may rightly be halted, by what was done to it."""
    is_record_damaged: bool = False
    """The link record lost something that was once saved."""
    are_confirms_damaged: bool = False

    def __post_init__(self) -> None:
        self.random = Random(self.seed)
        self.profile: Profile = draw_profile(self.random)
        self.name = LinkName(SOURCE, STREAM)
        self.settings: LinkSettings = self.profile.settings
        self.history = History()
        self.ledger = Ledger(self.history)
        self.sender_clock, self.receiver_clock = VirtualClock(self.loop), VirtualClock(self.loop)
        self.source = SourceStore(STREAM, self.ledger, self.sender_clock, self.random)
        self.store = ReceiverStore(self.ledger, self.random, is_strict=self.profile.is_strict)
        self.network = Network()
        self.network.seconds = self.profile.line_seconds
        self.store_seconds = self.profile.store_seconds
        self.store_faults, self.line_faults = Armed(self.faults), Armed(self.faults)
        self.caller = Caller(RECEIVER, STREAM)
        self.doom: str | None = None
        """The step at which the next gateway that comes to it is killed."""
        self.sender_is_up = True
        self.is_partitioned = False
        self.is_draining = False
        self._polls_after_healing = 0
        self.settled = asyncio.Event()
        self.gateways: list[Gateway] = []
        self._spawned: set[asyncio.Task[Any]] = set()
        self.service = self.new_service()

    # Means.

    def trace(self, *words: object) -> None:
        if self.tracing is not None:
            self.tracing(f"{self.loop.time():9.3f}  " + " ".join(str(word) for word in words))

    def later(self, seconds: float, what: Callable[[], object]) -> None:
        self.loop.call_later(seconds, what)

    def mischief(self, seconds: float, what: Callable[[], object]) -> None:
        """Later, unless everything is healed by then."""
        self.later(seconds, lambda: None if self.is_draining else what())

    def spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = self.loop.create_task(work)
        self._spawned.add(task)
        task.add_done_callback(self._forget)
        return task

    def _forget(self, task: asyncio.Task[Any]) -> None:
        """Whoever asked may be gone, and then nobody hears how it ended."""
        self._spawned.discard(task)
        if not task.cancelled():
            task.exception()

    def happened(self, fault: str) -> None:
        self.faults[fault] += 1
        self.trace("FAULT", fault)

    # Gateways.

    def new_service(self) -> FetchService:
        self.source.forget_reader()
        return FetchService(self.source, self.source, self.sender_clock)

    def start_gateway(self) -> Gateway:
        names = {gateway.name for gateway in self.gateways}
        name = next(name for name in ("gateway-1", "gateway-2", "gateway-3") if name not in names)
        self.trace(name, "starts")
        gateway = Gateway(self, name)
        self.gateways.append(gateway)
        return gateway

    def ensure_gateway(self) -> None:
        if not self.gateways:
            self.start_gateway()

    def kill(self, gateway: Gateway) -> None:
        if gateway in self.gateways:
            self.trace(gateway.name, "is killed")
            self.gateways.remove(gateway)
            gateway.kill()

    def kill_and_restart(self, gateway: Gateway, label: str) -> None:
        self.happened(f"gateway killed: {label}")
        self.kill(gateway)
        self.later(self.random.random() * 4.0, self.ensure_gateway)

    def partition(self, is_cut: bool) -> None:
        self.is_partitioned = is_cut
        self.tell_all(PartitionBegan() if is_cut else PartitionEnded())

    def tell_all(self, event: Event) -> None:
        for gateway in self.gateways:
            gateway.driver.tell(event)

    # What gateways show.

    def took(self, gateway: Gateway, before: Link, event: Event, tails_lost: int) -> None:
        link, kind = gateway.driver.link, type(event).__name__
        ticket = getattr(event, "ticket", None)
        is_stale = ticket is not None and ticket not in before.tickets
        self.transitions[f"late {kind}" if is_stale else f"{before.phase.name} {kind}"] += 1
        if self.tracing is not None:
            self.trace(gateway.name, before.phase.name, kind, "->", link.phase.name, event)
        self.ledger.moved(gateway.name, before, link, tails_lost)
        if is_stale and link is not before:
            self.ledger.violated("I15", f"a late {kind} changed the link")
        if isinstance(event, Located) and link.phase is not Phase.HALTED:
            gateway.tails_lost = gateway.tails_lost_at_read
        if ticket is not None:
            gateway.heard.append(event)
        if link.phase is Phase.HALTED and before.phase is not Phase.HALTED:
            self._halted(gateway, link)
        if self.is_draining:
            self._polls_after_healing += isinstance(event, PageFetched)
            self._look_whether_settled(gateway)

    def rested(self, gateway: Gateway) -> None:
        """A poll brought nothing new, and goes on as the same one."""
        self.transitions[STILL_LEVEL] += 1
        if self.is_draining:
            self._polls_after_healing += 1
            self._look_whether_settled(gateway)

    def announced(self, event: str) -> None:
        self.trace("announced", event)

    def _halted(self, gateway: Gateway, link: Link) -> None:
        assert link.halt is not None
        self.halts[link.halt.reason] += 1
        if link.halt.reason not in self.excuses:
            self.ledger.violated("halt", f"{link.halt.reason} without a cause: {link.halt.message}")
        if self.profile.has_operator and not self.is_draining:
            self.later(1.0 + self.random.random() * 5.0, lambda: self._decide(gateway))

    def _decide(self, gateway: Gateway) -> None:
        """The operator lets the gap go, or begins and accepts another epoch."""
        link = gateway.driver.link
        if gateway.is_dead or link.halt is None or link.phase is not Phase.HALTED or self.is_draining:
            return
        if len(self.gateways) > 1:
            # Two gateways at once are a mistake; nobody decides the same thing in both.
            self.later(3.0, lambda: self._decide(gateway))
            return
        if link.halt.reason is HaltReason.GAP:
            gateway.driver.tell(GapAccepted(gateway.clock.now()))
        elif (
            link.halt.reason in (HaltReason.DIVERGED, HaltReason.AHEAD_OF_SOURCE) and link.cursor is not None
        ):
            if self.source.epoch == link.cursor.epoch:
                self.source.begin_epoch()
            epoch = self.source.epoch
            self._choose_start(gateway, epoch)
        elif link.halt.reason is HaltReason.CURSOR_UNKNOWN and link.cursor is None:
            self._choose_start(gateway, self.source.epoch)

    def _choose_start(self, gateway: Gateway, epoch: str) -> None:
        start = self.random.choice((max(1, self.source.first_sequence), self.source.last_sequence + 1))
        self.ledger.accepted.setdefault(epoch, []).append(start)
        init = Init("full_backfill", None, "accepted", epoch, start, self.sender_clock.now())
        gateway.driver.tell(StartChosen(init))

    # The course of a seed.

    async def run(self, inject: Callable[[World], None]) -> None:
        """Publish, fail, heal, drain; the judge looks at what is left."""
        self.source.begin_epoch()
        self._plan_publishing()
        self._plan_syncing()
        inject(self)
        self.later(self.random.random(), self.ensure_gateway)
        await asyncio.sleep(self.profile.seconds)
        self.heal()
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                await self.settled.wait()
        except TimeoutError:
            link = self.gateways[0].driver.link
            self.ledger.violated("stuck", f"{link.phase.name}, cursor {link.cursor}, error {link.error!r}")

    async def stop(self) -> None:
        tasks = [gateway.task for gateway in self.gateways] + list(self._spawned)
        for gateway in list(self.gateways):
            self.kill(gateway)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _plan_publishing(self) -> None:
        left = self.profile.facts
        while left > 0:
            count = min(left, self.random.randrange(1, 40))
            left -= count
            self.later(self.random.random() * self.profile.seconds * 0.95, partial(self.publish, count))

    def publish(self, count: int) -> None:
        """Producers try again until their store takes it."""
        if not self.source.is_up:
            self.later(0.5, lambda: self.publish(count))
            return
        for _ in range(count):
            is_oversized = self.profile.oversized_share > self.random.random()
            if is_oversized:
                self.excuses.add(HaltReason.UNSTORABLE_FACT)
            self.source.publish(is_oversized)

    def _plan_syncing(self) -> None:
        """A store that is not strict syncs now and then, each file by itself."""
        for _ in range(self.profile.syncs):
            what = self.random.choice((self.source.sync, self.store.sync_stream, self.store.sync_record))
            self.later(self.random.random() * self.profile.seconds, what)

    def heal(self) -> None:
        """Everything works from now on; one gateway is left, and nothing new is published."""
        self.trace("HEAL")
        while sum(self.faults.values()) < FAULTS_MIN and self.gateways:
            self.kill_and_restart(self.gateways[0], "any time")
            self.ensure_gateway()
        self.store_faults.disarm()
        self.line_faults.disarm()
        self.network.heal()
        self.caller.allow(None)
        self.sender_is_up = self.source.is_up = self.store.has_room = True
        self.source.hang(False)
        self.store.die_in_append = False
        if not self.store.is_up or self.store.is_wedged:
            self.store_back()
        self.doom = None
        for gateway in self.gateways:
            gateway.resume()
        while len(self.gateways) > 1:
            self.kill(self.random.choice(self.gateways))
        self.ensure_gateway()
        self.is_partitioned, self.is_draining = False, True
        self.tell_all(PartitionEnded())
        self.tell_all(Woken(by_operator=True))

    def store_back(self) -> None:
        """As ``daemon/store_keeper.py`` does: whoever waits for the store is woken."""
        self.trace("the receiver's NATS is back")
        self.store.restart()
        self.tell_all(StoreDoubted())

    def _look_whether_settled(self, gateway: Gateway) -> None:
        link = gateway.driver.link
        if link.phase is Phase.HALTED:
            self.settled.set()
        elif self.store.purged:
            # Somebody took facts away by hand: the link has to notice, and says so by halting (I20).
            return
        elif (
            gateway.driver.state is LinkState.LEVEL
            and link.cursor is not None
            and link.phase is Phase.FLOWING
        ):
            is_through = link.cursor.scanned_through == self.source.last_sequence and not link.flights
            # What it knew before the healing may be of another history, which it has two polls to notice (I16).
            has_asked = self._polls_after_healing >= POLLS_TO_NOTICE
            if is_through and has_asked and self._is_confirmed(link):
                self.settled.set()

    def _is_confirmed(self, link: Link) -> bool:
        known = self.source.confirms.get((RECEIVER, STREAM))
        if self.are_confirms_damaged or link.cursor is None or link.cursor.sequence is None:
            return True
        # After a loss on either side the sender may know of a later confirm, and keeps it.
        if known is None or known.epoch != link.cursor.epoch:
            return False
        return known.sequence >= link.cursor.sequence
