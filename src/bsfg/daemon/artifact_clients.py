"""The authorized peers' clients for artifacts, kept in step with the configuration."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from bsfg.config.values import PeerConfig
from bsfg.errors import BsfgError, Code
from bsfg.model.names import ZoneId
from bsfg.transport.artifact_client import HttpArtifactClient


@dataclass
class ArtifactClients:
    """One client a peer; a peer whose entry changed gets a new one."""

    make_client: Callable[[PeerConfig], HttpArtifactClient]
    _entries: dict[ZoneId, tuple[PeerConfig, HttpArtifactClient]] = field(default_factory=dict)
    _closing: set[asyncio.Task[None]] = field(default_factory=set)

    async def apply(self, peers: Mapping[ZoneId, PeerConfig]) -> dict[ZoneId, bool]:
        """Have exactly the authorized of these peers; says of each whether its entry is new or has changed."""
        wanted = {peer: config for peer, config in peers.items() if config.authorized}
        changed = {}
        for peer in [peer for peer in self._entries if peer not in wanted]:
            await self._remove(peer)
        for peer, config in wanted.items():
            held = self._entries.get(peer)
            changed[peer] = held is not None and held[0] != config
            if held is None or changed[peer]:
                await self._remove(peer)
                self._entries[peer] = (config, self.make_client(config))
        return changed

    def client(self, peer: ZoneId) -> HttpArtifactClient:
        entry = self._entries.get(peer)
        if entry is None:
            raise BsfgError(
                Code.PEER_UNKNOWN,
                f"peer {peer} has no authorized entry in config/peers.yaml, so it is not asked for artifacts",
                hint="set authorized: true for it, if that is wanted",
            )
        return entry[1]

    def cut_off(self, peer: ZoneId) -> None:
        """No connection that we opened to this peer stays, idle ones neither (runbook 8.1)."""
        if held := self._entries.get(peer):
            closing = asyncio.create_task(held[1].close(), name=f"closing artifact connections to {peer}")
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    async def stop(self) -> None:
        for peer in list(self._entries):
            await self._remove(peer)

    async def _remove(self, peer: ZoneId) -> None:
        held = self._entries.pop(peer, None)
        if held is not None:
            await held[1].close()
