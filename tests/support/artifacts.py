"""Artifact stores under test: in memory, in a folder, in a real S3 server; and what is put into them."""

from __future__ import annotations

import hashlib
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Final

import obstore
from obstore.store import S3Store
from tests.contract.stores import SystemClock
from tests.support.radosgw import REGION, RadosGateway

from bsfg.model.artifact import ArtifactReference, ArtifactUri
from bsfg.model.names import ZoneId
from bsfg.ports import ArtifactStore
from bsfg.substrates.artifact_catalog import ArtifactQuotas
from bsfg.substrates.file_artifacts import open_file_artifacts
from bsfg.substrates.memory_artifacts import MemoryArtifactStore
from bsfg.substrates.s3_artifacts import S3Artifacts, S3Keys, S3Place, open_s3_artifacts
from bsfg.substrates.staged_artifacts import StagedArtifactStore

OWN: Final = ZoneId("plant-a")
PEER: Final = ZoneId("enterprise")
QUOTAS: Final = ArtifactQuotas(zone_bytes=1_000_000, per_peer_bytes=300_000)


def uri(
    key: str = "2025/001/batch-123.json",
    artifact_type: str = "batch-files",
    bucket: str = "plant-a-artifacts",
) -> ArtifactUri:
    return ArtifactUri(bucket, artifact_type, key)


def reference(content: bytes, name: ArtifactUri | None = None) -> ArtifactReference:
    return ArtifactReference(
        name or uri(), hashlib.sha256(content).hexdigest(), len(content), "application/json"
    )


async def put(
    store: ArtifactStore, content: bytes, name: ArtifactUri | None = None, owner: ZoneId = OWN
) -> ArtifactReference:
    """Store these bytes in one go."""
    writing = await store.begin(owner)
    try:
        await writing.write(content)
        return await writing.finish(name or uri(), media_type="application/json", expected=None)
    except BaseException:
        await writing.abandon()
        raise


async def content_of(
    store: ArtifactStore, name: ArtifactUri, start: int = 0, end: int | None = None
) -> bytes:
    found = await store.find(name)
    assert found is not None, f"{name} is not there"
    pieces = [piece async for piece in store.read(found, start, found.reference.size if end is None else end)]
    return b"".join(pieces)


def memory_store(quotas: ArtifactQuotas = QUOTAS) -> MemoryArtifactStore:
    return MemoryArtifactStore(OWN, quotas, SystemClock())


@asynccontextmanager
async def file_store(
    folder: Path, quotas: ArtifactQuotas = QUOTAS, reports: list[str] | None = None
) -> AsyncIterator[StagedArtifactStore]:
    found: list[str] = [] if reports is None else reports
    store = open_file_artifacts(folder, OWN, lambda: quotas, SystemClock(), found.append)
    store.open()
    try:
        yield store
    finally:
        await store.close()


def make_bucket(server: RadosGateway, bucket: str) -> None:
    """A new bucket, made the way that an operator's tool makes it."""
    keys = {"access_key_id": server.access_key, "secret_access_key": server.secret_key}
    hand = S3Store(
        bucket, endpoint=server.endpoint, region=REGION, client_options={"allow_http": True}, **keys
    )
    address = obstore.sign(hand, "PUT", "", timedelta(seconds=60))
    with urllib.request.urlopen(urllib.request.Request(address, method="PUT"), timeout=30) as answer:
        assert answer.status == 200


def s3_backend(server: RadosGateway, bucket: str) -> S3Artifacts:
    return S3Artifacts(S3Place(server.endpoint, REGION, bucket), S3Keys(server.access_key, server.secret_key))


@asynccontextmanager
async def s3_store(
    server: RadosGateway,
    bucket: str,
    staging: Path,
    quotas: ArtifactQuotas = QUOTAS,
    reports: list[str] | None = None,
) -> AsyncIterator[StagedArtifactStore]:
    found: list[str] = [] if reports is None else reports
    backend = s3_backend(server, bucket)
    store = open_s3_artifacts(backend, staging, OWN, lambda: quotas, SystemClock(), found.append)
    store.open()
    try:
        yield store
    finally:
        await store.close()
