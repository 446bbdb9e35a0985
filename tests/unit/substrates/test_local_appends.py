"""Appending a zone's own facts: what goes in, in which order, and what a refusal leaves behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.support.local_appends import Edge, new, open_edge
from tests.support.nats import NatsServer, running_nats
from tests.support.patience import patience

from bsfg.errors import BsfgError, Code, OutcomeUnknown, StoreFull, SubstrateUnavailable
from bsfg.model.fact import Fact, header_pairs
from bsfg.model.names import StreamName, ZoneId
from bsfg.model.page import PageLimits
from bsfg.substrates.control import Control
from bsfg.substrates.local_appends import CALL_BYTES_MAX, FACTS_MAX
from bsfg.substrates.local_publisher import RUN_BYTES_MAX, Publisher
from bsfg.substrates.new_facts import NewFact, Outgoing
from bsfg.substrates.provisioning import provision_local
from bsfg.substrates.stream_configs import StreamSpec

ZONE = ZoneId("plant-a")
STREAM = StreamName("facts.operational")
NAME = "facts_operational"
MIB = 1024 * 1024


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    with running_nats(tmp_path, extra="max_payload: 2MB") as running:
        yield running


@pytest.fixture
async def control(server: NatsServer) -> AsyncIterator[Control]:
    opened = await Control.open(server.target, name="test")
    await provision_local(opened, ZONE, [StreamSpec(STREAM)], replicas=1, epoch_began=lambda *_: None)
    yield opened
    await opened.close()


@pytest.fixture
async def edge(server: NatsServer, control: Control, tmp_path: Path) -> AsyncIterator[Edge]:
    async with open_edge(server, control, tmp_path / "ids") as opened:
        yield opened


async def update(control: Control, **changes: Any) -> None:
    config = (await control.api(f"STREAM.INFO.{NAME}"))["config"]
    await control.api(f"STREAM.UPDATE.{NAME}", config | changes)


async def stored(edge: Edge) -> list[Fact]:
    found: list[Fact] = []
    limits = PageLimits(10_000, 64 * MIB)
    while page := (await edge.exported.read(STREAM, found[-1].sequence if found else 0, limits)).facts:
        found += page
    return found


async def until_connected(control: Control) -> None:
    async with asyncio.timeout(10 * patience()):
        while True:
            with contextlib.suppress(SubstrateUnavailable):
                await control.api(f"STREAM.INFO.{NAME}")
                return
            await asyncio.sleep(0.05)


async def payloads(edge: Edge) -> list[bytes]:
    return [fact.payload for fact in await stored(edge)]


@pytest.mark.parametrize("count", [1, 5, 16, 1000, 1001, 2500, 10_000])
@pytest.mark.parametrize("atomic", [True, False], ids=["batches", "messages"])
async def test_facts_are_appended_in_order(edge: Edge, control: Control, count: int, atomic: bool) -> None:
    await update(control, allow_atomic=atomic)
    result = await edge.append(STREAM, *[new(b"%d" % number) for number in range(count)])
    assert result == {"appended": count, "first_sequence": 1, "last_sequence": count, "duplicates": 0}
    assert await payloads(edge) == [b"%d" % number for number in range(count)]


async def test_nothing_appended_is_nothing_done(edge: Edge) -> None:
    nothing = {"appended": 0, "first_sequence": None, "last_sequence": None, "duplicates": 0}
    assert await edge.append(STREAM) == nothing


@pytest.mark.parametrize("message_id", [None, "m"])
@pytest.mark.parametrize("count", [1, 20], ids=["single", "batch"])
async def test_a_fact_keeps_its_subject_headers_and_bytes(edge: Edge, count: int, message_id: str | None) -> None:
    headers = [("A", "1"), ("A", "2"), ("Text", "Größe"), ("Empty", "")]
    payload = bytes(range(256))
    ids = [None if message_id is None else f"{message_id}{number}" for number in range(count)]
    await edge.append(STREAM, *[NewFact("line.4", each, headers, payload) for each in ids])
    found = (await stored(edge))[-1]
    own = [] if message_id is None else [("Nats-Msg-Id", ids[-1])]
    assert (found.subject, header_pairs(found.headers), found.payload) == (
        f"{STREAM}.line.4",
        headers + own,
        payload,
    )
    assert found.sequence == count
    assert abs(found.time - time.time_ns()) < 60 * 10**9


async def test_a_fact_without_a_tail_has_the_bare_subject(edge: Edge) -> None:
    await edge.append(STREAM, new(b"", None), new(b"", ""))
    assert {fact.subject for fact in await stored(edge)} == {STREAM}


async def test_facts_with_and_without_ids_stay_in_order(edge: Edge) -> None:
    facts = [new(b"%d" % n, message_id=f"m{n}" if n // 20 % 2 else None) for n in range(100)]
    assert (await edge.append(STREAM, *facts))["appended"] == 100
    assert await payloads(edge) == [b"%d" % number for number in range(100)]


async def test_the_largest_fact_is_stored(edge: Edge) -> None:
    headers = [("A", "b" * (32 * 1024 - len("NATS/1.0\r\nA: \r\n\r\n")))]
    assert (await edge.append(STREAM, new(b"x" * MIB, "a", None, headers)))["appended"] == 1
    batch = [new(b""), new(b"x" * MIB, "a", None, headers), *[new(b"")] * 20]
    assert (await edge.append(STREAM, *batch))["appended"] == 22


async def test_large_facts_go_in_batches_of_bounded_size(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    original = Publisher.batch

    async def batch(publisher: Publisher, facts: Sequence[Outgoing]) -> None:
        sizes.append(sum(len(fact.payload) for fact in facts))
        await original(publisher, facts)

    monkeypatch.setattr(Publisher, "batch", batch)
    async with edge.appends.session(STREAM) as session:
        await session.append([Outgoing(n, STREAM.encode(), b"", b"x" * 400_000) for n in range(1, 61)])
    assert session.result["appended"] == 60
    assert len(sizes) == 3
    assert max(sizes) <= RUN_BYTES_MAX


@pytest.mark.parametrize(
    ("fact", "code"),
    [
        (new(b"x" * (MIB + 1)), Code.TOO_LARGE),
        (new(b"", headers=[("A", "b" * (32 * 1024 - 16))]), Code.TOO_LARGE),
        (new(b"", message_id="b" * (32 * 1024)), Code.TOO_LARGE),
        (new(b"", "a.*"), Code.INVALID_REQUEST),
        (new(b"", "a..b"), Code.INVALID_REQUEST),
        (new(b"", "a b"), Code.INVALID_REQUEST),
        (new(b"", "a\r\nPUB x 0"), Code.INVALID_REQUEST),
        (new(b"", "\ud800"), Code.INVALID_REQUEST),
        (new(b"", headers=[("Nats-Rollup", "all")]), Code.INVALID_REQUEST),
        (new(b"", headers=[("nats-msg-id", "m")]), Code.INVALID_REQUEST),
        (new(b"", headers=[("Nats-Msg-Id", "m")]), Code.INVALID_REQUEST),
        (new(b"", headers=[("Bsfg-Origin", "x")]), Code.INVALID_REQUEST),
        (new(b"", headers=[("A", "1\r\nNats-Rollup: all")]), Code.INVALID_REQUEST),
        (new(b"", headers=[("A", "1\r\nB: 2")]), Code.INVALID_REQUEST),
        (new(b"", headers=[("A B", "1")]), Code.INVALID_REQUEST),
        (new(b"", headers=[("", "1")]), Code.INVALID_REQUEST),
        (new(b"", headers=[("A", "\ud800")]), Code.INVALID_REQUEST),
        (new(b"", message_id="m\r\nNats-Rollup: all"), Code.INVALID_REQUEST),
        (new(b"", message_id="\ud800"), Code.INVALID_REQUEST),
    ],
)
async def test_a_fact_that_cannot_be_stored_refuses_the_whole_call(edge: Edge, fact: NewFact, code: Code) -> None:
    with pytest.raises(BsfgError) as raised:
        await edge.append(STREAM, new(b"good"), fact)
    assert raised.value.code is code
    assert "fact 2" in raised.value.message
    assert await payloads(edge) == []


async def test_a_call_has_its_limits(edge: Edge) -> None:
    with pytest.raises(BsfgError) as raised:
        await edge.append(STREAM, *[new(b"")] * (FACTS_MAX + 1))
    assert raised.value.code is Code.TOO_MANY
    with pytest.raises(BsfgError) as raised:
        await edge.append(STREAM, *[new(b"x" * MIB)] * (CALL_BYTES_MAX // MIB + 1))
    assert raised.value.code is Code.TOO_LARGE


@pytest.mark.parametrize("ids", [True, False], ids=["ids", "plain"])
@pytest.mark.parametrize("atomic", [True, False], ids=["batches", "messages"])
async def test_a_full_stream_refuses_and_says_what_went_in_before(
    edge: Edge, control: Control, ids: bool, atomic: bool
) -> None:
    await update(control, allow_atomic=atomic, max_bytes=700_000)
    facts = [new(b"%500d" % n, message_id=f"m{n}" if ids else None) for n in range(2500)]
    with pytest.raises(StoreFull) as raised:
        await edge.append(STREAM, *facts)
    found = await payloads(edge)
    assert found == [fact.payload for fact in facts[: len(found)]]
    assert 0 < len(found) < 2500
    details = raised.value.details
    assert (details["appended"], details["last_sequence"]) == (len(found), len(found))
    if atomic:
        assert details["facts"][0] == len(found) + 1


async def test_nothing_is_stored_behind_what_a_full_stream_refused(edge: Edge, control: Control) -> None:
    """The second batch has room, the first one has not: it must not be stored before it."""
    await update(control, max_bytes=300_000)
    facts = [new(b"x" * 500)] * 1000 + [new(b"y")] * 100
    with pytest.raises(StoreFull):
        await edge.append(STREAM, *facts)
    assert await payloads(edge) == []
    assert (await edge.append(STREAM, *facts[1000:]))["appended"] == 100


async def test_an_append_to_a_missing_stream_is_not_found(edge: Edge) -> None:
    with pytest.raises(BsfgError) as raised:
        await edge.append(StreamName("facts.nothing"), new(b""))
    assert raised.value.code is Code.NOT_FOUND


@pytest.mark.parametrize("count", [1, 20], ids=["single", "batch"])
async def test_an_append_that_another_stream_took_is_not_counted(edge: Edge, control: Control, count: int) -> None:
    await update(control, subjects=[STREAM])
    thief = {"name": "thief", "subjects": [f"{STREAM}.>"], "allow_atomic": True}
    await control.api("STREAM.CREATE.thief", thief)
    with pytest.raises(OutcomeUnknown, match="thief") as raised:
        await edge.append(STREAM, *[new(b"x")] * count)
    assert raised.value.details["appended"] == 0


async def test_a_subject_that_no_stream_takes_is_a_definite_refusal(edge: Edge, control: Control) -> None:
    await update(control, subjects=[STREAM])
    with pytest.raises(SubstrateUnavailable, match="no stream takes"):
        await edge.append(STREAM, new(b"x"))


async def test_a_dead_server_is_unavailable(server: NatsServer, edge: Edge) -> None:
    server.kill()
    for message_id in (None, "m"):
        with pytest.raises(SubstrateUnavailable):
            await edge.append(STREAM, new(b"", message_id=message_id))


async def test_a_session_goes_on_after_the_server_came_back(server: NatsServer, control: Control, edge: Edge) -> None:
    async with edge.appends.session(STREAM) as session:
        await session.append([Outgoing(1, STREAM.encode(), b"", b"before")])
        server.kill()
        server.start()
        await until_connected(control)
        await session.append([Outgoing(2, STREAM.encode(), b"", b"after")])
    assert await payloads(edge) == [b"before", b"after"]


async def test_a_server_that_dies_leaves_the_outcome_unknown(server: NatsServer, edge: Edge) -> None:
    with pytest.raises(OutcomeUnknown) as raised:
        async with edge.appends.session(STREAM) as session:
            await session.append([Outgoing(n, STREAM.encode(), b"", b"x") for n in range(1, 101)])
            await session.settle()
            os.kill(server.pid, signal.SIGSTOP)
            await session.append([Outgoing(n, STREAM.encode(), b"", b"x") for n in range(101, 201)])
            server.kill()
    assert raised.value.details["appended"] == 100
    assert raised.value.details["facts"] == [101, 200]
