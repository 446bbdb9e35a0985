"""Artifacts on their way in: private files that are hashed while they are written, kept for a resumption, or set aside.

``partial/<owner>.<sha256>`` is an attempt at a known artifact, which a later one goes on with; ``partial/new.<token>``
has no name to be found by and ends with its process. ``set-aside/<sha256>`` holds bytes that were not what they were
to be, under the digest that was expected; the folder is bounded, and its oldest go first.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import secrets
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, BinaryIO, Final

from bsfg.errors import ArtifactCorrupt, BsfgError, Code, StoreFull, SubstrateUnavailable
from bsfg.model.artifact import SHA256_PATTERN, ArtifactReference, ArtifactUri
from bsfg.model.names import ZoneId
from bsfg.substrates.artifact_catalog import ArtifactCatalog, ArtifactQuotas
from bsfg.substrates.artifact_folder import ArtifactFolder, Names

PARTIAL: Final = "partial"
SET_ASIDE: Final = "set-aside"
SET_ASIDE_FILES_MAX: Final = 8
SET_ASIDE_BYTES_MAX: Final = 1024**3
PARTIAL_SECONDS_MAX: Final = 7 * 86_400
"""A half-written artifact that nobody went on with for so long is removed at the next start."""
BUFFER_BYTES: Final = 4 * 1024 * 1024
"""What is collected before it goes to a thread; with a quarter of it the thread waited a tenth of its time for more."""
CACHED_BYTES: Final = 256 * 1024
"""Written and hashed at once; a megabyte took half as much processor time again, most of it the kernel's copy."""
SYNC_BYTES: Final = 32 * 1024 * 1024
"""What is written is brought to the disk so often, so that the store beside it never waits for gigabytes. That goes on
beside the next as much, and no further."""

Commit = Callable[["StagedWriting", ArtifactReference], Awaitable[ArtifactReference]]


class StagedFile:
    """One private file and the sha-256 of what is in it. Called from threads; a call waits for the one before it."""

    def __init__(self, folder: ArtifactFolder, names: Names) -> None:
        """Opens the file, or makes it; what is there already is hashed."""
        self.names = names
        self._folder = folder
        self._lock = threading.Lock()
        self._digest = hashlib.sha256()
        self._descriptor: int | None = folder.open(names, os.O_RDWR | os.O_CREAT)
        self.size = 0
        while piece := os.pread(self._descriptor, CACHED_BYTES, self.size):
            self._digest.update(piece)
            self.size += len(piece)

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    @property
    def is_open(self) -> bool:
        return self._descriptor is not None

    def append(self, *parts: bytes | memoryview) -> None:
        """All of it is in the file, or none: ``StoreFull`` leaves it as it was."""
        with self._lock:
            descriptor, digest, size = self._opened(), self._digest.copy(), self.size
            try:
                for piece in _cached(parts):
                    _write_at(descriptor, piece, size)
                    digest.update(piece)
                    size += len(piece)
            except OSError as error:
                with suppress(OSError):
                    os.ftruncate(descriptor, self.size)
                raise _write_failed(error) from error
            self._digest, self.size = digest, size

    def write_back(self) -> None:
        """What was written before the call is on the disk; more may be written meanwhile."""
        with self._lock:
            descriptor = os.dup(self._opened())
        try:
            os.fdatasync(descriptor)
        except OSError as error:
            raise _write_failed(error) from error
        finally:
            os.close(descriptor)

    def sync(self) -> None:
        """What is written is on the disk."""
        with self._lock:
            try:
                os.fsync(self._opened())
            except OSError as error:
                raise _write_failed(error) from error

    @contextmanager
    def reader(self) -> Iterator[BinaryIO]:
        """The file from its beginning, for as long as the block lasts."""
        with os.fdopen(os.dup(self._opened()), "rb") as content:
            content.seek(0)
            yield content

    def close(self) -> None:
        with self._lock:
            if self._descriptor is not None:
                os.close(self._descriptor)
                self._descriptor = None

    def remove(self) -> None:
        self.close()
        self._folder.remove(self.names)

    def _opened(self) -> int:
        if self._descriptor is None:
            raise BsfgError(Code.INTERNAL, "this writing of an artifact has ended")
        return self._descriptor


