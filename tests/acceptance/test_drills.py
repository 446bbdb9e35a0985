"""The drills in a real lab: what they show, and that nothing of them stays on, whatever happens meanwhile."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import Iterator
from typing import Any, Final

import pytest
from tests.support.lab_zones import ENTERPRISE, LINK, OPERATIONAL, Lab, eventually

ORDERS: Final = "facts.orders"
PARTITION: Final = ("drill", "partition", "--peer", ENTERPRISE)
REPLAY: Final = ("drill", "duplicate-replay", *LINK)


@pytest.fixture(scope="module", autouse=True)
def _facts(lab: Lab) -> None:
    lab.enterprise.append(OPERATIONAL, *(b'{"n":%d}' % number for number in range(1_200)))
    lab.level()


@pytest.fixture(autouse=True)
def _nothing_stays(lab: Lab) -> Iterator[None]:
    yield
    nothing_is_on(lab)


def partitions(lab: Lab) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = lab.plant.api.get("/v1/status")["partitions"]
    return found


def nothing_is_on(lab: Lab, seconds: float = 10.0) -> None:
    eventually("no partition is in force", seconds, lambda: partitions(lab) == [])
    eventually("no drill's note is left", seconds, lambda: not (lab.plant.paths.data / "drill.json").exists())


def outcomes(answer: dict[str, Any]) -> dict[str, str]:
    return {line["id"]: line["judgement"]["outcome"] for line in answer["lines"]}


def evidence(answer: dict[str, Any], check: str) -> dict[str, Any]:
    line = next(line for line in answer["lines"] if line["id"] == check)
    return {each["what"]: each["seen"] for each in line["evidence"]}


def test_a_partition_drill_shows_section_8_of_the_runbook(lab: Lab) -> None:
    done = lab.plant.bsfg(*PARTITION, "--output", "json", seconds=120)
    assert done.status == 0, (done.output, done.errors)
    answer = done.json
    assert set(outcomes(answer).values()) == {"passed"}, outcomes(answer)
    assert len(answer["lines"]) == 10
    backlog = evidence(answer, "partition.backlog")
    assert (backlog["stream"], backlog["produced"]) == (ORDERS, 40)
    assert backlog["backlog"][1] - backlog["backlog"][0] == 40
    connections = evidence(answer, "partition.connections")
    assert connections["refused with 503"], "the peer has not knocked, so nothing was shown"
    assert connections["to the peer, by /proc/net/tcp"] == connections["open after their 503"] == []
    told = [
        row["message"]
        for row in evidence(answer, "partition.reconciled")["log"]
        if row.get("stream") == OPERATIONAL
    ]
    assert [text.split(":")[0] for text in told] == [
        "cursor comparison",
        "backfill required",
        "replay initiated",
        f"cursor advanced to {lab.plant.cursor()['head']}",
    ]
    # The facts of the drill are at the peer, once each.
    sent = [
        json.loads(line)
        for line in lab.enterprise.bsfg("read", "--stream", ORDERS, "--peer", "plant-a").output.splitlines()
    ]
    drilled = [
        row["data"] for row in sent if row["subject"].endswith(".test") or "partition-drill" in str(row)
    ]
    assert len(drilled) == len(set(drilled)) == 50


def test_a_replay_drill_shows_that_nothing_is_stored_twice(lab: Lab) -> None:
    done = lab.plant.bsfg(*REPLAY, "--output", "json", seconds=120)
    assert done.status == 0, (done.output, done.errors)
    assert outcomes(done.json) == dict.fromkeys(
        ("replay.duplicates", "replay.stale-append", "replay.unchanged"), "passed"
    )
    seen = evidence(done.json, "replay.duplicates")["replay"]
    assert seen["fetched"] == seen["dropped"] >= 1_000
    assert "expected" in seen["refusal"] or "sequence" in seen["refusal"], seen["refusal"]


@pytest.mark.parametrize("kind", ["incompatible-history", "large-gap"])
def test_a_drill_of_histories_shows_its_halt_and_leaves_no_stream(lab: Lab, kind: str) -> None:
    before, cursor = _streams(lab), lab.plant.cursor()["sequence"]
    done = lab.plant.bsfg("drill", kind, "--peer", ENTERPRISE, "--output", "json", seconds=120)
    assert done.status == 0, (done.output, done.errors)
    assert list(outcomes(done.json).values()) == ["passed", "passed"]
    assert _streams(lab) == before
    assert lab.plant.cursor()["sequence"] == cursor


def _streams(lab: Lab) -> list[str]:
    async def names() -> list[str]:
        async with lab.plant.nats() as store:
            return sorted(
                each.config.name or ""
                for each in await store.client.jetstream().streams_info()
                if not (each.config.name or "").startswith("KV_")
            )

    return asyncio.run(names())


def test_people_see_the_rollback_first_and_what_came_of_it_last(lab: Lab) -> None:
    text = lab.plant.bsfg("drill", "incompatible-history", "--peer", ENTERPRISE).output
    assert text.startswith("rollback: none is needed"), text
    assert text.endswith("drill incompatible-history: passed\n"), text


def test_a_drill_is_refused_where_it_may_not_run(lab: Lab) -> None:
    assert lab.plant.refused("drill", "partition", "--peer", "nobody")[:2] == (2, "configuration")
    assert lab.plant.bsfg("drill", "flood", "--peer", ENTERPRISE).status == 2
    lab.plant.ask("admin", "partition", "--peer", ENTERPRISE, "--reason", "somebody else's", "--for", "5m")
    assert lab.plant.refused(*PARTITION)[:2] == (3, "partitioned")
    assert [each["reason"] for each in partitions(lab)] == ["somebody else's"], (
        "the drill ended what was not its own"
    )
    lab.plant.ask("admin", "reconcile", "--peer", ENTERPRISE)
    lab.healthy()


def cut_off(lab: Lab) -> None:
    eventually("the drill cuts the peer off", 40, lambda: len(partitions(lab)) == 1)


@pytest.mark.slow
def test_nobody_else_begins_a_drill_meanwhile_and_what_an_operator_cuts_off_outlives_it(lab: Lab) -> None:
    drill = lab.plant.begin(*PARTITION)
    cut_off(lab)
    assert lab.plant.refused("drill", "large-gap", "--peer", ENTERPRISE)[:2] in [
        (1, "check_failed"),
        (3, "partitioned"),
    ]
    lab.plant.ask("admin", "partition", "--peer", ENTERPRISE, "--reason", "for good reason", "--for", "5m")
    assert drill.wait(120) == 1
    assert [each["reason"] for each in partitions(lab)] == ["for good reason"]
    lab.plant.ask("admin", "reconcile", "--peer", ENTERPRISE)
    lab.healthy()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["terminal killed", "Ctrl-C twice"])
def test_nothing_stays_on_when_the_operator_is_gone(lab: Lab, number: signal.Signals) -> None:
    drill = lab.plant.begin(*PARTITION)
    cut_off(lab)
    drill.send_signal(number)
    if number is signal.SIGINT:
        drill.send_signal(number)
    drill.wait(10)
    began = time.monotonic()
    nothing_is_on(lab)
    assert time.monotonic() - began < 5, "only the timer ended it"
    lab.healthy()


def test_nothing_stays_on_when_the_gateway_is_killed_in_a_drill(lab: Lab) -> None:
    drill = lab.plant.begin(*PARTITION)
    cut_off(lab)
    reason = partitions(lab)[0]["reason"]
    lab.plant.kill_gateway()
    assert drill.wait(20) == 3
    lab.plant.start_gateway()
    lab.healthy()
    nothing_is_on(lab)
    audit = [json.loads(line) for line in (lab.plant.paths.data / "audit.jsonl").read_text().splitlines()]
    assert [row["reason"] for row in audit if row["action"] == "drill.recovered"] == [reason]
    assert lab.plant.bsfg(*REPLAY, seconds=60).status == 0
