"""Puts a gateway together from its configuration: the only module that knows all the others."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from structlog.typing import FilteringBoundLogger

from bsfg import __version__
from bsfg.config.load import load
from bsfg.config.permissions import check_private
from bsfg.config.values import Configuration, Durability, EmbeddedSubstrate, ExternalSubstrate, PeerConfig
from bsfg.config.watch import ChangeWatch
from bsfg.daemon.audit import AuditLog
from bsfg.daemon.exports import Exports
from bsfg.daemon.gateway import Gateway, Parts
from bsfg.daemon.journal import open_journal
from bsfg.daemon.links import LinkSupervisor
from bsfg.daemon.listener_observer import ListenerObserver
from bsfg.daemon.local_api import build_local_application, build_tcp_application, serve_tcp, serve_unix
from bsfg.daemon.operations import Operations
from bsfg.daemon.partitions import Partitions
from bsfg.daemon.peer_table import PeerTable
from bsfg.daemon.reload import Reloader
from bsfg.daemon.store_keeper import StoreKeeper
from bsfg.daemon.stream_operations import LocalStore
from bsfg.daemon.system import SystemClock, notify_systemd, watchdog_seconds
from bsfg.daemon.telemetry import Telemetry
from bsfg.errors import EXIT_DONE, BsfgError, Code
from bsfg.model.names import StreamName
from bsfg.ports import Clock
from bsfg.substrates.consumers import LocalAccess
from bsfg.substrates.control import Control
from bsfg.substrates.embedded import EmbeddedObserver, EmbeddedServer
from bsfg.substrates.jetstream import (
    JetStreamConfirmations,
    JetStreamExportedLog,
    JetStreamInboundLog,
    JetStreamPartitions,
)
from bsfg.substrates.nats_connection import NatsConnection
from bsfg.substrates.nats_target import NatsTarget
from bsfg.substrates.provisioning import provision_local
from bsfg.substrates.quarantine import FileQuarantine
from bsfg.substrates.stream_configs import StreamSpec
from bsfg.transport.acceptor import Acceptor, AcceptorLimits
from bsfg.transport.access import Access
from bsfg.transport.client import HttpPeerClient
from bsfg.transport.client_connection import ClientLimits, PeerEndpoint
from bsfg.transport.fetch_routes import FetchRoutes
from bsfg.transport.fetch_service import FetchService
from bsfg.transport.health_route import ZoneCard, health_route
from bsfg.transport.listener import ListenerLimits, PeerListener
from bsfg.transport.revocation import WhenExpired
from bsfg.transport.trust import PeerTrust, TrustStore, load_revocation

STOP_SECONDS_MAX: Final = 10.0


def serve(home: Path, *, allow_root: bool) -> int:
    """Run the zone's gateway until SIGTERM or SIGINT; the exit status (``bsfg serve``)."""
    configuration = load(home)
    _refuse_root(configuration, allow_root=allow_root)
    _spare_collections()
    asyncio.run(_run(configuration))
    return EXIT_DONE


def _refuse_root(configuration: Configuration, *, allow_root: bool) -> None:
    if os.geteuid() == 0 and not allow_root and not configuration.zone.lab:
        raise BsfgError(
            Code.CONFIGURATION,
            "the gateway refuses to run as root",
            hint="run it as its own user, as deploy/systemd/bsfg-controller.service does, or give --allow-root",
        )


def _spare_collections() -> None:
    """Pages are tens of thousands of small tuples without cycles: looking through them again and again costs a tenth
    of the time, so the collector looks seldom, and never at what was there before the start."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 20)


async def _run(configuration: Configuration) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with _gateway(configuration) as reloader:
        loop.add_signal_handler(signal.SIGHUP, lambda: asyncio.ensure_future(reloader.reload_quietly()))
        notify_systemd("READY=1")
        await _beat_until(stop)
        notify_systemd("STOPPING=1")


async def _beat_until(stop: asyncio.Event) -> None:
    """Wait for the stop; tell systemd's watchdog meanwhile that the loop runs."""
    period = watchdog_seconds()
    while not stop.is_set():
        notify_systemd("WATCHDOG=1")
        try:
            async with asyncio.timeout(period):
                await stop.wait()
        except TimeoutError:
            continue


@dataclass
class _Zone:
    """What everything in a zone's gateway shares."""

    configuration: Configuration
    clock: Clock
    journal: FilteringBoundLogger
    audit: AuditLog
    telemetry: Telemetry
    access: Access


