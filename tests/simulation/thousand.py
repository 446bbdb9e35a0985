"""The assertion that both halves of the thousand seeds share; two files, so that two workers can take them."""

from __future__ import annotations

from tests.simulation.occurrences import missing, table
from tests.simulation.seeds import run_seeds


def check_seeds(seeds: range) -> None:
    outcome = run_seeds(seeds)
    print("\n".join(table(outcome)))
    shown = [f"make simulate SEED={seed}: {what[0]}" for seed, what in outcome.violations.items()]
    assert not shown, "\n".join(shown)
    assert not missing(outcome), "these should have occurred"
