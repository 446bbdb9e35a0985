"""The port ``InboundLog``: one writer, fenced, and a cursor that is read off the stream's own end."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from tests.contract.stores import INBOUND, LINK, LOCAL, PEER, STREAM, SUBJECT, Store

from bsfg.errors import BsfgError, Code, Fenced, StoreFull
from bsfg.model.cursor import Begun, Cursor, Fence, Gap, Init, LinkRecord
from bsfg.model.fact import Fact, Origin, digest
from bsfg.model.page import PageLimits

EPOCH = "0123456789abcdef"
TIME = 1_736_935_200_000_000_001


def fact(sequence: int, tail: str = "line.1", headers: bytes = b"", payload: bytes | None = None) -> Fact:
    subject = f"{STREAM}.{tail}" if tail else str(STREAM)
    text = b"fact %d" % sequence if payload is None else payload
    return Fact(sequence, subject, TIME + sequence, headers, text)


def facts(first: int, last: int) -> list[Fact]:
    return [fact(sequence) for sequence in range(first, last + 1)]


def cursor_at(last: Fact) -> Cursor:
    return Cursor(EPOCH, last.sequence, digest(last), last.sequence)


def record_at(fence: Fence, cursor: Cursor) -> LinkRecord:
    init = Init("bounded_backfill_24h", None, "compliance", EPOCH, 1, TIME)
    return LinkRecord(fence.generation, fence.created, fence.local_sequence, cursor, init, (Gap(2, 3, TIME, "aged"),))


async def ready(store: Store) -> Fence:
    """The fence of the link's new, empty inbound stream."""
    await store.inbound.provision(LINK)
    return (await store.inbound.locate(LINK)).fence


# provision and locate


async def test_a_new_link_has_an_empty_stream_of_generation_one(store: Store) -> None:
    await store.inbound.provision(LINK)
    position = await store.inbound.locate(LINK)
    assert (position.fence.generation, position.fence.local_sequence, position.messages) == (1, 0, 0)
    assert (position.tip, position.record, position.foreign) == (None, None, None)


async def test_a_link_without_a_stream_is_not_found(store: Store) -> None:
    with pytest.raises(BsfgError) as raised:
        await store.inbound.locate(LINK)
    assert raised.value.code is Code.NOT_FOUND


async def test_provisioning_again_changes_nothing(store: Store) -> None:
    fence = await ready(store)
    fence = await store.inbound.append(LINK, fence, EPOCH, facts(1, 3))
    await store.inbound.provision(LINK)
    assert (await store.inbound.locate(LINK)).fence == fence


async def test_locate_gives_fence_and_cursor_of_the_last_fact(store: Store) -> None:
    fence = await ready(store)
    fence = await store.inbound.append(LINK, fence, EPOCH, facts(5, 9))
    position = await store.inbound.locate(LINK)
    assert position.fence == fence
    assert (position.fence.local_sequence, position.messages) == (5, 5)
    assert position.tip == cursor_at(fact(9))
    assert position.foreign is None


@pytest.mark.parametrize(
    "last",
    [
        fact(7, tail=""),
        fact(7, headers=b"Nats-Msg-Id: m-1\r\nA: 1\r\nA: 2\r\n"),
        fact(7, headers="Größe: 1\r\n".encode().replace(b"Gr\xc3\xb6\xc3\x9fe", b"Size") + "Text: Größe\r\n".encode()),
        fact(7, payload=b""),
        fact(7, payload=bytes(range(256)) * 4096),
        fact(7, tail="lot.ß"),
    ],
    ids=["bare subject", "message id and repeated header", "non-ASCII header", "no payload", "1 MiB", "non-ASCII tail"],
)
async def test_a_fact_arrives_with_its_digest(store: Store, last: Fact) -> None:
    await store.inbound.append(LINK, await ready(store), EPOCH, [fact(1), last])
    assert (await store.inbound.locate(LINK)).tip == cursor_at(last)


async def test_the_digest_is_the_one_that_the_origins_log_gives(store: Store) -> None:
    """What one zone exports and another imports is one fact, header for header."""
    await store.create(STREAM)
    block = b"Nats-Msg-Id: m-1\r\nBsfg-Origin: forged\r\nX-Batch: 17\r\nNats-Expected-Stream: facts_operational\r\n"
    await store.put(LOCAL, f"{STREAM}.a.b", block, b"payload")
    [exported] = (await store.exported.read(STREAM, 0, PageLimits())).facts
    await store.inbound.append(LINK, await ready(store), EPOCH, [exported])
    assert (await store.inbound.locate(LINK)).tip == cursor_at(exported)


