"""What the gateway keeps in key-value buckets: confirms of its peers, and administrative partitions.

Whatever stands there in a form that can't be read counts as not there, and is reported: any state of ours can be
lost or spoilt without stopping a zone (I8).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final

from bsfg.model.names import BUCKET_CONFIRMS, BUCKET_PARTITIONS, ZONE_PATTERN, StreamName, ZoneId, link_key
from bsfg.ports import Confirmed
from bsfg.substrates.control import Control
from bsfg.substrates.state_bucket import StateBucket
from bsfg.substrates.stored_records import decode_confirm, encode_confirm

PARTITION_VERSION: Final = 1

Report = Callable[[str], None]


class JetStreamConfirmations:
    """``ports.Confirmations`` in the bucket ``bsfg_confirms``."""

    def __init__(self, control: Control, *, replicas: int, report: Report) -> None:
        self._bucket = StateBucket(control, BUCKET_CONFIRMS, replicas=replicas)
        self._report = report

    async def load(self, peer: ZoneId, stream: StreamName) -> Confirmed | None:
        """What the peer confirmed; None if it never did, or if the record can't be read, which is reported."""
        value = await self._bucket.get(link_key(peer, stream))
        if value is None:
            return None
        try:
            return decode_confirm(value)
        except ValueError as error:
            self._report(f"confirm of {peer}/{stream} in {BUCKET_CONFIRMS} can't be read: {error}")
            return None

    async def save(self, peer: ZoneId, stream: StreamName, confirmed: Confirmed) -> None:
        """Durable on return."""
        await self._bucket.put(link_key(peer, stream), encode_confirm(confirmed))


class JetStreamPartitions:
    """Administrative partitions by peer in the bucket ``bsfg_partitions``, each a JSON object of the daemon's."""

    def __init__(self, control: Control, *, replicas: int, report: Report) -> None:
        self._bucket = StateBucket(control, BUCKET_PARTITIONS, replicas=replicas)
        self._report = report

    async def load_all(self) -> dict[ZoneId, dict[str, Any]]:
        """Every partition that was saved and not deleted; what can't be read is reported and left out."""
        found = {}
        for key in await self._bucket.keys():
            value = await self._bucket.get(key)
            partition = None if value is None else self._decode(key, value)
            if partition is not None:
                found[ZoneId(key)] = partition
        return found

    async def save(self, peer: ZoneId, partition: Mapping[str, Any]) -> None:
        """Durable on return."""
        stored = {"version": PARTITION_VERSION, "partition": dict(partition)}
        await self._bucket.put(peer, json.dumps(stored).encode())

    async def delete(self, peer: ZoneId) -> None:
        """The partition is durably gone on return."""
        await self._bucket.delete(peer)

    def _decode(self, key: str, value: bytes) -> dict[str, Any] | None:
        try:
            stored = json.loads(value)
        except ValueError:
            stored = None
        if isinstance(stored, dict) and stored.get("version") == PARTITION_VERSION and ZONE_PATTERN.fullmatch(key):
            partition = stored.get("partition")
            if isinstance(partition, dict):
                return partition
        self._report(f"partition {key!r} in {BUCKET_PARTITIONS} can't be read")
        return None
