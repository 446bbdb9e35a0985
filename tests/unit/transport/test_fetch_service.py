"""The sender's rules over the in-memory store: agreement, gaps, confirms, pages, and the caller asked again."""

from __future__ import annotations

import asyncio
import gc
from dataclasses import dataclass, field, replace
from typing import Any
from weakref import ReferenceType, ref

import pytest
from tests.support.patience import patience

from bsfg.errors import BsfgError, SubstrateUnavailable
from bsfg.model.cursor import Cursor, parse_init_mode
from bsfg.model.fact import Fact, digest
from bsfg.model.moment import NANOSECONDS
from bsfg.model.names import StreamName, ZoneId
from bsfg.model.page import Agreement, FetchRequest, LogDescription, LogSlice, Page, PageLimits
from bsfg.model.policy import ReadStream
from bsfg.ports import Confirmed
from bsfg.substrates.memory import MemoryZone
from bsfg.transport import served_log
from bsfg.transport.access import stream_denied
from bsfg.transport.fetch_service import FetchService
from bsfg.transport.wire import ConfirmCall, FetchCall

STREAM = StreamName("facts.operational")
ABSENT = StreamName("facts.absent")
DENIED = StreamName("facts.denied")
PEER = ZoneId("plant-a")
JETSTREAM = "facts_operational"
HOUR = 3600 * NANOSECONDS


@dataclass
class Clock:
    """Wall time stands where the test puts it; waiting is real."""

    wall: int = 1_700_000_000 * NANOSECONDS

    def now(self) -> int:
        return self.wall

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


@dataclass
class Asker:
    """A caller whose permission the test takes away."""

    allowed: frozenset[StreamName] = frozenset({STREAM, ABSENT})
    demands: int = 0
    change: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def peer(self) -> ZoneId:
        return PEER

    @property
    def streams(self) -> frozenset[StreamName]:
        return self.allowed

    def demand(self, wish: ReadStream) -> None:
        self.demands += 1
        if wish.stream not in self.allowed:
            raise stream_denied(wish.stream)

    async def changed(self) -> None:
        await self.change.wait()
        self.change.clear()

    def narrow(self) -> None:
        self.allowed = frozenset()
        self.change.set()


class House:
    """A sender with five facts, one an hour, and whoever asks it."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.zone = MemoryZone(self.clock)
        self.zone.create(STREAM)
        self.zone.create(DENIED)
        for number in range(1, 6):
            self.clock.wall += HOUR
            self.zone.publish(STREAM, "batch", payload=b"fact %d" % number)
        self.asker = Asker()
        self.service = FetchService(self.zone, self.zone, self.clock)

    async def fetch(self, stream: StreamName = STREAM, **request: Any) -> Page:
        limits = request.pop("limits", PageLimits())
        return await self.service.fetch(self.asker, FetchRequest(stream, limits, **request))

    async def start(self, mode: str = "full_backfill", timestamp: str | None = None) -> Page:
        return await self.fetch(start=parse_init_mode(mode, timestamp))

    async def cursor(self, sequence: int, scanned_through: int | None = None) -> Cursor:
        """The honest cursor at this fact."""
        fact = await self.zone.fact_at(STREAM, sequence)
        assert fact is not None
        epoch = (await self.zone.describe(STREAM)).epoch
        return Cursor(epoch, sequence, digest(fact), scanned_through or sequence)

    async def confirm(self, sequence: int, **changes: Any) -> int:
        cursor = await self.cursor(sequence)
        assert cursor.digest is not None
        call = ConfirmCall(STREAM, cursor.epoch, sequence, cursor.digest)
        return await self.service.confirm(self.asker, replace(call, **changes))


@pytest.fixture
def house() -> House:
    return House()


def restore_another_history(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store has other facts under the same sequences."""
    fact_at = house.zone.fact_at

    async def restored(stream: StreamName, sequence: int) -> Fact | None:
        fact = await fact_at(stream, sequence)
        return fact and fact._replace(payload=b"another")

    monkeypatch.setattr(house.zone, "fact_at", restored)


