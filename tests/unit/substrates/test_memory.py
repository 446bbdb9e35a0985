"""The in-memory twin under an injected clock: it is deterministic and waits by that clock alone."""

from __future__ import annotations

import asyncio

from tests.support.patience import patience

from bsfg.model.cursor import InitMode, LinkName, StartKind
from bsfg.model.fact import Fact
from bsfg.model.names import StreamName, ZoneId
from bsfg.model.page import PageLimits
from bsfg.substrates.memory import MemoryZone

STREAM = StreamName("facts.operational")
LINK = LinkName(ZoneId("enterprise"), STREAM)


class TestClock:
    """A clock that moves when it is told to."""

    __test__ = False

    def __init__(self) -> None:
        self.seconds = 1_000.0
        self.slept: list[float] = []

    def now(self) -> int:
        return int(self.seconds * 10**9)

    def monotonic(self) -> float:
        return self.seconds

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.seconds += seconds


async def history(clock: TestClock) -> list[object]:
    zone = MemoryZone(clock)
    zone.create(STREAM)
    zone.publish(STREAM, "a", b"A: 1\r\n", b"x")
    clock.seconds += 1
    zone.publish(STREAM, payload=b"y")
    await zone.provision(LINK)
    fence = (await zone.locate(LINK)).fence
    await zone.append(LINK, fence, "e" * 16, [Fact(1, STREAM, 5, b"", b"z")])
    return [
        await zone.describe(STREAM),
        await zone.read(STREAM, 0, PageLimits()),
        await zone.locate(LINK),
    ]


async def test_the_same_clock_gives_the_same_history() -> None:
    assert await history(TestClock()) == await history(TestClock())


async def test_times_are_the_clocks() -> None:
    clock = TestClock()
    zone = MemoryZone(clock)
    zone.create(STREAM)
    zone.publish(STREAM)
    log = await zone.describe(STREAM)
    assert log.first_time == log.last_time == clock.now()


async def test_a_stream_made_again_in_the_same_instant_has_another_creation_time() -> None:
    zone = MemoryZone(TestClock())
    zone.create(STREAM)
    before = await zone.describe(STREAM)
    zone.recreate("facts_operational")
    after = await zone.describe(STREAM)
    assert (after.created == before.created, after.epoch == before.epoch) == (False, False)


async def test_facts_of_one_instant_start_at_the_first_of_them() -> None:
    clock = TestClock()
    zone = MemoryZone(clock)
    zone.create(STREAM)
    for _ in range(3):
        zone.publish(STREAM)
    mode = InitMode("explicit_timestamp", StartKind.EXPLICIT_TIMESTAMP, timestamp=clock.now())
    assert await zone.resolve_start(STREAM, mode, clock.now()) == 1


async def test_a_wait_ends_by_the_injected_clock() -> None:
    clock = TestClock()
    zone = MemoryZone(clock)
    zone.create(STREAM)
    found = await asyncio.wait_for(zone.read(STREAM, 0, PageLimits(wait_seconds=3600.0)), 2.0 * patience())
    assert found.facts == []
    assert clock.slept == [3600.0]
