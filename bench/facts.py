"""The facts of the bench, and a plain NATS connection that writes and reads faster than what is measured."""

from __future__ import annotations

import base64
import json
import random
import select
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import nkeys

TIMEOUT_SECONDS: Final = 120.0
PAGE_FACTS: Final = 1_000
"""As many as one atomic batch may hold."""
PAGES_IN_FLIGHT_MAX: Final = 4
PULL_FACTS: Final = 5_000
VARIANTS: Final = 997
NUMBER_DIGITS: Final = 12
TAIL: Final = "bench"
INBOX: Final = b"_INBOX.bench"
_CHUNK_BYTES: Final = 1 << 18
_MESSAGES: Final = (b"MSG", b"HMSG")
_DELIVERED: Final = b" $JS.ACK."


@dataclass(frozen=True)
class Place:
    """A nats-server, and the seed file of the user that asks it."""

    url: str
    seed_file: Path | None = None

    def seed(self) -> str | None:
        return None if self.seed_file is None else self.seed_file.read_text(encoding="ascii").strip()


@dataclass(frozen=True)
class Facts:
    """What one run moves: so many facts of this size, spread evenly over the streams."""

    count: int
    size_bytes: int
    streams: tuple[str, ...] = ("facts.operational",)

    def of(self, stream: str) -> int:
        """How many of them are in one stream."""
        place = self.streams.index(stream)
        return self.count // len(self.streams) + (place < self.count % len(self.streams))


