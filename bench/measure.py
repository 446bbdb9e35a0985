"""One transfer of facts by one side, watched from outside."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Final

from bench.facts import Facts
from bench.pair import Pair, Watch
from bench.processes import cpu_seconds, machine_cpu_seconds, peak_mib

ARRIVAL_SECONDS_MAX: Final = 180.0
POLL_SECONDS: Final = 0.02
SETTLE_SECONDS: Final = 1.0
"""Between the last fact at the source and the start: what follows new facts there has caught up."""


@dataclass(frozen=True)
class Run:
    """One transfer of all facts by one side; CPU and memory by process."""

    facts: int
    seconds: float
    seconds_to_first: float
    fill_rate: float = 0.0
    cpu_seconds: Mapping[str, float] = field(default_factory=dict)
    peaks_mib: Mapping[str, float] = field(default_factory=dict)
    foreign_cores: float = 0.0
    """How many processors everything else on the machine kept busy meanwhile."""

    @property
    def rate(self) -> float:
        """Facts a second, the start included."""
        return self.facts / self.seconds

    @property
    def cpu_per_million(self) -> float:
        """CPU seconds per million facts of all processes of the side."""
        return sum(self.cpu_seconds.values()) / self.facts * 1e6


class Meter:
    """What the processes of a side have used since it was made."""

    def __init__(self, pair: Pair) -> None:
        self._pair = pair
        self._began = time.monotonic()
        self._before = self._now()
        self._all_before = self._all()

    def _now(self) -> dict[str, float]:
        return {name: sum(map(cpu_seconds, pids)) for name, pids in self._pair.pids().items()}

    def cpu(self) -> dict[str, float]:
        return {name: spent - self._before.get(name, 0.0) for name, spent in self._now().items()}

    def foreign_cores(self) -> float:
        """Busy processors besides this side and the bench itself."""
        foreign = self._all() - self._all_before - sum(self.cpu().values())
        return max(0.0, foreign / (time.monotonic() - self._began))

    @staticmethod
    def _all() -> float:
        return machine_cpu_seconds() - cpu_seconds(os.getpid())

    def peaks(self) -> dict[str, float]:
        return {name: sum(map(peak_mib, pids)) for name, pids in self._pair.pids().items()}


async def transfer(
    pair: Pair, facts: Facts, watched: Callable[[], AbstractContextManager[object]] = nullcontext
) -> Run:
    """Fill the source, release, and wait until the target holds all facts; RuntimeError if what arrived differs.

    The clock runs from the moment before ``release``, so whatever a side needs to get going counts against it.
    What ``watched`` makes once the source is full is entered before that, and left when all have arrived.
    """
    fill_rate = await asyncio.to_thread(pair.fill, facts)
    # Or the kernel would write them in the middle of what is measured.
    await asyncio.to_thread(os.sync)
    await asyncio.sleep(SETTLE_SECONDS)
    async with pair.watch(facts) as watch:
        with watched():
            meter, began = Meter(pair), time.monotonic()
            releasing = asyncio.ensure_future(pair.release())
            first, total = await _arrival(watch, facts.count, began)
            cpu, foreign_cores = meter.cpu(), meter.foreign_cores()
        await releasing
        await watch.require_equal()
    return Run(facts.count, total, first, fill_rate, cpu, meter.peaks(), foreign_cores)


async def _arrival(watch: Watch, count: int, began: float) -> tuple[float, float]:
    first: float | None = None
    while True:
        arrived, elapsed = await watch.arrived(), time.monotonic() - began
        if arrived and first is None:
            first = elapsed
        if arrived >= count:
            return first or elapsed, elapsed
        if elapsed > ARRIVAL_SECONDS_MAX:
            raise TimeoutError(f"{arrived} of {count} facts arrived within {elapsed:.0f} s")
        await asyncio.sleep(POLL_SECONDS)
