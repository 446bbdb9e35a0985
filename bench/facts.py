"""The facts of the bench, and a publisher fast enough not to be what is measured."""

from __future__ import annotations

import base64
import json
import random
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import nkeys

FACT_BYTES: Final = 512
SUBJECT: Final = "facts.operational.bench"
UNACKED_MAX: Final = 4000
BURST: Final = 500
TIMEOUT_SECONDS: Final = 60.0
VARIANTS: Final = 997
REPLY: Final = b"_INBOX.bench"

_BODIES: Final = [random.Random(seed).randbytes(FACT_BYTES // 2 - 6).hex().encode() for seed in range(VARIANTS)]


def payload(number: int) -> bytes:
    """The bytes of one fact, the same in every run."""
    return b"%012d" % number + _BODIES[number % VARIANTS]


@dataclass
class Publisher:
    """One plain NATS connection that publishes into JetStream and counts what the server has acknowledged."""

    connection: socket.socket
    buffer: bytes = b""
    acknowledged: int = 0

    def publish(self, count: int) -> None:
        """All facts are acknowledged on return, as durably as the server's ``sync_interval`` says."""
        sent = 0
        while self.acknowledged < count:
            if sent < count and sent - self.acknowledged <= UNACKED_MAX - BURST:
                upper = min(sent + BURST, count)
                self.connection.sendall(b"".join(_frame(number) for number in range(sent, upper)))
                sent = upper
            else:
                self._receive()

    def _receive(self) -> None:
        received = self.connection.recv(1 << 18)
        if not received:
            raise ConnectionError("the server closed the publisher's connection")
        *lines, self.buffer = (self.buffer + received).split(b"\r\n")
        for line in lines:
            self._take(line)

    def _take(self, line: bytes) -> None:
        if line.startswith(b'{"'):
            if b'"error"' in line or b'"duplicate"' in line:
                raise RuntimeError(f"the server refused a fact: {line.decode()}")
            self.acknowledged += 1
        elif line == b"PING":
            self.connection.sendall(b"PONG\r\n")
        elif line.startswith(b"-ERR"):
            raise RuntimeError(f"the server refused the publisher: {line.decode()}")


def _frame(number: int) -> bytes:
    return b"PUB %b %b %d\r\n%b\r\n" % (SUBJECT.encode(), REPLY, FACT_BYTES, payload(number))


def publish(url: str, count: int, seed_file: Path | None = None) -> None:
    """Publish ``count`` facts to ``facts.operational`` at this server and wait for every acknowledgement."""
    place = urlsplit(url)
    with socket.create_connection((place.hostname, place.port), timeout=TIMEOUT_SECONDS) as connection:
        greeting = json.loads(connection.makefile("rb", buffering=0).readline().removeprefix(b"INFO "))
        options: dict[str, Any] = {"verbose": False, "pedantic": False, "lang": "bench", "version": "1", "protocol": 1}
        if seed_file is not None:
            options |= _credentials(seed_file, greeting["nonce"])
        connection.sendall(b"CONNECT %b\r\nSUB %b 1\r\n" % (json.dumps(options).encode(), REPLY))
        Publisher(connection).publish(count)


def _credentials(seed_file: Path, nonce: str) -> dict[str, str]:
    pair = nkeys.from_seed(bytearray(seed_file.read_bytes().strip()))
    return {"nkey": pair.public_key.decode(), "sig": base64.urlsafe_b64encode(pair.sign(nonce.encode())).decode()}

