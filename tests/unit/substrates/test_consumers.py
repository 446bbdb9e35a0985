"""What local applications see of a zone's streams, and how they take facts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.support.local_appends import new, open_edge
from tests.support.nats import NatsServer, running_nats
from tests.support.patience import patience

from bsfg.errors import BsfgError, Code, SubstrateUnavailable
from bsfg.model.cursor import LinkName
from bsfg.model.fact import Fact, Origin
from bsfg.model.names import LOCAL_CONSUMER, StreamName, ZoneId
from bsfg.model.page import PageLimits
from bsfg.substrates.consumers import LocalAccess
from bsfg.substrates.control import Control
from bsfg.substrates.jetstream import JetStreamInboundLog
from bsfg.substrates.local_appends import LocalAppends
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


@pytest.fixture
async def appends(server: NatsServer, control: Control, tmp_path: Path) -> AsyncIterator[LocalAppends]:
    async with open_edge(server, control, tmp_path / "ids") as edge:
        yield edge.appends


# read


async def test_a_read_begins_where_it_is_told_and_holds_its_limits(access: LocalAccess, appends: LocalAppends) -> None:
    await appends.append(STREAM, [new(b"%d" % number) for number in range(10)])
    found = await access.read_local(NAME, 4, PageLimits(facts=3))
    assert [message["local_sequence"] for message in found] == [4, 5, 6]
    assert await access.read_local(NAME, 11, PageLimits()) == []
    assert await access.read_local(NAME, 1000, PageLimits()) == []


async def test_a_waiting_read_far_beyond_the_end_gets_nothing_earlier(
    access: LocalAccess, appends: LocalAppends
) -> None:
    reading = asyncio.create_task(access.read_local(NAME, 1000, PageLimits(wait_seconds=1.0)))
    await asyncio.sleep(0.2)
    await appends.append(STREAM, [new(b"early")])
    assert await reading == []


async def test_a_message_larger_than_the_limit_is_read_alone(access: LocalAccess, appends: LocalAppends) -> None:
    await appends.append(STREAM, [new(b"x" * 5000), new(b"y")])
    found = await access.read_local(NAME, 1, PageLimits(bytes=100))
    assert [message["local_sequence"] for message in found] == [1]


async def test_a_waiting_read_gets_the_next_fact(access: LocalAccess, appends: LocalAppends) -> None:
    reading = asyncio.create_task(access.read_local(NAME, 1, PageLimits(wait_seconds=30.0)))
    await asyncio.sleep(0.2)
    assert not reading.done()
    await appends.append(STREAM, [new(b"late")])
    assert [message["payload"] for message in await asyncio.wait_for(reading, 2.0 * patience())] == [b"late"]


async def test_a_read_of_a_missing_stream_is_not_found(access: LocalAccess) -> None:
    with pytest.raises(BsfgError) as raised:
        await access.read_local("nothing", 1, PageLimits())
    assert raised.value.code is Code.NOT_FOUND


async def test_a_read_leaves_no_consumer_behind(access: LocalAccess, appends: LocalAppends, control: Control) -> None:
    await appends.append(STREAM, [new(b"x")])
    await access.read_local(NAME, 1, PageLimits())
    async with asyncio.timeout(5.0 * patience()):
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


async def test_next_takes_and_acknowledges_in_order(access: LocalAccess, appends: LocalAppends) -> None:
    await appends.append(STREAM, [new(b"%d" % number) for number in range(5)])
    first = await access.consumer_next(NAME, LOCAL_CONSUMER, count=2)
    second = await access.consumer_next(NAME, LOCAL_CONSUMER, count=10)
    assert [found["payload"] for found in first + second] == [b"0", b"1", b"2", b"3", b"4"]
    assert await access.consumer_next(NAME, LOCAL_CONSUMER) == []
    info = await access.consumer_info(NAME, LOCAL_CONSUMER)
    assert info["delivered"] == info["ack_floor"] == {"stream_sequence": 5, "consumer_sequence": 5}
    assert (info["pending"], info["ack_pending"], info["ack_policy"]) == (0, 0, "explicit")


async def test_without_ack_the_message_stays_pending(access: LocalAccess, appends: LocalAppends) -> None:
    await appends.append(STREAM, [new(b"0"), new(b"1")])
    await access.consumer_next(NAME, LOCAL_CONSUMER, ack=False)
    info = await access.consumer_info(NAME, LOCAL_CONSUMER)
    assert info["delivered"]["stream_sequence"] == 1
    assert info["ack_floor"]["stream_sequence"] == 0
    assert (info["pending"], info["ack_pending"]) == (1, 1)


async def test_next_waits_for_the_first_message(access: LocalAccess, appends: LocalAppends) -> None:
    taking = asyncio.create_task(access.consumer_next(NAME, LOCAL_CONSUMER, count=5, wait_seconds=30.0))
    await asyncio.sleep(0.2)
    await appends.append(STREAM, [new(b"late")])
    assert [found["payload"] for found in await asyncio.wait_for(taking, 2.0 * patience())] == [b"late"]


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


async def test_a_dead_server_is_unavailable(server: NatsServer, access: LocalAccess, appends: LocalAppends) -> None:
    server.kill()
    for attempt in (
        appends.append(STREAM, [new(b"")]),
        access.read_local(NAME, 1, PageLimits()),
        access.consumer_next(NAME, LOCAL_CONSUMER),
    ):
        with pytest.raises(SubstrateUnavailable):
            await attempt
