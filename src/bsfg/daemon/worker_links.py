"""Links that run in worker processes, as the rest of the gateway sees them (``running_link.Links``).

The gateway keeps trust, policy, audit, log and metrics; a worker owns whole links: its own connections to the store
and to the peers. It gets the access in force with each change, and what it reports is made into the same lines and
numbers as what a link in the gateway's own process reports.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from structlog.typing import FilteringBoundLogger

from bsfg.config.limits import Limits
from bsfg.config.values import LinkConfig, PeerConfig
from bsfg.core.conversation import Event, StoreDoubted
from bsfg.core.link_state import Link, Phase
from bsfg.daemon.healing import Healer
from bsfg.daemon.link_reporter import LinkReporter
from bsfg.daemon.links import settings_of
from bsfg.daemon.running_link import NOTHING_IN_HAND, InHand
from bsfg.daemon.worker_process import Program, WorkerProcess
from bsfg.daemon.worker_spread import spread
from bsfg.daemon.worker_words import Beginning, Orders, Report, Snapshot, Tell
from bsfg.errors import BsfgError, Code
from bsfg.model.cursor import LinkName, LinkState
from bsfg.model.names import ZoneId
from bsfg.ports import Clock
from bsfg.tasks import end_tasks
from bsfg.transport.access import Access
from bsfg.transport.trust import TrustStore

PEERS_SHOWN_MAX: Final = 10


@dataclass
class RemoteLink:
    """One link in a worker process (``running_link.RunningLink``): what was last said of it."""

    worker: WorkerProcess
    clock: Clock
    link: Link
    state: LinkState = LinkState.STARTING
    error: BsfgError | None = None
    heard_at: float | None = None
    in_hand: InHand = NOTHING_IN_HAND
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def name(self) -> LinkName:
        return self.link.name

    def tell(self, event: Event) -> None:
        """See ``running_link.RunningLink.tell``."""
        self.worker.send(Tell(self.name, event))

    async def instruct(self, event: Event) -> Link:
        """See ``running_link.RunningLink.instruct``."""
        self.install(before := await self.worker.ask(self.name, event))
        return before.link

    async def changed(self) -> None:
        """See ``running_link.RunningLink.changed``."""
        await self._changed.wait()

    def install(self, snapshot: Snapshot) -> None:
        """This is the link now."""
        self.link, self.state, self.error = snapshot.link, snapshot.state, snapshot.error
        self.heard_at, self.in_hand = snapshot.heard_at, snapshot.in_hand
        self._tell()

    def lost(self, error: BsfgError) -> None:
        """The worker is gone, and the link does not run until there is another."""
        self.state, self.error, self.in_hand = LinkState.LOCAL_UNAVAILABLE, error, NOTHING_IN_HAND
        if self.link.phase is not Phase.HALTED:
            self.link = self.link._replace(
                phase=Phase.WAITING, trouble=LinkState.LOCAL_UNAVAILABLE, error=error, word=None
            )
        self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


@dataclass
class WorkerLinks:
    """Every configured link of this zone, spread over worker processes by peer."""

    count: int
    program: Program
    begin: Callable[[int], Beginning]
    access: Access
    peers: Callable[[], Mapping[ZoneId, PeerConfig]]
    """Those of the configuration in force."""
    reporter: LinkReporter
    healer: Healer
    clock: Clock
    journal: FilteringBoundLogger
    stalled: Callable[[float, str], None]
    """A worker's loop did not run for so many seconds."""
    _workers: list[WorkerProcess] = field(default_factory=list)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)
    _links: dict[LinkName, RemoteLink] = field(default_factory=dict)
    _configs: Mapping[LinkName, LinkConfig] = field(default_factory=dict)
    _limits: Limits = field(default_factory=Limits)
    _places: dict[ZoneId, int] = field(default_factory=dict)
    _held: set[LinkName] = field(default_factory=set)
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def drivers(self) -> Sequence[RemoteLink]:
        return list(self._links.values())

    def driver(self, name: LinkName) -> RemoteLink | None:
        return self._links.get(name)

    def state(self, name: LinkName) -> LinkState:
        return self._links[name].state

    def error(self, name: LinkName) -> BsfgError | None:
        return self._links[name].error

    def problems(self) -> Sequence[str]:
        return [worker.problem for worker in self._workers if worker.problem is not None]

    async def apply(
        self, links: Mapping[LinkName, LinkConfig], limits: Limits, partitioned: Iterable[ZoneId]
    ) -> None:
        """See ``running_link.Links.apply``; workers that are starting are not waited for."""
        async with self._turn:
            self._start_workers()
            self._configs, self._limits = dict(links), limits
            self._places = spread(links, self._places, self.count)
            self._links = {name: self._remote(name, config) for name, config in links.items()}
            self._order_all()
            for worker in self._workers:
                await worker.caught_up(also_starting=False)

    @asynccontextmanager
    async def stopped(self, name: LinkName) -> AsyncIterator[None]:
        """See ``running_link.Links.stopped``; a worker that is started meanwhile leaves the link alone too."""
        async with self._turn:
            remote = self._links.get(name)
            if remote is None:
                raise BsfgError(Code.UNAVAILABLE, f"link {name} does not run")
            self._held.add(name)
            try:
                remote.worker.order()
                await remote.worker.caught_up(also_starting=True)
                yield
            finally:
                self._held.discard(name)
                remote.worker.order()

    def tell_peer(self, peer: ZoneId, event: Event) -> None:
        """See ``running_link.Links.tell_peer``."""
        for name, remote in self._links.items():
            if name.peer == peer:
                remote.tell(event)

    def partition(self, peer: ZoneId, is_partitioned: bool) -> None:
        """See ``running_link.Links.partition``; the orders carry it."""
        self._order_all()

    def store_returned(self) -> None:
        """See ``running_link.Links.store_returned``; a worker that is starting reads every end anyway."""
        for remote in self._links.values():
            remote.tell(StoreDoubted())

    async def stop(self) -> None:
        async with self._turn:
            await asyncio.gather(*(worker.stop() for worker in self._workers))
            await end_tasks(*self._tasks)
            self._links = {}

    def _start_workers(self) -> None:
        for index in range(len(self._workers), self.count):
            worker = WorkerProcess(index, self.program, self, self.clock, self.journal)
            self._workers.append(worker)
            self._tasks.append(asyncio.create_task(worker.run(), name=worker.title))

    def _remote(self, name: LinkName, config: LinkConfig) -> RemoteLink:
        running = self._links.get(name)
        if running is not None:
            return running
        link = Link(name, settings_of(config, self._limits))
        return RemoteLink(self._workers[self._places[name.peer]], self.clock, link)

    def _order_all(self) -> None:
        for worker in self._workers:
            worker.order()

    # worker_process.Owner

    def beginning(self, index: int) -> Beginning:
        return self.begin(index)

    def orders(self, index: int, number: int, known: TrustStore | None) -> tuple[Orders, TrustStore]:
        access, peers = self.access.current, self.peers()
        mine = {name: config for name, config in self._configs.items() if self._places[name.peer] == index}
        orders = Orders(
            number,
            None if known is access.trust else access.trust.material,
            access.policies,
            access.partitions,
            {name.peer: peers[name.peer] for name in mine if name.peer in peers},
            {name: config for name, config in mine.items() if name not in self._held and name.peer in peers},
            self._limits,
        )
        return orders, access.trust

    def described(self, index: int) -> str:
        peers = sorted(peer for peer, place in self._places.items() if place == index)
        count = sum(self._places[name.peer] == index for name in self._configs)
        shown = ", ".join(peers[:PEERS_SHOWN_MAX]) + (" and others" if len(peers) > PEERS_SHOWN_MAX else "")
        return f"{count} links of {shown}" if peers else "no links yet"

    def heard(self, index: int, report: Report) -> None:
        worker = self._workers[index]
        for snapshot in report.snapshots:
            remote = self._links.get(snapshot.name)
            if remote is not None and remote.worker is worker:
                remote.install(snapshot)
        takers = self._takers(worker)
        for what, arguments in report.calls:
            takers[what](*arguments)

    def lost(self, index: int, cause: str) -> None:
        error = BsfgError(Code.UNAVAILABLE, cause)
        for remote in self._links.values():
            if remote.worker is self._workers[index]:
                remote.lost(error)

    def _takers(self, worker: WorkerProcess) -> Mapping[str, Callable[..., Any]]:
        """Everything that a worker may call here."""
        reporter, healer = self.reporter, self.healer
        return {
            "announced": reporter.announced,
            "changed_to": reporter.changed_to,
            "peer_answered": reporter.peer_answered,
            "peer_silent": reporter.peer_silent,
            "fetched": reporter.fetched,
            "appended": reporter.appended,
            "arrived": reporter.arrived,
            "confirmed": reporter.confirmed,
            "set_aside": reporter.set_aside,
            "faulted": reporter.faulted,
            "append_failed": healer.append_failed,
            "append_worked": healer.append_worked,
            "line": self._write_line,
            "stalled": lambda seconds: self.stalled(seconds, f"the loop of {worker.title}"),
        }

    def _write_line(self, level: str, event: str, words: Mapping[str, Any]) -> None:
        write = {"error": self.journal.error, "warning": self.journal.warning}.get(level, self.journal.info)
        write(event, **words)