@asynccontextmanager
async def _gateway(configuration: Configuration) -> AsyncIterator[Reloader]:
    clock = SystemClock()
    async with AsyncExitStack() as stack:
        trust = build_trust(configuration, None)
        journal = open_journal(configuration.zone.log, configuration.zone.zone)
        audit = AuditLog(configuration.paths.data / "audit.jsonl", clock)
        stack.callback(audit.close)
        access = Access(trust, {})
        zone = _Zone(configuration, clock, journal, audit, Telemetry(), access)
        store = await _open_store(zone, stack)
        gateway = _assemble(zone, store, trust)
        local = LocalStore(
            store.control,
            LocalAccess(store.control, store.connect),
            store.exported,
            store.replicas,
            lambda *words: _epoch_began(zone, *words),
        )
        watch = ChangeWatch(configuration.home, configuration.trust_files())
        reloader = Reloader(gateway, lambda: load(configuration.home), watch, clock)
        operations = Operations(gateway, local, reloader)
        await _open_local(zone, gateway, operations, stack)
        await gateway.start()
        stack.push_async_callback(gateway.stop)
        await _open_listener(zone, gateway, store, stack)
        gateway.announce()
        watching = asyncio.create_task(reloader.run(), name="reload")
        stack.callback(watching.cancel)
        yield reloader


@dataclass
class _Store:
    control: Control
    connect: Any
    exported: JetStreamExportedLog
    inbound: JetStreamInboundLog
    confirmations: JetStreamConfirmations
    partitions: JetStreamPartitions
    embedded: EmbeddedServer | None
    replicas: int
    durability: str


async def _open_store(zone: _Zone, stack: AsyncExitStack) -> _Store:
    embedded, target, replicas = await _open_substrate(zone, stack)
    name = f"bsfg-{zone.configuration.zone.zone}"
    report = lambda text: zone.journal.warning("substrate_lost", message=text)  # noqa: E731
    control = Control(target, name=name, report=report)
    control.start()
    stack.push_async_callback(control.close)

    async def connect() -> NatsConnection:
        return await NatsConnection.connect(target, name=f"{name}-data")

    durability = _durability(zone.configuration, embedded)
    exported = JetStreamExportedLog(
        control, connect, durability=durability, epoch_began=lambda *words: _epoch_began(zone, *words)
    )
    stack.callback(exported.close)
    substrate = zone.configuration.zone.substrate
    inbound = JetStreamInboundLog(
        control,
        connect,
        zone=zone.configuration.zone.zone,
        replicas=replicas,
        report=report,
        is_exclusive=isinstance(substrate, EmbeddedSubstrate) or substrate.inbound_exclusive,
    )
    stack.callback(inbound.close)
    return _Store(
        control,
        connect,
        exported,
        inbound,
        JetStreamConfirmations(control, replicas=replicas, report=report),
        JetStreamPartitions(control, replicas=replicas, report=report),
        embedded,
        replicas,
        durability,
    )


def _durability(configuration: Configuration, embedded: EmbeddedServer | None) -> str:
    """What an ack means: the embedded server runs as configured, an external one has not shown it (decision 6)."""
    if configuration.zone.durability is Durability.LAZY:
        return "lazy"
    return "strict" if embedded is not None else "unverified"


async def _open_substrate(
    zone: _Zone, stack: AsyncExitStack
) -> tuple[EmbeddedServer | None, NatsTarget, int]:
    config, substrate = zone.configuration.zone, zone.configuration.zone.substrate
    if isinstance(substrate, ExternalSubstrate):
        if substrate.credentials is not None:
            check_private(substrate.credentials)
        return (
            None,
            NatsTarget(substrate.urls, None, substrate.credentials, _nats_tls(substrate)),
            substrate.replicas,
        )
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


def _nats_tls(substrate: ExternalSubstrate) -> ssl.SSLContext | None:
    if substrate.ca is None and not any(url.startswith("tls://") for url in substrate.urls):
        return None
    return ssl.create_default_context(cafile=str(substrate.ca) if substrate.ca else None)


def _epoch_began(zone: _Zone, stream: StreamName, old: str | None, new: str, why: str) -> None:
    zone.audit.record("epoch.began", "allowed", stream=stream, old=old, new=new, why=why)
    zone.journal.warning("epoch_began", stream=stream, message=f"stream {stream} begins epoch {new}: {why}")


