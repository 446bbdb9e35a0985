"""What an operator can ask about artifacts of peers: fetch one now, list, retry (contract, section 6; runbook 7)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bsfg.config.values import Configuration, PeerConfig
from bsfg.daemon.retrievals import Entry, Retrievals
from bsfg.daemon.views import time_or_none
from bsfg.errors import BsfgError, Code
from bsfg.model.artifact import ArtifactState, ArtifactUri, parse_artifact_uri
from bsfg.model.moment import format_time
from bsfg.model.names import ZoneId, parse_zone, printable
from bsfg.model.wanted import Cause, WantedArtifact
from bsfg.ports import ArtifactStore, StoredArtifact

FETCH_SECONDS_MAX: Final = 570.0
ROWS_MAX: Final = 10_000

_CODES: Final = {
    Cause.MISSING: Code.ARTIFACT_NOT_FOUND,
    Cause.CORRUPT: Code.BAD_ANSWER,
    Cause.FORBIDDEN: Code.ARTIFACT_DENIED,
    Cause.NO_ROOM: Code.QUOTA_EXCEEDED,
    Cause.UNREACHABLE: Code.UNAVAILABLE,
    Cause.REFUSED: Code.BAD_ANSWER,
}


@dataclass
class RetrievalOperations:
    """``local_path`` is where the store has an artifact's bytes as a file, None where it has none."""

    retrievals: Retrievals
    store: ArtifactStore
    configuration: Callable[[], Configuration]
    refuse_unaskable: Callable[[ZoneId], None]
    """Raises where this peer is cut off by an operator, or is not dialled."""
    local_path: Callable[[StoredArtifact], Path | None]

    async def fetch(self, uri: str, peer: str | None) -> dict[str, Any]:
        """The artifact here and verified, fetched now if it is not; where it can't be had it stays on the list."""
        name = parse_artifact_uri(uri)
        source = self._source(name, peer)
        stored = await self.store.find(name)
        if stored is not None:
            return self._shown(stored)
        self.refuse_unaskable(source.id)
        entries = self.retrievals.of(source.id, name)
        if not entries:
            entries = [await self.retrievals.enter(WantedArtifact(source.id, name))]
        waited = [(entry, entry.attempts) for entry in entries]
        for entry in entries:
            await self.retrievals.retry(entry)
        await self._ended(waited)
        stored = await self.store.find(name)
        if stored is None:
            raise failure_of(entries[0])
        return self._shown(stored)

    async def listed(self, peer: str | None, state: str | None) -> dict[str, Any]:
        """What is wanted of a peer, or of all, and what of theirs is here: all states, or one."""
        zone = None if peer is None else self._known_peer(peer)
        wanted = None if state is None else _state(state)
        await self.retrievals.loaded()
        rows = [wanted_row(entry) for entry in self.retrievals.of(zone) if wanted in (None, entry.artifact.state)]
        if wanted in (None, ArtifactState.VERIFIED):
            for each in [zone] if zone else list(self.configuration().peers):
                async for stored in self.store.stored(each):
                    if len(rows) >= ROWS_MAX:
                        break
                    rows.append(_stored_row(each, stored))
        rows = rows[:ROWS_MAX]
        return {"artifacts": sorted(rows, key=lambda row: (row["peer"], row["uri"]))}

    async def retry(self, uri: str | None, peer: str | None) -> dict[str, Any]:
        """Try what is wanted now: one name, all of a peer, or all. What is here already needs no try."""
        name = None if uri is None else parse_artifact_uri(uri)
        zone = None if peer is None else self._known_peer(peer)
        await self.retrievals.loaded()
        entries = self.retrievals.of(zone, name)
        if name is not None and not entries and await self.store.find(name) is None:
            raise BsfgError(
                Code.ARTIFACT_NOT_FOUND,
                f"artifact {name} is not on the list of what is wanted",
                hint="bsfg artifact fetch puts it there",
            )
        for entry in entries:
            await self.retrievals.retry(entry)
        return {"retried": len(entries), "artifacts": [wanted_row(entry) for entry in entries]}

    async def content(self, uri: str) -> tuple[StoredArtifact, AsyncIterator[bytes]]:
        """The bytes of an artifact that is here."""
        name = parse_artifact_uri(uri)
        stored = await self.store.find(name)
        if stored is None:
            raise BsfgError(Code.ARTIFACT_NOT_FOUND, f"artifact {name} is not here")
        return stored, self.store.read(stored, 0, stored.reference.size)

    def _source(self, name: ArtifactUri, peer: str | None) -> PeerConfig:
        """The peer whose bucket it is; nobody else is asked (I40)."""
        configuration = self.configuration()
        if name.bucket == configuration.zone.artifacts.bucket:
            raise BsfgError(
                Code.INVALID_REQUEST,
                f"bucket {name.bucket} is this zone's own; there is nothing to fetch",
                hint="bsfg artifact list shows what lies in it",
            )
        owners = [each for each in configuration.peers.values() if each.artifact_bucket == name.bucket]
        if peer is not None:
            zone = self._known_peer(peer)
            owners = [each for each in owners if each.id == zone]
        if not owners:
            known = ", ".join(f"{each.artifact_bucket} of {each.id}" for each in configuration.peers.values())
            whose = "of no configured peer" if peer is None else f"not of peer {peer}"
            raise BsfgError(
                Code.INVALID_REQUEST,
                f"bucket {printable(name.bucket)} is the artifact_bucket {whose} (known: {known or 'none'})",
                hint="artifact_bucket in config/peers.yaml says whose bucket is whose",
            )
        return owners[0]

    def _known_peer(self, peer: str) -> ZoneId:
        zone = parse_zone(peer)
        peers: Mapping[ZoneId, PeerConfig] = self.configuration().peers
        if zone not in peers:
            raise BsfgError(
                Code.CONFIGURATION,
                f"no entry for peer {zone} in config/peers.yaml (peers there: {', '.join(peers) or 'none'})",
            )
        return zone

    async def _ended(self, waited: list[tuple[Entry, int]]) -> None:
        """Wait until each has had another attempt than these."""
        try:
            async with asyncio.timeout(FETCH_SECONDS_MAX):
                for entry, attempts in waited:
                    while entry.attempts == attempts:
                        await entry.changed.wait()
        except TimeoutError:
            raise BsfgError(
                Code.TIMED_OUT,
                f"artifact {waited[0][0].artifact.uri} was not here within {FETCH_SECONDS_MAX:.0f} s",
                hint="the transfer goes on; bsfg artifact list shows it",
            ) from None

    def _shown(self, stored: StoredArtifact) -> dict[str, Any]:
        path = self.local_path(stored)
        return {
            "uri": str(stored.reference.uri),
            "sha256": stored.reference.sha256,
            "size": stored.reference.size,
            "path": None if path is None else str(path),
        }


