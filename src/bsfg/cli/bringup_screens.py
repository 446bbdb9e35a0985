"""What a bring-up prints: a line a check as it goes, its findings under it, and a summary; or JSON, or JUnit's XML."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final
from xml.etree import ElementTree

import click

from bsfg.checks.catalog import SECTIONS
from bsfg.checks.check import Check
from bsfg.checks.model import CheckResult, Outcome, RunRecord, Severity
from bsfg.checks.runner import halted_at, is_met
from bsfg.cli import render
from bsfg.cli.render import COLUMNS, paragraph, printable
from bsfg.daemon.handoffs import WrittenHandoff
from bsfg.model.moment import NANOSECONDS, format_time

TIME_COLUMNS: Final = 9
_DETAIL_INDENT: Final = 10
_SHOWS_SUMMARY: Final = {
    Outcome.PASSED_WITH_EXCEPTION: "exception",
    Outcome.ATTESTED: "attested",
    Outcome.SKIPPED: "skipped",
    Outcome.NOT_RUN: "not run",
}


class Progress:
    """Prints a run as it goes; JSON and XML come whole at its end."""

    def __init__(self, output: str) -> None:
        self._output = output
        self._chapter = ""

    def began(self, record: RunRecord) -> None:
        if self._output == "text":
            render.line(f"Bring-up of {record.zone} with {record.peer}, run {record.run}")

    def result(self, result: CheckResult) -> None:
        if self._output != "text":
            return
        chapter = result.section.partition(".")[0]
        if chapter != self._chapter:
            self._chapter = chapter
            render.lines(["", click.style(f"{chapter}. {SECTIONS.get(chapter, '')}", bold=True)])
        render.lines(check_lines(result))

    def ended(self, record: RunRecord, path: str, handoff: WrittenHandoff | None) -> None:
        match self._output:
            case "json":
                render.show(as_json(record, path) | {"handoff": _handoff(handoff)}, "json", render.tree)
            case "junit":
                render.line(as_junit(record))
            case _:
                places = [("record", path)]
                if handoff is not None:
                    word = "accepted" if handoff.document.accepted else "not accepted"
                    places.append((f"handoff, {word}", str(handoff.path)))
                render.lines(["", *summary(record), *render.fields(places)])


def _handoff(handoff: WrittenHandoff | None) -> dict[str, Any] | None:
    if handoff is None:
        return None
    document = handoff.document
    return {"path": str(handoff.path), "accepted": document.accepted, "open": list(document.open)}


def check_lines(result: CheckResult) -> Iterable[str]:
    """One line, and under it whatever is not simply true."""
    head = f"  {render.mark(result.outcome.value)} {result.section.ljust(4)} "
    width = COLUMNS - TIME_COLUMNS - len(f"  x {result.section.ljust(4)} ")
    first, *rest = _wrapped(printable(result.title), width)
    yield f"{head}{first.ljust(width)}{_seconds(result).rjust(TIME_COLUMNS)}".rstrip()
    for line in rest:
        yield " " * (COLUMNS - TIME_COLUMNS - width) + line.strip()
    if word := _SHOWS_SUMMARY.get(result.outcome):
        yield from _detail(word, result.summary)
    if result.outcome in (Outcome.FAILED, Outcome.WARNED):
        yield from _detail("id", result.id + (": halt" if result.severity is Severity.HALT else ": warning"))
        yield from _detail("because", result.summary)
        yield from _detail("found", result.found)
        yield from _detail("expected", result.expected)
    if result.outcome not in (Outcome.PASSED, Outcome.SKIPPED):
        yield from _detail("hint", result.hint)


def _detail(word: str, text: str | None) -> Iterable[str]:
    if text:
        label = f"{word}: "
        yield from paragraph(printable(text), first=" " * _DETAIL_INDENT + label, indent=_DETAIL_INDENT + len(label))


def _wrapped(text: str, width: int) -> list[str]:
    return paragraph(text, indent=COLUMNS - width) if len(text) > width else [text]


def _seconds(result: CheckResult) -> str:
    if result.outcome in (Outcome.NOT_RUN, Outcome.SKIPPED) and not result.seconds:
        return ""
    return f"{result.seconds:.2f} s"


def summary(record: RunRecord) -> Iterable[str]:
    """How many of what, whether and where the runbook halts, and what the operator does next."""
    counts = Counter(result.outcome for result in record.results)
    words = [f"{render.mark(each.value)} {counts[each]} {each.value}" for each in Outcome if counts[each]]
    took = ((record.ended or record.began) - record.began) / NANOSECONDS
    yield f"{len(record.results)} checks in {took:.1f} s"
    for start in range(0, len(words), 4):
        yield "  " + "  ".join(words[start : start + 4])
    halt = halted_at(record.results)
    if halt is not None:
        why = "failed" if halt.outcome is Outcome.FAILED else "could not be run"
        yield render.emphasis(f"HALTED at {halt.section}: {halt.id} {why}", good=False)
        yield "  nothing of a later section that changes anything was done"
    elif not is_met(record.results):
        yield render.emphasis("NOT DONE: some checks are not as they should be", good=False)
    else:
        yield render.emphasis("DONE: every check that was run holds", good=True)


def as_json(record: RunRecord, path: str) -> dict[str, Any]:
    """The whole record, with what a script asks first on top."""
    halt = halted_at(record.results)
    return {
        "ok": is_met(record.results),
        "halted_at": None if halt is None else halt.id,
        "counts": {outcome.value: sum(r.outcome is outcome for r in record.results) for outcome in Outcome},
        "record": path,
        **asdict(record),
    }


def as_junit(record: RunRecord) -> str:
    """A suite a section, as build servers read it; a warning is a failure too."""
    root = ElementTree.Element("testsuites", name=f"bsfg bringup {record.zone} with {record.peer}")
    for chapter, title in SECTIONS.items():
        results = [result for result in record.results if result.section.partition(".")[0] == chapter]
        if results:
            root.append(_suite(f"{chapter}. {title}", results, record))
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True)


def _suite(name: str, results: Sequence[CheckResult], record: RunRecord) -> ElementTree.Element:
    bad = sum(result.outcome in (Outcome.FAILED, Outcome.WARNED) for result in results)
    left_out = sum(result.outcome in (Outcome.NOT_RUN, Outcome.SKIPPED) for result in results)
    suite = ElementTree.Element(
        "testsuite",
        name=name,
        tests=str(len(results)),
        failures=str(bad),
        skipped=str(left_out),
        timestamp=format_time(record.began)[:19],
    )
    suite.extend(_case(result) for result in results)
    return suite


def _case(result: CheckResult) -> ElementTree.Element:
    case = ElementTree.Element(
        "testcase", classname=result.id, name=printable(result.title), time=f"{result.seconds:.3f}"
    )
    text = printable(result.summary)
    if result.outcome in (Outcome.FAILED, Outcome.WARNED):
        problem = ElementTree.SubElement(case, "failure", message=text, type=result.severity.value)
        problem.text = "\n".join(
            f"{word}: {printable(value)}"
            for word, value in (("found", result.found), ("expected", result.expected), ("hint", result.hint))
            if value
        )
    elif result.outcome in (Outcome.NOT_RUN, Outcome.SKIPPED):
        ElementTree.SubElement(case, "skipped", message=f"{result.outcome.value}: {text}")
    else:
        ElementTree.SubElement(case, "system-out").text = f"{result.outcome.value}: {text}"
    return case


def listing(checks: Iterable[Check]) -> list[dict[str, Any]]:
    return [
        {
            "id": check.id,
            "section": check.section,
            "title": check.title,
            "severity": check.severity.value,
            "side": check.side.value,
            "requires": list(check.requires),
            "changes": check.changes,
            "drill": check.drill,
        }
        for check in checks
    ]


def list_lines(rows: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    table = [[row["section"], row["id"], row["severity"], row["title"]] for row in rows]
    return render.table(["step", "id", "severity", "true when it passes"], table, whole=2)
