"""How this zone sees one peer, for that peer, and how that peer sees us, for our operator (contract, section 4)."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp
from aiohttp import web

from bsfg.config.address import Address
from bsfg.config.values import EmbeddedSubstrate
from bsfg.daemon.gateway import Gateway
from bsfg.daemon.local_requests import Parameters, answer
from bsfg.daemon.views import time_or_none
from bsfg.model.moment import format_time
from bsfg.model.names import ZoneId, parse_zone
from bsfg.ports import Clock

OWN_AGENT: Final = "bsfg"
"""Who asks for our metrics under this name is ourselves, and no monitoring."""
METRICS_SECONDS: Final = 2.0
METRICS_KNOWN_SECONDS: Final = 5.0


@dataclass
class Scrapes:
    """Whether our own ``/metrics`` answers, and when somebody else last asked for it."""

    address: Address
    clock: Clock
    last: int | None = None
    """Nanoseconds since 1970."""
    _up: bool | None = None
    _looked_at: float = float("-inf")
    _looking: asyncio.Lock = field(default_factory=asyncio.Lock)

    def noted(self, agent: str) -> None:
        """Somebody asked for the metrics and called itself this."""
        if agent != OWN_AGENT:
            self.last = self.clock.now()

    async def up(self) -> bool:
        """Whether ``/metrics`` answers as Prometheus would see it; looked at every few seconds at most."""
        async with self._looking:
            if self._up is None or self.clock.monotonic() - self._looked_at > METRICS_KNOWN_SECONDS:
                self._up = await self._look()
                self._looked_at = self.clock.monotonic()
            return self._up

    async def _look(self) -> bool:
        host = "127.0.0.1" if self.address.is_wildcard and ":" not in self.address.host else self.address.host
        url = f"http://{Address(host, self.address.port)}/metrics"
        timeout = aiohttp.ClientTimeout(total=METRICS_SECONDS)
        try:
            async with (
                aiohttp.ClientSession(timeout=timeout, trust_env=False) as session,
                session.get(url, headers={"User-Agent": OWN_AGENT}, allow_redirects=False) as response,
            ):
                return response.status == web.HTTPOk.status_code
        except (aiohttp.ClientError, OSError, TimeoutError):
            return False


class PeerViews:
    """Both directions of ``/v1/view``."""

    def __init__(self, gateway: Gateway, scrapes: Scrapes) -> None:
        self._gateway = gateway
        self.scrapes = scrapes

    async def of_caller(self, peer: ZoneId) -> dict[str, Any]:
        """What we see of this peer, without its connection's TLS version; nothing about anyone else (I31)."""
        gateway = self._gateway
        config, monitor = gateway.configuration.peers[peer], gateway.parts.peers.monitor(peer)
        substrate = gateway.configuration.zone.substrate
        return {
            "zone": peer,
            "identity": config.rule.identity,
            "time": format_time(gateway.parts.clock.now()),
            "anchors": list(gateway.trust.anchor_fingerprints(peer)),
            "certificate_days_left": gateway.trust.own_days_left(gateway.parts.clock.now()),
            "replicas_configured": 1 if isinstance(substrate, EmbeddedSubstrate) else substrate.replicas,
            "streams": self._streams(peer),
            "artifacts": list(config.artifacts),
            "last_contact": time_or_none(monitor.answered_at) if monitor else None,
            "reaches_you": monitor.reachable if monitor else None,
            "links": self._links(peer),
            "metrics_up": await self.scrapes.up(),
            "last_scraped": time_or_none(self.scrapes.last),
        }

    def _streams(self, peer: ZoneId) -> list[dict[str, Any]]:
        """What the peer may read; what the store did not say of a stream just now is null."""
        rows = {row.stream: row.as_json() for row in self._gateway.parts.exports.rows if row.peer == peer}
        names = ("epoch", "head", "confirmed", "confirmed_at", "replicas", "durability")
        return [
            {"stream": stream} | {name: rows.get(stream, {}).get(name) for name in names}
            for stream in self._gateway.configuration.peers[peer].streams
        ]

    def _links(self, peer: ZoneId) -> list[dict[str, Any]]:
        names = (
            "stream", "state", "reason", "epoch", "sequence", "scanned_through", "lag_facts", "lag_seconds",
        )  # fmt: skip
        rows = [row for row in self._gateway.cursor_rows() if row["peer"] == peer]
        return [{name: row[name] for name in names} for row in rows]

    async def of_us(self, peer: str) -> dict[str, Any]:
        """How the peer sees us, by its own word."""
        return await self._gateway.parts.peers.client(parse_zone(peer)).view()

    def routes(self) -> list[web.RouteDef]:
        """The local API's part."""

        async def view(request: web.Request) -> web.StreamResponse:
            Parameters.of_query(request).finish()
            return await answer(request, self.of_us(request.match_info["peer"]))

        return [web.get("/v1/peers/{peer}/view", view)]
