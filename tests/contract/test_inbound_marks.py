"""The port ``InboundMarks``: a mark is another one whenever anything is added to the stream or removed from it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from tests.contract.stores import INBOUND, LINK, SUBJECT, JetStreamStore, MemoryStore, Store
from tests.contract.test_generations import PLAN
from tests.contract.test_inbound_log import EPOCH, facts, ready

from bsfg.model.cursor import LinkName, StreamMark
from bsfg.model.names import StreamName, ZoneId
from bsfg.ports import InboundMarks
from bsfg.substrates.inbound_marks import JetStreamInboundMarks
from bsfg.substrates.memory_marks import MemoryInboundMarks

OTHERS = [LinkName(ZoneId("enterprise"), StreamName(f"facts.s{number}")) for number in range(300)]

Hand = Callable[[Store], Awaitable[object]]


def marks_of(store: Store) -> InboundMarks:
    if isinstance(store, MemoryStore):
        return MemoryInboundMarks(store.zone, [LINK, *OTHERS])
    assert isinstance(store, JetStreamStore)
    return JetStreamInboundMarks(store.control)


async def mark(store: Store) -> StreamMark:
    return (await marks_of(store).marks())[LINK]


async def test_a_mark_stays_while_nothing_happens_and_fits_what_is_read(store: Store) -> None:
    await store.inbound.append(LINK, await ready(store), EPOCH, facts(1, 5))
    before = await mark(store)
    assert before.fits(await store.inbound.locate(LINK))
    assert await mark(store) == before
    assert (before.first_sequence, before.messages, before.removed) == (1, 5, 0)


async def test_a_stream_without_a_fact_has_a_mark(store: Store) -> None:
    await ready(store)
    assert (await mark(store)).fits(await store.inbound.locate(LINK))


HANDS: dict[str, Hand] = {
    "a fact is appended": lambda store: _append(store),
    "somebody else writes": lambda store: store.put(INBOUND, SUBJECT, payload=b"by hand"),
    "the last is deleted": lambda store: store.delete(INBOUND, 5),
    "one between is deleted": lambda store: store.delete(INBOUND, 3),
    "the first is deleted": lambda store: store.delete(INBOUND, 1),
    "the first are purged": lambda store: store.purge(INBOUND, 3),
    "all is purged": lambda store: store.purge(INBOUND),
    "the stream is made again": lambda store: store.recreate(INBOUND),
}


async def _append(store: Store) -> None:
    await store.inbound.append(LINK, (await store.inbound.locate(LINK)).fence, EPOCH, facts(6, 6))


@pytest.mark.parametrize("hand", HANDS.values(), ids=list(HANDS))
async def test_whatever_happens_to_a_stream_changes_its_mark(store: Store, hand: Hand) -> None:
    await store.inbound.append(LINK, await ready(store), EPOCH, facts(1, 5))
    before, position = await mark(store), await store.inbound.locate(LINK)
    await hand(store)
    assert await mark(store) != before
    assert not (await mark(store)).fits(position)


async def test_a_link_without_a_stream_has_no_mark(store: Store) -> None:
    await ready(store)
    await store.drop(INBOUND)
    assert LINK not in await marks_of(store).marks()


async def test_a_link_with_two_generations_has_no_mark(store: Store) -> None:
    await store.inbound.append(LINK, await ready(store), EPOCH, facts(1, 5))
    assert LINK in await marks_of(store).marks()
    await store.generations.open(LINK, PLAN)
    assert LINK not in await marks_of(store).marks()


async def test_more_streams_than_one_answer_holds_all_have_marks(store: Store) -> None:
    await store.create(StreamName("facts.of_our_own"))
    for link in (LINK, *OTHERS):
        await store.inbound.provision(link)
    assert set(await marks_of(store).marks()) == {LINK, *OTHERS}
