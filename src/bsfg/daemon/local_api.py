"""The local API: a thin layer of JSON over :class:`LocalOperations`, on a Unix socket and, with a token, on ``local:``.

A route parses its request, calls one method and answers what it returns; nothing is decided here. Errors are
``BsfgError.as_json()`` with the status of their code (contract, sections 4 and 5).
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import json
import logging
import os
import socket
import stat
import struct
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn, Protocol

from aiohttp import hdrs, web

from bsfg.errors import BsfgError, Code

SOCKET_NAME: Final = "bsfg.sock"
BODY_BYTES_MAX: Final = 8 * 1024 * 1024
FACTS_MAX: Final = 10_000
"""The most facts in one append."""
REQUESTS_IN_FLIGHT_MAX: Final = 64
DEADLINE_SECONDS: Final = 25.0
LONG_DEADLINE_SECONDS: Final = 590.0
"""For what may move much: a fetch, a change of a stream, a reconciliation."""
HEARTBEAT_SECONDS: Final = 10.0
"""Within this time a stream of lines says something, be it an empty line."""
OPENING_SECONDS: Final = 1.0
"""How long an error may take to become an answer of its own rather than the last line of a stream."""
READER_PAUSE_SECONDS_MAX: Final = 3600.0
"""How long a reader of lines may stop reading; a person with a pager does."""
SHUTDOWN_SECONDS: Final = 1.0
RETRY_AFTER_SECONDS: Final = 5
DIGITS_MAX: Final = 19

Answer = dict[str, Any]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_CREDENTIALS: Final = struct.Struct("3i")
_LOG: Final = logging.getLogger("bsfg.local_api")


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


def build_local_application(operations: LocalOperations) -> web.Application:
    """The application for the Unix socket: every route, for this process's own user and root alone."""
    application = _application(_require_own_user)
    application.router.add_routes(_routes(operations))
    return application


def build_tcp_application(
    operations: LocalOperations,
    *,
    metrics: Callable[[], bytes],
    is_ready: Callable[[], bool],
    token: str | None,
    host_names: Collection[str] = (),
) -> web.Application:
    """The application for the ``local:`` listener.

    ``/metrics``, ``/live`` and ``/ready`` need no token; every other route exists only where there is one, and demands
    it as ``Authorization: Bearer``. A request must be addressed to an IP address, ``localhost`` or one of
    ``host_names``, so that no web page can reach it under a name of its own. Raises ``configuration`` for an empty
    token.
    """
    if token == "":
        raise BsfgError(Code.CONFIGURATION, "the local token is empty", hint="put a token in local_token_file")
    application = _application(_require_known_host(frozenset(host_names)))
    application.router.add_get("/metrics", _metrics_route(metrics))
    application.router.add_get("/live", _state_route(lambda: True))
    application.router.add_get("/ready", _state_route(is_ready))
    if token is not None:
        guarded = _routes(operations)
        application.router.add_routes(
            web.RouteDef(route.method, route.path, _with_token(route.handler, token), route.kwargs)
            for route in guarded
        )
    return application


def _application(guard: Any) -> web.Application:
    return web.Application(
        middlewares=[_answer_errors, guard, _limit_in_flight()], client_max_size=BODY_BYTES_MAX
    )


# Listeners


@dataclass(slots=True)
class LocalServer:
    """A listener that is up; ``close`` ends its requests within a second and removes what it made."""

    runner: web.AppRunner
    directory: int | None = None
    inode: int | None = None

    @property
    def port(self) -> int:
        """The TCP port that was opened."""
        return int(self.runner.addresses[0][1])

    async def close(self) -> None:
        await self.runner.cleanup()
        if self.directory is None:
            return
        with suppress(FileNotFoundError):
            if os.stat(SOCKET_NAME, dir_fd=self.directory).st_ino == self.inode:
                os.unlink(SOCKET_NAME, dir_fd=self.directory)
        os.close(self.directory)
        self.directory = None


