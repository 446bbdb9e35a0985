"""The part of the selection of `make faults` that takes as long as all others together."""

from __future__ import annotations

from tests.faults.test_selection import run

from bsfg.daemon.failpoints import LABELS


def test_nothing_is_lost_wherever_the_receiving_gateway_kills_itself() -> None:
    said = run("--only", "failpoints")
    assert [label for label in LABELS if f"1 {label}:" not in said] == []
