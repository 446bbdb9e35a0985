"""Following a peer to its object store: to the one configured host, over verified HTTPS, once, nowhere else (I40)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import aiohttp
from yarl import URL

from bsfg.errors import PeerUnreachable
from bsfg.model.names import ZoneId, printable
from bsfg.transport.access import Access
from bsfg.transport.client_connection import HEADERS_MAX, READ_BUFFER_BYTES, ClientLimits
from bsfg.transport.client_errors import EXCHANGE_ERRORS, failure
from bsfg.transport.page_check import bad_answer
from bsfg.transport.question import IDENTITY
from bsfg.transport.resolver import NameResolver

HTTPS_PORT: Final = 443
LOCATION_LENGTH_MAX: Final = 8_192


class ArtifactRedirect:
    """Where one peer may send us; ``host`` is ``host`` or ``host:port``, or None for nowhere."""

    def __init__(
        self, peer: ZoneId, host: str | None, access: Access, resolver: NameResolver, limits: ClientLimits
    ) -> None:
        self._peer = peer
        self._allowed = None if host is None else _place(URL(f"https://{host}"))
        self._shown = host
        self._access = access
        self._resolver = resolver
        self._limits = limits

    def target(self, location: str) -> URL:
        """The address of the redirect; ``bad_answer`` for any but an https one of the configured host."""
        if self._allowed is None:
            raise bad_answer("it redirects, and artifact_redirect_host is not configured for this peer")
        if len(location) > LOCATION_LENGTH_MAX:
            raise bad_answer(f"it redirects to an address of {len(location)} characters")
        try:
            target = URL(location, encoded=True)
            place = _place(target)
        except (ValueError, TypeError) as error:
            raise bad_answer(f"it redirects to {printable(location)}, which is no address") from error
        if target.scheme != "https" or target.user is not None or target.password is not None:
            raise bad_answer(f"it redirects to {printable(location)}, which is not plain https")
        if place != self._allowed:
            raise bad_answer(f"it redirects to {printable(location)}, and only {self._shown} is allowed")
        return target

    @asynccontextmanager
    async def following(
        self, response: aiohttp.ClientResponse, start: int
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The object store's answer; one that redirects again is the taker's to refuse."""
        target = self.target(response.headers.get("Location", ""))
        context = self._access.current.trust.store_context(self._peer)
        connector = aiohttp.TCPConnector(
            ssl=context, resolver=self._resolver, use_dns_cache=False, force_close=True
        )
        headers = {"Accept": "*/*", "Accept-Encoding": IDENTITY}
        began = asyncio.get_running_loop().time()
        async with aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("User-Agent",),
            trust_env=False,
            auto_decompress=False,
            read_bufsize=READ_BUFFER_BYTES,
            max_headers=HEADERS_MAX,
        ) as session:
            try:
                async with session.get(
                    target,
                    headers=headers | ({"Range": f"bytes={start}-"} if start else {}),
                    allow_redirects=False,
                    timeout=self._timeout(),
                ) as answer:
                    yield answer
            except EXCHANGE_ERRORS as error:
                waited = asyncio.get_running_loop().time() - began
                cause = failure(error, self._peer, str(self._shown), waited)
                raise PeerUnreachable(
                    f"the object store {self._shown} of peer {self._peer}: {cause.message}",
                    hint="artifact_redirect_host in peers.yaml, and the anchors of the peer, decide what is trusted",
                    reason=cause.details.get("reason", "network"),
                ) from error

    def _timeout(self) -> aiohttp.ClientTimeout:
        return aiohttp.ClientTimeout(
            total=None,
            connect=self._limits.connect_seconds,
            sock_connect=self._limits.connect_seconds,
            sock_read=self._limits.silence_seconds,
        )


def _place(url: URL) -> tuple[str, int]:
    host = url.host
    if not host:
        raise ValueError("no host")
    return host.lower(), url.port or HTTPS_PORT
