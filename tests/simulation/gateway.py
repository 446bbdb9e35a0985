"""A receiving gateway: a process with the real driver, which can be killed at any step, paused, and doubled."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final

from tests.simulation.network import Line
from tests.simulation.store_connection import StoreConnection
from tests.simulation.virtual_time import VirtualClock

from bsfg.core.conversation import Command, Event
from bsfg.core.link_state import Link
from bsfg.daemon.driver import LinkDriver
from bsfg.errors import BsfgError
from bsfg.model.cursor import LinkName, LinkState

if TYPE_CHECKING:
    from tests.simulation.world import World

STEPS = (
    "locate asked", "locate answered", "record sent", "record answered", "append sent", "append stored",
    "append answered", "fetch sent", "page arrived", "confirm sent", "confirm answered",
)  # fmt: skip
"""Where a gateway can be killed to the point, beside any time at all."""


STILL_LEVEL: Final = "FLOWING still level"


class WatchedDriver(LinkDriver):
    """The driver as it is; each event and command is shown to the world."""

    gateway: Gateway

    def _take(self, event: Event) -> None:
        if self.gateway.is_dead:
            return
        before, tails_lost = self.link, self.gateway.tails_lost
        super()._take(event)
        self.gateway.world.took(self.gateway, before, event, tails_lost)

    def _become(self, link: Link) -> None:
        before = self.link
        super()._become(link)
        if link.rounds > before.rounds and link == before._replace(word=link.word, rounds=link.rounds):
            self.gateway.world.rested(self.gateway)

    def _carry_out(self, command: Command) -> None:
        self.gateway.world.trace(self.gateway.name, "orders", command)
        super()._carry_out(command)


class GatewayClock:
    """The machine's clock (``ports.Clock``); who is paused does not wake."""

    def __init__(self, clock: VirtualClock, gateway: Gateway) -> None:
        self._clock = clock
        self._gateway = gateway

    def now(self) -> int:
        return self._clock.now()

    def monotonic(self) -> float:
        return self._clock.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await self._gateway.awake()


class Gateway:
    """One process: its driver, its connections, and nothing that outlives it."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.is_dead = False
        self.heard: deque[Event] = deque(maxlen=6)
        """The last answers, which may come a second time."""
        self.tails_lost = self.tails_lost_at_read = world.ledger.tails_lost
        """Losses of the store's tail that the link can know of since it last read its end."""
        self._awake: asyncio.Event | None = None
        self.clock = GatewayClock(world.receiver_clock, self)
        connection = StoreConnection(world.store, self)
        link = Link(world.name, world.settings, is_partitioned=world.is_partitioned)
        self.driver = WatchedDriver(
            link, Line(world, self), connection, connection, self.clock, self, chance=world.random.random
        )
        self.driver.gateway = self
        self.task = world.loop.create_task(self.driver.run())
        self.task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not self.is_dead:
            error = None if task.cancelled() else task.exception()
            self.world.ledger.violated("I26", f"the driver of {self.name} ended: {error!r}")

    def kill(self) -> None:
        """kill -9: what it wrote is under way, all else is gone."""
        self.is_dead = True
        self.task.cancel()

    def pause(self) -> None:
        """SIGSTOP."""
        self._awake = self._awake or asyncio.Event()

    def resume(self) -> None:
        """SIGCONT: it believes that no time has passed."""
        if self._awake is not None:
            self._awake.set()
            self._awake = None

    async def awake(self) -> None:
        while self._awake is not None:
            await self._awake.wait()

    async def step(self, label: str) -> None:
        """A labelled step of the process; it may be its last."""
        self.fell_due(label)
        if self._awake is not None:
            await self.awake()
        if self.is_dead:
            await asyncio.Event().wait()

    def hear_again(self) -> None:
        """Every answer that is over comes a second time."""
        for event in list(self.heard):
            if getattr(event, "ticket", None) not in self.driver.link.tickets:
                self.driver.tell(event)

    def fell_due(self, label: str) -> None:
        if self.world.doom == label and not self.is_dead:
            self.world.doom = None
            self.world.kill_and_restart(self, label)

    # LinkObserver

    def announced(self, name: LinkName, event: str, message: str) -> None:
        self.world.announced(event)

    def state_changed(self, name: LinkName, before: LinkState, link: Link) -> None:
        """Seen in each event."""

    def peer_answered(self, name: LinkName) -> None:
        """Seen in each event."""

    def peer_silent(self, name: LinkName, error: BsfgError) -> None:
        """Seen in each event."""

    def fetched(self, name: LinkName, seconds: float, error: BsfgError | None) -> None:
        """Seen in each event."""

    def appended(self, name: LinkName, facts: int, seconds: float, error: BsfgError | None) -> None:
        """Seen in each event."""

    def confirmed(self, name: LinkName, error: BsfgError | None) -> None:
        """Seen in each event."""

    def arrived(self, name: LinkName, seconds: float) -> None:
        """Not told of."""

    def set_aside(self, name: LinkName, sequence: int) -> None:
        """Seen in each event."""

    def failed_unexpectedly(self, name: LinkName, step: str, error: BaseException) -> None:
        self.world.ledger.violated("fault of ours", f"{step}: {error!r}")