async def test_a_purged_stream_has_no_tip_and_keeps_its_fence(store: Store) -> None:
    fence = await store.inbound.append(LINK, await ready(store), EPOCH, facts(1, 4))
    await store.purge(INBOUND)
    position = await store.inbound.locate(LINK)
    assert (position.fence, position.messages, position.tip) == (fence, 0, None)


async def test_without_its_last_message_the_tip_is_the_one_before(store: Store) -> None:
    fence = await store.inbound.append(LINK, await ready(store), EPOCH, facts(1, 4))
    await store.delete(INBOUND, 4)
    position = await store.inbound.locate(LINK)
    assert (position.fence, position.messages, position.tip) == (fence, 3, cursor_at(fact(3)))


async def test_a_whole_stream_has_nothing_removed(store: Store) -> None:
    fence = await ready(store)
    assert (await store.inbound.locate(LINK)).removed is None
    await store.inbound.append(LINK, fence, EPOCH, facts(1, 4))
    assert (await store.inbound.locate(LINK)).removed is None


@pytest.mark.parametrize("goes_on", [False, True], ids=["at rest", "facts flow"])
@pytest.mark.parametrize("below", [None, 3], ids=["all", "the first two"])
async def test_what_somebody_purged_is_said_also_when_facts_came_behind_it(
    store: Store, below: int | None, goes_on: bool
) -> None:
    fence = await store.inbound.append(LINK, await ready(store), EPOCH, facts(1, 4))
    await store.purge(INBOUND, below)
    if goes_on:
        await store.inbound.append(LINK, fence, EPOCH, facts(5, 6))
    removed = (await store.inbound.locate(LINK)).removed
    assert removed is not None and INBOUND in removed


@pytest.mark.parametrize("sequence", [1, 2, 4], ids=["first", "middle", "last"])
async def test_what_somebody_deleted_is_said(store: Store, sequence: int) -> None:
    await store.inbound.append(LINK, await ready(store), EPOCH, facts(1, 4))
    await store.delete(INBOUND, sequence)
    removed = (await store.inbound.locate(LINK)).removed
    assert removed is not None and INBOUND in removed


def origin(zone: str = str(PEER), stream: str = str(STREAM)) -> bytes:
    return f"Bsfg-Origin: {Origin(zone, stream, EPOCH, 9, TIME).header_value()}\r\n".encode()


@pytest.mark.parametrize(
    ("block", "subject", "why"),
    [
        (b"", SUBJECT, "no Bsfg-Origin"),
        (b"Bsfg-Origin: rubbish\r\n", SUBJECT, "not a Bsfg-Origin"),
        (origin(zone="plant-b"), SUBJECT, "plant-b"),
        (origin(stream="facts.orders"), SUBJECT, "facts.orders"),
        (origin() + origin(), SUBJECT, "2 Bsfg-Origin"),
    ],
    ids=["none", "rubbish", "another zone", "another stream", "two"],
)
async def test_a_last_message_of_another_writer_is_foreign(
    store: Store, block: bytes, subject: str, why: str
) -> None:
    await store.inbound.append(LINK, await ready(store), EPOCH, facts(1, 2))
    await store.put(INBOUND, subject, block, b"x")
    position = await store.inbound.locate(LINK)
    assert position.tip is None
    assert position.foreign is not None
    assert why in position.foreign
    assert "message 3" in position.foreign
    assert position.fence.local_sequence == 3


async def test_a_last_message_with_the_links_own_origin_is_not_foreign(store: Store) -> None:
    await ready(store)
    await store.put(INBOUND, f"{SUBJECT}.x", origin(), b"x")
    position = await store.inbound.locate(LINK)
    assert position.foreign is None
    assert position.tip is not None
    assert position.tip.sequence == 9


# records


