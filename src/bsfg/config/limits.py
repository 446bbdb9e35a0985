"""The limits of a zone: each with its default, its range and what it bounds (contract, section 3: ``limits``)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Any, Final, Literal

_KIBIBYTE: Final = 1024
_MEBIBYTE: Final = 1024 * 1024
_GIBIBYTE: Final = 1024 * 1024 * 1024

LimitKind = Literal["count", "bytes", "seconds"]


def _limit(default: float, low: float, high: float, bounds: str) -> Any:
    return field(default=default, metadata={"low": low, "high": high, "bounds": bounds})


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a zone allows itself and its peers; in zone.yaml sizes and durations are written with their unit."""

    connections_max: int = _limit(256, 1, 65_536, "open connections on the peer listener")
    peer_connections_max: int = _limit(16, 1, 1_024, "open connections of one peer")
    long_polls_per_peer: int = _limit(16, 1, 1_024, "fetches of one peer that wait for facts")
    handshake_seconds: float = _limit(10.0, 0.1, 60.0, "a TLS handshake on the peer listener")
    request_read_seconds: float = _limit(30.0, 1.0, 300.0, "the arrival of one request's head and body")
    request_header_bytes: int = _limit(16 * _KIBIBYTE, 4 * _KIBIBYTE, 64 * _KIBIBYTE, "a request's head")
    request_body_bytes: int = _limit(_MEBIBYTE, 4 * _KIBIBYTE, 16 * _MEBIBYTE, "a peer request's body")
    poll_wait_seconds: float = _limit(5.0, 0.1, 5.0, "how long our fetches ask a peer to wait for facts")
    retry_delay_seconds_min: float = _limit(0.2, 0.01, 8.0, "the first pause after a failure")
    retry_delay_seconds_max: float = _limit(8.0, 0.1, 8.0, "the longest pause after failures")
    connect_seconds: float = _limit(3.0, 0.1, 3.0, "a connection to a peer, name resolution included")
    log_field_bytes: int = _limit(4 * _KIBIBYTE, 256, 64 * _KIBIBYTE, "one field of a log line")
    artifact_transfers_per_peer: int = _limit(2, 1, 16, "artifacts that come from one peer at the same time")
    artifact_bytes_per_second_max: int = _limit(
        1024 * _GIBIBYTE, _KIBIBYTE, 1024 * _GIBIBYTE, "what comes of one peer's artifacts in a second"
    )
    artifact_bytes_per_second_min: int = _limit(
        4 * _KIBIBYTE, 1, _GIBIBYTE, "the least that a peer must send in a second of our waiting"
    )
    artifact_retry_seconds_max: float = _limit(
        300.0, 1.0, 86_400.0, "the longest pause before a missing or corrupt artifact is asked for again"
    )
    wanted_artifacts_max: int = _limit(10_000, 10, 100_000, "artifacts that are wanted and not here")
    artifact_streams_per_peer: int = _limit(4, 1, 1_024, "artifacts that one peer reads from us at once")
    artifact_rate_min_bytes: int = _limit(_KIBIBYTE, 16, _MEBIBYTE, "how slowly a peer may read an artifact, a second")
    quarantine_bytes: int = _limit(_GIBIBYTE, _MEBIBYTE, 1024 * _GIBIBYTE, "data/quarantine as a whole")
    audit_bytes: int = _limit(256 * _MEBIBYTE, _MEBIBYTE, 64 * _GIBIBYTE, "the audit log's files together")
    worker_processes: int = _limit(0, 0, 64, "processes that links are spread over; 0: the gateway's own runs them")


@dataclass(frozen=True, slots=True)
class LimitRange:
    """One limit as it is documented and checked; numbers are counts, bytes or seconds by ``kind``."""

    name: str
    kind: LimitKind
    default: float
    low: float
    high: float
    bounds: str


def limit_ranges() -> Iterator[LimitRange]:
    """Every limit in the order of its declaration; for the check at load and for the documentation."""
    for entry in fields(Limits):
        kind: LimitKind = (
            "bytes" if "_bytes" in entry.name else "seconds" if "_seconds" in entry.name else "count"
        )
        default: Any = entry.default
        meta = entry.metadata
        yield LimitRange(entry.name, kind, default, meta["low"], meta["high"], meta["bounds"])
