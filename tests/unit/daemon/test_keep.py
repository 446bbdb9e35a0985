"""What ``keep`` removes from an inbound stream: the oldest, no more than needed, never what the cursor rests on."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from itertools import count

import pytest
from tests.support.nats import NatsServer, running_nats

from bsfg.substrates.consumers import LocalAccess
from bsfg.substrates.control import Control
from bsfg.substrates.inbound_keep import InboundKeep, Removed
from bsfg.substrates.inbound_log import removed_by_others
from bsfg.substrates.nats_connection import NatsConnection
from bsfg.substrates.stream_configs import REMOVED_KEY

NUMBERS = count(1)
CONSUMER = "enterprise-from-plant-a"
DAY = 86_400 * 10**9


class Stream:
    """A stream with messages of uneven size and a consumer for applications."""

    def __init__(self, control: Control, server: NatsServer) -> None:
        self.control = control
        self.server = server
        self.name = f"in_{next(NUMBERS)}"
        self.keep = InboundKeep(control, self.connect)

    async def connect(self) -> NatsConnection:
        return await NatsConnection.connect(self.server.target, name="test")

    async def make(self) -> None:
        metadata = {REMOVED_KEY: "0", "theirs": "kept"}
        config = {"name": self.name, "subjects": [self.name, f"{self.name}.>"], "metadata": metadata}
        await self.control.api(f"STREAM.CREATE.{self.name}", config)
        durable = {"durable_name": CONSUMER, "ack_policy": "explicit"}
        body = {"stream_name": self.name, "config": durable}
        await self.control.api(f"CONSUMER.DURABLE.CREATE.{self.name}.{CONSUMER}", body)

    async def fill(self, *sizes: int) -> None:
        connection = await self.connect()
        for size in sizes:
            await connection.request(f"{self.name}.x", b"x" * size, headers=b"Bsfg-Origin: a b c 1 t\r\n")
        connection.close()

    async def acknowledge(self, messages: int) -> None:
        await LocalAccess(self.control, self.connect).consumer_next(self.name, CONSUMER, count=messages)

    async def state(self) -> tuple[int, int, int]:
        """First and last sequence, and bytes."""
        state = (await self.control.api(f"STREAM.INFO.{self.name}"))["state"]
        return state["first_seq"], state["last_seq"], state["bytes"]

    async def apply(
        self, *, cursor_at: int, oldest_time: int | None = None, max_bytes: int | None = None
    ) -> Removed:
        return await self.keep.apply(
            self.name, CONSUMER, cursor_at=cursor_at, oldest_time=oldest_time, max_bytes=max_bytes
        )


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with running_nats(tmp_path_factory.mktemp("nats")) as running:
        yield running


@pytest.fixture
async def stream(server: NatsServer) -> AsyncIterator[Stream]:
    control = await Control.open(server.target, name="keep")
    made = Stream(control, server)
    await made.make()
    yield made
    await control.close()


async def test_what_is_within_the_limits_stays(stream: Stream) -> None:
    await stream.fill(*[100] * 5)
    before = await stream.state()
    assert await stream.apply(cursor_at=5, oldest_time=time.time_ns() - DAY, max_bytes=10_000) == Removed(0, 0)
    assert await stream.state() == before


@pytest.mark.parametrize("sizes", [[100] * 60, [5_000, *[10] * 50, 3_000, 10, 10], [10] * 50 + [4_000]])
async def test_by_bytes_the_oldest_go_and_not_one_too_many(stream: Stream, sizes: list[int]) -> None:
    await stream.fill(*sizes)
    await stream.apply(cursor_at=len(sizes), max_bytes=5_000)
    first, last, left = await stream.state()
    assert left <= 5_000 or first == last
    assert left + sizes[first - 2] + 200 > 5_000, "the last one that was removed had no room"


async def test_by_age_what_was_stored_before_goes(stream: Stream) -> None:
    await stream.fill(10, 10, 10)
    await asyncio.sleep(0.05)
    between = time.time_ns()
    await asyncio.sleep(0.05)
    await stream.fill(10, 10)
    assert (await stream.apply(cursor_at=5, oldest_time=between)).messages == 3
    assert (await stream.state())[:2] == (4, 5)


async def test_the_last_fact_stays_however_old_and_large_it_is(stream: Stream) -> None:
    await stream.fill(10, 10, 9_000)
    assert (await stream.apply(cursor_at=3, oldest_time=time.time_ns() + DAY, max_bytes=1)).messages == 2
    assert (await stream.state())[:2] == (3, 3)


async def test_the_fact_at_the_cursor_stays_also_where_somebody_else_wrote_behind_it(stream: Stream) -> None:
    await stream.fill(10, 10, 10, 10)
    await stream.apply(cursor_at=2, oldest_time=time.time_ns() + DAY)
    assert (await stream.state())[:2] == (2, 4)


async def test_the_last_fact_stays_where_the_last_message_was_deleted(stream: Stream) -> None:
    await stream.fill(10, 10, 10)
    await stream.control.api(f"STREAM.MSG.DELETE.{stream.name}", {"seq": 3})
    await stream.apply(cursor_at=3, oldest_time=time.time_ns() + DAY)
    assert (await stream.state())[:2] == (2, 3)


async def test_what_no_application_had_acknowledged_is_counted(stream: Stream) -> None:
    await stream.fill(*[10] * 6)
    await stream.acknowledge(2)
    assert await stream.apply(cursor_at=6, oldest_time=time.time_ns() + DAY) == Removed(5, 3)


async def test_an_empty_stream_is_left_alone(stream: Stream) -> None:
    assert await stream.apply(cursor_at=0, oldest_time=time.time_ns(), max_bytes=1) == Removed(0, 0)


async def test_what_keep_removed_is_not_taken_for_somebody_elses_doing(stream: Stream) -> None:
    await stream.fill(*[10] * 6)
    await stream.apply(cursor_at=4, oldest_time=time.time_ns() + DAY)
    assert (await stream.state())[:2] == (4, 6)
    found = await stream.control.api(f"STREAM.INFO.{stream.name}")
    assert removed_by_others(found) is None
    assert found["config"]["metadata"]["theirs"] == "kept"
    await stream.control.api(f"STREAM.PURGE.{stream.name}", {"seq": 6})
    found = await stream.control.api(f"STREAM.INFO.{stream.name}")
    words = f"messages 4 to 5 of {stream.name} were removed, and not by this gateway"
    assert removed_by_others(found) == words


async def test_of_a_stream_without_a_count_nothing_is_said(stream: Stream) -> None:
    found = await stream.control.api(f"STREAM.INFO.{stream.name}")
    config = found["config"] | {"metadata": {}}
    await stream.control.api(f"STREAM.UPDATE.{stream.name}", config)
    await stream.fill(10, 10, 10)
    await stream.control.api(f"STREAM.PURGE.{stream.name}", {"seq": 2})
    await stream.apply(cursor_at=3, oldest_time=time.time_ns() + DAY)
    found = await stream.control.api(f"STREAM.INFO.{stream.name}")
    assert removed_by_others(found) is None and REMOVED_KEY not in found["config"]["metadata"]
