"""From single runs to medians, rows, tables and JSON. Pure: nothing is measured here."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.latency import Latency
from bench.measure import Run
from bench.works import Quantity, Row, Side

GATEWAY = "gateway"


@dataclass(frozen=True)
class Syncs:
    """How often each process synced while so many facts were moved."""

    facts: int
    counts: Mapping[str, int]

    def per_thousand(self, process: str | None = None) -> float:
        count = sum(self.counts.values()) if process is None else self.counts[process]
        return count / self.facts * 1_000


@dataclass
class Results:
    """Everything that was measured so far, by group and side."""

    transfers: dict[tuple[str, Side], list[Run]] = field(default_factory=lambda: defaultdict(list))
    latencies: dict[tuple[str, Side], list[Latency]] = field(default_factory=lambda: defaultdict(list))
    syncs: dict[tuple[str, Side], Syncs] = field(default_factory=dict)
    artifact_rates: dict[tuple[str, Side], list[float]] = field(default_factory=lambda: defaultdict(list))
    """MB/s."""
    publish_rates: list[float] = field(default_factory=list)
    """Of the native hub while it was filled."""
    consume_rates: list[float] = field(default_factory=list)
    """Of the native hub's stream, pulled by the bench."""

    def transfer_median(self, group: str, side: Side, value: Callable[[Run], float]) -> float | None:
        return _median([value(run) for run in self.transfers.get((group, side), [])])

    def latency_median(self, group: str, side: Side, value: Callable[[Latency], float]) -> float | None:
        return _median([value(run) for run in self.latencies.get((group, side), [])])


@dataclass(frozen=True)
class Figure:
    """One row with its figures; None where a side was not measured."""

    row: Row
    ours: float | None
    reference: float | None

    @property
    def ratio(self) -> float | None:
        """Ours to the reference, whichever of the two is better when larger."""
        if self.ours is None or not self.reference:
            return None
        return self.ours / self.reference

    @property
    def is_reached(self) -> bool | None:
        """Whether the bound holds; None where there is no bound or no figure."""
        judged = self.ours if self.row.quantity is Quantity.MEMORY else self.ratio
        if judged is None or (self.row.at_least is None and self.row.at_most is None):
            return None
        if self.row.at_most is not None:
            return judged <= self.row.at_most
        assert self.row.at_least is not None
        return judged >= self.row.at_least


def figures(results: Results, rows: Collection[Row]) -> list[Figure]:
    """Medians of all rows."""
    return [_figure(results, row) for row in rows]


def _figure(results: Results, row: Row) -> Figure:
    if row.quantity is Quantity.MEMORY:
        # There is nothing that compares with a gateway alone: the reference is what is allowed.
        return Figure(row, gateway_peak(results), row.at_most)
    return Figure(row, _value(results, row, row.ours), _value(results, row, row.reference))


def _value(results: Results, row: Row, side: Side) -> float | None:
    match row.quantity:
        case Quantity.RATE:
            return results.transfer_median(row.group, side, lambda run: run.rate)
        case Quantity.CPU:
            return results.transfer_median(row.group, side, lambda run: run.cpu_per_million)
        case Quantity.LATENCY_P50:
            return results.latency_median(row.group, side, lambda run: run.p50)
        case Quantity.LATENCY_P99:
            return results.latency_median(row.group, side, lambda run: run.p99)
        case Quantity.FSYNCS:
            syncs = results.syncs.get((row.group, side))
            return syncs.per_thousand() if syncs else None
        case Quantity.ARTIFACT_RATE:
            return _median(results.artifact_rates.get((row.group, side), []))
        case Quantity.MEMORY:
            raise AssertionError("memory is a figure of all groups")


def gateway_peak(results: Results) -> float | None:
    """The most memory that one gateway ever had in any run, its nats-server not counted."""
    peaks = [
        peak
        for runs in results.transfers.values()
        for run in runs
        for name, peak in run.peaks_mib.items()
        if name.endswith(GATEWAY)
    ]
    return max(peaks, default=None)


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


def as_json(measured: Collection[Figure]) -> list[dict[str, Any]]:
    """The rows of ``bench-results.json``; a row without a figure of ours is left out."""
    return [_json_row(figure) for figure in measured if figure.ours is not None]


def _json_row(figure: Figure) -> dict[str, Any]:
    row = figure.row
    bound = {"at_most": row.at_most} if row.at_most is not None else {"at_least": row.at_least}
    return {
        "work": row.work,
        "ours": _rounded(figure.ours),
        "reference": _rounded(figure.reference),
        "ratio": None if figure.ratio is None else round(figure.ratio, 3),
        **bound,
        "unit": row.quantity.value,
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def foreign_cores(results: Results, group: str) -> list[float]:
    """Of every run of a group: how many processors everything else kept busy."""
    return [
        run.foreign_cores for (name, _), runs in results.transfers.items() if name == group for run in runs
    ]


def by_process(results: Results) -> list[tuple[str, Side, str, float, float]]:
    """Group, side, process, median CPU seconds per million facts, and peak memory of every process measured."""
    lines = []
    for (group, side), runs in results.transfers.items():
        for process in runs[0].cpu_seconds:
            cpu = statistics.median(run.cpu_seconds[process] / run.facts * 1e6 for run in runs)
            lines.append((group, side, process, cpu, max(run.peaks_mib[process] for run in runs)))
    return lines
