"""Runs checks in the runbook's order, halting where it halts (runbook, sections 1 to 9; contract, section 7).

Independent checks all run, so that one run names everything that is wrong; what stands on a failure is "not run: needs
X". A halt is a requirement too: a check that changes anything needs every halting check of the sections before its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, cast

from bsfg.checks.check import Check, Context, Drill, Finding, Probe, not_run
from bsfg.checks.model import MET, CheckResult, Judgement, Outcome, Severity, Waiver
from bsfg.errors import BsfgError
from bsfg.model.moment import NANOSECONDS

RETRY_SECONDS: Final = 1.0
HOLDS: Final = MET | {Outcome.SKIPPED}
"""What a later check may stand on."""
Report = Callable[[CheckResult], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """Which checks are to be run, and what is known of them before."""

    checks: tuple[Check, ...]
    """In the runbook's order."""
    skipped: Mapping[str, Waiver] = field(default_factory=dict)
    earlier: Mapping[str, CheckResult] = field(default_factory=dict)
    """Results of an earlier run that may stand for this one's if they are fresh."""
    wait_seconds: float = 0.0
    """How long checks that look only may be repeated until they pass, all together."""


def needs_of(check: Check, checks: Iterable[Check]) -> tuple[str, ...]:
    """What must hold before this check: what it requires and, if it changes anything, every halt before its section."""
    halts: list[str] = []
    if check.changes:
        halts = [
            each.id
            for each in checks
            if each.severity is Severity.HALT and _chapter(each.section) < _chapter(check.section)
        ]
    return tuple(dict.fromkeys([*check.requires, *halts]))


def closure(chosen: Iterable[str], checks: Sequence[Check]) -> tuple[Check, ...]:
    """The chosen checks and all that they stand on, in order."""
    by_id = {check.id: check for check in checks}
    wanted, waiting = set[str](), [name for name in chosen if name in by_id]
    while waiting:
        name = waiting.pop()
        if name not in wanted:
            wanted.add(name)
            waiting += [need for need in needs_of(by_id[name], checks) if need in by_id]
    return tuple(check for check in checks if check.id in wanted)


def is_met(results: Iterable[CheckResult]) -> bool:
    """Whether a run with these results ends with exit 0 (contract, section 7)."""
    return all(
        result.outcome in HOLDS
        or (result.outcome is Outcome.NOT_RUN and result.severity is Severity.WARN)
        for result in results
    )


def halted_at(results: Iterable[CheckResult]) -> CheckResult | None:
    """The first check on which the runbook halts this run; what only stands on another one is not the cause."""
    for result in results:
        if result.severity is Severity.HALT and result.outcome not in HOLDS and result.needs is None:
            return result
    return None


async def run(plan: Plan, context: Context, report: Report) -> tuple[CheckResult, ...]:
    """Run the plan; each result is reported as soon as it is there, and all are returned.

    Nothing but a cancellation leaves it: a probe that can't look, or takes too long, is a result too.
    """
    runner = _Runner(plan, context, report)
    for check in plan.checks:
        await runner.take(check)
    return tuple(runner.results.values())


class _Runner:
    def __init__(self, plan: Plan, context: Context, report: Report) -> None:
        self._plan, self._context, self._report = plan, context, report
        self._surroundings = context.surroundings
        self._patience_ends = self._surroundings.monotonic() + plan.wait_seconds
        self._drilled: dict[str, Mapping[str, Finding]] = {}
        self.results: dict[str, CheckResult] = {}

    async def take(self, check: Check) -> None:
        began, ticks = self._surroundings.now(), self._surroundings.monotonic()
        known = self._without_running(check, began)
        if known is None:
            finding = await self._found(check)
            known = _result(check, finding, began, self._surroundings.monotonic() - ticks)
        self.results[check.id] = known
        self._report(known)

    def _without_running(self, check: Check, now: int) -> CheckResult | None:
        """The check's result where nothing has to be looked at: it was skipped, can't be run, or is still fresh."""
        if waiver := self._plan.skipped.get(check.id):
            judgement = Judgement(Outcome.SKIPPED, waiver.reason)
            return replace(_result(check, Finding(judgement), now, 0.0), waiver=waiver)
        if missing := self._missing(check):
            finding = Finding(not_run(f"needs {missing}"))
            return replace(_result(check, finding, now, 0.0), needs=missing)
        earlier = self._plan.earlier.get(check.id)
        if earlier is not None and is_fresh(earlier, check, now):
            return earlier
        return None

    def _missing(self, check: Check) -> str | None:
        for need in needs_of(check, self._plan.checks):
            result = self.results.get(need)
            if result is not None and result.outcome not in HOLDS:
                return need
        return None

    async def _found(self, check: Check) -> Finding:
        if check.drill is not None:
            return await self._drill(check)
        probe = cast("Probe", check.probe)
        finding = await self._looked(check, lambda: probe(self._context))
        while finding.judgement.outcome not in HOLDS and not check.changes and self._has_patience():
            await self._surroundings.sleep(RETRY_SECONDS)
            finding = await self._looked(check, lambda: probe(self._context))
        return finding

    def _has_patience(self) -> bool:
        return self._surroundings.monotonic() + RETRY_SECONDS < self._patience_ends

    async def _drill(self, check: Check) -> Finding:
        """The whole drill runs with its first check; the others find what it found."""
        name = str(check.drill)
        if name not in self._drilled:
            self._drilled[name] = {}
            drill = cast("Drill", check.probe)

            async def whole() -> Finding:
                self._drilled[name] = await drill(self._context)
                return self._drilled[name].get(check.id, _UNTOLD)

            return await self._looked(check, whole)
        return self._drilled[name].get(check.id, _UNTOLD)

    async def _looked(self, check: Check, look: Callable[[], Awaitable[Finding]]) -> Finding:
        try:
            async with asyncio.timeout(check.seconds):
                return await look()
        except TimeoutError:
            return Finding(not_run(f"could not look: not done within {check.seconds:.0f} s"))
        except BsfgError as error:
            return Finding(not_run(f"could not look: {error.message}", error.hint or None))


_UNTOLD: Final = Finding(not_run("the drill did not come that far"))


def is_fresh(result: CheckResult, check: Check, now: int) -> bool:
    """Whether a result of an earlier run may stand: it was met, under this very check, a short while ago."""
    age = (now - result.began) / NANOSECONDS
    is_same = (result.section, result.severity, result.side) == (check.section, check.severity, check.side)
    return is_same and result.outcome in MET and 0 <= age <= check.fresh_seconds


def _result(check: Check, finding: Finding, began: int, seconds: float) -> CheckResult:
    judgement, outcome = finding.judgement, finding.judgement.outcome
    if outcome is Outcome.FAILED and check.severity is Severity.WARN:
        outcome = Outcome.WARNED
    is_bad = outcome in (Outcome.FAILED, Outcome.WARNED)
    return CheckResult(
        id=check.id,
        section=check.section,
        title=check.title,
        severity=check.severity,
        side=check.side,
        outcome=outcome,
        summary=judgement.summary,
        began=began,
        seconds=round(seconds, 3),
        found=judgement.found,
        expected=judgement.expected,
        hint=judgement.hint or (check.hint if is_bad else None),
        evidence=finding.evidence,
    )


def _chapter(section: str) -> int:
    return int(section.partition(".")[0])
