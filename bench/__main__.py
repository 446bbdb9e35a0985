"""``python -m bench``: native JetStream sources and BSFG in turn, on the same facts, at equal ``sync_interval``."""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from bench import gateways, native
from bench.facts import FACT_BYTES
from bench.measure import Run, median

RESULTS: Final = Path("bench-results.json")
RATIO_AT_LEAST: Final = 1.0
Side = Callable[[Path, int, bool], Run]


@dataclass
class Work:
    """One amount of facts at one durability, and what both sides did with it."""

    name: str
    facts: int
    sync_always: bool
    ours: list[Run] = field(default_factory=list)
    reference: list[Run] = field(default_factory=list)


def main() -> int:
    options = _options()
    works = [
        Work("512 B, default sync", options.facts, sync_always=False),
        Work("512 B, sync always", options.facts_sync_always, sync_always=True),
    ]
    _print_configuration(works, options.rounds)
    sides = [side for side in ("native", "bsfg") if options.only in (None, side)]
    for work in works:
        for number in range(1, options.rounds + 1):
            for side in sides:
                _one_run(work, side, number)
    Console(width=110).print(_table(works))
    if not options.only:
        RESULTS.write_text(json.dumps({"rows": _rows(works)}, indent=2) + "\n", encoding="utf-8")
        print(f"written to {RESULTS}; a ratio above 1 is in favour of bsfg")
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--facts", type=int, default=300_000, help="facts at default sync (%(default)s)")
    parser.add_argument("--facts-sync-always", type=int, default=30_000, help="facts at sync always (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each side, in turn (%(default)s)")
    parser.add_argument("--only", choices=["native", "bsfg"], help="one side alone; writes no results")
    return parser.parse_args()


def _print_configuration(works: list[Work], rounds: int) -> None:
    version = subprocess.run(
        [str(native.NATS_SERVER), "--version"], capture_output=True, text=True, check=True, timeout=10
    ).stdout.strip()
    print(f"{version}, Python {platform.python_version()}, {os.cpu_count()} cores, facts of {FACT_BYTES} B,")
    print(f"{rounds} runs each in turn, medians; every run on fresh stores; publishing is not measured")
    for work in works:
        print(f"\n{work.name}, {work.facts:,} facts")
        print(f"  native: {native.describe(work.sync_always)}")
        print(f"  bsfg:   {gateways.describe(work.sync_always)}")
    print(
        "\nThe clock runs from the request that starts the transfer (the source is created; the partition is ended by\n"
        "the command) until the receiver's stream holds every fact. 'flowing' leaves out the time to the first fact.\n"
        "CPU is user and system time of all processes of a side in that span.\n"
    )


def _one_run(work: Work, side: str, number: int) -> None:
    run_side, runs = (native.run, work.reference) if side == "native" else (gateways.run, work.ours)
    with tempfile.TemporaryDirectory(prefix="bsfg-bench-") as folder:
        run = run_side(Path(folder), work.facts, work.sync_always)
    runs.append(run)
    print(
        f"{work.name}, run {number}, {side:>6}: {run.facts_per_second:>9,.0f} facts/s, "
        f"{run.seconds_to_first:.2f} s to the first, {run.cpu_seconds_per_million:.1f} CPU s/M"
    )


def _table(works: list[Work]) -> Table:
    table = Table("work", "side", "facts/s", "flowing facts/s", "CPU s per million", "ratio of facts/s")
    for work in works:
        ratio = ""
        if work.ours and work.reference:
            ratio = f"{median(work.ours, _rate) / median(work.reference, _rate):.2f}"
        for side, runs in (("native", work.reference), ("bsfg", work.ours)):
            if runs:
                table.add_row(work.name, side, *_figures(runs), ratio if side == "bsfg" else "")
    return table


def _figures(runs: list[Run]) -> list[str]:
    return [
        f"{median(runs, _rate):,.0f}",
        f"{median(runs, lambda run: run.facts_per_second_once_started):,.0f}",
        f"{median(runs, _cpu):.1f}",
    ]


def _rate(run: Run) -> float:
    return run.facts_per_second


def _cpu(run: Run) -> float:
    return run.cpu_seconds_per_million


def _rows(works: list[Work]) -> list[dict[str, Any]]:
    """Ratios are ours to the reference's for facts/s and the reference's to ours for CPU: above 1 is ours."""
    rows = []
    for work in works:
        rate, rate_reference = median(work.ours, _rate), median(work.reference, _rate)
        cpu, cpu_reference = median(work.ours, _cpu), median(work.reference, _cpu)
        rows += [
            _row(f"{work.name}: throughput", rate, rate_reference, rate / rate_reference, "facts/s"),
            _row(f"{work.name}: CPU", cpu, cpu_reference, cpu_reference / cpu, "CPU s per million facts"),
        ]
    return rows


def _row(work: str, ours: float, reference: float, ratio: float, unit: str) -> dict[str, Any]:
    return {
        "work": work,
        "ours": round(ours, 2),
        "reference": round(reference, 2),
        "ratio": round(ratio, 3),
        "at_least": RATIO_AT_LEAST if unit == "facts/s" else None,
        "unit": unit,
    }


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (RuntimeError, TimeoutError, OSError) as error:
        sys.exit(f"bench: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
