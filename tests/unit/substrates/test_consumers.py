"""What local applications see of a zone's streams, and how they append."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.nats import NatsServer, running_nats

from bsfg.errors import BsfgError, Code, OutcomeUnknown, StoreFull, SubstrateUnavailable
from bsfg.model.cursor import LinkName
from bsfg.model.fact import Fact, Origin
from bsfg.model.names import LOCAL_CONSUMER, StreamName, ZoneId
from bsfg.model.page import PageLimits
from bsfg.substrates.consumers import LocalAccess, NewFact
from bsfg.substrates.control import Control
from bsfg.substrates.jetstream import JetStreamInboundLog
from bsfg.substrates.local_appends import CALL_BYTES_MAX, FACTS_MAX
from bsfg.substrates.nats_connection import NatsConnection
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
def access(server: NatsServer, control: Control) -> LocalAccess:
    async def connect() -> NatsConnection:
        return await NatsConnection.connect(server.target, name="test")

    return LocalAccess(control, connect)


def new(payload: bytes, tail: str | None = "a", message_id: str | None = None, headers: Any = ()) -> NewFact:
    return NewFact(tail, message_id, list(headers), payload)


async def payloads(access: LocalAccess) -> list[bytes]:
    return [found["payload"] for found in await access.read_local(NAME, 1, PageLimits(10_000, 64 * MIB))]


# append


@pytest.mark.parametrize("count", [1, 5, 16, 1000, 1001, 2500])
async def test_facts_are_appended_in_order(access: LocalAccess, count: int) -> None:
    result = await access.append_local(STREAM, [new(b"%d" % number) for number in range(count)])
    assert result == {"appended": count, "first_sequence": 1, "last_sequence": count, "duplicates": 0}
    assert await payloads(access) == [b"%d" % number for number in range(count)]


async def test_nothing_appended_is_nothing_done(access: LocalAccess) -> None:
    assert await access.append_local(STREAM, []) == {
        "appended": 0,
        "first_sequence": None,
        "last_sequence": None,
        "duplicates": 0,
    }


@pytest.mark.parametrize("count", [1, 20], ids=["single", "batch"])
async def test_a_fact_keeps_its_subject_headers_and_bytes(access: LocalAccess, count: int) -> None:
    headers = [("A", "1"), ("A", "2"), ("Text", "Größe"), ("Empty", "")]
    facts = [new(bytes(range(256)), "line.4", None, headers)] * count
    await access.append_local(STREAM, facts)
    [found] = await access.read_local(NAME, count, PageLimits())
    assert (found["subject"], found["headers"], found["payload"]) == (
        f"{STREAM}.line.4",
        headers,
        bytes(range(256)),
    )
    assert (found["local_sequence"], found["origin"]) == (count, None)
    assert abs(found["time"] - time.time_ns()) < 60 * 10**9


async def test_a_fact_without_a_tail_has_the_bare_subject(access: LocalAccess) -> None:
    await access.append_local(STREAM, [new(b"", None), new(b"", "")])
    assert {found["subject"] for found in await access.read_local(NAME, 1, PageLimits())} == {STREAM}


@pytest.mark.parametrize("count", [2, 40])
async def test_a_repeated_message_id_is_a_duplicate(access: LocalAccess, count: int) -> None:
    facts = [new(b"x", message_id=f"m-{number}") for number in range(count)]
    await access.append_local(STREAM, facts)
    result = await access.append_local(STREAM, [*facts, new(b"y", message_id="other")])
    assert result == {
        "appended": 1,
        "first_sequence": count + 1,
        "last_sequence": count + 1,
        "duplicates": count,
    }
    [last] = await access.read_local(NAME, count + 1, PageLimits())
    assert last["headers"] == [("Nats-Msg-Id", "other")]


async def test_facts_with_and_without_ids_stay_in_order(access: LocalAccess) -> None:
    facts = [new(b"%d" % n, message_id=f"m{n}" if n // 20 % 2 else None) for n in range(100)]
    assert (await access.append_local(STREAM, facts))["appended"] == 100
    assert await payloads(access) == [b"%d" % number for number in range(100)]


async def test_the_largest_fact_is_stored(access: LocalAccess) -> None:
    headers = [("A", "b" * (32 * 1024 - len("NATS/1.0\r\nA: \r\n\r\n")))]
    assert (await access.append_local(STREAM, [new(b"x" * MIB, "a", None, headers)]))["appended"] == 1
    batch = [new(b""), new(b"x" * MIB, "a", None, headers), *[new(b"")] * 20]
    assert (await access.append_local(STREAM, batch))["appended"] == 22


@pytest.mark.parametrize(
    ("fact", "code"),
    [
        (new(b"x" * (MIB + 1)), Code.TOO_LARGE),
        (new(b"", headers=[("A", "b" * (32 * 1024 - 16))]), Code.TOO_LARGE),
        (new(b"", "a.*"), Code.INVALID_REQUEST),
        (new(b"", "a..b"), Code.INVALID_REQUEST),
        (new(b"", "a b"), Code.INVALID_REQUEST),
        (new(b"", "a\r\nPUB x 0"), Code.INVALID_REQUEST),
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
    ],
)
async def test_a_fact_that_cannot_be_stored_refuses_the_whole_call(
    access: LocalAccess, fact: NewFact, code: Code
) -> None:
    with pytest.raises(BsfgError) as raised:
        await access.append_local(STREAM, [new(b"good"), fact])
    assert raised.value.code is code
    assert "fact 2" in raised.value.message
    assert await payloads(access) == []


async def test_a_call_has_its_limits(access: LocalAccess) -> None:
    with pytest.raises(BsfgError) as raised:
        await access.append_local(STREAM, [new(b"")] * (FACTS_MAX + 1))
    assert raised.value.code is Code.TOO_MANY
    with pytest.raises(BsfgError) as raised:
        await access.append_local(STREAM, [new(b"x" * MIB)] * (CALL_BYTES_MAX // MIB + 1))
    assert raised.value.code is Code.TOO_LARGE


@pytest.mark.parametrize("ids", [True, False], ids=["singles", "batch"])
async def test_a_full_stream_says_so_and_what_went_in_before(
    access: LocalAccess, control: Control, ids: bool
) -> None:
    config = (await control.api(f"STREAM.INFO.{NAME}"))["config"]
    await control.api(f"STREAM.UPDATE.{NAME}", config | {"max_bytes": 15_000})
    facts = [new(b"x" * 1000, message_id=f"m{n}" if ids else None) for n in range(20)]
    with pytest.raises(StoreFull) as raised:
        await access.append_local(STREAM, facts)
    stored = len(await payloads(access))
    assert raised.value.details["appended"] == stored
    assert 0 < stored < 20 if ids else stored == 0


async def test_an_append_to_a_missing_stream_is_not_found(access: LocalAccess) -> None:
    with pytest.raises(BsfgError) as raised:
        await access.append_local(StreamName("facts.nothing"), [new(b"")])
    assert raised.value.code is Code.NOT_FOUND


async def test_an_append_that_another_stream_took_is_not_counted(access: LocalAccess, control: Control) -> None:
    config = (await control.api(f"STREAM.INFO.{NAME}"))["config"]
    await control.api(f"STREAM.UPDATE.{NAME}", config | {"subjects": [STREAM]})
    await control.api("STREAM.CREATE.thief", {"name": "thief", "subjects": [f"{STREAM}.>"]})
    with pytest.raises(OutcomeUnknown, match="thief"):
        await access.append_local(STREAM, [new(b"x")])


# read


async def test_a_read_begins_where_it_is_told_and_holds_its_limits(access: LocalAccess) -> None:
    await access.append_local(STREAM, [new(b"%d" % number) for number in range(10)])
    found = await access.read_local(NAME, 4, PageLimits(facts=3))
    assert [message["local_sequence"] for message in found] == [4, 5, 6]
    assert await access.read_local(NAME, 11, PageLimits()) == []
    assert await access.read_local(NAME, 1000, PageLimits()) == []


async def test_a_waiting_read_far_beyond_the_end_gets_nothing_earlier(access: LocalAccess) -> None:
    reading = asyncio.create_task(access.read_local(NAME, 1000, PageLimits(wait_seconds=1.0)))
    await asyncio.sleep(0.2)
    await access.append_local(STREAM, [new(b"early")])
    assert await reading == []


async def test_a_message_larger_than_the_limit_is_read_alone(access: LocalAccess) -> None:
    await access.append_local(STREAM, [new(b"x" * 5000), new(b"y")])
    found = await access.read_local(NAME, 1, PageLimits(bytes=100))
    assert [message["local_sequence"] for message in found] == [1]


async def test_a_waiting_read_gets_the_next_fact(access: LocalAccess) -> None:
    reading = asyncio.create_task(access.read_local(NAME, 1, PageLimits(wait_seconds=5.0)))
    await asyncio.sleep(0.2)
    assert not reading.done()
    await access.append_local(STREAM, [new(b"late")])
    assert [message["payload"] for message in await asyncio.wait_for(reading, 2.0)] == [b"late"]


async def test_a_read_of_a_missing_stream_is_not_found(access: LocalAccess) -> None:
    with pytest.raises(BsfgError) as raised:
        await access.read_local("nothing", 1, PageLimits())
    assert raised.value.code is Code.NOT_FOUND


async def test_a_read_leaves_no_consumer_behind(access: LocalAccess, control: Control) -> None:
    await access.append_local(STREAM, [new(b"x")])
    await access.read_local(NAME, 1, PageLimits())
    async with asyncio.timeout(5.0):
        while (await control.api(f"STREAM.INFO.{NAME}"))["state"]["consumer_count"] > 1:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_an_inbound_message_shows_its_origin(
    server: NatsServer, control: Control, access: LocalAccess
) -> None:
    async def connect() -> NatsConnection:
        return await NatsConnection.connect(server.target, name="test")

    inbound = JetStreamInboundLog(control, connect, ZONE, replicas=1, report=lambda _: None)
    link = LinkName(ZoneId("enterprise"), STREAM)
    await inbound.provision(link)
    fence = (await inbound.locate(link)).fence
    await inbound.append(link, fence, "e" * 16, [Fact(7, f"{STREAM}.x", 5, b"Nats-Msg-Id: m\r\nA: 1\r\n", b"p")])
    [found] = await access.read_local("in_enterprise_facts_operational_g1", 1, PageLimits())
    assert found["origin"] == Origin("enterprise", STREAM, "e" * 16, 7, 5)
    assert found["headers"][:2] == [("Bsfg-Message-Id", "m"), ("A", "1")]
    assert not [name for name, _ in found["headers"] if name.startswith("Nats-")]
    taken = await access.consumer_next("in_enterprise_facts_operational_g1", "enterprise-from-plant-a")
    assert taken == [found]
    inbound.close()


# consumers


async def test_next_takes_and_acknowledges_in_order(access: LocalAccess) -> None:
    await access.append_local(STREAM, [new(b"%d" % number) for number in range(5)])
    first = await access.consumer_next(NAME, LOCAL_CONSUMER, count=2)
    second = await access.consumer_next(NAME, LOCAL_CONSUMER, count=10)
    assert [found["payload"] for found in first + second] == [b"0", b"1", b"2", b"3", b"4"]
    assert await access.consumer_next(NAME, LOCAL_CONSUMER) == []
    info = await access.consumer_info(NAME, LOCAL_CONSUMER)
    assert info["delivered"] == info["ack_floor"] == {"stream_sequence": 5, "consumer_sequence": 5}
    assert (info["pending"], info["ack_pending"], info["ack_policy"]) == (0, 0, "explicit")


async def test_without_ack_the_message_stays_pending(access: LocalAccess) -> None:
    await access.append_local(STREAM, [new(b"0"), new(b"1")])
    await access.consumer_next(NAME, LOCAL_CONSUMER, ack=False)
    info = await access.consumer_info(NAME, LOCAL_CONSUMER)
    assert info["delivered"]["stream_sequence"] == 1
    assert info["ack_floor"]["stream_sequence"] == 0
    assert (info["pending"], info["ack_pending"]) == (1, 1)


async def test_next_waits_for_the_first_message(access: LocalAccess) -> None:
    taking = asyncio.create_task(access.consumer_next(NAME, LOCAL_CONSUMER, count=5, wait_seconds=5.0))
    await asyncio.sleep(0.2)
    await access.append_local(STREAM, [new(b"late")])
    assert [found["payload"] for found in await asyncio.wait_for(taking, 2.0)] == [b"late"]


@pytest.mark.parametrize(("name", "consumer"), [(NAME, "nobody"), ("nothing", LOCAL_CONSUMER)])
async def test_a_missing_consumer_or_stream_is_not_found(access: LocalAccess, name: str, consumer: str) -> None:
    for attempt in (access.consumer_info(name, consumer), access.consumer_next(name, consumer)):
        with pytest.raises(BsfgError) as raised:
            await attempt
        assert raised.value.code is Code.NOT_FOUND


@pytest.mark.parametrize("count", [0, 1001])
async def test_a_count_out_of_bounds_is_refused(access: LocalAccess, count: int) -> None:
    with pytest.raises(BsfgError) as raised:
        await access.consumer_next(NAME, LOCAL_CONSUMER, count=count)
    assert raised.value.code is Code.INVALID_REQUEST


async def test_a_dead_server_is_unavailable(server: NatsServer, access: LocalAccess) -> None:
    server.kill()
    for attempt in (
        access.append_local(STREAM, [new(b"")]),
        access.read_local(NAME, 1, PageLimits()),
        access.consumer_next(NAME, LOCAL_CONSUMER),
    ):
        with pytest.raises(SubstrateUnavailable):
            await attempt
