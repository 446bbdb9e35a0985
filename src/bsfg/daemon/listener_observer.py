"""What the peer listener sees, as audit records, log lines and counters; a flood is counted and not written."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Final

from structlog.typing import FilteringBoundLogger

from bsfg.daemon.audit import AuditLog
from bsfg.daemon.journal import place_of
from bsfg.daemon.telemetry import Telemetry
from bsfg.errors import BsfgError, Code
from bsfg.model.names import StreamName, ZoneId, printable

LINES_PER_MINUTE: Final = 10
KEYS_MAX: Final = 1_000
MINUTE_SECONDS: Final = 60.0


@dataclass
class _Allowance:
    """How many lines a key has had in this minute, and how many it was denied."""

    began: float
    written: int = 0
    dropped: int = 0


@dataclass
class ListenerObserver:
    """The observer of the acceptor and of the peer listener."""

    journal: FilteringBoundLogger
    audit: AuditLog
    telemetry: Telemetry
    _allowances: dict[tuple[str, str], _Allowance] = field(default_factory=dict)

    def handshake_failed(self, address: str, reason: str, detail: str) -> None:
        self.telemetry.handshake_errors.labels(reason).inc()
        self._refusal("handshake_failed", address, reason, f"TLS handshake with {address} failed: {detail}")

    def identity_refused(self, address: str, reason: str, detail: str) -> None:
        self.telemetry.auth_failures.labels(reason).inc()
        self._refusal("identity_refused", address, reason, f"{address} was refused: {detail}")

    def denied(self, peer: ZoneId, code: Code, what: str) -> None:
        self.telemetry.denied.labels(code.label).inc()
        message = f"{peer} was denied {printable(what)}: {code.label}"
        self._refusal("request_denied", peer, f"{code.label} {what}", message, peer=peer)

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

    def _refusal(
        self, event: str, source: str, reason: str, message: str, peer: ZoneId | None = None
    ) -> None:
        dropped = self._take(source, reason)
        if dropped is None:
            return
        self.journal.warning(event, peer=peer, source=source, reason=reason, message=message, dropped=dropped)
        try:
            self.audit.record(event, "denied", source=source, reason=reason, detail=message, dropped=dropped)
        except BsfgError as error:
            self.journal.error("request_failed", message=error.message)

    def _take(self, source: str, reason: str) -> int | None:
        """Whether a line may be written: how many were dropped before it, or None if it may not."""
        key, now = (source.rpartition(":")[0] or source, reason), time.monotonic()
        if key not in self._allowances and len(self._allowances) >= KEYS_MAX:
            self._allowances.clear()
        allowance = self._allowances.setdefault(key, _Allowance(now))
        dropped = 0
        if now - allowance.began > MINUTE_SECONDS:
            dropped = allowance.dropped
            allowance = self._allowances[key] = _Allowance(now)
        if allowance.written >= LINES_PER_MINUTE:
            allowance.dropped += 1
            return None
        allowance.written += 1
        return dropped
