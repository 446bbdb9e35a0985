"""A loop on which time costs nothing: single-threaded, without sockets, and the same for the same seed."""

from __future__ import annotations

import asyncio
from typing import Any, Final

from bsfg.model.moment import NANOSECONDS

ITERATIONS_MAX: Final = 300_000
"""A seed needs some ten thousand; far more means that something spins without time passing."""
WALL_CLOCK_START: Final = 1_767_225_600 * NANOSECONDS
"""2026-01-01, nanoseconds since 1970."""


class NothingLeftToHappen(Exception):
    """Everything waits, and no timer is set: the world is deadlocked."""


class Spinning(Exception):
    """The loop turned too often: somebody tries again without waiting."""


class VirtualLoop(asyncio.BaseEventLoop):
    """asyncio's own loop, whose selector does not wait but moves the clock to the next timer."""

    def __init__(self) -> None:
        super().__init__()
        self._virtual_seconds = 0.0
        self._iterations = 0
        self._selector: Any = self

    def time(self) -> float:
        return self._virtual_seconds

    def select(self, timeout: float | None) -> tuple[()]:
        """What a selector is asked: here nothing ever comes from outside, so only time passes."""
        self._iterations += 1
        if self._iterations > ITERATIONS_MAX:
            raise Spinning(
                f"{ITERATIONS_MAX} turns of the loop in {self._virtual_seconds:.1f} virtual seconds"
            )
        if timeout is None:
            raise NothingLeftToHappen("nothing is ready and no timer is set")
        self._virtual_seconds += max(0.0, timeout)
        return ()

    def _process_events(self, event_list: object) -> None:
        """There are none."""

    def _write_to_self(self) -> None:
        """Nobody else could wake this loop."""


class VirtualClock:
    """A zone's clocks (``ports.Clock``): monotonic time is the loop's, the wall clock can jump."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self.jumped_nanoseconds = 0

    def now(self) -> int:
        return WALL_CLOCK_START + int(self._loop.time() * NANOSECONDS) + self.jumped_nanoseconds

    def monotonic(self) -> float:
        return self._loop.time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
