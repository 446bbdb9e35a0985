"""Every configured peer's client and monitor, kept in step with the configuration."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from structlog.typing import FilteringBoundLogger

from bsfg.config.values import PeerConfig
from bsfg.daemon.peers import SKEW_WARNING_SECONDS, PeerMonitor
from bsfg.errors import BsfgError, Code
from bsfg.model.names import ZoneId
from bsfg.ports import Clock
from bsfg.tasks import end_tasks
from bsfg.transport.client import HttpPeerClient


@dataclass
class _Entry:
    config: PeerConfig
    client: HttpPeerClient
    monitor: PeerMonitor
    task: asyncio.Task[None]


@dataclass
class PeerTable:
    """The authorized peers; those that are not are neither dialled nor probed (contract, section 3)."""

    make_client: Callable[[PeerConfig], HttpPeerClient]
    clock: Clock
    journal: FilteringBoundLogger
    became_reachable: Callable[[ZoneId], None]
    _entries: dict[ZoneId, _Entry] = field(default_factory=dict)
    _closing: set[asyncio.Task[None]] = field(default_factory=set)

    async def apply(self, peers: Mapping[ZoneId, PeerConfig], partitioned: Iterable[ZoneId]) -> None:
        """Have exactly the authorized of these peers; one whose entry changed gets a new client."""
        wanted = {peer: config for peer, config in peers.items() if config.authorized}
        for peer in [peer for peer, entry in self._entries.items() if wanted.get(peer) != entry.config]:
            await self._remove(peer)
        for peer, config in wanted.items():
            if peer not in self._entries:
                self._add(config, peer in set(partitioned))

    def client(self, peer: ZoneId) -> HttpPeerClient:
        return self._entry(peer).client

    def monitor(self, peer: ZoneId) -> PeerMonitor | None:
        entry = self._entries.get(peer)
        return entry.monitor if entry else None

    def monitors(self) -> list[PeerMonitor]:
        return [entry.monitor for entry in self._entries.values()]

    def answered(self, peer: ZoneId) -> None:
        if monitor := self.monitor(peer):
            monitor.answered()

    def silent(self, peer: ZoneId, error: BsfgError) -> None:
        if monitor := self.monitor(peer):
            monitor.silent(error)

    def partition(self, peer: ZoneId, is_partitioned: bool) -> None:
        entry = self._entries.get(peer)
        if entry is None:
            return
        entry.monitor.partitioned(is_partitioned)
        if is_partitioned:
            # No connection that we opened stays, idle ones neither (runbook 8.1).
            closing = asyncio.create_task(entry.client.close(), name=f"closing connections to {peer}")
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    async def stop(self) -> None:
        for peer in list(self._entries):
            await self._remove(peer)

    def _entry(self, peer: ZoneId) -> _Entry:
        entry = self._entries.get(peer)
        if entry is None:
            raise BsfgError(
                Code.PEER_UNKNOWN,
                f"peer {peer} has no authorized entry in config/peers.yaml, so it is not dialled",
                hint="set authorized: true for it, if that is wanted",
            )
        return entry

    def _add(self, config: PeerConfig, is_partitioned: bool) -> None:
        client = self.make_client(config)
        monitor = PeerMonitor(config.id, client, self.clock, self._changed)
        if is_partitioned:
            monitor.partitioned(True)
        task = asyncio.create_task(monitor.run(), name=f"monitor {config.id}")
        self._entries[config.id] = _Entry(config, client, monitor, task)

    async def _remove(self, peer: ZoneId) -> None:
        entry = self._entries.pop(peer)
        await end_tasks(entry.task)
        await entry.client.close()

    def _changed(self, peer: ZoneId, is_reachable: bool, cause: str) -> None:
        if not is_reachable:
            self.journal.warning("peer_unreachable", peer=peer, message=f"peer {peer} unreachable: {cause}")
            return
        self.journal.info("peer_reachable", peer=peer, message=f"peer {peer} reachable")
        skew = self._entries[peer].monitor.skew_seconds if peer in self._entries else None
        if skew is not None and abs(skew) > SKEW_WARNING_SECONDS:
            self.journal.warning(
                "clock_skew", peer=peer, message=f"the clock of {peer} differs by {skew:.0f} s from ours"
            )
        self.became_reachable(peer)
