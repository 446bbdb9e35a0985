"""Power cuts of the receiving zone: what it had acknowledged is there afterwards, under strict durability.

The control is the same cut at the server's default sync: it has to lose acknowledged facts, as a harness that can't
lose anything shows nothing.
"""

from __future__ import annotations

import random
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.faults.disk import Disk, image_folder
from tests.faults.judge import judge, read_copy, read_source
from tests.faults.producer import Producer, payload_of
from tests.faults.report import Report
from tests.faults.stage import ANSWER_SECONDS, ASK_SECONDS, ORDERS, Stage, Stuck, staged
from tests.support.lab_zones import ENTERPRISE, OPERATIONAL, PLANT
from tests.support.patience import patience

from bsfg.cli.local_client import route
from bsfg.errors import BsfgError

FLOW_SECONDS: Final = (0.4, 1.6)
FACTS_PER_SECOND: Final = 2_000.0
ORDERS_PER_SECOND: Final = 500.0
MANY: Final = 10**9
DRAIN_SECONDS: Final = 40.0


def run(seed: int, cuts: int, *, is_lazy: bool, until: float = float("inf")) -> Report:
    """So many cuts of plant-a, as far as they fit before ``until`` (monotonic seconds)."""
    name = "power cuts at default sync, the control" if is_lazy else "power cuts under strict"
    report = Report(name, seed)
    with on_a_disk(report, is_lazy=is_lazy) as (stage, disk):
        _cut_again_and_again(stage, disk, cuts, report, is_lazy, until)
    return report


@contextmanager
def on_a_disk(report: Report, *, is_lazy: bool) -> Iterator[tuple[Stage, Disk]]:
    """A lab whose plant-a lies on a disk of its own; what gets stuck inside the block is wrong."""
    images = tempfile.TemporaryDirectory(prefix="bsfg-disk-", dir=image_folder(Path(tempfile.gettempdir())))
    with images as folder, staged(report.seed, is_lazy=is_lazy) as stage:
        disk = Disk.under(stage.zone(PLANT).home, Path(folder))
        try:
            yield stage, disk
        except Stuck as stuck:
            report.wrong.append(f"stuck: {stuck}")
        finally:
            stage.end()
            disk.remove()


def _cut_again_and_again(
    stage: Stage, disk: Disk, cuts: int, report: Report, is_lazy: bool, until: float
) -> None:
    chance = random.Random(f"power {stage.seed}")
    facts, orders = producers(stage)
    stage.start()
    lost = 0
    for number in range(1, cuts + 1):
        if time.monotonic() > until:
            report.notes.append(f"{number - 1} of {cuts} cuts in the time there was")
            break
        found = cut(stage, disk, facts, orders, chance.uniform(*FLOW_SECONDS))
        report.happened["power cuts of plant-a"] += 1
        lost += len(found)
        if found and not is_lazy:
            report.wrong.append(f"cut {number}: {'; '.join(found)}")
        report.notes += [f"cut {number}: {text}" for text in found]
        if is_lazy:
            break
        stage.wait_level(DRAIN_SECONDS)
    if is_lazy:
        _conclude_control(stage, facts, lost, report)
        return
    report.notes.append(f"{facts.ledger.count} facts and {orders.ledger.count} orders acknowledged")
    report.add_verdicts(judge(facts, stage.zone(PLANT)))
    report.add_verdicts(judge(orders, stage.zone(ENTERPRISE)))
    report.wrong += [f"a traceback in {name}" for name in stage.tracebacks()]


def producers(stage: Stage) -> tuple[Producer, Producer]:
    """Of facts at the other zone, and of orders at plant-a itself."""
    facts = stage.producer(facts_per_second=FACTS_PER_SECOND)
    orders = stage.producer(PLANT, ORDERS, ORDERS_PER_SECOND)
    for producer in (facts, orders):
        producer.batch = 100
    return facts, orders


def cut(stage: Stage, disk: Disk, facts: Producer, orders: Producer, seconds: float) -> list[str]:
    """Let facts flow, cut plant-a's power, start it on what its disk has; what it had acknowledged and lost."""
    keeper = stage.keeper(PLANT)
    facts.start(MANY)
    orders.start(MANY)
    time.sleep(seconds)
    row = stage.cursor(PLANT, ENTERPRISE, OPERATIONAL)
    acknowledged = (row or {}).get("sequence") or 0
    ordered = orders.ledger.count
    keeper.rest()
    keeper.send(signal.SIGSTOP)
    stage.signal_server(PLANT, signal.SIGSTOP)
    image = disk.copy()
    keeper.kill()
    stage.kill_server(PLANT)
    facts.stop()
    orders.stop()
    disk.replace(image)
    with stage.paused_gateway(ENTERPRISE):
        # The other zone can't help meanwhile: what is found is what the disk had.
        keeper.start()
        _wait_answer(stage)
        return _missing(stage, orders, acknowledged, ordered)


def _missing(stage: Stage, orders: Producer, acknowledged: int, ordered: int) -> list[str]:
    zone = stage.zone(PLANT)
    kept = read_copy(zone, ENTERPRISE, OPERATIONAL)
    last = kept[-1][0] if kept else 0
    found = [f"the cursor said {acknowledged}, the stream ends at {last}"] if last < acknowledged else []
    payloads = {payload for _, payload in read_source(zone, ORDERS)}
    lost = sum(payload_of(orders.seed, number) not in payloads for number in range(ordered))
    return [*found, f"{lost} of {ordered} acknowledged orders are gone"] if lost else found


def _conclude_control(stage: Stage, facts: Producer, lost: int, report: Report) -> None:
    """Facts come again from their source; lost orders are gone, and the link that had them says so by name."""
    if not lost:
        report.wrong.append("nothing acknowledged was lost at default sync: the harness is broken")
    deadline = time.monotonic() + DRAIN_SECONDS * patience()
    while True:
        rows = {
            OPERATIONAL: stage.cursor(PLANT, ENTERPRISE, OPERATIONAL),
            ORDERS: stage.cursor(ENTERPRISE, PLANT, ORDERS),
        }
        words = {stream: row and (row["state"], row["reason"]) for stream, row in rows.items()}
        if words[OPERATIONAL] == ("level", None) and words[ORDERS] and words[ORDERS][0] == "halted":
            break
        if time.monotonic() > deadline:
            report.wrong.append(f"after the loss the links are {words}, expected level and halted")
            break
        time.sleep(0.1)
    report.notes.append(f"afterwards {words}")
    report.add_verdicts(judge(facts, stage.zone(PLANT)))


def _wait_answer(stage: Stage) -> None:
    deadline = time.monotonic() + ANSWER_SECONDS * patience()
    while time.monotonic() < deadline:
        try:
            status = stage.zone(PLANT).api.get(route("status"), deadline_seconds=ASK_SECONDS)
            if status["substrate"]["connected"]:
                return
        except BsfgError:
            pass
        time.sleep(0.05)
    raise Stuck(f"plant-a does not answer {ANSWER_SECONDS:.0f} s after its power came back")