async def refusal(awaitable: Any) -> BsfgError:
    with pytest.raises(BsfgError) as caught:
        await awaitable
    return caught.value


async def test_a_first_fetch(house: House) -> None:
    page = await house.start()
    assert [fact.sequence for fact in page.facts] == [1, 2, 3, 4, 5]
    assert (page.agreement, page.start_sequence, page.scanned_through, page.head) == (
        Agreement.EPOCH,
        1,
        5,
        5,
    )
    assert (page.pending, page.next_time, page.sender_time) == (0, None, house.clock.wall)


@pytest.mark.parametrize(
    ("mode", "timestamp", "first"),
    [
        ("full_backfill", None, 1),
        ("start_now", None, 6),
        ("bounded_backfill_2h", None, 3),
        ("bounded_backfill_1000h", None, 1),
        ("explicit_timestamp", "2023-11-15T02:13:20Z", 4),
        ("explicit_timestamp", "2030-01-01T00:00:00Z", 6),
    ],
)
async def test_where_each_mode_starts(house: House, mode: str, timestamp: str | None, first: int) -> None:
    page = await house.start(mode, timestamp)
    assert page.start_sequence == first
    assert [fact.sequence for fact in page.facts] == list(range(first, 6))


async def test_a_page_in_part_says_what_is_pending(house: House) -> None:
    page = await house.fetch(start=parse_init_mode("full_backfill"), limits=PageLimits(facts=2))
    description = await house.zone.describe(STREAM)
    third = await house.zone.fact_at(STREAM, 3)
    assert third is not None
    assert (page.scanned_through, page.pending, page.next_time) == (2, 3, third.time)
    assert page.pending_bytes == 3 * description.bytes // 5


async def test_exact_agreement_by_the_fact_itself(house: House) -> None:
    page = await house.fetch(after=await house.cursor(2))
    assert (page.agreement, page.start_sequence) == (Agreement.EXACT, 3)
    assert [fact.sequence for fact in page.facts] == [3, 4, 5]


async def test_another_fact_at_the_cursor_is_a_mismatch(house: House) -> None:
    cursor = replace(await house.cursor(2), digest="0" * 64)
    assert (await refusal(house.fetch(after=cursor))).code.label == "history_mismatch"


async def test_another_epoch_is_a_mismatch(house: House) -> None:
    cursor = replace(await house.cursor(2), epoch="other")
    assert (await refusal(house.fetch(after=cursor))).code.label == "history_mismatch"
    quiet = Cursor("other", None, None, 0)
    assert (await refusal(house.fetch(after=quiet))).code.label == "history_mismatch"


async def test_a_stream_made_again_is_a_mismatch(house: House) -> None:
    cursor = await house.cursor(2)
    house.zone.recreate(JETSTREAM)
    for _ in range(5):
        house.zone.publish(STREAM, "batch", payload=b"other")
    assert (await refusal(house.fetch(after=cursor))).code.label == "history_mismatch"


async def test_a_deleted_fact_leaves_agreement_by_epoch(house: House) -> None:
    cursor = await house.cursor(2)
    house.zone.delete(JETSTREAM, 2)
    page = await house.fetch(after=cursor)
    assert (page.agreement, [fact.sequence for fact in page.facts]) == (Agreement.EPOCH, [3, 4, 5])


async def test_a_confirm_keeps_agreement_exact_after_the_fact_is_gone(house: House) -> None:
    cursor = await house.cursor(2)
    await house.confirm(2)
    house.zone.delete(JETSTREAM, 2)
    assert (await house.fetch(after=cursor)).agreement is Agreement.EXACT
    wrong = replace(cursor, digest="0" * 64)
    assert (await refusal(house.fetch(after=wrong))).code.label == "history_mismatch"


