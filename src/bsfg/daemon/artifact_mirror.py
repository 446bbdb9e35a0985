"""The parts that bring peers' artifacts here, kept in step with the configuration and with who can be reached."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from bsfg.config.values import Configuration, LinkArtifacts
from bsfg.daemon.artifact_clients import ArtifactClients
from bsfg.daemon.artifact_scan import ReferenceScan
from bsfg.daemon.retrievals import Retrievals
from bsfg.model.names import ZoneId
from bsfg.tasks import end_tasks


@dataclass
class ArtifactMirror:
    """What a gateway owns for artifacts of its peers."""

    clients: ArtifactClients
    retrievals: Retrievals
    scan: ReferenceScan
    _loading: asyncio.Task[None] | None = None

    async def apply(self, configuration: Configuration) -> None:
        """Ask exactly the authorized peers, and search exactly the links from them that mirror."""
        if self._loading is None:
            self._loading = asyncio.create_task(self.retrievals.load(), name="wanted artifacts")
        self.retrievals.apply(await self.clients.apply(configuration.peers))
        peers = configuration.peers
        self.scan.apply(
            {
                name: peers[name.peer].artifact_bucket
                for name, link in configuration.links.items()
                if link.artifacts is LinkArtifacts.MIRROR and peers[name.peer].authorized
            }
        )

    def peer_back(self, peer: ZoneId) -> None:
        """What waits for this peer goes on."""
        self.retrievals.peer_back(peer)

    def counts(self) -> Mapping[str, int]:
        """Wanted artifacts by state; empty while the list is not known."""
        counts = self.retrievals.counts() if self.retrievals.is_loaded else {}
        return {state.value: count for state, count in counts.items()}

    def notices(self) -> list[str]:
        """What an operator should know and what makes no zone unhealthy."""
        return self.retrievals.problems()

    async def stop(self) -> None:
        """Cut what is under way; what came is kept."""
        if self._loading is not None:
            await end_tasks(self._loading)
        await self.scan.stop()
        await self.retrievals.stop()
        await self.clients.stop()
