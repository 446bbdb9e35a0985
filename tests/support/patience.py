"""How long a test waits on a machine that does other things too."""

from __future__ import annotations

import os
from typing import Final

PATIENCE_MIN: Final = 3.0
"""The load average lags a minute behind, so it says nothing of what has just begun."""
BUSYNESS_MAX: Final = 5.0


def busyness() -> float:
    """How many times longer than on a free machine a thing may take now: what wants to run, to the cores it has.

    For what is measured against a promise.
    """
    return min(BUSYNESS_MAX, max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1)))


def patience() -> float:
    """As many times longer a wait goes on that is no promise of ours, and costs time only where a test fails.

    What such a test shows is that a thing happens; were it to depend on how busy the machine is whether it happened in
    time, the test would tell of the machine.
    """
    return max(PATIENCE_MIN, busyness())
