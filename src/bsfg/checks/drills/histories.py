"""The drills of histories that don't fit: what was seen, and what that means (design, decision 4; I16, I18)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from bsfg.checks.drills.line import DrillLine, failed, not_run, passed
from bsfg.checks.model import Evidence, Judgement

TITLES: Final = {
    "history.halts": ("8.7", "a source that was made again halts the link as diverged"),
    "history.untouched": ("8.7", "what was held of the old history stays as it was"),
    "gap.exact": ("8.6", "facts that expired behind the cursor halt the link with the exact gap"),
    "gap.recorded": ("8.6", "an accepted gap is on record, and every fact behind it arrives"),
}


@dataclass
class HistorySeen:
    """What the drill of another history has seen."""

    was_level: bool = False
    before: dict[str, Any] = field(default_factory=dict)
    state: str = ""
    reason: str | None = None
    message: str | None = None
    after: dict[str, Any] = field(default_factory=dict)


@dataclass
class GapSeen:
    """What the drill of a large gap has seen; gaps with both ends included."""

    was_level: bool = False
    expected: tuple[int, int] = (0, 0)
    last: int = 0
    state: str = ""
    reason: str | None = None
    message: str | None = None
    found: tuple[int, int] | None = None
    held_halted: int = 0
    went_on: bool = False
    held_after: int = 0
    recorded: list[tuple[int, int]] = field(default_factory=list)
    facts: int = 0
    kept: int = 0


def judge_history(seen: HistorySeen, at: int) -> list[DrillLine]:
    """Every line of the drill."""
    halted, untouched = _halted(seen.state, seen.reason, "diverged"), _untouched(seen)
    return _lines({"history.halts": halted, "history.untouched": untouched}, seen, seen.was_level, at)


def judge_gap(seen: GapSeen, at: int) -> list[DrillLine]:
    """Every line of the drill."""
    return _lines({"gap.exact": _exact(seen), "gap.recorded": _recorded(seen)}, seen, seen.was_level, at)


def _lines(judged: dict[str, Judgement], seen: Any, was_level: bool, at: int) -> list[DrillLine]:
    shown = {name: getattr(seen, name) for name in seen.__dataclass_fields__}
    evidence = (Evidence("scratch link", shown, at, "gateway, drill"),)
    missing = not_run(
        "the scratch link did not become level", hint="bsfg status: does the local store answer?"
    )
    return [
        DrillLine(check, *TITLES[check], judgement if was_level else missing, evidence)
        for check, judgement in judged.items()
    ]


def _halted(state: str, reason: str | None, wanted: str) -> Judgement:
    if (state, reason) != ("halted", wanted):
        return failed("the link did not halt", f"{state}, {reason}", f"halted, {wanted}")
    return passed(f"halted: {wanted}")


def _untouched(seen: HistorySeen) -> Judgement:
    if seen.after != seen.before:
        return failed("the inbound stream has changed", str(seen.after), str(seen.before))
    return passed(f"{seen.after['messages']} facts, as before")


def _exact(seen: GapSeen) -> Judgement:
    first, last = seen.expected
    if (seen.state, seen.reason) != ("halted", "gap") or seen.found != seen.expected:
        found = f"{seen.state}, {seen.reason}, {seen.found}"
        return failed("the gap was not reported as it is", found, f"halted, gap, {first} to {last}")
    if seen.held_halted != seen.facts:
        return failed("facts were stored in spite of the halt", f"{seen.held_halted}", f"{seen.facts}")
    return passed(f"halted: {first} to {last}, {last - first + 1} facts")


def _recorded(seen: GapSeen) -> Judgement:
    if seen.recorded != [seen.expected]:
        return failed("the record is not the gap", f"{seen.recorded}", f"{[seen.expected]}")
    if not seen.went_on or seen.held_after != seen.facts + seen.kept:
        return failed(
            "not everything behind the gap arrived", f"{seen.held_after}", f"{seen.facts + seen.kept}"
        )
    return passed(f"on record; {seen.kept} facts behind it arrived, up to {seen.last}")
