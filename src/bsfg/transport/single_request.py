"""One look at a listener, and one request by whatever certificate, as ``openssl s_client`` and ``curl`` make them.

For checks that have to see who is refused and why (runbook 3.2, 4.3, 6.1): everything here blocks, is bounded in time
and bytes, and keeps no connection.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.serialization import Encoding

from bsfg.errors import BsfgError, Code, PeerUnreachable
from bsfg.model.names import printable
from bsfg.transport.certificates import Anchors
from bsfg.transport.handshake import PeerNotVerified, detail_of, dialler_context, reason_of

DEADLINE_SECONDS: Final = 10.0
CONNECT_SECONDS: Final = 3.0
ANSWER_BYTES_MAX: Final = 4 * 1024 * 1024
_PIECE_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Listener:
    """A peer's listener: where it is, and under which name it is asked for."""

    host: str
    port: int
    server_name: str | None

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class SingleReply:
    """What came back: an answer, or how the other side cut the connection instead."""

    status: int | None
    body: Any
    cut: str | None
    tls_version: str | None

    @property
    def code(self) -> str | None:
        """The contract's code in an error answer."""
        error = self.body.get("error") if isinstance(self.body, dict) else None
        code = error.get("code") if isinstance(error, dict) else None
        return code if isinstance(code, str) and len(code) <= 64 and code.isprintable() else None


def shown_certificate(
    listener: Listener, anchors: Anchors | None, credentials: tuple[Path, Path] | None
) -> tuple[bytes, str]:
    """The certificate that the listener shows, as DER, and the TLS version; no request is sent.

    The handshake verifies its chain and dates as every other: ``identity_rejected`` with the reason in its details
    where it is refused. Whose certificate it is, is the caller's to judge. ``unavailable`` where nobody answers with
    TLS. Our own credentials are shown where there are any, so that the listener has no reason to complain.
    """
    context = _context(anchors, lambda der: None, credentials)
    try:
        with _connected(listener) as plain, context.wrap_socket(plain, server_hostname=listener.server_name) as secured:
            shown, version = secured.getpeercert(binary_form=True), secured.version()
    except ssl.SSLCertVerificationError as error:
        raise _not_the_peer(listener, error) from error
    except (ssl.SSLError, OSError) as error:
        raise _unreachable(listener, error) from error
    if not shown or not version:
        raise PeerUnreachable(f"{listener} shows no certificate", reason="tls")
    return shown, version


def send(
    listener: Listener,
    anchors: Anchors,
    verify: Callable[[bytes], None],
    credentials: tuple[Path, Path] | None,
    path: str,
    body: Mapping[str, Any] | None = None,
) -> SingleReply:
    """One request under TLS 1.3 with these credentials (certificate and key), or without any; a body makes it a POST.

    ``verify`` raises unless the listener's certificate is the peer's: ``identity_rejected`` then, before a byte is
    sent. ``unavailable`` where nobody listens or answers in time, which is no denial.
    """
    context = _context(anchors, verify, credentials)
    with _connected(listener) as plain:
        return _exchange(plain, context, listener, path, body)


def _context(
    anchors: Anchors | None, verify: Callable[[bytes], None], credentials: tuple[Path, Path] | None
) -> ssl.SSLContext:
    """Without anchors it trusts nobody."""
    context = dialler_context(verify)
    if anchors is not None:
        ders = (certificate.public_bytes(Encoding.DER) for certificate in anchors.certificates)
        context.load_verify_locations(cadata=b"".join(ders))
    if credentials is not None:
        context.load_cert_chain(*credentials)
    return context


def _connected(listener: Listener) -> socket.socket:
    try:
        plain = socket.create_connection((listener.host, listener.port), CONNECT_SECONDS)
    except OSError as error:
        raise _unreachable(listener, error) from error
    plain.settimeout(DEADLINE_SECONDS)
    return plain


def _exchange(
    plain: socket.socket, context: ssl.SSLContext, listener: Listener, path: str, body: Mapping[str, Any] | None
) -> SingleReply:
    version = None
    try:
        # The listener judges our certificate only after our side of the handshake has ended: its refusal comes
        # while the answer is read.
        with context.wrap_socket(plain, server_hostname=listener.server_name) as secured:
            version = secured.version()
            secured.sendall(_request(listener, path, body))
            response = http.client.HTTPResponse(secured)
            response.begin()
            return SingleReply(response.status, _json(_body(response, listener)), None, version)
    except (PeerNotVerified, ssl.SSLCertVerificationError) as error:
        raise _not_the_peer(listener, error) from error
    except TimeoutError as error:
        raise _unreachable(listener, error) from error
    except ssl.SSLError as error:
        return SingleReply(None, None, detail_of(error), version)
    except (ConnectionError, http.client.HTTPException) as error:
        return SingleReply(None, None, f"connection cut ({type(error).__name__})", version)


def _body(response: http.client.HTTPResponse, listener: Listener) -> bytes:
    """The whole body, within the deadline however slowly it comes."""
    ends, pieces, size = time.monotonic() + DEADLINE_SECONDS, list[bytes](), 0
    while piece := response.read1(_PIECE_BYTES):
        pieces.append(piece)
        size += len(piece)
        if size > ANSWER_BYTES_MAX:
            raise BsfgError(Code.BAD_ANSWER, f"{listener} answers with more than {ANSWER_BYTES_MAX} bytes")
        if time.monotonic() > ends:
            raise TimeoutError(f"the answer did not end within {DEADLINE_SECONDS:.0f} s")
    return b"".join(pieces)


def _json(content: bytes) -> Any:
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


def _request(listener: Listener, path: str, body: Mapping[str, Any] | None) -> bytes:
    content = b"" if body is None else json.dumps(body).encode()
    head = [
        f"{'GET' if body is None else 'POST'} {path} HTTP/1.1",
        f"Host: {listener}",
        "Accept: application/json",
        "Connection: close",
    ]
    if body is not None:
        head += ["Content-Type: application/json", f"Content-Length: {len(content)}"]
    return "\r\n".join([*head, "", ""]).encode() + content


def _not_the_peer(listener: Listener, error: BaseException) -> BsfgError:
    return BsfgError(
        Code.IDENTITY_REJECTED,
        f"the certificate at {listener} is refused: {printable(detail_of(error), 200)}",
        reason=reason_of(error),
    )


def _unreachable(listener: Listener, error: BaseException) -> PeerUnreachable:
    cause = "no answer in time" if isinstance(error, TimeoutError) else printable(detail_of(error), 200)
    return PeerUnreachable(
        f"nobody answers with TLS at {listener}: {cause}", hint="is the peer's gateway up, and a firewall between?"
    )
