"""What people see of decisions about histories: what is skipped, repeated or lost, and where the link is then."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from bsfg.cli import screens
from bsfg.cli.render import fields, number, paragraph, printable, size

Row = Mapping[str, Any]


def gap_accepted(answer: Row) -> Iterable[str]:
    yield _heading(answer, "accept-gap")
    yield from fields([("skipped", _span(answer.get("skipped")))], indent=2)
    yield from _cursor(answer)


def epoch_accepted(answer: Row) -> Iterable[str]:
    yield _heading(answer, "accept-epoch")
    yield from fields(
        [
            ("epoch", f"{printable(answer.get('epoch'))}, until now {printable(answer.get('old_epoch'))}"),
            ("start", f"{printable(answer.get('start'))}: sequence {number(answer.get('start_sequence'))}"),
            ("skipped", _span(answer.get("skipped"))),
            ("to fetch", f"{number(answer.get('facts'))} facts, up to sequence {number(answer.get('head'))}"),
        ],
        indent=2,
    )
    yield from paragraph("what of it the epoch before brought already comes again", first="  ", indent=2)
    yield from _cursor(answer)


def rewind_planned(answer: Row) -> Iterable[str]:
    taken = answer.get("taken_over")
    yield _heading(answer, "rewind")
    yield from fields(
        [
            (
                "generation",
                f"{number(answer.get('generation'))}, from sequence {number(answer.get('to'))} on",
            ),
            ("epoch", printable(answer.get("epoch"))),
            ("repeated", _span(answer.get("repeated"))),
            ("skipped", _span(answer.get("skipped"))),
            ("to fetch", f"{number(answer.get('facts'))} facts, about {size(answer.get('bytes'))}"),
            ("taken over", f"{number(taken)} facts of the generation in force" if taken else "nothing"),
        ],
        indent=2,
    )


def progress(building: Row) -> str:
    """One line for a generation that is being built."""
    line = f"  {printable(building.get('state'))}: scanned through {number(building.get('scanned_through'))}"
    line += f", {number(building.get('pending'))} to go"
    if building.get("compared"):
        line += f", {number(building['compared'])} compared"
    if building.get("different"):
        line += f", {number(building['different'])} different"
    return line + (f"; {printable(building['problem'])}" if building.get("problem") else "")


def rewound(answer: Row) -> Iterable[str]:
    yield f"generation {number(answer.get('generation'))} is in force; the one before stays until bsfg stream drop"
    yield from _cursor(answer)


def rewind_aborted(answer: Row) -> Iterable[str]:
    given_up = answer.get("aborted")
    yield "nothing is being built" if given_up is None else f"generation {number(given_up)} is given up"


def epoch_begun(answer: Row) -> Iterable[str]:
    would = "would begin" if answer.get("dry_run") else "begins"
    new = "" if answer.get("dry_run") else f" {printable(answer.get('epoch'))}"
    yield f"stream {printable(answer.get('stream'))} {would} a new epoch{new}"
    rows = screens.rows_of(answer, "affected")
    readers = ", ".join(printable(row.get("peer")) for row in rows) or "nobody"
    yield from fields(
        [("until now", printable(answer.get("old_epoch"))), ("halts until it accepts", readers)], indent=2
    )


def dropped(answer: Row) -> Iterable[str]:
    would = "would be dropped" if answer.get("dry_run") else "dropped"
    yield f"{printable(answer.get('jetstream'))} {would}"
    yield f"  {number(answer.get('messages'))} facts, {size(answer.get('bytes'))}"


def _heading(answer: Row, verb: str) -> str:
    mode = ", only looked at" if answer.get("dry_run") else ""
    return f"{verb} {printable(answer.get('peer'))}/{printable(answer.get('stream'))}{mode}"


def _span(span: Any) -> str:
    if not isinstance(span, Mapping):
        return "nothing"
    first, last = number(span.get("from")), number(span.get("to"))
    return f"sequences {first} to {last}, at most {number(span.get('count'))} facts"


def _cursor(answer: Row) -> Iterable[str]:
    if isinstance(answer.get("cursor"), Mapping):
        yield from screens.cursor(answer["cursor"])
