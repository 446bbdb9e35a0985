"""``GET`` and ``HEAD /v1/artifacts?uri=``: our artifacts for peers that may have them (contract 4; runbook 7.2).

What a peer may not have looks the same whether it is there or not (I31). Bytes leave as they are read, so that an
artifact of any size takes the memory of one piece; a permission that ends ends the answer, too (I34).
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Final

from aiohttp import hdrs, web

from bsfg.errors import BsfgError, Code
from bsfg.model.artifact import ArtifactUri, is_media_type, parse_artifact_uri
from bsfg.model.policy import ReadArtifact
from bsfg.ports import ArtifactStore, StoredArtifact
from bsfg.tasks import end_tasks
from bsfg.transport.access import PeerCaller, artifact_denied
from bsfg.transport.answers import BareResponse, json_response
from bsfg.transport.byte_range import ByteRange, NoSuchRange, parse_range
from bsfg.transport.routes import PeerRoute, Quota

PATH: Final = "/v1/artifacts"
OPERATION: Final = "artifacts"
MEDIA_TYPE_DEFAULT: Final = "application/octet-stream"
PIECE_BYTES_MAX: Final = 64 * 1024
"""What is written at once: the least rate is held against so much."""

Presign = Callable[[StoredArtifact], Awaitable[str]]


class ArtifactRoutes:
    """The handlers around one :class:`ArtifactStore`."""

    def __init__(
        self,
        store: ArtifactStore,
        own_bucket: str,
        streams_per_peer: int,
        bytes_per_second_min: int,
        presign: Callable[[], Presign | None] = lambda: None,
    ) -> None:
        """``presign`` is asked at each request: where it gives a function, peers are sent to the address it makes."""
        self._store = store
        self._own_bucket = own_bucket
        self._streams = Quota("artifacts", streams_per_peer)
        self._piece_seconds_max = PIECE_BYTES_MAX / bytes_per_second_min
        self._presign = presign

    def routes(self) -> list[PeerRoute]:
        return [
            PeerRoute("GET", PATH, OPERATION, self.get, is_stream=True),
            PeerRoute("HEAD", PATH, OPERATION, self.head),
        ]

    async def head(self, caller: PeerCaller, request: web.Request) -> web.StreamResponse:
        artifact = await self._demanded(caller, request)
        headers = _headers(artifact) | {hdrs.CONTENT_LENGTH: str(artifact.reference.size)}
        return BareResponse(headers=headers)

    async def get(self, caller: PeerCaller, request: web.Request) -> web.StreamResponse:
        with self._streams.hold(caller.peer):
            artifact = await self._demanded(caller, request)
            if (presign := self._presign()) is not None:
                address = await presign(artifact)
                caller.demand(ReadArtifact(artifact.reference.uri.artifact_type))
                headers = {"Location": address, "Digest": _digest(artifact), "Cache-Control": "no-store"}
                return BareResponse(status=307, headers=headers)
            size = artifact.reference.size
            try:
                wanted = parse_range(_range_header(request, artifact), size)
            except NoSuchRange as error:
                return _no_such_range(str(error), size)
            return await self._send(caller, request, artifact, wanted)

    async def _demanded(self, caller: PeerCaller, request: web.Request) -> StoredArtifact:
        """The artifact, if the caller may have it and it is there."""
        uri = _uri(request)
        if uri.bucket != self._own_bucket:
            raise artifact_denied()
        wish = ReadArtifact(uri.artifact_type)
        caller.demand(wish)
        artifact = await self._store.find(uri)
        caller.demand(wish)
        if artifact is None:
            raise BsfgError(
                Code.ARTIFACT_NOT_FOUND,
                f"there is no artifact {uri} here",
                hint="it may come later; its facts don't wait for it",
            )
        return artifact

    async def _send(
        self, caller: PeerCaller, request: web.Request, artifact: StoredArtifact, wanted: ByteRange | None
    ) -> web.StreamResponse:
        size = artifact.reference.size
        part = wanted or ByteRange(0, size)
        response = web.StreamResponse(status=200 if wanted is None else 206, headers=_headers(artifact))
        response.content_length = part.end - part.start
        if wanted is not None:
            response.headers[hdrs.CONTENT_RANGE] = wanted.content_range(size)
        await response.prepare(request)
        wish = ReadArtifact(artifact.reference.uri.artifact_type)
        sending = asyncio.create_task(self._write(response, artifact, part))
        watching = asyncio.create_task(_until_denied(caller, wish))
        try:
            await asyncio.wait((sending, watching), return_when=asyncio.FIRST_COMPLETED)
            for task in (watching, sending):
                if task.done():
                    await task
        finally:
            await end_tasks(sending, watching)
        return response

    async def _write(self, response: web.StreamResponse, artifact: StoredArtifact, part: ByteRange) -> None:
        now = asyncio.get_running_loop().time
        # One deadline for all writes, moved on: one of its own for each costs as much as the write.
        async with (
            asyncio.timeout(None) as deadline,
            aclosing(self._store.read(artifact, part.start, part.end)) as pieces,
        ):
            async for read in pieces:
                whole = memoryview(read)
                for offset in range(0, len(whole), PIECE_BYTES_MAX):
                    deadline.reschedule(now() + self._piece_seconds_max)
                    await response.write(whole[offset : offset + PIECE_BYTES_MAX])
                # What the store takes for the next is not the peer's.
                deadline.reschedule(None)
            deadline.reschedule(now() + self._piece_seconds_max)
            await response.write_eof()


async def _until_denied(caller: PeerCaller, wish: ReadArtifact) -> None:
    """Ends only by the error that says why the caller may no longer have it."""
    while True:
        caller.demand(wish)
        await caller.changed()


def _uri(request: web.Request) -> ArtifactUri:
    given = [value for name, value in request.query.items() if name == "uri"]
    other = next((name for name in request.query if name != "uri"), None)
    if other is not None:
        raise BsfgError(Code.UNKNOWN_FIELD, f"{other!a} is not a field of this request", field=other)
    if len(given) != 1:
        raise BsfgError(
            Code.INVALID_URI,
            f"{len(given)} artifact URIs are given, not one",
            hint=f"GET {PATH}?uri=s3://bucket/type/key",
        )
    return parse_artifact_uri(given[0])


def _range_header(request: web.Request, artifact: StoredArtifact) -> str | None:
    """What range is asked for; of other bytes than these, the whole is wanted (RFC 9110, section 13.1.5)."""
    condition = request.headers.get(hdrs.IF_RANGE)
    return request.headers.get(hdrs.RANGE) if condition in (None, _etag(artifact)) else None


def _headers(artifact: StoredArtifact) -> dict[str, str]:
    media_type = artifact.reference.media_type
    return {
        hdrs.CONTENT_TYPE: media_type if media_type and is_media_type(media_type) else MEDIA_TYPE_DEFAULT,
        hdrs.ACCEPT_RANGES: "bytes",
        hdrs.ETAG: _etag(artifact),
        "Digest": _digest(artifact),
    }


def _etag(artifact: StoredArtifact) -> str:
    return f'"{artifact.reference.sha256}"'


def _digest(artifact: StoredArtifact) -> str:
    """Of the whole, also beside a part of it (RFC 3230)."""
    return f"sha-256={base64.b64encode(bytes.fromhex(artifact.reference.sha256)).decode()}"


def _no_such_range(reason: str, size: int) -> web.Response:
    error = BsfgError(Code.INVALID_REQUEST, f"this range can't be sent: {reason}", hint="bytes=FIRST-LAST")
    response = json_response(error.as_json(), 416)
    response.headers[hdrs.CONTENT_RANGE] = f"bytes */{size}"
    return response
