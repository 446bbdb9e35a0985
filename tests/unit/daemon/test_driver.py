"""A driver at work between two twin zones: outages, restarts, rewritten histories."""

from __future__ import annotations

import asyncio

import pytest
from tests.support.twin_link import INBOUND, NAME, STREAM, TwinLink

from bsfg.core.conversation import PartitionBegan, PartitionEnded, StoreDoubted, Woken
from bsfg.daemon import driver, recent_marks
from bsfg.errors import BsfgError, Code, PeerUnreachable
from bsfg.model.cursor import HaltReason, LinkName, LinkRecord, LinkState, LocalPosition
from bsfg.model.names import physical


async def test_facts_arrive_once_and_in_order_and_are_confirmed() -> None:
    async with TwinLink() as twin:
        twin.publish(*range(1, 36))
        await twin.level(35)
        twin.publish(36, 37)
        await twin.level(37)
        assert twin.stored() == list(range(1, 38))
        await twin.until(lambda: bool(twin.peer.confirmed) and twin.peer.confirmed[-1] == 37)
        confirmed = await twin.source.load(twin.peer.caller.peer, STREAM)
        assert confirmed is not None and confirmed.sequence == 37
        assert twin.diary.faults == []


async def test_a_restarted_driver_goes_on_from_what_is_stored() -> None:
    async with TwinLink() as twin:
        for wave in range(8):
            twin.publish(*range(wave * 10 + 1, wave * 10 + 11))
            await asyncio.sleep(0.003)
            await twin.restart()
        await twin.level(80)
        assert twin.stored() == list(range(1, 81))


async def test_an_outage_heals_by_itself_and_is_told() -> None:
    async with TwinLink() as twin:
        twin.publish(1, 2)
        await twin.level(2)
        twin.diary.said.clear()
        twin.peer.fault = PeerUnreachable("cable cut")
        await twin.until(lambda: twin.driver.state is LinkState.BACKING_OFF)
        twin.publish(3, 4, 5)
        twin.peer.fault = None
        await twin.level(5)
        assert "cable cut" in twin.diary.silences
        assert twin.diary.said == [
            "cursor comparison: local=2, peer=5",
            "backfill required: 3 facts",
            "replay initiated",
            "cursor advanced to 5",
        ]


async def test_the_init_mode_acts_once() -> None:
    async with TwinLink("start_now") as twin:
        await twin.until(lambda: twin.driver.state is LinkState.LEVEL)
        twin.peer.fault = PeerUnreachable("away")
        await twin.until(lambda: twin.driver.state is LinkState.BACKING_OFF)
        twin.publish(1, 2, 3)
        await twin.restart()
        twin.peer.fault = None
        await twin.level(3)
        assert twin.stored() == [1, 2, 3], "start_now was resolved before the facts and is not resolved again"


async def test_a_partition_stops_the_link_and_its_end_starts_it() -> None:
    async with TwinLink() as twin:
        twin.publish(1)
        await twin.level(1)
        twin.driver.tell(PartitionBegan())
        await twin.until(lambda: twin.driver.state is LinkState.PARTITIONED)
        fetches = twin.peer.fetches
        twin.publish(2)
        await asyncio.sleep(0.1)
        assert twin.peer.fetches == fetches
        twin.driver.tell(PartitionEnded())
        await twin.level(2)


async def test_waking_a_level_link_looks_at_once() -> None:
    async with TwinLink() as twin:
        await twin.until(lambda: twin.driver.state is LinkState.LEVEL)
        rounds = twin.driver.link.rounds
        twin.driver.tell(Woken())
        await twin.until(lambda: twin.driver.link.rounds > rounds, 0.1)


async def test_a_poll_that_brings_nothing_is_asked_again_in_the_same_step() -> None:
    async with TwinLink() as twin:
        twin.publish(1)
        await twin.level(1)
        await twin.until(lambda: twin.driver.link.is_polling and twin.driver.link.rounds > 2)
        before, fetches, heard_at = twin.driver.link, twin.peer.fetches, twin.driver.heard_at
        await twin.until(lambda: twin.peer.fetches >= fetches + 3)
        assert twin.driver.link.fetch == before.fetch
        assert twin.driver.link.rounds > before.rounds and (twin.driver.heard_at or 0) > (heard_at or 0)
        twin.publish(2)
        await twin.level(2)


async def test_a_poll_is_asked_so_often_and_then_in_a_new_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "POLLS_MAX", 2)
    async with TwinLink() as twin:
        await twin.until(lambda: twin.driver.link.is_polling and twin.driver.link.rounds > 2)
        before, fetches = twin.driver.link.ticket, twin.peer.fetches
        await twin.until(lambda: twin.peer.fetches >= fetches + 4)
        assert before < twin.driver.link.ticket <= before + 3


