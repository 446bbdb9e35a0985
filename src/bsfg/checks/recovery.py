"""Section 8 of the runbook and its drills of section 9: the gateway carries them out, and here they become findings.

A drill ends by itself in the gateway whatever becomes of the command (design, decision 14).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from bsfg.checks.check import Check, Context, Drill, Finding, not_run
from bsfg.checks.drills import partition, replay
from bsfg.checks.model import Evidence, Judgement, Outcome, Severity, Side
from bsfg.errors import BsfgError, Code

DRILL_SECONDS: Final = 580.0
DAY_SECONDS: Final = 86_400.0
"""A drill takes a change window, so its result stands for a day."""
_NO_WINDOW: Final = "a drill outside a lab needs a change window"


def found(answer: Mapping[str, Any]) -> dict[str, Finding]:
    """The gateway's lines as findings, by the id of their check."""
    findings = {}
    for line in answer["lines"]:
        said = dict(line["judgement"])
        judgement = Judgement(**said | {"outcome": Outcome(said["outcome"])})
        findings[str(line["id"])] = Finding(judgement, tuple(Evidence(**each) for each in line["evidence"]))
    return findings


def _drill(kind: str, ids: tuple[str, ...]) -> Drill:
    async def run(context: Context) -> Mapping[str, Finding]:
        window = context.options.confirm_window
        if window is None and not context.is_lab:
            return dict.fromkeys(ids, Finding(not_run(_NO_WINDOW, "give --confirm-window REF within one")))
        body = {"kind": kind, "peer": context.peer.id, "confirm_window": window, "whole": True}
        body = {name: value for name, value in body.items() if value is not None}
        try:
            answer = await context.surroundings.local("POST", "/v1/drills", body, seconds=DRILL_SECONDS)
        except BsfgError as error:
            if error.code is not Code.CONFIGURATION:
                raise
            return dict.fromkeys(ids, Finding(not_run(error.message, error.hint or None)))
        return found(answer)

    return run


def _checks(kind: str, titles: Mapping[str, tuple[str, str]], requires: tuple[str, ...]) -> tuple[Check, ...]:
    drill = _drill(kind, tuple(titles))
    return tuple(
        Check(
            name,
            section,
            title,
            Severity.WARN,
            Side.BOTH,
            drill,
            f"bsfg drill {kind} shows each step; the gateway's log has what happened",
            requires,
            changes=True,
            drill=kind,
            seconds=DRILL_SECONDS,
            fresh_seconds=DAY_SECONDS,
        )
        for name, (section, title) in titles.items()
    )


CHECKS: Final = _checks("partition", partition.TITLES, ("fetch.first", "health.peer-reaches-us"))
REPLAY: Final = _checks("duplicate-replay", replay.TITLES, ("fetch.durable",))