def row_of(artifact: WantedArtifact) -> dict[str, Any]:
    """One wanted artifact as ``bsfg artifact list`` prints it; what nobody knows is null."""
    return {
        "peer": artifact.peer,
        "uri": str(artifact.uri),
        "state": artifact.state.value,
        "cause": None if artifact.cause is None else artifact.cause.value,
        "problem": artifact.message or None,
        "sha256": artifact.sha256,
        "size": artifact.size,
        "received": None,
        "found_sha256": artifact.found_sha256,
        "references": artifact.references,
        "failures": artifact.failures,
        "next_retry": time_or_none(artifact.due_at),
        "wanted_since": time_or_none(artifact.wanted_at or None),
    }


def wanted_row(entry: Entry) -> dict[str, Any]:
    """With how much of it has come, while it is on its way."""
    row, progress = row_of(entry.artifact), entry.progress
    if progress is None or progress.size is None:
        return row
    return row | {"size": progress.size, "received": progress.kept_bytes + progress.bytes}


def _stored_row(peer: ZoneId, stored: StoredArtifact) -> dict[str, Any]:
    reference = stored.reference
    here = WantedArtifact(peer, reference.uri, reference.sha256, reference.size, due_at=None)
    return row_of(here) | {
        "state": ArtifactState.VERIFIED.value,
        "references": None,
        "stored_at": format_time(stored.stored_at),
    }


def failure_of(entry: Entry) -> BsfgError:
    """Why a fetched artifact is not here, and when it is tried again."""
    artifact, due = entry.artifact, time_or_none(entry.artifact.due_at)
    cause = artifact.cause or Cause.UNREACHABLE
    again = f"at {due}" if due else "when policy changes, or with bsfg artifact retry"
    digests = {"expected_sha256": artifact.sha256, "found_sha256": artifact.found_sha256}
    code = entry.error.code if entry.error is not None else _CODES[cause]
    return BsfgError(
        code,
        f"{code.label}: artifact {artifact.uri} of {artifact.peer}: {artifact.message or 'it is not here yet'}",
        hint=f"it is tried again {again}",
        uri=str(artifact.uri),
        state=artifact.state.value,
        cause=cause.value,
        next_retry=due,
        **(digests if artifact.found_sha256 else {}),
    )


def _state(text: str) -> ArtifactState:
    try:
        return ArtifactState(text)
    except ValueError:
        known = ", ".join(state.value for state in ArtifactState)
        raise BsfgError(Code.INVALID_REQUEST, f"{printable(text)} is no state of an artifact: {known}") from None