async def test_a_record_comes_back_as_it_was_saved(store: Store) -> None:
    fence = await store.inbound.append(LINK, await ready(store), EPOCH, facts(1, 4))
    record = record_at(fence, replace(cursor_at(fact(4)), scanned_through=11))
    await store.inbound.save_record(LINK, record)
    assert (await store.inbound.locate(LINK)).record == record
    before = record_at(fence, Cursor(EPOCH, None, None, 41))
    await store.inbound.save_record(LINK, before)
    assert (await store.inbound.locate(LINK)).record == before


@pytest.mark.parametrize(
    "value",
    [b"", b"\x00\xff", b"[]", b'{"version": 1}', b'{"version": 2, "record": {}}'],
    ids=["empty", "bytes", "list", "incomplete", "later version"],
)
async def test_a_spoilt_record_counts_as_none_and_is_reported(store: Store, value: bytes) -> None:
    fence = await store.inbound.append(LINK, await ready(store), EPOCH, facts(1, 4))
    await store.inbound.save_record(LINK, record_at(fence, cursor_at(fact(4))))
    await store.set_record(LINK, value)
    position = await store.inbound.locate(LINK)
    assert (position.record, position.tip) == (None, cursor_at(fact(4)))
    assert len(store.problems) == 1
    assert "enterprise/facts.operational" in store.problems[0]


async def test_a_deleted_record_is_none_and_nothing_is_reported(store: Store) -> None:
    fence = await store.inbound.append(LINK, await ready(store), EPOCH, facts(1, 4))
    await store.inbound.save_record(LINK, record_at(fence, cursor_at(fact(4))))
    await store.delete_record(LINK)
    position = await store.inbound.locate(LINK)
    assert (position.record, position.tip) == (None, cursor_at(fact(4)))
    assert store.problems == []


async def test_a_record_is_saved_in_place_of_the_one_that_was_read_and_of_no_other(store: Store) -> None:
    fence = await store.inbound.append(LINK, await ready(store), EPOCH, facts(1, 4))
    first, second = record_at(fence, cursor_at(fact(4))), replace(record_at(fence, cursor_at(fact(4))), gaps=())
    assert (await store.inbound.locate(LINK)).revision == 0
    saved = await store.inbound.save_record(LINK, first, 0)
    assert (await store.inbound.locate(LINK)).revision == saved > 0
    with pytest.raises(Fenced):
        await store.inbound.save_record(LINK, second, 0)
    assert (await store.inbound.locate(LINK)).record == first
    again = await store.inbound.save_record(LINK, second, saved)
    assert again > saved and (await store.inbound.locate(LINK)).record == second
    with pytest.raises(Fenced):
        await store.inbound.save_record(LINK, first, saved)
    await store.inbound.save_record(LINK, first)
    assert (await store.inbound.locate(LINK)).record == first, "without a revision it takes the place of any"


@pytest.mark.parametrize("spoilt", [None, b"\x00"], ids=["deleted", "spoilt"])
async def test_a_record_that_is_lost_keeps_a_revision(store: Store, spoilt: bytes | None) -> None:
    fence = await ready(store)
    saved = await store.inbound.save_record(LINK, record_at(fence, Cursor(EPOCH, None, None, 0)))
    await (store.delete_record(LINK) if spoilt is None else store.set_record(LINK, spoilt))
    position = await store.inbound.locate(LINK)
    assert position.record is None and position.revision > saved
    await store.inbound.save_record(LINK, record_at(fence, Cursor(EPOCH, None, None, 0)), position.revision)


@pytest.mark.parametrize("has_record", [True, False], ids=["with a record", "with facts"])
async def test_a_link_that_lost_all_is_told_from_one_that_never_was(store: Store, has_record: bool) -> None:
    fence = await ready(store)
    assert (await store.inbound.locate(LINK)).begun is None
    record = record_at(fence, Cursor(EPOCH, None, None, 0))
    if has_record:
        await store.inbound.save_record(LINK, record)
        await store.inbound.save_record(LINK, replace(record, init=None))
    else:
        await store.inbound.append(LINK, fence, EPOCH, facts(1, 4))
        assert (await store.inbound.locate(LINK)).begun is None, "the facts say that it has begun"
    await store.drop(INBOUND)
    await store.lose_record(LINK)
    await store.inbound.provision(LINK)
    position = await store.inbound.locate(LINK)
    assert (position.fence.local_sequence, position.record, position.revision) == (0, None, 0)
    assert position.begun == Begun(record.init if has_record else None)


