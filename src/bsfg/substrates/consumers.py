"""What local applications and operators do with a zone's streams: look, take, acknowledge and read."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

from bsfg.errors import BsfgError, Code
from bsfg.model.page import PageLimits
from bsfg.substrates.control import Control
from bsfg.substrates.local_messages import LocalMessage, local_message, pull_frames, read_messages
from bsfg.substrates.nats_connection import NatsConnection

CONSUMER_FACTS_MAX: Final = 1_000
CONSUMER_BYTES_MAX: Final = 8 * 1024 * 1024
CONSUMER_WAIT_SECONDS_MAX: Final = 60.0
ACK: Final = b"+ACK"


class LocalAccess:
    """The streams of this zone for its own applications; each call is bounded and holds nothing afterwards."""

    def __init__(self, control: Control, connect: Callable[[], Awaitable[NatsConnection]]) -> None:
        self._control = control
        self._connect = connect

    async def consumer_info(self, jetstream_stream: str, consumer: str) -> dict[str, Any]:
        """What a consumer has delivered, what is acknowledged, and what is left; ``NOT_FOUND`` without one."""
        found = await self._control.api(f"CONSUMER.INFO.{jetstream_stream}.{consumer}")
        return {
            "jetstream": jetstream_stream,
            "consumer": consumer,
            "delivered": _positions(found["delivered"]),
            "ack_floor": _positions(found["ack_floor"]),
            "pending": found["num_pending"],
            "ack_pending": found["num_ack_pending"],
            "redelivered": found["num_redelivered"],
            "ack_policy": found["config"]["ack_policy"],
        }

    async def consumer_next(
        self,
        jetstream_stream: str,
        consumer: str,
        *,
        count: int = 1,
        ack: bool = True,
        wait_seconds: float = 0.0,
    ) -> list[LocalMessage]:
        """The consumer's next messages, at most ``count``; waits for the first one only.

        With ``ack`` each is acknowledged, and the server has said so, on return; without it they are delivered again
        after the consumer's ack wait. Where an acknowledgement fails, ``SubstrateUnavailable`` is raised and what was
        not acknowledged comes again.
        """
        _within("count", count, 1, CONSUMER_FACTS_MAX)
        _within("wait", wait_seconds, 0, CONSUMER_WAIT_SECONDS_MAX)
        # A pull from a consumer that does not exist is answered by nobody; this says which of the two is missing.
        await self._control.api(f"CONSUMER.INFO.{jetstream_stream}.{consumer}")
        async with self._connected() as connection:
            frames = await pull_frames(
                connection,
                jetstream_stream,
                consumer,
                count=count,
                bytes_max=CONSUMER_BYTES_MAX,
                wait_seconds=wait_seconds,
            )
            if ack:
                await asyncio.gather(*(connection.request(frame.reply.decode(), ACK) for frame in frames))
        return [local_message(frame) for frame in frames]

    async def read_local(
        self, jetstream_stream: str, from_sequence: int, limits: PageLimits
    ) -> list[LocalMessage]:
        """Messages of any stream of this zone, inbound ones too, from a local sequence on; acknowledges nothing.

        At least one if there is one, waiting for it up to the limit; ``NOT_FOUND`` for a stream that does not exist.
        """
        async with self._connected() as connection:
            return await read_messages(self._control, connection, jetstream_stream, from_sequence, limits)

    @contextlib.asynccontextmanager
    async def _connected(self) -> AsyncIterator[NatsConnection]:
        connection = await self._connect()
        try:
            yield connection
        finally:
            connection.close()


def _positions(found: dict[str, Any]) -> dict[str, int]:
    return {"stream_sequence": found["stream_seq"], "consumer_sequence": found["consumer_seq"]}


def _within(what: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        raise BsfgError(Code.INVALID_REQUEST, f"{what} is {value:g}; it goes from {least:g} to {most:g}")


__all__ = ["LocalAccess", "LocalMessage"]
