"""What the rest of the gateway learns from the peer listener; called in the loop, must neither block nor raise."""

from __future__ import annotations

from typing import Protocol

from bsfg.errors import Code
from bsfg.model.names import StreamName, ZoneId
from bsfg.model.policy import ReadArtifact, ReadStream


class TransportObserver(Protocol):
    """Every decision and every answer of the listener, for audit, log and metrics."""

    def identity_refused(self, address: str, reason: str, detail: str, request_id: str = "") -> None:
        """A certificate that passed the handshake is no peer's, or no longer; ``reason`` is short and stable."""

    def denied(self, peer: ZoneId, code: Code, what: str, request_id: str = "") -> None:
        """A verified peer was refused something; ``what`` is the stream or the operation."""

    def allowed(
        self, connection: object, peer: ZoneId, wish: ReadStream | ReadArtifact, rule: str, request_id: str
    ) -> None:
        """A request was allowed to read this, by this rule; told again for each request of a connection."""

    def contact(self, peer: ZoneId) -> None:
        """A verified and authorized peer asked for anything at all."""

    def served(self, peer: ZoneId, operation: str, seconds: float, status: int) -> None:
        """A request of a verified peer was answered with this HTTP status."""

    def confirmed(self, peer: ZoneId, stream: StreamName, sequence: int) -> None:
        """A peer holds everything up to here durably."""

    def failed_unexpectedly(
        self, peer: ZoneId | None, operation: str, request_id: str, error: BaseException
    ) -> None:
        """A fault of ours; the peer was told ``internal`` and the request's id, nothing else."""
