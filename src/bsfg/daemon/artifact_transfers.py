"""One transfer of one artifact: from a peer into the store, resumed behind what an earlier one left (I39, I41).

The same bytes never move twice at once, under whatever names: the second transfer waits for the first, and then finds
them here.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

from bsfg.daemon import failpoints
from bsfg.daemon.scheduling import Throttle
from bsfg.errors import ArtifactCorrupt, BsfgError, Code
from bsfg.model.artifact import ArtifactReference
from bsfg.model.names import ZoneId
from bsfg.model.wanted import WantedArtifact
from bsfg.ports import ArtifactClient, ArtifactStore, ArtifactWriting, Clock

PROGRESS_BYTES: Final = 64 * 1024
"""A cut behind at least so many new bytes is no failure to make way."""


@dataclass
class Progress:
    """What has come so far of a transfer."""

    bytes: int = 0
    kept_bytes: int = 0
    """Of an earlier try."""
    size: int | None = None
    """Of the whole; None until it is known."""
    is_here: bool = False
    """Whether it was here already, so that nothing had to move."""

    @property
    def has_moved(self) -> bool:
        return self.bytes >= PROGRESS_BYTES


@dataclass
class ArtifactTransfers:
    """Brings artifacts here. ``rate_of`` is the most bytes a second that may come from one peer, None for no limit."""

    store: ArtifactStore
    client_of: Callable[[ZoneId], ArtifactClient]
    clock: Clock
    rate_of: Callable[[ZoneId], int | None]
    _throttles: dict[ZoneId, Throttle] = field(default_factory=dict)
    _turns: dict[str, asyncio.Lock] = field(default_factory=dict)
    """One for each sha-256 that is on its way, or about to be."""

    async def bring(self, artifact: WantedArtifact, progress: Progress) -> ArtifactReference:
        """The artifact is verified and visible under its name on return. What a failure leaves is kept for the next.

        Raises as ``ports.ArtifactClient`` and ``ports.ArtifactStore``; ``ArtifactCorrupt`` where other bytes than the
        ones that were named came, or stand under the name already.
        """
        if reference := await self._found(artifact):
            progress.is_here = True
            return reference
        wanted = artifact.reference or await self._described(artifact)
        async with self._turn(wanted.sha256):
            if await self.store.has(wanted.sha256):
                await self._link(artifact.peer, wanted)
                progress.is_here = True
                return wanted
            try:
                return await self._move(artifact.peer, wanted, progress)
            except ArtifactCorrupt as error:
                if not error.details.get("resumed_bytes"):
                    raise
                # What was kept may have suffered here, in a power cut: the whole is asked for before a peer is blamed.
                return await self._move(artifact.peer, wanted, progress)

    async def _found(self, artifact: WantedArtifact) -> ArtifactReference | None:
        stored = await self.store.find(artifact.uri)
        if stored is None:
            return None
        found = stored.reference
        if artifact.sha256 not in (None, found.sha256) or artifact.size not in (None, found.size):
            raise ArtifactCorrupt(
                f"other bytes are verified under {artifact.uri}: {found.size} bytes of sha-256 {found.sha256}, and"
                f" {artifact.size} bytes of {artifact.sha256} were named",
                expected_sha256=artifact.sha256,
                sha256=found.sha256,
            )
        return found

    async def _described(self, artifact: WantedArtifact) -> ArtifactReference:
        said = await self.client_of(artifact.peer).describe(artifact.uri)
        if artifact.sha256 not in (None, said.sha256) or artifact.size not in (None, said.size):
            raise ArtifactCorrupt(
                f"peer {artifact.peer} has {said.size} bytes of sha-256 {said.sha256} under {artifact.uri}, and others"
                " were named",
                expected_sha256=artifact.sha256,
                sha256=said.sha256,
            )
        return said

    async def _link(self, owner: ZoneId, reference: ArtifactReference) -> None:
        try:
            await self.store.link(owner, reference)
        except BsfgError as error:
            if error.code is not Code.ARTIFACT_NOT_FOUND:
                raise
            raise ArtifactCorrupt(
                f"the bytes of sha-256 {reference.sha256} are here, and are not the {reference.size} that were named",
                expected_sha256=reference.sha256,
                sha256=reference.sha256,
            ) from error

    async def _move(
        self, peer: ZoneId, reference: ArtifactReference, progress: Progress
    ) -> ArtifactReference:
        writing = await self.store.begin(peer, resume=reference)
        try:
            await self._copy(peer, reference, writing, progress)
            failpoints.passed("artifact.before")
            stored = await writing.finish(
                reference.uri, media_type=reference.media_type, expected=reference
            )
            failpoints.passed("artifact.after")
            return stored
        except BsfgError as error:
            is_useless = isinstance(error, ArtifactCorrupt) or error.code is Code.BAD_ANSWER
            await (writing.abandon() if is_useless else writing.keep())
            raise
        except BaseException:
            await writing.keep()
            raise

    async def _copy(
        self, peer: ZoneId, reference: ArtifactReference, writing: ArtifactWriting, progress: Progress
    ) -> None:
        throttle = self._throttles.setdefault(peer, Throttle())
        progress.kept_bytes, progress.size = writing.size, reference.size
        async with aclosing(self.client_of(peer).pieces(reference, writing.size)) as pieces:
            began = self.clock.monotonic()
            async for piece in pieces:
                await writing.write(piece)
                failpoints.passed("artifact.piece")
                progress.bytes += len(piece)
                throttle.bytes_per_second = self.rate_of(peer)
                throttle.charge(len(piece), began, self.clock.monotonic())
                if delay := throttle.delay(self.clock.monotonic()):
                    await self.clock.sleep(delay)

    @asynccontextmanager
    async def _turn(self, sha256: str) -> AsyncIterator[None]:
        lock = self._turns.setdefault(sha256, asyncio.Lock())
        try:
            async with lock:
                yield
        finally:
            if not lock.locked() and self._turns.get(sha256) is lock:
                del self._turns[sha256]
