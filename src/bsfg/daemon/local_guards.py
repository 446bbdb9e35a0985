"""Who may use the local API, from where, and how its errors look."""

from __future__ import annotations

import hmac
import logging
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from typing import Any, Final

from aiohttp import hdrs, web

from bsfg.daemon.caller import note_caller
from bsfg.errors import BsfgError, Code
from bsfg.transport.resolver import is_address

REQUESTS_IN_FLIGHT_MAX: Final = 64
RETRY_AFTER_SECONDS: Final = 5
_CREDENTIALS: Final = struct.Struct("3i")
_LOG: Final = logging.getLogger("bsfg.local_api")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
BODY_BYTES_MAX: Final = 8 * 1024 * 1024


def peer_credentials(connection: Any) -> tuple[int, int, int]:
    """Process, user and group at the other end of a Unix socket."""
    return _CREDENTIALS.unpack(
        connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    )


@web.middleware
async def require_own_user(request: web.Request, handler: Handler) -> web.StreamResponse:
    connection = request.transport.get_extra_info("socket") if request.transport else None
    if connection is None:
        raise BsfgError(Code.IDENTITY_REJECTED, "the caller of the local API is gone")
    user = peer_credentials(connection)[1]
    if user not in (0, os.geteuid()):
        raise BsfgError(
            Code.IDENTITY_REJECTED,
            f"user {user} may not use the local API: it is for the gateway's own user and root",
        )
    # By number: looking a name up may ask a directory server, and the loop would wait for it.
    note_caller(f"user {user}")
    return await handler(request)


def require_known_host(host_names: frozenset[str]) -> Any:
    allowed = {name.lower() for name in host_names} | {"localhost"}

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        name = _host_name(request.headers.get(hdrs.HOST, ""))
        if name not in allowed and not is_address(name):
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


def with_token(handler: Any, token: str) -> Handler:
    wanted = f"Bearer {token}".encode()

    async def guarded(request: web.Request) -> web.StreamResponse:
        given = request.headers.get(hdrs.AUTHORIZATION, "").encode("utf-8", "surrogateescape")
        if not hmac.compare_digest(given, wanted):
            raise BsfgError(
                Code.IDENTITY_REJECTED,
                "the local API needs its token",
                hint="send 'Authorization: Bearer' with the token of local_token_file",
            )
        note_caller(f"token from {request.remote}")
        response: web.StreamResponse = await handler(request)
        return response

    return guarded


def limit_in_flight() -> Any:
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
async def answer_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
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
