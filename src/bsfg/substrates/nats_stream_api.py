"""The few questions that the data path asks of JetStream's JSON API; answers come from the stream's leader."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, TypeVar

import msgspec

from bsfg.errors import BsfgError, Code, StoreFull, SubstrateUnavailable
from bsfg.model.moment import parse_time
from bsfg.substrates.nats_connection import NatsConnection
from bsfg.substrates.nats_frames import Frame

API_SECONDS: Final = 5.0
STREAM_NOT_FOUND: Final = 10059
CONSUMER_NOT_FOUND: Final = 10014
MESSAGE_NOT_FOUND: Final = 10037
NO_ROOM: Final = frozenset({10002, 10023, 10028, 10047, 10122})
"""Refusals for want of room: limits of the account, of the server, of its memory, of its storage, of a stream."""

_NEVER_YEAR: Final = "0001-"


class ApiError(msgspec.Struct):
    """JetStream's refusal, as it stands in every kind of answer."""

    code: int = 0
    err_code: int = 0
    description: str = ""


class _State(msgspec.Struct):
    messages: int
    bytes: int
    first_seq: int
    last_seq: int
    first_ts: str
    last_ts: str


class _StreamInfo(msgspec.Struct):
    error: ApiError | None = None
    created: str = ""
    config: dict[str, Any] = {}
    state: _State | None = None


class _StoredMessage(msgspec.Struct):
    subject: str
    seq: int
    time: str
    hdrs: str = ""
    data: str = ""


class _MessageAnswer(msgspec.Struct):
    error: ApiError | None = None
    message: _StoredMessage | None = None


@dataclass(frozen=True, slots=True)
class StreamState:
    """A JetStream stream at one moment: its state, and its configuration as the server holds it.

    Times are nanoseconds since 1970, None where the stream holds no such message.
    """

    created: str
    first_seq: int
    last_seq: int
    first_time: int | None
    last_time: int | None
    messages: int
    bytes: int
    metadata: dict[str, str]
    replicas: int
    allow_atomic: bool
    config: dict[str, Any]


class StoredMessage(NamedTuple):
    """One message as a stream holds it; ``headers`` is the raw NATS block, empty if there is none."""

    sequence: int
    subject: str
    time: int
    headers: bytes
    payload: bytes


async def stream_state(connection: NatsConnection, jetstream_stream: str) -> StreamState:
    """The stream now.

    Raises ``NOT_FOUND`` if there is no such stream, ``SubstrateUnavailable`` if JetStream does not answer.
    """
    nats_subject = stream_info_subject(jetstream_stream)
    return parse_stream_state(await connection.request(nats_subject), jetstream_stream)


def stream_info_subject(jetstream_stream: str) -> str:
    return f"$JS.API.STREAM.INFO.{jetstream_stream}"


def parse_stream_state(answer: Frame, jetstream_stream: str) -> StreamState:
    """The answer to a STREAM.INFO request, with the errors of :func:`stream_state`."""
    found = decode(answer, _StreamInfo, f"describing stream {jetstream_stream}")
    refuse(found.error, f"describing stream {jetstream_stream}")
    if found.state is None:
        raise SubstrateUnavailable(f"describing stream {jetstream_stream}: NATS answered without a state")
    state, config = found.state, found.config
    return StreamState(
        created=found.created,
        first_seq=state.first_seq,
        last_seq=state.last_seq,
        first_time=_time(state.first_ts) if state.messages else None,
        last_time=_time(state.last_ts),
        messages=state.messages,
        bytes=state.bytes,
        metadata=config.get("metadata") or {},
        replicas=config.get("num_replicas", 1),
        allow_atomic=config.get("allow_atomic") is True,
        config=config,
    )


async def message_at(
    connection: NatsConnection, jetstream_stream: str, sequence: int
) -> StoredMessage | None:
    """The message with exactly this sequence; None if the stream does not hold it (errors as ``stream_state``)."""
    return await _message(connection, jetstream_stream, {"seq": sequence})


async def message_from(
    connection: NatsConnection, jetstream_stream: str, sequence: int
) -> StoredMessage | None:
    """The first message with this sequence or a later one; None if there is none (errors as ``stream_state``)."""
    return await _message(connection, jetstream_stream, {"seq": sequence, "next_by_subj": ">"})


async def last_message(connection: NatsConnection, jetstream_stream: str) -> StoredMessage | None:
    """The last message that the stream holds; None if it holds none (errors as ``stream_state``)."""
    found = await _message(connection, jetstream_stream, {"last_by_subj": ">"})
    if found is not None:
        return found
    # The server says the same of an empty stream and of one whose last message was deleted, so search below that.
    state = await stream_state(connection, jetstream_stream)
    found = await message_from(connection, jetstream_stream, state.first_seq)
    nothing_from = state.last_seq + 1
    while found is not None and found.sequence + 1 < nothing_from:
        middle = (found.sequence + nothing_from) // 2
        later = await message_from(connection, jetstream_stream, middle)
        if later is None:
            nothing_from = middle
        else:
            found = later
    return found


async def _message(
    connection: NatsConnection, jetstream_stream: str, question: dict[str, Any]
) -> StoredMessage | None:
    action = f"reading a message of stream {jetstream_stream}"
    nats_subject = f"$JS.API.STREAM.MSG.GET.{jetstream_stream}"
    frame = await connection.request(nats_subject, msgspec.json.encode(question))
    answer = decode(frame, _MessageAnswer, action)
    if answer.error is not None and answer.error.err_code == MESSAGE_NOT_FOUND:
        return None
    refuse(answer.error, action)
    if answer.message is None:
        raise SubstrateUnavailable(f"{action}: NATS answered without a message")
    found = answer.message
    try:
        headers = base64.b64decode(found.hdrs, validate=True)
        payload = base64.b64decode(found.data, validate=True)
    except binascii.Error:
        raise SubstrateUnavailable(f"{action}: NATS answered with bytes that are not base64") from None
    return StoredMessage(found.seq, found.subject, parse_time(found.time), headers, payload)


_Answer = TypeVar("_Answer")


def decode(answer: Frame, shape: type[_Answer], action: str) -> _Answer:
    """The JSON answer in its shape; ``SubstrateUnavailable`` if it has another."""
    try:
        return msgspec.json.decode(answer.payload, type=shape)
    except msgspec.MsgspecError as error:
        raise SubstrateUnavailable(f"{action}: NATS answered what we can't read: {error}") from None


def refuse(error: ApiError | None, action: str) -> None:
    """Raise what JetStream's refusal means: missing stream, no room, or not available; nothing if it is None."""
    if error is None:
        return
    message = f"{action}: {error.description} (JetStream error {error.err_code})"
    if error.err_code == STREAM_NOT_FOUND:
        raise BsfgError(Code.NOT_FOUND, message, hint="bsfg stream list shows the streams of this zone")
    if error.err_code in NO_ROOM:
        raise StoreFull(message, hint="free space in the NATS store, or widen its limits")
    raise SubstrateUnavailable(message)


def _time(text: str) -> int | None:
    return None if text.startswith(_NEVER_YEAR) else parse_time(text)