async def test_a_confirm_of_another_fact_does_not_decide(house: House) -> None:
    cursor = await house.cursor(2)
    await house.confirm(3)
    house.zone.delete(JETSTREAM, 2)
    assert (await house.fetch(after=cursor)).agreement is Agreement.EPOCH


async def test_a_confirm_of_another_epoch_does_not_decide(house: House) -> None:
    cursor = await house.cursor(2)
    await house.zone.save(PEER, STREAM, Confirmed("other", 2, "0" * 64, 0))
    house.zone.delete(JETSTREAM, 2)
    assert (await house.fetch(after=cursor)).agreement is Agreement.EPOCH


async def test_a_link_without_facts_agrees_by_epoch(house: House) -> None:
    epoch = (await house.zone.describe(STREAM)).epoch
    page = await house.fetch(after=Cursor(epoch, None, None, 2))
    assert (page.agreement, page.start_sequence) == (Agreement.EPOCH, 3)


async def test_a_cursor_beyond_the_head_is_ahead_of_source(house: House) -> None:
    error = await refusal(house.fetch(after=await house.cursor(5, scanned_through=6)))
    assert (error.code.label, error.details["head"]) == ("ahead_of_source", 5)
    assert (await house.fetch(after=await house.cursor(5))).facts == []


async def test_a_gap_is_exact(house: House) -> None:
    cursor = await house.cursor(1)
    house.zone.purge(JETSTREAM, below=4)
    error = await refusal(house.fetch(after=cursor))
    assert (error.code.label, error.details["from"], error.details["to"]) == ("gap", 2, 3)
    page = await house.fetch(after=cursor, accept_gap=(2, 3))
    assert [fact.sequence for fact in page.facts] == [4, 5]


@pytest.mark.parametrize("gap", [(2, 2), (2, 4), (1, 3), (3, 3)])
async def test_only_exactly_that_gap_is_accepted(house: House, gap: tuple[int, int]) -> None:
    cursor = await house.cursor(1)
    house.zone.purge(JETSTREAM, below=4)
    assert (await refusal(house.fetch(after=cursor, accept_gap=gap))).code.label == "gap"


async def test_what_was_scanned_is_no_gap(house: House) -> None:
    cursor = await house.cursor(1, scanned_through=3)
    house.zone.purge(JETSTREAM, below=4)
    assert [fact.sequence for fact in (await house.fetch(after=cursor)).facts] == [4, 5]


async def test_a_purged_stream_is_a_gap_to_its_end(house: House) -> None:
    cursor = await house.cursor(2)
    house.zone.purge(JETSTREAM)
    error = await refusal(house.fetch(after=cursor))
    assert (error.code.label, error.details["from"], error.details["to"]) == ("gap", 3, 5)


async def test_a_deleted_fact_in_the_middle_is_no_gap(house: House) -> None:
    cursor = await house.cursor(1)
    house.zone.delete(JETSTREAM, 3)
    assert [fact.sequence for fact in (await house.fetch(after=cursor)).facts] == [2, 4, 5]


async def test_denied_and_absent_are_the_same_words(house: House) -> None:
    start = parse_init_mode("full_backfill")
    denied = await refusal(house.fetch(DENIED, start=start))
    absent = await refusal(house.fetch(ABSENT, start=start))
    shown = str(absent.as_json()).replace(ABSENT, DENIED)
    assert str(denied.as_json()) == shown
    confirm = ConfirmCall(DENIED, "e1", 1, "0" * 64)
    denied = await refusal(house.service.confirm(house.asker, confirm))
    absent = await refusal(house.service.confirm(house.asker, replace(confirm, stream=ABSENT)))
    assert str(denied.as_json()) == str(absent.as_json()).replace(ABSENT, DENIED)


async def test_the_list_has_what_is_allowed_and_there(house: House) -> None:
    rows = await house.service.streams(house.asker)
    description = await house.zone.describe(STREAM)
    assert rows == [
        {
            "stream": STREAM,
            "epoch": description.epoch,
            "first_sequence": 1,
            "last_sequence": 5,
            "first_time": "2023-11-14T23:13:20.000000000Z",
            "last_time": "2023-11-15T03:13:20.000000000Z",
        }
    ]


