"""What is measured: groups of runs in turn, and the rows that are made of them, with what each has to reach."""

from __future__ import annotations

import enum
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final

from bench.facts import Facts
from bench.pair import Setting


class Side(enum.StrEnum):
    """Who moves the facts."""

    NATIVE = "native"
    OURS = "bsfg"
    OURS_FAR = "bsfg, 100 ms"
    POSTGRES = "postgres"
    CURL = "curl"


class Kind(enum.StrEnum):
    """What a run of a group measures."""

    TRANSFER = "transfer"
    LATENCY = "latency"
    FSYNCS = "fsyncs"
    ARTIFACT = "artifact"


class Quantity(enum.StrEnum):
    """What a row compares, and in which unit."""

    RATE = "facts/s"
    LATENCY_P50 = "ms, p50"
    LATENCY_P99 = "ms, p99"
    CPU = "CPU s per million facts"
    MEMORY = "MiB"
    FSYNCS = "fsyncs per 1,000 facts"
    ARTIFACT_RATE = "MB/s"


FAR_SECONDS: Final = 0.1
THREE: Final = ("facts.operational", "facts.batch_completed", "facts.audit")


@dataclass(frozen=True)
class Sizes:
    """How many facts the runs move."""

    lazy: int = 300_000
    lazy_large: int = 100_000
    million: int = 1_000_000
    strict: int = 100_000
    latency: int = 600
    fsyncs: int = 10_000
    artifact_bytes: int = 512 * 1024 * 1024


@dataclass(frozen=True)
class Group:
    """One amount of facts, moved by each side in turn, round after round."""

    name: str
    facts: Facts
    sides: tuple[Side, ...] = (Side.NATIVE, Side.OURS)
    is_strict: bool = False
    kind: Kind = Kind.TRANSFER
    rounds_max: int | None = None
    artifact_bytes: int = 0

    def setting(self, side: Side) -> Setting:
        far = FAR_SECONDS if side is Side.OURS_FAR else 0.0
        return Setting(self.is_strict, far, self.facts.streams)


@dataclass(frozen=True)
class Row:
    """One line of the results: a quantity of two sides of a group, and the bound on their ratio.

    The memory row has a bound on the figure itself, and no other side.
    """

    work: str
    group: str
    quantity: Quantity = Quantity.RATE
    ours: Side = Side.OURS
    reference: Side = Side.NATIVE
    at_least: float | None = None
    at_most: float | None = None


ROWS: Final = (
    Row("lazy_512", "lazy_512", at_least=1.0),
    Row("lazy_128", "lazy_128", at_least=1.0),
    Row("lazy_4096", "lazy_4096", at_least=0.95),
    Row("lazy_512_three", "lazy_512_three", at_least=1.0),
    Row("strict_512", "strict_512", at_least=10.0),
    Row("strict_512_postgres", "strict_512", reference=Side.POSTGRES, at_least=1.1),
    Row("lazy_512_rtt100", "million", ours=Side.OURS_FAR, reference=Side.OURS, at_least=0.8),
    Row("lazy_512_million", "million"),
    Row("latency_p50", "latency", Quantity.LATENCY_P50, at_most=2.0),
    Row("latency_p99", "latency", Quantity.LATENCY_P99, at_most=3.0),
    Row("artifact", "artifact", Quantity.ARTIFACT_RATE, reference=Side.CURL, at_least=0.8),
    Row("memory", "lazy_512", Quantity.MEMORY, at_most=128.0),
    Row("cpu_lazy_512", "lazy_512", Quantity.CPU),
    Row("cpu_strict_512", "strict_512", Quantity.CPU),
    Row("fsyncs_lazy_512", "fsyncs_lazy", Quantity.FSYNCS),
    Row("fsyncs_strict_512", "fsyncs_strict", Quantity.FSYNCS),
)


def groups(sizes: Sizes) -> list[Group]:
    """All groups in the order in which they run: first what there has to be, should the time run out."""
    strict_sides = (Side.NATIVE, Side.OURS, Side.POSTGRES)
    far_sides = (Side.NATIVE, Side.OURS, Side.OURS_FAR)
    return [
        Group("lazy_512", Facts(sizes.lazy, 512)),
        Group("strict_512", Facts(sizes.strict, 512), strict_sides, is_strict=True),
        Group("latency", Facts(sizes.latency, 512), kind=Kind.LATENCY),
        Group(
            "artifact",
            Facts(0, 0),
            (Side.CURL, Side.OURS),
            kind=Kind.ARTIFACT,
            artifact_bytes=sizes.artifact_bytes,
        ),
        Group("lazy_128", Facts(sizes.lazy, 128)),
        Group("lazy_4096", Facts(sizes.lazy_large, 4096)),
        Group("lazy_512_three", Facts(sizes.lazy, 512, THREE)),
        Group("million", Facts(sizes.million, 512), far_sides),
        Group("fsyncs_lazy", Facts(sizes.fsyncs, 512), kind=Kind.FSYNCS, rounds_max=1),
        Group("fsyncs_strict", Facts(sizes.fsyncs, 512), is_strict=True, kind=Kind.FSYNCS, rounds_max=1),
    ]


def chosen_rows(names: Collection[str]) -> list[Row]:
    """The rows with these names, all where none is named; ValueError for a name that there is not."""
    known = {row.work: row for row in ROWS}
    if unknown := sorted(set(names) - set(known)):
        raise ValueError(f"no row is called {', '.join(unknown)}; there are {', '.join(known)}")
    return [row for row in ROWS if not names or row.work in names]


def needed_sides(group: Group, rows: Collection[Row]) -> tuple[Side, ...]:
    """The sides of a group that these rows can't do without; none where the group is not needed."""
    needed = {side for row in rows if row.group == group.name for side in (row.ours, row.reference)}
    return tuple(side for side in group.sides if side in needed)
