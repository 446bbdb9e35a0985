"""A short selection of `make faults`, with the real programs; the long runs are for people and nights.

Each runs as a program of its own, since only that can have namespaces of its own; the longest has its own file, for
another worker.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest
from tests.faults import machine
from tests.support.patience import patience

ROOT: Final = Path(__file__).resolve().parents[2]
RUN_SECONDS_MAX: Final = 150
machine.find_system_tools()
CAN_CUT_POWER: Final = machine.can_separate() and machine.has_loop_mounts()


def run(*arguments: str) -> str:
    """What the run printed; it has to be exact."""
    seed = os.environ.get("BSFG_SEED") or str(random.SystemRandom().randrange(10**6))
    command = [sys.executable, "-m", "tests.faults", "--seed", seed, "--quiet", *arguments]
    seconds_max = RUN_SECONDS_MAX * patience()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=seconds_max, check=False)
    print(done.stdout)
    assert done.returncode == 0, f"BSFG_SEED={seed} repeats this run\n{done.stdout}\n{done.stderr}"
    assert "all exact" in done.stdout
    return done.stdout


@pytest.mark.skipif(not CAN_CUT_POWER, reason="a power cut wants root, namespaces and loop mounts")
def test_a_power_cut_loses_nothing_that_was_acknowledged_and_does_at_default_sync() -> None:
    said = run("--only", "power", "--cuts", "1")
    assert said.count("1 power cuts of plant-a") == 2
    assert said.index("the control") < said.index("under strict")


@pytest.mark.skipif(not CAN_CUT_POWER, reason="a power cut wants root, namespaces and loop mounts")
def test_a_power_cut_under_lazy_loses_nothing_in_silence() -> None:
    said = run("--only", "power", "--cuts", "0", "--lazy-cuts", "1")
    assert "power cuts under lazy" in said and said.count("1 power cuts of plant-a") == 2


def test_a_random_schedule_leaves_both_zones_exact() -> None:
    said = run("--only", "flow", "--budget", "50", "--interval", "0.5")
    assert "kill_gateway" in said or "kill_server" in said
