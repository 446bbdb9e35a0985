"""The local streams of a zone as their readers see them, out of JetStream."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from bsfg.errors import BsfgError
from bsfg.model.cursor import InitMode, StartKind
from bsfg.model.fact import Fact
from bsfg.model.moment import NANOSECONDS, format_time
from bsfg.model.names import StreamName, physical
from bsfg.model.page import LogDescription, LogSlice, PageLimits
from bsfg.substrates.control import Control
from bsfg.substrates.epochs import EpochBegan, bound_epoch, ensure_epoch
from bsfg.substrates.jetstream_answers import fact_of, is_no_message, stored_message, time_or_none
from bsfg.substrates.nats_connection import NatsConnection
from bsfg.substrates.page_reader import PageReader
from bsfg.substrates.reader_pool import ReaderPool

Connect = Callable[[], Awaitable[NatsConnection]]


class JetStreamExportedLog:
    """``ports.ExportedLog`` over JetStream. Reads run over connections of their own, all else over ``control``.

    ``durability`` says what an acknowledgement means now.
    """

    def __init__(
        self, control: Control, connect: Connect, *, durability: Callable[[], str], epoch_began: EpochBegan
    ) -> None:
        self._control = control
        self._connect = connect
        self._durability = durability
        self._epoch_began = epoch_began
        self._pools: dict[StreamName, ReaderPool] = {}
        self._epochs: dict[StreamName, str] = {}
        """As they were seen last."""
        self._epoch_turn = asyncio.Lock()

    def close(self) -> None:
        """Close the readers; what they read stays."""
        for pool in self._pools.values():
            pool.close()
        self._pools.clear()

    async def describe(self, stream: StreamName) -> LogDescription:
        """See ``ports.ExportedLog.describe``."""
        epoch, found = await self._epoch(stream)
        state = found["state"]
        return LogDescription(
            stream=stream,
            created=found["created"],
            epoch=epoch,
            first_sequence=state["first_seq"],
            last_sequence=state["last_seq"],
            first_time=time_or_none(state["first_ts"]) if state["messages"] else None,
            last_time=time_or_none(state["last_ts"]),
            messages=state["messages"],
            bytes=state["bytes"],
            replicas=found["config"]["num_replicas"],
            durability=self._durability(),
        )

    async def fact_at(self, stream: StreamName, sequence: int) -> Fact | None:
        """See ``ports.ExportedLog.fact_at``; the answer is the stream's leader's."""
        if sequence < 1:
            return None
        try:
            answer = await self._control.api(f"STREAM.MSG.GET.{physical(stream)}", {"seq": sequence})
        except BsfgError as error:
            if is_no_message(error):
                return None
            raise
        return fact_of(stored_message(answer["message"]))

    async def resolve_start(self, stream: StreamName, mode: InitMode, sender_now: int) -> int:
        """See ``ports.ExportedLog.resolve_start``."""
        wanted = mode.from_time(sender_now)
        if wanted is not None:
            return await self._first_since(stream, wanted)
        state = (await self._describe_raw(stream))["state"]
        if mode.kind is StartKind.FULL_BACKFILL:
            return max(1, int(state["first_seq"]))
        return int(state["last_seq"]) + 1

    async def read(self, stream: StreamName, after: int, limits: PageLimits) -> LogSlice:
        """See ``ports.ExportedLog.read``."""
        pool = self._pools.get(stream)
        if pool is None:
            pool = ReaderPool(lambda: PageReader(self._connect, physical(stream), stream))
            self._pools[stream] = pool
        epoch = self._epochs.get(stream)
        found = await pool.read(after, limits)
        return found if self._epochs.get(stream) == epoch else replace(found, is_continuous=False)

    async def _epoch(self, stream: StreamName) -> tuple[str, dict[str, Any]]:
        found = await self._describe_raw(stream)
        epoch = bound_epoch(found)
        if epoch is None:
            # One at a time, so that many readers who find the stream re-created begin one epoch and not many.
            async with self._epoch_turn:
                found = await self._describe_raw(stream)
                epoch, found = await ensure_epoch(self._control, stream, found, self._epoch_began)
        self._epochs[stream] = epoch
        return epoch, found

    async def _describe_raw(self, stream: StreamName) -> dict[str, Any]:
        return await self._control.api(f"STREAM.INFO.{physical(stream)}")

    async def _first_since(self, stream: StreamName, time: int) -> int:
        """The first sequence stored at this time or later, as the server itself finds it for a new consumer.

        Every server version answers this; ``start_time`` in STREAM.MSG.GET is known only to newer ones.
        """
        name = physical(stream)
        wanted = {
            "ack_policy": "none",
            "deliver_policy": "by_start_time",
            "opt_start_time": format_time(time),
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": 5 * NANOSECONDS,
        }
        answer = await self._control.api(f"CONSUMER.CREATE.{name}", {"stream_name": name, "config": wanted})
        # Where this fails, the server removes the consumer by itself after the time above.
        with contextlib.suppress(BsfgError):
            await self._control.api(f"CONSUMER.DELETE.{name}.{answer['name']}")
        return int(answer["delivered"]["stream_seq"]) + 1
