"""What every process of a gateway sets once."""

from __future__ import annotations

import subprocess
import sys
from typing import Final

PROGRAM: Final = """
import gc, sys
gc.disable()
from bsfg.bootstrap.process import prepare_process
prepare_process()
print(gc.isenabled(), gc.get_freeze_count() > 0, sys.getswitchinterval())
"""


def test_a_gateway_collects_again_although_its_start_did_not_and_no_thread_holds_up_its_loop() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split() == ["True", "True", "0.001"]