class _OnItsWay:
    """One call in a thread at a time, beside everything else."""

    def __init__(self) -> None:
        self._task: asyncio.Task[None] | None = None

    def begin(self, call: Callable[..., None], *words: Any) -> None:
        """Only once what was begun before has ended."""
        self._task = asyncio.create_task(asyncio.to_thread(call, *words))

    async def ended(self) -> None:
        """Raises what went wrong with it, once. Who gives up waiting leaves that to the next."""
        task = self._task
        if task is not None:
            await asyncio.wait({task})
            self._task = None
            task.result()


class StagedWriting:
    """``ports.ArtifactWriting`` over a staged file; how it becomes visible is the store's own business."""

    def __init__(self, staging: ArtifactStaging, owner: ZoneId, file: StagedFile, commit: Commit) -> None:
        self.owner = owner
        self.file = file
        self._staging = staging
        self._commit = commit
        self._resumed_bytes = file.size
        self._pieces: list[bytes | memoryview] = []
        self._collected = 0
        self._appending = _OnItsWay()
        """What was collected before, into the file."""
        self._unsynced = 0
        self._syncing = _OnItsWay()
        """What was written before, to the disk."""
        self._reserved = file.size
        self._has_ended = False

    @property
    def size(self) -> int:
        return self._reserved

    async def write(self, piece: bytes | memoryview) -> None:
        self._staging.take_room(self.owner, len(piece))
        self._reserved += len(piece)
        self._pieces.append(piece)
        self._collected += len(piece)
        if self._collected >= BUFFER_BYTES:
            await self._append()

    async def finish(
        self, uri: ArtifactUri, *, media_type: str | None, expected: ArtifactReference | None
    ) -> ArtifactReference:
        await self._flush()
        found = ArtifactReference(uri, self.file.sha256, self.file.size, media_type)
        if expected is not None and (found.sha256, found.size) != (expected.sha256, expected.size):
            raise await self._refuse(found, expected)
        await asyncio.to_thread(self.file.sync)
        try:
            reference = await self._commit(self, found)
        except BsfgError as error:
            if error.code is Code.CONFLICTING_DUPLICATE:
                await self.abandon()
            elif not self.file.is_open:
                # The bytes lie in their place already, only the name is missing: nothing is left to go on with.
                self._end()
            raise
        self._end()
        return reference

    async def keep(self) -> None:
        if self._has_ended:
            return
        with suppress(BsfgError):
            await self._flush()
        if self.file.names[-1].startswith(_NEW) or not self.file.size:
            await self.abandon()
            return
        await asyncio.to_thread(self._sync_and_close)
        self._staging.give_room(self.owner, self._reserved - self.file.size)
        self._reserved = 0
        self._end()

    async def abandon(self) -> None:
        if self._has_ended:
            return
        self._pieces.clear()
        for work in (self._appending, self._syncing):
            with suppress(BsfgError):
                await work.ended()
        await asyncio.to_thread(self.file.remove)
        self._end()

    async def _flush(self) -> None:
        try:
            await self._append()
            await self._appending.ended()
        finally:
            await self._syncing.ended()

    async def _append(self) -> None:
        """What was collected is on its way into the file: it is hashed and written while the next comes."""
        await self._appending.ended()
        if self._unsynced >= SYNC_BYTES:
            await self._syncing.ended()
            self._unsynced = 0
            self._syncing.begin(self.file.write_back)
        pieces, self._pieces, self._collected = self._pieces, [], 0
        if pieces:
            self._unsynced += sum(map(len, pieces))
            self._appending.begin(self.file.append, *pieces)

    async def _refuse(self, found: ArtifactReference, expected: ArtifactReference) -> ArtifactCorrupt:
        kept = await asyncio.to_thread(self._staging.set_aside, self.file, expected.sha256)
        self._end()
        return ArtifactCorrupt(
            f"artifact {found.uri}: what came has sha-256 {found.sha256} and {found.size} bytes,"
            f" not {expected.sha256} and {expected.size}",
            uri=str(found.uri),
            sha256=found.sha256,
            size=found.size,
            expected_sha256=expected.sha256,
            expected_size=expected.size,
            resumed_bytes=self._resumed_bytes,
            set_aside=kept,
        )

    def _sync_and_close(self) -> None:
        with suppress(BsfgError):
            self.file.sync()
        self.file.close()

    def _end(self) -> None:
        self._has_ended = True
        self._staging.ended(self.owner, self.file, self._reserved)


