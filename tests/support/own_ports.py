"""Ports that the labs of one test process have for themselves, whatever else is tested on this machine.

A lab chooses its ports before its gateways listen there, and a gateway that a test stops is to find its port free when
it starts again. So each process that runs tests claims a block of ports and holds it to its end.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Final

from bsfg.lab.homes import PORTS_VARIABLE
from bsfg.substrates.store_lock import try_lock

# All below the kernel's range for outgoing connections.
FIRST: Final = 20_000
BLOCK: Final = 500
BLOCKS: Final = 20


def claim(folder: Path | None = None) -> int:
    """Give the labs of this process and of what it starts a block of ports; the descriptor whose end frees it."""
    folder = folder or Path(tempfile.gettempdir()) / f"bsfg-test-ports-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    for first in range(FIRST, FIRST + BLOCKS * BLOCK, BLOCK):
        held = try_lock(folder / str(first))
        if held is not None:
            os.environ[PORTS_VARIABLE] = f"{first}-{first + BLOCK - 1}"
            return held
    raise RuntimeError(f"other test processes hold all {BLOCKS} blocks of ports; their locks are in {folder}")
