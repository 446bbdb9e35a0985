"""The local API: a thin layer of JSON over :class:`LocalOperations`, on a Unix socket and, with a token, on ``local:``.

A route parses its request, calls one method and answers what it returns; nothing is decided here. Errors are
``BsfgError.as_json()`` with the status of their code (contract, sections 4 and 5).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Sequence
from typing import Any, Final, Protocol

from aiohttp import hdrs, web

from bsfg.daemon.local_guards import (
    BODY_BYTES_MAX,
    Handler,
    answer_errors,
    limit_in_flight,
    require_known_host,
    require_own_user,
    with_token,
)
from bsfg.daemon.local_lines import answer_lines
from bsfg.daemon.local_requests import DEADLINE_SECONDS, Answer, Parameters, answer
from bsfg.errors import BsfgError, Code

FACTS_MAX: Final = 10_000
"""The most facts in one append."""
LONG_DEADLINE_SECONDS: Final = 590.0
"""For what may move much: a fetch, a change of a stream, a reconciliation."""


class LocalOperations(Protocol):
    """What the local API calls; each method returns JSON-able values and raises only :class:`BsfgError`."""

    async def status(self) -> Answer: ...
    async def health(self) -> Answer: ...
    async def peers(self) -> Answer: ...
    async def peer_check(self, peer: str, /) -> Answer: ...
    async def peer_exports(self, peer: str, /) -> Answer: ...
    async def peer_streams(self, peer: str, /) -> Answer: ...
    async def streams(self) -> Answer: ...
    async def stream_info(self, stream: str, peer: str | None, /) -> Answer: ...
    async def stream_apply(self, stream: str, reason: str, /) -> Answer: ...
    async def consumer_info(self, stream: str, peer: str | None, consumer: str | None, /) -> Answer: ...
    async def consumer_next(
        self,
        *,
        stream: str,
        peer: str | None,
        consumer: str | None,
        count: int,
        ack: bool,
        wait_seconds: float,
    ) -> Answer: ...
    async def append(self, stream: str, facts: list[Answer], /) -> Answer: ...
    async def append_lines(
        self, stream: str, pieces: AsyncIterator[bytes], subject: str | None, is_envelope: bool, /
    ) -> Answer: ...
    def read(
        self, *, stream: str, peer: str | None, from_sequence: int | None, follow: bool, count: int | None
    ) -> AsyncGenerator[Answer, None]: ...
    async def fetch(
        self, *, peer: str, stream: str, cursor_init: str | None, init_timestamp: str | None, dry_run: bool
    ) -> Answer: ...
    async def cursors(self) -> Answer: ...
    async def cursor(self, peer: str, stream: str, /) -> Answer: ...
    async def active_configuration(self) -> Answer: ...
    async def reload(self) -> Answer: ...
    async def accept_gap(self, peer: str, stream: str, /, *, reason: str, dry_run: bool) -> Answer: ...
    async def accept_epoch(
        self, peer: str, stream: str, /, *, start: str, init_timestamp: str | None, reason: str, dry_run: bool
    ) -> Answer: ...
    async def rewind(
        self, peer: str, stream: str, /, *, to: int, reason: str, accept_differences: bool, dry_run: bool
    ) -> Answer: ...
    async def abort_rewind(self, peer: str, stream: str, /, *, reason: str) -> Answer: ...
    async def new_epoch(self, stream: str, /, *, reason: str, dry_run: bool) -> Answer: ...
    async def drop_stream(
        self, stream: str, /, *, peer: str | None, generation: int | None, reason: str, dry_run: bool
    ) -> Answer: ...
    async def partition(self, peer: str, reason: str, seconds: float | None, /) -> Answer: ...
    async def reconcile(self, peer: str, /) -> Answer: ...
    async def notify(self, peer: str, stream: str, /) -> Answer: ...


def build_local_application(
    operations: LocalOperations, *, further: Sequence[web.RouteDef] = ()
) -> web.Application:
    """The application for the Unix socket: every route, for this process's own user and root alone.

    ``further`` are routes of the gateway's other parts, each from a module of its own.
    """
    application = _application(require_own_user)
    application.router.add_routes([*_routes(operations), *further])
    return application


def build_tcp_application(
    operations: LocalOperations,
    *,
    metrics: Callable[[], bytes],
    is_ready: Callable[[], bool],
    token: str | None,
    host_names: Collection[str] = (),
    further: Sequence[web.RouteDef] = (),
    scraped: Callable[[str], None] = lambda agent: None,
    page: Sequence[web.RouteDef] = (),
) -> web.Application:
    """The application for the ``local:`` listener.

    ``/metrics``, ``/live`` and ``/ready`` need no token, and ``page`` has sessions of its own; every other route
    exists only where there is a token, and demands it as ``Authorization: Bearer``. A request must be addressed to an
    IP address, ``localhost`` or one of ``host_names``, so that no web page can reach it under a name of its own.
    ``scraped`` is told who asked for the metrics. Raises ``configuration`` for an empty token.
    """
    if token == "":
        raise BsfgError(
            Code.CONFIGURATION, "the local token is empty", hint="put a token in local_token_file"
        )
    application = _application(require_known_host(frozenset(host_names)))
    application.router.add_get("/metrics", _metrics_route(metrics, scraped))
    application.router.add_get("/live", _state_route(lambda: True))
    application.router.add_get("/ready", _state_route(is_ready))
    application.router.add_routes(page)
    if token is not None:
        guarded = [*_routes(operations), *further]
        application.router.add_routes(
            web.RouteDef(route.method, route.path, with_token(route.handler, token), route.kwargs)
            for route in guarded
        )
    return application


def _application(guard: Any) -> web.Application:
    return web.Application(
        middlewares=[answer_errors, guard, limit_in_flight()], client_max_size=BODY_BYTES_MAX
    )


def _metrics_route(metrics: Callable[[], bytes], scraped: Callable[[str], None]) -> Handler:
    async def route(request: web.Request) -> web.StreamResponse:
        scraped(request.headers.get(hdrs.USER_AGENT, ""))
        return web.Response(
            body=metrics(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        )

    return route


def _state_route(holds: Callable[[], bool]) -> Handler:
    async def route(request: web.Request) -> web.StreamResponse:
        return web.Response(text="ok\n") if holds() else web.Response(text="not ready\n", status=503)

    return route


def _routes(operations: LocalOperations) -> list[web.RouteDef]:
    routes = _Routes(operations)
    return [
        web.get("/v1/status", _plain(operations.status)),
        web.get("/v1/health", _plain(operations.health)),
        web.get("/v1/peers", _plain(operations.peers)),
        web.get("/v1/peers/{peer}/check", _of_peer(operations.peer_check)),
        web.get("/v1/peers/{peer}/exports", _of_peer(operations.peer_exports)),
        web.get("/v1/peers/{peer}/streams", _of_peer(operations.peer_streams)),
        web.get("/v1/streams", _plain(operations.streams)),
        web.get("/v1/streams/{stream}", routes.stream_info),
        web.post("/v1/streams/{stream}/apply", routes.stream_apply),
        web.get("/v1/consumers", routes.consumer_info),
        web.post("/v1/consumers/next", routes.consumer_next),
        web.post("/v1/append", routes.append),
        web.post("/v1/append/ndjson", routes.append_lines),
        web.get("/v1/read", routes.read),
        web.post("/v1/fetch", routes.fetch),
        web.get("/v1/cursors", _plain(operations.cursors)),
        web.get("/v1/cursors/{peer}/{stream}", routes.cursor),
        web.post("/v1/cursors/{peer}/{stream}/accept-gap", routes.accept_gap),
        web.post("/v1/cursors/{peer}/{stream}/accept-epoch", routes.accept_epoch),
        web.post("/v1/cursors/{peer}/{stream}/rewind", routes.rewind),
        web.post("/v1/streams/drop", routes.drop_stream),
        web.post("/v1/streams/{stream}/new-epoch", routes.new_epoch),
        web.get("/v1/config", _plain(operations.active_configuration)),
        web.post("/v1/config/reload", _plain(operations.reload)),
        web.post("/v1/partitions", routes.partition),
        web.post("/v1/notifications", routes.notify),
        web.delete("/v1/partitions/{peer}", _of_peer(operations.reconcile, LONG_DEADLINE_SECONDS)),
    ]


def _plain(operation: Callable[[], Awaitable[Answer]]) -> Handler:
    async def route(request: web.Request) -> web.StreamResponse:
        Parameters.of_query(request).finish()
        return await answer(request, operation())

    return route


def _of_peer(operation: Callable[[str], Awaitable[Answer]], seconds: float = DEADLINE_SECONDS) -> Handler:
    async def route(request: web.Request) -> web.StreamResponse:
        Parameters.of_query(request).finish()
        return await answer(request, operation(request.match_info["peer"]), seconds)

    return route


class _Routes:
    """The routes that take more than a peer's name."""

    def __init__(self, operations: LocalOperations) -> None:
        self._operations = operations

    async def stream_info(self, request: web.Request) -> web.StreamResponse:
        query = Parameters.of_query(request)
        peer = query.text_or_none("peer")
        query.finish()
        return await answer(request, self._operations.stream_info(request.match_info["stream"], peer))

    async def stream_apply(self, request: web.Request) -> web.StreamResponse:
        body = await Parameters.of_body(request)
        reason = body.text("reason")
        body.finish()
        applied = self._operations.stream_apply(request.match_info["stream"], reason)
        return await answer(request, applied, LONG_DEADLINE_SECONDS)

    async def consumer_info(self, request: web.Request) -> web.StreamResponse:
        query = Parameters.of_query(request)
        stream, peer, consumer = (
            query.text("stream"),
            query.text_or_none("peer"),
            query.text_or_none("consumer"),
        )
        query.finish()
        return await answer(request, self._operations.consumer_info(stream, peer, consumer))

    async def consumer_next(self, request: web.Request) -> web.StreamResponse:
        body = await Parameters.of_body(request)
        wanted: dict[str, Any] = {
            "stream": body.text("stream"),
            "peer": body.text_or_none("peer"),
            "consumer": body.text_or_none("consumer"),
            "count": body.integer_or_none("count") or 1,
            "ack": body.flag("ack", default=True),
            "wait_seconds": body.number_or_none("wait_seconds") or 0.0,
        }
        body.finish()
        return await answer(request, self._operations.consumer_next(**wanted), DEADLINE_SECONDS)

    async def append(self, request: web.Request) -> web.StreamResponse:
        query, body = Parameters.of_query(request), await Parameters.of_body(request)
        stream, facts = query.text("stream"), body.objects("facts")
        query.finish()
        body.finish()
        if len(facts) > FACTS_MAX:
            raise BsfgError(Code.TOO_LARGE, f"append: {len(facts)} facts in one call; at most {FACTS_MAX}")
        return await answer(request, self._operations.append(stream, facts))

    async def append_lines(self, request: web.Request) -> web.StreamResponse:
        """The body may have any length and any pauses; it is read as fast as its lines are stored."""
        query = Parameters.of_query(request)
        stream, subject = query.text("stream"), query.text_or_none("subject")
        is_envelope = query.flag("envelope", default=False)
        query.finish()
        pieces = request.content.iter_any()
        return web.json_response(await self._operations.append_lines(stream, pieces, subject, is_envelope))

    async def read(self, request: web.Request) -> web.StreamResponse:
        query = Parameters.of_query(request)
        wanted: dict[str, Any] = {
            "stream": query.text("stream"),
            "peer": query.text_or_none("peer"),
            "from_sequence": query.integer_or_none("from"),
            "follow": query.flag("follow", default=False),
            "count": query.integer_or_none("count"),
        }
        query.finish()
        return await answer_lines(request, self._operations.read(**wanted))

    async def fetch(self, request: web.Request) -> web.StreamResponse:
        body = await Parameters.of_body(request)
        wanted: dict[str, Any] = {
            "peer": body.text("peer"),
            "stream": body.text("stream"),
            "cursor_init": body.text_or_none("cursor_init"),
            "init_timestamp": body.text_or_none("init_timestamp"),
            "dry_run": body.flag("dry_run", default=False),
        }
        body.finish()
        return await answer(request, self._operations.fetch(**wanted), LONG_DEADLINE_SECONDS)

    async def cursor(self, request: web.Request) -> web.StreamResponse:
        Parameters.of_query(request).finish()
        names = request.match_info
        return await answer(request, self._operations.cursor(names["peer"], names["stream"]))

    async def accept_gap(self, request: web.Request) -> web.StreamResponse:
        body, names = await Parameters.of_body(request), request.match_info
        reason, dry_run = body.text("reason"), body.flag("dry_run", default=False)
        body.finish()
        accepting = self._operations.accept_gap(
            names["peer"], names["stream"], reason=reason, dry_run=dry_run
        )
        return await answer(request, accepting, LONG_DEADLINE_SECONDS)

    async def accept_epoch(self, request: web.Request) -> web.StreamResponse:
        body, names = await Parameters.of_body(request), request.match_info
        wanted: dict[str, Any] = {
            "start": body.text("from"),
            "init_timestamp": body.text_or_none("init_timestamp"),
            "reason": body.text("reason"),
            "dry_run": body.flag("dry_run", default=False),
        }
        body.finish()
        accepting = self._operations.accept_epoch(names["peer"], names["stream"], **wanted)
        return await answer(request, accepting, LONG_DEADLINE_SECONDS)

    async def rewind(self, request: web.Request) -> web.StreamResponse:
        body, names = await Parameters.of_body(request), request.match_info
        reason, to = body.text("reason"), body.integer_or_none("to")
        if body.flag("abort", default=False):
            body.finish()
            aborting = self._operations.abort_rewind(names["peer"], names["stream"], reason=reason)
            return await answer(request, aborting, LONG_DEADLINE_SECONDS)
        if to is None:
            raise BsfgError(Code.INVALID_REQUEST, "to is missing")
        wanted: dict[str, Any] = {
            "to": to,
            "reason": reason,
            "accept_differences": body.flag("accept_differences", default=False),
            "dry_run": body.flag("dry_run", default=False),
        }
        body.finish()
        rewinding = self._operations.rewind(names["peer"], names["stream"], **wanted)
        return await answer(request, rewinding, LONG_DEADLINE_SECONDS)

    async def new_epoch(self, request: web.Request) -> web.StreamResponse:
        body = await Parameters.of_body(request)
        reason, dry_run = body.text("reason"), body.flag("dry_run", default=False)
        body.finish()
        beginning = self._operations.new_epoch(request.match_info["stream"], reason=reason, dry_run=dry_run)
        return await answer(request, beginning, LONG_DEADLINE_SECONDS)

    async def drop_stream(self, request: web.Request) -> web.StreamResponse:
        body = await Parameters.of_body(request)
        stream = body.text("stream")
        wanted: dict[str, Any] = {
            "peer": body.text_or_none("peer"),
            "generation": body.integer_or_none("generation"),
            "reason": body.text("reason"),
            "dry_run": body.flag("dry_run", default=False),
        }
        body.finish()
        return await answer(request, self._operations.drop_stream(stream, **wanted), LONG_DEADLINE_SECONDS)

    async def partition(self, request: web.Request) -> web.StreamResponse:
        body = await Parameters.of_body(request)
        peer, reason, seconds = body.text("peer"), body.text("reason"), body.number_or_none("seconds")
        body.finish()
        return await answer(request, self._operations.partition(peer, reason, seconds))

    async def notify(self, request: web.Request) -> web.StreamResponse:
        body = await Parameters.of_body(request)
        peer, stream = body.text("peer"), body.text("stream")
        body.finish()
        return await answer(request, self._operations.notify(peer, stream))
