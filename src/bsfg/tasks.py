"""Ending tasks that nobody waits for any more."""

from __future__ import annotations

import asyncio
from typing import Any


async def end_tasks(*tasks: asyncio.Future[Any]) -> None:
    """Each is over on return, cancelled if it was under way, whatever it raised. What is over already costs no turn of
    the loop."""
    for task in tasks:
        task.cancel()
    waiting = [task for task in tasks if not task.done()]
    if waiting:
        await asyncio.gather(*waiting, return_exceptions=True)
    for task in tasks:
        if not task.cancelled():
            # Looked at, so that the loop does not complain of a failure that nobody waited for.
            task.exception()
