"""What every process of a gateway sets once."""

from __future__ import annotations

import subprocess
import sys
from typing import Final

PROGRAM: Final = """
import gc
gc.disable()
from bsfg.daemon.system import spare_collections
spare_collections()
print(gc.isenabled(), gc.get_freeze_count() > 0)
"""


def test_a_gateway_collects_again_although_its_start_did_not() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split() == ["True", "True"]
