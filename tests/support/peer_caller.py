"""A peer's certificate on one TLS connection that stays open: what its gateway, or somebody in its place, could say."""

from __future__ import annotations

import http.client
import json
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.support.lab_zones import Zone

ANSWER_SECONDS: Final = 40.0


@dataclass(frozen=True)
class Said:
    """One answer, or, without a status, how the connection was cut."""

    status: int | None
    code: str | None
    at: float
    content: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()

    @property
    def body(self) -> Any:
        return json.loads(self.content)

    @property
    def is_refused(self) -> bool:
        return self.status is None or self.status in (403, 503)


class Caller:
    """One connection to a zone's peer listener; it never connects again by itself."""

    def __init__(self, to: Zone, anchors: Path, certificate: Path | None, key: Path | None) -> None:
        """Raises ``OSError`` where the handshake fails on the client's side."""
        context = ssl.create_default_context(cafile=str(anchors))
        if certificate is not None:
            context.load_cert_chain(certificate, key)
        host, port = to.address
        self._connection = http.client.HTTPSConnection(host, port, timeout=ANSWER_SECONDS, context=context)
        self._connection.connect()
        self._connection.auto_open = 0

    def say(self, method: str, path: str, body: dict[str, Any] | bytes | None = None) -> Said:
        encoded = json.dumps(body).encode() if isinstance(body, dict) else body
        try:
            self._connection.request(method, path, encoded)
            response = self._connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException):
            return Said(None, None, time.monotonic())
        return Said(response.status, _code_in(content), time.monotonic(), content, tuple(response.getheaders()))

    def health(self) -> Said:
        return self.say("GET", "/health")

    def streams(self) -> Said:
        return self.say("GET", "/v1/streams")

    def fetch(self, **fields: Any) -> Said:
        return self.say("POST", "/v1/fetch", fields)

    def close(self) -> None:
        self._connection.close()


def _code_in(content: bytes) -> str | None:
    try:
        answer = json.loads(content)
    except ValueError:
        return None
    error = answer.get("error") if isinstance(answer, dict) else None
    return str(error["code"]) if error else None


@contextmanager
def calling(here: Zone, to: Zone) -> Iterator[Caller]:
    """A connection with this zone's own certificate."""
    certs = here.paths
    caller = Caller(to, certs.anchors, certs.server_certificate, certs.server_key)
    try:
        yield caller
    finally:
        caller.close()


def ask_once(
    to: Zone, anchors: Path, certificate: Path | None, key: Path | None, path: str = "/health"
) -> Said:
    """One request over a connection of its own; refusals during the handshake are a cut, too."""
    try:
        caller = Caller(to, anchors, certificate, key)
    except OSError:
        return Said(None, None, time.monotonic())
    try:
        return caller.say("GET", path)
    finally:
        caller.close()


def behind(cursor: dict[str, Any]) -> dict[str, Any]:
    """A fetch's ``after`` at a cursor that ``bsfg cursor query`` printed."""
    return {name: cursor[name] for name in ("epoch", "sequence", "digest", "scanned_through")}
