"""Runs seeds: each from its number alone, with the same course every time."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from tests.simulation.faults import inject
from tests.simulation.judge import judge
from tests.simulation.virtual_time import NothingLeftToHappen, Spinning, VirtualLoop
from tests.simulation.world import Trace, World


@dataclass
class Outcome:
    """What came of seeds."""

    seeds: int = 0
    facts: int = 0
    violations: dict[int, list[str]] = field(default_factory=dict)
    faults: Counter[str] = field(default_factory=Counter)
    transitions: Counter[str] = field(default_factory=Counter)
    halts: Counter[str] = field(default_factory=Counter)
    unproven_histories: int = 0
    overstated_gaps: int = 0

    def add(self, other: Outcome) -> None:
        self.seeds += other.seeds
        self.facts += other.facts
        self.violations |= other.violations
        self.faults += other.faults
        self.transitions += other.transitions
        self.halts += other.halts
        self.unproven_histories += other.unproven_histories
        self.overstated_gaps += other.overstated_gaps


def run_seed(
    seed: int, tracing: Trace | None = None, prepare: Callable[[World], None] | None = None
) -> Outcome:
    """One seed's course; the same seed gives the same outcome, whatever ran before."""
    loop = VirtualLoop()
    world: World | None = None

    async def course() -> World:
        nonlocal world
        world = World(seed, loop, tracing)
        if prepare is not None:
            prepare(world)
        await world.run(inject)
        judge(world)
        return world

    try:
        world = loop.run_until_complete(course())
    except (NothingLeftToHappen, Spinning) as error:
        assert world is not None
        world.ledger.violated("I26", repr(error))
    finally:
        _close(loop, world)
    return _outcome(world)


def _close(loop: VirtualLoop, world: World | None) -> None:
    try:
        if world is not None:
            loop.run_until_complete(world.stop())
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()


def _outcome(world: World) -> Outcome:
    violations = {world.seed: world.ledger.violations} if world.ledger.violations else {}
    return Outcome(
        1, len(world.history.places), violations, world.faults, world.transitions, world.halts,
        world.ledger.unproven_histories, world.ledger.overstated_gaps,
    )  # fmt: skip


def run_seeds(seeds: Iterable[int]) -> Outcome:
    """Many seeds. What is collected when would change the course, so the collector rests while a seed runs."""
    total = Outcome()
    gc.collect()
    gc.disable()
    try:
        for count, seed in enumerate(seeds, start=1):
            total.add(run_seed(seed))
            if count % 50 == 0:
                gc.collect()
    finally:
        gc.enable()
    return total
