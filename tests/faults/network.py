"""Section 8 of the runbook with the network itself cut: packets between the zones are dropped, and nobody is told.

What is seen is judged as the administrative drill judges it; only how the peer is away differs.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any, Final

from tests.faults.judge import judge as judge_facts
from tests.faults.producer import Producer
from tests.faults.report import Report
from tests.faults.stage import ORDERS, POLL_SECONDS, Stuck, staged
from tests.support.lab_zones import ENTERPRISE, OPERATIONAL, PLANT, Zone

from bsfg.checks.drills.partition import LinkSeen, PartitionSeen, StreamSeen, judge
from bsfg.cli.local_client import route

FACTS_BEFORE: Final = 200
FACTS_MEANWHILE: Final = 500
APPENDS: Final = 20
UNREACHABLE_SECONDS: Final = 15.0
CUT_SECONDS: Final = 20.0
LEVEL_SECONDS: Final = 30.0
JUDGED: Final = (
    "partition.autonomy",
    "partition.backlog",
    "partition.reconciled",
    "partition.backfill",
    "partition.duplicates",
    "partition.continuity",
    "partition.configuration",
)


def run(seed: int) -> Report:
    """Cut, work on, mend; every check of section 8 that does not ask how the peer was cut off."""
    report = Report("a network that drops everything", seed)
    with staged(seed) as stage:
        if stage.packets is None:
            report.notes.append("not run: it wants root, namespaces and nftables")
            return report
        stage.start()
        plant, producer = stage.zone(PLANT), stage.producer()
        _append(producer, FACTS_BEFORE)
        plant.append(ORDERS, *_orders(APPENDS))
        stage.wait_level(LEVEL_SECONDS)
        _until("all orders are confirmed", LEVEL_SECONDS, lambda: _backlog(plant) == 0)
        seen = PartitionSeen(ENTERPRISE, ORDERS, "packets are dropped", restored=True)
        seen.links_before, seen.streams_before = [_link(plant)], _streams(plant)
        ports = [stage.port(zone) for zone in (ENTERPRISE, PLANT)]
        matches = [f"tcp {side} {port}" for port in ports for side in ("dport", "sport")]
        with stage.packets.dropping(*matches):
            _cut_off(plant, producer, seen)
        began, start = time.monotonic(), plant.log_size()
        seen.seconds_to_level = round(stage.wait_level(LEVEL_SECONDS), 1)
        _until("all orders are confirmed", LEVEL_SECONDS, lambda: _backlog(plant) == 0)
        report.notes.append(f"level {time.monotonic() - began:.1f} s after the packets went through again")
        seen.log, seen.backlog_after = plant.log(start), _backlog(plant)
        seen.links_after, seen.streams_after = [_link(plant)], _streams(plant)
        found = plant.ask("verify", "--peer", ENTERPRISE, "--stream", OPERATIONAL)
        seen.repeated = {OPERATIONAL: len(found["differences"])}
        for line in judge(seen, time.time_ns()):
            if line.id in JUDGED:
                report.happened[line.id] += 1
                report.wrong += [] if line.judgement.found is None else [f"{line.id}: {line.judgement.found}"]
        report.wrong += _moved(seen)
        report.add_verdicts(judge_facts(producer, plant, {}))
        report.wrong += [f"a traceback in {name}" for name in stage.tracebacks()]
    return report


def _cut_off(plant: Zone, producer: Producer, seen: PartitionSeen) -> None:
    """While no packet passes: the gateway finds out by itself, and everything local goes on."""
    began = time.monotonic()
    _until(
        "the peer is away",
        UNREACHABLE_SECONDS,
        lambda: plant.metric("bsfg_peer_reachable", peer=ENTERPRISE) == 0,
    )
    seen.head_before, seen.backlog_before = _head(plant), _backlog(plant)
    for payload in _orders(APPENDS):
        appended = time.monotonic()
        plant.api.post(route("append"), {"facts": [{"data": payload.decode()}]}, stream=ORDERS)
        seen.append_seconds.append(time.monotonic() - appended)
    _append(producer, producer.ledger.count + FACTS_MEANWHILE)
    for _ in range(APPENDS):
        read = time.monotonic()
        groups = plant.api.lines("/v1/read", stream=OPERATIONAL, peer=ENTERPRISE, from_=1, count=10)
        seen.facts_read += sum(len(group) for group in groups)
        seen.read_seconds.append(time.monotonic() - read)
    seen.head_cut_off = _head(plant)
    _until("the backlog is known", UNREACHABLE_SECONDS, lambda: _backlog(plant) >= APPENDS)
    seen.backlog_cut_off = _backlog(plant)
    time.sleep(max(0.0, CUT_SECONDS - (time.monotonic() - began)))
    seen.links_cut_off = [_link(plant)]


def _moved(seen: PartitionSeen) -> list[str]:
    """Nothing came while nothing could come, and all came afterwards."""
    before, meanwhile, after = seen.links_before[0], seen.links_cut_off[0], seen.links_after[0]
    wrong = [] if meanwhile.sequence == before.sequence else [f"the cursor moved to {meanwhile.sequence}"]
    if after.sequence != before.sequence + FACTS_MEANWHILE:
        wrong.append(f"the cursor went from {before.sequence} to {after.sequence}")
    return wrong


def _append(producer: Producer, facts: int) -> None:
    producer.start(facts)
    if not producer.join(LEVEL_SECONDS):
        raise Stuck(f"{facts} facts could not be appended")


def _orders(count: int) -> list[bytes]:
    return [json.dumps({"order": number}).encode() for number in range(count)]


def _head(zone: Zone) -> int:
    return int(zone.api.get(route("streams", ORDERS))["last_sequence"])


def _backlog(zone: Zone) -> int:
    return int(zone.metric("bsfg_backlog_facts", peer=ENTERPRISE, stream=ORDERS) or 0)


def _link(zone: Zone) -> LinkSeen:
    row = zone.cursor()
    return LinkSeen(OPERATIONAL, row["state"], row["sequence"], row["scanned_through"])


def _streams(zone: Zone) -> list[StreamSeen]:
    rows = [
        zone.api.get(route("streams", ORDERS)),
        zone.api.get(route("streams", OPERATIONAL), peer=ENTERPRISE),
    ]
    return [_stream(row) for row in rows]


def _stream(row: dict[str, Any]) -> StreamSeen:
    place = (row["first_sequence"], row["last_sequence"])
    return StreamSeen(row["jetstream"], row["created"], row["epoch"], *place, may_trim=False)


def _until(what: str, seconds: float, holds: Callable[[], bool]) -> None:
    ends = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > ends:
            raise Stuck(f"{what}: not within {seconds:.0f} s")
        time.sleep(POLL_SECONDS)
