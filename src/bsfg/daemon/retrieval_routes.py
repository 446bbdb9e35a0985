"""The local API's routes for artifacts of peers: a request parsed, one method called, its answer returned."""

from __future__ import annotations

from typing import Final
from urllib.parse import quote

from aiohttp import web

from bsfg.daemon.local_requests import Parameters, answer
from bsfg.daemon.retrieval_operations import RetrievalOperations

FETCH_DEADLINE_SECONDS: Final = 590.0


def retrieval_routes(operations: RetrievalOperations) -> list[web.RouteDef]:
    """``POST /v1/artifacts/fetch`` and ``/retry``, ``GET /v1/artifacts/content``."""
    routes = _Routes(operations)
    return [
        web.post("/v1/artifacts/fetch", routes.fetch),
        web.post("/v1/artifacts/retry", routes.retry),
        web.get("/v1/artifacts/content", routes.content),
    ]


class _Routes:
    def __init__(self, operations: RetrievalOperations) -> None:
        self._operations = operations

    async def fetch(self, request: web.Request) -> web.StreamResponse:
        body = await Parameters.of_body(request)
        uri, peer = body.text("uri"), body.text_or_none("peer")
        body.finish()
        return await answer(request, self._operations.fetch(uri, peer), FETCH_DEADLINE_SECONDS)

    async def retry(self, request: web.Request) -> web.StreamResponse:
        body = await Parameters.of_body(request)
        uri, peer = body.text_or_none("uri"), body.text_or_none("peer")
        body.finish()
        return await answer(request, self._operations.retry(uri, peer))

    async def content(self, request: web.Request) -> web.StreamResponse:
        """The bytes, however many; a failure in their middle ends the connection, and the taker sees it is short."""
        query = Parameters.of_query(request)
        uri = query.text("uri")
        query.finish()
        stored, pieces = await self._operations.content(uri)
        response = web.StreamResponse(
            headers={
                "Content-Type": "application/octet-stream",
                "Content-Length": str(stored.reference.size),
                "X-Content-Type-Options": "nosniff",
                "Content-Disposition": f"attachment; filename*=UTF-8''{quote(stored.reference.sha256)}",
            }
        )
        await response.prepare(request)
        async for piece in pieces:
            await response.write(piece)
        await response.write_eof()
        return response
