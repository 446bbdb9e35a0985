"""An artifact that this zone wants from a peer: what is kept of it across restarts (design, decision 12)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from bsfg.model.artifact import ArtifactReference, ArtifactState, ArtifactUri
from bsfg.model.names import ZoneId

MESSAGE_LENGTH_MAX: Final = 300
KEY_LENGTH: Final = 32


class Cause(StrEnum):
    """Why a wanted artifact is not here yet; a new one is told once, not at every attempt."""

    MISSING = "missing"
    CORRUPT = "corrupt"
    FORBIDDEN = "forbidden"
    NO_ROOM = "no_room"
    UNREACHABLE = "unreachable"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class WantedArtifact:
    """One distinct artifact of one peer; however many facts name it, it is one entry.

    ``sha256`` and ``size`` are None where nobody has said yet what the bytes must be: one asked for by hand. Facts that
    disagree about the bytes under one name are entries of their own, for only one of them can come true.
    """

    peer: ZoneId
    uri: ArtifactUri
    sha256: str | None = None
    size: int | None = None
    media_type: str | None = None
    references: int = 0
    """Facts that name it, counted at least once each."""
    state: ArtifactState = ArtifactState.PENDING
    cause: Cause | None = None
    message: str = ""
    found_sha256: str | None = None
    """Of the bytes that came last and were not the ones that were named."""
    failures: int = 0
    """Definite answers so far that it was not; by their number the next pause is measured."""
    due_at: int | None = 0
    """When to try again, nanoseconds since 1970; None: not before policy changes or an operator retries."""
    wanted_at: int = 0
    told: tuple[Cause, ...] = ()
    """What people have been told of it."""

    @property
    def key(self) -> str:
        """Names this entry among its peer's: one name and one set of bytes."""
        text = f"{self.uri}\n{self.sha256 or ''}\n{'' if self.size is None else self.size}"
        return hashlib.sha256(text.encode()).hexdigest()[:KEY_LENGTH]

    @property
    def reference(self) -> ArtifactReference | None:
        """What the bytes must be; None while nobody has said."""
        if self.sha256 is None or self.size is None:
            return None
        return ArtifactReference(self.uri, self.sha256, self.size, self.media_type)


@dataclass(frozen=True, slots=True)
class ScanPosition:
    """How far the facts of one generation of an inbound stream were searched for references."""

    generation: int
    created: str
    """The stream's creation time, as the store spells it: of a stream made again nothing was searched."""
    local_sequence: int
