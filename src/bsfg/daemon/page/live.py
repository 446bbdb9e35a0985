"""What every open page is told: one rendering a second for all of them, and to each what has changed for it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import Any, Final

from bsfg.daemon.page.render import Renderer
from bsfg.errors import BsfgError, Code
from bsfg.ports import Clock

TICK_SECONDS: Final = 1.0
BEAT_TICKS: Final = 10
"""A quiet stream says something this often, so that a dead connection is noticed on both sides."""
STREAMS_MAX: Final = 16
RETRY_MILLISECONDS: Final = 2_000
_BEAT: Final = b": beat\n\n"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The sections of the page and the charts' lines at one moment."""

    taken_at: float
    parts: dict[str, str]
    series: dict[str, Any]
    zone: str


class Live:
    """The newest snapshot, shared by all who look."""

    def __init__(self, renderer: Renderer, series: Callable[[], dict[str, Any]], zone: str, clock: Clock) -> None:
        self._renderer, self._series, self._zone, self._clock = renderer, series, zone, clock
        self._last: Snapshot | None = None
        self._turn = asyncio.Lock()
        self._streams = 0

    async def snapshot(self, age_seconds_max: float = TICK_SECONDS) -> Snapshot:
        """A snapshot no older than this; however many ask, it is rendered once."""
        async with self._turn:
            now = self._clock.monotonic()
            if self._last is None or now - self._last.taken_at >= age_seconds_max:
                self._last = Snapshot(now, await self._renderer.parts(), self._series(), self._zone)
            return self._last

    def forget(self) -> None:
        """Something was just done: the next look sees it."""
        self._last = None

    async def events(self, is_welcome: Callable[[], bool]) -> AsyncGenerator[bytes, None]:
        """Server-sent events until the session ends: changed sections, new points of the charts, a beat.

        Raises ``too_many`` when too many pages are open.
        """
        if self._streams >= STREAMS_MAX:
            raise BsfgError(Code.TOO_MANY, f"{self._streams} pages are open", hint="close one")
        self._streams += 1
        try:
            yield b"retry: %d\n\n" % RETRY_MILLISECONDS
            known: dict[str, str] = {}
            last_time, quiet = None, 0
            while is_welcome():
                try:
                    shot = await self.snapshot()
                except BsfgError:
                    # What can't be told now is told when it can; the page shows how old it is.
                    yield _BEAT
                    await asyncio.sleep(TICK_SECONDS)
                    continue
                changed = {name: html for name, html in shot.parts.items() if known.get(name) != html}
                newest = shot.series["times"][-1] if shot.series["times"] else None
                quiet = 0 if changed or newest != last_time else quiet + 1
                if changed:
                    yield _event("parts", changed)
                if newest != last_time:
                    yield _event("series", shot.series)
                if quiet >= BEAT_TICKS:
                    yield _BEAT
                    quiet = 0
                known, last_time = shot.parts, newest
                await asyncio.sleep(TICK_SECONDS)
            yield _event("ended", {})
        finally:
            self._streams -= 1


def _event(name: str, content: Any) -> bytes:
    return f"event: {name}\ndata: {json.dumps(content)}\n\n".encode()
