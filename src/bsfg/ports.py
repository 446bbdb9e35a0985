"""Everything that the outside provides, each method saying what is durable when it returns.

The sender's half of a zone needs an :class:`ExportedLog` and :class:`Confirmations`; the receiver's half needs an
:class:`InboundLog` and a :class:`PeerClient`. Adapters live in ``substrates`` and ``transport`` and raise only errors
of ``bsfg.errors``; the in-memory twin and the real ones pass the same suite in ``tests/contract``.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from bsfg.model.artifact import ArtifactReference, ArtifactUri
from bsfg.model.cursor import (
    Cursor,
    Fence,
    InitMode,
    LinkName,
    LinkRecord,
    LocalPosition,
    StreamMark,
)
from bsfg.model.digests import DigestAnswer, DigestCall
from bsfg.model.fact import Fact
from bsfg.model.names import StreamName, ZoneId
from bsfg.model.page import FetchRequest, LogDescription, LogSlice, Page, PageLimits
from bsfg.model.wanted import ScanPosition, WantedArtifact


class Clock(Protocol):
    """Time as a parameter, so that tests and the simulator can own it."""

    def now(self) -> int:
        """Wall-clock nanoseconds since 1970."""

    def monotonic(self) -> float:
        """Seconds that only grow; for deadlines and ages."""

    async def sleep(self, seconds: float) -> None: ...


class ExportedLog(Protocol):
    """The local streams as their readers see them. Nothing here changes a fact."""

    async def describe(self, stream: StreamName) -> LogDescription:
        """The log now, with its epoch. A new epoch is durable before it is returned.

        Raises ``NOT_FOUND`` for a stream that does not exist, ``SubstrateUnavailable`` when the store is away.
        """

    async def fact_at(self, stream: StreamName, sequence: int) -> Fact | None:
        """The fact with exactly this sequence; None if it has expired, was deleted or never was."""

    async def resolve_start(self, stream: StreamName, mode: InitMode, sender_now: int) -> int:
        """The sequence of the first fact that the mode wants, by stored times; last sequence + 1 if there is none."""

    async def read(self, stream: StreamName, after: int, limits: PageLimits) -> LogSlice:
        """Facts behind ``after`` in order, at least one if there is one, waiting for the first up to the limit.

        Cancelling a waiting read is safe at any moment.
        """


@dataclass(frozen=True, slots=True)
class Confirmed:
    """What a peer told us that it holds durably."""

    epoch: str
    sequence: int
    digest: str
    time: int
    """When we heard it, nanoseconds since 1970."""


class Confirmations(Protocol):
    """The sender's record of confirms: for backlog, views and agreement after retention, never for resumption."""

    async def load(self, peer: ZoneId, stream: StreamName) -> Confirmed | None: ...

    async def save(self, peer: ZoneId, stream: StreamName, confirmed: Confirmed) -> None:
        """Durable on return."""


class InboundLog(Protocol):
    """The inbound streams: one for each link and generation, written by this gateway alone."""

    async def provision(self, link: LinkName) -> None:
        """The link's inbound stream and its consumer exist; what existed is left as it is."""

    async def locate(self, link: LinkName) -> LocalPosition:
        """Fence and cursor by one read of the stream's end, and the link record beside them."""

    async def append(self, link: LinkName, fence: Fence, epoch: str, facts: Sequence[Fact]) -> Fence:
        """Append facts in order behind the fence; all are durable on return, and the fence behind them is returned.

        Raises ``Fenced`` if the stream is elsewhere, ``StoreFull`` or ``SubstrateUnavailable`` if nothing of what was
        not yet acknowledged was stored, ``OutcomeUnknown`` if that can't be said. After any of them a prefix of the
        facts may be stored: ``locate`` again before anything else.
        """

    async def save_record(self, link: LinkName, record: LinkRecord, revision: int | None = None) -> int:
        """The link record is durable on return, and its revision is returned.

        Raises ``Fenced`` if the stored record has another revision than this one; None stands for any.
        """


class InboundMarks(Protocol):
    """What can be told of every inbound stream by few questions."""

    async def marks(self) -> Mapping[LinkName, StreamMark]:
        """The mark of each link whose inbound stream has one generation, as it was at some moment during the call.

        A link without a mark has to be asked for by itself.
        """


class Quarantine(Protocol):
    """Where facts lie that the inbound stream can't take."""

    async def put(self, link: LinkName, epoch: str, fact: Fact) -> None:
        """The fact's bytes are durable on return; putting it again changes nothing.

        Raises ``QUOTA_EXCEEDED`` when there is no room for it, ``StoreFull`` when the disk has none.
        """


class PageSource(Protocol):
    """What a link needs of its peer; raises what :class:`PeerClient` raises."""

    async def fetch(self, request: FetchRequest) -> Page:
        """One page, already held against the request and the limits of the contract."""

    def pages(self, request: FetchRequest, count: int) -> AsyncGenerator[Page, None]:
        """Up to ``count`` pages of one answer as they arrive, at least one, each continuing the one before.

        Each is already held against the request and the limits of the contract. The answer is read no faster than
        pages are taken.
        """

    async def confirm(self, stream: StreamName, cursor: Cursor) -> int:
        """The peer knows that everything up to the cursor's fact is durable here; returns what it has confirmed."""


