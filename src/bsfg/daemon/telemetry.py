"""Every metric and every log event of the gateway, in one place (contract, section 8).

Labels come only from configuration, never from what a peer sent. Counters are counted where things happen; gauges
are read from the gateway when somebody scrapes, so that what is unknown is absent and never 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

LINK: Final = ("peer", "stream")
SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
ARRIVAL_SECONDS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 600.0, 3600.0, 86_400.0)

GAUGES: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "bsfg_replication_lag_seconds": ("Seconds since the oldest fact that we lack, by the sender's clock.", LINK),
    "bsfg_replication_lag_facts": ("Facts between our cursor and the sender's head.", LINK),
    "bsfg_replication_lag_observed_age_seconds": ("Seconds since the sender's last word, by our clock.", LINK),
    "bsfg_cursor_sequence": ("Origin sequence of the last fact durably appended.", LINK),
    "bsfg_peer_head_sequence": ("Last sequence that the sender has.", LINK),
    "bsfg_link_state": ("1 for the state that a link is in, 0 for the others.", (*LINK, "state")),
    "bsfg_link_halted": ("1 for the reason for which a link waits for an operator.", (*LINK, "reason")),
    "bsfg_peer_reachable": ("1 while the peer answers us, 0 while it does not.", ("peer",)),
    "bsfg_peer_partitioned": ("1 while an operator has cut the peer off, else 0.", ("peer",)),
    "bsfg_frontier_offset": ("Last sequence that the peer has confirmed.", LINK),
    "bsfg_backlog_facts": ("Facts that the peer has not confirmed.", LINK),
    "bsfg_backlog_oldest_seconds": ("Seconds since the oldest fact that the peer has not confirmed.", LINK),
    "bsfg_backlog_observed_age_seconds": ("Seconds since the backlog was last read off the store.", LINK),
    "bsfg_retention_headroom_seconds": (
        "Seconds until max_age removes a fact that the peer has not confirmed; absent while none waits.",
        LINK,
    ),
    "bsfg_artifacts": ("Artifacts of peers that are wanted here, by state.", ("state",)),
    "bsfg_certificate_expiry_seconds": ("Seconds until our certificate ends.", ()),
    "bsfg_crl_expiry_seconds": ("Seconds until the first revocation list ends.", ()),
    "bsfg_store_buffer_fill_ratio": ("Bytes of a local stream over its max_bytes, 0 to 1.", ("stream",)),
    "bsfg_disk_fill_ratio": ("Used share of the disk of data/, 0 to 1.", ()),
    "bsfg_config_reload_success": ("1 if the last configuration on disk is the running one, else 0.", ()),
}
"""Every gauge: what it says with its unit, and its labels; read from the gateway at each scrape."""

COUNTERS: Final[Mapping[str, tuple[str, tuple[str, ...]]]] = {
    "bsfg_gap_facts": ("Sequences of a sender that we never got and went on without, by the recorded gaps.", LINK),
}
"""Counters that are read off what is recorded; those that are counted are :class:`Telemetry`'s."""

LOG_EVENTS: Final = {
    "gateway_started": "the gateway serves its zone",
    "gateway_stopping": "the gateway was told to stop",
    "peer_reachable": "a peer answers again",
    "peer_unreachable": "a peer stopped answering",
    "cursor_comparison": "recovery: our cursor beside the peer's head",
    "backfill_required": "recovery: how many facts lie between",
    "replay_initiated": "recovery: the facts are being fetched",
    "cursor_advanced": "recovery: the cursor has reached the head that the recovery began with",
    "link_state": "a link changed its state",
    "link_halted": "a link waits for an operator",
    "fact_set_aside": "a fact that this zone can't store lies in the quarantine",
    "library_notice": "a warning of a library that we use",
    "link_fault": "a step of a link failed in a way that nobody foresaw",
    "generation_begun": "a new generation of a link's inbound stream is being built",
    "generation_switched": "a new generation of a link's inbound stream is in force",
    "generation_halted": "a generation that is being built waits for an operator",
    "generation_abandoned": "a half-built generation that nobody builds lies in the store",
    "facts_removed": "keep removed inbound facts",
    "unprocessed_removed": "keep removed inbound facts that no local application had acknowledged",
    "keep_failed": "what keep does not want could not be removed now",
    "partition_began": "an operator cut a peer off",
    "partition_ended": "an administrative partition ended",
    "identity_refused": "a certificate that is no configured peer's",
    "handshake_failed": "a TLS handshake failed",
    "request_denied": "a peer asked for what it may not have",
    "request_failed": "answering a peer failed in a way that nobody foresaw",
    "configuration_loaded": "a configuration is running",
    "configuration_rejected": "a changed configuration has errors; the running one stays",
    "epoch_began": "a local stream began a new history",
    "stream_differs": "an existing stream is not as configured",
    "substrate_lost": "the local store does not answer",
    "substrate_back": "the local store answers again",
    "substrate_notice": "an external NATS keeps what it acknowledges, or can't be seen to, or has known defects",
    "store_filling": "a local stream comes near its max_bytes; when it is full, appends are refused",
    "message_index": "the index of a stream's message ids is made anew, or does not follow",
    "embedded_server": "the embedded nats-server changed its state",
    "audit_stream_behind": "audit records wait to become facts of the audit stream",
    "notify_available": "a peer advises that a stream has more",
    "disk_full": "the disk of data/ is full; appends are refused",
    "disk_freed": "the disk of data/ has space again",
    "substrate_wedged": "the local server answers and stores nothing",
    "substrate_healed": "the embedded server was restarted, because it stored nothing",
    "link_stalled": "a link neither moves nor is proven level",
    "artifact_missing": "a peer does not have an artifact that facts name or somebody asked for; it is tried again",
    "artifact_corrupt": "what came is not what was named: both digests are told, it is set aside and tried again",
    "artifact_forbidden": "a peer does not let us have an artifact; it is tried again when policy changes",
    "artifact_no_room": "quota or disk leave no room for an artifact; it is tried again",
    "artifact_refused": "a peer gives an answer that is no artifact; it is tried again",
    "artifact_recovered": "an artifact that was told of is here and verified",
    "artifact_fault": "fetching an artifact failed in a way that nobody foresaw",
    "artifact_reference": "facts that name artifacts can't be searched, or name them in no valid form",
    "clock_skew": "a peer's clock differs from ours",
    "loop_stalled": "the gateway's loop, or a worker process', did not run for a while",
    "worker_started": "a worker process runs its links",
    "worker_lost": "a worker process ended or did not answer, and is started again",
    "worker_notice": "reports of a worker process were dropped",
    "log_lines_lost": "a log sink did not take lines in time; how many were lost",
}


