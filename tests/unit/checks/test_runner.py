"""Runs of small catalogs: what halts, what stands on what, what is repeated, and what a look that fails is."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import pytest

from bsfg.checks import runner
from bsfg.checks.check import Check, Context, Finding, excepted, failed, not_run, passed
from bsfg.checks.model import CheckResult, Judgement, Outcome, Severity, Side, Waiver
from bsfg.checks.runner import Plan
from bsfg.errors import BsfgError, Code
from bsfg.model.moment import NANOSECONDS

FAILED = failed("no", "this", "that")


class Moments:
    """A clock that moves only while somebody sleeps."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def now(self) -> int:
        return int(self.seconds * NANOSECONDS)

    def monotonic(self) -> float:
        return self.seconds

    async def sleep(self, seconds: float) -> None:
        self.seconds += seconds


def context() -> Context:
    return Context(cast(Any, None), cast(Any, None), cast(Any, None), cast(Any, Moments()))


def check(name: str, said: Judgement | BsfgError | list[Judgement], section: str = "1", **more: Any) -> Check:
    said = said if isinstance(said, list) else [said] if isinstance(said, Judgement) else said

    async def probe(context: Context) -> Finding:
        if isinstance(said, BsfgError):
            raise said
        return Finding(said.pop(0) if len(said) > 1 else said[0])

    severity = more.pop("severity", Severity.HALT)
    return Check(name, section, f"{name} is right", severity, Side.HERE, probe, "mend it", **more)


def outcomes(*checks: Check, **plan: Any) -> dict[str, str]:
    return {result.id: result.outcome.value for result in results(*checks, **plan)}


def results(*checks: Check, **plan: Any) -> tuple[CheckResult, ...]:
    reported: list[CheckResult] = []
    found = asyncio.run(runner.run(Plan(checks, **plan), context(), reported.append))
    assert tuple(reported) == found
    return found


def test_independent_checks_all_run_and_what_stands_on_a_failure_does_not() -> None:
    found = results(
        check("a", FAILED), check("b", passed("yes")), check("c", passed("yes"), requires=("a",)),
        check("d", passed("yes"), requires=("c",)),
    )  # fmt: skip
    assert [(each.outcome, each.needs) for each in found] == [
        (Outcome.FAILED, None), (Outcome.PASSED, None), (Outcome.NOT_RUN, "a"), (Outcome.NOT_RUN, "c"),
    ]  # fmt: skip
    assert (found[0].found, found[0].expected, found[0].hint) == ("this", "that", "mend it")


def test_after_a_halt_nothing_of_a_later_section_changes_anything() -> None:
    halt, look = check("a", FAILED), check("b", passed("yes"), "2")
    change, same = check("c", passed("yes"), "2.1", changes=True), check("d", passed("yes"), "1.1", changes=True)
    assert outcomes(halt, same, look, change) == {"a": "failed", "d": "passed", "b": "passed", "c": "not run"}
    unseen = check("a", BsfgError(Code.UNAVAILABLE, "gone"))
    assert outcomes(unseen, change)["c"] == "not run"
    assert outcomes(replace(halt, severity=Severity.WARN), change) == {"a": "warned", "c": "passed"}


def test_what_could_not_be_looked_at_is_no_failure() -> None:
    (found,) = results(check("a", BsfgError(Code.UNAVAILABLE, "nobody answers", hint="wait")))
    assert (found.outcome, found.summary, found.hint) == (
        Outcome.NOT_RUN, "could not look: nobody answers", "wait",
    )  # fmt: skip


def test_a_probe_that_takes_too_long_is_no_failure_either() -> None:
    async def never(context: Context) -> Finding:
        await asyncio.Event().wait()
        raise AssertionError

    slow = replace(check("a", FAILED), probe=never, seconds=0.05)
    assert [each.outcome for each in results(slow)] == [Outcome.NOT_RUN]


