"""A worker process' own side: carries out the gateway's orders with a supervisor of its own, and reports.

It lives no longer than its gateway: it ends when the gateway is gone, or silent for five seconds.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from bsfg.config.values import PeerConfig
from bsfg.daemon.links import LinkSupervisor
from bsfg.daemon.loop_watch import watch_loop
from bsfg.daemon.running_link import RunningLink
from bsfg.daemon.worker_channel import Channel
from bsfg.daemon.worker_reports import Reports
from bsfg.daemon.worker_words import Answer, Ask, Orders, Report, Snapshot, Stop, Taken, Tell, without_facts
from bsfg.errors import BsfgError, Code
from bsfg.model.cursor import LinkName
from bsfg.model.names import ZoneId
from bsfg.ports import Clock
from bsfg.tasks import end_tasks
from bsfg.transport.access import Access
from bsfg.transport.client import HttpPeerClient
from bsfg.transport.trust import TrustStore

REPORT_SECONDS: Final = 0.05
QUIET_SECONDS: Final = 0.5
"""A report at least so often says that the worker is there."""
TICK_SECONDS: Final = 0.5
SILENT_TICKS_MAX: Final = 10
SNAPSHOTS_MAX: Final = 200
"""In one report."""

_Seen = tuple[object, ...]


@dataclass
class PeerClients:
    """One client for each peer whose links run here."""

    make: Callable[[PeerConfig], HttpPeerClient]
    _clients: dict[ZoneId, tuple[PeerConfig, HttpPeerClient]] = field(default_factory=dict)

    async def apply(self, peers: Mapping[ZoneId, PeerConfig]) -> None:
        """Have exactly these; one whose entry changed gets a new client."""
        for peer in [peer for peer, (config, _) in self._clients.items() if peers.get(peer) != config]:
            await self._clients.pop(peer)[1].close()
        for peer, config in peers.items():
            if peer not in self._clients:
                self._clients[peer] = (config, self.make(config))

    async def disconnect(self, peers: Iterable[ZoneId]) -> None:
        """No connection that was opened to one of these peers stays, idle ones neither (runbook 8.1)."""
        for peer in peers:
            if peer in self._clients:
                await self._clients[peer][1].close()

    def client(self, peer: ZoneId) -> HttpPeerClient:
        if peer not in self._clients:
            raise BsfgError(Code.PEER_UNKNOWN, f"peer {peer} is not dialled any more")
        return self._clients[peer][1]


@dataclass
class LinkWorker:
    """Runs the links that the gateway orders, until it says stop or is gone."""

    channel: Channel
    access: Access
    clients: PeerClients
    links: LinkSupervisor
    reports: Reports
    clock: Clock
    ending: Callable[[], object]
    """Called when the end begins, to see to it that it comes."""
    _orders: Orders | None = None
    _ordered: asyncio.Event = field(default_factory=asyncio.Event)
    _partitioned: frozenset[ZoneId] = frozenset()
    _silent_ticks: int = 0
    _seen: dict[LinkName, _Seen] = field(default_factory=dict)
    """What was last said of each link."""

    async def run(self, first: Orders) -> None:
        """Until the gateway says stop, is gone or is silent; the links have stopped on return."""
        self._take(first)
        works = (self._listen(), self._watch_gateway(), self._follow_orders(), self._report_on())
        tasks = [asyncio.create_task(work) for work in works]
        tasks.append(asyncio.create_task(watch_loop(self.clock, lambda late: self.reports.call("stalled", late))))
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            self.ending()
            await end_tasks(*tasks)
            await self.links.stop()
            await self.clients.apply({})

    async def _listen(self) -> None:
        while (word := await self.channel.receive()) is not None:
            self._silent_ticks = 0
            match word:
                case Orders():
                    self._take(word)
                case Tell(name=name, event=event):
                    if driver := self.links.driver(name):
                        driver.tell(event)
                case Ask(number=number, name=name, event=event):
                    driver = self.links.driver(name)
                    self.channel.send(Answer(number, self._snapshot(driver) if driver else None))
                    if driver:
                        driver.tell(event)
                case Stop():
                    return

    async def _watch_gateway(self) -> None:
        """Ticks are counted rather than seconds: those in which this process itself did not run prove nothing."""
        while self._silent_ticks < SILENT_TICKS_MAX:
            await asyncio.sleep(TICK_SECONDS)
            self._silent_ticks += 1

    def _take(self, orders: Orders) -> None:
        """Who may be dialled changes at once, whatever else is under way."""
        trust = TrustStore.from_material(orders.trust) if orders.trust is not None else None
        self.access.swap(trust=trust, policies=orders.policies, partitions=orders.partitions)
        partitioned = frozenset(orders.partitions)
        for peer in partitioned ^ self._partitioned:
            self.links.partition(peer, peer in partitioned)
        self._partitioned, self._orders = partitioned, orders
        self._ordered.set()

    async def _follow_orders(self) -> None:
        while True:
            await self._ordered.wait()
            self._ordered.clear()
            orders = self._orders
            assert orders is not None
            await self.clients.apply(orders.peers)
            await self.links.apply(orders.links, orders.limits, orders.partitions)
            await self.clients.disconnect(orders.partitions)
            self._seen = {name: seen for name, seen in self._seen.items() if name in orders.links}
            self.channel.send(Taken(orders.number))

    async def _report_on(self) -> None:
        told_at = 0.0
        while True:
            snapshots, calls = self._news(), self.reports.take()
            if snapshots or calls or self.clock.monotonic() - told_at >= QUIET_SECONDS:
                told_at = self.clock.monotonic()
                for start in range(SNAPSHOTS_MAX, len(snapshots), SNAPSHOTS_MAX):
                    self.channel.send(Report(tuple(snapshots[start : start + SNAPSHOTS_MAX])))
                self.channel.send(Report(tuple(snapshots[:SNAPSHOTS_MAX]), calls))
                await self.channel.sent()
            await asyncio.sleep(REPORT_SECONDS)

    def _news(self) -> list[Snapshot]:
        """The links that are not as they were last said to be."""
        found = []
        for driver in self.links.drivers:
            seen = (driver.link, self.links.state(driver.name), self.links.error(driver.name), driver.heard_at)
            before = self._seen.get(driver.name)
            if before is None or any(now is not then for now, then in zip(seen, before, strict=True)):
                self._seen[driver.name] = seen
                found.append(self._snapshot(driver))
        return found

    def _snapshot(self, driver: RunningLink) -> Snapshot:
        name = driver.name
        return Snapshot(
            name,
            without_facts(driver.link),
            self.links.state(name),
            self.links.error(name),
            driver.heard_at,
            driver.in_hand,
        )
