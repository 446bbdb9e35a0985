"""``python -m bench``: native JetStream sources and BSFG in turn, on the same facts, at equal ``sync_interval``."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

import nats.errors

from bench import artifacts, document, fsyncs, gateways, machine, native, postgres, report
from bench.facts import consume
from bench.fsyncs import FsyncCount
from bench.latency import latency
from bench.measure import Run, transfer
from bench.native import NativePair
from bench.pair import JetStreamPair, Pair, Setting
from bench.results import Results, Syncs, as_json, figures
from bench.works import ROWS, Group, Kind, Row, Side, Sizes, chosen_rows, groups, needed_sides
from bsfg.errors import BsfgError

MEASURING_FAILS: Final = (RuntimeError, OSError, BsfgError, nats.errors.Error, subprocess.SubprocessError)
RESULTS: Final = Path("bench-results.json")
MINUTES_MAX: Final = 16.0
"""After this no second round is begun, so that the whole ends within twenty."""


def main() -> int:
    options = _options()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    rows = chosen_rows(options.only)
    sizes = Sizes(
        options.facts, options.facts_4096, options.facts_million, options.facts_strict, options.facts_latency
    )
    machine_lines = machine.describe(options.folder or Path(tempfile.gettempdir()))
    _introduce(machine_lines)
    results, failures = Results(), 0
    began = time.monotonic()
    for group in groups(sizes):
        sides = _sides_here(needed_sides(group, rows))
        rounds = min(options.rounds, group.rounds_max or options.rounds)
        for number in range(1, rounds + 1) if sides else ():
            if number > 1 and time.monotonic() - began > MINUTES_MAX * 60:
                print(
                    f"{group.name}: round {number} and later are left out, {MINUTES_MAX:.0f} minutes are over"
                )
                break
            for side in sides:
                failures += not _one_run(results, group, side, number, options.folder)
    _finish(results, rows, options, machine_lines, time.monotonic() - began)
    return 1 if failures else 0


def _options() -> argparse.Namespace:
    sizes = Sizes()
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="ROW", help=", ".join(row.work for row in ROWS)
    )
    parser.add_argument("--rounds", type=int, default=3, help="runs of each side, in turn (%(default)s)")
    for name, default in (
        ("facts", sizes.lazy),
        ("facts-4096", sizes.lazy_large),
        ("facts-million", sizes.million),
        ("facts-strict", sizes.strict),
        ("facts-latency", sizes.latency),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, help="facts a run (%(default)s)")
    parser.add_argument("--folder", type=Path, help="where the stores are, on the disk to measure (TMPDIR)")
    parser.add_argument(
        "--results", type=Path, help=f"where the rows go; {RESULTS} where all rows were asked for"
    )
    parser.add_argument(
        "--document", type=Path, help="also renew the results in this copy of docs/performance.md"
    )
    options = parser.parse_args()
    try:
        chosen_rows(options.only)
    except ValueError as error:
        parser.error(str(error))
    return options


def _introduce(machine_lines: Sequence[str]) -> None:
    for line in machine_lines:
        print(line)
    print("\nThe native side, both servers (sync_interval: always where the work is called strict):")
    print(native.describe())
    print(
        "\nThe clock runs from the moment that the facts may travel (the source is created, the partition is ended,\n"
        "the subscription is enabled) until the target holds every fact; filling the source is not measured.\n"
    )


def _sides_here(sides: Sequence[Side]) -> list[Side]:
    """What can be measured on this machine."""
    if Side.POSTGRES in sides and postgres.programs() is None:
        print(
            "PostgreSQL's server is not installed, so its row is left out; make bench-neighbours installs it"
        )
        return [side for side in sides if side is not Side.POSTGRES]
    return list(sides)


def _one_run(results: Results, group: Group, side: Side, number: int, folder: Path | None) -> bool:
    """Whether it could be measured. A side that fails leaves the others their chance."""
    if group.kind is Kind.FSYNCS and not fsyncs.is_available():
        print(f"{group.name}: strace is not installed, so nothing is counted")
        return True
    try:
        with tempfile.TemporaryDirectory(prefix="bsfg-bench-", dir=folder) as place:
            said = _measure(results, group, side, Path(place))
    except MEASURING_FAILS as error:
        print(f"{group.name}, round {number}, {side.value}: FAILED: {error}", flush=True)
        return False
    print(f"{group.name}, round {number}, {side.value}: {said}", flush=True)
    return True


def _measure(results: Results, group: Group, side: Side, folder: Path) -> str:
    with _opened(side, folder, group.setting(side)) as pair:
        match group.kind:
            case Kind.TRANSFER:
                return _transfer(results, group, side, pair)
            case Kind.LATENCY:
                return _latency(results, group, side, pair)
            case Kind.FSYNCS:
                return _count_fsyncs(results, group, side, pair, folder)
            case Kind.ARTIFACT:
                return _artifact(results, group, side, pair, folder)


def _opened(side: Side, folder: Path, setting: Setting) -> AbstractContextManager[Pair]:
    match side:
        case Side.NATIVE:
            return native.running(folder, setting)
        case Side.POSTGRES:
            return postgres.running(folder, setting)
        case _:
            return gateways.running(folder, setting)


def _transfer(results: Results, group: Group, side: Side, pair: Pair) -> str:
    run = asyncio.run(transfer(pair, group.facts))
    results.transfers[group.name, side].append(run)
    if isinstance(pair, NativePair) and group.name == "lazy_512":
        results.publish_rates.append(run.fill_rate)
        results.consume_rates.append(_consume_rate(pair, group))
    return _said(run)


def _said(run: Run) -> str:
    peaks = ", ".join(f"{name} {peak:.0f}" for name, peak in run.peaks_mib.items())
    return (
        f"{run.rate:,.0f} facts/s, {run.seconds_to_first:.2f} s to the first, "
        f"{run.cpu_per_million:.1f} CPU s/M, others {run.foreign_cores:.1f} cores; peak MiB: {peaks}"
    )


def _consume_rate(pair: NativePair, group: Group) -> float:
    stream, consumer = asyncio.run(pair.create_consumer())
    return consume(pair.source, stream, group.facts.count, consumer)


def _latency(results: Results, group: Group, side: Side, pair: Pair) -> str:
    assert isinstance(pair, JetStreamPair)

    async def run() -> None:
        if side is Side.NATIVE:
            await pair.release()
        results.latencies[group.name, side].append(
            await latency(pair, group.facts.count, group.facts.size_bytes)
        )

    asyncio.run(run())
    last = results.latencies[group.name, side][-1]
    return f"p50 {last.p50:.2f} ms, p99 {last.p99:.2f} ms, longest {last.longest:.2f} ms"


def _artifact(results: Results, group: Group, side: Side, pair: Pair, folder: Path) -> str:
    assert isinstance(pair, gateways.GatewayPair)
    take = artifacts.curl if side is Side.CURL else artifacts.fetch
    rate = artifacts.rate(pair, group.artifact_bytes, folder, take)
    results.artifact_rates[group.name, side].append(rate)
    return f"{rate:,.1f} MB/s"


def _count_fsyncs(results: Results, group: Group, side: Side, pair: Pair, folder: Path) -> str:
    counters: list[FsyncCount] = []

    def counting() -> FsyncCount:
        counters.append(FsyncCount(folder, pair.pids()))
        return counters[-1]

    asyncio.run(transfer(pair, group.facts, counting))
    syncs = results.syncs[group.name, side] = Syncs(group.facts.count, counters[-1].counts)
    return (
        ", ".join(f"{name} {syncs.per_thousand(name):,.1f}" for name in syncs.counts)
        + " fsyncs per 1,000 facts"
    )


def _finish(
    results: Results,
    rows: list[Row],
    options: argparse.Namespace,
    machine_lines: Sequence[str],
    seconds: float,
) -> None:
    measured = figures(results, rows)
    print()
    report.show(results, measured)
    if check := report.native_check(results):
        print(check)
    path = options.results or (None if options.only else RESULTS)
    if path is not None:
        path.write_text(json.dumps({"rows": as_json(measured)}, indent=2) + "\n", encoding="utf-8")
        print(f"rows written to {path}")
    if options.document is not None:
        document.renew(options.document, document.render(results, measured, machine_lines))
        print(f"results written to {options.document}")
    print(f"{seconds / 60:.1f} minutes, load {os.getloadavg()[0]:.1f} now")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
