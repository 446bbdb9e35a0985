"""The runbook's steps in its order, each as a check (runbook, sections 1 to 9).

A section's checks stand in the module that knows its subject; here is only the order.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from bsfg.checks import access, artifacts, cursors, denial, health, inputs, preconditions, recovery, trust
from bsfg.checks.check import Check

SECTIONS: Final[Mapping[str, str]] = {
    "1": "Preconditions",
    "2": "Inputs",
    "3": "Trust and identity",
    "4": "Authorization",
    "5": "Cursor initialization",
    "6": "Initial bring-up",
    "7": "Artifact retrieval",
    "8": "Partition and recovery drill",
    "9": "Handoff criteria",
}
"""The runbook's sections that have checks, by number."""

CATALOG: Final[tuple[Check, ...]] = (
    *preconditions.CHECKS,
    *inputs.CHECKS,
    *trust.CHECKS,
    *access.CHECKS,
    *denial.CHECKS,
    *cursors.POLICY,
    *health.CHECKS,
    access.READABLE,
    *cursors.FETCH,
    health.ADVICE,
    *artifacts.CHECKS,
    *recovery.CHECKS,
    *recovery.REPLAY,
    health.SIGNALS,
)
