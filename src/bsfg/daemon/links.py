"""One task a link, and nothing that one link does can stop another (I24).

The supervisor starts a link once its inbound stream exists, and starts it again if its driver ever fails. With
``limits.worker_processes`` each worker has one, and ``worker_links`` stands in front of them.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from bsfg.config.limits import Limits
from bsfg.config.values import Compression, LinkConfig, LinkStart, OnGap, OnUnstorable
from bsfg.core.backoff import Backoff
from bsfg.core.conversation import Event, PartitionBegan, PartitionEnded, Reconfigured, StoreDoubted
from bsfg.core.link_state import Link, LinkSettings
from bsfg.daemon.canary import Canary
from bsfg.daemon.driver import LinkDriver, LinkObserver
from bsfg.daemon.page_room import PageRoom
from bsfg.daemon.recent_marks import RecentMarks
from bsfg.daemon.running_link import Links, RunningLink
from bsfg.daemon.scheduling import LinkTraffic, Pace, PeerTraffic
from bsfg.errors import BsfgError, Code
from bsfg.model.cursor import LinkName, LinkState
from bsfg.model.names import ZoneId
from bsfg.model.page import PageLimits
from bsfg.ports import Clock, InboundLog, PeerClient, Quarantine
from bsfg.tasks import end_tasks

PAGE_FACTS: Final = 5_000
PAGE_BYTES: Final = 3 * 1024 * 1024
"""Of a link that catches up alone. Larger pages move hardly more facts a second, and several in hand cost memory."""
PAGES_MAX: Final = 16
"""In one answer while a link catches up: over a distance the line is empty between two answers."""
RESTART_SECONDS: Final = 2.0


def settings_of(config: LinkConfig, limits: Limits) -> LinkSettings:
    """The state machine's settings from a configuration entry."""
    return LinkSettings(
        init_mode=config.init_mode,
        justification=config.justification,
        starts_on_load=config.start is LinkStart.LOAD,
        records_gaps=config.on_gap is OnGap.RECORD_AND_CONTINUE,
        sets_aside=config.on_unstorable is OnUnstorable.QUARANTINE,
        limits=PageLimits(facts=PAGE_FACTS, bytes=PAGE_BYTES, wait_seconds=limits.poll_wait_seconds),
        pages_max=PAGES_MAX,
        backoff=Backoff(limits.retry_delay_seconds_min, limits.retry_delay_seconds_max),
    )


def pace_of(config: LinkConfig) -> Pace:
    """The link's traffic from a configuration entry."""
    return Pace(config.priority, config.max_bytes_per_second, config.compression is Compression.ZSTD)


@dataclass
class _Running:
    driver: LinkDriver
    task: asyncio.Task[None]
    traffic: LinkTraffic
    canary: Canary
    is_provisioned: bool = False
    error: BsfgError | None = None


@dataclass(frozen=True, slots=True)
class LinkMeans:
    """What a driver works with."""

    inbound: InboundLog
    quarantine: Quarantine
    clock: Clock
    client_of: Callable[[ZoneId], PeerClient]
    marks: RecentMarks | None = None


