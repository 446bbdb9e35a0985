"""What the peer listener sees, as audit records, log lines and counters; a flood is counted and not written."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final
from weakref import WeakKeyDictionary

from structlog.typing import FilteringBoundLogger

from bsfg.daemon.audit import READ, AuditLog
from bsfg.daemon.journal import place_of
from bsfg.daemon.refusals import RefusalKey, Refusals
from bsfg.daemon.telemetry import Telemetry
from bsfg.errors import Code
from bsfg.model.names import StreamName, ZoneId, printable
from bsfg.model.policy import ReadArtifact, ReadStream

COUNT_SECONDS: Final = 5.0
"""How soon after its minute a count is said."""
_RULES: Final = {
    Code.STREAM_DENIED: "streams of the peer's entry in peers.yaml does not have it",
    Code.ARTIFACT_DENIED: "artifacts of the peer's entry in peers.yaml does not have its type",
}


@dataclass
class ListenerObserver:
    """The observer of the acceptor and of the peer listener."""

    journal: FilteringBoundLogger
    audit: AuditLog
    telemetry: Telemetry
    policy_version: Callable[[], str] = lambda: ""
    """Of the allow-list that is in force, for audit records of what is allowed."""
    monotonic: Callable[[], float] = time.monotonic
    _refusals: Refusals = field(default_factory=Refusals)
    _connections: Counter[tuple[ZoneId, ReadStream | ReadArtifact, str]] = field(default_factory=Counter)
    _allowed: WeakKeyDictionary[object, set[tuple[Any, str]]] = field(default_factory=WeakKeyDictionary)

    async def run(self) -> None:
        """Say what was only counted, soon after its minute; until cancelled."""
        while True:
            await asyncio.sleep(COUNT_SECONDS)
            self.tell_counts()

    def handshake_failed(self, address: str, reason: str, detail: str) -> None:
        self.telemetry.handshake_errors.labels(reason).inc()
        key = RefusalKey("handshake_failed", _host(address), reason)
        self._refusal(key, f"TLS handshake with {address} failed: {detail}", source=address)

    def identity_refused(self, address: str, reason: str, detail: str, request_id: str = "") -> None:
        self.telemetry.auth_failures.labels(reason).inc()
        key = RefusalKey("identity_refused", _host(address), reason)
        self._refusal(key, f"{address} was refused: {detail}", source=address, request_id=request_id)

    def denied(self, peer: ZoneId, code: Code, what: str, request_id: str = "") -> None:
        self.telemetry.denied.labels(code.label).inc()
        key = RefusalKey("request_denied", peer, f"{code.label} {what}")
        details = {"peer": peer, "rule": _RULES.get(code, code.label), "request_id": request_id}
        if code is Code.STREAM_DENIED:
            details["stream"] = what
        self._refusal(key, f"{peer} was denied {printable(what)}: {code.label}", source=peer, **details)

    def allowed(
        self, connection: object, peer: ZoneId, wish: ReadStream | ReadArtifact, rule: str, request_id: str
    ) -> None:
        """Record it the first time on this connection under this allow-list, never for each request."""
        version = self.policy_version()
        known = self._allowed.setdefault(connection, set())
        if (wish, version) in known:
            return
        # Who was allowed under an older list is of no use any more, so the set stays as small as the policy.
        known.intersection_update({entry for entry in known if entry[1] == version})
        known.add((wish, version))
        details = {"peer": peer, **_named(wish), "rule": rule, "policy": version, "request_id": request_id}
        self.audit.note(READ, "allowed", **details, connection=self._connection_number(peer, wish, version))

    def _connection_number(self, peer: ZoneId, wish: ReadStream | ReadArtifact, version: str) -> int:
        """Which connection this is, from 1, on which this peer reads this under this allow-list."""
        for entry in [entry for entry in self._connections if entry[2] != version]:
            del self._connections[entry]
        self._connections[peer, wish, version] += 1
        return self._connections[peer, wish, version]

    def contact(self, peer: ZoneId) -> None:
        """Nothing to note for a request that is allowed."""

    def served(self, peer: ZoneId, operation: str, seconds: float, status: int) -> None:
        self.telemetry.rpc_latency.labels(operation).observe(seconds)

    def confirmed(self, peer: ZoneId, stream: StreamName, sequence: int) -> None:
        """The confirm itself is durable state; nothing to add."""

    def failed_unexpectedly(
        self, peer: ZoneId | None, operation: str, request_id: str, error: BaseException
    ) -> None:
        self.journal.error(
            "request_failed",
            peer=peer,
            request_id=request_id,
            message=f"{operation} failed unexpectedly: {error!r}{place_of(error)}",
        )

    def tell_counts(self) -> None:
        """One line and one record for each source and reason of which more were refused than were told singly."""
        for key, count in self._refusals.ended(self.monotonic()):
            message = f"{count} more of {printable(key.source)} were refused: {printable(key.reason)}"
            self.journal.warning(
                key.event, source=key.source, reason=key.reason, message=message, count=count
            )
            self.audit.note(key.event, "denied", source=key.source, reason=key.reason, count=count)

    def _refusal(self, key: RefusalKey, message: str, *, source: str, **details: Any) -> None:
        if self._refusals.take(key, self.monotonic()) is None:
            return
        peer = details.get("peer")
        self.journal.warning(key.event, peer=peer, source=source, reason=key.reason, message=message)
        self.audit.note(key.event, "denied", source=source, reason=key.reason, detail=message, **details)


def _host(address: str) -> str:
    """An address without its port: a new connection is no new source."""
    return address.rpartition(":")[0] or address


def _named(wish: ReadStream | ReadArtifact) -> dict[str, str]:
    return {"stream": wish.stream} if isinstance(wish, ReadStream) else {"artifact_type": wish.artifact_type}
