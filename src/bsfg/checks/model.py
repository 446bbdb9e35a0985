"""What a check is, and what came of it: values only (runbook, sections 1 to 9; design, decision 14).

A probe looks and returns what it saw; the judgement is a pure function of that. Whoever shows or keeps results reads
:class:`CheckResult`, never a probe.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final


class Outcome(StrEnum):
    """What came of a check (contract, section 7)."""

    PASSED = "passed"
    PASSED_WITH_EXCEPTION = "passed with exception"
    ATTESTED = "attested"
    """It rests on a person's word and reference, and is counted apart."""
    WARNED = "warned"
    """Not as it should be, where the runbook has no "Halt if"."""
    FAILED = "failed"
    SKIPPED = "skipped"
    NOT_RUN = "not run"


MET: Final = frozenset({Outcome.PASSED, Outcome.PASSED_WITH_EXCEPTION, Outcome.ATTESTED})
"""What a criterion of the runbook's section 9 may rest on."""


class Severity(StrEnum):
    """What its failure means for the bring-up."""

    HALT = "halt"
    WARN = "warn"


class Side(StrEnum):
    """Who was looked at."""

    HERE = "this zone"
    PEER = "the peer's view of us"
    BOTH = "either"


@dataclass(frozen=True, slots=True)
class Evidence:
    """One thing that was seen, for an auditor; never a secret."""

    what: str
    seen: Any
    """Plain JSON."""
    at: int
    """Nanoseconds since 1970."""
    source: str
    """Where from: a file, a command, ``peer plant-a GET /v1/view``."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What evidence means; ``hint`` replaces the check's own where something more exact is known."""

    outcome: Outcome
    summary: str
    """The essence in a few words, whatever the outcome."""
    found: str | None = None
    expected: str | None = None
    hint: str | None = None


@dataclass(frozen=True, slots=True)
class Waiver:
    """Why a check was skipped or passes with exception, in whose name."""

    reason: str
    approver: str | None = None
    reference: str | None = None


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One check of one run, whole enough to be shown, kept and signed without the catalog."""

    id: str
    section: str
    """Of the runbook: ``3.1``."""
    title: str
    severity: Severity
    side: Side
    outcome: Outcome
    summary: str
    began: int
    """Nanoseconds since 1970."""
    seconds: float
    found: str | None = None
    expected: str | None = None
    hint: str | None = None
    needs: str | None = None
    """The id of the check that this one could not be run without."""
    waiver: Waiver | None = None
    evidence: tuple[Evidence, ...] = ()


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A bring-up as one zone saw it, and all that its handoff is made from."""

    zone: str
    identity: str
    peer: str
    peer_identity: str
    run: str
    """Unique among the zone's runs."""
    began: int
    ended: int | None
    version: str
    peer_version: str | None
    results: tuple[CheckResult, ...]
    inputs: dict[str, Any]
    """The runbook's section 2, as given and as the running configuration has it."""
    policies: dict[str, Any]
    """For the handoff: cursor policy with justifications, authorization matrix, fingerprints; plain JSON."""
    approver: str | None = None
