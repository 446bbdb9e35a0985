"""The last minutes of each link and export: rates, times of arrival, and the lines of the operator page's charts.

Kept in memory, and bounded: two numbers a link every two seconds for five minutes. What was unknown is None.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from bsfg.daemon.exports import ExportRow
from bsfg.daemon.running_link import RunningLink
from bsfg.model.cursor import LinkName
from bsfg.model.names import ZoneId
from bsfg.ports import Clock

SAMPLE_SECONDS: Final = 2.0
SAMPLES_MAX: Final = 150
RATE_SAMPLES: Final = 8
"""A rate is the mean over these: sixteen seconds."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One moment of one peer: facts appended since the start, and what is known of lag and backlog."""

    appended: int
    lag_facts: int | None
    backlog_facts: int | None


@dataclass
class History:
    """Samples of every link and peer; ``lag_of`` is a link's lag in facts, None while nobody knows."""

    clock: Clock
    drivers: Callable[[], Iterable[RunningLink]]
    exports: Callable[[], Iterable[ExportRow]]
    lag_of: Callable[[RunningLink], int | None]
    times: deque[float] = field(default_factory=lambda: deque(maxlen=SAMPLES_MAX))
    """Wall-clock seconds since 1970 of each sample, for the charts."""
    _appended: deque[Mapping[LinkName, int]] = field(default_factory=lambda: deque(maxlen=RATE_SAMPLES))
    _peers: dict[ZoneId, deque[Sample | None]] = field(default_factory=dict)

    async def run(self) -> None:
        """Sample until cancelled."""
        while True:
            self.sample()
            await asyncio.sleep(SAMPLE_SECONDS)

    def sample(self) -> None:
        """Take one sample now."""
        moment: dict[ZoneId, list[int | None]] = {}
        counts: dict[LinkName, int] = {}
        for driver in self.drivers():
            name, appended = driver.name, driver.link.facts_appended
            counts[name] = appended
            values = moment.get(name.peer)
            if values is None:
                values = moment[name.peer] = [0, None, None]
            values[0] = (values[0] or 0) + appended
            lag = self.lag_of(driver)
            if lag is not None and (values[1] is None or lag > values[1]):
                values[1] = lag
        for row in self.exports():
            values = moment.setdefault(row.peer, [0, None, None])
            values[2] = (values[2] or 0) + row.backlog_facts
        self._appended.append(counts)
        self._append(moment)

    def rate(self, name: LinkName) -> float | None:
        """Facts a second of a link; None until there are two samples, or where its driver is new."""
        counts: list[int] = []
        for sample in reversed(self._appended):
            count = sample.get(name)
            if count is None or (counts and count > counts[-1]):
                break
            counts.append(count)
        if len(counts) < 2:
            return None
        return (counts[0] - counts[-1]) / ((len(counts) - 1) * SAMPLE_SECONDS)

    def arrival(self, name: LinkName, lag_facts: int | None) -> float | None:
        """Seconds until a link is level at its present rate; None where nobody can say."""
        rate = self.rate(name)
        if lag_facts is None or rate is None or rate <= 0:
            return 0.0 if lag_facts == 0 else None
        return lag_facts / rate

    def series(self) -> dict[str, Any]:
        """The charts' lines: times, and for each peer its rate, its largest lag and its backlog; null is unknown."""
        return {
            "times": list(self.times),
            "peers": {peer: _lines(samples) for peer, samples in sorted(self._peers.items())},
        }

    def _append(self, moment: Mapping[ZoneId, list[int | None]]) -> None:
        self.times.append(self.clock.now() / 1e9)
        for peer in moment.keys() - self._peers.keys():
            empty: list[Sample | None] = [None] * (len(self.times) - 1)
            self._peers[peer] = deque(empty, maxlen=SAMPLES_MAX)
        for peer, samples in self._peers.items():
            values = moment.get(peer)
            samples.append(None if values is None else Sample(values[0] or 0, values[1], values[2]))
        for peer in [peer for peer, samples in self._peers.items() if not any(samples)]:
            del self._peers[peer]


def _lines(samples: Iterable[Sample | None]) -> dict[str, list[float | None]]:
    lines: dict[str, list[float | None]] = {"rate": [], "lag": [], "backlog": []}
    before: Sample | None = None
    for sample in samples:
        is_step = sample is not None and before is not None and sample.appended >= before.appended
        rate = (sample.appended - before.appended) / SAMPLE_SECONDS if is_step and sample and before else None
        lines["rate"].append(rate)
        lines["lag"].append(sample.lag_facts if sample else None)
        lines["backlog"].append(sample.backlog_facts if sample else None)
        before = sample
    return lines