@pytest.mark.parametrize(
    ("judgement", "severity", "is_met"),
    [
        (passed("x"), Severity.HALT, True), (excepted("x"), Severity.HALT, True), (FAILED, Severity.HALT, False),
        (FAILED, Severity.WARN, False), (not_run("x"), Severity.WARN, True), (not_run("x"), Severity.HALT, False),
        (Judgement(Outcome.ATTESTED, "x"), Severity.HALT, True),
    ],
)  # fmt: skip
def test_the_exit_status(judgement: Judgement, severity: Severity, is_met: bool) -> None:
    found = results(check("a", judgement, severity=severity))
    assert runner.is_met(found) == is_met
    assert (runner.halted_at(found) is not None) == (not is_met and severity is Severity.HALT)


def test_a_halt_names_its_cause() -> None:
    warned = check("a", FAILED, severity=Severity.WARN)
    found = results(warned, check("b", passed("x"), requires=("a",)), check("c", FAILED))
    halt = runner.halted_at(found)
    assert halt is not None and halt.id == "c"
    assert runner.halted_at(found[:2]) is None
    assert not runner.is_met(found[:2])


def test_a_skipped_check_is_an_exception_that_others_may_stand_on() -> None:
    waiver = Waiver("known", "Ann", "CHG-1")
    found = results(check("a", FAILED), check("b", passed("x"), requires=("a",)), skipped={"a": waiver})
    assert [each.outcome for each in found] == [Outcome.SKIPPED, Outcome.PASSED]
    assert found[0].waiver == waiver
    assert runner.is_met(found)


def test_waiting_repeats_looks_and_never_changes() -> None:
    later = [FAILED, FAILED, passed("now")]
    assert outcomes(check("a", list(later)), wait_seconds=10.0) == {"a": "passed"}
    assert outcomes(check("a", list(later)), wait_seconds=1.5) == {"a": "failed"}
    assert outcomes(check("a", list(later), changes=True), wait_seconds=10.0) == {"a": "failed"}


def test_what_was_met_a_short_while_ago_is_not_repeated() -> None:
    (old,) = results(check("a", passed("earlier")))
    fresh = replace(old, began=old.began - 1800 * NANOSECONDS)
    stale = replace(old, began=old.began - 3601 * NANOSECONDS)
    future = replace(old, began=old.began + 10 * NANOSECONDS)
    for earlier, outcome in ((fresh, "passed"), (stale, "failed"), (future, "failed")):
        assert outcomes(check("a", FAILED), earlier={"a": earlier}) == {"a": outcome}
    bad = replace(fresh, outcome=Outcome.WARNED)
    assert outcomes(check("a", passed("now")), earlier={"a": bad}) == {"a": "passed"}
    found = outcomes(check("z", FAILED), check("a", passed("x"), requires=("z",)), earlier={"a": fresh})
    assert found["a"] == "not run", "an earlier result stands only on what holds now"


def test_a_drill_runs_once_and_decides_all_its_checks() -> None:
    runs = []

    async def drill(context: Context) -> Mapping[str, Finding]:
        runs.append(1)
        return {"a": Finding(passed("x")), "b": Finding(FAILED)}

    lines = [replace(check(name, FAILED), drill="d", probe=drill) for name in ("a", "b", "c")]
    assert outcomes(*lines) == {"a": "passed", "b": "failed", "c": "not run"}
    assert runs == [1]


def test_a_cancelled_run_ends_at_once() -> None:
    async def scenario() -> list[CheckResult]:
        reported: list[CheckResult] = []

        async def forever(context: Context) -> Finding:
            await asyncio.Event().wait()
            raise AssertionError

        checks = (check("a", passed("x")), replace(check("b", FAILED), probe=forever), check("c", passed("x")))
        running = asyncio.create_task(runner.run(Plan(checks), context(), reported.append))
        await asyncio.sleep(0.02)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        return reported

    assert [each.id for each in asyncio.run(scenario())] == ["a"]


def test_a_section_brings_along_what_it_stands_on() -> None:
    checks = (
        check("a", passed("x")), check("b", passed("x"), severity=Severity.WARN), check("c", passed("x"), "2"),
        check("d", passed("x"), "3", requires=("c",)), check("e", passed("x"), "4", changes=True, requires=("b",)),
    )  # fmt: skip
    assert [each.id for each in runner.closure(["d"], checks)] == ["c", "d"]
    assert [each.id for each in runner.closure(["e"], checks)] == ["a", "b", "c", "d", "e"]
