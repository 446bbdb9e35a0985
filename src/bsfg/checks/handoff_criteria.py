"""The eleven criteria of the runbook's section 9, each filled from the checks that it rests on (contract, section 7).

A criterion is met by ``passed``, ``passed with exception`` and ``attested``, and never without evidence. What the
runbook lets be deferred, or asks for only where policy enables it, says so here and nowhere else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from bsfg.checks.handoff_document import CheckEntry, Citation, Criterion, CriterionStatus, SideRecord
from bsfg.checks.model import MET, Outcome, Severity

_RANK: Final = {status: rank for rank, status in enumerate(CriterionStatus)}
MET_STATUSES: Final = frozenset(
    {CriterionStatus.MET, CriterionStatus.MET_WITH_EXCEPTION, CriterionStatus.ATTESTED}
)
_ACCEPTABLE: Final = MET_STATUSES | {CriterionStatus.NOT_ENABLED, CriterionStatus.DEFERRED}
DEFAULT_INIT_MODE: Final = "bounded_backfill_24h"


@dataclass(frozen=True, slots=True)
class CriterionRule:
    """One row of section 9, and the checks that decide it; ``x`` also names every ``x.<stream>``."""

    title: str
    verification: str
    needs: tuple[str, ...]
    """Each must be there and met."""
    supports: tuple[str, ...] = ()
    """May be absent, and not run where no "Halt if" stands on it; one that failed still counts."""
    required: str = "Yes"
    is_enabled: Callable[[SideRecord], bool] = lambda side: True
    may_be_deferred: bool = False
    needs_a_pass: bool = False
    """An exception of the first check leaves it open: there was nothing to show it with."""
    undocumented: Callable[[SideRecord], str | None] = lambda side: None
    """What of it is missing in the record's policies."""


def _artifacts_enabled(side: SideRecord) -> bool:
    return side.policies.get("artifact_retrieval_enabled") is not False


def _cursor_policy_missing(side: SideRecord) -> str | None:
    cursors = side.policies.get("cursors")
    if not isinstance(cursors, list) or not cursors:
        return "no cursor policy is recorded"
    unjustified = [
        str(cursor.get("stream"))
        for cursor in cursors
        if isinstance(cursor, dict)
        and cursor.get("init_mode") != DEFAULT_INIT_MODE
        and not cursor.get("justification")
    ]
    return f"no justification is recorded for {', '.join(unjustified)}" if unjustified else None


def _matrix_missing(side: SideRecord) -> str | None:
    matrix = side.policies.get("authorization")
    if not isinstance(matrix, dict) or not isinstance(matrix.get("here"), dict):
        return "no authorization matrix is recorded"
    return None


CRITERIA: Final = (
    CriterionRule(
        "Authentication works",
        "mTLS handshake succeeds, peer identity verified per policy",
        ("trust.peer-identity", "trust.peer-chain", "health.peer"),
        (
            "denial.wrong-ca",
            "denial.self-signed",
            "denial.expired",
            "denial.no-certificate",
            "denial.unlisted-identity",
        ),
    ),
    CriterionRule(
        "Authorization works",
        "Allowed streams fetch successfully, denied streams rejected",
        ("access.streams-readable", "fetch.first", "denial.unlisted-stream"),
        ("denial.unlisted-artifact",),
    ),
    CriterionRule(
        "Replay works",
        "Fetch returns facts, cursor advances",
        ("fetch.first", "fetch.durable"),
        needs_a_pass=True,
    ),
    CriterionRule(
        "Cursor advances correctly",
        "Monotonic, durable, matches local append",
        ("fetch.durable", "cursor.matches-stream", "cursor.monotonic"),
    ),
    CriterionRule(
        "Duplicate replay harmless",
        "Idempotent append confirmed (re-fetch same cursor, no duplicates)",
        ("replay.duplicates",),
        ("replay.stale-append", "replay.unchanged"),
    ),
    CriterionRule(
        "Partition recovery works",
        "Simulated partition, autonomous operation, clean reconciliation",
        ("partition",),
    ),
    CriterionRule(
        "Artifact retrieval works",
        "Referenced artifacts fetchable, integrity verified",
        ("artifact.fetched", "artifact.verified"),
        ("artifact.referenced", "artifact.missing"),
        required="Where enabled by policy",
        is_enabled=_artifacts_enabled,
    ),
    CriterionRule(
        "Alerts/metrics visible",
        "Replication lag, backlog, auth failures visible in monitoring",
        ("metrics.visible", "signals.visible", "preconditions.monitoring"),
    ),
    CriterionRule(
        "Cursor initialization policy documented",
        "Per-stream init mode recorded with justifications",
        ("cursors.policy", "cursors.overrides"),
        undocumented=_cursor_policy_missing,
    ),
    CriterionRule(
        "Authorization matrix documented",
        "Peer allow-list, stream permissions, artifact access recorded",
        ("inputs.authorization-matrix", "access.peer-grants"),
        ("preconditions.authorization",),
        undocumented=_matrix_missing,
    ),
    CriterionRule(
        "Duplicate replay drill performed",
        "Explicit re-fetch test confirms idempotency",
        ("replay.duplicates",),
        required="Where exercised here; may be deferred to validation checklist",
        may_be_deferred=True,
    ),
)


