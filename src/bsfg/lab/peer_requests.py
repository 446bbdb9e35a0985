"""One request to a peer listener, with any certificate or none, as ``curl`` makes it (runbook, sections 4.3 and 6)."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bsfg.errors import BsfgError, Code, PeerUnreachable

DEADLINE_SECONDS: Final = 15.0
ANSWER_BYTES_MAX: Final = 64 * 1024 * 1024
FORBIDDEN: Final = 403


@dataclass(frozen=True, slots=True)
class Credentials:
    """A certificate with its key, as files."""

    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class Target:
    """A zone's listener: where it is, who must answer there, and whom to believe."""

    endpoint: str
    identity: str
    anchors: Path


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back: an answer, or how the other side cut the connection."""

    status: int | None
    content: bytes
    cut: str | None
    tls_version: str | None

    @property
    def is_denied(self) -> bool:
        """Refused during the handshake or right after it, or answered with 403."""
        return self.cut is not None or self.status == FORBIDDEN

    @property
    def body(self) -> Any:
        try:
            return json.loads(self.content)
        except ValueError:
            return None

    @property
    def error_code(self) -> str | None:
        """The contract's code in an error answer."""
        error = self.body.get("error") if isinstance(self.body, dict) else None
        return str(error.get("code")) if isinstance(error, dict) else None

    def __str__(self) -> str:
        return self.cut or f"{self.status} {self.error_code or ''}".strip()


def send(target: Target, credentials: Credentials | None, path: str, body: bytes | None = None) -> Reply:
    """Make one request over TLS 1.3; raises ``unavailable`` if nobody listens or answers, which is no denial.

    Raises ``identity_rejected`` if the other side is not who it has to be. A body makes it a POST.
    """
    host, _, port = target.endpoint.rpartition(":")
    context = _context(target, credentials)
    try:
        plain = socket.create_connection((host, int(port)), DEADLINE_SECONDS)
    except OSError as error:
        raise PeerUnreachable(f"nobody answers at {target.endpoint}: {error}") from error
    with plain:
        return _exchange(plain, context, target, path, body)


def _context(target: Target, credentials: Credentials | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(target.anchors))
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    if credentials is not None:
        context.load_cert_chain(credentials.certificate, credentials.key)
    return context


def _exchange(
    plain: socket.socket, context: ssl.SSLContext, target: Target, path: str, body: bytes | None
) -> Reply:
    version = None
    try:
        # With TLS 1.3 the client's handshake ends before the server has judged its certificate: the refusal
        # comes while the answer is read.
        with context.wrap_socket(plain, server_hostname=target.identity) as secured:
            version = secured.version()
            secured.sendall(_request(target, path, body))
            response = http.client.HTTPResponse(secured)
            response.begin()
            return Reply(response.status, response.read(ANSWER_BYTES_MAX), None, version)
    except ssl.SSLCertVerificationError as error:
        raise BsfgError(
            Code.IDENTITY_REJECTED, f"{target.endpoint} is not {target.identity}: {error.verify_message}"
        ) from error
    except TimeoutError as error:
        raise PeerUnreachable(f"{target.endpoint} was silent for {DEADLINE_SECONDS:.0f} s") from error
    except ssl.SSLError as error:
        return Reply(None, b"", (error.reason or str(error)).lower().replace("_", " "), version)
    except (ConnectionError, http.client.HTTPException) as error:
        return Reply(None, b"", f"connection cut ({type(error).__name__})", version)


def _request(target: Target, path: str, body: bytes | None) -> bytes:
    content = b"" if body is None else body
    head = [
        f"{'GET' if body is None else 'POST'} {path} HTTP/1.1",
        f"Host: {target.endpoint}",
        "Accept: application/json",
        "Connection: close",
    ]
    if body is not None:
        head += ["Content-Type: application/json", f"Content-Length: {len(content)}"]
    return "\r\n".join([*head, "", ""]).encode() + content
