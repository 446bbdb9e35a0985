"""How many lines an event may have: so many a minute for each event, peer and stream; the rest is counted."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, field
from typing import Any, Final

import structlog

LINES_PER_MINUTE: Final = 120
MINUTE_SECONDS: Final = 60.0
KEYS_MAX: Final = 10_000


@dataclass
class _Window:
    began: float
    written: int = 0
    dropped: int = 0


@dataclass
class LineAllowance:
    """A structlog processor: drops what is beyond the allowance; the next line of its kind says how many were.

    ``lost`` is called for each dropped line, so that a count is left even where no next line comes.
    """

    lost: Callable[[], None] = lambda: None
    now: Callable[[], float] = time.monotonic
    _windows: dict[tuple[str, str, str], _Window] = field(default_factory=dict)
    _turn: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, _logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        with self._turn:
            dropped = self._take(tuple(str(event.get(name)) for name in ("event", "peer", "stream")))
        if dropped is None:
            self.lost()
            raise structlog.DropEvent
        if dropped:
            event["lines_dropped"] = dropped
        return event

    def _take(self, key: tuple[str, ...]) -> int | None:
        """How many lines were dropped before this one, or None if this one is to be dropped too."""
        name, now = (key[0], key[1], key[2]), self.now()
        window = self._windows.get(name)
        if window is None or now - window.began >= MINUTE_SECONDS:
            dropped = window.dropped if window else 0
            if window is None and len(self._windows) >= KEYS_MAX:
                self._windows.clear()
            self._windows[name] = _Window(now, written=1)
            return dropped
        if window.written < LINES_PER_MINUTE:
            window.written += 1
            return 0
        window.dropped += 1
        return None
