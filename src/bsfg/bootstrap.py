"""Puts a gateway together from its configuration: the only module that knows all the others."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from structlog.typing import FilteringBoundLogger

from bsfg import __version__
from bsfg.config.home import Home
from bsfg.config.load import load
from bsfg.config.permissions import check_private
from bsfg.config.values import (
    Configuration,
    Durability,
    EmbeddedSubstrate,
    ExternalSubstrate,
    LinkConfig,
    PeerConfig,
)
from bsfg.config.watch import ChangeWatch
from bsfg.core.conversation import Woken
from bsfg.daemon import failpoints
from bsfg.daemon.append_service import AppendService
from bsfg.daemon.audit import AuditLog
from bsfg.daemon.exports import Exports
from bsfg.daemon.gateway import Gateway, Parts
from bsfg.daemon.generations import Generations
from bsfg.daemon.healing import HealedInboundLog, Healer, WriteErrors
from bsfg.daemon.journal import open_journal
from bsfg.daemon.keep import InboundKeeper
from bsfg.daemon.links import LinkSupervisor
from bsfg.daemon.listener_observer import ListenerObserver
from bsfg.daemon.local_api import build_local_application, build_tcp_application, serve_tcp, serve_unix
from bsfg.daemon.notifier import NoticeBoard, Notifier
from bsfg.daemon.operations import Operations
from bsfg.daemon.partitions import Partitions
from bsfg.daemon.peer_table import PeerTable
from bsfg.daemon.reload import Reloader
from bsfg.daemon.store_keeper import StoreKeeper
from bsfg.daemon.stream_operations import LocalStore
from bsfg.daemon.system import SystemClock, notify_systemd, watchdog_seconds
from bsfg.daemon.telemetry import Telemetry
from bsfg.errors import EXIT_DONE, BsfgError, Code
from bsfg.model.cursor import LinkName, LinkState
from bsfg.model.names import StreamName, ZoneId
from bsfg.ports import Clock, InboundLog
from bsfg.substrates.consumers import LocalAccess
from bsfg.substrates.control import Control
from bsfg.substrates.durability import LAZY, STRICT, Ask, DurabilityWatch, ask_monitors, ask_system_account
from bsfg.substrates.embedded import EmbeddedObserver, EmbeddedServer
from bsfg.substrates.generations import JetStreamGenerations
from bsfg.substrates.inbound_keep import InboundKeep
from bsfg.substrates.inbound_messages import Strategy
from bsfg.substrates.index_follower import MessageIndexes
from bsfg.substrates.jetstream import (
    JetStreamConfirmations,
    JetStreamExportedLog,
    JetStreamInboundLog,
    JetStreamPartitions,
)
from bsfg.substrates.local_appends import LocalAppends
from bsfg.substrates.nats_connection import NatsConnection
from bsfg.substrates.nats_target import NatsTarget
from bsfg.substrates.provisioning import provision_local
from bsfg.substrates.quarantine import FileQuarantine
from bsfg.substrates.store_lock import find_holder, try_lock
from bsfg.substrates.stream_configs import StreamSpec
from bsfg.transport.acceptor import Acceptor, AcceptorLimits
from bsfg.transport.access import Access
from bsfg.transport.client import HttpPeerClient
from bsfg.transport.client_connection import ClientLimits, PeerEndpoint
from bsfg.transport.fetch_routes import FetchRoutes
from bsfg.transport.fetch_service import FetchService
from bsfg.transport.health_route import ZoneCard, health_route
from bsfg.transport.listener import ListenerLimits, PeerListener
from bsfg.transport.notify_route import Attention, notify_route
from bsfg.transport.resolver import NameResolver
from bsfg.transport.revocation import WhenExpired
from bsfg.transport.routes import PeerRoute
from bsfg.transport.trust import PeerTrust, TrustStore, load_revocation

STOP_SECONDS_MAX: Final = 10.0


def serve(home: Path, *, allow_root: bool) -> int:
    """Run the zone's gateway until SIGTERM or SIGINT; the exit status (``bsfg serve``)."""
    configuration = load(home)
    _refuse_root(configuration, allow_root=allow_root)
    failpoints.arm(os.environ.get(failpoints.VARIABLE), is_lab=configuration.zone.lab)
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
    attention: Attention


