"""``POST /v1/digests`` over the in-memory store: policy as for a fetch, one history, bounded time; hostile answers."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from typing import Any

import pytest
from tests.support.patience import patience
from tests.unit.transport.test_fetch_service import ABSENT, DENIED, STREAM, House

from bsfg.errors import BsfgError
from bsfg.model.digests import EMPTY_DIGEST, DigestAnswer, DigestCall, RangeDigester
from bsfg.model.facts import Facts
from bsfg.model.page import LogSlice, PageLimits
from bsfg.transport import digest_service
from bsfg.transport.digest_answer import parse_digest_answer
from bsfg.transport.digest_service import DigestService, answer_fields
from bsfg.transport.wire import digests_body, parse_digests


class DigestHouse(House):
    def __init__(self) -> None:
        super().__init__()
        self.digests = DigestService(self.zone, self.clock)

    async def call(self, first: int = 1, last: int = 5, parts: int = 5) -> DigestCall:
        return DigestCall(STREAM, (await self.zone.describe(STREAM)).epoch, first, last, parts)

    async def ask(self, call: DigestCall) -> DigestAnswer:
        return await self.digests.digests(self.asker, call)


async def refusal(house: DigestHouse, call: DigestCall) -> str:
    with pytest.raises(BsfgError) as caught:
        await house.ask(call)
    return caught.value.code.label


@pytest.mark.asyncio
async def test_each_part_is_the_digest_of_its_facts() -> None:
    house = DigestHouse()
    answer = await house.ask(await house.call(2, 5, 2))
    facts = [await house.zone.fact_at(STREAM, sequence) for sequence in range(2, 6)]
    wanted = RangeDigester(2, 5, 2)
    wanted.add(Facts.of(fact for fact in facts if fact))
    assert answer.parts == wanted.finish()
    assert answer.first_sequence == 1


@pytest.mark.asyncio
async def test_what_may_not_be_read_is_not_digested_present_or_not() -> None:
    house = DigestHouse()
    call = await house.call()
    denied = replace(call, stream=DENIED)
    absent = replace(call, stream=ABSENT)
    assert {await refusal(house, denied), await refusal(house, absent)} == {"stream_denied"}
    assert len((await house.ask(call)).parts) == 5


@pytest.mark.asyncio
async def test_another_history_is_refused_and_so_is_what_never_was() -> None:
    house = DigestHouse()
    call = await house.call()
    assert await refusal(house, replace(call, epoch="another")) == "history_mismatch"
    assert await refusal(house, replace(call, last=6)) == "ahead_of_source"


@pytest.mark.asyncio
async def test_permission_is_asked_for_again_while_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    house = DigestHouse()
    read, started = house.zone.read, asyncio.Event()

    async def slow(*words: Any) -> LogSlice:
        started.set()
        await asyncio.sleep(30)
        return await read(*words)

    monkeypatch.setattr(house.zone, "read", slow)
    asking = asyncio.create_task(house.ask(await house.call()))
    await started.wait()
    house.asker.narrow()
    with pytest.raises(BsfgError) as caught:
        await asyncio.wait_for(asking, 2 * patience())
    assert caught.value.code.label == "stream_denied"


@pytest.mark.asyncio
async def test_permission_that_ends_with_the_last_page_gives_no_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    house = DigestHouse()
    describe, calls = house.zone.describe, 0

    async def narrowing(*words: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            house.asker.allowed = frozenset()
        return await describe(*words)

    call = await house.call()
    monkeypatch.setattr(house.zone, "describe", narrowing)
    assert await refusal(house, call) == "stream_denied"


@pytest.mark.asyncio
async def test_an_answer_ends_early_when_its_time_is_over_and_never_within_a_part(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    house = DigestHouse()
    whole = await house.ask(await house.call(parts=5))
    read = house.zone.read

    async def two_at_a_time(stream: Any, after: int, limits: PageLimits) -> LogSlice:
        return await read(stream, after, PageLimits(2, limits.bytes, 0.0))

    monkeypatch.setattr(house.zone, "read", two_at_a_time)
    assert (await house.ask(await house.call(parts=5))).parts == whole.parts
    monkeypatch.setattr(digest_service, "DIGEST_SECONDS_MAX", -1.0)
    assert (await house.ask(await house.call(parts=5))).parts == whole.parts[:2]
    assert await refusal(house, await house.call(parts=1)) == "too_large"


def test_a_request_is_read_strictly_and_its_parts_are_clamped() -> None:
    call = DigestCall(STREAM, "epoch", 3, 9, 2)
    assert parse_digests(digests_body(call)) == call
    assert parse_digests(digests_body(replace(call, parts=1_000))).parts == 256
    for wrong in (
        replace(call, first=0),
        replace(call, first=10),
        replace(call, parts=0),
        replace(call, epoch="a b"),
    ):
        with pytest.raises(BsfgError) as caught:
            parse_digests(digests_body(wrong))
        assert caught.value.code.label == "invalid_request"


GOOD = {"count": 1, "digest": "ab" * 32}


@pytest.mark.parametrize(
    "change",
    [
        {"stream": "facts.other"},
        {"epoch": "other"},
        {"parts": []},
        {"parts": [GOOD] * 3},
        {"parts": "many"},
        {"parts": [None]},
        {"parts": [GOOD | {"count": 3}]},
        {"parts": [GOOD | {"count": -1}]},
        {"parts": [GOOD | {"count": True}]},
        {"parts": [GOOD | {"digest": "AB" * 32}]},
        {"parts": [GOOD | {"digest": 7}]},
        {"parts": [GOOD | {"count": 0}]},
        {"parts": [{"count": 1, "digest": EMPTY_DIGEST}]},
        {"first_sequence": -1},
        {"first_sequence": None},
    ],
)
def test_an_answer_that_does_not_fit_the_question_is_no_answer(change: dict[str, Any]) -> None:
    call = DigestCall(STREAM, "epoch", 1, 4, 2)
    fields = answer_fields(call, parse_digest_answer(call, _fields(call)))
    assert fields["parts"] == [GOOD, GOOD]
    with pytest.raises(BsfgError) as caught:
        parse_digest_answer(call, fields | change)
    assert caught.value.code.label == "bad_answer"


def _fields(call: DigestCall) -> dict[str, Any]:
    return {"stream": call.stream, "epoch": call.epoch, "first_sequence": 1, "parts": [GOOD, GOOD]}


@pytest.mark.asyncio
async def test_the_store_reads_the_next_page_while_one_is_hashed(monkeypatch: pytest.MonkeyPatch) -> None:
    house = DigestHouse()
    whole = await house.ask(await house.call())
    read, asked, hashed = house.zone.read, threading.Event(), RangeDigester.add
    reads = 0

    async def two_at_a_time(stream: Any, after: int, limits: PageLimits) -> LogSlice:
        nonlocal reads
        reads += 1
        if reads > 1:
            asked.set()
        return await read(stream, after, PageLimits(2, limits.bytes, 0.0))

    def waiting(digester: RangeDigester, facts: Facts) -> None:
        assert asked.wait(5), "the next page is not asked for before this one is hashed"
        hashed(digester, facts)

    monkeypatch.setattr(house.zone, "read", two_at_a_time)
    monkeypatch.setattr(RangeDigester, "add", waiting)
    assert (await house.ask(await house.call())).parts == whole.parts
    assert reads == 3


@pytest.mark.asyncio
async def test_a_range_that_retention_took_whole_is_empty_and_nothing_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    house = DigestHouse()
    describe = house.zone.describe

    async def younger(stream: Any) -> Any:
        return replace(await describe(stream), first_sequence=4)

    async def unwanted(*_words: Any) -> LogSlice:
        raise AssertionError("there is nothing to read")

    monkeypatch.setattr(house.zone, "describe", younger)
    monkeypatch.setattr(house.zone, "read", unwanted)
    answer = await house.ask(await house.call(1, 3, 3))
    assert [part.digest for part in answer.parts] == [EMPTY_DIGEST] * 3
    assert answer.first_sequence == 4
