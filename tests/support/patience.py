"""How long a test waits on a machine that does other things too."""

from __future__ import annotations

import os
from typing import Final

PATIENCE_MAX: Final = 5.0


def patience() -> float:
    """How many times longer than on a free machine a thing may take now: what wants to run, to the cores it has.

    For waits that are no promise of ours. What a test shows is that a thing happens; were it to depend on how busy
    the machine is whether it happened in time, the test would tell of the machine.
    """
    return min(PATIENCE_MAX, max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1)))
