"""The sender's view: what waits for a peer, how old it is, and how long until retention removes it."""

from __future__ import annotations

from dataclasses import dataclass

from tests.support.twin_link import RECEIVER, STREAM

from bsfg.daemon.exports import ExportRow, Exports
from bsfg.errors import SubstrateUnavailable
from bsfg.model.names import StreamName, physical
from bsfg.model.page import LogDescription
from bsfg.ports import Confirmed
from bsfg.substrates.memory import MemoryZone


@dataclass
class Hand:
    """A clock that is moved by hand."""

    seconds: float = 1_000.0

    def now(self) -> int:
        return int(self.seconds * 1e9)

    def monotonic(self) -> float:
        return self.seconds

    async def sleep(self, seconds: float) -> None:
        self.seconds += seconds


class Store:
    """A zone with one stream and one peer, and what is shown of it."""

    def __init__(self) -> None:
        self.clock = Hand()
        self.zone = MemoryZone(self.clock)
        self.zone.create(STREAM)
        self.exports = Exports(self.zone, self.zone, self.clock, lambda stream: 3_600.0)

    def publish(self, *at_seconds: float) -> None:
        for seconds in at_seconds:
            self.clock.seconds = seconds
            self.zone.publish(STREAM, payload=b"x")

    async def confirm(self, sequence: int) -> None:
        epoch = (await self.zone.describe(STREAM)).epoch
        await self.zone.save(RECEIVER, STREAM, Confirmed(epoch, sequence, "d", 1))

    async def row(self) -> ExportRow:
        await self.exports.refresh([(RECEIVER, STREAM)])
        return self.exports.rows[0]


async def test_the_oldest_unconfirmed_fact_is_the_one_behind_the_confirm() -> None:
    store = Store()
    store.publish(1_000, 1_100, 1_200, 1_300)
    store.clock.seconds = 2_000
    row = await store.row()
    assert (row.backlog_facts, row.oldest_seconds, row.headroom_seconds) == (4, 1_000, 2_600)
    await store.confirm(1)
    row = await store.row()
    assert (row.backlog_facts, row.oldest_seconds, row.headroom_seconds) == (3, 900, 2_700)
    await store.confirm(3)
    assert (await store.row()).oldest_seconds == 700


async def test_a_hole_behind_the_confirm_is_passed_over() -> None:
    store = Store()
    store.publish(1_000, 1_100, 1_200, 1_300)
    await store.confirm(1)
    store.zone.delete(physical(STREAM), 2)
    assert (await store.row()).oldest_seconds == 100


async def test_nothing_is_said_where_nothing_waits() -> None:
    store = Store()
    store.publish(1_000)
    await store.confirm(1)
    row = await store.row()
    assert (row.backlog_facts, row.oldest_seconds, row.headroom_seconds) == (0, None, None)


async def test_a_stream_that_removes_nothing_has_no_headroom_to_tell() -> None:
    store = Store()
    store.exports = Exports(store.zone, store.zone, store.clock)
    store.publish(1_000)
    row = await store.row()
    assert row.oldest_seconds == 0 and row.headroom_seconds is None


async def test_the_age_of_the_rows_goes_on_while_the_store_is_away() -> None:
    store = Store()
    assert store.exports.age_seconds is None
    store.publish(1_000)
    await store.row()
    assert store.exports.age_seconds == 0
    store.exports.log = Away()  # type: ignore[assignment]
    store.clock.seconds += 30
    await store.exports.refresh([(RECEIVER, STREAM)])
    assert store.exports.rows == [] and store.exports.age_seconds == 30
    assert store.exports.wanted == ((RECEIVER, STREAM),)


class Away:
    async def describe(self, stream: StreamName) -> LogDescription:
        raise SubstrateUnavailable("the store is away")
