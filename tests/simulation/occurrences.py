"""What seeds must have seen: a fault or a transition that never occurs proves nothing, so it fails the run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, get_args

from tests.simulation.fault_kinds import OF_HISTORY, ORDINARY
from tests.simulation.faults import ARMED
from tests.simulation.gateway import STEPS, STILL_LEVEL
from tests.simulation.seeds import Outcome

from bsfg.core.conversation import Event
from bsfg.core.link_state import Phase

SEEDS_FOR_COMMON: Final = 500
SEEDS_FOR_RARE: Final = 20_000
"""With fewer seeds, what is rare may be missing by chance."""

ANSWERS: Final = {
    Phase.LOCATING: ("Located", "StepFailed"),
    Phase.FLOWING: ("PageFetched", "Appended", "StepFailed"),
    Phase.RECORDING: ("RecordSaved", "SetAside", "StepFailed"),
    Phase.WAITING: ("Waited",),
    Phase.RESTING: (),
    Phase.PARTITIONED: (),
    Phase.HALTED: (),
}
"""The answers that a phase can await; any other carries a ticket that is no longer out, and is counted as late."""
ALL_ANSWERS: Final = ("Located", "PageFetched", "RecordSaved", "Appended", "StepFailed", "Waited", "SetAside")
UNREACHABLE: Final = {
    **{
        f"{phase.name} Started": "a driver is told it once, first"
        for phase in Phase
        if phase is not Phase.LOCATING
    },
}
BY_CHANCE: Final = frozenset({"RESTING Confirmed", "RESTING ConfirmFailed"})
"""An answer to a confirm from before the link lost everything and came to rest: once in 100,000 seeds."""
RARE: Final = frozenset(
    {
        "late SetAside",
        "late RecordSaved",
        "HALTED GapAccepted",
        *(f"{phase} Confirmed" for phase in ("LOCATING", "RECORDING", "PARTITIONED", "HALTED")),
        *(f"{phase} ConfirmFailed" for phase in ("LOCATING", "RECORDING", "PARTITIONED", "HALTED")),
        *(f"RECORDING {kind}" for kind in ("PartitionBegan", "PartitionEnded", "Reconfigured", "Woken")),
        *(f"{phase} GapAccepted" for phase in ("RECORDING", "PARTITIONED")),
        *(f"{phase} StartChosen" for phase in ("RECORDING", "PARTITIONED")),
        *(f"{phase} StoreDoubted" for phase in ("RECORDING", "PARTITIONED")),
        "PARTITIONED Reconfigured",
        "LOCATING PartitionBegan",
        *(f"gateway killed: {step}" for step in STEPS),
    }
)  # fmt: skip


def transitions() -> Iterator[str]:
    """Every phase with every event that it can be told, and every answer that can come too late.

    A look is only ordered while the link flows; that it comes when it no longer does is chance.
    """
    for phase in Phase:
        for event in get_args(Event):
            kind = event.__name__
            name = f"{phase.name} {kind}"
            if kind == "Looked" and phase is not Phase.FLOWING:
                continue
            if name not in UNREACHABLE and (kind not in ALL_ANSWERS or kind in ANSWERS[phase]):
                yield name
    yield STILL_LEVEL
    yield from (f"late {kind}" for kind in ALL_ANSWERS)


def faults() -> Iterator[str]:
    yield from (*ORDINARY, *OF_HISTORY, *ARMED)
    yield from (f"gateway killed: {step}" for step in STEPS)


def missing(outcome: Outcome) -> list[str]:
    """What should have occurred in that many seeds, and did not; also what was thought unreachable and is not."""
    if outcome.seeds < SEEDS_FOR_COMMON:
        return []
    forgiven = BY_CHANCE | RARE if outcome.seeds < SEEDS_FOR_RARE else BY_CHANCE
    never = [name for name in transitions() if not outcome.transitions[name]]
    never += [name for name in faults() if not outcome.faults[name]]
    reached = [f"{name}, thought unreachable" for name in UNREACHABLE if outcome.transitions[name]]
    return [name for name in never if name not in forgiven] + reached


def table(outcome: Outcome) -> list[str]:
    """How often each occurred, as lines."""
    rows = [("fault", name, outcome.faults[name]) for name in faults()]
    rows += [("transition", name, outcome.transitions[name]) for name in transitions()]
    rows += [("halt", name, count) for name, count in sorted(outcome.halts.items())]
    return [f"{kind:11} {name:32} {count:9,}" for kind, name, count in rows]