def judge_criteria(sides: Sequence[SideRecord]) -> tuple[Criterion, ...]:
    """Every criterion in the runbook's order; of two sides the worse one counts."""
    return tuple(_judge(number, rule, sides) for number, rule in enumerate(CRITERIA, 1))


def reasons_against(sides: Sequence[SideRecord], criteria: Iterable[Criterion]) -> tuple[str, ...]:
    """What stands against acceptance, a line each; none means accepted."""
    lines = [
        f"{criterion.title}: {criterion.status}" + (f" ({criterion.reason})" if criterion.reason else "")
        for criterion in criteria
        if criterion.status not in _ACCEPTABLE
    ]
    for side in sides:
        if side.ended is None:
            lines.append(f"the run of {side.zone} has not ended")
        if side.is_signed is False:
            lines.append(f"the record of {side.zone} came without its folder: no signature, no evidence")
        lines += [
            f"check {check.id} of {side.zone} {check.outcome}, and it halts a bring-up: {check.summary}"
            for check in side.checks
            if _halts(check)
        ]
    return tuple(lines)


def _halts(check: CheckEntry) -> bool:
    return check.severity == Severity.HALT and check.outcome in (Outcome.FAILED, Outcome.NOT_RUN)


def _judge(number: int, rule: CriterionRule, sides: Sequence[SideRecord]) -> Criterion:
    verdicts = [(side, *_judge_side(rule, side)) for side in sides]
    worst = max((status for _, status, _ in verdicts), key=_RANK.__getitem__)
    prefix = len(sides) > 1
    reasons = [f"{side.zone}: {reason}" if prefix else reason for side, _, reason in verdicts if reason]
    return Criterion(
        number=number,
        title=rule.title,
        verification=rule.verification,
        required=rule.required,
        status=worst,
        reason="; ".join(reasons) or None,
        rests_on=tuple(_citation(side, check) for side in sides for check in _named(rule, side)),
    )


def _judge_side(rule: CriterionRule, side: SideRecord) -> tuple[CriterionStatus, str | None]:
    if not rule.is_enabled(side):
        return CriterionStatus.NOT_ENABLED, "policy allows no artifact type"
    if missing := rule.undocumented(side):
        return CriterionStatus.NOT_MET, missing
    checks = _named(rule, side)
    if rule.may_be_deferred and checks and all(check.outcome in _DEFERRED for check in checks):
        return CriterionStatus.DEFERRED, _why(checks[0])
    if why := _objection(rule, side):
        return CriterionStatus.NOT_MET, why
    return _grade(rule, checks)


_DEFERRED: Final = (Outcome.SKIPPED, Outcome.NOT_RUN)


def _objection(rule: CriterionRule, side: SideRecord) -> str | None:
    for name in rule.needs:
        found = _named_by(side, name)
        if not found:
            return f"there is no result of the check {name}"
        if bad := next((check for check in found if not _is_met(check)), None):
            return _why(bad)
    for name in rule.supports:
        if bad := next((check for check in _named_by(side, name) if not _may_support(check)), None):
            return _why(bad)
    return None


def _grade(rule: CriterionRule, checks: Sequence[CheckEntry]) -> tuple[CriterionStatus, str | None]:
    if rule.needs_a_pass and checks[0].outcome != Outcome.PASSED:
        return CriterionStatus.OPEN, checks[0].summary
    if exception := next((check for check in checks if check.outcome == Outcome.PASSED_WITH_EXCEPTION), None):
        return CriterionStatus.MET_WITH_EXCEPTION, exception.summary
    if word := next((check for check in checks if check.outcome == Outcome.ATTESTED), None):
        return CriterionStatus.ATTESTED, word.summary
    return CriterionStatus.MET, None


def _is_met(check: CheckEntry) -> bool:
    return check.outcome in MET and check.evidence is not None


def _may_support(check: CheckEntry) -> bool:
    is_excused = check.outcome == Outcome.NOT_RUN and check.severity == Severity.WARN
    return is_excused or _is_met(check)


def _why(check: CheckEntry) -> str:
    if check.outcome in MET:
        return f"{check.id} {check.outcome}, but left no evidence"
    cause = check.waiver.reason if check.waiver else check.summary
    return f"{check.id} {check.outcome}: {cause}"


def _named(rule: CriterionRule, side: SideRecord) -> list[CheckEntry]:
    return [check for name in (*rule.needs, *rule.supports) for check in _named_by(side, name)]


def _named_by(side: SideRecord, name: str) -> list[CheckEntry]:
    return [check for check in side.checks if check.id == name or check.id.startswith(f"{name}.")]


def _citation(side: SideRecord, check: CheckEntry) -> Citation:
    return Citation(
        zone=side.zone,
        check=check.id,
        outcome=check.outcome,
        summary=check.summary,
        evidence=check.evidence,
    )
