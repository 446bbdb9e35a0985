"""The parts of a gateway, which know each other only through the functions given here."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any

from bsfg.bootstrap.artifacts import Artifacts
from bsfg.bootstrap.links import make_client
from bsfg.bootstrap.process import WORKER_COMMAND
from bsfg.bootstrap.retrieval import assemble_mirror
from bsfg.bootstrap.store import Store
from bsfg.bootstrap.trust import build_trust
from bsfg.bootstrap.zone import Zone, epoch_began, max_ages, stream_names, tell_differences
from bsfg.config.values import (
    LinkConfig,
)
from bsfg.daemon import failpoints
from bsfg.daemon.artifact_operations import artifact_room
from bsfg.daemon.exports import Exports
from bsfg.daemon.gateway import Gateway, Parts
from bsfg.daemon.generations import Generations
from bsfg.daemon.healing import HealedInboundLog, Healer, WriteErrors
from bsfg.daemon.keep import InboundKeeper
from bsfg.daemon.link_reporter import LinkReporter
from bsfg.daemon.links import LinkMeans, LinkSupervisor
from bsfg.daemon.partitions import Partitions
from bsfg.daemon.peer_table import PeerTable
from bsfg.daemon.recent_marks import RecentMarks
from bsfg.daemon.running_link import Links
from bsfg.daemon.store_keeper import StoreKeeper
from bsfg.daemon.worker_links import WorkerLinks
from bsfg.daemon.worker_process import Program
from bsfg.daemon.worker_words import Beginning
from bsfg.model.cursor import LinkName, LinkState
from bsfg.model.names import ZoneId
from bsfg.substrates.generations import JetStreamGenerations
from bsfg.substrates.inbound_keep import InboundKeep
from bsfg.substrates.inbound_marks import JetStreamInboundMarks
from bsfg.substrates.provisioning import provision_local
from bsfg.substrates.quarantine import FileQuarantine
from bsfg.substrates.stream_configs import StreamSpec
from bsfg.transport.resolver import NameResolver
from bsfg.transport.trust import TrustStore


def assemble(
    zone: Zone, store: Store, artifacts: Artifacts, trust: TrustStore, stack: AsyncExitStack
) -> Gateway:
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
        plan = store.inbound.plan
        state: dict[str, Any] = {
            "kind": "embedded" if store.embedded else "external",
            "connected": store.control.connected,
            "version": store.control.server_version,
            "durability": durability,
            "durability_reason": durability_reason,
            "appends": str(plan) if plan else None,
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
        lambda config: make_client(
            config, zone.access, clock, zone.configuration.zone.limits.connect_seconds, names
        ),
        clock,
        journal,
        lambda peer: gateway.peer_became_reachable(peer),
    )
    home, limits = zone.configuration.paths, zone.configuration.zone.limits
    healer = _healer(zone, store, lambda: links)
    means = LinkMeans(
        HealedInboundLog(store.inbound, healer),
        FileQuarantine(home.data / "quarantine", limits.quarantine_bytes),
        clock,
        peers.client,
        RecentMarks(JetStreamInboundMarks(store.control), clock),
    )
    reporter = LinkReporter(journal, zone.telemetry, peers.answered, peers.silent)
    links: Links = LinkSupervisor(means, reporter)
    if limits.worker_processes:
        links = WorkerLinks(
            limits.worker_processes,
            # No other gateway may write beside a worker of this one, whatever has become of this one.
            Program(WORKER_COMMAND, _worker_environment, (zone.lock,)),
            lambda index: _beginning(zone, store, index),
            zone.access,
            lambda: gateway.configuration.peers,
            reporter,
            healer,
            clock,
            journal,
            lambda seconds, place: gateway.loop_stalled(seconds, place),
        )
    reporter.duplicates_of = lambda name: _duplicates(links, name)
    keep = _keep(zone, store, links, lambda: gateway.configuration.links)
    reporter.became_level = keep.soon

    def may_ask(peer: ZoneId) -> bool:
        monitor = peers.monitor(peer)
        is_away = monitor is not None and monitor.reachable is False
        return not is_away and peer not in gateway.parts.partitions.in_force

    mirror = assemble_mirror(
        zone, store, artifacts, links, names, lambda: gateway.configuration, may_ask, stack
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
        keeper=StoreKeeper(store.control, provision, links.store_returned, journal),
        healer=healer,
        generations=_generations(zone, store, links, means, reporter, healer),
        keep=keep,
        artifacts=mirror,
        artifact_room=lambda: artifact_room(artifacts.store, gateway.configuration),
        substrate_state=substrate_state,
        build_trust=lambda configuration: build_trust(configuration, gateway.trust),
    )
    gateway = Gateway(parts, zone.configuration, trust)
    return gateway


def _beginning(zone: Zone, store: Store, index: int) -> Beginning:
    target, configuration = store.target, zone.configuration
    return Beginning(index, configuration.home, configuration.zone, target.urls, target.seed_file)


def _worker_environment(is_first: bool) -> dict[str, str]:
    """Ours, without the words to systemd, which are ours to say; a failpoint is for one life."""
    dropped = {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", *(() if is_first else (failpoints.VARIABLE,))}
    return {name: value for name, value in os.environ.items() if name not in dropped}


def _duplicates(links: Links, name: LinkName) -> int:
    running = links.driver(name)
    return running.link.facts_duplicate if running is not None else 0


def _healer(zone: Zone, store: Store, links: Callable[[], Links]) -> Healer:
    embedded = store.embedded
    return Healer(
        data=zone.configuration.paths.data,
        clock=zone.clock,
        journal=zone.journal,
        audit=zone.audit,
        ask=lambda seconds: store.control.api("INFO", timeout_seconds=seconds),
        resume=lambda: links().store_returned(),
        stalled=lambda: [
            driver.name for driver in links().drivers if links().state(driver.name) is LinkState.STALLED
        ],
        server=embedded,
        write_errors=WriteErrors(embedded.paths.log) if embedded is not None else None,
    )


def _generations(
    zone: Zone, store: Store, links: Links, means: LinkMeans, reporter: LinkReporter, healer: Healer
) -> Generations:
    report = lambda text: zone.journal.warning("substrate_lost", message=text)  # noqa: E731
    kept = JetStreamGenerations(
        store.control, store.connect, store.inbound, replicas=store.replicas, report=report
    )
    return Generations(
        kept,
        links,
        means,
        reporter,
        zone.audit,
        zone.journal,
        lambda: store.control.connected,
        lambda log: HealedInboundLog(log, healer),
    )


def _keep(
    zone: Zone, store: Store, links: Links, configured: Callable[[], Mapping[LinkName, LinkConfig]]
) -> InboundKeeper:
    return InboundKeeper(
        InboundKeep(store.control, store.connect),
        links,
        configured,
        zone.configuration.zone.zone,
        zone.clock,
        zone.journal,
        zone.telemetry,
    )
