"""``make simulate``: many seeds over both cores with progress, or the full trace of one.

Exit status 1 if anything was lost, doubled, reordered, stuck or passed over in silence, or if something that should
have occurred never did.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator
from typing import Final

from tests.simulation.occurrences import missing, table
from tests.simulation.seeds import Outcome, run_seed, run_seeds

CHUNK: Final = 100
SHOWN_MAX: Final = 20


def chunks(first: int, count: int) -> Iterator[range]:
    for start in range(first, first + count, CHUNK):
        yield range(start, min(start + CHUNK, first + count))


def replay(seed: int) -> int:
    """Every event, command and fault of one seed, in order."""
    outcome = run_seed(seed, print)
    for violation in outcome.violations.get(seed, []):
        print(f"VIOLATION  {violation}")
    found = len(outcome.violations.get(seed, []))
    print(f"seed {seed}: {outcome.facts} facts, {sum(outcome.faults.values())} faults, {found} violations")
    return 1 if found else 0


def run_many(first: int, count: int) -> int:
    total, began = Outcome(), time.monotonic()
    with multiprocessing.Pool(os.cpu_count() or 1) as pool:
        for outcome in pool.imap_unordered(run_seeds, chunks(first, count)):
            total.add(outcome)
            for seed, violations in outcome.violations.items():
                print(f"\nseed {seed}: {violations[0]}", file=sys.stderr)
            rate = total.seeds / (time.monotonic() - began)
            print(f"\r{total.seeds:,} of {count:,} seeds, {rate:.0f} a second, "
                  f"{len(total.violations)} with violations", end="", file=sys.stderr, flush=True)  # fmt: skip
    print(file=sys.stderr)
    return report(total)


def report(total: Outcome) -> int:
    print("\n".join(table(total)))
    for seed, violations in sorted(total.violations.items())[:SHOWN_MAX]:
        print(f"seed {seed}: {violations[0]}")
    never = missing(total)
    for name in never:
        print(f"never occurred: {name}")
    print(
        f"{total.seeds:,} seeds, {total.facts:,} facts, {sum(total.faults.values()):,} faults, "
        f"{len(total.violations)} seeds with violations, {total.unproven_histories} appends behind a fact "
        f"that the source no longer held, {total.overstated_gaps} gap records that name facts which are here"
    )
    return 1 if total.violations or never else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="make simulate")
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--seed", type=int, help="print the full trace of this seed")
    choice.add_argument("--seeds", type=int, default=100_000, help="how many to run")
    parser.add_argument("--first", type=int, default=1, help="the first of them")
    arguments = parser.parse_args()
    if arguments.seed is not None:
        return replay(arguments.seed)
    return run_many(arguments.first, arguments.seeds)


if __name__ == "__main__":
    sys.exit(main())
