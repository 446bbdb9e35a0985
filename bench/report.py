"""What the bench prints: tables for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rich.console import Console
from rich.table import Table

from bench.results import Figure, Results, by_process
from bench.works import Quantity, Side

WIDTH: Final = 118
PLAUSIBLE_SHARE_MAX: Final = 1.0


def show(results: Results, measured: Sequence[Figure]) -> None:
    """All tables on the terminal."""
    console = Console(width=WIDTH)
    console.print(_rows(measured))
    if results.transfers:
        console.print(_processes(results))
    if results.syncs:
        console.print(_syncs(results))


def number(value: float | None, quantity: Quantity) -> str:
    """A figure as people read it."""
    if value is None:
        return "not measured"
    if quantity is Quantity.RATE:
        return f"{value:,.0f}"
    return f"{value:,.2f}" if value < 10 else f"{value:,.1f}"


def bound(figure: Figure) -> str:
    """What the row has to reach, and whether it did."""
    row = figure.row
    if row.at_least is None and row.at_most is None:
        return ""
    text = f"at least {row.at_least:g}" if row.at_least is not None else f"at most {row.at_most:g}"
    if figure.is_reached is None:
        return text
    return f"{text}: {'reached' if figure.is_reached else 'missed'}"


def _rows(measured: Sequence[Figure]) -> Table:
    table = Table("work", "bsfg", "reference", "of", "unit", "ratio", "bound")
    for figure in measured:
        row = figure.row
        against = "bound" if row.quantity is Quantity.MEMORY else row.reference.value
        table.add_row(
            row.work,
            number(figure.ours, row.quantity),
            number(figure.reference, row.quantity),
            against,
            row.quantity.value,
            "" if figure.ratio is None else f"{figure.ratio:.2f}",
            bound(figure),
        )
    return table


def _processes(results: Results) -> Table:
    table = Table("work", "side", "process", "CPU s per million facts", "peak MiB")
    for group, side, process, cpu, peak in by_process(results):
        table.add_row(group, side.value, process, f"{cpu:.2f}", f"{peak:.0f}")
    return table


def _syncs(results: Results) -> Table:
    table = Table("work", "side", "process", "fsyncs per 1,000 facts")
    for (group, side), syncs in results.syncs.items():
        for process in syncs.counts:
            table.add_row(group, side.value, process, f"{syncs.per_thousand(process):,.1f}")
    return table


def native_check(results: Results) -> str:
    """The native rate beside what the same server does when it only stores, and when it only delivers."""
    rate = results.transfer_median("lazy_512", Side.NATIVE, lambda run: run.rate)
    if rate is None or not results.publish_rates or not results.consume_rates:
        return ""
    publish, consume = max(results.publish_rates), max(results.consume_rates)
    verdict = "plausible" if rate <= min(publish, consume) * PLAUSIBLE_SHARE_MAX else "NOT plausible"
    return (
        f"native check: replicates {rate:,.0f} facts/s; the hub alone stores {publish:,.0f} published facts/s "
        f"({rate / publish:.0%}) and delivers {consume:,.0f} to a consumer ({rate / consume:.0%}): {verdict}"
    )
