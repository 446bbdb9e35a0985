"""As test_bringup_failures.py, for what only a drill or a responder shows."""

from __future__ import annotations

import pytest
from tests.support.broken_drills import ROWS
from tests.support.broken_lab import Row, fails_there_alone, marked
from tests.support.lab_zones import Lab


@pytest.mark.parametrize("row", [marked(row) for row in ROWS], ids=map(str, ROWS))
def test_one_broken_thing_fails_one_check(full_lab: Lab, row: Row) -> None:
    fails_there_alone(full_lab, row)