async def test_an_empty_stream_has_no_times(house: House) -> None:
    house.asker.allowed = frozenset({DENIED})
    row = (await house.service.streams(house.asker))[0]
    assert (row["last_sequence"], row["first_time"], row["last_time"]) == (0, None, None)


async def test_confirms_only_grow(house: House) -> None:
    assert await house.confirm(2) == 2
    assert await house.confirm(4) == 4
    assert await house.confirm(3) == 4
    assert await house.confirm(4) == 4
    kept = await house.zone.load(PEER, STREAM)
    assert kept is not None
    assert (kept.sequence, kept.digest) == (4, (await house.cursor(4)).digest)


async def test_confirms_in_a_heap_only_grow(house: House) -> None:
    """Each reads before another writes, unless they take turns."""
    load = house.zone.load

    async def slow_load(peer: ZoneId, stream: StreamName) -> Confirmed | None:
        known = await load(peer, stream)
        await asyncio.sleep(0.01)
        return known

    house.zone.load = slow_load  # type: ignore[method-assign]
    await asyncio.gather(*(house.confirm(sequence) for sequence in (3, 5, 1, 4, 2)))
    kept = await house.zone.load(PEER, STREAM)
    assert kept is not None
    assert kept.sequence == 5


async def test_confirms_that_can_not_be(house: House) -> None:
    assert (await refusal(house.confirm(5, epoch="other"))).code.label == "history_mismatch"
    beyond = ConfirmCall(STREAM, (await house.cursor(5)).epoch, 6, "0" * 64)
    assert (await refusal(house.service.confirm(house.asker, beyond))).code.label == "ahead_of_source"
    assert (await refusal(house.confirm(5, digest="0" * 64))).code.label == "history_mismatch"
    assert await house.zone.load(PEER, STREAM) is None


async def test_a_confirm_of_a_new_epoch_replaces_the_old_one(house: House) -> None:
    await house.zone.save(PEER, STREAM, Confirmed("old", 99, "0" * 64, 0))
    assert await house.confirm(2) == 2


async def as_it_is(page: Page) -> Page:
    return page


async def collected(house: House, pages: int, limits: PageLimits) -> list[Page]:
    request = FetchRequest(STREAM, limits, start=parse_init_mode("full_backfill"))
    return [page async for page in house.service.pages(house.asker, FetchCall(request, pages), as_it_is)]


async def test_pages_continue_each_other(house: House) -> None:
    pages = await collected(house, 16, PageLimits(facts=2, wait_seconds=5))
    assert [[fact.sequence for fact in page.facts] for page in pages] == [[1, 2], [3, 4], [5]]
    assert [page.start_sequence for page in pages] == [1, 3, 5]
    assert [page.agreement for page in pages] == [Agreement.EPOCH, Agreement.EXACT, Agreement.EXACT]


async def test_no_more_pages_than_asked_for(house: House) -> None:
    assert len(await collected(house, 2, PageLimits(facts=2))) == 2


class Watched(list[Fact]):
    """Facts of which one can be told when they are gone."""


