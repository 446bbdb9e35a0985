"""The port ``ExportedLog``: what a local stream looks like to its readers."""

from __future__ import annotations

import asyncio
import time

import pytest
from tests.contract.stores import LOCAL, STREAM, Store
from tests.support.patience import patience

from bsfg.errors import BsfgError, Code
from bsfg.model.cursor import InitMode, StartKind, parse_init_mode
from bsfg.model.fact import Fact, digest
from bsfg.model.names import StreamName
from bsfg.model.page import PageLimits

HOUR = 3600 * 1_000_000_000


async def filled(store: Store, count: int = 5) -> list[Fact]:
    """The stream with some facts, and these facts as the log gives them."""
    await store.create(STREAM)
    for number in range(1, count + 1):
        await store.put(LOCAL, f"{STREAM}.line.{number}", b"Batch: %d\r\n" % number, b"fact %d" % number)
        await asyncio.sleep(0.002)
    facts = [await store.exported.fact_at(STREAM, sequence) for sequence in range(1, count + 1)]
    return [fact for fact in facts if fact is not None]


def since(time_: int) -> InitMode:
    return InitMode("explicit_timestamp", StartKind.EXPLICIT_TIMESTAMP, timestamp=time_)


# describe


async def test_a_stream_that_never_held_a_fact_has_no_times(store: Store) -> None:
    await store.create(STREAM)
    log = await store.exported.describe(STREAM)
    assert (log.first_sequence, log.last_sequence, log.first_time, log.last_time) == (0, 0, None, None)
    assert (log.messages, log.bytes, log.replicas, log.durability) == (0, 0, 1, "strict")


async def test_describe_says_where_the_stream_begins_and_ends(store: Store) -> None:
    facts = await filled(store)
    await store.delete(LOCAL, 1)
    log = await store.exported.describe(STREAM)
    assert (log.first_sequence, log.last_sequence, log.messages) == (2, 5, 4)
    assert (log.first_time, log.last_time) == (facts[1].time, facts[4].time)
    assert log.bytes > 0


async def test_a_purged_stream_keeps_its_last_sequence(store: Store) -> None:
    facts = await filled(store)
    await store.purge(LOCAL)
    log = await store.exported.describe(STREAM)
    assert (log.first_sequence, log.last_sequence, log.messages) == (6, 5, 0)
    assert (log.first_time, log.last_time) == (None, facts[4].time)


async def test_a_missing_stream_is_not_found(store: Store) -> None:
    for attempt in (
        store.exported.describe(STREAM),
        store.exported.fact_at(STREAM, 1),
        store.exported.resolve_start(STREAM, since(1), 0),
        store.exported.resolve_start(STREAM, parse_init_mode("start_now"), 0),
        store.exported.read(STREAM, 0, PageLimits()),
    ):
        with pytest.raises(BsfgError) as raised:
            await attempt
        assert raised.value.code is Code.NOT_FOUND


# epochs


async def test_an_adopted_stream_gets_an_epoch_that_stays(store: Store) -> None:
    await filled(store, 1)
    first = await store.exported.describe(STREAM)
    await store.put(LOCAL, STREAM)
    assert (await store.exported.describe(STREAM)).epoch == first.epoch
    assert [(stream, old, new) for stream, old, new, _ in store.began] == [(STREAM, None, first.epoch)]


async def test_a_stream_made_again_from_its_configuration_begins_a_new_epoch(store: Store) -> None:
    await filled(store, 1)
    first = await store.exported.describe(STREAM)
    await store.recreate(LOCAL)
    second = await store.exported.describe(STREAM)
    assert second.created != first.created
    assert second.epoch != first.epoch
    assert store.began[-1][:3] == (STREAM, first.epoch, second.epoch)
    assert second.created in store.began[-1][3]
    assert (await store.exported.describe(STREAM)).epoch == second.epoch


async def test_readers_who_come_at_once_agree_on_one_epoch(store: Store) -> None:
    await filled(store, 1)
    logs = await asyncio.gather(*(store.exported.describe(STREAM) for _ in range(8)))
    assert len({log.epoch for log in logs}) == 1
    assert len(store.began) == 1


async def test_a_purge_begins_no_epoch(store: Store) -> None:
    await filled(store, 2)
    first = await store.exported.describe(STREAM)
    await store.purge(LOCAL)
    assert (await store.exported.describe(STREAM)).epoch == first.epoch


# fact_at


