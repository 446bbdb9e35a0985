"""The local API's routes for this zone's own artifacts: a request parsed, one method called, its answer returned."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

from aiohttp import ClientPayloadError, web

from bsfg.daemon.artifact_operations import ArtifactOperations
from bsfg.daemon.local_requests import Parameters, answer
from bsfg.errors import BsfgError, Code

PIECE_BYTES: Final = 256 * 1024
SEARCH_SECONDS_MAX: Final = 590.0


def artifact_local_routes(operations: ArtifactOperations) -> list[web.RouteDef]:
    """``POST`` and ``GET /v1/artifacts``, ``POST /v1/artifacts/gc``."""
    routes = _Routes(operations)
    return [
        web.post("/v1/artifacts", routes.put),
        web.get("/v1/artifacts", routes.listed),
        web.post("/v1/artifacts/gc", routes.collect),
    ]


class _Routes:
    def __init__(self, operations: ArtifactOperations) -> None:
        self._operations = operations

    async def put(self, request: web.Request) -> web.StreamResponse:
        """The body may have any length; it is read as fast as it is stored."""
        query = Parameters.of_query(request)
        artifact_type, key, media_type = (
            query.text("type"),
            query.text("key"),
            query.text_or_none("media_type"),
        )
        query.finish()
        stored = await self._operations.put(_pieces(request), artifact_type, key, media_type)
        return web.json_response(stored)

    async def listed(self, request: web.Request) -> web.StreamResponse:
        query = Parameters.of_query(request)
        peer, state = query.text_or_none("peer"), query.text_or_none("state")
        query.finish()
        return await answer(request, self._operations.listed(peer, state))

    async def collect(self, request: web.Request) -> web.StreamResponse:
        body = await Parameters.of_body(request)
        dry_run, reason = body.flag("dry_run", default=True), body.text_or_none("reason")
        older_than = body.integer_or_none("older_than_seconds")
        body.finish()
        collecting = self._operations.collect(dry_run=dry_run, reason=reason, older_than_seconds=older_than)
        return await answer(request, collecting, SEARCH_SECONDS_MAX)


async def _pieces(request: web.Request) -> AsyncIterator[bytes]:
    """The body, of exactly the length that it says it has: what breaks off is no artifact."""
    came = 0
    try:
        async for piece in request.content.iter_chunked(PIECE_BYTES):
            came += len(piece)
            yield piece
    except (ClientPayloadError, ConnectionError) as error:
        raise _broken_off(came) from error
    if request.content_length is not None and came != request.content_length:
        raise _broken_off(came)


def _broken_off(came: int) -> BsfgError:
    return BsfgError(
        Code.INVALID_REQUEST,
        f"the bytes broke off after {came}; nothing of them is stored",
        hint="put it again",
    )
