"""Whether a link gets anywhere: it moves, is proven level, or waits by design; else it is stalled (I26)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from bsfg.core.link_state import Link, Phase, state_of
from bsfg.model.cursor import LinkState

STALL_SECONDS: Final = 60.0
"""With a scrape and an evaluation behind it, an alert follows within two minutes."""
_BY_DESIGN: Final = (Phase.HALTED, Phase.PARTITIONED, Phase.RESTING)
_NEEDS_PROGRESS: Final = (LinkState.STARTING, LinkState.CATCHING_UP, LinkState.LEVEL)


@dataclass
class Watchdog:
    """When anything last came of a link's steps, and when it last got further; monotonic seconds."""

    heard_at: float
    advanced_at: float

    def note(self, before: Link, after: Link, now: float) -> None:
        """The link took an event."""
        if after is before:
            return
        self.heard_at = now
        is_level = after.word is not before.word and state_of(after) is LinkState.LEVEL
        if after.cursor != before.cursor or is_level or state_of(after) not in _NEEDS_PROGRESS:
            self.advanced_at = now

    def state(self, link: Link, now: float) -> LinkState:
        """The link's own state, or ``stalled``: answers that bring nothing are no better than none."""
        state = state_of(link)
        if link.phase in _BY_DESIGN and not link.tickets:
            return state
        since = min(self.heard_at, self.advanced_at) if state in _NEEDS_PROGRESS else self.heard_at
        return LinkState.STALLED if now - since > STALL_SECONDS else state
