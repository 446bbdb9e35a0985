"""One line of a drill's outcome: a check of the catalog, what it came to, and the evidence."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from bsfg.checks.model import MET, Evidence, Judgement, Outcome


@dataclass(frozen=True, slots=True)
class DrillLine:
    """What one part of a drill has shown."""

    id: str
    section: str
    """Of the runbook."""
    title: str
    """A sentence that is true when it passes."""
    judgement: Judgement
    evidence: tuple[Evidence, ...] = ()

    @property
    def is_met(self) -> bool:
        return self.judgement.outcome in MET

    def as_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "section": self.section,
            "title": self.title,
            "judgement": asdict(self.judgement),
            "evidence": [asdict(each) for each in self.evidence],
        }


def passed(summary: str) -> Judgement:
    return Judgement(Outcome.PASSED, summary)


def excepted(summary: str) -> Judgement:
    return Judgement(Outcome.PASSED_WITH_EXCEPTION, summary)


def failed(summary: str, found: str, expected: str, hint: str | None = None) -> Judgement:
    return Judgement(Outcome.FAILED, summary, found, expected, hint)


def not_run(summary: str, hint: str | None = None) -> Judgement:
    return Judgement(Outcome.NOT_RUN, summary, hint=hint)


def percentile(seconds: list[float], share: float) -> float:
    """The latency that this share of them does not exceed; 0 of none."""
    ordered = sorted(seconds)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0