@asynccontextmanager
async def _gateway(configuration: Configuration) -> AsyncIterator[Reloader]:
    clock = SystemClock()
    async with AsyncExitStack() as stack:
        stack.callback(os.close, _claim(configuration.paths))
        trust = build_trust(configuration, None)
        journal = open_journal(configuration.zone.log, configuration.zone.zone)
        audit = AuditLog(configuration.paths.data / "audit.jsonl", clock)
        stack.callback(audit.close)
        access = Access(trust, {})
        zone = _Zone(configuration, clock, journal, audit, Telemetry(), access, Attention(clock))
        store = await _open_store(zone, stack)
        gateway = _assemble(zone, store, trust)
        local = LocalStore(
            store.control,
            LocalAccess(store.control, store.connect),
            _open_appends(zone, gateway, store, stack),
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


def _claim(home: Home) -> int:
    """The descriptor that makes this process the home's one gateway until it ends, however that happens.

    Taken before anything else: a second gateway would adopt the first one's nats-server, and stop it when it fails.
    """
    home.run.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = home.run / "gateway.lock"
    lock = try_lock(path)
    if lock is None:
        holder = find_holder(path)
        raise BsfgError(
            Code.CONFIGURATION,
            f"another gateway serves this home: {home.path} is held by process {holder.pid if holder else 'unknown'}",
            hint="stop it first",
        )
    return lock


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
    durability: Callable[[], tuple[str, str | None]]
    """What an ack means, and why nothing better can be said."""


async def _open_store(zone: _Zone, stack: AsyncExitStack) -> _Store:
    embedded, target, replicas = await _open_substrate(zone, stack)
    name = f"bsfg-{zone.configuration.zone.zone}"
    report = lambda text: zone.journal.warning("substrate_lost", message=text)  # noqa: E731
    control = Control(target, name=name, report=report)
    control.start()
    stack.push_async_callback(control.close)

    async def connect() -> NatsConnection:
        return await NatsConnection.connect(target, name=f"{name}-data")

    durability = _watch_durability(zone, control, target, stack)
    exported = JetStreamExportedLog(
        control, connect, durability=lambda: durability()[0], epoch_began=lambda *words: _epoch_began(zone, *words)
    )
    stack.callback(exported.close)
    substrate = zone.configuration.zone.substrate
    inbound = JetStreamInboundLog(
        control,
        connect,
        zone=zone.configuration.zone.zone,
        replicas=replicas,
        report=report,
        strategy=Strategy.PIPELINED if zone.configuration.zone.durability is Durability.LAZY else Strategy.ATOMIC,
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


def _watch_durability(
    zone: _Zone, control: Control, target: NatsTarget, stack: AsyncExitStack
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

    served = _stream_names(zone.configuration)

    async def serve_streams() -> None:
        """Local applications may publish to what is configured now."""
        nonlocal served
        names = _stream_names(gateway.configuration)
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
            epoch_began=lambda *words: _epoch_began(zone, *words),
        )
        gateway.stream_reports = {report.stream: report for report in reports}
        for report in reports:
            _tell_differences(zone, report)

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
        lambda config: _client(zone, config, names), clock, journal, lambda peer: gateway.peer_became_reachable(peer)
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
        exports=Exports(store.exported, store.confirmations, clock),
        keeper=StoreKeeper(store.control, provision, links.wake_all, journal),
        healer=healer,
        generations=_generations(zone, store, links, lambda log: HealedInboundLog(log, healer)),
        keep=_keep(zone, store, links, lambda: gateway.configuration.links),
        substrate_state=substrate_state,
        build_trust=lambda configuration: build_trust(configuration, gateway.trust),
    )
    gateway = Gateway(parts, zone.configuration, trust)
    return gateway


def _healer(zone: _Zone, store: _Store, links: Callable[[], LinkSupervisor]) -> Healer:
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
    zone: _Zone, store: _Store, links: LinkSupervisor, healed: Callable[[InboundLog], InboundLog]
) -> Generations:
    report = lambda text: zone.journal.warning("substrate_lost", message=text)  # noqa: E731
    kept = JetStreamGenerations(
        store.control, store.connect, store.inbound, replicas=store.replicas, report=report
    )
    return Generations(kept, links, zone.audit, zone.journal, lambda: store.control.connected, healed)