class Telemetry:
    """The counters of one gateway, and the text that a scrape gets."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.fetch_requests = self._counter(
            "bsfg_fetch_requests", "Fetches sent to a peer.", (*LINK, "result")
        )
        self.confirm_requests = self._counter(
            "bsfg_confirm_requests", "Confirms sent to a peer.", (*LINK, "result")
        )
        self.append_requests = self._counter(
            "bsfg_append_requests", "Pages given to the inbound stream.", LINK
        )
        self.append_failures = self._counter(
            "bsfg_append_failures", "Pages that it refused.", (*LINK, "code")
        )
        self.append_latency = Histogram(
            "bsfg_append_latency_seconds",
            "From giving a page to the inbound stream to its last acknowledgement.",
            LINK,
            buckets=SECONDS,
            registry=self.registry,
        )
        self.canary = Histogram(
            "bsfg_canary_seconds",
            "From a fact's stored time at its origin to its being durable here, one fact a period of canary:.",
            LINK,
            buckets=ARRIVAL_SECONDS,
            registry=self.registry,
        )
        self.facts_appended = self._counter("bsfg_facts_appended", "Facts durably appended.", LINK)
        self.facts_duplicate = self._counter(
            "bsfg_facts_duplicate", "Facts dropped at or below the cursor.", LINK
        )
        self.notify_available = self._counter(
            "bsfg_notify_available", "Advice of peers that a stream has more.", LINK
        )
        self.notify_sent = self._counter(
            "bsfg_notify_sent", "Advice to peers; what does not arrive is dropped.", (*LINK, "result")
        )
        self.facts_removed = self._counter(
            "bsfg_facts_removed",
            "Inbound facts that keep removed, processed by local applications or not.",
            (*LINK, "processed"),
        )
        self.auth_failures = self._counter(
            "bsfg_auth_failures", "Certificates refused after a handshake.", ("reason",)
        )
        self.denied = self._counter("bsfg_denied", "Requests denied by policy.", ("kind",))
        self.handshake_errors = self._counter(
            "bsfg_tls_handshake_errors", "TLS handshakes that failed.", ("reason",)
        )
        self.rpc_latency = Histogram(
            "bsfg_rpc_latency_seconds",
            "Requests of peers, from the first byte to the answer; long polls include their wait.",
            ("operation",),
            buckets=SECONDS,
            registry=self.registry,
        )
        self.log_lines_dropped = self._counter(
            "bsfg_log_lines_dropped",
            "Log lines dropped: beyond the allowance of their event and peer, or not taken by a sink in time.",
            ("cause",),
        )
        self.artifact_fetches = self._counter(
            "bsfg_artifact_fetches", "Attempts to bring a peer's artifact here, by how they ended.", ("result",)
        )
        self.loop_stalls = self._counter(
            "bsfg_loop_stalls", "Times the loop did not run for over a second.", ()
        )

    def _counter(self, name: str, text: str, labels: tuple[str, ...]) -> Counter:
        return Counter(name, text, labels, registry=self.registry)

    def watch(self, gauges: Callable[[], Iterable[Metric]]) -> None:
        """Ask this function for the gauges at each scrape."""
        self.registry.register(_Gauges(gauges))

    def exposition(self) -> bytes:
        """What ``GET /metrics`` answers, in the Prometheus text format."""
        return generate_latest(self.registry)


class _Gauges(Collector):
    def __init__(self, gauges: Callable[[], Iterable[Metric]]) -> None:
        self._gauges = gauges

    def collect(self) -> Iterable[Metric]:
        return self._gauges()

    def describe(self) -> Iterable[Metric]:
        return []


def gauge(name: str) -> GaugeMetricFamily:
    """An empty family of a declared gauge; add only what is known."""
    text, labels = GAUGES[name]
    return GaugeMetricFamily(name, text, labels=labels)


def counter(name: str) -> CounterMetricFamily:
    """An empty family of a declared counter that is read off durable state instead of being counted."""
    text, labels = COUNTERS[name]
    return CounterMetricFamily(name, text, labels=labels)
