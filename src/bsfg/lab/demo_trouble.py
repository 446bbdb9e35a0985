"""The demo's lines about trouble: a killed gateway, a partition, the way back (runbook, section 8)."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any, Final

from bsfg.lab import held, processes
from bsfg.lab.demo_compare import compare_link
from bsfg.lab.demo_flow import INBOUND, LINK, PEER, STREAM, reaches
from bsfg.lab.demo_stage import Evidence, Stage, credentials_of, demand, wait_until
from bsfg.lab.example_facts import BATCH_EVENTS, ORDERS
from bsfg.lab.homes import ENTERPRISE, PLANT_A
from bsfg.lab.processes import LabZone

KILL_WAIT_SECONDS: Final = 20.0
KILL_POLL_SECONDS: Final = 0.002
SETTLE_SECONDS: Final = 0.2
CATCH_UP_SECONDS_MAX: Final = 10.0
BACKLOG_SECONDS: Final = 8.0
"""The sender looks at its backlog every two seconds."""
PARTITIONED_STATUS: Final = 503
LOCAL_SUBJECT: Final = "facts.operational.test"
TEST_FACT: Final = b'{"test":"partition-drill"}'
CONSUMED: Final = 5


async def kill_resume(stage: Stage, evidence: Evidence) -> str:
    """The gateway is killed with -9 while facts pour in; it goes on where the stream ends."""
    home = stage.plant.home
    server = held.find_server(home)
    begin = (await stage.stores["plant-a"].state(INBOUND)).last_sequence
    producing = asyncio.create_task(stage.append(BATCH_EVENTS, stage.sizes.killed))
    try:
        stored = await _kill_when_moving(stage, begin)
        # Local producers don't notice: their server goes on without the gateway.
        local = await stage.local_stores["plant-a"].publish(LOCAL_SUBJECT, TEST_FACT)
    finally:
        head = (await producing)["last_sequence"]
    evidence["killed"] = {
        "stored_before": begin,
        "stored_at_kill": stored,
        "head": head,
        "local_append": local,
    }
    demand(
        begin < stored < head, f"the kill was not in the middle: {begin} < {stored} < {head} does not hold"
    )
    began = time.monotonic()
    await asyncio.to_thread(processes.start, stage.directory, (PLANT_A.zone,))
    await reaches(stage, head)
    seconds = time.monotonic() - began
    evidence["nats_server"] = {"pid_before": server, "pid_after": held.find_server(home)}
    demand(
        server is not None and held.find_server(home) == server, "the nats-server did not outlive its gateway"
    )
    evidence["compared"] = await compare_link(stage, ENTERPRISE, STREAM)
    return f"at {stored:,} of {head:,}; back in {seconds:.1f} s, all equal"


async def _kill_when_moving(stage: Stage, begin: int) -> int:
    """Kill plant-a's gateway as soon as its inbound stream grows; how much was stored then."""
    store = stage.stores["plant-a"]
    deadline = time.monotonic() + KILL_WAIT_SECONDS
    with held.gateway_of(stage.plant.home) as gateway:
        demand(gateway is not None, "plant-a has no gateway")
        assert gateway is not None
        while (await store.state(INBOUND)).last_sequence == begin:
            demand(time.monotonic() < deadline, f"no fact arrived within {KILL_WAIT_SECONDS:.0f} s")
            await asyncio.sleep(KILL_POLL_SECONDS)
        gateway.kill()
    # What the gateway had sent before it died may still be on its way into the store.
    await asyncio.sleep(SETTLE_SECONDS)
    return (await store.state(INBOUND)).last_sequence