async def test_a_record_that_does_not_say_where_the_link_began_leaves_that_to_what_is_known(store: Store) -> None:
    """As one is that was written after the first record was lost."""
    fence = await ready(store)
    record = record_at(fence, Cursor(EPOCH, None, None, 0))
    await store.inbound.save_record(LINK, record)
    await store.inbound.save_record(LINK, replace(record, init=None))
    position = await store.inbound.locate(LINK)
    assert (position.record, position.begun) == (replace(record, init=None), Begun(record.init))
    await store.inbound.append(LINK, fence, EPOCH, facts(1, 4))
    assert (await store.inbound.locate(LINK)).begun is None


async def test_somebody_elses_message_does_not_begin_a_link(store: Store) -> None:
    await ready(store)
    await store.put(INBOUND, SUBJECT)
    assert (await store.inbound.locate(LINK)).foreign
    await store.drop(INBOUND)
    await store.inbound.provision(LINK)
    assert (await store.inbound.locate(LINK)).begun is None


async def test_a_generation_that_is_being_built_has_a_beginning_of_its_own(store: Store) -> None:
    fence = await ready(store)
    await store.inbound.save_record(LINK, record_at(fence, Cursor(EPOCH, None, None, 0)))
    built = store.generations.inbound.building(2)
    await built.provision(LINK)
    assert (await built.locate(LINK)).begun is None


async def test_a_stream_made_again_shows_in_the_fence_beside_the_old_record(store: Store) -> None:
    fence = await store.inbound.append(LINK, await ready(store), EPOCH, facts(1, 4))
    record = record_at(fence, cursor_at(fact(4)))
    await store.inbound.save_record(LINK, record)
    await store.recreate(INBOUND)
    position = await store.inbound.locate(LINK)
    assert position.fence.created != record.created
    assert (position.fence.local_sequence, position.tip, position.record) == (0, None, record)


async def test_the_record_names_the_generation_that_is_provisioned_again(store: Store) -> None:
    fence = await ready(store)
    record = replace(record_at(fence, Cursor(EPOCH, None, None, 0)), generation=3)
    await store.inbound.save_record(LINK, record)
    await store.drop(INBOUND)
    await store.inbound.provision(LINK)
    assert (await store.inbound.locate(LINK)).fence.generation == 3


async def test_a_record_of_a_generation_that_is_gone_leaves_the_highest_that_exists(store: Store) -> None:
    fence = await ready(store)
    await store.inbound.save_record(LINK, replace(record_at(fence, Cursor(EPOCH, None, None, 0)), generation=3))
    assert (await store.inbound.locate(LINK)).fence == fence


# append


async def test_appends_go_on_from_fence_to_fence(store: Store) -> None:
    fence = await ready(store)
    for first, last in ((1, 1), (2, 40), (50, 51)):
        fence = await store.inbound.append(LINK, fence, EPOCH, facts(first, last))
    assert fence.local_sequence == 42
    position = await store.inbound.locate(LINK)
    assert (position.fence, position.messages, position.tip) == (fence, 42, cursor_at(fact(51)))


async def test_appends_under_way_at_once_stay_in_order(store: Store) -> None:
    fence = await ready(store)
    pages = [(replace(fence, local_sequence=20 * page), facts(20 * page + 1, 20 * page + 20)) for page in range(6)]
    await asyncio.gather(*(store.inbound.append(LINK, at, EPOCH, page) for at, page in pages))
    position = await store.inbound.locate(LINK)
    assert (position.messages, position.tip) == (120, cursor_at(fact(120)))


async def test_an_append_of_nothing_leaves_the_fence(store: Store) -> None:
    fence = await ready(store)
    assert await store.inbound.append(LINK, fence, EPOCH, []) == fence


@pytest.mark.parametrize("count", [1, 5], ids=["one fact", "a page"])
async def test_a_stale_fence_is_refused_and_nothing_is_stored_twice(store: Store, count: int) -> None:
    stale = await ready(store)
    fence = await store.inbound.append(LINK, stale, EPOCH, facts(1, count))
    for _ in range(3):
        with pytest.raises(Fenced):
            await store.inbound.append(LINK, stale, EPOCH, facts(1, count))
    with pytest.raises(Fenced):
        ahead = replace(fence, local_sequence=fence.local_sequence + 1)
        await store.inbound.append(LINK, ahead, EPOCH, facts(count + 1, count + 2))
    position = await store.inbound.locate(LINK)
    assert (position.fence, position.messages, position.tip) == (fence, count, cursor_at(fact(count)))
    again = await store.inbound.append(LINK, fence, EPOCH, facts(count + 1, count + 1))
    assert again.local_sequence == count + 1