@dataclass
class LinkSupervisor:
    """Links that run in this process (``running_link.Links``)."""

    means: LinkMeans
    observer: LinkObserver
    _links: dict[LinkName, _Running] = field(default_factory=dict)
    _partitioned: set[ZoneId] = field(default_factory=set)
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Links are started and stopped one at a time."""
    _peers: dict[ZoneId, PeerTraffic] = field(default_factory=dict)
    _room: PageRoom = field(default_factory=PageRoom)

    @property
    def drivers(self) -> list[LinkDriver]:
        return [running.driver for running in self._links.values()]

    def driver(self, name: LinkName) -> LinkDriver | None:
        running = self._links.get(name)
        return running.driver if running else None

    def state(self, name: LinkName) -> LinkState:
        """The link's state; ``local_unavailable`` while its inbound stream can't be provisioned."""
        running = self._links[name]
        if not running.is_provisioned and running.error is not None:
            return LinkState.LOCAL_UNAVAILABLE
        return running.driver.state

    def error(self, name: LinkName) -> BsfgError | None:
        running = self._links[name]
        return running.driver.link.error or running.error

    def problems(self) -> Sequence[str]:
        """What hinders links is in their states."""
        return ()

    async def apply(
        self, links: Mapping[LinkName, LinkConfig], limits: Limits, partitioned: Iterable[ZoneId]
    ) -> None:
        """Run exactly these links: stop what is gone, start what is new, tell the others their settings.

        A link whose peer has another client, since its entry changed, starts anew with it.
        """
        async with self._turn:
            self._partitioned = set(partitioned)
            for name in [name for name in self._links if name not in links]:
                await self._stop(name)
            for name, config in links.items():
                settings = settings_of(config, limits)
                running = self._links.get(name)
                if running is None:
                    running = self._start(name, settings)
                elif running.driver.client is not self.means.client_of(name.peer):
                    await end_tasks(running.task)
                    self._begin_anew(name)
                if running.driver.link.settings != settings:
                    running.driver.tell(Reconfigured(settings))
                running.traffic.configure(pace_of(config))
                running.canary.period_seconds = config.canary_seconds

    @asynccontextmanager
    async def stopped(self, name: LinkName) -> AsyncIterator[None]:
        """Inside the block the link does not run, whatever a reload wants; behind it, it starts from what is durable.

        Raises ``unavailable`` for a link that does not run.
        """
        async with self._turn:
            running = self._links.get(name)
            if running is None:
                raise BsfgError(Code.UNAVAILABLE, f"link {name} does not run")
            await end_tasks(running.task)
            try:
                yield
            finally:
                self._begin_anew(name)

    def tell_peer(self, peer: ZoneId, event: Event) -> None:
        """Give every link from this peer an outside word."""
        for name, running in self._links.items():
            if name.peer == peer:
                running.driver.tell(event)

    def partition(self, peer: ZoneId, is_partitioned: bool) -> None:
        (self._partitioned.add if is_partitioned else self._partitioned.discard)(peer)
        self.tell_peer(peer, PartitionBegan() if is_partitioned else PartitionEnded())

    def store_returned(self) -> None:
        """What the local store had acknowledged may be gone with what it was away for: every link reads its end."""
        for driver in self.drivers:
            driver.tell(StoreDoubted())

    async def stop(self) -> None:
        async with self._turn:
            for name in list(self._links):
                await self._stop(name)

    def _start(self, name: LinkName, settings: LinkSettings) -> _Running:
        link = Link(name, settings, is_partitioned=name.peer in self._partitioned)
        peer = self._peers.setdefault(name.peer, PeerTraffic())
        traffic = LinkTraffic(name, peer, self.means.clock, self._room)
        canary = Canary(self.means.clock)
        driver = self._driver(link, traffic, canary)
        task = asyncio.create_task(self._run(name), name=f"link {name}")
        self._links[name] = running = _Running(driver, task, traffic, canary)
        return running

    def _driver(self, link: Link, traffic: LinkTraffic, canary: Canary) -> LinkDriver:
        means, client = self.means, self.means.client_of(link.name.peer)
        return LinkDriver(
            link,
            client,
            means.inbound,
            means.quarantine,
            means.clock,
            self.observer,
            traffic=traffic,
            canary=canary,
            marks=means.marks,
        )

    async def _stop(self, name: LinkName) -> None:
        running = self._links.pop(name)
        await end_tasks(running.task)
        running.traffic.close()

    def _begin_anew(self, name: LinkName) -> None:
        self._renew(name)
        self._links[name].task = asyncio.create_task(self._run(name), name=f"link {name}")

    async def _run(self, name: LinkName) -> None:
        """Provision, then drive; a driver that fails starts again from what is durable."""
        backoff, attempt = Backoff(), 0
        while True:
            running = self._links[name]
            try:
                await self.means.inbound.provision(name)
                running.is_provisioned, running.error, attempt = True, None, 0
                await running.driver.run()
            except BsfgError as error:
                running.error = error
                attempt += 1
                await self.means.clock.sleep(backoff.delay(attempt, random.random()))
            except Exception as error:
                self.observer.failed_unexpectedly(name, "driver", error)
                await self.means.clock.sleep(RESTART_SECONDS)
                self._renew(name)

    def _renew(self, name: LinkName) -> None:
        running = self._links[name]
        old = running.driver.link
        is_partitioned = name.peer in self._partitioned
        link = Link(name, old.settings, is_partitioned=is_partitioned, is_requested=old.is_requested)
        running.driver = self._driver(link, running.traffic, running.canary)


def require(links: Links, name: LinkName, known_links: Collection[LinkName]) -> RunningLink:
    """The running link, or an error that says which lines to add (contract, ``bsfg fetch``)."""
    driver = links.driver(name)
    if driver is not None:
        return driver
    if name in known_links:
        raise BsfgError(
            Code.UNAVAILABLE,
            f"link {name} does not run: the gateway is still starting, or peer {name.peer} is not authorized",
            hint="bsfg peer list shows whether it is authorized",
        )
    known = ", ".join(str(link) for link in known_links) or "none"
    raise BsfgError(
        Code.CONFIGURATION,
        f"no entry for peer {name.peer}, stream {name.stream} in config/cursors.yaml (links there: {known})",
        hint=f"add under cursors:\n  - peer: {name.peer}\n    stream: {name.stream}\n"
        "    init_mode: bounded_backfill_24h",
    )