async def test_a_peer_that_is_gone_is_noticed_by_a_poll_that_stayed_out() -> None:
    async with TwinLink() as twin:
        await twin.until(lambda: twin.driver.link.rounds > 3)
        twin.peer.fault = PeerUnreachable("cable cut")
        await twin.until(lambda: twin.driver.state is LinkState.BACKING_OFF)
        twin.publish(1)
        twin.peer.fault = None
        await twin.level(1)


async def test_a_source_that_was_made_again_halts_the_link_before_anything_is_appended() -> None:
    async with TwinLink() as twin:
        twin.publish(1, 2, 3)
        await twin.level(3)
        twin.source.recreate(physical(STREAM))
        twin.publish(*range(101, 111))
        await twin.until(lambda: twin.driver.state is LinkState.HALTED)
        assert twin.driver.link.halt is not None and twin.driver.link.halt.reason is HaltReason.DIVERGED
        assert twin.stored() == [1, 2, 3]


async def test_retention_that_passed_the_cursor_is_a_gap() -> None:
    async with TwinLink() as twin:
        twin.publish(1, 2, 3)
        await twin.level(3)
        twin.peer.fault = PeerUnreachable("away")
        await twin.until(lambda: twin.driver.state is LinkState.BACKING_OFF)
        twin.publish(*range(4, 10))
        twin.source.purge(physical(STREAM), 8)
        twin.peer.fault = None
        await twin.until(lambda: twin.driver.state is LinkState.HALTED)
        assert twin.driver.link.halt is not None and twin.driver.link.halt.reason is HaltReason.GAP


async def test_a_gap_that_policy_accepts_is_recorded_exactly() -> None:
    async with TwinLink(records_gaps=True) as twin:
        twin.publish(1, 2, 3)
        await twin.level(3)
        twin.peer.fault = PeerUnreachable("away")
        await twin.until(lambda: twin.driver.state is LinkState.BACKING_OFF)
        twin.publish(*range(4, 10))
        twin.source.purge(physical(STREAM), 8)
        twin.peer.fault = None
        await twin.level(9)
        assert twin.stored() == [1, 2, 3, 8, 9]
        assert [(gap.first, gap.last) for gap in twin.driver.link.gaps] == [(4, 7)]
        record = (await twin.receiver.locate(NAME)).record
        assert record is not None and [(gap.first, gap.last) for gap in record.gaps] == [(4, 7)]


async def test_deleted_facts_are_no_gap() -> None:
    async with TwinLink() as twin:
        twin.publish(*range(1, 10))
        for sequence in (4, 5, 9):
            twin.source.delete(physical(STREAM), sequence)
        await twin.level(8)
        assert twin.stored() == [1, 2, 3, 6, 7, 8]
        await twin.until(
            lambda: twin.driver.link.saved is not None and twin.driver.link.saved.scanned_through == 9
        )
        await twin.restart()
        await twin.level(8)
        assert twin.driver.link.cursor is not None and twin.driver.link.cursor.scanned_through == 9


async def test_a_full_store_is_named_and_facts_resume_when_there_is_room() -> None:
    async with TwinLink() as twin:
        twin.publish(1)
        await twin.level(1)
        twin.receiver.limit(INBOUND, 1)
        twin.publish(2, 3)
        await twin.until(lambda: twin.driver.state is LinkState.LOCAL_FULL)
        twin.receiver.limit(INBOUND, None)
        await twin.level(3)
        assert twin.stored() == [1, 2, 3]


async def test_a_foreign_message_in_the_inbound_stream_stops_the_link() -> None:
    async with TwinLink() as twin:
        twin.publish(1)
        await twin.level(1)
        twin.receiver.put(INBOUND, f"in.{NAME.peer}.{STREAM}.g1.x", b"", b"not ours")
        twin.publish(2)
        await twin.until(lambda: twin.driver.state is LinkState.HALTED)
        assert twin.driver.link.halt is not None and twin.driver.link.halt.reason is HaltReason.FOREIGN_WRITER


async def test_two_gateways_at_once_store_every_fact_once() -> None:
    async with TwinLink() as twin:
        rival = twin.new_driver()
        task = asyncio.create_task(rival.run())
        for wave in range(10):
            twin.publish(*range(wave * 20 + 1, wave * 20 + 21))
            await asyncio.sleep(0.002)
        await twin.level(200)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert twin.stored() == list(range(1, 201))
        assert twin.diary.faults == []


