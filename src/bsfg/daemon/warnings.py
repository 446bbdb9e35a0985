"""What an operator should know before it is a problem: nothing here makes health degraded (I46).

The thresholds are those of the alert rules, so that page, status and alert tell one story.
"""

from __future__ import annotations

from typing import Final

from bsfg.daemon.gateway import Gateway
from bsfg.daemon.timeline import Timeline
from bsfg.model.moment import NANOSECONDS, parse_time

FILL_RATIO_MAX: Final = 0.8
HEADROOM_SECONDS_MIN: Final = 86_400.0
CRL_SECONDS_MIN: Final = 2 * 86_400.0
REFUSAL_SECONDS: Final = 300.0
"""How long a refusal is worth a line; the alert is over after this, too."""


def warnings_of(gateway: Gateway, timeline: Timeline) -> list[str]:
    """One line each: what fills up, what ends, what is about to be removed, who was refused just now."""
    readings = gateway.readings()
    found = []
    if readings.disk_fill_ratio is not None and readings.disk_fill_ratio > FILL_RATIO_MAX:
        found.append(f"the disk of data/ is {readings.disk_fill_ratio:.0%} full")
    found += [
        f"stream {stream} is {ratio:.0%} full; when it is full, it refuses appends"
        for stream, ratio in readings.fill_ratios.items()
        if ratio > FILL_RATIO_MAX
    ]
    found += [
        f"facts of {row.stream} that {row.peer} lacks are removed in {row.headroom_seconds / 3600:.1f} hours"
        for row in readings.exports
        if row.headroom_seconds is not None and row.headroom_seconds < HEADROOM_SECONDS_MIN
    ]
    if readings.crl_seconds_left is not None and readings.crl_seconds_left < CRL_SECONDS_MIN:
        found.append(f"the revocation list holds for {readings.crl_seconds_left / 3600:.1f} hours")
    return found + _refusal(gateway, timeline)


def _refusal(gateway: Gateway, timeline: Timeline) -> list[str]:
    refusal = timeline.last_refusal
    if refusal is None:
        return []
    age = (gateway.parts.clock.now() - parse_time(refusal.time)) / NANOSECONDS
    return [f"refused lately: {refusal.message}"] if age < REFUSAL_SECONDS else []
