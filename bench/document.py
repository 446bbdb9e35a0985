"""The results in ``docs/performance.md``: tables in Markdown between two marks, which a run can renew."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from bench.report import bound, native_check, number
from bench.results import Figure, Results, by_process, foreign_cores
from bench.works import Quantity

BEGIN: Final = "<!-- results: begin -->"
END: Final = "<!-- results: end -->"


def renew(path: Path, text: str) -> None:
    """Replace what stands between the marks; RuntimeError for a file without them."""
    path.write_text(replaced(path.read_text(encoding="utf-8"), text), encoding="utf-8")


def replaced(content: str, text: str) -> str:
    """The document with this between its marks."""
    before, begin, rest = content.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise RuntimeError(f"the document has no place for results: {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{text.strip()}\n\n{END}{after}"


def render(results: Results, measured: Sequence[Figure], machine_lines: Sequence[str]) -> str:
    """Machine, rows, processes and syncs as Markdown."""
    parts = ["\n".join(f"- {line}" for line in machine_lines), _rows(results, measured)]
    if check := native_check(results):
        parts.append(f"{check[0].upper()}{check[1:]}.")
    if results.transfers:
        parts.append(_processes(results))
    if results.syncs:
        parts.append(_syncs(results))
    return "\n\n".join(parts)


def _rows(results: Results, measured: Sequence[Figure]) -> str:
    lines = []
    for figure in measured:
        row = figure.row
        foreign = foreign_cores(results, row.group)
        lines.append(
            (
                f"`{row.work}`",
                number(figure.ours, row.quantity),
                number(figure.reference, row.quantity),
                "the bound" if row.quantity is Quantity.MEMORY else row.reference.value,
                row.quantity.value,
                "" if figure.ratio is None else f"{figure.ratio:.2f}",
                bound(figure),
                f"{min(foreign):.1f} to {max(foreign):.1f}" if foreign else "",
            )
        )
    heads = ("work", "bsfg", "reference", "of", "unit", "ratio", "bound", "cores busy with other work")
    return _table(heads, lines)


def _processes(results: Results) -> str:
    lines = [
        (f"`{group}`", side.value, process, f"{cpu:.2f}", f"{peak:.0f}")
        for group, side, process, cpu, peak in by_process(results)
    ]
    return _table(("runs", "side", "process", "CPU s per million facts", "peak MiB"), lines)


def _syncs(results: Results) -> str:
    lines = [
        (f"`{group}`", side.value, process, f"{syncs.per_thousand(process):,.1f}")
        for (group, side), syncs in results.syncs.items()
        for process in syncs.counts
    ]
    return _table(("runs", "side", "process", "fsyncs per 1,000 facts"), lines)


def _table(heads: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rows = [heads, ["---"] * len(heads), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)
