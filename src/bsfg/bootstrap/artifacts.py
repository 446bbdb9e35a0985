"""The zone's artifact store, and what is done with this zone's own artifacts."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

from aiohttp import web

from bsfg.bootstrap.store import Store
from bsfg.bootstrap.zone import Zone
from bsfg.config.permissions import check_private
from bsfg.config.values import Configuration, FileStore, Redirect
from bsfg.daemon.artifact_local_routes import artifact_local_routes
from bsfg.daemon.artifact_operations import ArtifactOperations
from bsfg.daemon.gateway import Gateway
from bsfg.daemon.retained_references import RetainedReferences
from bsfg.ports import ArtifactStore, StoredArtifact
from bsfg.substrates.artifact_catalog import ArtifactQuotas
from bsfg.substrates.consumers import LocalAccess
from bsfg.substrates.file_artifacts import OBJECTS, open_file_artifacts
from bsfg.transport.artifact_routes import ArtifactRoutes, Presign
from bsfg.transport.routes import PeerRoute

REDIRECT_SECONDS: Final = 60
"""How long a peer may begin to read at the address that it was sent to."""
STAGING: Final = "artifact-staging"


@dataclass
class Artifacts:
    """``local_path`` is where an artifact's bytes lie as a file; None where the store has none."""

    store: ArtifactStore
    local_path: Callable[[StoredArtifact], Path | None]
    presign: Presign | None


def open_artifacts(zone: Zone, configuration: Callable[[], Configuration], stack: AsyncExitStack) -> Artifacts:
    """``configuration`` is the one in force, once the gateway runs; the store itself stays what it was at the start."""

    def report(text: str) -> None:
        zone.journal.warning("substrate_notice", message=text)

    def quotas() -> ArtifactQuotas:
        config = configuration().zone.artifacts
        return ArtifactQuotas(config.quota_bytes, config.quota_per_peer_bytes)

    config, own = zone.configuration.zone.artifacts, zone.configuration.zone.zone
    if isinstance(config.store, FileStore):
        folder = config.store.path
        store = open_file_artifacts(folder, own, quotas, zone.clock, report)
        artifacts = Artifacts(store, partial(_object_path, folder), None)
    else:
        # Its library takes five megabytes, which only zones with such a store shall pay.
        from bsfg.substrates.s3_artifacts import S3Artifacts, S3Place, open_s3_artifacts, read_keys

        if config.store.credentials_file is not None:
            check_private(config.store.credentials_file)
        place = S3Place(config.store.endpoint, config.store.region, config.bucket)
        backend = S3Artifacts(place, read_keys(config.store.credentials_file, os.environ))
        staging = zone.configuration.paths.data / STAGING
        store = open_s3_artifacts(backend, staging, own, quotas, zone.clock, report)
        artifacts = Artifacts(store, lambda _: None, lambda stored: backend.presigned(stored, REDIRECT_SECONDS))
    store.open()
    stack.push_async_callback(store.close)
    return artifacts


def _object_path(folder: Path, stored: StoredArtifact) -> Path:
    sha256 = stored.reference.sha256
    return (folder / OBJECTS / sha256[:2] / sha256).absolute()


def peer_routes(zone: Zone, gateway: Gateway, artifacts: Artifacts) -> list[PeerRoute]:
    """Our artifacts for peers; whether they are sent to the object store is asked at each request."""

    def presign() -> Presign | None:
        is_on = gateway.configuration.zone.artifacts.redirect is Redirect.ON
        return artifacts.presign if is_on else None

    config = zone.configuration.zone
    routes = ArtifactRoutes(
        artifacts.store,
        config.artifacts.bucket,
        config.limits.artifact_streams_per_peer,
        config.limits.artifact_rate_min_bytes,
        presign,
    )
    return routes.routes()


def local_routes(
    zone: Zone,
    store: Store,
    artifacts: Artifacts,
    wanted: Callable[[str | None, str | None], Awaitable[dict[str, Any]]],
) -> list[web.RouteDef]:
    """Put, list and gc for the local API; ``wanted`` lists what we want from peers."""
    config = zone.configuration.zone
    access = LocalAccess(store.control, store.connect)
    operations = ArtifactOperations(
        artifacts.store,
        config.zone,
        config.artifacts.bucket,
        RetainedReferences(store.control, access.read_local),
        zone.audit,
        zone.clock,
        wanted,
    )
    return artifact_local_routes(operations)