async def test_a_second_writer_is_refused_by_the_first_ones_facts(store: Store) -> None:
    fence = await ready(store)
    results = await asyncio.gather(
        *(store.inbound.append(LINK, fence, EPOCH, facts(1, 10)) for _ in range(2)), return_exceptions=True
    )
    assert sorted(type(result).__name__ for result in results) == ["Fence", "Fenced"]
    assert (await store.inbound.locate(LINK)).messages == 10


async def test_a_foreign_message_in_between_is_a_fence(store: Store) -> None:
    fence = await store.inbound.append(LINK, await ready(store), EPOCH, facts(1, 2))
    await store.put(INBOUND, SUBJECT, b"", b"x")
    with pytest.raises(Fenced):
        await store.inbound.append(LINK, fence, EPOCH, facts(3, 4))


@pytest.mark.parametrize("count", [0, 3], ids=["empty", "at the same sequence"])
async def test_a_stream_made_again_refuses_the_old_fence(store: Store, count: int) -> None:
    fence = await ready(store)
    fence = await store.inbound.append(LINK, fence, EPOCH, facts(1, count))
    await store.recreate(INBOUND)
    for number in range(count):
        await store.put(INBOUND, SUBJECT, origin(), b"%d" % number)
    with pytest.raises(Fenced):
        await store.inbound.append(LINK, fence, EPOCH, facts(count + 1, count + 2))
    position = await store.inbound.locate(LINK)
    assert position.messages == count
    await store.inbound.append(LINK, position.fence, EPOCH, facts(count + 1, count + 2))


async def test_a_stream_that_is_gone_refuses_the_fence(store: Store) -> None:
    fence = await ready(store)
    await store.drop(INBOUND)
    with pytest.raises(Fenced):
        await store.inbound.append(LINK, fence, EPOCH, facts(1, 2))


@pytest.mark.parametrize("count", [1, 40], ids=["one fact", "a page"])
async def test_a_full_stream_refuses_and_goes_on_when_there_is_room(store: Store, count: int) -> None:
    fence = await store.inbound.append(LINK, await ready(store), EPOCH, facts(1, 4))
    await store.limit(INBOUND, 1000)
    large = [fact(sequence, payload=b"x" * 1500) for sequence in range(5, 5 + count)]
    with pytest.raises(StoreFull):
        await store.inbound.append(LINK, fence, EPOCH, large)
    position = await store.inbound.locate(LINK)
    assert (position.fence, position.tip) == (fence, cursor_at(fact(4)))
    await store.limit(INBOUND, 10_000_000)
    fence = await store.inbound.append(LINK, position.fence, EPOCH, large)
    assert fence.local_sequence == 4 + count


@pytest.mark.parametrize(
    "hostile",
    [
        fact(2, headers=b"Nats-Rollup: all\r\n"),
        fact(2, headers=b"Bsfg-Origin: forged\r\n"),
        fact(2, headers=b"A: 1\r\nB"),
        Fact(2, "facts.other.x", TIME, b"", b"x"),
        Fact(2, f"{STREAM}.*", TIME, b"", b"x"),
        Fact(2, f"{STREAM}.a b", TIME, b"", b"x"),
    ],
    ids=["rollup", "forged origin", "cut header", "other stream", "wildcard", "space"],
)
async def test_a_fact_that_no_honest_peer_sends_is_refused_before_anything_is_stored(
    store: Store, hostile: Fact
) -> None:
    fence = await ready(store)
    with pytest.raises(BsfgError) as raised:
        await store.inbound.append(LINK, fence, EPOCH, [fact(1), hostile])
    assert raised.value.code is Code.BAD_ANSWER
    assert raised.value.details["sequence"] == 2
    assert (await store.inbound.locate(LINK)).messages == 0
    assert (await store.inbound.append(LINK, fence, EPOCH, [fact(1)])).local_sequence == 1
