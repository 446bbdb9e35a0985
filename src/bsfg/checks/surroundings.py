"""What the checks need from outside, as Protocols: the gateway's local API, certificates, and TLS to the peer.

Checks run in the process of the command; ``bsfg.cli.surroundings`` is the real thing (decision 0008 says why).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Protocol

from bsfg.model.identity import CertificateView


@dataclass(frozen=True, slots=True)
class Credentials:
    """A certificate with its key, as files."""

    certificate: Path
    key: Path


class Stranger(StrEnum):
    """Whom the peer has to refuse, each made for one request and thrown away (runbook 4.3)."""

    WRONG_CA = "wrong_ca"
    """Our identity, vouched for by an authority that nobody installed."""
    SELF_SIGNED = "self_signed"
    """Our identity, vouched for by itself."""
    EXPIRED = "expired"
    """Our identity, ended a day ago; from the authority that the peer trusts where a lab has its key."""
    UNLISTED = "unlisted"
    """An identity that nobody listed, from the authority that the peer trusts; only a lab can make one."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back of one request to the peer's listener."""

    status: int | None
    """None where the connection was cut instead of an answer."""
    code: str | None
    """The contract's code in an error answer."""
    body: Any
    cut: str | None
    """How the other side cut the connection: the TLS alert in words."""
    tls_version: str | None


@dataclass(frozen=True, slots=True)
class PresentedCertificate:
    """A certificate, and what the installed anchors say of it."""

    view: CertificateView
    tls_version: str
    chain_problem: str | None
    """Why it has no chain to the peer's anchor at a moment at which it is valid itself; None if it has one."""
    chain: tuple[str, ...]
    """sha-256 of each certificate that vouches for it, the anchor last; none without a chain."""
    is_authority: bool
    serves: bool
    """Its extended key usage allows what it is used for."""
    revoked: str | None
    """What the configured CRL says against it; None if nothing, or if there is no CRL."""
    ocsp: tuple[str, ...] = ()
    """Addresses of its OCSP responders."""


class Surroundings(Protocol):
    """Everything outside a check. All raise only ``BsfgError``."""

    def now(self) -> int:
        """Wall-clock nanoseconds since 1970."""

    def monotonic(self) -> float:
        """Seconds that only grow."""

    async def sleep(self, seconds: float) -> None: ...

    async def local(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        query: Mapping[str, Any] | None = None,
        seconds: float = 30.0,
    ) -> Any:
        """The local API's answer, as ``bsfg`` itself asks it; its errors are raised. ``path`` begins with ``/v1/``."""

    async def facts(self, stream: str, peer: str, start: int, count: int) -> list[dict[str, Any]]:
        """Facts of the inbound stream of a link from a local sequence on, as ``bsfg read`` prints them."""

    async def sha256(self, path: str) -> str:
        """Of a file's bytes, computed here."""

    async def metrics(self) -> str:
        """The text of this zone's ``/metrics``."""

    async def log_lines(self, start: int = 0) -> tuple[list[dict[str, Any]], int]:
        """The JSON lines of the gateway's log file behind a position in bytes, and the position behind them.

        ``configuration`` where zone.yaml names no log file.
        """

    async def own_certificate(self) -> PresentedCertificate:
        """What ``certs/server.crt`` says, held against ``certs/ca.crt``; ``tls_version`` is empty."""

    async def key_problem(self) -> str | None:
        """Why ``certs/server.key`` is not this certificate's private key, readable by its owner alone."""

    async def anchors(self, path: Path) -> tuple[str, ...]:
        """sha-256 of each CA certificate in a file; ``configuration`` where there is none, or anything else."""

    async def presented(self) -> PresentedCertificate:
        """The certificate of the peer's listener, once its chain and dates have been verified; whose it is, is not.

        ``identity_rejected`` with the reason in its details where they are not right (``expired``, ``not_yet_valid``,
        ``unknown_ca``, ...); ``unavailable`` where nobody answers with TLS.
        """

    async def request(
        self, path: str, body: Mapping[str, Any] | None = None, *, caller: Credentials | Stranger | None
    ) -> Reply:
        """One request to the peer's listener by this caller, None being one without a certificate.

        Raises ``unavailable`` where nobody listens or answers, which is no denial; ``not_found`` for a stranger that
        can't be made here.
        """

    async def ocsp(self, peer: bool) -> Mapping[str, Any]:
        """The responders' word on the peer's certificate, or on our own: ``{"status", "responder", "detail"}``.

        ``status`` is good, revoked or unknown; ``unavailable`` where none of them answers.
        """

    @property
    def own(self) -> Credentials:
        """This zone's certificate and key."""
