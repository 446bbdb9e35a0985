"""How a seed's zones are set up, before anything goes wrong."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Final

from bsfg.core.link_state import LinkSettings
from bsfg.model.cursor import parse_init_mode
from bsfg.model.page import PageLimits

FACTS_MIN: Final = 200
_MODES: Final = ("full_backfill",) * 4 + ("start_now", "bounded_backfill_1h")


@dataclass(frozen=True)
class Profile:
    """Drawn once a seed."""

    settings: LinkSettings
    facts: int
    seconds: float
    """How long things happen, before everything is healed."""
    is_strict: bool
    """Whether an acknowledgement of the receiver's store means that it is on disk."""
    source_is_strict: bool
    is_exclusive: bool
    """Whether nobody else can publish to the inbound stream, so that pages are written behind unacknowledged ones. Of a
    second gateway that is the lock on the embedded server's home."""
    has_operator: bool
    rewrites_history: bool
    """Whether the source may lose, restore or make again what it had, and the receiver its inbound stream."""
    oversized_share: float
    line_seconds: float
    store_seconds: float
    syncs: int
    faults: int


def draw_profile(random: Random) -> Profile:
    chance = random.random
    settings = LinkSettings(
        parse_init_mode(random.choice(_MODES)),
        starts_on_load=chance() > 0.1,
        records_gaps=chance() < 0.5,
        sets_aside=chance() < 0.5,
        limits=PageLimits(facts=random.randrange(5, 40), wait_seconds=random.choice((2.0, 5.0))),
        pages_max=random.choice((1, 1, 2, 4)),
    )
    return Profile(
        settings=settings,
        facts=random.randrange(FACTS_MIN, FACTS_MIN + 60),
        seconds=30.0 + 20.0 * chance(),
        is_strict=chance() < 0.5,
        source_is_strict=chance() < 0.5,
        is_exclusive=chance() < 0.5,
        has_operator=chance() < 0.5,
        rewrites_history=chance() < 0.4,
        oversized_share=0.01 if chance() < 0.15 else 0.0,
        line_seconds=random.choice((0.002, 0.02, 0.2)),
        store_seconds=random.choice((0.005, 0.05, 0.3)),
        syncs=random.randrange(0, 12),
        faults=random.randrange(7, 13),
    )
