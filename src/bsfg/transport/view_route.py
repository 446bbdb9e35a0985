"""``GET /v1/view``: how this zone sees its caller, so that one bring-up shows both sides (contract, section 4)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from aiohttp import web

from bsfg.model.names import ZoneId
from bsfg.transport.access import PeerCaller
from bsfg.transport.answers import json_response
from bsfg.transport.routes import PeerRoute, Quota

VIEWS_PER_PEER: Final = 2
UNKNOWN_VERSION: Final = "unknown"


def view_route(view: Callable[[ZoneId], Awaitable[dict[str, Any]]]) -> PeerRoute:
    """The route; ``view`` gives everything but the TLS version, about this peer and nobody else (I31)."""
    quota = Quota("views", VIEWS_PER_PEER)

    async def answer(caller: PeerCaller, request: web.Request) -> web.StreamResponse:
        with quota.hold(caller.peer):
            seen = await view(caller.peer)
        # The answer was put together while the policy may have changed.
        caller.demand(None)
        return json_response(seen | {"tls_version": _tls_version(request)})

    return PeerRoute("GET", "/v1/view", "view", answer)


def _tls_version(request: web.Request) -> str:
    secured = request.transport.get_extra_info("ssl_object") if request.transport else None
    return (secured.version() if secured is not None else None) or UNKNOWN_VERSION
