"""How refusals are told of: singly up to a few a minute for each source and reason, then as a count (I48).

Bounded whatever strangers send: past ``KEYS_MAX`` sources and reasons in one minute the others share one count.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

SINGLY_PER_MINUTE: Final = 10
KEYS_MAX: Final = 200
MINUTE_SECONDS: Final = 60.0
OTHERS: Final = "other sources"


@dataclass(frozen=True, slots=True)
class RefusalKey:
    """What is counted together."""

    event: str
    source: str
    """An address without its port, or a peer."""
    reason: str


@dataclass(slots=True)
class _Minute:
    began: float
    told: int = 0
    counted: int = 0


@dataclass
class Refusals:
    """The minute of every source and reason; a clock is given with each call."""

    _minutes: dict[RefusalKey, _Minute] = field(default_factory=dict)

    def take(self, key: RefusalKey, now: float) -> RefusalKey | None:
        """The key under which this one is told singly; None where it is only counted."""
        if key not in self._minutes and len(self._minutes) >= KEYS_MAX:
            key = RefusalKey(key.event, OTHERS, OTHERS)
        minute = self._minutes.setdefault(key, _Minute(now))
        if minute.told >= SINGLY_PER_MINUTE:
            minute.counted += 1
            return None
        minute.told += 1
        return key

    def ended(self, now: float) -> Iterator[tuple[RefusalKey, int]]:
        """Every minute that is over and in which some were only counted, with their count; each is said once."""
        over = [key for key, minute in self._minutes.items() if now - minute.began >= MINUTE_SECONDS]
        for key in over:
            minute = self._minutes.pop(key)
            if minute.counted:
                yield key, minute.counted
