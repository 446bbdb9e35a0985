"""Messages as a zone's own applications and operators see them: any local or inbound stream, by local sequences."""

from __future__ import annotations

import asyncio
import secrets
from typing import Any, Final, TypedDict

import msgspec

from bsfg.errors import BsfgError, Code, SubstrateUnavailable
from bsfg.model.fact import Origin, header_pairs, join_headers, split_headers
from bsfg.model.moment import NANOSECONDS
from bsfg.model.page import PageLimits
from bsfg.substrates.control import Control
from bsfg.substrates.delivered import numbers_of
from bsfg.substrates.inbound_tip import origin_of
from bsfg.substrates.nats_connection import NatsConnection
from bsfg.substrates.nats_frames import Frame, Messages, encode_publish, status_of

PULL_SECONDS: Final = 5.0
"""How long a pull may take beyond the wait that was asked for."""
HEARTBEAT: Final = 100
CONFLICT: Final = 409
INACTIVE_SECONDS: Final = 30


class LocalMessage(TypedDict):
    """One message of a stream of this zone."""

    local_sequence: int
    subject: str
    time: int
    """When the local stream stored it, nanoseconds since 1970."""
    headers: list[tuple[str, str]]
    """All but the server's own ``Nats-*`` headers, in order; ``Nats-Msg-Id`` is the producer's and stays."""
    payload: bytes
    origin: Origin | None
    """The coordinates at the fact's origin, for an inbound message."""


def local_message(frame: Frame) -> LocalMessage:
    """A message that a consumer delivered; its place and time are in the subject that acknowledges it."""
    sequence, time = _delivered(frame.reply)
    try:
        origin = origin_of(frame.header)
    except ValueError:
        origin = None
    return LocalMessage(
        local_sequence=sequence,
        subject=frame.subject.decode("utf-8", "backslashreplace"),
        time=time,
        headers=_shown_headers(frame.header),
        payload=frame.payload,
        origin=origin,
    )


async def pull_frames(
    connection: NatsConnection,
    jetstream_stream: str,
    consumer: str,
    *,
    count: int,
    bytes_max: int,
    wait_seconds: float,
) -> list[Frame]:
    """The consumer's next messages, up to the limits; waits for the first one only.

    A message larger than ``bytes_max`` is brought alone. Raises ``SubstrateUnavailable`` if there is no answer.
    """
    limits: dict[str, int] = {"batch": count, "max_bytes": bytes_max}
    frames, status = await _pull(connection, jetstream_stream, consumer, limits, wait_seconds)
    if not frames and status is not None and status[0] == CONFLICT and "MaxBytes" in status[1]:
        frames, status = await _pull(connection, jetstream_stream, consumer, {"batch": 1}, wait_seconds)
    return frames


async def read_messages(
    control: Control,
    connection: NatsConnection,
    jetstream_stream: str,
    from_sequence: int,
    limits: PageLimits,
) -> list[LocalMessage]:
    """Messages of any stream from a local sequence on, waiting up to the limit for the first; acknowledges nothing."""
    name = f"bsfg-{secrets.token_hex(8)}"
    config = {
        "name": name,
        "ack_policy": "none",
        "deliver_policy": "by_start_sequence",
        "opt_start_seq": max(1, from_sequence),
        "mem_storage": True,
        "num_replicas": 1,
        "inactive_threshold": INACTIVE_SECONDS * NANOSECONDS,
    }
    place = f"{jetstream_stream}.{name}"
    await control.api(f"CONSUMER.CREATE.{place}", {"stream_name": jetstream_stream, "config": config})
    try:
        frames = await pull_frames(
            connection,
            jetstream_stream,
            name,
            count=limits.facts,
            bytes_max=limits.bytes,
            wait_seconds=limits.wait_seconds,
        )
    finally:
        # Not waited for: where it is lost, the server removes the consumer by itself.
        if not connection.is_closed:
            delete = f"$JS.API.CONSUMER.DELETE.{place}".encode()
            connection.write(encode_publish(delete, connection.new_inbox().encode() + b"0", b"", b""))
    return [local_message(frame) for frame in frames]


async def _pull(
    connection: NatsConnection,
    jetstream_stream: str,
    consumer: str,
    limits: dict[str, int],
    wait_seconds: float,
) -> tuple[list[Frame], tuple[int, str] | None]:
    """Everything that one pull brings, and the status that ended it, if one did."""
    frames: list[Frame] = []
    status: tuple[int, str] | None = None
    done = connection.waiter()

    def received(arrived: Messages) -> None:
        nonlocal status
        for frame in arrived:
            if frame.reply:
                frames.append(frame)
            elif (said := status_of(frame)) is not None and said[0] != HEARTBEAT:
                status = said
        if (status is not None or len(frames) >= limits["batch"]) and not done.done():
            done.set_result(None)

    inbox = connection.new_inbox() + "0"
    request: dict[str, Any] = {**limits, "no_wait": True}
    if wait_seconds > 0:
        request["expires"] = int(wait_seconds * NANOSECONDS)
    subscription = connection.subscribe(inbox, received)
    ask = f"$JS.API.CONSUMER.MSG.NEXT.{jetstream_stream}.{consumer}"
    try:
        connection.write(encode_publish(ask.encode(), inbox.encode(), b"", msgspec.json.encode(request)))
        async with asyncio.timeout(wait_seconds + PULL_SECONDS):
            await done
    except TimeoutError:
        raise SubstrateUnavailable(
            f"reading {jetstream_stream}: no answer within {wait_seconds + PULL_SECONDS:g} s"
        ) from None
    finally:
        done.cancel()
        connection.unsubscribe(subscription)
    return frames, status


def _delivered(reply: bytes) -> tuple[int, int]:
    """Stream sequence and stored time in the subject that acknowledges a message."""
    try:
        sequence, _, time, _ = numbers_of([reply])
    except ValueError:
        raise BsfgError(Code.BAD_ANSWER, "NATS delivered a message without its place in the stream") from None
    return sequence, time


def _shown_headers(raw: bytes) -> list[tuple[str, str]]:
    return header_pairs(
        join_headers(
            pair
            for pair in split_headers(raw)
            if pair[0] == b"Nats-Msg-Id" or not pair[0].lower().startswith(b"nats-")
        )
    )