_NEW: Final = "new."


class ArtifactStaging:
    """The folder of writings, and the room that they take."""

    def __init__(
        self, folder: ArtifactFolder, catalog: ArtifactCatalog, quotas: Callable[[], ArtifactQuotas]
    ) -> None:
        self._folder = folder
        self._catalog = catalog
        self._quotas = quotas
        self._in_use: set[Names] = set()

    def clean(self) -> list[tuple[ZoneId, int]]:
        """Remove what no attempt will go on with; whose bytes stay. For the start, before anything is written."""
        kept = []
        oldest = time.time() - PARTIAL_SECONDS_MAX
        for names, state in self._folder.files((PARTIAL,)):
            owner, _, sha256 = names[-1].rpartition(".")
            if names[-1].startswith(_NEW) or state.st_mtime < oldest or not SHA256_PATTERN.fullmatch(sha256):
                self._folder.remove(names)
            else:
                kept.append((ZoneId(owner), state.st_size))
        return kept

    async def begin(self, owner: ZoneId, resume: ArtifactReference | None, commit: Commit) -> StagedWriting:
        """A writing; with ``resume`` the kept one of this artifact, unless somebody is at it this moment."""
        names = (PARTIAL, f"{_NEW}{secrets.token_hex(16)}")
        if resume is not None and (known := (PARTIAL, f"{owner}.{resume.sha256}")) not in self._in_use:
            names = known
        self._in_use.add(names)
        try:
            file = await asyncio.to_thread(StagedFile, self._folder, names)
        except BaseException:
            self._in_use.discard(names)
            raise
        writing = StagedWriting(self, owner, file, commit)
        try:
            if resume is not None and file.size > resume.size:
                # More than it can be: nothing of it is worth going on with.
                await writing.abandon()
                return await self.begin(owner, resume, commit)
            left = max(1, resume.size - file.size) if resume is not None else 1
            self._catalog.demand_room(owner, left, self._quotas())
        except BsfgError:
            await writing.keep()
            raise
        return writing

    def take_room(self, owner: ZoneId, size: int) -> None:
        self._catalog.demand_room(owner, size, self._quotas())
        self._catalog.reserve(owner, size)

    def give_room(self, owner: ZoneId, size: int) -> None:
        self._catalog.reserve(owner, -size)

    def ended(self, owner: ZoneId, file: StagedFile, reserved: int) -> None:
        self.give_room(owner, reserved)
        self._in_use.discard(file.names)

    def set_aside(self, file: StagedFile, expected_sha256: str) -> str | None:
        """Keep wrong bytes where an operator finds them; the path, or None if there are too many of them."""
        file.close()
        target = (SET_ASIDE, expected_sha256)
        self._folder.move(file.names, target)
        kept = sorted(self._folder.files((SET_ASIDE,)), key=lambda row: row[1].st_mtime, reverse=True)
        total = 0
        for count, (names, state) in enumerate(kept, start=1):
            total += state.st_size
            if count > SET_ASIDE_FILES_MAX or total > SET_ASIDE_BYTES_MAX:
                self._folder.remove(names)
        return str(self._folder.path.joinpath(*target)) if self._folder.size(target) is not None else None


def _cached(parts: tuple[bytes | memoryview, ...]) -> Iterator[memoryview]:
    """The same bytes in pieces that stay in a processor's cache between two looks at them."""
    for part in parts:
        whole = memoryview(part)
        for start in range(0, len(whole), CACHED_BYTES):
            yield whole[start : start + CACHED_BYTES]


def _write_at(descriptor: int, content: memoryview, offset: int) -> None:
    while content:
        written = os.pwrite(descriptor, content, offset)
        content, offset = content[written:], offset + written


def _write_failed(error: OSError) -> BsfgError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreFull(
            "artifact store: the disk is full; nothing of this artifact shows",
            hint="free space, then try again",
        )
    return SubstrateUnavailable(f"artifact store: writing failed: {error.strerror}")
