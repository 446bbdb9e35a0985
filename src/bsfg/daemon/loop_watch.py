"""Names every second in which an event loop did not run: nothing else would."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from bsfg.ports import Clock

STALL_SECONDS: Final = 1.0


async def watch_loop(clock: Clock, stalled: Callable[[float], None]) -> None:
    """Tell how late the loop was, whenever that was over a second; until cancelled."""
    while True:
        before = clock.monotonic()
        await asyncio.sleep(STALL_SECONDS / 2)
        late = clock.monotonic() - before - STALL_SECONDS / 2
        if late > STALL_SECONDS:
            stalled(late)
