"""The zone's artifact store."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from bsfg.bootstrap.zone import Zone
from bsfg.config.values import FileStore
from bsfg.errors import BsfgError, Code
from bsfg.ports import ArtifactStore, StoredArtifact
from bsfg.substrates.artifact_catalog import ArtifactQuotas
from bsfg.substrates.file_artifacts import OBJECTS, open_file_artifacts


@dataclass
class Artifacts:
    """``local_path`` is where an artifact's bytes lie as a file; None where the store has none."""

    store: ArtifactStore
    local_path: Callable[[StoredArtifact], Path | None]


async def open_artifacts(zone: Zone, stack: AsyncExitStack) -> Artifacts:
    config = zone.configuration.zone.artifacts
    if not isinstance(config.store, FileStore):
        raise BsfgError(Code.CONFIGURATION, "artifacts: store: s3 is not served by this version")
    quotas = ArtifactQuotas(config.quota_bytes, config.quota_per_peer_bytes)
    folder = config.store.path

    def report(text: str) -> None:
        zone.journal.warning("substrate_notice", message=text)

    def local_path(stored: StoredArtifact) -> Path:
        sha256 = stored.reference.sha256
        return (folder / OBJECTS / sha256[:2] / sha256).absolute()

    store = open_file_artifacts(folder, zone.configuration.zone.zone, lambda: quotas, zone.clock, report)
    store.open()
    stack.push_async_callback(store.close)
    return Artifacts(store, local_path)
