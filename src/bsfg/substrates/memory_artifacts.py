"""The in-memory twin of the artifact stores, for tests and simulation; it passes the same contract suite."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Final

from bsfg.errors import ArtifactCorrupt, BsfgError, Code, StoreFull
from bsfg.model.artifact import ArtifactReference, ArtifactUri
from bsfg.model.names import ZoneId
from bsfg.ports import Clock, StoredArtifact
from bsfg.substrates.artifact_catalog import ArtifactCatalog, ArtifactQuotas, same_or_conflict

PIECE_BYTES: Final = 64 * 1024


class MemoryArtifactStore:
    """``ports.ArtifactStore``; what tests do to it beside the port are its public fields."""

    def __init__(self, own_zone: ZoneId, quotas: ArtifactQuotas, clock: Clock) -> None:
        self.quotas = quotas
        self.clock = clock
        self.catalog = ArtifactCatalog(own_zone)
        self.objects: dict[str, bytes] = {}
        self.kept: dict[tuple[ZoneId, str], bytearray] = {}
        self.set_aside: dict[str, bytes] = {}
        self.is_full = False
        """A disk without room: every write is refused."""

    async def begin(self, owner: ZoneId, *, resume: ArtifactReference | None = None) -> MemoryWriting:
        written = self.kept.pop((owner, resume.sha256), bytearray()) if resume is not None else bytearray()
        if resume is not None and len(written) > resume.size:
            self.catalog.reserve(owner, -len(written))
            written = bytearray()
        left = max(1, resume.size - len(written)) if resume is not None else 1
        writing = MemoryWriting(self, owner, written, resume.sha256 if resume is not None else None)
        try:
            self.catalog.demand_room(owner, left, self.quotas)
        except BsfgError:
            await writing.keep()
            raise
        return writing

    async def find(self, uri: ArtifactUri) -> StoredArtifact | None:
        owned = self.catalog.get(uri)
        if (
            owned is None
            or len(self.objects.get(owned.stored.reference.sha256, b"")) != owned.stored.reference.size
        ):
            return None
        return owned.stored

    async def has(self, sha256: str) -> bool:
        return sha256 in self.objects

    async def link(self, owner: ZoneId, reference: ArtifactReference) -> None:
        if len(self.objects.get(reference.sha256, b"")) != reference.size or not await self.has(
            reference.sha256
        ):
            raise BsfgError(
                Code.ARTIFACT_NOT_FOUND, f"artifact {reference.uri}: bytes {reference.sha256} are not here"
            )
        self.catalog.demand_room(owner, reference.size, self.quotas)
        self.name(owner, reference)

    def name(self, owner: ZoneId, reference: ArtifactReference) -> ArtifactReference:
        known = self.catalog.get(reference.uri)
        if known is not None:
            return same_or_conflict(known.stored, reference)
        self.catalog.add(owner, StoredArtifact(reference, self.clock.now()))
        return reference

    async def read(self, artifact: StoredArtifact, start: int, end: int) -> AsyncGenerator[bytes, None]:
        content = self.objects[artifact.reference.sha256][start:end]
        for offset in range(0, len(content), PIECE_BYTES):
            yield content[offset : offset + PIECE_BYTES]

    async def stored(self, owner: ZoneId | None = None) -> AsyncIterator[StoredArtifact]:
        for row in self.catalog.rows(owner):
            yield row

    async def remove(self, uri: ArtifactUri) -> None:
        owned = self.catalog.get(uri)
        if owned is not None and self.catalog.drop(uri):
            self.objects.pop(owned.stored.reference.sha256, None)

    async def bytes_used(self, owner: ZoneId | None = None) -> int:
        return self.catalog.used(owner)


class MemoryWriting:
    """``ports.ArtifactWriting``."""

    def __init__(
        self, store: MemoryArtifactStore, owner: ZoneId, written: bytearray, kept_as: str | None
    ) -> None:
        self._store = store
        self._owner = owner
        self._written = written
        self._kept_as = kept_as
        self._resumed_bytes = len(written)
        self._has_ended = False

    @property
    def size(self) -> int:
        return len(self._written)

    async def write(self, piece: bytes | memoryview) -> None:
        if self._store.is_full:
            raise StoreFull("artifact store: the disk is full; nothing of this artifact shows")
        self._store.catalog.demand_room(self._owner, len(piece), self._store.quotas)
        self._store.catalog.reserve(self._owner, len(piece))
        self._written += piece

    async def finish(
        self, uri: ArtifactUri, *, media_type: str | None, expected: ArtifactReference | None
    ) -> ArtifactReference:
        content = bytes(self._written)
        found = ArtifactReference(uri, hashlib.sha256(content).hexdigest(), len(content), media_type)
        await self.abandon()
        if expected is not None and (found.sha256, found.size) != (expected.sha256, expected.size):
            self._store.set_aside[expected.sha256] = content
            raise ArtifactCorrupt(
                f"artifact {uri}: what came has sha-256 {found.sha256} and {found.size} bytes,"
                f" not {expected.sha256} and {expected.size}",
                uri=str(uri),
                sha256=found.sha256,
                size=found.size,
                expected_sha256=expected.sha256,
                expected_size=expected.size,
                resumed_bytes=self._resumed_bytes,
                set_aside=None,
            )
        reference = self._store.name(self._owner, found)
        self._store.objects[found.sha256] = content
        return reference

    async def keep(self) -> None:
        if self._has_ended:
            return
        if self._kept_as is None or not self._written or (self._owner, self._kept_as) in self._store.kept:
            await self.abandon()
            return
        self._store.kept[self._owner, self._kept_as] = self._written
        self._has_ended = True

    async def abandon(self) -> None:
        if not self._has_ended:
            self._store.catalog.reserve(self._owner, -len(self._written))
        self._has_ended = True