async def test_fact_at_gives_exactly_that_fact_or_none(store: Store) -> None:
    await filled(store, 3)
    await store.delete(LOCAL, 2)
    fact = await store.exported.fact_at(STREAM, 3)
    assert fact is not None
    assert fact[:2] == (3, f"{STREAM}.line.3")
    assert fact[3:] == (b"Batch: 3\r\n", b"fact 3")
    assert [await store.exported.fact_at(STREAM, sequence) for sequence in (0, 2, 4)] == [None, None, None]


async def test_a_fact_carries_the_producers_headers_and_none_of_the_servers(store: Store) -> None:
    await store.create(STREAM)
    block = b"Nats-Msg-Id: m-1\r\nA: 1\r\nBsfg-Origin: forged\r\nA: 2\r\nNats-Expected-Stream: facts_operational\r\n"
    await store.put(LOCAL, STREAM, block, b"x")
    fact = await store.exported.fact_at(STREAM, 1)
    assert fact is not None
    assert fact.headers == b"Nats-Msg-Id: m-1\r\nA: 1\r\nA: 2\r\n"


async def test_a_fact_is_the_same_whichever_way_it_is_read(store: Store) -> None:
    facts = await filled(store, 3)
    found = await store.exported.read(STREAM, 0, PageLimits())
    assert found.facts == facts
    assert [digest(fact) for fact in found.facts] == [digest(fact) for fact in facts]


# resolve_start


async def test_full_backfill_starts_at_the_first_fact_that_is_left(store: Store) -> None:
    await filled(store)
    full = parse_init_mode("full_backfill")
    assert await store.exported.resolve_start(STREAM, full, 0) == 1
    await store.purge(LOCAL, below=3)
    assert await store.exported.resolve_start(STREAM, full, 0) == 3


async def test_start_now_starts_behind_the_last_fact(store: Store) -> None:
    await filled(store)
    await store.delete(LOCAL, 5)
    assert await store.exported.resolve_start(STREAM, parse_init_mode("start_now"), 0) == 6


@pytest.mark.parametrize("mode", ["full_backfill", "start_now", "bounded_backfill_24h"])
async def test_every_mode_starts_an_empty_stream_at_one(store: Store, mode: str) -> None:
    await store.create(STREAM)
    assert await store.exported.resolve_start(STREAM, parse_init_mode(mode), time.time_ns()) == 1


async def test_a_time_is_inclusive_to_the_nanosecond(store: Store) -> None:
    facts = await filled(store)
    resolved = [
        await store.exported.resolve_start(STREAM, since(moment), 0)
        for fact in facts
        for moment in (fact.time - 1, fact.time, fact.time + 1)
    ]
    assert resolved == [1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4, 5, 5, 5, 6]


async def test_a_time_before_all_and_a_time_after_all(store: Store) -> None:
    await filled(store)
    assert await store.exported.resolve_start(STREAM, since(0), 0) == 1
    assert await store.exported.resolve_start(STREAM, since(time.time_ns() + HOUR), 0) == 6


async def test_a_time_whose_fact_was_deleted_gives_the_next_one(store: Store) -> None:
    facts = await filled(store)
    await store.delete(LOCAL, 3)
    assert await store.exported.resolve_start(STREAM, since(facts[2].time), 0) == 4
    await store.purge(LOCAL, below=3)
    assert await store.exported.resolve_start(STREAM, since(facts[0].time), 0) == 4


async def test_a_time_in_a_purged_stream_starts_behind_its_last_fact(store: Store) -> None:
    facts = await filled(store)
    await store.purge(LOCAL)
    assert await store.exported.resolve_start(STREAM, since(facts[0].time), 0) == 6


async def test_a_bounded_backfill_counts_from_the_senders_time(store: Store) -> None:
    facts = await filled(store)
    mode = parse_init_mode("bounded_backfill_24h")
    assert await store.exported.resolve_start(STREAM, mode, facts[3].time + 24 * HOUR) == 4
    assert await store.exported.resolve_start(STREAM, mode, facts[3].time + 24 * HOUR + 1) == 5


# read


async def test_a_read_brings_what_lies_behind_in_order(store: Store) -> None:
    facts = await filled(store)
    found = await store.exported.read(STREAM, 2, PageLimits())
    assert found.facts == facts[2:]
    assert (found.scanned_through, found.head, found.pending, found.next_time) == (5, 5, 0, None)


