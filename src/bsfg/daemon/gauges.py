"""The gauges of a scrape: built from what the gateway knows at that moment; what is unknown is absent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from prometheus_client.core import Metric

from bsfg.daemon.exports import ExportRow
from bsfg.daemon.telemetry import LINK, gauge
from bsfg.model.cursor import LinkState
from bsfg.model.names import StreamName, ZoneId

_OF_LINK: Final = {
    "bsfg_replication_lag_seconds": ("lag_seconds", "Age of the oldest fact we lack, by the sender's clock."),
    "bsfg_replication_lag_facts": ("lag_facts", "Facts between our cursor and the sender's head."),
    "bsfg_cursor_sequence": ("sequence", "Origin sequence of the last fact durably appended."),
    "bsfg_peer_head_sequence": ("head", "Last sequence that the sender has."),
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
    artifacts: Mapping[str, int] = field(default_factory=dict)
    """Wanted from peers, by state; empty while the list is not known."""


def families(readings: GaugeReadings) -> Iterable[Metric]:
    """Every gauge family with the samples that are known."""
    yield from _link_families(readings)
    yield from _peer_families(readings)
    yield from _zone_families(readings)


def _link_families(readings: GaugeReadings) -> Iterable[Metric]:
    for name, (key, text) in _OF_LINK.items():
        family = gauge(name, text, LINK)
        for row in readings.cursors:
            if row[key] is not None:
                family.add_metric([row["peer"], row["stream"]], row[key])
        yield family
    age = gauge(
        "bsfg_replication_lag_observed_age_seconds", "Age of the sender's last word, by our clock.", LINK
    )
    state = gauge("bsfg_link_state", "1 for the state that a link is in, 0 for the others.", (*LINK, "state"))
    for row in readings.cursors:
        labels = [row["peer"], row["stream"]]
        heard = row["head_age_seconds"]
        age.add_metric(labels, readings.uptime_seconds if heard is None else heard)
        for each in LinkState:
            state.add_metric([*labels, each.value], float(row["state"] == each.value))
    yield age
    yield state


def _peer_families(readings: GaugeReadings) -> Iterable[Metric]:
    reachable = gauge("bsfg_peer_reachable", "1 while the peer answers us.", ("peer",))
    for peer, is_reachable in readings.reachable.items():
        if is_reachable is not None:
            reachable.add_metric([peer], float(is_reachable))
    yield reachable
    frontier = gauge("bsfg_frontier_offset", "Last sequence that the peer has confirmed.", LINK)
    backlog = gauge("bsfg_backlog_facts", "Facts that the peer has not confirmed.", LINK)
    for row in readings.exports:
        backlog.add_metric([row.peer, row.stream], row.backlog_facts)
        if row.confirmed is not None:
            frontier.add_metric([row.peer, row.stream], row.confirmed.sequence)
    yield frontier
    yield backlog


def _zone_families(readings: GaugeReadings) -> Iterable[Metric]:
    certificate = gauge("bsfg_certificate_expiry_seconds", "Seconds until our certificate ends.")
    certificate.add_metric([], readings.certificate_seconds_left)
    yield certificate
    crl = gauge("bsfg_crl_expiry_seconds", "Seconds until the first revocation list ends.")
    if readings.crl_seconds_left is not None:
        crl.add_metric([], readings.crl_seconds_left)
    yield crl
    fill = gauge("bsfg_store_buffer_fill_ratio", "Bytes of a local stream over its max_bytes.", ("stream",))
    for stream, ratio in readings.fill_ratios.items():
        fill.add_metric([stream], ratio)
    yield fill
    artifacts = gauge("bsfg_artifacts", "Artifacts of peers that are wanted here, by state.", ("state",))
    for artifact_state, count in readings.artifacts.items():
        artifacts.add_metric([artifact_state], count)
    yield artifacts
    reload = gauge("bsfg_config_reload_success", "1 if the last configuration on disk is the running one.")
    reload.add_metric([], float(readings.config_reload_succeeded))
    yield reload
