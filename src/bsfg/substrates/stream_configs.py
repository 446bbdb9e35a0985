"""How BSFG's streams, buckets and consumers are configured in JetStream's own words (contract, section 2)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from bsfg.model.cursor import LinkName
from bsfg.model.fact import HEADERS_BYTES_MAX, PAYLOAD_BYTES_MAX
from bsfg.model.moment import NANOSECONDS
from bsfg.model.names import (
    StreamName,
    ZoneId,
    inbound_physical,
    inbound_subject,
    physical,
    subjects,
)

OWNER_KEY: Final = "bsfg_stream"
"""Metadata of every stream that BSFG created; a stream without it was made by somebody else and is adopted."""
REMOVED_KEY: Final = "bsfg_removed_through"
"""Metadata of an inbound stream: up to which local sequence this gateway has removed messages, or is about to."""

LOCAL_MESSAGE_BYTES_MAX: Final = PAYLOAD_BYTES_MAX + HEADERS_BYTES_MAX
INBOUND_MESSAGE_BYTES_MAX: Final = PAYLOAD_BYTES_MAX + 3 * HEADERS_BYTES_MAX
"""More than the outbound side's, for the coordinates that we add: what one zone stored, the other can."""
DUPLICATE_WINDOW_SECONDS: Final = 120
ACK_WAIT_SECONDS: Final = 30
UNLIMITED_BYTES: Final = -1

Config = dict[str, Any]


@dataclass(frozen=True, slots=True)
class StreamSpec:
    """A local stream as the zone's configuration wants it."""

    name: StreamName
    max_age_seconds: float | None = None
    """None: kept until ``max_bytes``."""
    max_bytes: int | None = None
    """None: no limit. A full stream refuses appends; nothing is dropped."""

    @property
    def max_age(self) -> int:
        """Nanoseconds; 0 without a limit, as JetStream says it."""
        return 0 if self.max_age_seconds is None else int(self.max_age_seconds * NANOSECONDS)

    @property
    def bytes_limit(self) -> int:
        return UNLIMITED_BYTES if self.max_bytes is None else self.max_bytes


def local_config(spec: StreamSpec, zone: ZoneId, replicas: int, *, atomic: bool) -> Config:
    """A local stream: limits retention, file storage, discard new."""
    window = DUPLICATE_WINDOW_SECONDS * NANOSECONDS
    return _log_config(physical(spec.name), subjects(spec.name), replicas, atomic=atomic) | {
        "max_age": spec.max_age,
        "max_bytes": spec.bytes_limit,
        "max_msg_size": LOCAL_MESSAGE_BYTES_MAX,
        # The server refuses a window that is longer than the age limit.
        "duplicate_window": min(window, spec.max_age) if spec.max_age else window,
        "metadata": {OWNER_KEY: str(spec.name), "bsfg_zone": str(zone)},
    }


def inbound_config(link: LinkName, zone: ZoneId, generation: int, replicas: int, *, atomic: bool) -> Config:
    """One generation of a link's inbound stream: as a local one, without an age limit."""
    subject = inbound_subject(link.peer, link.stream, generation)
    name = inbound_physical(link.peer, link.stream, generation)
    return _log_config(name, [subject, f"{subject}.>"], replicas, atomic=atomic) | {
        "max_age": 0,
        "max_bytes": UNLIMITED_BYTES,
        "max_msg_size": INBOUND_MESSAGE_BYTES_MAX,
        "duplicate_window": DUPLICATE_WINDOW_SECONDS * NANOSECONDS,
        "metadata": {OWNER_KEY: subject, "bsfg_zone": str(zone), REMOVED_KEY: "0"},
    }


def bucket_config(bucket: str, replicas: int) -> Config:
    """A key-value bucket with history 1, as every NATS client makes and reads it."""
    return {
        "name": f"KV_{bucket}",
        "subjects": [f"$KV.{bucket}.>"],
        "retention": "limits",
        "storage": "file",
        "discard": "new",
        "num_replicas": replicas,
        "max_msgs_per_subject": 1,
        "max_bytes": UNLIMITED_BYTES,
        "max_age": 0,
        "duplicate_window": DUPLICATE_WINDOW_SECONDS * NANOSECONDS,
        "allow_direct": True,
        "allow_rollup_hdrs": True,
        "deny_delete": True,
    }


def application_consumer(name: str) -> Config:
    """The durable pull consumer for local applications: explicit acks, processing apart from the cursor."""
    return {
        "durable_name": name,
        "name": name,
        "ack_policy": "explicit",
        "ack_wait": ACK_WAIT_SECONDS * NANOSECONDS,
        "deliver_policy": "all",
        "replay_policy": "instant",
        "max_deliver": -1,
    }


def is_adopted(config: Mapping[str, Any]) -> bool:
    """Whether somebody else than BSFG created the stream with this configuration."""
    return OWNER_KEY not in (config.get("metadata") or {})


def _log_config(name: str, stream_subjects: list[str], replicas: int, *, atomic: bool) -> Config:
    return {
        "name": name,
        "subjects": stream_subjects,
        "retention": "limits",
        "storage": "file",
        "discard": "new",
        "num_replicas": replicas,
        "max_msgs": -1,
        "max_msgs_per_subject": -1,
        "max_consumers": -1,
        "allow_direct": True,
        "allow_rollup_hdrs": False,
        "deny_delete": False,
        "deny_purge": False,
        # Older servers accept the flag and ignore it, or refuse it: it is only sent to those that know it.
        **({"allow_atomic": True} if atomic else {}),
    }