async def partition(stage: Stage, evidence: Evidence) -> str:
    """Cut off from each other, both zones append, read and consume, and what is owed to the peer adds up."""
    count = stage.sizes.partitioned
    before = await stage.cursor(stage.plant, PEER, STREAM)
    reason = ("--reason", "demo", "--for", "5m")
    evidence["partition"] = await stage.ask(stage.plant, "admin", "partition", "--peer", PEER, *reason)
    began = time.monotonic()
    head = (await stage.append(BATCH_EVENTS, count))["last_sequence"]
    orders = (await stage.append(ORDERS, count))["last_sequence"]
    evidence["local work"] = {
        "enterprise appended": count,
        "plant-a appended": count,
        "published through NATS": await stage.local_stores["plant-a"].publish(LOCAL_SUBJECT, TEST_FACT),
        "consumed": await _consumed(stage),
        "seconds": round(time.monotonic() - began, 3),
    }
    refused = await stage.request(PLANT_A, "/health", credentials_of(stage.enterprise))
    evidence["enterprise asks plant-a"] = str(refused)
    demand(refused.status == PARTITIONED_STATUS, f"plant-a answered enterprise with {refused}")
    owed = await _backlogs(stage, count)
    evidence["backlog"] = owed
    after = await stage.cursor(stage.plant, PEER, STREAM)
    evidence["cursor"] = after
    demand(after["state"] == "partitioned", f"the link is {after['state']}")
    demand(after["sequence"] == before["sequence"], "facts arrived in spite of the partition")
    stage.notes["reconcile"] = {"cursor": before["sequence"], "head": head, "orders": orders}
    return f"{count} facts each, backlog {owed['enterprise']} and {owed['plant-a']}, cursor stands"


async def _consumed(stage: Stage) -> int:
    taken = await stage.ask(stage.plant, "consumer", "next", *LINK, "--count", str(CONSUMED))
    demand(
        len(taken["facts"]) == CONSUMED, f"a local application got {len(taken['facts'])} of {CONSUMED} facts"
    )
    return CONSUMED


async def _backlogs(stage: Stage, count: int) -> dict[str, int]:
    """Wait until each zone says that it owes its peer so much."""
    owed: dict[str, int] = {}

    async def are_owed() -> bool:
        owed[ENTERPRISE.zone] = await _backlog(stage, stage.enterprise, STREAM)
        owed[PLANT_A.zone] = await _backlog(stage, stage.plant, ORDERS.stream)
        return all(facts == count for facts in owed.values())

    await wait_until(f"both zones report a backlog of {count}", BACKLOG_SECONDS, are_owed)
    return owed


async def _backlog(stage: Stage, zone: LabZone, stream: str) -> int:
    status = await stage.ask(zone, "status")
    return next((int(row["backlog_facts"]) for row in status["exports"] if row["stream"] == stream), -1)


async def reconciliation(stage: Stage, evidence: Evidence) -> str:
    """The partition ends, and both zones catch up by themselves, saying so in the contract's words."""
    known = stage.notes["reconcile"]
    log_start = stage.plant.log.stat().st_size
    began = time.monotonic()
    evidence["reconcile"] = await stage.ask(stage.plant, "admin", "reconcile", "--peer", PEER)

    async def are_level() -> bool:
        ours = await stage.cursor(stage.plant, PEER, STREAM)
        theirs = await stage.cursor(stage.enterprise, PLANT_A.zone, ORDERS.stream)
        return (ours["sequence"], theirs["sequence"]) == (known["head"], known["orders"])

    await wait_until("both zones catch up", CATCH_UP_SECONDS_MAX, are_level)
    seconds = time.monotonic() - began
    evidence["seconds"] = round(seconds, 3)
    said = messages_of(stage.plant.log, log_start)
    wanted = recovery_words(known["cursor"], known["head"])
    evidence["log"] = [line for line in said if line in wanted]
    demand(evidence["log"] == wanted, f"the log does not say in order: {'; '.join(wanted)}")
    await _backlogs(stage, 0)
    return f"{known['head'] - known['cursor']} facts caught up in {seconds:.1f} s, five log lines"


def recovery_words(cursor: int, head: int) -> list[str]:
    """What the log says on recovery, in order (contract, section 8)."""
    return [
        f"peer {PEER} reachable",
        f"cursor comparison: local={cursor}, peer={head}",
        f"backfill required: {head - cursor} facts",
        "replay initiated",
        f"cursor advanced to {head}",
    ]


def messages_of(log: Path, start: int) -> list[str]:
    """The messages of the link and its peer, and of nothing else, that a log holds behind a position."""
    with log.open("rb") as file:
        file.seek(start)
        entries: list[dict[str, Any]] = [json.loads(line) for line in file.read().splitlines()]
    return [
        str(entry["message"])
        for entry in entries
        if entry.get("peer") == PEER and entry.get("stream") in (None, STREAM)
    ]
