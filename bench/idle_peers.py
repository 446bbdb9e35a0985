"""``idle_peers.py FOLDER``: many zones' peer listeners in one process, with nothing to say.

Each is the listener of the product over the in-memory store: real TLS with a certificate of its own, real long polls.
"""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from bsfg import __version__
from bsfg.daemon.system import SystemClock
from bsfg.errors import Code
from bsfg.model.identity import IdentityRule
from bsfg.model.names import StreamName, ZoneId, parse_stream, parse_zone
from bsfg.model.policy import PeerPolicy, ReadArtifact, ReadStream
from bsfg.substrates.memory import MemoryZone
from bsfg.transport.acceptor import Acceptor
from bsfg.transport.access import Access
from bsfg.transport.fetch_routes import FetchRoutes
from bsfg.transport.fetch_service import FetchService
from bsfg.transport.health_route import ZoneCard, health_route
from bsfg.transport.listener import ListenerLimits, PeerListener
from bsfg.transport.trust import PeerTrust, TrustStore


class _Silent:
    """An observer of listeners that only fails loudly."""

    def identity_refused(self, address: str, reason: str, detail: str, request_id: str = "") -> None:
        print(f"{address} was refused: {reason}: {detail}", file=sys.stderr)

    def denied(self, peer: ZoneId, code: Code, what: str, request_id: str = "") -> None:
        print(f"{peer} was denied {what}: {code.label}", file=sys.stderr)

    def allowed(
        self, connection: object, peer: ZoneId, wish: ReadStream | ReadArtifact, rule: str, request_id: str
    ) -> None:
        """Expected."""

    def contact(self, peer: ZoneId) -> None:
        """Expected."""

    def served(self, peer: ZoneId, operation: str, seconds: float, status: int) -> None:
        """Expected."""

    def confirmed(self, peer: ZoneId, stream: StreamName, sequence: int) -> None:
        """There is nothing to confirm."""

    def failed_unexpectedly(
        self, peer: ZoneId | None, operation: str, request_id: str, error: BaseException
    ) -> None:
        print(f"{operation} failed: {error!r}", file=sys.stderr)


async def _serve(plan: dict[str, Any]) -> None:
    async with AsyncExitStack() as stack:
        for peer in plan["peers"]:
            await _open(plan, peer, stack)
        print("ready", flush=True)
        await asyncio.Event().wait()


async def _open(plan: dict[str, Any], peer: dict[str, Any], stack: AsyncExitStack) -> None:
    clock, asking = SystemClock(), parse_zone(plan["zone"])
    streams = frozenset(parse_stream(stream) for stream in plan["streams"])
    zone = MemoryZone(clock)
    for stream in streams:
        zone.create(stream)
    trust = TrustStore.build(
        certificate=Path(peer["certificate"]),
        key=Path(peer["key"]),
        anchors=Path(plan["anchors"]),
        own=IdentityRule(peer["identity"]),
        peers={asking: PeerTrust(IdentityRule(plan["identity"]), authorized=True)},
    )
    access = Access(trust, {asking: PeerPolicy(asking, True, streams, frozenset())})
    observer = _Silent()
    service = FetchService(zone, zone, clock)
    card = ZoneCard(peer["zone"], peer["identity"], __version__, lambda: "ok")
    routes = [health_route(card, clock), *FetchRoutes(service, observer, 16).routes()]
    listener = PeerListener(access, routes, observer, clock, ListenerLimits())
    await listener.start()
    stack.push_async_callback(listener.stop)
    acceptor = Acceptor(
        listener.protocol_factory,
        lambda: access.current.trust.server_context(),
        lambda *failed: print(*failed, file=sys.stderr),
    )
    await acceptor.start(peer["host"], peer["port"])
    stack.push_async_callback(acceptor.stop)


if __name__ == "__main__":
    asyncio.run(_serve(json.loads((Path(sys.argv[1]) / "plan.json").read_text(encoding="utf-8"))))
