"""How long facts take from being stored at their origin to being durable here, measured on facts that come anyway.

Nothing is written for it: a receiver has no way to write into the sender's stream, and a stream holds what its
producers said and nothing else. Instead one fact a period is followed. The time at the sender is the sender's own
clock's, from the fact's stored time to the answer that carries it; from there on it is our monotonic clock's. So no
clock is subtracted from another zone's, and only the way of the answer itself, half a round trip, is left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from bsfg.model.fact import Fact
from bsfg.model.moment import NANOSECONDS
from bsfg.model.page import Page
from bsfg.ports import Clock

LOST_SECONDS: Final = 600.0
"""A fact that has not become durable by then is not waited for: its page was thrown away."""


@dataclass(frozen=True, slots=True)
class _Followed:
    sequence: int
    at_sender_seconds: float
    heard_at: float


@dataclass
class Canary:
    """One link's; ``period_seconds`` None follows nothing (``canary: off``)."""

    clock: Clock
    period_seconds: float | None = None
    _followed: _Followed | None = None
    _due: float = field(default=0.0)

    def page_came(self, page: Page) -> None:
        """Follow the page's newest fact, if it is time for one."""
        now = self.clock.monotonic()
        if self.period_seconds is None or not page.facts or now < self._due:
            return
        if self._followed is not None and now - self._followed.heard_at < LOST_SECONDS:
            return
        fact = page.facts[-1]
        at_sender = max(0, page.sender_time - fact.time) / NANOSECONDS
        self._followed = _Followed(fact.sequence, at_sender, now)

    def stored(self, facts: Sequence[Fact]) -> float | None:
        """These facts are durable here: how long the followed one took in seconds, None if it is not among them."""
        followed = self._followed
        if followed is None or self.period_seconds is None or facts[-1].sequence < followed.sequence:
            return None
        now = self.clock.monotonic()
        self._followed, self._due = None, now + self.period_seconds
        return followed.at_sender_seconds + now - followed.heard_at
