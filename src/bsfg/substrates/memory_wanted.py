"""The in-memory twin of the list of wanted artifacts, for tests."""

from __future__ import annotations

from bsfg.model.cursor import LinkName
from bsfg.model.wanted import ScanPosition, WantedArtifact


class MemoryWantedArtifacts:
    """``ports.WantedArtifacts`` in memory; it passes the suite of the real adapter in ``tests/contract``."""

    def __init__(self) -> None:
        self._entries: dict[tuple[str, str], WantedArtifact] = {}
        self._positions: dict[LinkName, ScanPosition] = {}

    async def load(self) -> list[WantedArtifact]:
        """See ``ports.WantedArtifacts.load``."""
        return [self._entries[key] for key in sorted(self._entries)]

    async def save(self, artifact: WantedArtifact) -> None:
        """See ``ports.WantedArtifacts.save``."""
        self._entries[artifact.peer, artifact.key] = artifact

    async def remove(self, artifact: WantedArtifact) -> None:
        """See ``ports.WantedArtifacts.remove``."""
        self._entries.pop((artifact.peer, artifact.key), None)

    async def position(self, link: LinkName) -> ScanPosition | None:
        return self._positions.get(link)

    async def save_position(self, link: LinkName, position: ScanPosition) -> None:
        """See ``ports.WantedArtifacts.save_position``."""
        self._positions[link] = position