class PeerClient(PageSource, Protocol):
    """One peer's gateway over mutual TLS; its identity is verified before a byte is sent (I32).

    Raises ``PeerUnreachable`` when there is no answer, ``PeerRefused`` with the peer's code when it says no,
    ``BsfgError(IDENTITY_REJECTED)`` when the one who answers is not the peer, ``BsfgError(BAD_ANSWER)`` for an answer
    that breaks the contract.
    """

    async def health(self) -> dict[str, Any]: ...

    async def streams(self) -> list[dict[str, Any]]: ...

    async def notify(self, stream: StreamName, head: int) -> None:
        """The peer took our advice that our stream has reached this head; it may poll earlier, and nothing else."""

    async def view(self) -> dict[str, Any]:
        """How the peer sees us, by its own word, each value checked and bounded (contract, section 4)."""


class ArtifactClient(Protocol):
    """One peer's artifacts over mutual TLS, on connections of their own, so that no fact waits behind them (I41).

    Raises as :class:`PeerClient`; ``ArtifactCorrupt`` where the peer itself says that its bytes are others.
    """

    async def describe(self, uri: ArtifactUri) -> ArtifactReference:
        """What the peer has under this name, by its own word."""

    def pieces(self, reference: ArtifactReference, start: int) -> AsyncGenerator[bytes | memoryview, None]:
        """The bytes from ``start`` to the end, exactly as many as the reference says, in pieces of bounded size.

        They are read no faster than pieces are taken; whether they are the right ones is for the taker to verify.
        """


class WantedArtifacts(Protocol):
    """The zone's durable list of artifacts that it wants from peers, and how far facts were searched for them."""

    async def load(self) -> list[WantedArtifact]:
        """Every entry, in order of peer and key; what can't be read is reported and left out (I8)."""

    async def save(self, artifact: WantedArtifact) -> None:
        """The entry is durable on return; the one with the same peer and key is replaced."""

    async def remove(self, artifact: WantedArtifact) -> None:
        """The entry is gone on return, and leaves nothing behind."""

    async def position(self, link: LinkName) -> ScanPosition | None: ...

    async def save_position(self, link: LinkName, position: ScanPosition) -> None:
        """Durable on return; every artifact that the facts up to it name must be on the list before (I42)."""


class InboundFacts(Protocol):
    """The facts of an inbound stream for a reader inside the gateway; nothing is acknowledged or changed."""

    async def read(
        self, link: LinkName, generation: int, after: int, limits: PageLimits
    ) -> tuple[str, LogSlice]:
        """When the stream was created, as the store spells it, and the facts behind a local sequence.

        Sequences and times are the local stream's. Waits as ``ExportedLog.read``; ``NOT_FOUND`` where the link has no
        such stream.
        """


class DigestSource(Protocol):
    """A peer's gateway as ``bsfg verify`` asks it; raises what :class:`PeerClient` raises."""

    async def digests(self, call: DigestCall) -> DigestAnswer:
        """Digests of the first parts of a range, already held against the request."""

    async def streams(self) -> list[dict[str, Any]]: ...


@dataclass(frozen=True, slots=True)
class StoredArtifact:
    """An artifact that is wholly here and verified."""

    reference: ArtifactReference
    stored_at: int
    """Nanoseconds since 1970."""


class ArtifactWriting(Protocol):
    """Bytes of one artifact on their way into the store; invisible until :meth:`finish` (I39)."""

    @property
    def size(self) -> int:
        """Bytes written so far, those of an earlier attempt that is resumed included."""

    async def write(self, piece: bytes | memoryview) -> None:
        """Append these bytes, which nobody changes any more. Raises ``StoreFull`` when there is no room,
        ``QUOTA_EXCEEDED`` past the quota."""

    async def finish(
        self, uri: ArtifactUri, *, media_type: str | None, expected: ArtifactReference | None
    ) -> ArtifactReference:
        """The artifact is durable and visible under its URI on return.

        The same bytes under the same URI again are done; raises ``CONFLICTING_DUPLICATE`` for others, and
        ``ArtifactCorrupt`` with both digests where size or sha-256 are not those of ``expected``: the bytes are then
        set aside and nothing is visible.
        """

    async def keep(self) -> None:
        """End without finishing: what was written stays for a later attempt to resume."""

    async def abandon(self) -> None:
        """End without finishing: nothing of it stays."""


class ArtifactStore(Protocol):
    """Where artifacts lie, each by its sha-256, each name mapped to one digest; ``owner`` is the bucket's zone.

    Names and bytes are immutable once stored. Raises ``SubstrateUnavailable`` when the store is away.
    """

    async def begin(self, owner: ZoneId, *, resume: ArtifactReference | None = None) -> ArtifactWriting:
        """Start writing; with ``resume`` go on where an earlier attempt at this very artifact was kept.

        Raises ``QUOTA_EXCEEDED`` when the zone, or this owner, has no room left.
        """

    async def find(self, uri: ArtifactUri) -> StoredArtifact | None:
        """What is stored under this name, if anything."""

    async def has(self, sha256: str) -> bool:
        """Whether these bytes are here, verified, under whatever name."""

    async def link(self, owner: ZoneId, reference: ArtifactReference) -> None:
        """Give bytes that are here another name, durably; ``CONFLICTING_DUPLICATE`` if the name has other bytes."""

    def read(self, artifact: StoredArtifact, start: int, end: int) -> AsyncGenerator[bytes, None]:
        """The bytes from ``start`` up to and without ``end``, in bounded pieces; to be closed when left early."""

    def stored(self, owner: ZoneId | None = None) -> AsyncIterator[StoredArtifact]:
        """All names, of one owner or of all, in order."""

    async def remove(self, uri: ArtifactUri) -> None:
        """The name is gone, and its bytes once no other name has them."""

    async def bytes_used(self, owner: ZoneId | None = None) -> int:
        """Of one owner or of all; bytes with several names count once."""
