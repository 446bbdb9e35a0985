"""One stream of the in-memory twin: sequences, interior deletes, purge, a size limit and a fence, as in JetStream."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from bsfg.errors import Fenced, StoreFull
from bsfg.model.fact import NATS_HEADER_LINE
from bsfg.substrates.nats_stream_api import StoredMessage

MESSAGE_OVERHEAD_BYTES: Final = 26
"""What JetStream's file store adds to subject, header and payload of a message with a header."""


@dataclass(slots=True)
class MemoryStream:
    """The messages of one stream in memory, and what the server would say of it."""

    name: str
    created: str
    max_bytes: int | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    messages: dict[int, StoredMessage] = field(default_factory=dict)
    """By sequence; the order of insertion is the order of sequences."""
    last_sequence: int = 0
    last_time: int | None = None
    total_bytes: int = 0
    grown: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once, when the next message is stored; then replaced."""

    @property
    def first(self) -> StoredMessage | None:
        return next(iter(self.messages.values()), None)

    @property
    def last(self) -> StoredMessage | None:
        return next(reversed(self.messages.values()), None)

    @property
    def first_sequence(self) -> int:
        """As JetStream says it: 0 before the first message, one behind the last when all are gone."""
        if self.first is not None:
            return self.first.sequence
        return self.last_sequence + 1 if self.last_sequence else 0

    @property
    def removed(self) -> str | None:
        """What was taken away from it; nothing takes away anything but somebody's hand."""
        gone = self.last_sequence - len(self.messages)
        return f"{gone} messages of {self.name} were removed, and not by this gateway" if gone else None

    def behind(self, after: int) -> Iterator[StoredMessage]:
        """The messages with a higher sequence, in order."""
        return (message for message in self.messages.values() if message.sequence > after)

    def put(
        self, subject: str, headers: bytes, payload: bytes, time: int, expected_last: int | None = None
    ) -> int:
        """Store one message and return its sequence; ``Fenced`` or ``StoreFull``, and nothing is stored."""
        if expected_last is not None and expected_last != self.last_sequence:
            raise Fenced(f"stream {self.name}: the last sequence is {self.last_sequence}, not {expected_last}")
        size = _stored_bytes(subject, headers, payload)
        if self.max_bytes is not None and self.total_bytes + size > self.max_bytes:
            raise StoreFull(f"stream {self.name}: maximum bytes exceeded")
        self.last_sequence += 1
        self.last_time = time
        self.total_bytes += size
        self.messages[self.last_sequence] = StoredMessage(self.last_sequence, subject, time, headers, payload)
        grown, self.grown = self.grown, asyncio.Event()
        grown.set()
        return self.last_sequence

    def delete(self, sequence: int) -> None:
        """Remove one message, wherever it stands; its sequence is never used again."""
        message = self.messages.pop(sequence)
        self.total_bytes -= _stored_bytes(message.subject, message.headers, message.payload)

    def purge(self, below: int | None = None) -> None:
        """Remove the messages below a sequence, or all; the last sequence stays."""
        for sequence in [found for found in self.messages if below is None or found < below]:
            self.delete(sequence)


def raw_header(block: bytes) -> bytes:
    """A block of header lines as a raw NATS header; empty for none."""
    return NATS_HEADER_LINE + b"\r\n" + block + b"\r\n" if block else b""


def _stored_bytes(subject: str, headers: bytes, payload: bytes) -> int:
    return len(subject) + len(headers) + len(payload) + MESSAGE_OVERHEAD_BYTES