async def test_no_page_is_kept_beside_the_form_in_which_it_goes_out(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, alive = house.zone.read, list[ReferenceType[Watched]]()

    async def watched(*arguments: Any) -> LogSlice:
        seen = await read(*arguments)
        return replace(seen, facts=Watched(seen.facts))

    async def formed(page: Page) -> int:
        assert isinstance(page.facts, Watched)
        alive.append(ref(page.facts))
        return len(page.facts)

    monkeypatch.setattr(house.zone, "read", watched)
    request = FetchRequest(STREAM, PageLimits(facts=2), start=parse_init_mode("full_backfill"))
    gc.disable()
    try:
        async for count in house.service.pages(house.asker, FetchCall(request, 16), formed):
            await asyncio.sleep(0.05)
            assert count and alive[-1]() is None
    finally:
        gc.enable()
    assert len(alive) == 3


async def test_pages_end_where_the_permission_ends(house: House) -> None:
    request = FetchRequest(STREAM, PageLimits(facts=2), start=parse_init_mode("full_backfill"))
    seen = []
    async for page in house.service.pages(house.asker, FetchCall(request, 16), as_it_is):
        seen.append(page)
        house.asker.narrow()
    assert len(seen) == 1


async def test_pages_end_before_a_gap(house: House) -> None:
    request = FetchRequest(STREAM, PageLimits(facts=2), start=parse_init_mode("full_backfill"))
    seen = []
    async for page in house.service.pages(house.asker, FetchCall(request, 16), as_it_is):
        seen.append(page)
        house.zone.purge(JETSTREAM, below=5)
    assert [fact.sequence for page in seen for fact in page.facts] == [1, 2]


async def test_a_refused_first_page_is_raised(house: House) -> None:
    house.asker.narrow()
    assert (await refusal(collected(house, 3, PageLimits()))).code.label == "stream_denied"


async def test_a_held_poll_ends_with_the_next_fact(house: House) -> None:
    polling = asyncio.create_task(
        house.fetch(after=await house.cursor(5), limits=PageLimits(wait_seconds=20))
    )
    await asyncio.sleep(0.05)
    house.zone.publish(STREAM, "batch", payload=b"fact 6")
    page = await asyncio.wait_for(polling, 1 * patience())
    assert [fact.sequence for fact in page.facts] == [6]


async def test_a_reader_waits_for_facts_while_both_agree_and_gives_none_where_they_do_not(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, describe, reads = house.zone.read, house.zone.describe, asyncio.Event()
    cursor = await house.cursor(3)

    async def noticed(stream: StreamName, after: int, limits: PageLimits) -> LogSlice:
        reads.set()
        return await read(stream, after, limits)

    async def late(stream: StreamName) -> LogDescription:
        await asyncio.wait_for(reads.wait(), 1)
        return await describe(stream)

    monkeypatch.setattr(house.zone, "read", noticed)
    monkeypatch.setattr(house.zone, "describe", late)
    assert len((await house.fetch(after=cursor)).facts) == 2
    other = replace(cursor, digest="0" * 64)
    assert (await refusal(house.fetch(after=other))).code.label == "history_mismatch"
    held = house.fetch(after=replace(other, scanned_through=5), limits=PageLimits(wait_seconds=20))
    assert (await refusal(asyncio.wait_for(held, 1))).code.label == "history_mismatch"


async def test_a_held_poll_ends_with_its_permission(house: House) -> None:
    polling = asyncio.create_task(
        house.fetch(after=await house.cursor(5), limits=PageLimits(wait_seconds=20))
    )
    await asyncio.sleep(0.05)
    house.asker.narrow()
    error = await refusal(asyncio.wait_for(polling, 1 * patience()))
    assert error.code.label == "stream_denied"


async def test_a_held_poll_outlives_a_change_that_is_not_its_own(house: House) -> None:
    polling = asyncio.create_task(
        house.fetch(after=await house.cursor(5), limits=PageLimits(wait_seconds=20))
    )
    await asyncio.sleep(0.05)
    house.asker.change.set()
    await asyncio.sleep(0.05)
    assert not polling.done()
    house.zone.publish(STREAM, "batch", payload=b"fact 6")
    assert len((await asyncio.wait_for(polling, 1 * patience())).facts) == 1


async def test_a_held_poll_without_facts_is_answered_empty(house: House) -> None:
    page = await house.fetch(after=await house.cursor(5), limits=PageLimits(wait_seconds=0.1))
    assert (page.facts, page.scanned_through, page.start_sequence) == ([], 5, 6)


async def test_facts_of_a_stream_made_again_meanwhile_are_not_given_away(house: House) -> None:
    polling = asyncio.create_task(house.fetch(after=await house.cursor(5), limits=PageLimits(wait_seconds=1)))
    await asyncio.sleep(0.05)
    house.zone.recreate(JETSTREAM)
    for _ in range(7):
        house.zone.publish(STREAM, "batch", payload=b"other")
    assert (await refusal(asyncio.wait_for(polling, 5 * patience()))).code.label == "history_mismatch"


async def test_facts_of_a_restored_stream_are_not_given_away_behind_a_fact_that_it_lacks(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy of yesterday has the epoch of today, and may have other facts under the same sequences."""
    polling = asyncio.create_task(house.fetch(after=await house.cursor(5), limits=PageLimits(wait_seconds=5)))
    await asyncio.sleep(0.05)
    restore_another_history(house, monkeypatch)
    house.zone.publish(STREAM, "batch", payload=b"new")
    assert (await refusal(polling)).code.label == "history_mismatch"


async def test_where_a_reader_vouches_for_its_log_nothing_is_looked_at_again(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, describe, looks, purges = house.zone.read, house.zone.describe, 0, False
    cursor = await house.cursor(3)

    async def vouched(stream: StreamName, after: int, limits: PageLimits) -> LogSlice:
        if purges:
            house.zone.purge(JETSTREAM, below=5)
        return replace(await read(stream, after, limits), is_continuous=True)

    async def counted(stream: StreamName) -> LogDescription:
        nonlocal looks
        looks += 1
        return await describe(stream)

    monkeypatch.setattr(house.zone, "read", vouched)
    monkeypatch.setattr(house.zone, "describe", counted)
    page = await house.fetch(after=cursor)
    assert ([fact.sequence for fact in page.facts], looks) == ([4, 5], 1)
    # It can't vouch for facts that expired before it got there.
    purges = True
    assert (await refusal(house.fetch(after=cursor))).code.label == "gap"


@pytest.fixture
def readers() -> list[str]:
    """Who reads in the house."""
    return ["the first"]


@pytest.fixture
def vouching(house: House, readers: list[str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The house's store vouches for what it reads; what else it is asked."""
    read, describe, fact_at = house.zone.read, house.zone.describe, house.zone.fact_at
    asked: list[str] = []

    async def vouched(stream: StreamName, after: int, limits: PageLimits) -> LogSlice:
        return replace(await read(stream, after, limits), is_continuous=True, reader=readers[0])

    async def counted(stream: StreamName) -> LogDescription:
        asked.append("describe")
        return await describe(stream)

    async def looked(stream: StreamName, sequence: int) -> Fact | None:
        asked.append("fact_at")
        return await fact_at(stream, sequence)

    monkeypatch.setattr(house.zone, "read", vouched)
    monkeypatch.setattr(house.zone, "describe", counted)
    monkeypatch.setattr(house.zone, "fact_at", looked)
    return asked


def behind(page: Page) -> Cursor:
    """The receiver's cursor once it has stored this page."""
    last = page.facts[-1]
    return Cursor(page.epoch, last.sequence, digest(last), page.scanned_through)


async def test_behind_the_last_page_the_store_is_asked_for_facts_alone(house: House, vouching: list[str]) -> None:
    cursor = behind(await house.fetch(after=await house.cursor(3)))
    for number in range(3):
        vouching.clear()
        house.zone.publish(STREAM, "batch", payload=b"new")
        page = await house.fetch(after=cursor)
        assert (page.agreement, [fact.sequence for fact in page.facts], vouching) == (Agreement.EXACT, [6 + number], [])
        cursor = behind(page)


async def test_another_cursor_than_that_of_the_last_page_is_looked_at(house: House, vouching: list[str]) -> None:
    cursor = behind(await house.fetch(after=await house.cursor(3)))
    house.zone.publish(STREAM, "batch", payload=b"new")
    for other in (replace(cursor, digest="0" * 64), replace(cursor, epoch="another")):
        assert (await refusal(house.fetch(after=other))).code.label == "history_mismatch"


async def test_what_another_reader_vouches_for_is_looked_at(
    house: House, readers: list[str], vouching: list[str]
) -> None:
    """It may stand in a history that began after the last page."""
    cursor = behind(await house.fetch(after=await house.cursor(3)))
    house.zone.publish(STREAM, "batch", payload=b"new")
    for reader in ("another", ""):
        readers[0] = reader
        vouching.clear()
        assert (await house.fetch(after=cursor)).facts and vouching == ["describe", "fact_at"]


async def test_without_new_facts_the_store_is_looked_at(house: House, vouching: list[str]) -> None:
    cursor = behind(await house.fetch(after=await house.cursor(3)))
    vouching.clear()
    assert not (await house.fetch(after=cursor)).facts and "describe" in vouching
    house.zone.recreate(JETSTREAM)
    assert (await refusal(house.fetch(after=cursor))).code.label == "history_mismatch"


async def test_agreement_by_epoch_stays_that_behind_a_page_without_facts(house: House, vouching: list[str]) -> None:
    cursor = await house.cursor(5)
    house.zone.delete(JETSTREAM, 5)
    assert (await house.fetch(after=cursor)).agreement is Agreement.EPOCH
    house.zone.publish(STREAM, "batch", payload=b"new")
    assert (await house.fetch(after=cursor)).agreement is Agreement.EPOCH


async def test_a_stream_that_lost_its_end_since_the_last_page_is_behind(
    house: House, vouching: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cursor = behind(await house.fetch(after=await house.cursor(3)))
    describe = house.zone.describe

    async def restored(stream: StreamName) -> LogDescription:
        return replace(await describe(stream), last_sequence=3)

    monkeypatch.setattr(house.zone, "describe", restored)
    assert (await refusal(house.fetch(after=cursor))).code.label == "ahead_of_source"


async def test_facts_that_nobody_vouches_for_are_looked_at(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    cursor = behind(await house.fetch(after=await house.cursor(3)))
    restore_another_history(house, monkeypatch)
    house.zone.publish(STREAM, "batch", payload=b"new")
    assert (await refusal(house.fetch(after=cursor))).code.label == "history_mismatch"


async def test_what_is_purged_between_the_look_and_the_read_is_a_gap(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = house.zone.read

    async def purged_before(stream: StreamName, after: int, limits: PageLimits) -> LogSlice:
        house.zone.purge(JETSTREAM, 5)
        return await read(stream, after, limits)

    cursor = await house.cursor(2)
    monkeypatch.setattr(house.zone, "read", purged_before)
    error = await refusal(house.fetch(after=cursor))
    assert (error.code.label, error.details["from"], error.details["to"]) == ("gap", 3, 4)
    page = await house.fetch(after=cursor, accept_gap=(3, 4))
    assert [fact.sequence for fact in page.facts] == [5]


async def test_permission_is_asked_after_the_read(house: House) -> None:
    cursor = await house.cursor(4)
    describe = house.zone.describe
    calls = 0

    async def narrowing(stream: StreamName) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            house.asker.allowed = frozenset()
        return await describe(stream)

    house.zone.describe = narrowing  # type: ignore[method-assign]
    assert (await refusal(house.fetch(after=cursor))).code.label == "stream_denied"


async def test_a_store_that_does_not_answer_is_unavailable(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(*arguments: Any) -> Any:
        await asyncio.sleep(60)

    monkeypatch.setattr(served_log, "STORE_SECONDS_MAX", 0.05)
    cursor = await house.cursor(4)
    house.zone.read = never  # type: ignore[method-assign]
    assert isinstance(await refusal(house.fetch(after=cursor)), SubstrateUnavailable)


async def test_cancelling_a_held_poll_leaves_nothing_behind(house: House) -> None:
    before = len(asyncio.all_tasks())
    polling = asyncio.create_task(
        house.fetch(after=await house.cursor(5), limits=PageLimits(wait_seconds=20))
    )
    await asyncio.sleep(0.05)
    polling.cancel()
    await asyncio.gather(polling, return_exceptions=True)
    await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) == before
