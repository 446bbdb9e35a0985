"""What people see of handoffs in a terminal; the whole of one is in its Markdown and its HTML."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from bsfg.cli import screens
from bsfg.cli.render import emphasis, fields, joined, mark, moment, number, paragraph, printable, table

Row = Mapping[str, Any]


def verified(answer: Row) -> Iterable[str]:
    problems = answer.get("problems") or []
    if problems:
        yield f"{mark('failed')} {printable(answer.get('path'))}: {len(problems)} found"
        yield from (f"  {printable(problem)}" for problem in problems)
        return
    yield f"{mark('passed')} {printable(answer.get('path'))}"
    made = f"{moment(answer.get('made_at'))} by {printable(answer.get('made_by'))}"
    yield from fields(
        [("signed", made), ("complete", "every file and every piece of evidence is there")], indent=2
    )
    yield from _verdict(answer)


def written(answer: Row) -> Iterable[str]:
    yield f"handoff {printable(answer.get('path'))}"
    for line in answer.get("contradictions") or []:
        yield from paragraph(printable(line), first="  contradiction: ", indent=4)
    yield from _verdict(answer)


def listed(answer: Row) -> Iterable[str]:
    rows = [
        (
            printable(row.get("path")),
            moment(row.get("made_at")),
            joined(row.get("sides")),
            printable(row["problem"]) if row.get("problem") else _accepted(row),
        )
        for row in screens.rows_of(answer, "handoffs")
    ]
    if not rows:
        return ["no handoffs"]
    return table(("handoff", "made", "seen by", "result"), rows, whole=1)


def record(answer: Row) -> Iterable[str]:
    sides = screens.rows_of(answer, "sides")
    first: Row = sides[0] if sides else {}
    yield f"handoff of {printable(first.get('zone'))} and {printable(first.get('peer'))}"
    yield from fields(
        [("made", moment(answer.get("made_at"))), ("seen by", joined([side["zone"] for side in sides]))]
    )
    yield ""
    rows = [
        (number(row.get("number")), printable(row.get("title")), printable(row.get("status")))
        for row in screens.rows_of(answer, "criteria")
    ]
    yield from table(("#", "criterion", "status"), rows, whole=2)
    yield from _verdict(answer)


def _verdict(answer: Row) -> Iterable[str]:
    accepted = answer.get("accepted") is True
    yield f"  {emphasis(_accepted(answer), good=accepted)}"
    if not accepted:
        for line in answer.get("open") or []:
            yield from paragraph(printable(line), first="  - ", indent=4)


def _accepted(row: Row) -> str:
    return "accepted" if row.get("accepted") is True else "not accepted"
