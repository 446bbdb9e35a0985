"""As test_bringup_failures.py, for what only a drill or a responder shows."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.support.broken_drills import ROWS
from tests.support.broken_lab import Row, fails_there_alone, marked
from tests.support.lab_zones import Lab, running_lab


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Two zones with facts."""
    with running_lab(tmp_path_factory.mktemp("lab") / "lab", empty=False) as running:
        yield running


@pytest.mark.parametrize("row", [marked(row) for row in ROWS], ids=map(str, ROWS))
def test_one_broken_thing_fails_one_check(lab: Lab, row: Row) -> None:
    fails_there_alone(lab, row)
