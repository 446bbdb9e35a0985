"""What the gateway keeps in buckets, and what happens when somebody spoils or deletes it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.support.nats import NatsServer, running_nats

from bsfg.errors import SubstrateUnavailable
from bsfg.model.names import StreamName, ZoneId
from bsfg.ports import Confirmed
from bsfg.substrates.control import Control
from bsfg.substrates.jetstream import JetStreamConfirmations, JetStreamPartitions
from bsfg.substrates.state_bucket import StateBucket

PEER = ZoneId("enterprise")
STREAM = StreamName("facts.operational")


@pytest.fixture
async def control(tmp_path: Path) -> AsyncIterator[Control]:
    with running_nats(tmp_path) as server:
        opened = await Control.open(server.target, name="test")
        yield opened
        await opened.close()


async def test_a_bucket_keeps_the_last_value_of_each_key(control: Control) -> None:
    bucket = StateBucket(control, "test", replicas=1)
    assert await bucket.get("a") is None
    assert await bucket.keys() == []
    for value in (b"1", b"", b"\x00\xff" * 1000):
        await bucket.put("a.b", value)
        assert await bucket.get("a.b") == value
    await bucket.put("c", b"3")
    assert await bucket.keys() == ["a.b", "c"]
    found = await control.api("STREAM.INFO.KV_test")
    assert found["state"]["messages"] == 2
    assert (found["config"]["storage"], found["config"]["max_msgs_per_subject"]) == ("file", 1)


async def test_a_deleted_key_has_no_value(control: Control) -> None:
    bucket = StateBucket(control, "test", replicas=1)
    await bucket.put("a", b"1")
    await bucket.delete("a")
    await bucket.delete("never")
    assert await bucket.get("a") is None
    await bucket.put("a", b"2")
    assert await bucket.get("a") == b"2"


async def test_a_bucket_that_was_deleted_is_made_again(control: Control) -> None:
    bucket = StateBucket(control, "test", replicas=1)
    await bucket.put("a", b"1")
    await control.api("STREAM.CREATE.anchor", {"name": "anchor"})
    await control.api("STREAM.DELETE.KV_test")
    assert await bucket.get("a") is None
    await bucket.put("b", b"2")
    assert await bucket.get("b") == b"2"


async def test_a_put_that_another_stream_took_is_not_durable(control: Control) -> None:
    await control.api("STREAM.CREATE.thief", {"name": "thief", "subjects": ["$KV.test.>"]})
    with pytest.raises(SubstrateUnavailable, match="thief"):
        await StateBucket(control, "test", replicas=1).put("a", b"1")


async def test_partitions_come_back_until_they_are_deleted(control: Control) -> None:
    partitions = JetStreamPartitions(control, replicas=1, report=lambda text: pytest.fail(text))
    assert await partitions.load_all() == {}
    await partitions.save(PEER, {"reason": "drill", "ends_at": 17})
    await partitions.save(ZoneId("plant-b"), {"reason": "repair", "ends_at": None})
    assert await partitions.load_all() == {
        "enterprise": {"reason": "drill", "ends_at": 17},
        "plant-b": {"reason": "repair", "ends_at": None},
    }
    await partitions.delete(PEER)
    assert list(await partitions.load_all()) == ["plant-b"]


@pytest.mark.parametrize("value", [b"", b"\xff", b"[]", b"{}", b'{"version": 2, "partition": {}}'])
async def test_a_spoilt_partition_is_reported_and_left_out(control: Control, value: bytes) -> None:
    problems: list[str] = []
    partitions = JetStreamPartitions(control, replicas=1, report=problems.append)
    await partitions.save(ZoneId("plant-b"), {"reason": "repair"})
    await StateBucket(control, "bsfg_partitions", replicas=1).put(PEER, value)
    assert await partitions.load_all() == {"plant-b": {"reason": "repair"}}
    assert len(problems) == 1
    assert "enterprise" in problems[0]


@pytest.mark.parametrize("value", [b"", b"\xff", b"{}", b'{"version": 1, "confirmed": {"epoch": 1}}'])
async def test_a_spoilt_confirm_counts_as_none_and_is_reported(control: Control, value: bytes) -> None:
    problems: list[str] = []
    confirmations = JetStreamConfirmations(control, replicas=1, report=problems.append)
    confirmed = Confirmed("e" * 16, 5, "d" * 64, 17)
    await confirmations.save(PEER, STREAM, confirmed)
    await StateBucket(control, "bsfg_confirms", replicas=1).put(f"{PEER}.{STREAM}", value)
    assert await confirmations.load(PEER, STREAM) is None
    assert len(problems) == 1
    await confirmations.save(PEER, STREAM, confirmed)
    assert await confirmations.load(PEER, STREAM) == confirmed


async def test_kept_state_survives_a_killed_server(tmp_path: Path) -> None:
    with running_nats(tmp_path, sync_interval="always") as server:
        control = await Control.open(server.target, name="test")
        confirmations = JetStreamConfirmations(control, replicas=1, report=lambda text: pytest.fail(text))
        confirmed = Confirmed("e" * 16, 5, "d" * 64, 17)
        await confirmations.save(PEER, STREAM, confirmed)
        await _restart(server, control)
        assert await confirmations.load(PEER, STREAM) == confirmed
        await control.close()


async def _restart(server: NatsServer, control: Control) -> None:
    server.kill()
    server.start()
    control_was_lost = False
    for _ in range(200):
        try:
            await control.api("INFO")
            break
        except SubstrateUnavailable:
            control_was_lost = True
            await control.wait_connected(10.0)
    assert control_was_lost