async def serve_unix(application: web.Application, run_directory: Path) -> LocalServer:
    """Listen on ``bsfg.sock`` (0600) in the run directory (0700), however long its path is.

    A socket that nobody listens on is replaced. Raises ``configuration`` where a gateway answers on it, or where
    something else than a socket has its name.
    """
    directory = _open_private(run_directory)
    try:
        _remove_stale(directory, run_directory)
        listening = _bound(directory)
        runner = await _runner(application)
        await web.SockSite(runner, listening).start()
        return LocalServer(runner, directory, os.stat(SOCKET_NAME, dir_fd=directory).st_ino)
    except BaseException:
        os.close(directory)
        raise


def _open_private(run_directory: Path) -> int:
    run_directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    directory = os.open(run_directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    os.fchmod(directory, 0o700)
    return directory


async def serve_tcp(application: web.Application, host: str, port: int) -> LocalServer:
    """Listen on ``local:``; port 0 takes a free one. Raises ``configuration`` where the address can't be had."""
    runner = await _runner(application)
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError as error:
        await runner.cleanup()
        raise BsfgError(
            Code.CONFIGURATION,
            f"local: can't listen on {host}:{port}: {error.strerror or error}",
            hint="another program has this port, or the address is not this host's; change local: in zone.yaml",
        ) from error
    return LocalServer(runner)


async def _runner(application: web.Application) -> web.AppRunner:
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=SHUTDOWN_SECONDS)
    await runner.setup()
    return runner


def _bound(directory: int) -> socket.socket:
    # A Unix socket's address holds 107 bytes; the directory's descriptor stands in for its path.
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listening.bind(f"/proc/self/fd/{directory}/{SOCKET_NAME}")
        os.chmod(SOCKET_NAME, 0o600, dir_fd=directory)
    except BaseException:
        listening.close()
        raise
    return listening