async def test_a_read_takes_as_many_as_it_may_and_says_what_is_left(store: Store) -> None:
    facts = await filled(store)
    found = await store.exported.read(STREAM, 1, PageLimits(facts=2))
    assert found.facts == facts[1:3]
    assert (found.scanned_through, found.head, found.pending, found.next_time) == (3, 5, 2, facts[3].time)


async def test_a_fact_larger_than_the_limit_comes_alone(store: Store) -> None:
    await store.create(STREAM)
    for size in (10, 5000, 10):
        await store.put(LOCAL, STREAM, b"", b"x" * size)
    sequence = 0
    for _ in range(3):
        found = await store.exported.read(STREAM, sequence, PageLimits(bytes=1000))
        assert found.facts[0].sequence == sequence + 1
        assert len(found.facts) == 1
        sequence = found.scanned_through
    assert sequence == 3


async def test_deleted_facts_are_passed_over(store: Store) -> None:
    facts = await filled(store)
    await store.delete(LOCAL, 2)
    await store.delete(LOCAL, 3)
    found = await store.exported.read(STREAM, 1, PageLimits())
    assert found.facts == facts[3:]
    assert found.scanned_through == 5


async def test_an_empty_read_has_scanned_a_deleted_tail(store: Store) -> None:
    await filled(store)
    await store.delete(LOCAL, 4)
    await store.delete(LOCAL, 5)
    found = await store.exported.read(STREAM, 3, PageLimits())
    assert (found.facts, found.scanned_through, found.head, found.pending) == ([], 5, 5, 0)


async def test_a_read_of_a_purged_stream_goes_on_with_what_comes(store: Store) -> None:
    await filled(store)
    await store.purge(LOCAL)
    assert (await store.exported.read(STREAM, 3, PageLimits())).scanned_through == 5
    await store.put(LOCAL, STREAM, b"", b"six")
    found = await store.exported.read(STREAM, 5, PageLimits())
    assert [(fact.sequence, fact.payload) for fact in found.facts] == [(6, b"six")]


async def test_a_waiting_read_returns_with_the_first_fact(store: Store) -> None:
    await filled(store, 1)
    reading = asyncio.create_task(store.exported.read(STREAM, 1, PageLimits(wait_seconds=30.0)))
    await asyncio.sleep(0.2)
    assert not reading.done()
    await store.put(LOCAL, STREAM, b"", b"late")
    found = await asyncio.wait_for(reading, 2.0 * patience())
    assert [fact.payload for fact in found.facts] == [b"late"]


async def test_a_waiting_read_returns_empty_when_its_time_is_over(store: Store) -> None:
    await filled(store, 1)
    began = time.monotonic()
    found = await store.exported.read(STREAM, 1, PageLimits(wait_seconds=0.4))
    assert 0.3 < time.monotonic() - began < 2.0
    assert (found.facts, found.scanned_through) == ([], 1)


async def test_a_cancelled_wait_loses_nothing(store: Store) -> None:
    facts = await filled(store, 2)
    reading = asyncio.create_task(store.exported.read(STREAM, 2, PageLimits(wait_seconds=10.0)))
    await asyncio.sleep(0.1)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert (await store.exported.read(STREAM, 0, PageLimits())).facts == facts


async def test_readers_at_different_places_do_not_disturb_each_other(store: Store) -> None:
    facts = await filled(store, 30)

    async def read_all(start: int, page: int) -> list[Fact]:
        found, after = [], start
        while True:
            slice_ = await store.exported.read(STREAM, after, PageLimits(facts=page))
            if not slice_.facts:
                return found
            found += slice_.facts
            after = slice_.scanned_through

    results = await asyncio.gather(*(read_all(start, page) for start, page in [(0, 1), (0, 7), (10, 3), (29, 2)]))
    assert results == [facts, facts, facts[10:], facts[29:]]


async def test_a_read_after_a_recreation_sees_only_the_new_history(store: Store) -> None:
    await filled(store, 3)
    await store.exported.read(STREAM, 0, PageLimits())
    await store.recreate(LOCAL)
    await store.put(LOCAL, STREAM, b"", b"new")
    found = await store.exported.read(STREAM, 0, PageLimits())
    assert [(fact.sequence, fact.payload) for fact in found.facts] == [(1, b"new")]


async def test_streams_are_apart(store: Store) -> None:
    other = StreamName("facts.orders")
    await filled(store, 2)
    await store.create(other)
    assert (await store.exported.describe(other)).messages == 0
    assert (await store.exported.describe(other)).epoch != (await store.exported.describe(STREAM)).epoch
