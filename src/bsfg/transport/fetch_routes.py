"""``/v1/streams``, ``/v1/fetch`` and ``/v1/confirm``: HTTP around the sender's rules (contract, section 4)."""

from __future__ import annotations

import asyncio
from contextlib import aclosing, nullcontext
from dataclasses import replace
from functools import partial
from typing import Final

from aiohttp import web

from bsfg.model.page import Page
from bsfg.transport.access import PeerCaller
from bsfg.transport.answers import BareResponse, json_response
from bsfg.transport.compression import ZSTD, accepts_zstd, compress
from bsfg.transport.fetch_service import FetchService
from bsfg.transport.notify_route import Attention
from bsfg.transport.observer import TransportObserver
from bsfg.transport.page_codec import BINARY_TYPE, JSON_TYPE, encode, encode_json
from bsfg.transport.routes import PeerRoute, Quota, read_body
from bsfg.transport.wire import FetchCall, parse_confirm, parse_fetch

WRITE_BYTES: Final = 256 * 1024
"""A page goes out in pieces that stay in a processor's cache while they are framed, encrypted and sent."""
PAGE_WRITE_SECONDS_MAX: Final = 60.0
"""How long a peer may take to accept one page of several."""


class FetchRoutes:
    """The handlers around one :class:`FetchService`."""

    def __init__(
        self,
        service: FetchService,
        observer: TransportObserver,
        long_polls_per_peer: int,
        attention: Attention | None = None,
    ) -> None:
        self._service = service
        self._attention = attention
        self._observer = observer
        self._long_polls = Quota("waiting fetches", long_polls_per_peer)

    def routes(self) -> list[PeerRoute]:
        return [
            PeerRoute("GET", "/v1/streams", "streams", self.streams),
            PeerRoute("POST", "/v1/fetch", "fetch", self.fetch),
            PeerRoute("POST", "/v1/confirm", "confirm", self.confirm),
        ]

    async def streams(self, caller: PeerCaller, request: web.Request) -> web.StreamResponse:
        rows = await self._service.streams(caller)
        caller.demand(None)
        return json_response(rows)

    async def fetch(self, caller: PeerCaller, request: web.Request) -> web.StreamResponse:
        call = parse_fetch(await read_body(request))
        if self._attention is None:
            return await self._fetch(caller, call, request)
        with self._attention.listening(caller, call.request.stream):
            return await self._fetch(caller, call, request)

    async def _fetch(self, caller: PeerCaller, call: FetchCall, request: web.Request) -> web.StreamResponse:
        is_binary = BINARY_TYPE in request.headers.get("Accept", "")
        is_compressed = accepts_zstd(request.headers.get("Accept-Encoding", ""))
        if not is_binary:
            call = replace(call, pages=1)
        waits = call.request.limits.wait_seconds > 0
        with self._long_polls.hold(caller.peer) if waits else nullcontext():
            if call.pages > 1:
                return await self._send_pages(caller, call, request, is_compressed)
            page = await self._service.fetch(caller, call.request)
        if is_binary:
            headers, body = _head(is_compressed), await _body(page, is_compressed)
            return BareResponse(body=body, headers=headers)
        return BareResponse(body=encode_json(page), content_type=JSON_TYPE)

    async def confirm(self, caller: PeerCaller, request: web.Request) -> web.StreamResponse:
        call = parse_confirm(await read_body(request))
        confirmed = await self._service.confirm(caller, call)
        self._observer.confirmed(caller.peer, call.stream, confirmed)
        return json_response({"confirmed": confirmed})

    async def _send_pages(
        self, caller: PeerCaller, call: FetchCall, request: web.Request, is_compressed: bool
    ) -> web.StreamResponse:
        form = partial(_body, is_compressed=is_compressed)
        async with aclosing(self._service.pages(caller, call, form)) as bodies:
            first = await anext(bodies)
            response = web.StreamResponse(headers=_head(is_compressed))
            await response.prepare(request)
            await _write(response, first)
            del first
            async for body in bodies:
                await _write(response, body)
                del body
        await response.write_eof()
        return response


def _head(is_compressed: bool) -> dict[str, str]:
    return {"Content-Type": BINARY_TYPE} | ({"Content-Encoding": ZSTD} if is_compressed else {})


async def _body(page: Page, is_compressed: bool) -> bytes | bytearray:
    """The page's frame as it travels; compressing is left to a thread, for it takes milliseconds a page."""
    frame = encode(page)
    return await asyncio.to_thread(compress, frame) if is_compressed else frame


async def _write(response: web.StreamResponse, body: bytes | bytearray) -> None:
    async with asyncio.timeout(PAGE_WRITE_SECONDS_MAX):
        whole = memoryview(body)
        for start in range(0, len(whole), WRITE_BYTES):
            await response.write(whole[start : start + WRITE_BYTES])
