"""An answer that many ask for: made anew only so often that making it takes a tenth of the time at most."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Generic, TypeVar

AGE_SECONDS_MIN: Final = 0.1
SHARE_MAX: Final = 0.1
_Value = TypeVar("_Value")


class Remembered(Generic[_Value]):
    """What ``make`` returned, no older than a tenth of a second or ten times what making it took.

    ``now`` is monotonic seconds. However often it is asked, by scrapes or by a flood of health probes, the loop keeps
    nine tenths of its time for facts.
    """

    def __init__(self, make: Callable[[], _Value], now: Callable[[], float]) -> None:
        self._make, self._now = make, now
        self._value: _Value | None = None
        self._until: float | None = None

    def __call__(self) -> _Value:
        began = self._now()
        if self._until is None or began >= self._until:
            self._value = self._make()
            ended = self._now()
            self._until = ended + max(AGE_SECONDS_MIN, (ended - began) / SHARE_MAX)
        assert self._value is not None
        return self._value
