"""Removing from an inbound stream what a link's ``keep`` no longer wants: by sequence, and never the last fact.

The cursor is read off the last fact, so that one stays however old it is (design, decision 2).
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from bsfg.errors import BsfgError
from bsfg.model.moment import NANOSECONDS, format_time
from bsfg.substrates.control import Control
from bsfg.substrates.epochs import write_metadata
from bsfg.substrates.jetstream_answers import is_no_message
from bsfg.substrates.local_messages import local_message, pull_frames
from bsfg.substrates.nats_connection import NatsConnection
from bsfg.substrates.nats_frames import Frame
from bsfg.substrates.stream_configs import REMOVED_KEY

PAGE_MESSAGES: Final = 5_000
PAGE_BYTES: Final = 8 * 1024 * 1024
PAGES_MAX: Final = 200
"""In one round; what is left is for the next."""
INACTIVE_SECONDS: Final = 5
OVERHEAD_BYTES_MAX: Final = 48
"""More than the file store adds to a message: what is counted too large removes too little, never too much."""
PASSES_MAX: Final = 16
"""Each frees most of what the one before left."""
_SIZE_HEADER: Final = b"\r\nNats-Msg-Size: "


@dataclass(frozen=True, slots=True)
class Removed:
    """What one round removed; ``unprocessed`` of it the local applications' consumer had not acknowledged."""

    messages: int
    unprocessed: int


class InboundKeep:
    """Purges inbound streams, over ``control`` and, to learn sizes, connections of its own."""

    def __init__(self, control: Control, connect: Callable[[], Awaitable[NatsConnection]]) -> None:
        self._control = control
        self._connect = connect

    async def apply(
        self,
        jetstream_stream: str,
        consumer: str,
        *,
        cursor_at: int,
        oldest_time: int | None,
        max_bytes: int | None,
    ) -> Removed:
        """Remove what was stored before ``oldest_time`` (nanoseconds since 1970), and the oldest above ``max_bytes``.

        The message at ``cursor_at``, the local sequence that the cursor is read off, stays, and so does the last that
        is there. Removed durably on return. Raises ``NOT_FOUND`` without the stream, ``SubstrateUnavailable`` when the
        store is away.
        """
        total = Removed(0, 0)
        for _ in range(PASSES_MAX):
            removed = await self._pass(jetstream_stream, consumer, cursor_at, oldest_time, max_bytes)
            total = Removed(total.messages + removed.messages, total.unprocessed + removed.unprocessed)
            if not removed.messages or max_bytes is None:
                break
        return total

    async def _pass(
        self,
        jetstream_stream: str,
        consumer: str,
        cursor_at: int,
        oldest_time: int | None,
        max_bytes: int | None,
    ) -> Removed:
        found = await self._control.api(f"STREAM.INFO.{jetstream_stream}")
        state = found["state"]
        first, limit = int(state["first_seq"]), await self._last_held(found)
        wanted = first
        if oldest_time is not None and state["messages"]:
            wanted = await self._first_since(jetstream_stream, oldest_time)
        if max_bytes is not None and state["bytes"] > max_bytes:
            wanted = max(
                wanted, await self._first_within(jetstream_stream, first, state["bytes"] - max_bytes)
            )
        below = min(wanted, limit, cursor_at)
        if below <= first:
            return Removed(0, 0)
        floor = await self._processed_through(jetstream_stream, consumer)
        if REMOVED_KEY in (found["config"].get("metadata") or {}):
            # Known durably before they go: what is gone without that was removed by somebody else (I20).
            latest = await self._control.api(f"STREAM.INFO.{jetstream_stream}")
            await write_metadata(self._control, latest, {REMOVED_KEY: str(below - 1)})
        answer = await self._control.api(f"STREAM.PURGE.{jetstream_stream}", {"seq": below})
        return Removed(int(answer["purged"]), max(0, below - max(first, floor + 1)))

    async def _last_held(self, stream_info: dict[str, Any]) -> int:
        """The sequence of the last message that is really there; 0 if there is none."""
        name, last = stream_info["config"]["name"], 0
        for subject in stream_info["config"]["subjects"]:
            try:
                answer = await self._control.api(f"STREAM.MSG.GET.{name}", {"last_by_subj": subject})
            except BsfgError as error:
                if not is_no_message(error):
                    raise
                continue
            last = max(last, int(answer["message"]["seq"]))
        return last

    async def _first_since(self, name: str, time: int) -> int:
        """The first sequence stored at this time or later, as the server finds it for a new consumer."""
        config = _reader({"deliver_policy": "by_start_time", "opt_start_time": format_time(time)})
        answer = await self._control.api(
            f"CONSUMER.CREATE.{name}.{config['name']}", {"stream_name": name, "config": config}
        )
        with contextlib.suppress(BsfgError):
            await self._control.api(f"CONSUMER.DELETE.{name}.{config['name']}")
        return int(answer["delivered"]["stream_seq"]) + 1

    async def _first_within(self, name: str, first: int, excess_bytes: int) -> int:
        """Behind how many of the oldest messages the stream is small enough: their sizes, without their payloads."""
        config = _reader(
            {"deliver_policy": "by_start_sequence", "opt_start_seq": max(1, first), "headers_only": True}
        )
        connection = await self._connect()
        try:
            await self._control.api(
                f"CONSUMER.CREATE.{name}.{config['name']}", {"stream_name": name, "config": config}
            )
            return await self._walk(connection, name, config["name"], first, excess_bytes)
        finally:
            connection.close()
            with contextlib.suppress(BsfgError):
                await self._control.api(f"CONSUMER.DELETE.{name}.{config['name']}")

    async def _walk(
        self, connection: NatsConnection, name: str, consumer: str, first: int, excess_bytes: int
    ) -> int:
        freed, below = 0, first
        for _ in range(PAGES_MAX):
            frames = await pull_frames(
                connection, name, consumer, count=PAGE_MESSAGES, bytes_max=PAGE_BYTES, wait_seconds=0.0
            )
            for frame in frames:
                if freed >= excess_bytes:
                    return below
                freed += _stored_bytes(frame)
                below = local_message(frame)["local_sequence"] + 1
            if not frames:
                break
        return below

    async def _processed_through(self, name: str, consumer: str) -> int:
        """How far the local applications have acknowledged; 0 where the consumer was removed."""
        with contextlib.suppress(BsfgError):
            found = await self._control.api(f"CONSUMER.INFO.{name}.{consumer}")
            return int(found["ack_floor"]["stream_seq"])
        return 0


def _reader(config: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": f"bsfg-{secrets.token_hex(8)}",
        "ack_policy": "none",
        "mem_storage": True,
        "num_replicas": 1,
        "inactive_threshold": INACTIVE_SECONDS * NANOSECONDS,
    } | config


def _stored_bytes(frame: Frame) -> int:
    _, found, rest = frame.header.partition(_SIZE_HEADER)
    payload = int(rest.partition(b"\r\n")[0]) if found else 0
    return len(frame.subject) + len(frame.header) + payload + OVERHEAD_BYTES_MAX
