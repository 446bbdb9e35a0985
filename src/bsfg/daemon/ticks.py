"""Waits that need not be exact end together: a gateway at rest wakes a few times a second, and not once for each link.

With hundreds of links that is most of what rest costs: each wake-up by itself finds the processor's caches cold.
"""

from __future__ import annotations

from typing import Final

TICK_SECONDS: Final = 0.25
WAIT_SECONDS_MIN: Final = 1.0
"""A shorter wait is left as it is."""


def to_tick(seconds: float, now: float) -> float:
    """A wait of at most so many seconds that begins now and ends on a tick; ``now`` is the monotonic clock's."""
    return seconds if seconds < WAIT_SECONDS_MIN else seconds - (now + seconds) % TICK_SECONDS


def next_tick(seconds: float, now: float) -> float:
    """The same, of at least so many seconds."""
    return seconds if seconds < WAIT_SECONDS_MIN else to_tick(seconds + TICK_SECONDS, now)
