"""What is open to others: the local API, the append path of local producers, and the peer listener."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from aiohttp import web

from bsfg import __version__
from bsfg.bootstrap.artifacts import Artifacts, peer_routes
from bsfg.bootstrap.page import page_address
from bsfg.bootstrap.store import Store
from bsfg.bootstrap.zone import Zone, policy_version, stream_names
from bsfg.config.permissions import check_private
from bsfg.core.conversation import Woken
from bsfg.daemon.append_service import AppendService
from bsfg.daemon.audit_facts import AuditFacts
from bsfg.daemon.gateway import Gateway
from bsfg.daemon.listener_observer import ListenerObserver
from bsfg.daemon.local_api import build_local_application, build_tcp_application
from bsfg.daemon.local_listeners import serve_tcp, serve_unix
from bsfg.daemon.notifier import NoticeBoard, Notifier
from bsfg.daemon.operations import Operations
from bsfg.daemon.page.routes import Page
from bsfg.daemon.peer_view import PeerViews, Scrapes
from bsfg.daemon.remembered import Remembered
from bsfg.model.cursor import LinkName
from bsfg.model.names import StreamName, ZoneId
from bsfg.substrates.index_follower import MessageIndexes
from bsfg.substrates.local_appends import LocalAppends
from bsfg.transport.acceptor import Acceptor, AcceptorLimits
from bsfg.transport.digest_service import DigestService, digest_route
from bsfg.transport.fetch_routes import FetchRoutes
from bsfg.transport.fetch_service import FetchService
from bsfg.transport.health_route import ZoneCard, health_route
from bsfg.transport.listener import ListenerLimits, PeerListener
from bsfg.transport.notify_route import notify_route
from bsfg.transport.routes import PeerRoute
from bsfg.transport.view_route import view_route


def open_appends(zone: Zone, gateway: Gateway, store: Store, stack: AsyncExitStack) -> AppendService:
    """Local producers' appends, and the indexes of their message ids beside the streams."""

    def report(stream: StreamName, text: str) -> None:
        zone.journal.warning("message_index", stream=stream, message=text)

    indexes = MessageIndexes(zone.configuration.paths.data / "ids", store.exported, store.connect, report)
    stack.push_async_callback(indexes.close)
    indexes.start(stream_names(zone.configuration))
    appends = LocalAppends(store.control, store.connect, store.exported, indexes)
    service = AppendService(appends, store.control, zone.journal, lambda: gateway.configuration.zone.streams)
    watching = asyncio.create_task(service.watch_fill(), name="fill of the streams")
    stack.callback(watching.cancel)
    facts = AuditFacts(
        zone.configuration.paths.data,
        service.append,
        lambda: gateway.configuration.zone.audit_stream,
        zone.journal,
    )
    telling = asyncio.create_task(facts.run(), name="audit stream")
    stack.callback(telling.cancel)
    return service


async def open_local(
    zone: Zone,
    gateway: Gateway,
    operations: Operations,
    further: Sequence[web.RouteDef],
    scrapes: Scrapes,
    page: Page,
    stack: AsyncExitStack,
) -> None:
    config = zone.configuration.zone
    login = page.login_route(lambda: page_address(config.local))
    local = build_local_application(operations, further=[*further, login])
    unix = await serve_unix(local, zone.configuration.paths.run)
    stack.push_async_callback(unix.close)
    application = build_tcp_application(
        operations,
        metrics=Remembered(zone.telemetry.exposition, zone.clock.monotonic),
        is_ready=lambda: gateway.parts.keeper.is_ready,
        token=_token(config.local_token_file),
        further=further,
        scraped=scrapes.noted,
        page=page.routes(),
    )
    tcp = await serve_tcp(application, config.local.host, config.local.port)
    stack.push_async_callback(tcp.close)


def _token(path: Path | None) -> str | None:
    if path is None:
        return None
    check_private(path)
    return path.read_text(encoding="utf-8").strip()


def _open_notification(zone: Zone, gateway: Gateway, store: Store, stack: AsyncExitStack) -> PeerRoute:
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


async def open_listener(
    zone: Zone,
    gateway: Gateway,
    store: Store,
    artifacts: Artifacts,
    views: PeerViews,
    stack: AsyncExitStack,
) -> None:
    config, limits = zone.configuration.zone, zone.configuration.zone.limits
    observer = ListenerObserver(
        zone.journal, zone.audit, zone.telemetry, lambda: policy_version(gateway.configuration)
    )
    counting = asyncio.create_task(observer.run(), name="counts of refusals")
    stack.callback(observer.tell_counts)
    stack.callback(counting.cancel)
    problems = Remembered(gateway.problems, zone.clock.monotonic)
    card = ZoneCard(
        config.zone,
        config.identity_rule.identity,
        __version__,
        lambda: "degraded" if problems() else "ok",
    )
    service = FetchService(store.exported, store.confirmations, zone.clock)
    fetch_routes = FetchRoutes(service, observer, limits.long_polls_per_peer, zone.attention)
    listener = PeerListener(
        zone.access,
        [
            health_route(card, zone.clock),
            *fetch_routes.routes(),
            digest_route(DigestService(store.exported, zone.clock)),
            _open_notification(zone, gateway, store, stack),
            *peer_routes(zone, gateway, artifacts),
            view_route(views.of_caller),
        ],
        observer,
        zone.clock,
        ListenerLimits(request_body_bytes=limits.request_body_bytes),
        zone.cut_off.told,
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
