"""What goes wrong in a seed, and when.

Kinds are drawn with equal chance at random moments. A kind that a seed's profile rules out does nothing then.
"""

from __future__ import annotations

from functools import partial
from types import ModuleType
from typing import Final

from tests.simulation import faults_of_receiver, faults_of_sender
from tests.simulation.fault_kinds import OF_HISTORY, ORDINARY, Fault
from tests.simulation.world import World

WRITTEN_IN: Final[tuple[ModuleType, ...]] = (faults_of_sender, faults_of_receiver)
ARMED_LINE: Final = (
    "answer_late", "answer_replayed", "answer_cut", "confirm_lost", "confirm_late", "confirm_doubled",
)  # fmt: skip
ARMED_STORE: Final = (
    "append_lost", "append_late", "ack_lost", "ack_late", "record_not_stored", "record_ack_lost", "store_answers_lost",
)  # fmt: skip
ARMED: Final = ARMED_LINE + ARMED_STORE


def inject(world: World) -> None:
    """Plan a seed's faults."""
    kinds = sorted(ORDINARY.items()) + sorted(OF_HISTORY.items()) * world.profile.rewrites_history
    for _ in range(world.profile.faults):
        seconds = world.profile.seconds * (0.02 + 0.93 * world.random.random())
        if world.random.random() < 0.3:
            name = world.random.choice(ARMED)
            armed = world.line_faults if name in ARMED_LINE else world.store_faults
            world.mischief(seconds, partial(armed.arm, name))
        else:
            name, fault = world.random.choice(kinds)
            at_start = fault is faults_of_receiver.gateway_doomed and world.random.random() < 0.5
            world.mischief(0.0 if at_start else seconds, partial(_strike, world, name, fault))


def _strike(world: World, name: str, fault: Fault) -> None:
    if fault(world):
        world.happened(name)
