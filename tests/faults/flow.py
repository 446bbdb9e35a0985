"""Facts in both directions through a random schedule of faults, then calm, and the ledgers decide."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from tests.faults.judge import judge
from tests.faults.producer import Producer
from tests.faults.report import Report
from tests.faults.schedule import Fault, Kind, plan
from tests.faults.stage import ORDERS, Stage, Stuck, staged
from tests.faults.wounds import Wounds
from tests.support.lab_zones import ENTERPRISE, PLANT

DRAIN_SECONDS: Final = 60.0
"""From the last fault to the last fact at both receivers, beside what is still to be produced."""
DRAIN_FACTS_PER_SECOND: Final = 2_000
ORDERS_SHARE: Final = 0.1
"""Facts in the other direction."""
PACE: Final = 1.1
"""Facts are offered so fast that the last leave before the faults end, if nothing goes wrong."""


def run(
    seed: int, seconds: float, facts: int, kinds: tuple[Kind, ...], say: Callable[[str], None], interval: float = 1.0
) -> Report:
    """Faults for at most so many seconds, and until every fact was acknowledged."""
    report = Report(f"flow of {facts} facts", seed)
    with staged(seed) as stage:
        stage.start()
        producers = {
            ENTERPRISE: stage.producer(facts_per_second=PACE * facts / seconds),
            PLANT: stage.producer(PLANT, ORDERS, PACE * ORDERS_SHARE * facts / seconds),
        }
        producers[ENTERPRISE].start(facts)
        producers[PLANT].start(max(1, int(facts * ORDERS_SHARE)))
        # The schedule goes on while facts are outstanding, but not for ever.
        faults = plan(seed, seconds * 2, (ENTERPRISE, PLANT), kinds=kinds, interval_seconds=interval)
        began = time.monotonic()

        def is_over() -> bool:
            passed = time.monotonic() - began
            return passed > 2 * seconds or (passed > seconds and all(each.is_done for each in producers.values()))

        def told(fault: Fault) -> None:
            say(f"{fault}  [{producers[ENTERPRISE].ledger.count} acknowledged]")

        Wounds(stage).carry_out(faults, is_over, told)
        report.notes.append(f"faults for {time.monotonic() - began:.1f} s")
        _drain(stage, producers, report)
    return report


def _drain(stage: Stage, producers: dict[str, Producer], report: Report) -> None:
    outstanding = sum(producer.wanted - producer.ledger.count for producer in producers.values())
    ends = time.monotonic() + DRAIN_SECONDS + outstanding / DRAIN_FACTS_PER_SECOND
    began = time.monotonic()
    report.happened += stage.happened
    try:
        for producer in producers.values():
            if not producer.join(ends - time.monotonic()):
                raise Stuck(f"{producer.stream}: {producer.ledger.count} of {producer.wanted} acknowledged")
        stage.wait_level(ends - time.monotonic())
        report.notes.append(
            f"level {time.monotonic() - began:.1f} s after the last fault, with {outstanding} facts to produce by then"
        )
    except Stuck as stuck:
        report.wrong.append(f"stuck: {stuck}")
    for name, receiver in ((ENTERPRISE, PLANT), (PLANT, ENTERPRISE)):
        producer = producers[name]
        report.notes.append(
            f"{producer.stream}: {producer.ledger.count} facts acknowledged in {producer.attempts} calls,"
            f" refused {dict(producer.refusals)}"
        )
        report.add_verdicts(judge(producer, stage.zone(receiver)))
    for name, keeper in stage.keepers.items():
        report.notes.append(f"{name}: gateway started {keeper.starts} times")
        report.notes += [f"{name}: {count} times: {text}" for text, count in keeper.problems.items()]
    report.wrong += [f"a traceback in {name}" for name in stage.tracebacks()]