def _assemble(zone: _Zone, store: _Store, trust: TrustStore) -> Gateway:
    """The parts know each other only through the functions given here."""
    clock, journal = zone.clock, zone.journal
    gateway: Gateway

    async def provision() -> None:
        specs = [
            StreamSpec(each.name, each.max_age_seconds, each.max_bytes)
            for each in gateway.configuration.zone.streams
        ]
        reports = await provision_local(
            store.control,
            gateway.configuration.zone.zone,
            specs,
            replicas=store.replicas,
            epoch_began=lambda *words: _epoch_began(zone, *words),
        )
        gateway.stream_reports = {report.stream: report for report in reports}
        for report in reports:
            _tell_differences(zone, report)

    async def apply_streams(configuration: Configuration) -> None:
        if store.embedded is not None:
            await store.embedded.apply_streams([stream.name for stream in configuration.zone.streams])

    def substrate_state() -> dict[str, Any]:
        state: dict[str, Any] = {
            "kind": "embedded" if store.embedded else "external",
            "connected": store.control.connected,
            "version": store.control.server_version,
            "durability": store.durability,
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

    peers = PeerTable(
        lambda config: _client(zone, config), clock, journal, lambda peer: gateway.peer_became_reachable(peer)
    )
    home, limits = zone.configuration.paths, zone.configuration.zone.limits
    links = LinkSupervisor(
        store.inbound,
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
        exports=Exports(store.exported, store.confirmations, clock),
        keeper=StoreKeeper(store.control, provision, links.wake_all, journal),
        substrate_state=substrate_state,
        build_trust=lambda configuration: build_trust(configuration, gateway.trust),
        apply_streams=apply_streams,
    )
    gateway = Gateway(parts, zone.configuration, trust)
    return gateway


def _tell_differences(zone: _Zone, report: Any) -> None:
    for difference in report.differences:
        zone.journal.warning(
            "stream_differs",
            stream=report.stream,
            message=f"stream {report.stream}: {difference.field} is {difference.found}, configured {difference.expected}",
        )
    if report.problem:
        zone.journal.error("stream_differs", stream=report.stream, message=report.problem)


def _client(zone: _Zone, config: PeerConfig) -> HttpPeerClient:
    endpoint = PeerEndpoint(config.id, config.rule, config.endpoint.host, config.endpoint.port)
    limits = ClientLimits(connect_seconds=zone.configuration.zone.limits.connect_seconds)
    return HttpPeerClient(endpoint, zone.access, zone.clock, limits)


def build_trust(configuration: Configuration, previous: TrustStore | None) -> TrustStore:
    """The trust snapshot of a configuration; raises ConfigurationError, and an older CRL than before is refused."""
    paths, revocation = configuration.paths, configuration.zone.revocation
    peers = {
        peer.id: PeerTrust(peer.rule, peer.trust_anchor, peer.authorized)
        for peer in configuration.peers.values()
    }
    crls = None
    if revocation.crl is not None:
        when_expired = WhenExpired(revocation.crl_expired.value)
        crls = load_revocation(
            revocation.crl, paths.anchors, peers, when_expired, previous.revocation if previous else None
        )
    return TrustStore.build(
        certificate=paths.server_certificate,
        key=paths.server_key,
        anchors=paths.anchors,
        own=configuration.zone.identity_rule,
        peers=peers,
        revocation=crls,
    )


async def _open_local(zone: _Zone, gateway: Gateway, operations: Operations, stack: AsyncExitStack) -> None:
    config = zone.configuration.zone
    unix = await serve_unix(build_local_application(operations), zone.configuration.paths.run)
    stack.push_async_callback(unix.close)
    application = build_tcp_application(
        operations,
        metrics=zone.telemetry.exposition,
        is_ready=lambda: gateway.parts.keeper.is_ready,
        token=_token(config.local_token_file),
    )
    tcp = await serve_tcp(application, config.local.host, config.local.port)
    stack.push_async_callback(tcp.close)


def _token(path: Path | None) -> str | None:
    if path is None:
        return None
    check_private(path)
    return path.read_text(encoding="utf-8").strip()


async def _open_listener(zone: _Zone, gateway: Gateway, store: _Store, stack: AsyncExitStack) -> None:
    config, limits = zone.configuration.zone, zone.configuration.zone.limits
    observer = ListenerObserver(zone.journal, zone.audit, zone.telemetry)
    card = ZoneCard(
        config.zone,
        config.identity_rule.identity,
        __version__,
        lambda: "degraded" if gateway.problems() else "ok",
    )
    service = FetchService(store.exported, store.confirmations, zone.clock)
    fetch_routes = FetchRoutes(service, observer, limits.long_polls_per_peer)
    listener = PeerListener(
        zone.access,
        [health_route(card, zone.clock), *fetch_routes.routes()],
        observer,
        zone.clock,
        ListenerLimits(request_body_bytes=limits.request_body_bytes),
    )
    await listener.start()
    stack.push_async_callback(listener.stop)
    acceptor = Acceptor(
        listener.protocol_factory,
        lambda: zone.access.current.trust.server_context(),
        observer.handshake_failed,
        AcceptorLimits(limits.connections_max, handshake_timeout_seconds=limits.handshake_seconds),
    )
    await acceptor.start(config.listen.host, config.listen.port)
    stack.callback(acceptor.close_all)
    stack.push_async_callback(acceptor.stop)
