"""The durable list of wanted artifacts in the key-value bucket ``bsfg_artifacts``: of the zone, not of the node.

An entry that is removed is purged from the bucket, so the list never holds more than what is wanted now. A purge that a
power cut takes back costs a look at what is already here, and nothing else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Literal

import msgspec

from bsfg.errors import BsfgError
from bsfg.model.artifact import SHA256_PATTERN, ArtifactState, ArtifactUri, parse_artifact_uri
from bsfg.model.cursor import LinkName
from bsfg.model.names import ZONE_PATTERN, ZoneId, link_key
from bsfg.model.wanted import Cause, ScanPosition, WantedArtifact
from bsfg.substrates.control import Control
from bsfg.substrates.state_bucket import StateBucket

BUCKET_ARTIFACTS: Final = "bsfg_artifacts"
VERSION: Final = 1
READS_AT_ONCE: Final = 32
_WANTED: Final = "wanted."
_SCANNED: Final = "scanned."

Report = Callable[[str], None]


class _Entry(msgspec.Struct):
    """An entry as it is stored; the names are those of :class:`WantedArtifact`."""

    peer: str
    uri: str
    sha256: str | None
    size: int | None
    media_type: str | None
    references: int
    state: ArtifactState
    cause: Cause | None
    message: str
    found_sha256: str | None
    failures: int
    due_at: int | None
    wanted_at: int
    told: tuple[Cause, ...]


class _StoredEntry(msgspec.Struct):
    version: Literal[1]
    wanted: _Entry


class _StoredPosition(msgspec.Struct):
    version: Literal[1]
    position: ScanPosition


def encode_wanted(artifact: WantedArtifact) -> bytes:
    fields = {name: getattr(artifact, name) for name in _Entry.__struct_fields__}
    return msgspec.json.encode(_StoredEntry(VERSION, _Entry(**fields | {"uri": str(artifact.uri)})))


def decode_wanted(value: bytes) -> WantedArtifact:
    """The entry; ValueError or BsfgError say why the value is none that we can believe."""
    stored = msgspec.json.decode(value, type=_StoredEntry).wanted
    uri: ArtifactUri = parse_artifact_uri(stored.uri)
    if not ZONE_PATTERN.fullmatch(stored.peer):
        raise ValueError("a peer that is no zone")
    if stored.sha256 is not None and not SHA256_PATTERN.fullmatch(stored.sha256):
        raise ValueError("a digest that is none")
    if min(stored.size or 0, stored.failures, stored.references, stored.due_at or 0) < 0:
        raise ValueError("a negative number")
    fields = {name: getattr(stored, name) for name in _Entry.__struct_fields__}
    return WantedArtifact(**fields | {"uri": uri, "peer": ZoneId(stored.peer)})


class JetStreamWantedArtifacts:
    """``ports.WantedArtifacts``; ``report`` is told of what can't be read, which counts as not there (I8)."""

    def __init__(self, control: Control, *, replicas: int, report: Report) -> None:
        self._bucket = StateBucket(control, BUCKET_ARTIFACTS, replicas=replicas)
        self._report = report

    async def load(self) -> list[WantedArtifact]:
        """See ``ports.WantedArtifacts.load``."""
        keys = [key for key in await self._bucket.keys() if key.startswith(_WANTED)]
        found: list[WantedArtifact] = []
        for start in range(0, len(keys), READS_AT_ONCE):
            some = keys[start : start + READS_AT_ONCE]
            values = await asyncio.gather(*[self._bucket.get(key) for key in some])
            pairs = zip(some, values, strict=True)
            found += [entry for key, value in pairs if value and (entry := self._decoded(key, value))]
        return found

    async def save(self, artifact: WantedArtifact) -> None:
        """See ``ports.WantedArtifacts.save``."""
        await self._bucket.put(_key(artifact), encode_wanted(artifact))

    async def remove(self, artifact: WantedArtifact) -> None:
        """See ``ports.WantedArtifacts.remove``."""
        await self._bucket.erase(_key(artifact))

    async def position(self, link: LinkName) -> ScanPosition | None:
        value = await self._bucket.get(_position_key(link))
        if value is None:
            return None
        try:
            return msgspec.json.decode(value, type=_StoredPosition).position
        except ValueError as error:
            self._report(f"the position of {link} in {BUCKET_ARTIFACTS} can't be read: {error}")
            return None

    async def save_position(self, link: LinkName, position: ScanPosition) -> None:
        """See ``ports.WantedArtifacts.save_position``."""
        await self._bucket.put(_position_key(link), msgspec.json.encode(_StoredPosition(VERSION, position)))

    def _decoded(self, key: str, value: bytes) -> WantedArtifact | None:
        try:
            artifact = decode_wanted(value)
        except (ValueError, BsfgError) as error:
            self._report(f"wanted artifact {key!r} in {BUCKET_ARTIFACTS} can't be read: {error}")
            return None
        if _key(artifact) != key:
            self._report(f"wanted artifact {key!r} in {BUCKET_ARTIFACTS} is another one than its key says")
            return None
        return artifact


def _key(artifact: WantedArtifact) -> str:
    return f"{_WANTED}{artifact.peer}.{artifact.key}"


def _position_key(link: LinkName) -> str:
    return _SCANNED + link_key(link.peer, link.stream)
