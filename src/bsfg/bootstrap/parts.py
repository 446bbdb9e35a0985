"""The parts of a gateway, which know each other only through the functions given here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from bsfg.bootstrap.store import Store
from bsfg.bootstrap.trust import build_trust
from bsfg.bootstrap.zone import Zone, epoch_began, max_ages, stream_names, tell_differences
from bsfg.config.values import (
    LinkConfig,
    PeerConfig,
)
from bsfg.daemon.exports import Exports
from bsfg.daemon.gateway import Gateway, Parts
from bsfg.daemon.generations import Generations
from bsfg.daemon.healing import HealedInboundLog, Healer, WriteErrors
from bsfg.daemon.keep import InboundKeeper
from bsfg.daemon.links import LinkSupervisor
from bsfg.daemon.partitions import Partitions
from bsfg.daemon.peer_table import PeerTable
from bsfg.daemon.store_keeper import StoreKeeper
from bsfg.model.cursor import LinkName, LinkState
from bsfg.ports import InboundLog
from bsfg.substrates.generations import JetStreamGenerations
from bsfg.substrates.inbound_keep import InboundKeep
from bsfg.substrates.provisioning import provision_local
from bsfg.substrates.quarantine import FileQuarantine
from bsfg.substrates.stream_configs import StreamSpec
from bsfg.transport.client import HttpPeerClient
from bsfg.transport.client_connection import ClientLimits, PeerEndpoint
from bsfg.transport.resolver import NameResolver
from bsfg.transport.trust import TrustStore


def assemble(zone: Zone, store: Store, trust: TrustStore) -> Gateway:
    """The parts know each other only through the functions given here."""
    clock, journal = zone.clock, zone.journal
    gateway: Gateway

    served = stream_names(zone.configuration)

    async def serve_streams() -> None:
        """Local applications may publish to what is configured now."""
        nonlocal served
        names = stream_names(gateway.configuration)
        if store.embedded is not None and names != served:
            served = []
            await store.embedded.apply_streams(names)
            served = names

    async def provision() -> None:
        await serve_streams()
        specs = [
            StreamSpec(each.name, each.max_age_seconds, each.max_bytes)
            for each in gateway.configuration.zone.streams
        ]
        reports = await provision_local(
            store.control,
            gateway.configuration.zone.zone,
            specs,
            replicas=store.replicas,
            epoch_began=lambda *words: epoch_began(zone, *words),
        )
        gateway.stream_reports = {report.stream: report for report in reports}
        for report in reports:
            tell_differences(zone, report)

    def substrate_state() -> dict[str, Any]:
        durability, durability_reason = store.durability()
        state: dict[str, Any] = {
            "kind": "embedded" if store.embedded else "external",
            "connected": store.control.connected,
            "version": store.control.server_version,
            "durability": durability,
            "durability_reason": durability_reason,
            "problem": store.control.problem,
        }
        if store.embedded is not None:
            state |= {
                "state": store.embedded.state.value,
                "pid": store.embedded.pid,
                "url": store.embedded.url,
            }
            state["problem"] = store.embedded.problem or store.control.problem
        return state

    names = NameResolver(clock)
    peers = PeerTable(
        lambda config: _client(zone, config, names),
        clock,
        journal,
        lambda peer: gateway.peer_became_reachable(peer),
    )
    home, limits = zone.configuration.paths, zone.configuration.zone.limits
    healer = _healer(zone, store, lambda: links)
    links = LinkSupervisor(
        HealedInboundLog(store.inbound, healer),
        FileQuarantine(home.data / "quarantine", limits.quarantine_bytes),
        clock,
        journal,
        zone.telemetry,
        peers.client,
        peers.answered,
        peers.silent,
    )
    parts = Parts(
        clock=clock,
        journal=journal,
        audit=zone.audit,
        telemetry=zone.telemetry,
        access=zone.access,
        peers=peers,
        links=links,
        partitions=Partitions(store.partitions, clock, lambda *words: gateway.partition_changed(*words)),
        exports=Exports(
            store.exported,
            store.confirmations,
            clock,
            lambda stream: max_ages(gateway.configuration).get(stream),
        ),
        keeper=StoreKeeper(store.control, provision, links.wake_all, journal),
        healer=healer,
        generations=_generations(zone, store, links, lambda log: HealedInboundLog(log, healer)),
        keep=_keep(zone, store, links, lambda: gateway.configuration.links),
        substrate_state=substrate_state,
        build_trust=lambda configuration: build_trust(configuration, gateway.trust),
    )
    gateway = Gateway(parts, zone.configuration, trust)
    return gateway


def _healer(zone: Zone, store: Store, links: Callable[[], LinkSupervisor]) -> Healer:
    embedded = store.embedded
    return Healer(
        data=zone.configuration.paths.data,
        clock=zone.clock,
        journal=zone.journal,
        audit=zone.audit,
        ask=lambda seconds: store.control.api("INFO", timeout_seconds=seconds),
        resume=lambda: links().wake_all(),
        stalled=lambda: [
            driver.name for driver in links().drivers if links().state(driver.name) is LinkState.STALLED
        ],
        server=embedded,
        write_errors=WriteErrors(embedded.paths.log) if embedded is not None else None,
    )


def _generations(
    zone: Zone, store: Store, links: LinkSupervisor, healed: Callable[[InboundLog], InboundLog]
) -> Generations:
    report = lambda text: zone.journal.warning("substrate_lost", message=text)  # noqa: E731
    kept = JetStreamGenerations(
        store.control, store.connect, store.inbound, replicas=store.replicas, report=report
    )
    return Generations(kept, links, zone.audit, zone.journal, lambda: store.control.connected, healed)


def _keep(
    zone: Zone, store: Store, links: LinkSupervisor, configured: Callable[[], Mapping[LinkName, LinkConfig]]
) -> InboundKeeper:
    keep = InboundKeeper(
        InboundKeep(store.control, store.connect),
        links,
        configured,
        zone.configuration.zone.zone,
        zone.clock,
        zone.journal,
        zone.telemetry,
    )
    links.became_level = keep.soon
    return keep


def _client(zone: Zone, config: PeerConfig, names: NameResolver) -> HttpPeerClient:
    endpoint = PeerEndpoint(config.id, config.rule, config.endpoint.host, config.endpoint.port)
    limits = ClientLimits(connect_seconds=zone.configuration.zone.limits.connect_seconds)
    return HttpPeerClient(endpoint, zone.access, zone.clock, limits, names)
