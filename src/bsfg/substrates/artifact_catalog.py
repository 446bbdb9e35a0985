"""What an artifact store has, and who it belongs to: names, bytes and room, in memory and without I/O.

Every store keeps one beside its bytes, so that a quota is decided at once and the same way everywhere.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from bsfg.errors import BsfgError, Code
from bsfg.model.artifact import ArtifactReference, ArtifactUri
from bsfg.model.names import ZoneId
from bsfg.ports import StoredArtifact


@dataclass(frozen=True, slots=True)
class ArtifactQuotas:
    """How many bytes the zone's store may take as a whole, and of them each peer's artifacts."""

    zone_bytes: int
    per_peer_bytes: int


@dataclass(frozen=True, slots=True)
class OwnedArtifact:
    """A name in the catalog with the zone that its bytes are accounted to."""

    owner: ZoneId
    stored: StoredArtifact


class ArtifactCatalog:
    """Names and the bytes behind them. Bytes with several names of one owner count once for it."""

    def __init__(self, own_zone: ZoneId) -> None:
        self._own_zone = own_zone
        self._rows: dict[ArtifactUri, OwnedArtifact] = {}
        self._names: Counter[tuple[ZoneId | None, str]] = Counter()
        self._used: Counter[ZoneId | None] = Counter()
        self._reserved: Counter[ZoneId | None] = Counter()

    def get(self, uri: ArtifactUri) -> OwnedArtifact | None:
        return self._rows.get(uri)

    def add(self, owner: ZoneId, stored: StoredArtifact) -> None:
        """A name that is durable; one that is here already stays as it is."""
        reference = stored.reference
        if reference.uri in self._rows:
            return
        self._rows[reference.uri] = OwnedArtifact(owner, stored)
        for account in (owner, None):
            self._names[account, reference.sha256] += 1
            if self._names[account, reference.sha256] == 1:
                self._used[account] += reference.size

    def drop(self, uri: ArtifactUri) -> bool:
        """Forget a name; whether its bytes have no other."""
        row = self._rows.pop(uri, None)
        if row is None:
            return False
        reference = row.stored.reference
        for account in (row.owner, None):
            self._names[account, reference.sha256] -= 1
            if not self._names[account, reference.sha256]:
                del self._names[account, reference.sha256]
                self._used[account] -= reference.size
        return not self.has(reference.sha256)

    def has(self, sha256: str) -> bool:
        return (None, sha256) in self._names

    def rows(self, owner: ZoneId | None = None) -> Iterator[StoredArtifact]:
        """In the order of their names; a change meanwhile does not disturb it."""
        for uri in sorted(self._rows):
            row = self._rows.get(uri)
            if row is not None and owner in (None, row.owner):
                yield row.stored

    def used(self, owner: ZoneId | None = None) -> int:
        return self._used[owner]

    # Room: what is stored, and what is on its way or kept half-written.

    def demand_room(self, owner: ZoneId, size: int, quotas: ArtifactQuotas) -> None:
        """Raises ``QUOTA_EXCEEDED`` unless so many bytes more have room."""
        limits: list[tuple[ZoneId | None, int]] = [(None, quotas.zone_bytes)]
        if owner != self._own_zone:
            limits.append((owner, quotas.per_peer_bytes))
        for account, quota in limits:
            taken = self._used[account] + self._reserved[account]
            if taken + size > quota:
                raise _no_room(account, size, taken, quota)

    def reserve(self, owner: ZoneId, size: int) -> None:
        """Count bytes that are being written, or, negative, no longer are."""
        for account in (owner, None):
            self._reserved[account] += size


def same_or_conflict(stored: StoredArtifact, wanted: ArtifactReference) -> ArtifactReference:
    """What is stored under the name, if it is what was to be stored; else ``CONFLICTING_DUPLICATE``."""
    if stored.reference.sha256 == wanted.sha256:
        return stored.reference
    raise BsfgError(
        Code.CONFLICTING_DUPLICATE,
        f"artifact {wanted.uri} is stored with other bytes: sha-256 {stored.reference.sha256}, not {wanted.sha256}",
        hint="what is stored never changes; give the new bytes a key of their own",
        uri=str(wanted.uri),
        stored_sha256=stored.reference.sha256,
        sha256=wanted.sha256,
    )


def name_digest(uri: ArtifactUri) -> str:
    """Under which name a URI's record lies: any URI fits, and none leads anywhere else (I40)."""
    return hashlib.sha256(str(uri).encode()).hexdigest()


def _no_room(account: ZoneId | None, size: int, taken: int, quota: int) -> BsfgError:
    whose, key = (
        ("the zone's artifacts", "quota")
        if account is None
        else (f"artifacts of {account}", "quota_per_peer")
    )
    return BsfgError(
        Code.QUOTA_EXCEEDED,
        f"{whose} have no room for {size} bytes more: {taken} of {quota} are taken",
        hint=f"bsfg artifact gc --dry-run shows what no fact refers to; artifacts.{key} in zone.yaml is the limit",
        quota_bytes=quota,
        used_bytes=taken,
    )
