"""Every failpoint once: plant-a's gateway kills itself there, is started again, and nothing is lost or doubled."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from typing import Final

from tests.faults.judge import judge, source_name
from tests.faults.producer import Producer
from tests.faults.report import Report
from tests.faults.stage import Stage, Stuck, staged
from tests.support.lab_zones import ENTERPRISE, OPERATIONAL, PLANT
from tests.support.patience import patience

from bsfg.daemon.failpoints import LABELS

PASSAGE_MAX: Final = 2
ONCE: Final = ("record.before", "record.after")
"""Passed once after a start, if at all."""
FACTS: Final = 60
REACH_SECONDS: Final = 12.0
FEED_SECONDS: Final = 0.3
"""A fact so often calls for another page, record or confirm, until the failpoint is reached."""
DRAIN_SECONDS: Final = 20.0


def run(seed: int, labels: tuple[str, ...] = LABELS) -> Report:
    """Each label at a passage that the seed chooses; one that is never reached fails the run."""
    report = Report(f"{len(labels)} failpoints", seed)
    chance = random.Random(f"failpoints {seed}")
    with staged(seed) as stage:
        stage.start()
        keeper = stage.keeper(PLANT)
        keeper.rest()
        keeper.kill()
        producer = stage.producer()
        deleted: dict[int, int] = {}
        for label in labels:
            passage = 1 if label in ONCE else chance.randint(1, PASSAGE_MAX)
            failpoint = f"{label}:{passage}"
            has_reached = _cross(stage, producer, failpoint, deleted)
            report.happened[failpoint] += has_reached
            if not has_reached:
                report.wrong.append(f"failpoint {failpoint} was not reached")
        keeper.start()
        try:
            report.notes.append(f"level {stage.wait_level(DRAIN_SECONDS):.1f} s after the last")
        except Stuck as stuck:
            report.wrong.append(f"stuck: {stuck}")
        report.add_verdicts(judge(producer, stage.zone(PLANT), deleted))
        report.wrong += [f"a traceback in {name}" for name in stage.tracebacks()]
    return report


def _cross(stage: Stage, producer: Producer, failpoint: str, deleted: dict[int, int]) -> bool:
    """Start plant-a's gateway with the failpoint armed and facts to fetch; whether it died of it."""
    _append(producer, FACTS)
    if failpoint.startswith("record"):
        # Only a scan past the last fact is worth a record: the last one is taken away before it is fetched.
        _delete_last(stage, producer, deleted)
    keeper = stage.keeper(PLANT)
    keeper.start_armed(failpoint)
    deadline = time.monotonic() + REACH_SECONDS * patience()
    while time.monotonic() < deadline and keeper.ended_by() is None:
        time.sleep(FEED_SECONDS)
        if not failpoint.startswith("record"):
            _append(producer, 1)
    has_reached = keeper.ended_by() == signal.SIGKILL
    keeper.kill()
    return has_reached


def _append(producer: Producer, facts: int) -> None:
    producer.start(producer.ledger.count + facts)
    if not producer.join(REACH_SECONDS * patience()):
        raise Stuck(f"{facts} facts could not be appended")


def _delete_last(stage: Stage, producer: Producer, deleted: dict[int, int]) -> None:
    async def delete() -> None:
        async with stage.zone(ENTERPRISE).nats() as store:
            sequence = (await store.state(source_name(OPERATIONAL))).last_sequence
            await store.delete(source_name(OPERATIONAL), sequence)
            deleted[sequence] = producer.ledger.count - 1

    asyncio.run(delete())
