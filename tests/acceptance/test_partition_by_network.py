"""Section 8 of the runbook with the network itself cut, by nftables in a namespace (`make faults` has it too)."""

from __future__ import annotations

import pytest
from tests.faults.test_selection import CAN_CUT_POWER, run

pytestmark = pytest.mark.slow


@pytest.mark.skipif(not CAN_CUT_POWER, reason="dropping packets wants root and namespaces")
def test_a_network_that_drops_everything_is_survived_as_section_8_wants() -> None:
    said = run("--only", "network")
    for check in (
        "autonomy",
        "backlog",
        "reconciled",
        "backfill",
        "duplicates",
        "continuity",
        "configuration",
    ):
        assert f"1 partition.{check}" in said
