"""TLS contexts whose handshakes verify and explain: TLS 1.3 only, no tickets, no early data (design, decision 8).

Nothing here reads the environment: neither key logs nor the system's trust store can come in by it.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Any, Final

from bsfg.errors import BsfgError

Verify = Callable[[bytes], None]
"""Raises ``BsfgError`` unless this DER certificate is the one that was to be reached."""

TIMEOUT: Final = "timeout"
OTHER: Final = "other"
REASONS: Final = (
    "no_certificate",
    "unknown_ca",
    "self_signed",
    "expired",
    "not_yet_valid",
    "revoked",
    "wrong_purpose",
    "identity_rejected",
    "refused_by_peer",
    "protocol_version",
    "bad_protocol",
    TIMEOUT,
    "reset",
    "too_many",
    "out_of_descriptors",
    OTHER,
)
"""Every reason that a handshake can fail for here: the values of a metric's label."""

_BY_VERIFY_CODE: Final = {
    2: "unknown_ca",
    20: "unknown_ca",
    21: "unknown_ca",
    19: "unknown_ca",
    18: "self_signed",
    9: "not_yet_valid",
    10: "expired",
    23: "revoked",
    26: "wrong_purpose",
}
_BY_LIBRARY_REASON: Final = {
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "no_certificate",
    "UNSUPPORTED_PROTOCOL": "protocol_version",
    "VERSION_TOO_LOW": "protocol_version",
    "NO_PROTOCOLS_AVAILABLE": "protocol_version",
    "TLSV1_ALERT_PROTOCOL_VERSION": "protocol_version",
    "WRONG_VERSION_NUMBER": "bad_protocol",
    "HTTP_REQUEST": "bad_protocol",
    "HTTPS_PROXY_REQUEST": "bad_protocol",
    "UNEXPECTED_MESSAGE": "bad_protocol",
    "RECORD_LAYER_FAILURE": "bad_protocol",
    "PACKET_LENGTH_TOO_LONG": "bad_protocol",
    "BAD_PACKET_LENGTH": "bad_protocol",
}


class HandshakeRefused(ssl.SSLError):
    """The listener's side of a handshake failed; ``alert`` are the bytes that tell the other side why."""

    def __init__(self, cause: ssl.SSLError, alert: bytes) -> None:
        super().__init__(*cause.args)
        self.cause = cause
        self.alert = alert


class PeerNotVerified(ssl.SSLCertVerificationError):
    """The certificate chains to an anchor but is not the peer's that was dialled; ``refusal`` says why."""

    def __init__(self, refusal: BsfgError) -> None:
        super().__init__(1, refusal.message)
        self.verify_code = 1
        self.verify_message = refusal.message
        self.refusal = refusal


class _ExplainingObject(ssl.SSLObject):
    """Hands the alert of a failed handshake to whoever catches the error; asyncio would drop it unsent."""

    outgoing: ssl.MemoryBIO

    def do_handshake(self) -> None:
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError, ssl.SSLSyscallError):
            raise
        except ssl.SSLError as error:
            raise HandshakeRefused(error, self.outgoing.read()) from error


class ListenerContext(ssl.SSLContext):
    """A server context that requires a client certificate and lets its handshakes explain themselves."""

    sslobject_class = _ExplainingObject

    def wrap_bio(
        self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, *rest: Any, **named: Any
    ) -> ssl.SSLObject:
        wrapped = super().wrap_bio(incoming, outgoing, *rest, **named)
        if isinstance(wrapped, _ExplainingObject):
            wrapped.outgoing = outgoing
        return wrapped


def listener_context() -> ssl.SSLContext:
    """A server context without certificates yet: TLS 1.3, a client certificate required, no session tickets.

    A ticket would let a peer come back after its certificate was revoked (measured).
    """
    context = ListenerContext(ssl.PROTOCOL_TLS_SERVER)
    context.num_tickets = 0
    _restrict(context)
    return context


def dialler_context(verify: Verify) -> ssl.SSLContext:
    """A client context without certificates yet. ``verify`` runs inside the handshake: if it raises, not a byte of a
    request and no certificate of ours has left, and the caller sees ``PeerNotVerified``."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # The identity is a SAN entry of any type and never the address, so the library's own host name check can't serve.
    context.check_hostname = False
    context.hostname_checks_common_name = False
    context.sslobject_class = _verifying_object(verify)
    context.sslsocket_class = _verifying_socket(verify)
    _restrict(context)
    return context


def _restrict(context: ssl.SSLContext) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    # An intermediate among the anchors is an anchor, as it is for the chain that is built after the handshake.
    context.verify_flags = (
        ssl.VerifyFlags.VERIFY_X509_TRUSTED_FIRST | ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN
    )


def _verifying_object(verify: Verify) -> type[ssl.SSLObject]:
    class VerifyingObject(ssl.SSLObject):
        def do_handshake(self) -> None:
            super().do_handshake()
            _verify(verify, self.getpeercert(binary_form=True))

    return VerifyingObject


def _verifying_socket(verify: Verify) -> type[ssl.SSLSocket]:
    class VerifyingSocket(ssl.SSLSocket):
        def do_handshake(self, block: bool = False) -> None:
            super().do_handshake(block)
            _verify(verify, self.getpeercert(binary_form=True))

    return VerifyingSocket


def _verify(verify: Verify, certificate: bytes | None) -> None:
    try:
        verify(certificate or b"")
    except BsfgError as refusal:
        raise PeerNotVerified(refusal) from refusal


def reason_of(error: BaseException) -> str:
    """The short stable reason, one of ``REASONS``, for a handshake that failed with this error, on either side."""
    if isinstance(error, HandshakeRefused):
        return reason_of(error.cause)
    if isinstance(error, PeerNotVerified):
        reason = str(error.refusal.details.get("reason", ""))
        return reason if reason in REASONS else "identity_rejected"
    if isinstance(error, ssl.SSLCertVerificationError):
        return _BY_VERIFY_CODE.get(error.verify_code, OTHER)
    if isinstance(error, ssl.SSLError):
        return _reason_of_library(error)
    if isinstance(error, TimeoutError):
        return TIMEOUT
    if isinstance(error, ConnectionAbortedError) and "taking longer than" in str(error):
        return TIMEOUT
    return "reset" if isinstance(error, ConnectionError) else OTHER


def _reason_of_library(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return "reset"
    name = error.reason or ""
    if name in _BY_LIBRARY_REASON:
        return _BY_LIBRARY_REASON[name]
    # An alert that arrived: it is the other side that refused, and its name says what it did not like.
    return "refused_by_peer" if "_ALERT_" in name else OTHER


def detail_of(error: BaseException) -> str:
    """One line for people: what the library or our own verification said."""
    if isinstance(error, HandshakeRefused):
        return detail_of(error.cause)
    if isinstance(error, PeerNotVerified):
        return error.refusal.message
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.lower().replace("_", " ")
    text = str(error).splitlines()
    return text[0] if text else type(error).__name__
