"""``ports.ArtifactStore`` over a backend that keeps bytes by their sha-256, and records by the name that they are for.

What comes in is staged on the node, hashed and checked, and only then placed: first the bytes, then their name, each
durable before the next, so that a crash at any step leaves at most bytes without a name, which a later start removes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import Final, Protocol

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
from bsfg.substrates.artifact_folder import ArtifactFolder
from bsfg.substrates.artifact_records import decode_record, encode_record
from bsfg.substrates.artifact_staging import ArtifactStaging, StagedFile, StagedWriting
from bsfg.tasks import end_tasks

READY_SECONDS_MAX: Final = 20.0

Report = Callable[[str], None]


class ArtifactBackend(Protocol):
    """Bytes and names, without any idea of what they mean. Whatever a method changed is durable on its return."""

    async def read_name(self, name: str) -> bytes | None:
        """The record behind a name; names and digests are 64 hexadecimal digits."""

    async def create_name(self, name: str, record: bytes) -> bool:
        """Whether the record is there now; False if the name was taken, and nothing has changed."""

    async def remove_name(self, name: str) -> None: ...

    def names(self) -> AsyncIterator[tuple[str, bytes]]:
        """Every name with its record."""

    async def object_size(self, sha256: str) -> int | None: ...

    async def place(self, file: StagedFile, sha256: str) -> None:
        """A staged file's bytes are stored under their digest; the file is closed or removed."""

    def read_object(self, sha256: str, start: int, end: int) -> AsyncGenerator[bytes, None]:
        """Ends early if there are no more bytes, or no such object."""

    async def remove_object(self, sha256: str) -> None: ...

    def leftovers(self) -> AsyncIterator[str]:
        """Digests of objects that may go if nothing names them."""


class StagedArtifactStore:
    """The store; :meth:`open` before anything else, :meth:`close` at the end."""

    def __init__(
        self,
        backend: ArtifactBackend,
        folder: ArtifactFolder,
        own_zone: ZoneId,
        quotas: Callable[[], ArtifactQuotas],
        clock: Clock,
        report: Report,
    ) -> None:
        """``report`` takes a sentence about something in the store that it can't use."""
        self._backend = backend
        self._folder = folder
        self._quotas = quotas
        self._clock = clock
        self._report = report
        self._catalog = ArtifactCatalog(own_zone)
        self._staging = ArtifactStaging(folder, self._catalog, quotas)
        self._changes = asyncio.Lock()
        self._ready: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Begin to read what is there and to remove what a crash left; whoever needs it waits for it."""
        self._ready = asyncio.create_task(self._load(), name="artifact store")

    async def close(self) -> None:
        if self._ready is not None:
            await end_tasks(self._ready)
        self._folder.close()

    # ports.ArtifactStore

    async def begin(self, owner: ZoneId, *, resume: ArtifactReference | None = None) -> StagedWriting:
        await self._loaded()
        return await self._staging.begin(owner, resume, self._commit)

    async def find(self, uri: ArtifactUri) -> StoredArtifact | None:
        owned = await self._named(uri)
        if owned is None:
            return None
        reference = owned.stored.reference
        size = await self._backend.object_size(reference.sha256)
        if size == reference.size:
            return owned.stored
        found = "missing" if size is None else f"{size} instead of {reference.size}"
        self._report(f"artifact {uri}: its bytes are {found}")
        return None

    async def has(self, sha256: str) -> bool:
        return await self._backend.object_size(sha256) is not None

    async def link(self, owner: ZoneId, reference: ArtifactReference) -> None:
        await self._loaded()
        async with self._changes:
            if await self._backend.object_size(reference.sha256) != reference.size:
                raise BsfgError(
                    Code.ARTIFACT_NOT_FOUND,
                    f"artifact {reference.uri}: bytes {reference.sha256} are not here",
                )
            self._catalog.demand_room(owner, reference.size, self._quotas())
            await self._name(owner, reference)

    async def read(self, artifact: StoredArtifact, start: int, end: int) -> AsyncGenerator[bytes, None]:
        async with aclosing(self._backend.read_object(artifact.reference.sha256, start, end)) as pieces:
            async for piece in pieces:
                start += len(piece)
                yield piece
        if start < end:
            raise SubstrateUnavailable(
                f"artifact {artifact.reference.uri}: its bytes are no longer whole in the store",
                hint="put it again under the same name, from the file that it came from",
            )

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
            await self._backend.remove_name(name_digest(uri))
            if self._catalog.drop(uri):
                await self._backend.remove_object(owned.stored.reference.sha256)

    async def bytes_used(self, owner: ZoneId | None = None) -> int:
        await self._loaded()
        return self._catalog.used(owner)

    # Becoming visible.

    async def _commit(self, writing: StagedWriting, reference: ArtifactReference) -> ArtifactReference:
        async with self._changes:
            known = await self._named(reference.uri)
            if known is not None:
                same_or_conflict(known.stored, reference)
            if await self._is_stored(reference):
                await asyncio.to_thread(writing.file.remove)
            else:
                await self._backend.place(writing.file, reference.sha256)
            return await self._name(writing.owner, reference)

    async def _is_stored(self, reference: ArtifactReference) -> bool:
        """Bytes that no name holds may be on their way out, so they don't count."""
        is_named = self._catalog.has(reference.sha256)
        return is_named and await self._backend.object_size(reference.sha256) == reference.size

    async def _name(self, owner: ZoneId, reference: ArtifactReference) -> ArtifactReference:
        owned = OwnedArtifact(owner, StoredArtifact(reference, self._clock.now()))
        name = name_digest(reference.uri)
        if not await self._backend.create_name(name, encode_record(owned)):
            known = await self._named(reference.uri)
            if known is None:
                # A record that can't be read holds nothing; it was reported, and this one takes its place.
                await self._backend.remove_name(name)
                await self._backend.create_name(name, encode_record(owned))
            else:
                owned = known
        self._catalog.add(owned.owner, owned.stored)
        return same_or_conflict(owned.stored, reference)

    async def _named(self, uri: ArtifactUri) -> OwnedArtifact | None:
        """The record behind a name; None if there is none, or if it can't be read, which is reported."""
        name = name_digest(uri)
        record = await self._backend.read_name(name)
        return None if record is None else self._decoded(name, record)

    def _decoded(self, name: str, record: bytes) -> OwnedArtifact | None:
        try:
            owned = decode_record(record)
        except ValueError as error:
            self._report(f"artifact store: the record {name} can't be read: {error}")
            return None
        if name == name_digest(owned.stored.reference.uri):
            return owned
        self._report(f"artifact store: the record {name} is another name's")
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

    async def _load(self) -> None:
        kept = await asyncio.to_thread(self._staging.clean)
        found = [self._decoded(name, record) async for name, record in self._backend.names()]
        rows = [owned for owned in found if owned is not None]
        if len(rows) == len(found):
            # Behind a record that can't be read lie bytes that may still be wanted, so nothing is removed then.
            named = {owned.stored.reference.sha256 for owned in rows}
            for sha256 in [each async for each in self._backend.leftovers() if each not in named]:
                await self._backend.remove_object(sha256)
        for owned in rows:
            self._catalog.add(owned.owner, owned.stored)
        for owner, size in kept:
            self._catalog.reserve(owner, size)
