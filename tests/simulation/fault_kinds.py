"""The kinds of faults, by name, and what they have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tests.simulation.world import World

Fault = Callable[[World], bool]
"""Makes it happen; False if it can't in this world."""

ORDINARY: Final[dict[str, Fault]] = {}
OF_HISTORY: Final[dict[str, Fault]] = {}
"""Those after which sender and receiver may no longer have one history."""


def ordinary(fault: Fault) -> Fault:
    ORDINARY[fault.__name__] = fault
    return fault


def of_history(fault: Fault) -> Fault:
    OF_HISTORY[fault.__name__] = fault
    return fault


def for_a_while(world: World, set_to: Callable[[bool], object], seconds_max: float = 12.0) -> bool:
    """Something is wrong for a while."""
    set_to(True)
    world.mischief(world.random.random() * seconds_max, lambda: set_to(False))
    return True
