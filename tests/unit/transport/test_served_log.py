"""A read for a peer lasts as long as its permission, and whatever ends it ends nothing else."""

from __future__ import annotations

import asyncio
import gc
import weakref
from dataclasses import dataclass, field
from typing import Any

import pytest

from bsfg.errors import BsfgError, Code, SubstrateUnavailable
from bsfg.model.facts import NO_FACTS
from bsfg.model.names import StreamName, ZoneId
from bsfg.model.page import LogSlice, PageLimits
from bsfg.model.policy import ReadStream
from bsfg.transport import served_log
from bsfg.transport.access import stream_denied
from bsfg.transport.served_log import read_while_allowed

STREAM = StreamName("facts.orders")
SLICE = LogSlice(NO_FACTS, 7, 7, 0, None)


@dataclass
class House:
    """A log and a caller in one, moved by events."""

    facts_come: asyncio.Event = field(default_factory=asyncio.Event)
    access_changes: asyncio.Event = field(default_factory=asyncio.Event)
    is_allowed: bool = True
    demands: int = 0
    read_ended: list[str] = field(default_factory=list)

    peer = ZoneId("plant-a")
    streams = frozenset({STREAM})

    async def read(self, stream: StreamName, after: int, limits: PageLimits) -> LogSlice:
        try:
            await self.facts_come.wait()
        except asyncio.CancelledError:
            self.read_ended.append("cancelled")
            raise
        self.read_ended.append("facts")
        return SLICE

    def demand(self, wish: ReadStream) -> None:
        self.demands += 1
        if not self.is_allowed:
            raise stream_denied(wish.stream)

    async def changed(self) -> None:
        await self.access_changes.wait()
        self.access_changes.clear()

    async def serve(self, wait_seconds: float = 5.0) -> LogSlice:
        log: Any = self
        return await read_while_allowed(log, self, STREAM, 0, PageLimits(wait_seconds=wait_seconds))

    def begin(self, wait_seconds: float = 5.0) -> asyncio.Task[LogSlice]:
        return asyncio.create_task(self.serve(wait_seconds))


async def turns(count: int = 10) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_facts_are_given_and_permission_is_asked_for_once_more() -> None:
    house = House()
    reading = house.begin()
    await turns()
    house.facts_come.set()
    assert await reading == SLICE
    assert house.demands == 1
    await turns()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_nothing_of_a_read_is_left_to_be_collected() -> None:
    house = House()
    gc.disable()
    try:
        reading = house.begin()
        await turns()
        house.facts_come.set()
        await reading
        left = weakref.ref(reading)
        del reading
        await turns()
        assert left() is None
    finally:
        gc.enable()


async def test_a_refusal_ends_the_read_at_once() -> None:
    house = House()
    reading = house.begin()
    await turns()
    house.is_allowed = False
    house.access_changes.set()
    await asyncio.wait([reading], timeout=1)
    assert reading.done()
    with pytest.raises(BsfgError) as caught:
        await reading
    assert (caught.value.code, house.read_ended) == (Code.STREAM_DENIED, ["cancelled"])
    assert not reading.cancelling()


async def test_a_change_that_leaves_the_permission_leaves_the_read() -> None:
    house = House()
    reading = house.begin()
    for demands in (1, 2):
        await turns()
        house.access_changes.set()
        await turns()
        assert (house.demands, reading.done()) == (demands, False)
    house.facts_come.set()
    assert await reading == SLICE


async def test_a_permission_lost_unseen_is_refused_behind_the_read() -> None:
    house = House()
    reading = house.begin()
    await turns()
    house.is_allowed = False
    house.facts_come.set()
    with pytest.raises(BsfgError, match="not available"):
        await reading


@pytest.mark.parametrize("is_facts_first", [False, True])
async def test_a_refusal_in_the_turn_of_the_facts_ends_only_the_read(is_facts_first: bool) -> None:
    house = House()

    async def serve() -> str:
        with pytest.raises(BsfgError, match="not available"):
            await house.serve()
        await turns()
        return "went on"

    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    serving = asyncio.create_task(serve())
    await turns()
    house.is_allowed = False
    events = [house.facts_come, house.access_changes]
    for event in events if is_facts_first else reversed(events):
        event.set()
    assert await asyncio.wait_for(serving, 1) == "went on"
    assert complaints == []


async def test_whoever_ends_the_request_ends_the_read_though_it_is_refused_as_well() -> None:
    house = House()
    reading = house.begin()
    await turns()
    house.is_allowed = False
    house.access_changes.set()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert house.read_ended == ["cancelled"]


async def test_a_store_that_does_not_answer_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served_log, "STORE_SECONDS_MAX", 0.05)
    house = House()
    with pytest.raises(SubstrateUnavailable, match="did not answer"):
        await house.begin(wait_seconds=0.0)
    assert house.read_ended == ["cancelled"]
