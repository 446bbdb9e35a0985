"""Local streams: made as configured, verified when they exist, and never altered silently."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.support.nats import running_nats

from bsfg.errors import BsfgError, Code, SubstrateUnavailable
from bsfg.model.names import StreamName, ZoneId
from bsfg.substrates.control import Control
from bsfg.substrates.provisioning import (
    Difference,
    ProvisionReport,
    apply_stream,
    differences,
    is_widening,
    provision_local,
)
from bsfg.substrates.stream_configs import StreamSpec, local_config

ZONE = ZoneId("plant-a")
STREAM = StreamName("facts.operational")
NAME = "facts_operational"
DAY = 86_400


@pytest.fixture
async def control(tmp_path: Path) -> AsyncIterator[Control]:
    with running_nats(tmp_path, extra="max_payload: 2MB") as server:
        opened = await Control.open(server.target, name="test")
        yield opened
        await opened.close()


class Audit:
    def __init__(self) -> None:
        self.began: list[tuple[StreamName, str | None, str, str]] = []

    def __call__(self, stream: StreamName, old: str | None, new: str, why: str) -> None:
        self.began.append((stream, old, new, why))


async def provision(control: Control, *specs: StreamSpec, audit: Audit | None = None) -> list[ProvisionReport]:
    return await provision_local(control, ZONE, specs, replicas=1, epoch_began=audit or Audit())


async def info(control: Control) -> dict[str, Any]:
    return await control.api(f"STREAM.INFO.{NAME}")


async def edit(control: Control, **changes: object) -> None:
    await control.api(f"STREAM.UPDATE.{NAME}", (await info(control))["config"] | changes)


async def test_a_stream_is_made_as_the_contract_says(control: Control) -> None:
    audit = Audit()
    [report] = await provision(control, StreamSpec(STREAM, 7 * DAY, 10_000_000), audit=audit)
    found = await info(control)
    config = found["config"]
    assert config["subjects"] == [STREAM, f"{STREAM}.>"]
    assert (config["retention"], config["storage"], config["discard"]) == ("limits", "file", "new")
    assert (config["max_age"], config["max_bytes"]) == (7 * DAY * 10**9, 10_000_000)
    assert config["max_msg_size"] == 1024 * 1024 + 32 * 1024
    assert config["duplicate_window"] == 120 * 10**9
    assert config["allow_direct"] is True
    assert config["allow_atomic"] is True
    assert config["metadata"]["bsfg_epoch"] == report.epoch
    assert config["metadata"]["bsfg_epoch_created"] == found["created"]
    assert (report.created, report.adopted, report.differences, report.problem) == (True, False, (), None)
    assert [entry[:3] for entry in audit.began] == [(STREAM, None, report.epoch)]


async def test_its_consumer_is_durable_and_acknowledges_explicitly(control: Control) -> None:
    await provision(control, StreamSpec(STREAM))
    consumer = await control.api(f"CONSUMER.INFO.{NAME}.local-consumer")
    assert (consumer["config"]["durable_name"], consumer["config"]["ack_policy"]) == ("local-consumer", "explicit")


async def test_provisioning_again_finds_nothing_to_do(control: Control) -> None:
    [first] = await provision(control, StreamSpec(STREAM, 7 * DAY, 10_000_000))
    before = (await info(control))["config"]
    audit = Audit()
    [second] = await provision(control, StreamSpec(STREAM, 7 * DAY, 10_000_000), audit=audit)
    assert (second.created, second.epoch, second.differences, second.applied) == (False, first.epoch, (), ())
    assert audit.began == []
    assert (await info(control))["config"] == before


async def test_a_window_is_never_longer_than_the_age(control: Control) -> None:
    [report] = await provision(control, StreamSpec(STREAM, 30))
    assert report.problem is None
    assert (await info(control))["config"]["duplicate_window"] == 30 * 10**9


@pytest.mark.parametrize(
    ("wider", "field", "value"),
    [
        (StreamSpec(STREAM, 8 * DAY, 10_000_000), "max_age", 8 * DAY * 10**9),
        (StreamSpec(STREAM, None, 10_000_000), "max_age", 0),
        (StreamSpec(STREAM, 7 * DAY, 20_000_000), "max_bytes", 20_000_000),
        (StreamSpec(STREAM, 7 * DAY, None), "max_bytes", -1),
    ],
)
async def test_a_wider_limit_is_applied(control: Control, wider: StreamSpec, field: str, value: int) -> None:
    await provision(control, StreamSpec(STREAM, 7 * DAY, 10_000_000))
    [report] = await provision(control, wider)
    assert (await info(control))["config"][field] == value
    assert [change.field for change in report.applied] == [field]
    assert report.differences == ()


@pytest.mark.parametrize(
    ("narrower", "field"),
    [
        (StreamSpec(STREAM, DAY, 10_000_000), "max_age"),
        (StreamSpec(STREAM, 7 * DAY, 5_000_000), "max_bytes"),
    ],
)
async def test_a_narrower_limit_is_reported_and_not_applied(
    control: Control, narrower: StreamSpec, field: str
) -> None:
    await provision(control, StreamSpec(STREAM, 7 * DAY, 10_000_000))
    before = (await info(control))["config"]
    [report] = await provision(control, narrower)
    assert [difference.field for difference in report.differences] == [field]
    assert report.differences[0].found == before[field]
    assert report.applied == ()
    assert (await info(control))["config"] == before


async def test_a_limit_where_there_was_none_is_narrower(control: Control) -> None:
    await provision(control, StreamSpec(STREAM))
    [report] = await provision(control, StreamSpec(STREAM, 7 * DAY, 10_000_000))
    assert {difference.field for difference in report.differences} == {"max_age", "max_bytes"}
    assert (await info(control))["config"]["max_bytes"] == -1


async def test_another_difference_is_reported_and_left(control: Control) -> None:
    await provision(control, StreamSpec(STREAM))
    await edit(control, discard="old", max_msgs=7)
    [report] = await provision(control, StreamSpec(STREAM))
    assert set(report.differences) == {Difference("discard", "old", "new"), Difference("max_msgs", 7, -1)}
    assert (await info(control))["config"]["discard"] == "old"


def test_a_stream_that_is_never_synced_is_told() -> None:
    wanted = local_config(StreamSpec(StreamName("facts.orders")), ZONE, 1, atomic=False)
    assert differences(wanted, wanted) == []
    assert differences(wanted | {"persist_mode": "async"}, wanted) == [Difference("persist_mode", "async", "default")]


async def test_apply_makes_it_what_is_configured(control: Control) -> None:
    [first] = await provision(control, StreamSpec(STREAM))
    await edit(control, discard="old")
    spec = StreamSpec(STREAM, 60, 10_000_000)
    report = await apply_stream(control, ZONE, spec, replicas=1, reason="CHG-1", epoch_began=Audit())
    config = (await info(control))["config"]
    assert (config["discard"], config["max_age"], config["max_bytes"]) == ("new", 60 * 10**9, 10_000_000)
    assert {change.field for change in report.applied} == {"discard", "max_age", "max_bytes"}
    assert (report.differences, report.epoch) == ((), first.epoch)


async def test_apply_needs_a_reason(control: Control) -> None:
    await provision(control, StreamSpec(STREAM, 7 * DAY))
    with pytest.raises(BsfgError) as raised:
        await apply_stream(
            control, ZONE, StreamSpec(STREAM, DAY), replicas=1, reason=" ", epoch_began=Audit()
        )
    assert raised.value.code is Code.INVALID_REQUEST
    assert (await info(control))["config"]["max_age"] == 7 * DAY * 10**9


async def test_a_stream_of_another_maker_is_adopted_with_its_metadata_only(control: Control) -> None:
    config = {"name": NAME, "subjects": [STREAM], "max_bytes": 1000, "metadata": {"owner": "line 4"}}
    await control.api(f"STREAM.CREATE.{NAME}", config)
    before = (await info(control))["config"]
    [report] = await provision(control, StreamSpec(STREAM, None, 5000))
    after = (await info(control))["config"]
    assert report.adopted
    assert {"subjects", "max_bytes"} <= {difference.field for difference in report.differences}
    assert after["metadata"]["owner"] == "line 4"
    assert after["metadata"]["bsfg_epoch"] == report.epoch
    assert {k: v for k, v in after.items() if k != "metadata"} == {
        k: v for k, v in before.items() if k != "metadata"
    }


async def test_an_adopted_stream_is_not_applied_to(control: Control) -> None:
    await control.api(f"STREAM.CREATE.{NAME}", {"name": NAME, "subjects": [STREAM]})
    await provision(control, StreamSpec(STREAM))
    before = (await info(control))["config"]
    with pytest.raises(BsfgError) as raised:
        await apply_stream(control, ZONE, StreamSpec(STREAM), replicas=1, reason="why", epoch_began=Audit())
    assert raised.value.code is Code.CHECK_FAILED
    assert (await info(control))["config"] == before


async def test_no_consumer_is_put_on_a_stream_that_consumers_empty(control: Control) -> None:
    config = {"name": NAME, "subjects": [STREAM], "retention": "interest"}
    await control.api(f"STREAM.CREATE.{NAME}", config)
    [report] = await provision(control, StreamSpec(STREAM))
    assert "retention" in {difference.field for difference in report.differences}
    assert (await info(control))["state"]["consumer_count"] == 0


async def test_one_stream_that_cannot_be_made_hinders_no_other(control: Control) -> None:
    await control.api("STREAM.CREATE.taken", {"name": "taken", "subjects": [f"{STREAM}.x"]})
    bad, good = await provision(control, StreamSpec(STREAM), StreamSpec(StreamName("facts.orders")))
    assert bad.problem is not None
    assert "overlap" in bad.problem
    assert (good.problem, good.created) == (None, True)


async def test_a_stream_made_again_from_its_configuration_begins_a_new_epoch(control: Control) -> None:
    [first] = await provision(control, StreamSpec(STREAM))
    config = (await info(control))["config"]
    await control.api("STREAM.CREATE.anchor", {"name": "anchor"})
    await control.api(f"STREAM.DELETE.{NAME}")
    await control.api(f"STREAM.CREATE.{NAME}", config)
    audit = Audit()
    [second] = await provision(control, StreamSpec(STREAM), audit=audit)
    assert second.epoch != first.epoch
    assert not second.created
    [(stream, old, new, why)] = audit.began
    assert (stream, old, new) == (STREAM, first.epoch, second.epoch)
    assert "created" in why


async def test_without_a_store_provisioning_is_unavailable(control: Control) -> None:
    await control.close()
    with pytest.raises(SubstrateUnavailable):
        await provision(control, StreamSpec(STREAM))


def test_what_widens_and_what_does_not() -> None:
    assert is_widening(Difference("max_age", 5, 0))
    assert not is_widening(Difference("max_age", 0, 5))
    assert is_widening(Difference("max_bytes", 5, -1))
    assert not is_widening(Difference("max_bytes", -1, 5))
    assert not is_widening(Difference("num_replicas", 1, 3))


def test_an_older_server_is_not_asked_for_batches() -> None:
    wanted = local_config(StreamSpec(STREAM), ZONE, 1, atomic=False)
    assert "allow_atomic" not in json.dumps(wanted)
    assert differences(dict(wanted), wanted) == []
