"""Generations of an inbound stream: what exists, what is being built, and what each holds."""

from __future__ import annotations

import pytest
from tests.contract.stores import INBOUND, LINK, SUBJECT, Store
from tests.contract.test_inbound_log import EPOCH, TIME, cursor_at, facts, ready, record_at

from bsfg.errors import BsfgError, Code
from bsfg.model.cursor import Cursor, LinkRecord
from bsfg.model.fact import digest
from bsfg.model.names import inbound_physical
from bsfg.substrates.generations import EPOCHS_MAX, Plan

PLAN = Plan(2, "rewind", EPOCH, 3, "because", TIME, TIME)
SECOND = inbound_physical(LINK.peer, LINK.stream, 2)


async def with_facts(store: Store, last: int = 5) -> None:
    await store.inbound.append(LINK, await ready(store), EPOCH, facts(1, last))


async def test_a_plan_comes_back_until_it_ends_and_its_number_is_never_used_again(store: Store) -> None:
    await with_facts(store)
    assert await store.generations.next_number(LINK) == 2
    await store.generations.save_plan(LINK, PLAN)
    assert await store.generations.plan(LINK) == PLAN
    assert await store.generations.plans() == {LINK: PLAN}
    await store.generations.end_plan(LINK)
    assert await store.generations.plan(LINK) is None and await store.generations.plans() == {}
    assert await store.generations.next_number(LINK) == 3


async def test_a_link_without_anything_begins_with_the_first_number(store: Store) -> None:
    assert await store.generations.next_number(LINK) == 1
    assert await store.generations.plan(LINK) is None
    assert await store.generations.rows(LINK) == []


async def test_what_is_being_built_begins_where_its_plan_says_and_is_not_in_force(store: Store) -> None:
    await with_facts(store)
    log = await store.generations.open(LINK, PLAN)
    position = await log.locate(LINK)
    assert (position.fence.generation, position.fence.local_sequence) == (2, 0)
    assert position.record is not None and position.record.cursor == Cursor(EPOCH, None, None, 2)
    assert position.record.init is not None and position.record.init.start_sequence == 3
    await log.append(LINK, position.fence, EPOCH, facts(3, 5))
    assert await store.generations.inbound.in_force(LINK) == 1
    assert (await store.inbound.locate(LINK)).fence.generation == 1
    rows = await store.generations.rows(LINK)
    assert [(row.generation, row.jetstream, row.is_building, row.messages) for row in rows] == [
        (1, INBOUND, False, 5),
        (2, SECOND, True, 3),
    ]


async def test_what_was_begun_is_opened_again_as_it_is(store: Store) -> None:
    await with_facts(store)
    log = await store.generations.open(LINK, PLAN)
    fence = await log.append(LINK, (await log.locate(LINK)).fence, EPOCH, facts(3, 4))
    again = await (await store.generations.open(LINK, PLAN)).locate(LINK)
    assert again.fence == fence and again.record is not None and again.record.local_sequence == 0


async def test_a_complete_generation_is_in_force_by_the_record_alone(store: Store) -> None:
    await with_facts(store)
    before = (await store.inbound.locate(LINK)).fence
    await store.inbound.save_record(LINK, record_at(before, cursor_at(facts(5, 5)[0])))
    log = await store.generations.open(LINK, PLAN)
    fence = await log.append(LINK, (await log.locate(LINK)).fence, EPOCH, facts(3, 5))
    await store.generations.complete(LINK, 2)
    assert await store.generations.inbound.in_force(LINK) == 1
    record = LinkRecord(2, fence.created, 3, cursor_at(facts(5, 5)[0]), None)
    await store.inbound.save_record(LINK, record)
    position = await store.inbound.locate(LINK)
    assert (position.fence, position.record) == (fence, record)


async def test_without_a_record_the_highest_complete_generation_counts(store: Store) -> None:
    await with_facts(store)
    await store.generations.open(LINK, PLAN)
    assert await store.generations.inbound.in_force(LINK) == 1
    await store.generations.complete(LINK, 2)
    assert await store.generations.inbound.in_force(LINK) == 2


async def test_provisioning_leaves_what_is_being_built_alone(store: Store) -> None:
    await store.generations.open(LINK, PLAN)
    with pytest.raises(BsfgError) as raised:
        await store.inbound.locate(LINK)
    assert raised.value.code is Code.NOT_FOUND
    await store.inbound.provision(LINK)
    assert (await store.inbound.locate(LINK)).fence.generation == 1
    assert [row.is_building for row in await store.generations.rows(LINK)] == [False, True]


async def test_dropping_takes_one_generation_and_a_second_time_nothing(store: Store) -> None:
    await with_facts(store)
    await store.generations.open(LINK, PLAN)
    await store.generations.drop(LINK, 2)
    await store.generations.drop(LINK, 2)
    assert [row.generation for row in await store.generations.rows(LINK)] == [1]
    assert (await store.inbound.locate(LINK)).fence.local_sequence == 5


async def test_a_link_that_is_forgotten_is_as_new(store: Store) -> None:
    fence = await ready(store)
    await store.inbound.save_record(LINK, record_at(fence, Cursor(EPOCH, None, None, 0)))
    await store.generations.forget(LINK)
    position = await store.inbound.locate(LINK)
    assert (position.record, position.revision, position.begun) == (None, 0, None)
    await store.generations.forget(LINK)


async def test_the_epochs_that_a_generation_has_left_are_known_and_bounded(store: Store) -> None:
    await with_facts(store)
    assert await store.generations.past_epochs(LINK, 1) == []
    for number in (1, 2, 1):
        await store.generations.leave_epoch(LINK, 1, f"e{number}")
    assert await store.generations.past_epochs(LINK, 1) == ["e1", "e2"]
    for number in range(3, EPOCHS_MAX + 3):
        await store.generations.leave_epoch(LINK, 1, f"e{number}")
    past = await store.generations.past_epochs(LINK, 1)
    assert len(past) == EPOCHS_MAX and past[-1] == f"e{EPOCHS_MAX + 2}" and "e1" not in past


async def test_facts_come_with_coordinates_and_digest_from_a_place_on(store: Store) -> None:
    await with_facts(store)
    found = await store.generations.facts(LINK, 1, 2, 3)
    assert [(fact.local_sequence, fact.epoch, fact.sequence) for fact in found] == [
        (number, EPOCH, number) for number in (2, 3, 4)
    ]
    assert [fact.digest for fact in found] == [digest(fact) for fact in facts(2, 4)]
    assert await store.generations.facts(LINK, 1, 6, 3) == []


async def test_what_somebody_else_wrote_has_no_coordinates(store: Store) -> None:
    await with_facts(store, 1)
    await store.put(INBOUND, f"{SUBJECT}.x", b"", b"not ours")
    found = await store.generations.facts(LINK, 1, 1, 5)
    assert [fact.sequence for fact in found] == [1, None]
    assert await store.generations.first_at(LINK, 1, EPOCH, 1) == 1


@pytest.mark.parametrize(("wanted", "first"), [(1, 1), (7, 3), (9, 5), (10, 6)])
async def test_where_an_origin_sequence_begins(store: Store, wanted: int, first: int) -> None:
    fence = await store.inbound.append(LINK, await ready(store), EPOCH, facts(1, 2))
    await store.inbound.append(LINK, fence, EPOCH, facts(7, 9))
    assert await store.generations.first_at(LINK, 1, EPOCH, wanted) == first