async def test_a_fault_of_ours_is_named_and_tried_again() -> None:
    async with TwinLink() as twin:
        await twin.until(lambda: twin.driver.state is LinkState.LEVEL)
        locate, calls = twin.receiver.locate, []

        async def broken(name: object) -> object:
            calls.append(name)
            if len(calls) == 1:
                raise ValueError("a bug")
            return await locate(name)

        twin.receiver.locate = broken
        twin.peer.fault = BsfgError(Code.BAD_ANSWER, "garbage")
        await twin.until(lambda: len(calls) > 1)
        twin.peer.fault = None
        twin.publish(1)
        await twin.level(1)
        assert twin.diary.faults == ["Locate: ValueError('a bug')"]


@pytest.fixture
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(recent_marks, "FRESH_SECONDS", 0.02)


def reason(twin: TwinLink) -> HaltReason | None:
    return twin.driver.link.halt.reason if twin.driver.link.halt else None


async def test_a_purge_of_the_inbound_stream_is_noticed_by_a_link_that_is_level(looks_often: None) -> None:
    async with TwinLink() as twin:
        twin.publish(1, 2, 3)
        await twin.level(3)
        twin.receiver.purge(INBOUND)
        await twin.until(lambda: reason(twin) is HaltReason.LOCAL_RESET)


async def test_a_purge_of_the_inbound_stream_is_noticed_while_facts_flow(looks_often: None) -> None:
    async with TwinLink(page_facts=3) as twin:
        twin.publish(1, 2, 3)
        await twin.level(3)
        twin.receiver.purge(INBOUND, 3)
        for number in range(4, 200):
            twin.publish(number)
            await asyncio.sleep(0.002)
            if reason(twin) is not None:
                break
        assert reason(twin) is HaltReason.LOCAL_RESET


async def test_an_inbound_stream_that_is_gone_is_noticed_by_a_link_that_is_level(looks_often: None) -> None:
    async with TwinLink() as twin:
        twin.publish(1)
        await twin.level(1)
        twin.receiver.drop(INBOUND)
        await twin.until(lambda: reason(twin) is HaltReason.LOCAL_RESET)


async def test_a_look_reads_in_the_stream_only_where_something_has_happened_to_it(looks_often: None) -> None:
    async with TwinLink() as twin:
        twin.publish(1, 2, 3)
        await twin.level(3)
        locate, reads = twin.receiver.locate, []

        async def counting(name: LinkName) -> LocalPosition:
            reads.append(name)
            return await locate(name)

        twin.receiver.locate = counting
        await asyncio.sleep(0.3)
        assert len(reads) == 1, "the first look reads, the others find the same mark"
        twin.receiver.delete(INBOUND, 2)
        await twin.until(lambda: reason(twin) is HaltReason.LOCAL_RESET)


async def test_a_tail_that_is_lost_to_where_it_was_seen_before_is_noticed(looks_often: None) -> None:
    async with TwinLink() as twin:
        twin.publish(1, 2, 3)
        await twin.level(3)
        await asyncio.sleep(0.15)
        twin.publish(4)
        await twin.level(4)
        twin.receiver.lose_tail(INBOUND, 3)
        await twin.until(lambda: twin.stored() == [1, 2, 3, 4])


async def test_looking_does_not_disturb_a_link_that_is_right(looks_often: None) -> None:
    async with TwinLink(page_facts=5) as twin:
        for wave in range(40):
            twin.publish(*range(wave * 10 + 1, wave * 10 + 11))
            await asyncio.sleep(0.005)
        await twin.level(400)
        assert twin.stored() == list(range(1, 401)) and twin.diary.refusals == []
        before = twin.driver.link.ticket
        await asyncio.sleep(0.15)
        assert twin.driver.link.ticket <= before + 2, "polls go on, and nothing was located"


async def test_what_a_store_has_lost_is_fetched_again_when_it_returns() -> None:
    async with TwinLink() as twin:
        twin.publish(1, 2, 3)
        await twin.level(3)
        lost = twin.receiver.messages(INBOUND)[-1].sequence
        twin.receiver.lose_tail(INBOUND, lost - 1)
        twin.driver.tell(StoreDoubted())
        await twin.until(lambda: twin.stored() == [1, 2, 3])
        await twin.level(3)


async def test_a_record_takes_the_place_of_the_one_that_was_read_and_of_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with TwinLink() as twin:
        save, revisions = twin.receiver.save_record, []

        async def noting(link: LinkName, record: LinkRecord, revision: int | None = None) -> int:
            saved = await save(link, record, revision)
            revisions.append((revision, saved))
            return saved

        monkeypatch.setattr(twin.receiver, "save_record", noting)
        twin.publish(1, 2)
        await twin.level(2)
        assert revisions[0] == (0, 1)
        await twin.restart()
        twin.publish(3, 4)
        twin.source.delete(physical(STREAM), 4)
        await twin.until(lambda: len(revisions) > 1)
        assert revisions[1] == (1, 2)
