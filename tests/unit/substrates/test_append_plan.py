"""How pages are appended, for every wish, server and word about others."""

from __future__ import annotations

import pytest

from bsfg.substrates.append_plan import AppendPlan, Exclusivity, plan_appends
from bsfg.substrates.inbound_messages import Strategy

ALONE = (4, 125)
BESIDE_OTHERS = (1, 1)


@pytest.mark.parametrize(
    ("preferred", "exclusivity", "has_batches", "strategy", "in_flight", "words"),
    [
        (Strategy.ATOMIC, Exclusivity.PROVED, True, Strategy.ATOMIC, ALONE, "atomic batches (4 under way)"),
        (Strategy.PIPELINED, Exclusivity.PROVED, True, Strategy.PIPELINED, ALONE,
         "an acknowledgement for each page (4 under way)"),
        (Strategy.ATOMIC, Exclusivity.DECLARED, True, Strategy.ATOMIC, BESIDE_OTHERS, "atomic batches (one at a time)"),
        (Strategy.PIPELINED, Exclusivity.DECLARED, True, Strategy.ATOMIC, BESIDE_OTHERS,
         "atomic batches (one at a time)"),
        (Strategy.ATOMIC, Exclusivity.NONE, True, Strategy.ATOMIC, BESIDE_OTHERS, "atomic batches (one at a time)"),
        (Strategy.PIPELINED, Exclusivity.NONE, True, Strategy.ATOMIC, BESIDE_OTHERS, "atomic batches (one at a time)"),
        (Strategy.ATOMIC, Exclusivity.PROVED, False, Strategy.EACH, ALONE,
         "an acknowledgement for each message (4 under way)"),
        (Strategy.PIPELINED, Exclusivity.PROVED, False, Strategy.PIPELINED, ALONE,
         "an acknowledgement for each page (4 under way)"),
        (Strategy.ATOMIC, Exclusivity.DECLARED, False, Strategy.EACH, ALONE,
         "an acknowledgement for each message (4 under way)"),
        (Strategy.PIPELINED, Exclusivity.DECLARED, False, Strategy.PIPELINED, ALONE,
         "an acknowledgement for each page (4 under way)"),
        (Strategy.ATOMIC, Exclusivity.NONE, False, Strategy.EACH, BESIDE_OTHERS,
         "an acknowledgement for each message (one at a time)"),
        (Strategy.PIPELINED, Exclusivity.NONE, False, Strategy.EACH, BESIDE_OTHERS,
         "an acknowledgement for each message (one at a time)"),
        (Strategy.EACH, Exclusivity.DECLARED, True, Strategy.EACH, BESIDE_OTHERS,
         "an acknowledgement for each message (one at a time)"),
    ],
)  # fmt: skip
def test_the_fastest_way_that_is_exact(
    preferred: Strategy,
    exclusivity: Exclusivity,
    has_batches: bool,
    strategy: Strategy,
    in_flight: tuple[int, int],
    words: str,
) -> None:
    plan = plan_appends(preferred, exclusivity, has_batches=has_batches)
    batch_messages = 5_000 if exclusivity is Exclusivity.PROVED else 1_000
    careful = Strategy.ATOMIC if has_batches and preferred is not Strategy.EACH else Strategy.EACH
    assert plan == AppendPlan(strategy, careful, *in_flight, batch_messages)
    assert str(plan) == words