def _remove_stale(directory: int, run_directory: Path) -> None:
    path = run_directory / SOCKET_NAME
    try:
        mode = os.stat(SOCKET_NAME, dir_fd=directory, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise BsfgError(Code.CONFIGURATION, f"{path} is not a socket", hint="remove it")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(f"/proc/self/fd/{directory}/{SOCKET_NAME}")
        except ConnectionRefusedError:
            os.unlink(SOCKET_NAME, dir_fd=directory)
            return
        except BlockingIOError:
            holder = "a process that does not answer"
        else:
            holder = f"process {_peer_credentials(probe)[0]}"
    raise BsfgError(
        Code.CONFIGURATION,
        f"another gateway serves this home: {holder} listens on {path}",
        hint="stop it first",
    )


# Guards


def _peer_credentials(connection: Any) -> tuple[int, int, int]:
    """Process, user and group at the other end of a Unix socket."""
    return _CREDENTIALS.unpack(
        connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    )


@web.middleware
async def _require_own_user(request: web.Request, handler: Handler) -> web.StreamResponse:
    connection = request.transport.get_extra_info("socket") if request.transport else None
    if connection is None:
        raise BsfgError(Code.IDENTITY_REJECTED, "the caller of the local API is gone")
    user = _peer_credentials(connection)[1]
    if user not in (0, os.geteuid()):
        raise BsfgError(
            Code.IDENTITY_REJECTED,
            f"user {user} may not use the local API: it is for the gateway's own user and root",
        )
    return await handler(request)


def _require_known_host(host_names: frozenset[str]) -> Any:
    allowed = {name.lower() for name in host_names} | {"localhost"}

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        name = _host_name(request.headers.get(hdrs.HOST, ""))
        if name not in allowed and not _is_address(name):
            raise BsfgError(
                Code.IDENTITY_REJECTED,
                "the request's Host is not an address or a name of this listener",
                hint="call it by its IP address or as localhost",
            )
        return await handler(request)

    return middleware


def _host_name(host: str) -> str:
    """The name in a Host header, without its port and an IPv6 address's brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _with_token(handler: Any, token: str) -> Handler:
    wanted = f"Bearer {token}".encode()

    async def guarded(request: web.Request) -> web.StreamResponse:
        given = request.headers.get(hdrs.AUTHORIZATION, "").encode("utf-8", "surrogateescape")
        if not hmac.compare_digest(given, wanted):
            raise BsfgError(
                Code.IDENTITY_REJECTED,
                "the local API needs its token",
                hint="send 'Authorization: Bearer' with the token of local_token_file",
            )
        response: web.StreamResponse = await handler(request)
        return response

    return guarded


def _limit_in_flight() -> Any:
    running = 0

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        nonlocal running
        if running >= REQUESTS_IN_FLIGHT_MAX:
            raise BsfgError(Code.TOO_MANY, f"{running} requests are being answered", hint="try again")
        running += 1
        try:
            return await handler(request)
        finally:
            running -= 1

    return middleware


@web.middleware
async def _answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except BsfgError as error:
        return _error_response(error)
    except web.HTTPException as error:
        return _error_response(_from_http(request, error), status=error.status)
    except Exception:
        # The traceback is for the log alone; the operator gets a sentence.
        _LOG.exception("local API: %s failed", request.rel_url.path)
        return _error_response(BsfgError(Code.INTERNAL, "unexpected error", hint="see the gateway's log"))


def _from_http(request: web.Request, error: web.HTTPException) -> BsfgError:
    what = f"{request.method} {request.path}"
    if error.status == Code.TOO_LARGE.http_status:
        return BsfgError(Code.TOO_LARGE, f"{what}: the body is larger than {BODY_BYTES_MAX} bytes")
    code = Code.NOT_FOUND if error.status == Code.NOT_FOUND.http_status else Code.INVALID_REQUEST
    return BsfgError(code, f"{what}: {error.reason}")


def _error_response(error: BsfgError, status: int | None = None) -> web.Response:
    status = status or error.code.http_status
    retry = {"Retry-After": str(RETRY_AFTER_SECONDS)} if status == Code.UNAVAILABLE.http_status else None
    return web.json_response(error.as_json(), status=status, headers=retry)


# Routes


def _metrics_route(metrics: Callable[[], bytes]) -> Handler:
    async def route(request: web.Request) -> web.StreamResponse:
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
        return await _answer(request, operation())

    return route


def _of_peer(operation: Callable[[str], Awaitable[Answer]], seconds: float = DEADLINE_SECONDS) -> Handler:
    async def route(request: web.Request) -> web.StreamResponse:
        Parameters.of_query(request).finish()
        return await _answer(request, operation(request.match_info["peer"]), seconds)

    return route


async def _answer(
    request: web.Request, result: Awaitable[Answer], seconds: float = DEADLINE_SECONDS
) -> web.Response:
    try:
        async with asyncio.timeout(seconds):
            return web.json_response(await result)
    except TimeoutError:
        raise BsfgError(
            Code.TIMED_OUT,
            f"{request.method} {request.path}: not done within {seconds:.0f} s; what it began may still take effect",
        ) from None


class _Routes:
    """The routes that take more than a peer's name."""

    def __init__(self, operations: LocalOperations) -> None:
        self._operations = operations

    async def stream_info(self, request: web.Request) -> web.StreamResponse:
        query = Parameters.of_query(request)
        peer = query.text_or_none("peer")
        query.finish()
        return await _answer(request, self._operations.stream_info(request.match_info["stream"], peer))

    async def stream_apply(self, request: web.Request) -> web.StreamResponse:
        body = await Parameters.of_body(request)
        reason = body.text("reason")
        body.finish()
        applied = self._operations.stream_apply(request.match_info["stream"], reason)
        return await _answer(request, applied, LONG_DEADLINE_SECONDS)

    async def consumer_info(self, request: web.Request) -> web.StreamResponse:
        query = Parameters.of_query(request)
        stream, peer, consumer = (
            query.text("stream"),
            query.text_or_none("peer"),
            query.text_or_none("consumer"),
        )
        query.finish()
        return await _answer(request, self._operations.consumer_info(stream, peer, consumer))

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
        return await _answer(request, self._operations.consumer_next(**wanted), DEADLINE_SECONDS)

    async def append(self, request: web.Request) -> web.StreamResponse:
        query, body = Parameters.of_query(request), await Parameters.of_body(request)
        stream, facts = query.text("stream"), body.objects("facts")
        query.finish()
        body.finish()
        if len(facts) > FACTS_MAX:
            raise BsfgError(Code.TOO_LARGE, f"append: {len(facts)} facts in one call; at most {FACTS_MAX}")
        return await _answer(request, self._operations.append(stream, facts))

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
        return await _answer_lines(request, self._operations.read(**wanted))

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
        return await _answer(request, self._operations.fetch(**wanted), LONG_DEADLINE_SECONDS)

    async def cursor(self, request: web.Request) -> web.StreamResponse:
        Parameters.of_query(request).finish()
        names = request.match_info
        return await _answer(request, self._operations.cursor(names["peer"], names["stream"]))

    async def accept_gap(self, request: web.Request) -> web.StreamResponse:
        body, names = await Parameters.of_body(request), request.match_info
        reason, dry_run = body.text("reason"), body.flag("dry_run", default=False)
        body.finish()
        accepting = self._operations.accept_gap(names["peer"], names["stream"], reason=reason, dry_run=dry_run)
        return await _answer(request, accepting, LONG_DEADLINE_SECONDS)

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
        return await _answer(request, accepting, LONG_DEADLINE_SECONDS)

    async def rewind(self, request: web.Request) -> web.StreamResponse:
        body, names = await Parameters.of_body(request), request.match_info
        reason, to = body.text("reason"), body.integer_or_none("to")
        if body.flag("abort", default=False):
            body.finish()
            aborting = self._operations.abort_rewind(names["peer"], names["stream"], reason=reason)
            return await _answer(request, aborting, LONG_DEADLINE_SECONDS)
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
        return await _answer(request, rewinding, LONG_DEADLINE_SECONDS)

    async def new_epoch(self, request: web.Request) -> web.StreamResponse:
        body = await Parameters.of_body(request)
        reason, dry_run = body.text("reason"), body.flag("dry_run", default=False)
        body.finish()
        beginning = self._operations.new_epoch(request.match_info["stream"], reason=reason, dry_run=dry_run)
        return await _answer(request, beginning, LONG_DEADLINE_SECONDS)

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
        return await _answer(request, self._operations.drop_stream(stream, **wanted), LONG_DEADLINE_SECONDS)

    async def partition(self, request: web.Request) -> web.StreamResponse:
        body = await Parameters.of_body(request)
        peer, reason, seconds = body.text("peer"), body.text("reason"), body.number_or_none("seconds")
        body.finish()
        return await _answer(request, self._operations.partition(peer, reason, seconds))

    async def notify(self, request: web.Request) -> web.StreamResponse:
        body = await Parameters.of_body(request)
        peer, stream = body.text("peer"), body.text("stream")
        body.finish()
        return await _answer(request, self._operations.notify(peer, stream))


# Requests


class Parameters:
    """The named values of one request: each is taken by its type, and what nobody took is ``unknown_field``."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self._values = dict(values)

    @classmethod
    def of_query(cls, request: web.Request) -> Parameters:
        names = [name for name, _ in request.query.items()]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise BsfgError(Code.INVALID_REQUEST, f"{request.path}: {twice!a} is given twice")
        return cls(request.query)

    @classmethod
    async def of_body(cls, request: web.Request) -> Parameters:
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                values = json.loads(await request.read())
        except TimeoutError:
            raise BsfgError(Code.TIMED_OUT, f"{request.path}: the body did not arrive") from None
        except (ValueError, RecursionError) as error:
            raise BsfgError(Code.INVALID_REQUEST, f"{request.path}: the body is not JSON: {error}") from None
        if not isinstance(values, dict):
            raise BsfgError(Code.INVALID_REQUEST, f"{request.path}: the body is not a JSON object")
        return cls(values)

    def text(self, name: str) -> str:
        text = self.text_or_none(name)
        if not text:
            raise BsfgError(Code.INVALID_REQUEST, f"{name} is missing")
        return text

    def text_or_none(self, name: str) -> str | None:
        value = self._values.pop(name, None)
        return value if value is None or isinstance(value, str) else _reject(name, value, "text")

    def integer_or_none(self, name: str) -> int | None:
        value = self._values.pop(name, None)
        if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) <= DIGITS_MAX:
            value = int(value)
        if value is None or (type(value) is int and value >= 0):
            return value
        return _reject(name, value, "a whole number of 0 or more")

    def number_or_none(self, name: str) -> float | None:
        value = self._values.pop(name, None)
        if value is None:
            return None
        if type(value) in (int, float) and 0 <= value < float("inf"):
            return float(value)
        return _reject(name, value, "a number of 0 or more")

    def flag(self, name: str, *, default: bool) -> bool:
        value = self._values.pop(name, default)
        if value in ("0", "1"):
            return bool(value == "1")
        return value if isinstance(value, bool) else _reject(name, value, "true or false (in a query 1 or 0)")

    def objects(self, name: str) -> list[Answer]:
        value = self._values.pop(name, None)
        if isinstance(value, list) and all(isinstance(item, dict) for item in value):
            return value
        return _reject(name, value, "a list of objects")

    def finish(self) -> None:
        """Every value was taken, else ``unknown_field``."""
        if self._values:
            name = next(iter(self._values))
            raise BsfgError(Code.UNKNOWN_FIELD, f"{name!a} is not a field of this request", field=name)


def _reject(name: str, value: Any, wanted: str) -> NoReturn:
    raise BsfgError(Code.INVALID_REQUEST, f"{name} is not {wanted} but {type(value).__name__}")


# Lines


async def _answer_lines(request: web.Request, facts: AsyncGenerator[Answer, None]) -> web.StreamResponse:
    """Facts as JSON, one a line; an error before the first line is an answer of its own, a later one the last line."""
    lines = _Lines(request)
    tasks = [asyncio.create_task(_send_all(lines, facts)), asyncio.create_task(_keep_alive(lines))]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    except BsfgError as error:
        if not lines.response.prepared:
            raise
        await lines.write(error.as_json())
    except ConnectionError:
        pass  # The reader has left, which is how most of them end.
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await facts.aclose()
    return lines.response


async def _send_all(lines: _Lines, facts: AsyncGenerator[Answer, None]) -> None:
    async for fact in facts:
        await lines.write(fact)
    await lines.open()


async def _keep_alive(lines: _Lines) -> None:
    await asyncio.sleep(OPENING_SECONDS)
    while True:
        await lines.write(None)
        await asyncio.sleep(HEARTBEAT_SECONDS)


class _Lines:
    """A response of JSON lines that two tasks write to; it is opened by the first line."""

    def __init__(self, request: web.Request) -> None:
        self.response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        self._request = request
        self._turn = asyncio.Lock()

    async def open(self) -> None:
        async with self._turn:
            await self._open()

    async def write(self, line: Answer | None) -> None:
        """Send one line, an empty one for None; raises ConnectionError where nobody reads any more."""
        encoded = b"\n" if line is None else json.dumps(line).encode() + b"\n"
        async with self._turn:
            await self._open()
            try:
                async with asyncio.timeout(READER_PAUSE_SECONDS_MAX):
                    await self.response.write(encoded)
            except TimeoutError:
                raise ConnectionAbortedError("the reader of the lines has stopped reading") from None

    async def _open(self) -> None:
        if not self.response.prepared:
            await self.response.prepare(self._request)
