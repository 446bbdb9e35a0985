"""Administrative partitions: an operator cuts a peer off, both ways, for a time (runbook 8.1).

A partition is durable before it acts, survives restarts, and ends by itself even if the operator's terminal dies.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from bsfg.daemon.caller import caller
from bsfg.errors import BsfgError, Code
from bsfg.model.moment import NANOSECONDS, format_time
from bsfg.model.names import ZoneId
from bsfg.ports import Clock

SECONDS_DEFAULT: Final = 15 * 60.0
SECONDS_MAX: Final = 24 * 3600.0
REASON_CHARACTERS_MAX: Final = 500
TICK_SECONDS: Final = 0.5


class PartitionStore(Protocol):
    """Where partitions are kept: durable when a method returns."""

    async def load_all(self) -> Mapping[ZoneId, dict[str, Any]]: ...

    async def save(self, peer: ZoneId, partition: Mapping[str, Any], /) -> None: ...

    async def delete(self, peer: ZoneId, /) -> None: ...


@dataclass(frozen=True, slots=True)
class Partition:
    """One peer cut off; ``until`` None means until an operator reconciles. Moments are nanoseconds since 1970."""

    peer: ZoneId
    reason: str
    began: int
    until: int | None
    by: str = ""
    """Who wanted it; empty where nobody wrote that down."""

    def as_json(self) -> dict[str, Any]:
        return {
            "peer": self.peer,
            "reason": self.reason,
            "by": self.by or None,
            "began": format_time(self.began),
            "until": None if self.until is None else format_time(self.until),
        }


@dataclass
class Partitions:
    """The partitions in force; ``changed`` is called with a peer whenever its partition begins or ends."""

    store: PartitionStore
    clock: Clock
    changed: Callable[[ZoneId, Partition | None, str], None]
    """Called with the peer, its partition (None when it ended), and who or what caused it."""
    _in_force: dict[ZoneId, Partition] = field(default_factory=dict)

    @property
    def in_force(self) -> Mapping[ZoneId, Partition]:
        return self._in_force

    async def load(self) -> None:
        """Take up what was in force before a restart."""
        for peer, value in (await self.store.load_all()).items():
            try:
                until = value["until"]
                partition = Partition(
                    peer,
                    str(value["reason"]),
                    int(value["began"]),
                    None if until is None else int(until),
                    str(value.get("by") or ""),
                )
            except (KeyError, TypeError, ValueError):
                # What can't be read still says that an operator wanted this peer cut off.
                partition = Partition(peer, "unreadable partition record", self.clock.now(), None)
            self._in_force[partition.peer] = partition
            self.changed(partition.peer, partition, "restart")

    async def begin(self, peer: ZoneId, reason: str, seconds: float | None) -> Partition:
        """Cut the peer off; durable and in force on return. ``seconds`` None: until reconciled."""
        if not reason.strip() or len(reason) > REASON_CHARACTERS_MAX:
            raise BsfgError(
                Code.INVALID_REQUEST,
                f"a partition needs a reason of at most {REASON_CHARACTERS_MAX} characters",
            )
        if seconds is not None and not 0 < seconds <= SECONDS_MAX:
            raise BsfgError(
                Code.INVALID_REQUEST,
                f"a partition lasts between 0 and {SECONDS_MAX / 3600:.0f} hours, not {seconds:.0f} seconds",
                hint="--for until-reconciled has no end",
            )
        now = self.clock.now()
        until = None if seconds is None else now + int(seconds * NANOSECONDS)
        partition = Partition(peer, reason, now, until, caller())
        await self.store.save(
            peer, {"reason": reason, "began": now, "until": until, "by": partition.by}
        )
        self._in_force[peer] = partition
        self.changed(peer, partition, "operator")
        return partition

    async def end(self, peer: ZoneId, cause: str) -> Partition | None:
        """Let the peer back; None if it was not cut off."""
        partition = self._in_force.get(peer)
        if partition is None:
            return None
        await self.store.delete(peer)
        self._in_force.pop(peer, None)
        self.changed(peer, None, cause)
        return partition

    async def run(self) -> None:
        """End partitions when their time is over, until cancelled."""
        while True:
            await asyncio.sleep(TICK_SECONDS)
            now = self.clock.now()
            for partition in list(self._in_force.values()):
                if partition.until is not None and partition.until <= now:
                    try:
                        await self.end(partition.peer, "time is over")
                    except BsfgError:
                        continue