def _keep(
    zone: _Zone, store: _Store, links: LinkSupervisor, configured: Callable[[], Mapping[LinkName, LinkConfig]]
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


def _stream_names(configuration: Configuration) -> list[StreamName]:
    return [stream.name for stream in configuration.zone.streams]


def _tell_differences(zone: _Zone, report: Any) -> None:
    for difference in report.differences:
        zone.journal.warning(
            "stream_differs",
            stream=report.stream,
            message=f"stream {report.stream}: {difference.field} is {difference.found}, "
            f"configured {difference.expected}",
        )
    if report.problem:
        zone.journal.error("stream_differs", stream=report.stream, message=report.problem)


def _client(zone: _Zone, config: PeerConfig, names: NameResolver) -> HttpPeerClient:
    endpoint = PeerEndpoint(config.id, config.rule, config.endpoint.host, config.endpoint.port)
    limits = ClientLimits(connect_seconds=zone.configuration.zone.limits.connect_seconds)
    return HttpPeerClient(endpoint, zone.access, zone.clock, limits, names)


def build_trust(configuration: Configuration, previous: TrustStore | None) -> TrustStore:
    """The trust snapshot of a configuration; raises ConfigurationError, and an older CRL than before is refused."""
    paths, revocation = configuration.paths, configuration.zone.revocation
    peers = {
        peer.id: PeerTrust(peer.rule, peer.trust_anchor, peer.authorized)
        for peer in configuration.peers.values()
    }
    crls = None
    if revocation.crl is None and previous is not None and previous.revocation is not None:
        raise BsfgError(
            Code.CONFIGURATION,
            f"the revocation list {paths.crl} is gone, and without it revoked certificates would be trusted again",
            hint="put the newest list back; to do without one, restart the gateway",
        )
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


def _open_appends(zone: _Zone, gateway: Gateway, store: _Store, stack: AsyncExitStack) -> AppendService:
    """Local producers' appends, and the indexes of their message ids beside the streams."""

    def report(stream: StreamName, text: str) -> None:
        zone.journal.warning("message_index", stream=stream, message=text)

    indexes = MessageIndexes(zone.configuration.paths.data / "ids", store.exported, store.connect, report)
    stack.push_async_callback(indexes.close)
    indexes.start(_stream_names(zone.configuration))
    appends = LocalAppends(store.control, store.connect, store.exported, indexes)
    service = AppendService(appends, store.control, zone.journal, lambda: gateway.configuration.zone.streams)
    watching = asyncio.create_task(service.watch_fill(), name="fill of the streams")
    stack.callback(watching.cancel)
    return service


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


def _open_notification(zone: _Zone, gateway: Gateway, store: _Store, stack: AsyncExitStack) -> PeerRoute:
    """Tell peers of appended facts, and take such advice from them: the route."""
    links, peers, partitions = gateway.parts.links, gateway.parts.peers, gateway.parts.partitions

    def wake(name: LinkName) -> None:
        if driver := links.driver(name):
            driver.tell(Woken())

    def is_silent(peer: ZoneId) -> bool:
        monitor = peers.monitor(peer)
        return monitor is not None and monitor.reachable is False

    board = NoticeBoard(zone.clock, zone.journal, zone.telemetry, wake)
    stack.callback(board.close)
    notifier = Notifier(
        store.exported,
        zone.clock,
        zone.telemetry,
        lambda: [pair for pair in gateway.exported() if pair[0] not in partitions.in_force],
        zone.attention.is_listening,
        is_silent,
        peers.client,
    )
    notifying = asyncio.create_task(notifier.run(), name="notifier")
    stack.callback(notifying.cancel)
    return notify_route(lambda peer, stream: links.driver(LinkName(peer, stream)) is not None, board.noticed)


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
    fetch_routes = FetchRoutes(service, observer, limits.long_polls_per_peer, zone.attention)
    listener = PeerListener(
        zone.access,
        [health_route(card, zone.clock), *fetch_routes.routes(), _open_notification(zone, gateway, store, stack)],
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
