"""What an operator and local applications can do with this zone's streams: look, append, read, take from a consumer."""

from __future__ import annotations

import base64
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Final

from bsfg.config.values import Configuration, StreamConfig
from bsfg.daemon.append_service import AppendService
from bsfg.daemon.gateway import Gateway
from bsfg.errors import BsfgError, Code
from bsfg.model.cursor import LinkName
from bsfg.model.moment import format_time
from bsfg.model.names import (
    LOCAL_CONSUMER,
    StreamName,
    ZoneId,
    inbound_consumer,
    inbound_physical,
    parse_stream,
    parse_zone,
    physical,
)
from bsfg.model.page import LogDescription, PageLimits
from bsfg.ports import ExportedLog
from bsfg.substrates.consumers import LocalAccess, LocalMessage
from bsfg.substrates.control import Control
from bsfg.substrates.provisioning import ProvisionReport, apply_stream
from bsfg.substrates.stream_configs import StreamSpec

READ_FACTS: Final = 500
FOLLOW_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class LocalStore:
    """The parts of the substrate that operators use directly."""

    control: Control
    access: LocalAccess
    appends: AppendService
    exported: ExportedLog
    replicas: int
    epoch_began: Callable[[StreamName, str | None, str, str], None]


@dataclass(frozen=True, slots=True)
class _Place:
    """A stream as an operator names it: local, or the inbound one of a link."""

    stream: StreamName
    peer: ZoneId | None
    jetstream: str
    consumer: str


