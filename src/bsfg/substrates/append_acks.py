"""What the server owes for a chunk that was written, and what its answers mean."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import msgspec

from bsfg.errors import BsfgError, Code, Fenced, OutcomeUnknown, StoreFull, SubstrateUnavailable
from bsfg.substrates.inbound_messages import Chunk
from bsfg.substrates.nats_connection import NO_RESPONDERS
from bsfg.substrates.nats_frames import Frame, status_of
from bsfg.substrates.nats_stream_api import ApiError, refuse

WRONG_LAST_SEQUENCE: Final = frozenset({10071, 10164})
STORE_FAILED: Final = 10077
BATCH_TOO_LARGE: Final = 10199
MESSAGE_TOO_LARGE: Final = frozenset({10054, 10097})
_FULL_WORDS: Final = ("maximum bytes exceeded", "maximum messages exceeded", "no space left")
_LARGE_WORDS: Final = ("message too large",)


class BatchTooLarge(SubstrateUnavailable):
    """The server takes no atomic batch of this many messages; nothing of it was stored, and smaller ones go in."""


class PubAck(msgspec.Struct):
    """JetStream's answer to a publish: what was stored where, or why it was not."""

    stream: str = ""
    seq: int = 0
    error: ApiError | None = None
    duplicate: bool = False
    batch: str = ""
    count: int = 0


_DECODER: Final = msgspec.json.Decoder(PubAck)


class ChunkAcks:
    """The answers to one chunk; ``arrived`` is done when all are here or the connection is gone."""

    def __init__(self, chunk: Chunk, jetstream_stream: str, arrived: asyncio.Future[Any]) -> None:
        self.chunk = chunk
        self.arrived = arrived
        self._jetstream_stream = jetstream_stream
        self._answers: dict[int, Frame] = {}

    def take(self, number: int, frame: Frame) -> None:
        """One answer, by the number of the message that it answers."""
        if number < self.chunk.replies:
            self._answers[number] = frame
        if len(self._answers) == self.chunk.replies and not self.arrived.done():
            self.arrived.set_result(None)

    def judge(self) -> None:
        """Nothing if every fact of the chunk is stored where it belongs; else the error of the first that is not.

        ``Fenced``, ``StoreFull``, ``TOO_LARGE`` and ``SubstrateUnavailable`` mean that it and all behind it were not
        stored; ``OutcomeUnknown`` that nobody can say.
        """
        for number in range(self.chunk.replies):
            frame = self._answers.get(number)
            if frame is None:
                raise OutcomeUnknown(
                    f"appending to {self._jetstream_stream}: NATS has not acknowledged message "
                    f"{self.chunk.base_sequence + number + 1}"
                )
            self._judge(number, frame)

    def _judge(self, number: int, frame: Frame) -> None:
        action = f"appending to {self._jetstream_stream}"
        if (status := status_of(frame)) is not None and status[0] == NO_RESPONDERS:
            raise SubstrateUnavailable(f"{action}: no stream takes the subject")
        try:
            ack = _DECODER.decode(frame.payload)
        except msgspec.MsgspecError as error:
            raise OutcomeUnknown(f"{action}: NATS acknowledged what we can't read: {error}") from None
        if ack.error is not None:
            _refused(ack.error, action)
        is_whole, is_batch = self.chunk.replies == 1, bool(self.chunk.batch_id)
        sequence = self.chunk.base_sequence + (self.chunk.facts if is_whole else number + 1)
        wanted = (self._jetstream_stream, sequence, self.chunk.batch_id, self.chunk.facts if is_batch else 0)
        if (ack.stream, ack.seq, ack.batch, ack.count) != wanted or ack.duplicate:
            raise OutcomeUnknown(
                f"{action}: NATS acknowledged stream {ack.stream}, sequence {ack.seq}, batch of {ack.count}; "
                f"expected was sequence {sequence}"
            )


def _refused(error: ApiError, action: str) -> None:
    message = f"{action}: {error.description} (JetStream error {error.err_code})"
    if error.err_code in WRONG_LAST_SEQUENCE:
        raise Fenced(message)
    if error.err_code == BATCH_TOO_LARGE:
        raise BatchTooLarge(message)
    words = error.description.lower()
    if error.err_code in MESSAGE_TOO_LARGE or any(part in words for part in _LARGE_WORDS):
        raise BsfgError(
            Code.TOO_LARGE, message, hint="raise max_payload of NATS or max_msg_size of the stream"
        )
    if error.err_code == STORE_FAILED and any(part in words for part in _FULL_WORDS):
        raise StoreFull(message, hint="widen keep.max_bytes, or free space in the NATS store")
    refuse(error, action)
