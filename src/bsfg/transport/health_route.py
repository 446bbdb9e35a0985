"""``GET /health``: who this zone is and whether it is well, for peers (contract, section 4; runbook 6.1)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from aiohttp import web

from bsfg.model.moment import format_time
from bsfg.model.names import ZoneId
from bsfg.ports import Clock
from bsfg.transport.access import PeerCaller
from bsfg.transport.answers import json_response
from bsfg.transport.routes import PeerRoute
from bsfg.transport.wire import PROTOCOL_VERSIONS


@dataclass(frozen=True, slots=True)
class ZoneCard:
    """How this zone introduces itself; ``status`` is asked at each request and must not block."""

    zone: ZoneId
    identity: str
    version: str
    status: Callable[[], Literal["ok", "degraded"]]


def health_route(card: ZoneCard, clock: Clock) -> PeerRoute:
    """The route; it answers without touching the store, so that it answers within a second (I46)."""

    async def health(caller: PeerCaller, request: web.Request) -> web.StreamResponse:
        return json_response(
            {
                "zone": card.zone,
                "identity": card.identity,
                "status": card.status(),
                "version": card.version,
                "protocol": list(PROTOCOL_VERSIONS),
                "time": format_time(clock.now()),
            }
        )

    return PeerRoute("GET", "/health", "health", health)
