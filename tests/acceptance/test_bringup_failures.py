"""One broken thing a row: exactly the check that stands for it fails or warns, and no other (docs/checks.md).

The rows share a lab, and each puts back what it broke; plant-a brings up its relationship with enterprise.
"""

from __future__ import annotations

import pytest
from tests.support.broken_configuration import ROWS
from tests.support.broken_lab import Row, bringup, complaints, fails_there_alone, marked
from tests.support.lab_zones import ENTERPRISE, PLANT, Lab


@pytest.mark.parametrize("row", [marked(row) for row in ROWS], ids=map(str, ROWS))
def test_one_broken_thing_fails_one_check(full_lab: Lab, row: Row) -> None:
    fails_there_alone(full_lab, row)


@pytest.mark.slow
def test_nothing_broken_fails_nothing_on_either_side(full_lab: Lab) -> None:
    full_lab.healthy()
    for zone, peer in ((full_lab.plant, ENTERPRISE), (full_lab.enterprise, PLANT)):
        status, answer = bringup(zone, peer, "--again")
        assert (status, complaints(answer), answer["halted_at"]) == (0, {}, None)
        denials = {row["id"]: row["outcome"] for row in answer["results"] if row["id"].startswith("denial.")}
        assert {name for name, outcome in denials.items() if outcome == "passed"} >= {
            "denial.wrong-ca", "denial.self-signed", "denial.expired", "denial.no-certificate",
            "denial.unlisted-identity", "denial.unlisted-stream",
        }, denials  # fmt: skip
