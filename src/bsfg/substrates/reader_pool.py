"""Page readers of one exported stream, shared by all who read it.

A reader is only fast while it goes on from where it is, so each is given to whoever reads on from its position; two
peers at different places never take each other's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from bsfg.errors import BsfgError, Code
from bsfg.model.page import LogSlice, PageLimits
from bsfg.substrates.page_reader import PageReader

READERS_MAX: Final = 256
"""Readers of one stream; each holds a connection to NATS. One peer that waits for facts holds one reader."""
IDLE_SECONDS: Final = 30.0


@dataclass(slots=True, eq=False)
class _Idle:
    reader: PageReader
    position: int
    closing: asyncio.TimerHandle | None = None


class ReaderPool:
    """Readers of one stream, made when needed and closed when idle for ``idle_seconds``."""

    def __init__(
        self,
        make_reader: Callable[[], PageReader],
        *,
        readers_max: int = READERS_MAX,
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        self._make_reader = make_reader
        self._readers_max = readers_max
        self._idle_seconds = idle_seconds
        self._idle: list[_Idle] = []
        self._busy: set[PageReader] = set()
        self._closed = False

    @property
    def readers(self) -> int:
        """How many readers there are, idle ones included."""
        return len(self._idle) + len(self._busy)

    async def read(self, after: int, limits: PageLimits) -> LogSlice:
        """One slice by the reader that stands at ``after``, or by another; errors are those of the reader.

        Raises ``TOO_MANY`` when every reader is in use. Cancelling is safe at any moment.
        """
        reader = self._take(after)
        self._busy.add(reader)
        try:
            found = await reader.read(after, limits)
        except BaseException:
            self._busy.discard(reader)
            reader.close()
            raise
        self._busy.discard(reader)
        self._give_back(reader, found.scanned_through)
        return found

    def close(self) -> None:
        """Close every idle reader now, and the others when their read ends."""
        self._closed = True
        for idle in list(self._idle):
            self._close_idle(idle)

    def _take(self, after: int) -> PageReader:
        for idle in self._idle:
            if idle.position == after:
                return self._remove(idle)
        if self.readers < self._readers_max:
            return self._make_reader()
        if not self._idle:
            raise BsfgError(
                Code.TOO_MANY,
                f"reading a stream: {self._readers_max} readers are in use",
                hint="fewer peers at once, or fewer waiting requests of each",
            )
        return self._remove(self._idle[0])

    def _give_back(self, reader: PageReader, position: int) -> None:
        if self._closed:
            reader.close()
            return
        idle = _Idle(reader, position)
        idle.closing = asyncio.get_running_loop().call_later(self._idle_seconds, self._close_idle, idle)
        self._idle.append(idle)

    def _remove(self, idle: _Idle) -> PageReader:
        if idle.closing is not None:
            idle.closing.cancel()
        self._idle.remove(idle)
        return idle.reader

    def _close_idle(self, idle: _Idle) -> None:
        self._remove(idle).close()