class StreamOperations:
    """Streams, consumers, append and read."""

    def __init__(self, gateway: Gateway, store: LocalStore) -> None:
        self.gateway = gateway
        self.store = store

    # Streams.

    async def streams(self) -> dict[str, Any]:
        """Every local stream and every inbound one, with logical and physical names."""
        configuration = self.gateway.configuration
        rows = [await self._local_row(stream) for stream in configuration.zone.streams]
        rows += [await self._inbound_row(name) for name in configuration.links]
        return {"streams": rows}

    async def stream_info(self, stream: str, peer: str | None = None) -> dict[str, Any]:
        place = self._place(stream, peer)
        if place.peer is not None:
            return await self._inbound_row(LinkName(place.peer, place.stream))
        return await self._local_row(self._configured(place.stream))

    async def stream_apply(self, stream: str, reason: str) -> dict[str, Any]:
        """Make an existing stream what zone.yaml says, even where that deletes facts; audited."""
        config = self._configured(parse_stream(stream))
        spec = StreamSpec(config.name, config.max_age_seconds, config.max_bytes)
        report = await apply_stream(
            self.store.control,
            self.gateway.configuration.zone.zone,
            spec,
            replicas=self.store.replicas,
            reason=reason,
            epoch_began=self.store.epoch_began,
        )
        changed = _differences(report.applied)
        self.gateway.parts.audit.record(
            "stream.apply", "allowed", stream=config.name, reason=reason, changed=changed
        )
        self.gateway.parts.keeper.provision_soon()
        return {"stream": config.name, "changed": changed, "differences": _differences(report.differences)}

    async def _local_row(self, config: StreamConfig) -> dict[str, Any]:
        report = self.gateway.stream_reports.get(config.name)
        row: dict[str, Any] = {
            "stream": config.name,
            "jetstream": physical(config.name),
            "direction": "local",
            "peer": None,
            "adopted": report.adopted if isinstance(report, ProvisionReport) else None,
            "differences": _differences(report.differences) if isinstance(report, ProvisionReport) else [],
            "problem": report.problem if isinstance(report, ProvisionReport) else None,
            "max_age_seconds": config.max_age_seconds,
            "max_bytes": config.max_bytes,
            "exported_to": [peer for peer, stream in self.gateway.exported() if stream == config.name],
        }
        return row | _described(await self.store.exported.describe(config.name))

    async def _inbound_row(self, name: LinkName) -> dict[str, Any]:
        place = self._place(name.stream, name.peer)
        found = await self.store.control.api(f"STREAM.INFO.{place.jetstream}")
        state = found["state"]
        driver = self.gateway.parts.links.driver(name)
        cursor = driver.link.cursor if driver else None
        return {
            "stream": name.stream,
            "jetstream": place.jetstream,
            "direction": "inbound",
            "peer": name.peer,
            "epoch": cursor.epoch if cursor else None,
            "created": found["created"],
            "messages": state["messages"],
            "first_sequence": state["first_seq"],
            "last_sequence": state["last_seq"],
            "bytes": state["bytes"],
            "replicas": found["config"]["num_replicas"],
            "durability": self.gateway.parts.substrate_state().get("durability"),
            "consumer": place.consumer,
        }

    # Consumers.

    async def consumer_info(self, stream: str, peer: str | None, consumer: str | None) -> dict[str, Any]:
        """A local application's view: what was delivered, what it has acknowledged, what waits (runbook 6.5)."""
        place = self._place(stream, peer)
        found = await self.store.access.consumer_info(place.jetstream, consumer or place.consumer)
        return {"stream": place.stream, "peer": place.peer} | found

    async def consumer_next(
        self,
        *,
        stream: str,
        peer: str | None,
        consumer: str | None,
        count: int,
        ack: bool,
        wait_seconds: float,
    ) -> dict[str, Any]:
        place = self._place(stream, peer)
        messages = await self.store.access.consumer_next(
            place.jetstream, consumer or place.consumer, count=count, ack=ack, wait_seconds=wait_seconds
        )
        return {"facts": [_message_row(message) for message in messages]}

    # Append and read.

    async def append(self, stream: str, facts: list[dict[str, Any]]) -> dict[str, Any]:
        """Append facts to a local stream; durable on return as the zone's durability says."""
        config = self._configured(parse_stream(stream))
        async with self._storing(config.name):
            return await self.store.appends.append(config.name, facts)

    async def append_lines(
        self, stream: str, pieces: AsyncIterator[bytes], subject: str | None, is_envelope: bool
    ) -> dict[str, Any]:
        """The same for lines without end, each of them a payload or an envelope."""
        config = self._configured(parse_stream(stream))
        return await self.store.appends.append_lines(
            config.name,
            pieces,
            subject=subject,
            is_envelope=is_envelope,
            storing=lambda: self._storing(config.name),
        )

    def _storing(self, stream: StreamName) -> AbstractAsyncContextManager[None]:
        return self.gateway.parts.healer.storing(f"append to {stream}", f"stream {stream}")

    async def read(
        self, *, stream: str, peer: str | None, from_sequence: int | None, follow: bool, count: int | None
    ) -> AsyncGenerator[dict[str, Any], None]:
        """The stream's facts from a local sequence on; acknowledges nothing. Following never ends by itself."""
        place = self._place(stream, peer)
        position, left = from_sequence or 1, count
        while left is None or left > 0:
            limits = PageLimits(
                min(READ_FACTS, left or READ_FACTS), wait_seconds=FOLLOW_SECONDS if follow else 0.0
            )
            messages = await self.store.access.read_local(place.jetstream, position, limits)
            for message in messages:
                yield _message_row(message)
            if messages:
                position = messages[-1]["local_sequence"] + 1
                left = None if left is None else left - len(messages)
            elif not follow:
                return

    # Names.

    def _configured(self, stream: StreamName) -> StreamConfig:
        for config in self.gateway.configuration.zone.streams:
            if config.name == stream:
                return config
        known = ", ".join(config.name for config in self.gateway.configuration.zone.streams) or "none"
        raise BsfgError(
            Code.CONFIGURATION,
            f"no stream {stream} in config/zone.yaml (there: {known})",
            hint="add it there; for an inbound stream give --peer",
        )

    def _place(self, stream: str, peer: str | None) -> _Place:
        name = parse_stream(stream)
        if peer is None:
            self._configured(name)
            return _Place(name, None, physical(name), LOCAL_CONSUMER)
        zone = parse_zone(peer)
        self._require_link(self.gateway.configuration, LinkName(zone, name))
        driver = self.gateway.parts.links.driver(LinkName(zone, name))
        generation = driver.link.fence.generation if driver and driver.link.fence else 1
        consumer = inbound_consumer(zone, self.gateway.configuration.zone.zone)
        return _Place(name, zone, inbound_physical(zone, name, generation), consumer)

    @staticmethod
    def _require_link(configuration: Configuration, name: LinkName) -> None:
        if name not in configuration.links:
            known = ", ".join(str(link) for link in configuration.links) or "none"
            raise BsfgError(
                Code.CONFIGURATION,
                f"nothing is imported from {name.peer} under {name.stream} (config/cursors.yaml has: {known})",
            )


def _described(log: LogDescription) -> dict[str, Any]:
    return {
        "epoch": log.epoch,
        "created": log.created,
        "messages": log.messages,
        "first_sequence": log.first_sequence,
        "last_sequence": log.last_sequence,
        "bytes": log.bytes,
        "replicas": log.replicas,
        "durability": log.durability,
    }


def _differences(differences: Any) -> list[dict[str, Any]]:
    return [{"field": each.field, "found": each.found, "expected": each.expected} for each in differences]


def _message_row(message: LocalMessage) -> dict[str, Any]:
    """A message in the form of a page's fact; ``sequence`` is local, ``origin`` names the coordinates at the source."""
    row: dict[str, Any] = {
        "sequence": message["local_sequence"],
        "local_sequence": message["local_sequence"],
        "subject": message["subject"],
        "time": format_time(message["time"]),
        "headers": [list(pair) for pair in message["headers"]],
        **payload_fields(message["payload"]),
    }
    origin = message["origin"]
    if origin is not None:
        row["origin"] = origin._asdict() | {"time": format_time(origin.time)}
    return row


def payload_fields(payload: bytes) -> dict[str, str]:
    """``data`` where the payload is UTF-8, else ``data_base64`` (contract, section 4)."""
    try:
        return {"data": payload.decode()}
    except UnicodeDecodeError:
        return {"data_base64": base64.b64encode(payload).decode()}
