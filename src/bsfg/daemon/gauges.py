"""The gauges of a scrape: built from what the gateway knows at that moment; what is unknown is absent."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from prometheus_client.core import Metric

from bsfg.daemon.exports import ExportRow
from bsfg.daemon.telemetry import counter, gauge
from bsfg.model.cursor import LinkState
from bsfg.model.names import StreamName, ZoneId

_OF_LINK: Final = {
    "bsfg_replication_lag_seconds": "lag_seconds",
    "bsfg_replication_lag_facts": "lag_facts",
    "bsfg_cursor_sequence": "sequence",
    "bsfg_peer_head_sequence": "head",
}


@dataclass(frozen=True, slots=True)
class GaugeReadings:
    """What the gauges are made of; times in seconds."""

    cursors: list[dict[str, Any]]
    exports: list[ExportRow]
    reachable: Mapping[ZoneId, bool | None]
    uptime_seconds: float
    certificate_seconds_left: float
    crl_seconds_left: float | None
    fill_ratios: Mapping[StreamName, float]
    config_reload_succeeded: bool
    exported: Collection[tuple[ZoneId, StreamName]] = ()
    exports_age_seconds: float | None = None
    partitioned: Collection[ZoneId] = ()
    disk_fill_ratio: float | None = None
    artifacts: Mapping[str, int] = field(default_factory=dict)
    """Wanted from peers, by state; empty while the list is not known."""


def families(readings: GaugeReadings) -> Iterable[Metric]:
    """Every gauge family with the samples that are known."""
    yield from _link_families(readings)
    yield from _peer_families(readings)
    yield from _zone_families(readings)


def _link_families(readings: GaugeReadings) -> Iterable[Metric]:
    for name, key in _OF_LINK.items():
        family = gauge(name)
        for row in readings.cursors:
            if row[key] is not None:
                family.add_metric([row["peer"], row["stream"]], row[key])
        yield family
    age, state = gauge("bsfg_replication_lag_observed_age_seconds"), gauge("bsfg_link_state")
    halted, gaps = gauge("bsfg_link_halted"), counter("bsfg_gap_facts")
    for row in readings.cursors:
        labels = [row["peer"], row["stream"]]
        heard = row["head_age_seconds"]
        age.add_metric(labels, readings.uptime_seconds if heard is None else heard)
        for each in LinkState:
            state.add_metric([*labels, each.value], float(row["state"] == each.value))
        if row["reason"] is not None:
            halted.add_metric([*labels, row["reason"]], 1.0)
        gaps.add_metric(labels, sum(gap["to"] - gap["from"] + 1 for gap in row["gaps"]))
    yield from (age, state, halted, gaps)


def _peer_families(readings: GaugeReadings) -> Iterable[Metric]:
    reachable, partitioned = gauge("bsfg_peer_reachable"), gauge("bsfg_peer_partitioned")
    for peer, is_reachable in readings.reachable.items():
        partitioned.add_metric([peer], float(peer in readings.partitioned))
        if is_reachable is not None:
            reachable.add_metric([peer], float(is_reachable))
    yield from (reachable, partitioned)
    yield from _export_families(readings)


def _export_families(readings: GaugeReadings) -> Iterable[Metric]:
    frontier, backlog = gauge("bsfg_frontier_offset"), gauge("bsfg_backlog_facts")
    oldest, headroom = gauge("bsfg_backlog_oldest_seconds"), gauge("bsfg_retention_headroom_seconds")
    for row in readings.exports:
        labels = [row.peer, row.stream]
        backlog.add_metric(labels, row.backlog_facts)
        if row.confirmed is not None:
            frontier.add_metric(labels, row.confirmed.sequence)
        if row.oldest_seconds is not None:
            oldest.add_metric(labels, row.oldest_seconds)
        if row.headroom_seconds is not None:
            headroom.add_metric(labels, row.headroom_seconds)
    yield from (frontier, backlog, oldest, headroom)
    age, seconds = gauge("bsfg_backlog_observed_age_seconds"), readings.exports_age_seconds
    for peer, stream in readings.exported:
        age.add_metric([peer, stream], readings.uptime_seconds if seconds is None else seconds)
    yield age


def _zone_families(readings: GaugeReadings) -> Iterable[Metric]:
    yield _single("bsfg_certificate_expiry_seconds", readings.certificate_seconds_left)
    yield _single("bsfg_crl_expiry_seconds", readings.crl_seconds_left)
    yield _single("bsfg_disk_fill_ratio", readings.disk_fill_ratio)
    yield _single("bsfg_config_reload_success", float(readings.config_reload_succeeded))
    fill = gauge("bsfg_store_buffer_fill_ratio")
    for stream, ratio in readings.fill_ratios.items():
        fill.add_metric([stream], ratio)
    yield fill
    artifacts = gauge("bsfg_artifacts")
    for state, count in readings.artifacts.items():
        artifacts.add_metric([state], count)
    yield artifacts


def _single(name: str, value: float | None) -> Metric:
    family = gauge(name)
    if value is not None:
        family.add_metric([], value)
    return family
