"""What JetStream's answers mean: refusals as errors of ``bsfg.errors``, stored messages as facts."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, Final

from bsfg.errors import BsfgError, Code, Fenced, StoreFull, SubstrateUnavailable
from bsfg.model.fact import Fact, allowed_headers
from bsfg.model.moment import parse_time
from bsfg.substrates.nats_stream_api import MESSAGE_NOT_FOUND, StoredMessage

NO_TIME: Final = "0001-01-01T00:00:00Z"
"""How the server spells a time that it does not have."""

_FULL: Final = {10002, 10023, 10028, 10047, 10077}
_FENCED: Final = {10070, 10071, 10164}
_TOO_LARGE: Final = {10054, 10097}


def refusal(operation: str, error: Mapping[str, Any]) -> BsfgError:
    """The error that a refusal by JetStream means; the server's own number is in ``details``."""
    number, status = error.get("err_code"), error.get("code")
    message = f"JetStream {operation}: {error.get('description', 'refused without a reason')}"
    if number in _FULL:
        return StoreFull(
            message, hint="raise max_bytes or free disk space; nothing is dropped", jetstream_code=number
        )
    if number in _FENCED:
        return Fenced(message, jetstream_code=number)
    if number in _TOO_LARGE:
        return BsfgError(Code.TOO_LARGE, message, jetstream_code=number)
    if status == 404:
        return BsfgError(Code.NOT_FOUND, message, jetstream_code=number)
    if status in (500, 503):
        return SubstrateUnavailable(message, jetstream_code=number)
    return BsfgError(Code.CHECK_FAILED, message, jetstream_code=number)


def fact_of(message: StoredMessage) -> Fact:
    """A message of a local stream as a fact."""
    return Fact(
        message.sequence,
        message.subject,
        message.time,
        allowed_headers(message.headers),
        message.payload,
    )


def stored_message(message: Mapping[str, Any]) -> StoredMessage:
    """The ``message`` of an answer to ``STREAM.MSG.GET``."""
    return StoredMessage(
        sequence=int(message["seq"]),
        subject=str(message["subject"]),
        time=parse_time(message["time"]),
        headers=base64.b64decode(message.get("hdrs") or ""),
        payload=base64.b64decode(message.get("data") or ""),
    )


def is_no_message(error: BsfgError) -> bool:
    """Whether JetStream said that the stream exists and does not hold the message that was asked for."""
    return error.details.get("jetstream_code") == MESSAGE_NOT_FOUND


def time_or_none(text: str) -> int | None:
    """Nanoseconds since 1970 of a time in a stream's state; None where the server has none."""
    return None if text == NO_TIME else parse_time(text)
