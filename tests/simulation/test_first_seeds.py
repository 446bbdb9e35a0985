"""Seeds 1 to 500: nothing lost, doubled, reordered, stuck, or passed over in silence; and the seeds themselves."""

from __future__ import annotations

from tests.simulation.profile import FACTS_MIN
from tests.simulation.seeds import run_seed
from tests.simulation.thousand import check_seeds
from tests.simulation.world import FAULTS_MIN


def test_500_seeds_without_a_violation() -> None:
    check_seeds(range(1, 501))


def test_a_seed_replays_exactly() -> None:
    courses: list[list[str]] = []
    for _ in range(2):
        course: list[str] = []
        run_seed(123, course.append)
        run_seed(7)
        courses.append(course)
    assert len(courses[0]) > 100
    assert courses[0] == courses[1]


def test_every_seed_has_its_facts_and_faults() -> None:
    outcomes = [run_seed(seed) for seed in range(1, 31)]
    assert min(outcome.facts for outcome in outcomes) >= FACTS_MIN
    assert min(sum(outcome.faults.values()) for outcome in outcomes) >= FAULTS_MIN