@cache
def _bodies(size_bytes: int) -> list[bytes]:
    length = size_bytes - NUMBER_DIGITS
    return [
        random.Random(seed).randbytes((length + 1) // 2).hex().encode()[:length] for seed in range(VARIANTS)
    ]


def payload(number: int, size_bytes: int) -> bytes:
    """The bytes of one fact, the same in every run."""
    return b"%0*d" % (NUMBER_DIGITS, number) + _bodies(size_bytes)[number % VARIANTS]


class Connection:
    """One blocking NATS connection; raises ConnectionError or RuntimeError with what the server said."""

    def __init__(self, place: Place) -> None:
        address = urlsplit(place.url)
        self.socket = socket.create_connection((address.hostname, address.port), timeout=TIMEOUT_SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = b""
        greeting = json.loads(self._first_line().removeprefix(b"INFO "))
        options: dict[str, Any] = {"verbose": False, "pedantic": False, "lang": "bench", "version": "1"}
        options |= {"protocol": 1, "headers": True} | _credentials(place.seed(), greeting.get("nonce", ""))
        self.send(b"CONNECT %b\r\nSUB %b 1\r\n" % (json.dumps(options).encode(), INBOX))

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, frames: bytes) -> None:
        self.socket.sendall(frames)

    def messages(self) -> Iterator[bytes]:
        """Payloads as they come, without end."""
        while True:
            yield from self._whole_messages()
            self._receive()

    def messages_within(self, seconds: float) -> list[bytes]:
        """The payloads that come first within this time, and nothing after it."""
        if not select.select([self.socket], [], [], seconds)[0]:
            return []
        self._receive()
        return list(self._whole_messages())

    def chunks(self) -> Iterator[bytes]:
        """What comes, unparsed, without end."""
        while chunk := self.socket.recv(_CHUNK_BYTES):
            yield chunk
        raise ConnectionError("the server closed the bench's connection")

    def _whole_messages(self) -> Iterator[bytes]:
        while (end := self._buffer.find(b"\r\n")) >= 0:
            operation, *arguments = self._buffer[:end].split(b" ")
            size = int(arguments[-1]) if operation in _MESSAGES else -2
            if len(self._buffer) < end + size + 4:
                return
            content, self._buffer = (
                self._buffer[end + 2 : end + 2 + max(size, 0)],
                self._buffer[end + size + 4 :],
            )
            if operation in _MESSAGES:
                yield content[int(arguments[-2]) :] if operation == b"HMSG" else content
            elif operation == b"PING":
                self.send(b"PONG\r\n")
            elif operation == b"-ERR":
                raise RuntimeError(f"the server refused the bench: {b' '.join(arguments).decode()}")

    def _first_line(self) -> bytes:
        while (end := self._buffer.find(b"\r\n")) < 0:
            self._receive()
        line, self._buffer = self._buffer[:end], self._buffer[end + 2 :]
        return line

    def _receive(self) -> None:
        if not (chunk := self.socket.recv(_CHUNK_BYTES)):
            raise ConnectionError("the server closed the bench's connection")
        self._buffer += chunk


def _credentials(seed: str | None, nonce: str) -> dict[str, str]:
    if seed is None:
        return {}
    pair = nkeys.from_seed(bytearray(seed.encode()))
    signature = base64.urlsafe_b64encode(pair.sign(nonce.encode())).rstrip(b"=")
    return {"nkey": pair.public_key.decode(), "sig": signature.decode()}


def publish(place: Place, facts: Facts) -> float:
    """Publish all facts into empty streams; facts a second, once the server has acknowledged the last of each stream.

    Only the last fact of a page asks for an acknowledgement; it names the sequence, so that a fact that the server
    refused before it is noticed.
    """
    began = time.monotonic()
    for stream in facts.streams:
        with Connection(place) as connection:
            _publish_stream(connection, stream, facts.of(stream), facts.size_bytes)
    return facts.count / (time.monotonic() - began)


def _publish_stream(connection: Connection, stream: str, count: int, size_bytes: int) -> None:
    answers = connection.messages()
    waiting: list[int] = []
    for start in range(0, count, PAGE_FACTS):
        end = min(start + PAGE_FACTS, count)
        connection.send(page(stream, start, end, size_bytes))
        waiting.append(end)
        if len(waiting) >= PAGES_IN_FLIGHT_MAX:
            _check_stored(next(answers), waiting.pop(0), stream)
    for end in waiting:
        _check_stored(next(answers), end, stream)


def frame(stream: str, number: int, size_bytes: int) -> bytes:
    """One fact, published without asking for an acknowledgement."""
    head = b"PUB %b.%b %d\r\n" % (stream.encode(), TAIL.encode(), size_bytes)
    return head + payload(number, size_bytes) + b"\r\n"


def page(stream: str, start: int, end: int, size_bytes: int) -> bytes:
    """Facts ``start`` to ``end`` as frames, an acknowledgement asked for the last."""
    quiet = b"PUB %b.%b %d\r\n" % (stream.encode(), TAIL.encode(), size_bytes)
    asking = b"PUB %b.%b %b %d\r\n" % (stream.encode(), TAIL.encode(), INBOX, size_bytes)
    frames: list[bytes] = []
    for number in range(start, end):
        frames += (asking if number == end - 1 else quiet, payload(number, size_bytes), b"\r\n")
    return b"".join(frames)


def _check_stored(answer: bytes, sequence: int, stream: str) -> None:
    try:
        stored = json.loads(answer).get("seq")
    except ValueError:
        stored = None
    if stored != sequence:
        raise RuntimeError(
            f"{stream}: fact {sequence} was not stored as such: {answer.decode(errors='replace')}"
        )


def consume(place: Place, jetstream_stream: str, count: int, consumer: str) -> float:
    """Pull this many messages by a consumer that exists, and drop them; facts a second."""
    request = json.dumps({"batch": PULL_FACTS, "no_wait": True}).encode()
    question = b"PUB $JS.API.CONSUMER.MSG.NEXT.%b.%b %b %d\r\n%b\r\n" % (
        jetstream_stream.encode(), consumer.encode(), INBOX, len(request), request,
    )  # fmt: skip
    began, come, carried = time.monotonic(), 0, b""
    with Connection(place) as connection:
        chunks = connection.chunks()
        for wanted in range(PULL_FACTS, count + PULL_FACTS, PULL_FACTS):
            connection.send(question)
            while come < min(wanted, count):
                text = carried + next(chunks)
                come += text.count(_DELIVERED)
                # A mark that is cut in two is counted with the next chunk, and a whole one only once.
                carried = text[-(len(_DELIVERED) - 1) :]
    return count / (time.monotonic() - began)
