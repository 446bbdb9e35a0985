"""The peer listener's application: every request is identified, authorized, bounded and answered here (I31 to I37).

The order is fixed: certificate, then authorization and partition, then the peer's share, then the route. Nothing of
a request is looked at before its sender is known, so an unknown path looks like any other to a stranger.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler
from aiohttp.web_protocol import RequestHandler

from bsfg.errors import BsfgError, Code
from bsfg.model.names import ZoneId, printable
from bsfg.ports import Clock
from bsfg.transport.access import Access, PeerCaller
from bsfg.transport.answers import error_response, remove_banner
from bsfg.transport.observer import TransportObserver
from bsfg.transport.routes import PeerRoute, Quota
from bsfg.transport.wire import REQUEST_BYTES_MAX

REQUEST_SECONDS_MAX: Final = 600.0
"""The end of any request but a stream, whatever it does; every step of it has a shorter deadline of its own."""
WRITE_SECONDS_MAX: Final = 60.0
KEEPALIVE_SECONDS: Final = 75.0
"""How long a connection may stay without a whole request; longer than clients keep theirs."""
LINGER_SECONDS: Final = 2.0
STOP_SECONDS_MAX: Final = 2.0
HEADERS_MAX: Final = 64

_CALLER: Final = web.RequestKey("caller", PeerCaller)
_DEADLINE: Final = web.RequestKey("deadline", asyncio.Timeout)
_OPERATION: Final = web.RequestKey("operation", str)
_CLOSES: Final = frozenset({Code.IDENTITY_REJECTED, Code.PEER_UNKNOWN, Code.PARTITIONED, Code.TOO_LARGE})
"""What ends the connection with its answer."""
_REQUEST_ID: Final = web.RequestKey("request_id", str)

# aiohttp logs a traceback for every malformed request; a stranger's bytes are answered, and make no noise.
_SILENT: Final = logging.getLogger("bsfg.transport.listener.aiohttp")
_SILENT.addHandler(logging.NullHandler())
_SILENT.propagate = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerLimits:
    """What one peer, and one request, may take."""

    request_body_bytes: int = REQUEST_BYTES_MAX
    requests_per_peer: int = 256
    write_seconds: float = WRITE_SECONDS_MAX


class PeerListener:
    """The application behind the acceptor's connections: ``protocol_factory`` makes one protocol a connection."""

    def __init__(
        self,
        access: Access,
        routes: Iterable[PeerRoute],
        observer: TransportObserver,
        clock: Clock,
        limits: ListenerLimits | None = None,
        told_partitioned: Callable[[ZoneId, str], None] = lambda peer, address: None,
    ) -> None:
        """``told_partitioned`` hears of each peer that was told so, and of the far end of its connection."""
        self._access = access
        self._observer = observer
        self._clock = clock
        self._limits = limits or ListenerLimits()
        self._requests = Quota("requests", self._limits.requests_per_peer)
        self._told_partitioned = told_partitioned
        self._runner = web.AppRunner(
            self._application(routes), handler_cancellation=True, shutdown_timeout=STOP_SECONDS_MAX
        )

    async def start(self) -> None:
        """Ready for connections."""
        await self._runner.setup()

    async def stop(self) -> None:
        """Every connection is closed within a few seconds; what runs is given ``STOP_SECONDS_MAX`` to end."""
        await self._runner.cleanup()

    def protocol_factory(self) -> asyncio.Protocol:
        """The protocol for one accepted connection whose TLS handshake is done."""
        server = self._runner.server
        assert server is not None, "the listener is not started"
        return _PeerProtocol(
            server,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=KEEPALIVE_SECONDS,
            lingering_time=LINGER_SECONDS,
            max_headers=HEADERS_MAX,
            auto_decompress=False,
            access_log=None,  # type: ignore[arg-type]
            logger=_SILENT,
        )

    def _application(self, routes: Iterable[PeerRoute]) -> web.Application:
        application = web.Application(
            middlewares=[self._guard], client_max_size=self._limits.request_body_bytes
        )
        application.on_response_prepare.append(remove_banner)
        for route in routes:
            application.router.add_route(route.method, route.path, _handler(route))
        return application

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        began = self._clock.monotonic()
        request[_REQUEST_ID] = secrets.token_hex(8)
        request[_OPERATION] = "other"
        connection = request.transport
        try:
            response = await self._answer(request, handler)
            await self._send(request, response)
        finally:
            self._tell_allowed(request, connection)
        if _CALLER in request:
            seconds = self._clock.monotonic() - began
            self._observer.served(request[_CALLER].peer, request[_OPERATION], seconds, response.status)
        return response

    def _tell_allowed(self, request: web.Request, connection: object) -> None:
        caller = request.get(_CALLER)
        if caller is None or connection is None:
            return
        for wish, rule in caller.allowed.items():
            self._observer.allowed(connection, caller.peer, wish, rule, request[_REQUEST_ID])

    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            async with asyncio.timeout(REQUEST_SECONDS_MAX) as deadline:
                request[_DEADLINE] = deadline
                return await self._admit(request, handler)
        except BsfgError as error:
            return self._refuse(request, error)
        except web.HTTPException as error:
            return self._no_such_route(request, error)
        except (ConnectionError, TimeoutError):
            # The peer is gone, or takes its answer too slowly: nobody is left to be told.
            _abort(request)
            return error_response(BsfgError(Code.UNAVAILABLE, "the connection is gone"), request[_REQUEST_ID])
        except Exception as error:
            return self._fail(request, error)

    async def _admit(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        caller = PeerCaller(self._access, self._clock, _certificate(request))
        request[_CALLER] = caller
        caller.demand(None)
        self._observer.contact(caller.peer)
        with self._requests.hold(caller.peer):
            return await handler(request)

    def _refuse(self, request: web.Request, error: BsfgError) -> web.StreamResponse:
        if request.get(_CALLER) is None or error.code in (Code.IDENTITY_REJECTED, Code.PEER_UNKNOWN):
            reason = str(error.details.get("reason", error.code.label))
            self._observer.identity_refused(
                _address(request), reason, error.message, request[_REQUEST_ID]
            )
        elif error.code in (Code.STREAM_DENIED, Code.ARTIFACT_DENIED):
            what = str(error.details.get("stream", request[_OPERATION]))
            self._observer.denied(request[_CALLER].peer, error.code, what, request[_REQUEST_ID])
        return self._error(request, error)

    def _no_such_route(self, request: web.Request, error: web.HTTPException) -> web.StreamResponse:
        if isinstance(error, web.HTTPMethodNotAllowed):
            wrong = BsfgError(
                Code.INVALID_REQUEST, f"{printable(request.path)} does not take {request.method}"
            )
            response = error_response(wrong, request[_REQUEST_ID], 405)
            response.headers["Allow"] = error.headers.get("Allow", "")
            return response
        if isinstance(error, web.HTTPNotFound):
            return self._error(request, BsfgError(Code.NOT_FOUND, "there is no such path here"))
        return self._error(request, BsfgError(Code.INVALID_REQUEST, f"{error.reason}"))

    def _fail(self, request: web.Request, error: Exception) -> web.StreamResponse:
        caller = request.get(_CALLER)
        self._observer.failed_unexpectedly(
            caller.peer if caller else None, request[_OPERATION], request[_REQUEST_ID], error
        )
        return self._error(request, BsfgError(Code.INTERNAL, "unexpected"))

    def _error(self, request: web.Request, error: BsfgError) -> web.StreamResponse:
        response = error_response(error, request[_REQUEST_ID])
        if error.code in _CLOSES:
            response.force_close()
        if error.code is Code.PARTITIONED and request.get(_CALLER) is not None:
            self._told_partitioned(request[_CALLER].peer, _address(request))
        return response

    async def _send(self, request: web.Request, response: web.StreamResponse) -> None:
        """Write it all within the deadline, so that a peer that does not read holds neither memory nor a share."""
        if not response.prepared and request.writer.output_size > 0:
            # An answer of several pages broke off: anything else now would be read as a part of it.
            _abort(request)
            return
        try:
            async with asyncio.timeout(self._limits.write_seconds):
                await response.prepare(request)
                await response.write_eof()
        except (TimeoutError, ConnectionError):
            _abort(request)


class _PeerProtocol(RequestHandler):
    """aiohttp's protocol, but for what it says to bytes that are not HTTP."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The contract's error instead of a page of HTML with the parser's view of the bytes."""
        if request.writer.output_size > 0:
            raise ConnectionError("an answer has already begun")
        wrong = BsfgError(Code.INVALID_REQUEST, "this is not a well-formed HTTP request")
        response = error_response(wrong, secrets.token_hex(8))
        response.force_close()
        return response


def _handler(route: PeerRoute) -> Handler:
    async def handle(request: web.Request) -> web.StreamResponse:
        request[_OPERATION] = route.operation
        if route.is_stream:
            request[_DEADLINE].reschedule(None)
        return await route.handle(request[_CALLER], request)

    return handle


def _certificate(request: web.Request) -> bytes:
    """The client's certificate as DER, from the connection's own TLS and nowhere else; empty if there is none."""
    tls = request.get_extra_info("ssl_object")
    return (tls.getpeercert(binary_form=True) or b"") if tls is not None else b""


def _address(request: web.Request) -> str:
    """The other side as the acceptor writes it too."""
    name = request.get_extra_info("peername") or ("unknown", 0)
    return f"[{name[0]}]:{name[1]}" if ":" in name[0] else f"{name[0]}:{name[1]}"


def _abort(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()
