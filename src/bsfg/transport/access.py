"""Who may do what right now: one snapshot, swapped whole, that every request is held against (I31, I34, I35).

The daemon swaps the snapshot when files, policies or partitions change. Whoever waits on a permission awaits the
change beside its work and asks again, so that a change acts at once on open connections and held long polls.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from bsfg.errors import BsfgError, Code
from bsfg.model.names import StreamName, ZoneId
from bsfg.model.policy import Denied, PeerPolicy, ReadArtifact, ReadStream, decide
from bsfg.ports import Clock
from bsfg.transport.trust import TrustStore

RETRY_PARTITIONED_SECONDS: Final = 5
"""Short, as an operator may end a partition early and catch-up starts within 10 s of that (I25)."""
RECHECK_SECONDS: Final = 2.0
"""Certificates and CRLs end without anybody changing anything, so whoever waits asks again this often (I34)."""


@dataclass(frozen=True, slots=True)
class AccessSnapshot:
    """Trust, policies and partitions that belong together."""

    generation: int
    trust: TrustStore
    policies: Mapping[ZoneId, PeerPolicy]
    partitions: Mapping[ZoneId, int | None] = field(default_factory=dict)
    """Peers cut off by an operator, each with its end in nanoseconds since 1970, or None until it is reconciled."""

    def is_partitioned(self, peer: ZoneId, now: int) -> bool:
        """Whether the peer is cut off at this moment."""
        if peer not in self.partitions:
            return False
        until = self.partitions[peer]
        return until is None or now < until

    def demand(self, peer: ZoneId, wish: ReadStream | ReadArtifact | None, now: int) -> str:
        """Raises ``partitioned`` or what :func:`decide` denies; the rule by which it is allowed at this moment."""
        verdict = decide(self.policies.get(peer), wish)
        if isinstance(verdict, Denied) and verdict.code is Code.PEER_UNKNOWN:
            raise peer_unknown()
        if self.is_partitioned(peer, now):
            raise partitioned(peer)
        if isinstance(verdict, Denied):
            raise stream_denied(wish.stream) if isinstance(wish, ReadStream) else artifact_denied()
        return verdict.rule


class Access:
    """The live snapshot. All methods belong to the event loop's thread."""

    def __init__(
        self,
        trust: TrustStore,
        policies: Mapping[ZoneId, PeerPolicy],
        partitions: Mapping[ZoneId, int | None] | None = None,
    ) -> None:
        self._current = AccessSnapshot(1, trust, dict(policies), dict(partitions or {}))
        self._changed = asyncio.Event()
        self._watchers: set[Callable[[], None]] = set()

    @property
    def current(self) -> AccessSnapshot:
        return self._current

    def swap(
        self,
        *,
        trust: TrustStore | None = None,
        policies: Mapping[ZoneId, PeerPolicy] | None = None,
        partitions: Mapping[ZoneId, int | None] | None = None,
    ) -> AccessSnapshot:
        """Put a new snapshot in force, keeping what is not given, and wake everybody who waits for a change."""
        before = self._current
        self._current = AccessSnapshot(
            before.generation + 1,
            before.trust if trust is None else trust,
            before.policies if policies is None else dict(policies),
            before.partitions if partitions is None else dict(partitions),
        )
        woken, self._changed = self._changed, asyncio.Event()
        woken.set()
        for watcher in tuple(self._watchers):
            watcher()
        return self._current

    def watch(self, watcher: Callable[[], None]) -> None:
        """The watcher is called at each change from now on, and must not block."""
        self._watchers.add(watcher)

    def unwatch(self, watcher: Callable[[], None]) -> None:
        """The end of :meth:`watch`."""
        self._watchers.discard(watcher)

    async def changed_since(self, generation: int) -> AccessSnapshot:
        """Returns as soon as the snapshot in force is another one than this generation."""
        while self._current.generation == generation:
            await self._changed.wait()
        return self._current


class PeerCaller:
    """Whoever is behind one request, held against the snapshot in force each time that something is demanded."""

    def __init__(self, access: Access, clock: Clock, certificate: bytes) -> None:
        """Raises what :meth:`demand` raises when the certificate is no authorized peer's, now."""
        self._access = access
        self._clock = clock
        self._certificate = certificate
        self._generation = access.current.generation
        self._peer = access.current.trust.verify_caller(certificate, clock.now()).zone
        self.allowed: dict[ReadStream | ReadArtifact, str] = {}
        """What this request was allowed to read, each with its rule: for the audit."""

    @property
    def peer(self) -> ZoneId:
        return self._peer

    @property
    def streams(self) -> frozenset[StreamName]:
        """The streams that the caller may read now."""
        policy = self._access.current.policies.get(self._peer)
        return policy.streams if policy is not None else frozenset()

    def demand(self, wish: ReadStream | ReadArtifact | None) -> None:
        """Raises ``identity_rejected``, ``peer_unknown``, ``partitioned`` or a denial unless this is allowed now."""
        snapshot, now = self._access.current, self._clock.now()
        self._generation = snapshot.generation
        if snapshot.trust.verify_caller(self._certificate, now).zone != self._peer:
            raise peer_unknown("identity_moved")
        rule = snapshot.demand(self._peer, wish, now)
        if wish is not None:
            self.allowed[wish] = rule

    async def changed(self) -> None:
        """Returns once the access may no longer be the one that the last demand saw, and at the latest after
        ``RECHECK_SECONDS``."""
        with suppress(TimeoutError):
            async with asyncio.timeout(RECHECK_SECONDS):
                await self._access.changed_since(self._generation)


def stream_denied(stream: StreamName) -> BsfgError:
    """One error for a stream that the peer may not read and for one that does not exist (I31)."""
    return BsfgError(
        Code.STREAM_DENIED,
        f"stream {stream} is not available to this peer",
        hint="GET /v1/streams lists what is; the other zone's peers.yaml decides",
        stream=stream,
    )


def artifact_denied() -> BsfgError:
    """One error for every artifact outside the allowed types, present or not (I31)."""
    return BsfgError(Code.ARTIFACT_DENIED, "this artifact is not available to this peer")


def peer_unknown(reason: str = "not_authorized") -> BsfgError:
    """No peer that is served has this identity; the reason is for us alone."""
    return BsfgError(
        Code.PEER_UNKNOWN,
        "no authorized peer has this identity here",
        hint="the other zone's peers.yaml decides; its entry needs authorized: true",
        reason=reason,
    )


def partitioned(peer: ZoneId) -> BsfgError:
    """An operator cut this peer off, in both directions."""
    return BsfgError(
        Code.PARTITIONED,
        f"peer {peer} is partitioned by an operator",
        hint="it ends by itself or by 'bsfg admin reconcile'",
        retry_after_seconds=RETRY_PARTITIONED_SECONDS,
    )
