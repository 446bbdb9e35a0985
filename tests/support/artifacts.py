"""Artifact stores under test: in memory, in a folder, in a real S3 server; and what is put into them."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from tests.contract.stores import SystemClock

from bsfg.model.artifact import ArtifactReference, ArtifactUri
from bsfg.model.names import ZoneId
from bsfg.ports import ArtifactStore
from bsfg.substrates.artifact_catalog import ArtifactQuotas
from bsfg.substrates.file_artifacts import FileArtifactStore
from bsfg.substrates.memory_artifacts import MemoryArtifactStore

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
) -> AsyncIterator[FileArtifactStore]:
    found: list[str] = [] if reports is None else reports
    store = FileArtifactStore(folder, OWN, lambda: quotas, SystemClock(), found.append)
    store.open()
    try:
        yield store
    finally:
        await store.close()
