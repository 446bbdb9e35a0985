"""The zone's store: an embedded nats-server or an external one, and the adapters over it."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from bsfg.bootstrap.links import external_target, inbound_log, loss_report
from bsfg.bootstrap.zone import Zone, epoch_began
from bsfg.config.permissions import check_private
from bsfg.config.values import (
    Durability,
    EmbeddedSubstrate,
    ExternalSubstrate,
)
from bsfg.substrates.control import Control
from bsfg.substrates.durability import LAZY, STRICT, Ask, DurabilityWatch, ask_monitors, ask_system_account
from bsfg.substrates.embedded import EmbeddedObserver, EmbeddedServer
from bsfg.substrates.jetstream import (
    JetStreamConfirmations,
    JetStreamExportedLog,
    JetStreamInboundLog,
    JetStreamPartitions,
)
from bsfg.substrates.nats_connection import NatsConnection
from bsfg.substrates.nats_target import NatsTarget


@dataclass
class Store:
    control: Control
    connect: Any
    exported: JetStreamExportedLog
    inbound: JetStreamInboundLog
    confirmations: JetStreamConfirmations
    partitions: JetStreamPartitions
    embedded: EmbeddedServer | None
    target: NatsTarget
    replicas: int
    durability: Callable[[], tuple[str, str | None]]
    """What an ack means, and why nothing better can be said."""


async def open_store(zone: Zone, stack: AsyncExitStack) -> Store:
    embedded, target, replicas = await _open_substrate(zone, stack)
    name = f"bsfg-{zone.configuration.zone.zone}"
    report = loss_report(zone.journal)
    control = Control(target, name=name, report=report)
    control.start()
    stack.push_async_callback(control.close)

    async def connect() -> NatsConnection:
        return await NatsConnection.connect(target, name=f"{name}-data")

    durability = _watch_durability(zone, control, target, stack)
    exported = JetStreamExportedLog(
        control,
        connect,
        durability=lambda: durability()[0],
        epoch_began=lambda *words: epoch_began(zone, *words),
    )
    stack.callback(exported.close)
    inbound = inbound_log(zone.configuration.zone, control, connect, report, zone.configuration.paths)
    stack.callback(inbound.close)
    return Store(
        control,
        connect,
        exported,
        inbound,
        JetStreamConfirmations(control, replicas=replicas, report=report),
        JetStreamPartitions(control, replicas=replicas, report=report),
        embedded,
        target,
        replicas,
        durability,
    )


def _watch_durability(
    zone: Zone, control: Control, target: NatsTarget, stack: AsyncExitStack
) -> Callable[[], tuple[str, str | None]]:
    """What an ack means: the embedded server runs as configured, an external one has to show it (decision 6)."""
    config, substrate = zone.configuration.zone, zone.configuration.zone.substrate
    is_lazy = config.durability is Durability.LAZY
    if isinstance(substrate, EmbeddedSubstrate):
        return lambda: (LAZY if is_lazy else STRICT, None)
    watch = DurabilityWatch(
        control,
        _durability_source(substrate, target),
        replicas=substrate.replicas,
        is_lazy=is_lazy,
        notice=lambda text: zone.journal.warning("substrate_notice", message=text),
    )
    watching = asyncio.create_task(watch.run(), name="durability")
    stack.callback(watching.cancel)
    return lambda: (watch.word, watch.reason)


def _durability_source(substrate: ExternalSubstrate, target: NatsTarget) -> Ask | None:
    """The system account knows all servers, so it is asked where both are configured."""
    if substrate.system_credentials is not None:
        check_private(substrate.system_credentials)
        system = NatsTarget(target.urls, None, substrate.system_credentials, target.tls)
        return lambda: ask_system_account(system)
    if substrate.monitor:
        tls = ssl.create_default_context(cafile=str(substrate.ca)) if substrate.ca else None
        return lambda: ask_monitors(substrate.monitor, tls)
    return None


async def _open_substrate(zone: Zone, stack: AsyncExitStack) -> tuple[EmbeddedServer | None, NatsTarget, int]:
    config, substrate = zone.configuration.zone, zone.configuration.zone.substrate
    if isinstance(substrate, ExternalSubstrate):
        if substrate.credentials is not None:
            check_private(substrate.credentials)
        return None, external_target(substrate), substrate.replicas
    assert isinstance(substrate, EmbeddedSubstrate)
    embedded = EmbeddedServer(
        zone.configuration.home,
        config.zone,
        substrate.port,
        [stream.name for stream in config.streams],
        durability_strict=config.durability is Durability.STRICT,
        observer=EmbeddedObserver(
            on_state=lambda state, problem: zone.journal.info(
                "embedded_server", message=f"nats-server is {state}" + (f": {problem}" if problem else "")
            ),
            on_notice=lambda text: zone.journal.warning("embedded_server", message=text),
        ),
    )
    await embedded.start()
    stack.push_async_callback(embedded.stop)
    return embedded, NatsTarget((embedded.url,), embedded.paths.gateway_seed, None, None), 1
