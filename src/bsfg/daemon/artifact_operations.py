"""What operators and local applications do with this zone's own artifacts: put, list, remove what nothing needs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

from bsfg.config.address import BadValue
from bsfg.config.scalars import parse_segment
from bsfg.config.values import Configuration, FileStore
from bsfg.daemon.audit import AuditLog
from bsfg.daemon.decisions import check_reason
from bsfg.daemon.retained_references import RetainedReferences
from bsfg.errors import BsfgError, Code
from bsfg.model.artifact import ArtifactReference, ArtifactUri, is_media_type, parse_artifact_uri
from bsfg.model.moment import NANOSECONDS, format_time
from bsfg.model.names import ZoneId, printable
from bsfg.ports import ArtifactStore, Clock, StoredArtifact

SILENCE_SECONDS_MAX: Final = 60.0
"""How long the bytes of a put may stop."""
ORPHAN_SECONDS: Final = 86_400
"""Younger artifacts may belong to a fact that is about to be appended."""
ROOM_SECONDS_MAX: Final = 1.0
LISTED_MAX: Final = 10_000
RECENT_MAX: Final = 100_000

Row = dict[str, Any]


@dataclass
class ArtifactOperations:
    """Put, list and gc; ``wanted`` tells of the artifacts that we want from a peer, by state."""

    store: ArtifactStore
    zone: ZoneId
    bucket: str
    references: RetainedReferences
    audit: AuditLog
    clock: Clock
    wanted: Callable[[str | None, str | None], Awaitable[Row]]
    _recent: dict[ArtifactUri, int] = field(default_factory=dict)
    """When a name was last put: its bytes may be older than the fact that is about to name them."""

    async def put(
        self, pieces: AsyncIterator[bytes], artifact_type: str, key: str, media_type: str | None
    ) -> Row:
        """Store the bytes as they come, in constant memory; durable and visible on return.

        The same bytes under the same key are what is there; others are ``conflicting_duplicate``.
        """
        uri = self._own_uri(artifact_type, key)
        if media_type is not None and not is_media_type(media_type):
            raise BsfgError(
                Code.INVALID_REQUEST, f"{printable(media_type)} is no media type", hint="for example text/csv"
            )
        self._note(uri)
        writing = await self.store.begin(self.zone)
        try:
            while piece := await _next(pieces, uri):
                await writing.write(piece)
            reference = await writing.finish(uri, media_type=media_type, expected=None)
        except BaseException:
            await asyncio.shield(writing.abandon())
            raise
        return described(reference)

    async def listed(self, peer: str | None, state: str | None) -> Row:
        """Our own artifacts and those of peers; with a peer or a state only what we want from peers."""
        answer = await self.wanted(peer, state)
        if peer is not None or state is not None:
            return answer
        rows: list[Row] = []
        async for stored in self.store.stored(self.zone):
            if len(rows) == LISTED_MAX:
                return answer | {"own": rows, "is_complete": False}
            rows.append(_stored_row(stored))
        return answer | {"own": rows, "is_complete": True}

    async def collect(self, *, dry_run: bool, reason: str | None, older_than_seconds: int | None) -> Row:
        """Which artifacts no retained fact refers to; without ``dry_run`` they are removed, audited before.

        The facts are searched first and whole: where one can't be read, nothing is removed.
        """
        if not dry_run:
            check_reason(reason or "")
        age = ORPHAN_SECONDS if older_than_seconds is None else older_than_seconds
        latest = self.clock.now() - age * NANOSECONDS
        candidates = [stored async for stored in self.store.stored() if self._touched(stored) <= latest]
        references = await self.references.all()
        orphans = [stored for stored in candidates if str(stored.reference.uri) not in references]
        answer = {
            "dry_run": dry_run,
            "orphans": [_stored_row(stored) for stored in orphans[:LISTED_MAX]],
            "count": len(orphans),
            "bytes": sum(stored.reference.size for stored in orphans),
            "older_than_seconds": age,
            "removed": 0,
        }
        if dry_run or not orphans:
            return answer
        self.audit.record(
            "artifact.gc",
            "allowed",
            reason=reason,
            count=len(orphans),
            bytes=answer["bytes"],
            older_than_seconds=age,
        )
        return answer | {"removed": await self._remove(orphans, latest)}

    async def _remove(self, orphans: list[StoredArtifact], latest: int) -> int:
        removed = 0
        for stored in orphans:
            reference = stored.reference
            if self._touched(stored) > latest:
                continue
            self.audit.record("artifact.remove", "allowed", uri=str(reference.uri), sha256=reference.sha256)
            await self.store.remove(reference.uri)
            removed += 1
        return removed

    def _touched(self, stored: StoredArtifact) -> int:
        return max(stored.stored_at, self._recent.get(stored.reference.uri, 0))

    def _note(self, uri: ArtifactUri) -> None:
        self._recent.pop(uri, None)
        self._recent[uri] = self.clock.now()
        while len(self._recent) > RECENT_MAX:
            del self._recent[next(iter(self._recent))]

    def _own_uri(self, artifact_type: str, key: str) -> ArtifactUri:
        try:
            parse_segment(artifact_type)
        except BadValue as error:
            raise BsfgError(Code.INVALID_URI, str(error), hint=error.hint) from None
        uri = parse_artifact_uri(f"s3://{self.bucket}/{artifact_type}/{key}")
        if (uri.bucket, uri.artifact_type, uri.key) != (self.bucket, artifact_type, key):
            raise BsfgError(
                Code.INVALID_URI, f"{printable(key)} is not a key", hint="give another one with --key"
            )
        return uri


async def artifact_room(store: ArtifactStore, configuration: Configuration) -> Row:
    """``{store, bucket, bytes_used, quota_bytes, peers: {PEER: bytes}, problem}``; null while it is not known."""
    config = configuration.zone.artifacts
    room: Row = {
        "store": str(config.store.path) if isinstance(config.store, FileStore) else config.store.endpoint,
        "bucket": config.bucket,
        "bytes_used": None,
        "quota_bytes": config.quota_bytes,
        "peers": {},
        "problem": None,
    }
    try:
        async with asyncio.timeout(ROOM_SECONDS_MAX):
            room["bytes_used"] = await store.bytes_used()
            room["peers"] = {peer: await store.bytes_used(peer) for peer in configuration.peers}
    except TimeoutError:
        room["problem"] = "the store does not answer in time"
    except BsfgError as error:
        room["problem"] = error.message
    return room


def described(reference: ArtifactReference) -> Row:
    """``{uri, sha256, size, media_type}``, as ``bsfg artifact put`` prints it."""
    return {
        "uri": str(reference.uri),
        "sha256": reference.sha256,
        "size": reference.size,
        "media_type": reference.media_type,
    }


def _stored_row(stored: StoredArtifact) -> Row:
    return described(stored.reference) | {"stored_at": format_time(stored.stored_at)}


async def _next(pieces: AsyncIterator[bytes], uri: ArtifactUri) -> bytes | None:
    """The next piece; None at the end."""
    try:
        async with asyncio.timeout(SILENCE_SECONDS_MAX):
            return await anext(pieces, None)
    except TimeoutError:
        raise BsfgError(
            Code.TIMED_OUT,
            f"artifact {uri}: nothing came for {SILENCE_SECONDS_MAX:.0f} s; nothing of it is stored",
            hint="put it again",
        ) from None
