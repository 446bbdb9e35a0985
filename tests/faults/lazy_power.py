"""Power cuts of the receiving zone under ``durability: lazy``: what is lost may be lost, and never in silence.

What plant-a had of its peer is fetched again. What its own producers had acknowledged and the disk did not have is
gone, as lazy says; a peer that had some of it already must halt and name it. After each halt the operators lead the
link out as the manual says.
"""

from __future__ import annotations

import random
import time
from typing import Any, Final

from tests.faults import power
from tests.faults.disk import Disk
from tests.faults.judge import judge_copy, read_copy, read_source
from tests.faults.report import Report
from tests.faults.stage import ORDERS, POLL_SECONDS, Stage, Stuck
from tests.support.lab_zones import ENTERPRISE, OPERATIONAL, PLANT
from tests.support.patience import patience

from bsfg.cli.local_client import route

LINKS: Final = ((PLANT, ENTERPRISE, OPERATIONAL), (ENTERPRISE, PLANT, ORDERS))
SETTLE_SECONDS: Final = 60.0
NAMES: Final = ("ahead_of_source", "diverged", "local_reset", "gap", "conflicting_duplicate", "cursor_unknown")
"""What a link may be halted for after its store, or its peer's, has lost its tail."""


def run(seed: int, cuts: int, until: float = float("inf")) -> Report:
    """So many cuts of plant-a at the server's default sync, as far as they fit before ``until`` (monotonic seconds)."""
    report = Report("power cuts under lazy", seed)
    with power.on_a_disk(report, is_lazy=True) as (stage, disk):
        _cut_again_and_again(stage, disk, cuts, report, until)
    return report


def _cut_again_and_again(stage: Stage, disk: Disk, cuts: int, report: Report, until: float) -> None:
    chance = random.Random(f"lazy power {stage.seed}")
    facts, orders = power.producers(stage)
    stage.start()
    for cut in range(cuts):
        if time.monotonic() > until:
            report.notes.append(f"{cut} of {cuts} cuts in the time there was")
            break
        found = power.cut(stage, disk, facts, orders, chance.uniform(*power.FLOW_SECONDS))
        report.happened["power cuts of plant-a"] += 1
        report.happened["of them with a loss of what was acknowledged"] += bool(found)
        for link in LINKS:
            reason = _settled(stage, *link)
            if reason is not None:
                report.happened[f"{link[2]} halted: {reason}"] += 1
                _lead_out(stage, *link)
        report.wrong += [f"cut {cut + 1}: {text}" for text in _silent(stage)]
    report.notes.append(f"{facts.ledger.count} facts and {orders.ledger.count} orders acknowledged")
    report.wrong += [f"a traceback in {name}" for name in stage.tracebacks()]


def _settled(stage: Stage, receiver: str, peer: str, stream: str) -> str | None:
    """The reason that a link is halted for; None once it is level with all that its source has."""
    deadline = time.monotonic() + SETTLE_SECONDS * patience()
    row: dict[str, Any] | None = None
    while time.monotonic() < deadline:
        row = stage.cursor(receiver, peer, stream)
        if row is not None and row["state"] == "halted":
            if row["reason"] not in NAMES:
                raise Stuck(f"{stream} at {receiver} is halted for {row['reason']}")
            return str(row["reason"])
        if stage.is_level(row, peer, stream):
            return None
        time.sleep(POLL_SECONDS)
    raise Stuck(f"{stream} at {receiver} neither level nor halted: {row and (row['state'], row['reason'])}")


def _lead_out(stage: Stage, receiver: str, peer: str, stream: str) -> None:
    """As the manual says: a new epoch at a source that lost something, a new generation at the receiver."""
    zone = stage.zone(receiver)
    if receiver == ENTERPRISE:
        stage.zone(peer).ask("stream", "new-epoch", stream, "--reason", "its tail is lost")
    before = zone.cursor(peer, stream)["generation"]
    first = max(1, stage.zone(peer).api.get(route("streams", stream))["first_sequence"])
    words = ("--peer", peer, "--stream", stream, "--to", str(first), "--reason", "a power cut")
    zone.ask("cursor", "rewind", *words, "--accept-differences")
    deadline = time.monotonic() + SETTLE_SECONDS * patience()
    while zone.cursor(peer, stream)["generation"] == before or not stage.is_level(
        stage.cursor(receiver, peer, stream), peer, stream
    ):
        if time.monotonic() > deadline:
            raise Stuck(f"{stream} at {receiver} does not come out of its halt: {zone.cursor(peer, stream)}")
        time.sleep(POLL_SECONDS)
    drop = ("--peer", peer, "--generation", str(before), "--reason", "led out")
    zone.ask("stream", "drop", stream, *drop)


def _silent(stage: Stage) -> list[str]:
    """Where a link that says it is level has not exactly what its source has."""
    found = []
    for receiver, peer, stream in LINKS:
        generation = stage.zone(receiver).cursor(peer, stream)["generation"]
        copy = read_copy(stage.zone(receiver), peer, stream, generation)
        verdict = judge_copy(read_source(stage.zone(peer), stream), copy)
        if not verdict.is_exact:
            found.append(f"{stream} at {receiver} is level and not exact: {verdict}")
    return found
