"""The pool of page readers: who reads on from where, how many there are, and when they close."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.support.nats import NatsServer, create_stream, running_nats

from bsfg.errors import BsfgError, Code, SubstrateUnavailable
from bsfg.model.names import StreamName
from bsfg.model.page import PageLimits
from bsfg.substrates.nats_connection import NatsConnection
from bsfg.substrates.page_reader import PageReader
from bsfg.substrates.reader_pool import ReaderPool

STREAM = StreamName("facts.operational")
NAME = "facts_operational"


class Readers:
    """Makes readers and keeps their connections, so that a test can count and look at them."""

    def __init__(self, server: NatsServer) -> None:
        self._server = server
        self.connections: list[NatsConnection] = []

    async def connect(self) -> NatsConnection:
        self.connections.append(await NatsConnection.connect(self._server.target, name="test"))
        return self.connections[-1]

    def make(self) -> PageReader:
        return PageReader(self.connect, NAME, STREAM)

    @property
    def open(self) -> int:
        return sum(not connection.is_closed for connection in self.connections)


@pytest.fixture
async def readers(tmp_path: Path) -> AsyncIterator[Readers]:
    with running_nats(tmp_path) as server:
        hand = await NatsConnection.connect(server.target, name="hand")
        await create_stream(hand, NAME, [STREAM])
        for number in range(20):
            await hand.request(STREAM, b"%d" % number)
        yield Readers(server)
        hand.close()


async def test_reading_on_needs_one_reader(readers: Readers) -> None:
    pool = ReaderPool(readers.make)
    after, found = 0, []
    while after < 20:
        page = await pool.read(after, PageLimits(facts=3))
        found += page.facts
        after = page.scanned_through
    assert [fact.sequence for fact in found] == list(range(1, 21))
    assert (pool.readers, len(readers.connections)) == (1, 1)
    pool.close()


async def test_two_places_have_two_readers_and_keep_them(readers: Readers) -> None:
    pool = ReaderPool(readers.make)
    places = [0, 10]
    for _ in range(4):
        places = [(await pool.read(after, PageLimits(facts=2))).scanned_through for after in places]
    assert places == [8, 18]
    assert (pool.readers, len(readers.connections)) == (2, 2)
    pool.close()


async def test_the_longest_idle_reader_is_taken_when_there_may_be_no_more(readers: Readers) -> None:
    pool = ReaderPool(readers.make, readers_max=2)
    for after in (0, 5, 10, 15):
        assert (await pool.read(after, PageLimits(facts=1))).facts[0].sequence == after + 1
    assert pool.readers == 2
    pool.close()


async def test_too_many_waiting_reads_are_refused(readers: Readers) -> None:
    pool = ReaderPool(readers.make, readers_max=2)
    waiting = [asyncio.create_task(pool.read(20, PageLimits(wait_seconds=5.0))) for _ in range(2)]
    await asyncio.sleep(0.2)
    with pytest.raises(BsfgError) as raised:
        await pool.read(0, PageLimits())
    assert raised.value.code is Code.TOO_MANY
    for read in waiting:
        read.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert len((await pool.read(0, PageLimits())).facts) == 20
    pool.close()


async def test_an_idle_reader_is_closed_after_its_time(readers: Readers) -> None:
    pool = ReaderPool(readers.make, idle_seconds=0.2)
    await pool.read(0, PageLimits())
    assert (pool.readers, readers.open) == (1, 1)
    await asyncio.sleep(0.5)
    assert (pool.readers, readers.open) == (0, 0)
    assert len((await pool.read(0, PageLimits())).facts) == 20
    pool.close()


async def test_a_closed_pool_keeps_nothing_open(readers: Readers) -> None:
    pool = ReaderPool(readers.make)
    await pool.read(0, PageLimits())
    waiting = asyncio.create_task(pool.read(20, PageLimits(wait_seconds=0.4)))
    await asyncio.sleep(0.1)
    pool.close()
    await waiting
    assert (pool.readers, readers.open) == (0, 0)


async def test_a_reader_that_failed_is_not_used_again(readers: Readers) -> None:
    pool = ReaderPool(readers.make)
    await pool.read(0, PageLimits(facts=5))
    readers.connections[0].abort("the test broke it")
    try:
        await pool.read(5, PageLimits(facts=5))
    except SubstrateUnavailable:
        assert pool.readers == 0
    assert [fact.sequence for fact in (await pool.read(5, PageLimits(facts=5))).facts] == [6, 7, 8, 9, 10]
    pool.close()
