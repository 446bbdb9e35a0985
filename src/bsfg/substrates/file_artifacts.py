"""``ports.ArtifactStore`` in a folder of the node: bytes by their sha-256, names by the sha-256 of their URI.

``objects/<2>/<sha256>`` holds bytes, ``names/<2>/<sha256 of the URI>`` the record of one name. A name is durable only
behind its bytes, so that a crash at any step leaves at most bytes without a name, which the next start removes.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final

from bsfg.errors import BsfgError, Code, SubstrateUnavailable
from bsfg.model.artifact import ArtifactReference, ArtifactUri
from bsfg.model.names import ZoneId
from bsfg.ports import Clock, StoredArtifact
from bsfg.substrates.artifact_catalog import (
    ArtifactCatalog,
    ArtifactQuotas,
    OwnedArtifact,
    name_digest,
    same_or_conflict,
)
from bsfg.substrates.artifact_folder import ArtifactFolder, Names
from bsfg.substrates.artifact_records import RECORD_BYTES_MAX, decode_record, encode_record
from bsfg.substrates.artifact_staging import PARTIAL, ArtifactStaging, StagedFile, StagedWriting

OBJECTS: Final = "objects"
NAMES: Final = "names"
PIECE_BYTES: Final = 256 * 1024
READY_SECONDS_MAX: Final = 20.0

Report = Callable[[str], None]


class FileArtifactStore:
    """The store; :meth:`open` before anything else, :meth:`close` at the end."""

    def __init__(
        self, path: Path, own_zone: ZoneId, quotas: Callable[[], ArtifactQuotas], clock: Clock, report: Report
    ) -> None:
        """``report`` takes a sentence about something in the folder that the store can't use."""
        self._folder = ArtifactFolder(path)
        self._quotas = quotas
        self._clock = clock
        self._report = report
        self._catalog = ArtifactCatalog(own_zone)
        self._staging = ArtifactStaging(self._folder, self._catalog, quotas)
        self._changes = asyncio.Lock()
        self._ready: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Begin to read what is there and to remove what a crash left; whoever needs it waits for it."""
        self._ready = asyncio.create_task(asyncio.to_thread(self._load), name="artifact store")

    async def close(self) -> None:
        if self._ready is not None:
            await asyncio.gather(self._ready, return_exceptions=True)
        self._folder.close()

    # ports.ArtifactStore

    async def begin(self, owner: ZoneId, *, resume: ArtifactReference | None = None) -> StagedWriting:
        await self._loaded()
        return await self._staging.begin(owner, resume, self._commit)

    async def find(self, uri: ArtifactUri) -> StoredArtifact | None:
        owned = await asyncio.to_thread(self._read_name, uri)
        if owned is None:
            return None
        reference = owned.stored.reference
        size = await asyncio.to_thread(self._folder.size, object_names(reference.sha256))
        if size == reference.size:
            return owned.stored
        found = "missing" if size is None else f"{size} instead of {reference.size}"
        self._report(f"artifact {uri}: its bytes are {found}")
        return None

    async def has(self, sha256: str) -> bool:
        return await asyncio.to_thread(self._folder.size, object_names(sha256)) is not None

    async def link(self, owner: ZoneId, reference: ArtifactReference) -> None:
        await self._loaded()
        async with self._changes:
            size = await asyncio.to_thread(self._folder.size, object_names(reference.sha256))
            if size != reference.size:
                raise BsfgError(
                    Code.ARTIFACT_NOT_FOUND,
                    f"artifact {reference.uri}: bytes {reference.sha256} are not here",
                )
            self._catalog.demand_room(owner, reference.size, self._quotas())
            await self._name(owner, reference)

    async def read(self, artifact: StoredArtifact, start: int, end: int) -> AsyncIterator[bytes]:
        try:
            descriptor = await asyncio.to_thread(self._folder.open, object_names(artifact.reference.sha256))
        except FileNotFoundError:
            raise _vanished(artifact) from None
        try:
            while start < end:
                piece = await asyncio.to_thread(os.pread, descriptor, min(PIECE_BYTES, end - start), start)
                if not piece:
                    raise _vanished(artifact)
                start += len(piece)
                yield piece
        finally:
            os.close(descriptor)

    async def stored(self, owner: ZoneId | None = None) -> AsyncIterator[StoredArtifact]:
        await self._loaded()
        for row in self._catalog.rows(owner):
            yield row

    async def remove(self, uri: ArtifactUri) -> None:
        await self._loaded()
        async with self._changes:
            owned = self._catalog.get(uri)
            if owned is None:
                return
            await asyncio.to_thread(self._folder.remove, _name_names(uri))
            if self._catalog.drop(uri):
                await asyncio.to_thread(self._folder.remove, object_names(owned.stored.reference.sha256))

    async def bytes_used(self, owner: ZoneId | None = None) -> int:
        await self._loaded()
        return self._catalog.used(owner)

    # Becoming visible.

    async def _commit(self, writing: StagedWriting, reference: ArtifactReference) -> ArtifactReference:
        async with self._changes:
            known = await asyncio.to_thread(self._read_name, reference.uri)
            if known is not None:
                same_or_conflict(known.stored, reference)
            await asyncio.to_thread(self._place, writing.file, reference)
            return await self._name(writing.owner, reference)

    def _place(self, file: StagedFile, reference: ArtifactReference) -> None:
        """The bytes lie under their digest, durably."""
        target = object_names(reference.sha256)
        if self._folder.size(target) == reference.size:
            file.remove()
            return
        self._folder.move(file.names, target)
        file.close()

    async def _name(self, owner: ZoneId, reference: ArtifactReference) -> ArtifactReference:
        owned = OwnedArtifact(owner, StoredArtifact(reference, self._clock.now()))
        known = await asyncio.to_thread(self._write_name, owned)
        self._catalog.add(known.owner, known.stored)
        return same_or_conflict(known.stored, reference)

    def _write_name(self, owned: OwnedArtifact) -> OwnedArtifact:
        """The record that is there now: this one, or the one that was."""
        target = _name_names(owned.stored.reference.uri)
        known = self._read_name(owned.stored.reference.uri)
        if known is not None:
            return known
        self._folder.remove(target)
        draft: Names = (PARTIAL, f"new.{secrets.token_hex(16)}")
        file = StagedFile(self._folder, draft)
        try:
            file.append(encode_record(owned))
            file.sync()
        except BsfgError:
            file.remove()
            raise
        file.close()
        self._folder.publish(draft, target)
        return owned

    def _read_name(self, uri: ArtifactUri) -> OwnedArtifact | None:
        """The record behind a name; None if there is none, or if it can't be read, which is reported."""
        return self._read_record(_name_names(uri), uri)

    def _read_record(self, names: Names, uri: ArtifactUri | None) -> OwnedArtifact | None:
        try:
            owned = decode_record(self._folder.read(names, RECORD_BYTES_MAX))
        except FileNotFoundError:
            return None
        except ValueError as error:
            self._report(f"artifact store: {'/'.join(names)} can't be read: {error}")
            return None
        found = owned.stored.reference.uri
        if names == _name_names(found) and uri in (None, found):
            return owned
        self._report(f"artifact store: {'/'.join(names)} is the record of another name")
        return None

    # The start.

    async def _loaded(self) -> None:
        assert self._ready is not None, "the store is not open"
        if self._ready.done() and self._ready.exception() is not None:
            self.open()
        try:
            async with asyncio.timeout(READY_SECONDS_MAX):
                await asyncio.shield(self._ready)
        except TimeoutError:
            raise SubstrateUnavailable(
                "the artifact store is still reading its names", hint="try again in a while"
            ) from None

    def _load(self) -> None:
        kept = self._staging.clean()
        found = [self._read_record(names, None) for names, _ in self._folder.files((NAMES,))]
        rows = [owned for owned in found if owned is not None]
        if len(rows) == len(found):
            # Behind a record that can't be read lie bytes that may still be wanted, so nothing is removed then.
            self._remove_nameless({owned.stored.reference.sha256 for owned in rows})
        for owned in rows:
            self._catalog.add(owned.owner, owned.stored)
        for owner, size in kept:
            self._catalog.reserve(owner, size)

    def _remove_nameless(self, named: set[str]) -> None:
        for names, _ in self._folder.files((OBJECTS,)):
            if names[-1] not in named:
                self._folder.remove(names)


def object_names(sha256: str) -> Names:
    """Where bytes lie below the store's folder."""
    return (OBJECTS, sha256[:2], sha256)


def _name_names(uri: ArtifactUri) -> Names:
    digest = name_digest(uri)
    return (NAMES, digest[:2], digest)


def _vanished(artifact: StoredArtifact) -> BsfgError:
    return SubstrateUnavailable(
        f"artifact {artifact.reference.uri}: its bytes are no longer whole in the store",
        hint="put it again under the same name, from the file that it came from",
    )
