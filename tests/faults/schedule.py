"""What goes wrong when: a list of faults that a seed decides alone."""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

PAUSE_SECONDS: Final = (1.0, 10.0)
CUT_BYTES_MAX: Final = 200_000
RATES: Final = (20_000.0, 200_000.0, 2_000_000.0)
"""Bytes per second of a throttled line."""
DELAYS: Final = (0.02, 0.1, 0.4)
FIRST_SECONDS: Final = 0.5


class Kind(StrEnum):
    KILL_GATEWAY = "kill_gateway"
    KILL_SERVER = "kill_server"
    PAUSE_GATEWAY = "pause_gateway"
    PAUSE_SERVER = "pause_server"
    PARTITION = "partition"
    PARTITION_ONE_WAY = "partition_one_way"
    DELAY = "delay"
    THROTTLE = "throttle"
    CUT = "cut"
    FREEZE = "freeze"


KILLS: Final = (Kind.KILL_GATEWAY, Kind.KILL_SERVER)
LINE_FAULTS: Final = (Kind.DELAY, Kind.THROTTLE, Kind.CUT, Kind.FREEZE)
"""Faults of the line from one zone to the other, which has no target."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One accident; ``seconds`` is how long it lasts, ``amount`` what its kind makes of it."""

    at_seconds: float
    kind: Kind
    target: str
    """The zone it happens to; of a partition in one direction, the zone that no longer hears."""
    seconds: float
    amount: float

    def __str__(self) -> str:
        lasting = f" {self.seconds:.1f} s" if self.seconds else ""
        return f"{self.at_seconds:6.1f} s  {self.kind} {self.target}{lasting} {self.amount or ''}".rstrip()


def plan(
    seed: int,
    duration_seconds: float,
    zones: tuple[str, ...],
    *,
    kinds: tuple[Kind, ...] = tuple(Kind),
    interval_seconds: float = 1.0,
) -> list[Fault]:
    """The schedule of a seed: a fault every ``interval_seconds`` or so, the next one while the last still lasts."""
    chance = random.Random(f"faults {seed}")
    faults: list[Fault] = []
    at = FIRST_SECONDS
    bag: list[tuple[Kind, str]] = []
    while at < duration_seconds:
        if not bag:
            # Every kind hits every zone before any comes again, so that a short schedule has seen them all.
            bag = [(kind, zone) for kind in kinds for zone in zones]
            chance.shuffle(bag)
        kind, zone = bag.pop()
        faults.append(_fault(chance, at, kind, zone, duration_seconds))
        at += chance.uniform(0.4, 1.6) * interval_seconds
    return faults


def _fault(chance: random.Random, at: float, kind: Kind, zone: str, duration_seconds: float) -> Fault:
    seconds = 0.0
    if kind not in (*KILLS, Kind.CUT):
        shortest, longest = PAUSE_SECONDS
        seconds = chance.uniform(shortest, min(longest, max(shortest, duration_seconds / 6)))
    amount = {
        Kind.DELAY: chance.choice(DELAYS),
        Kind.THROTTLE: chance.choice(RATES),
        Kind.CUT: float(chance.randrange(CUT_BYTES_MAX)),
    }.get(kind, 0.0)
    return Fault(at, kind, "" if kind in LINE_FAULTS else zone, seconds, amount)
