"""The artifact store in a folder of the node, which is the default.

``objects/<2>/<sha256>`` holds bytes, ``names/<2>/<sha256 of the URI>`` the record of one name.
"""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Final

from bsfg.errors import BsfgError
from bsfg.model.names import ZoneId
from bsfg.ports import Clock
from bsfg.substrates.artifact_catalog import ArtifactQuotas
from bsfg.substrates.artifact_folder import ArtifactFolder, Names
from bsfg.substrates.artifact_records import RECORD_BYTES_MAX
from bsfg.substrates.artifact_staging import PARTIAL, StagedFile
from bsfg.substrates.staged_artifacts import Report, StagedArtifactStore

OBJECTS: Final = "objects"
NAMES: Final = "names"
PIECE_BYTES: Final = 1024 * 1024
ROWS_AT_ONCE: Final = 256


class FileArtifacts:
    """``ArtifactBackend`` below one folder."""

    def __init__(self, folder: ArtifactFolder) -> None:
        self._folder = folder

    async def read_name(self, name: str) -> bytes | None:
        return await asyncio.to_thread(self._read_name, name)

    def _read_name(self, name: str) -> bytes | None:
        try:
            return self._folder.read(_below(NAMES, name), RECORD_BYTES_MAX)
        except FileNotFoundError:
            return None

    async def create_name(self, name: str, record: bytes) -> bool:
        return await asyncio.to_thread(self._create_name, name, record)

    def _create_name(self, name: str, record: bytes) -> bool:
        draft: Names = (PARTIAL, f"new.{secrets.token_hex(16)}")
        file = StagedFile(self._folder, draft)
        try:
            file.append(record)
            file.sync()
        except BsfgError:
            file.remove()
            raise
        file.close()
        try:
            self._folder.publish(draft, _below(NAMES, name))
        except FileExistsError:
            return False
        return True

    async def remove_name(self, name: str) -> None:
        await asyncio.to_thread(self._folder.remove, _below(NAMES, name))

    async def names(self) -> AsyncIterator[tuple[str, bytes]]:
        async for name in self._listed(NAMES):
            record = await self.read_name(name)
            if record is not None:
                yield name, record

    async def object_size(self, sha256: str) -> int | None:
        return await asyncio.to_thread(self._folder.size, _below(OBJECTS, sha256))

    async def place(self, file: StagedFile, sha256: str) -> None:
        await asyncio.to_thread(self._folder.move, file.names, _below(OBJECTS, sha256))
        file.close()

    async def read_object(self, sha256: str, start: int, end: int) -> AsyncGenerator[bytes, None]:
        try:
            descriptor = await asyncio.to_thread(self._folder.open, _below(OBJECTS, sha256))
        except FileNotFoundError:
            return
        try:
            while start < end:
                piece = await asyncio.to_thread(os.pread, descriptor, min(PIECE_BYTES, end - start), start)
                if not piece:
                    return
                start += len(piece)
                yield piece
        finally:
            os.close(descriptor)

    async def remove_object(self, sha256: str) -> None:
        await asyncio.to_thread(self._folder.remove, _below(OBJECTS, sha256))

    async def leftovers(self) -> AsyncIterator[str]:
        """All: nobody else writes into this folder, and nothing is written before the start is over."""
        async for sha256 in self._listed(OBJECTS):
            yield sha256

    async def _listed(self, part: str) -> AsyncIterator[str]:
        """Names of plain files that lie where they belong, a few at a time, so that the loop goes on."""
        files: Iterator[tuple[Names, os.stat_result]] = self._folder.files((part,))
        while rows := await asyncio.to_thread(lambda: list(islice(files, ROWS_AT_ONCE))):
            for names, _ in rows:
                if names == _below(part, names[-1]):
                    yield names[-1]


def open_file_artifacts(
    path: Path, own_zone: ZoneId, quotas: Callable[[], ArtifactQuotas], clock: Clock, report: Report
) -> StagedArtifactStore:
    """The store in this folder, which is made if it is not there; not yet open."""
    folder = ArtifactFolder(path)
    return StagedArtifactStore(FileArtifacts(folder), folder, own_zone, quotas, clock, report)


def _below(part: str, digest: str) -> Names:
    return (part, digest[:2], digest)
