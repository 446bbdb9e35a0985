"""Asking a peer for an artifact: what it has under a name, and its bytes from any place on (contract, section 4).

The connections are of their own, so that no fact waits behind an artifact. Memory is constant: bytes are read no
faster than they are taken. A peer that sends too slowly is given up: time spent waiting for it, and only that, counts,
so a limit of our own never makes a peer look slow, and a transfer takes at most its size at the least rate.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any, Final

import aiohttp

from bsfg.errors import ArtifactCorrupt, BsfgError, Code, PeerRefused, PeerUnreachable
from bsfg.model.artifact import ArtifactReference, ArtifactUri
from bsfg.ports import Clock
from bsfg.transport.access import Access
from bsfg.transport.artifact_answer import check_digest, check_range, check_whole, described
from bsfg.transport.artifact_redirect import ArtifactRedirect
from bsfg.transport.client import refusal
from bsfg.transport.client_connection import Await, ClientLimits, PeerConnection, PeerEndpoint
from bsfg.transport.large_body import LargeBody
from bsfg.transport.page_check import bad_answer
from bsfg.transport.question import ERROR_BYTES_MAX, Answer, Question
from bsfg.transport.resolver import NameResolver

PATH: Final = "/v1/artifacts"
REDIRECTS: Final = frozenset({302, 303, 307, 308})
PARTIAL_CONTENT: Final = 206
RANGE_NOT_SATISFIABLE: Final = 416
LARGE_BYTES: Final = 4 * 1024 * 1024
"""So many are worth a connection of their own."""

Read = Callable[[], Coroutine[Any, Any, bytes | memoryview]]
"""The next bytes of a body, as they come; none at its end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How slow a peer may be."""

    bytes_per_second_min: int = 4 * 1024
    window_seconds: float = 30.0
    """Of waiting for the peer; in each the least rate must be held."""


class HttpArtifactClient:
    """The :class:`bsfg.ports.ArtifactClient` over HTTP; one a peer. ``close`` it in the end."""

    def __init__(
        self,
        endpoint: PeerEndpoint,
        access: Access,
        clock: Clock,
        limits: ClientLimits | None = None,
        resolver: NameResolver | None = None,
        *,
        pace: Pace | None = None,
        redirect_host: str | None = None,
    ) -> None:
        """``redirect_host`` is the one ``host`` or ``host:port`` that this peer may send us to for the bytes."""
        self._peer = endpoint.peer
        self._clock = clock
        self._pace = pace or Pace()
        self._limits = limits or ClientLimits()
        resolver = resolver or NameResolver(clock)
        self._connection = PeerConnection(endpoint, access, clock, self._limits, resolver)
        self._redirect = ArtifactRedirect(endpoint.peer, redirect_host, access, resolver, self._limits)

    async def close(self) -> None:
        """Nothing of it stays open."""
        await self._connection.close()

    async def describe(self, uri: ArtifactUri) -> ArtifactReference:
        """See ``ports.ArtifactClient.describe``."""
        async with self._connection.answering(_question("HEAD", uri)) as (response, _):
            if response.status == 200:
                return described(uri, response.headers)
        # An answer to HEAD has no body: the peer's words for its refusal are in the answer to GET.
        async with self._connection.answering(_question("GET", uri)) as (response, awaiting):
            if response.status != 200:
                raise await self._refused(response, awaiting)
            return described(uri, response.headers)

    async def pieces(
        self, reference: ArtifactReference, start: int
    ) -> AsyncGenerator[bytes | memoryview, None]:
        """See ``ports.ArtifactClient.pieces``.

        ``ArtifactCorrupt`` where the peer's own word about digest or length is another one; ``BAD_ANSWER`` where it
        does not give the range that was asked for, so that nothing kept is of use.
        """
        if start >= reference.size > 0:
            return
        async with self._whole_or_rest(reference, start) as (response, awaiting):
            if start:
                check_range(reference, start, response.headers)
            else:
                check_whole(reference, response.headers)
            watch = _RateWatch(self._pace, self._clock)
            left = reference.size - start
            with self._reading(response, left) as read:
                while left > 0:
                    piece = await watch.await_piece(awaiting, read)
                    if not piece:
                        raise PeerUnreachable(
                            f"the answer of peer {self._peer} ended {left} bytes early", reason="reset"
                        )
                    if len(piece) > left:
                        raise bad_answer(f"it has {len(piece) - left} bytes more than it announced")
                    left -= len(piece)
                    yield piece

    @contextmanager
    def _reading(self, response: aiohttp.ClientResponse, length: int) -> Iterator[Read]:
        """How to read the next of so many bytes."""
        if length < LARGE_BYTES:
            yield response.content.readany
            return
        with LargeBody(response, length, self._limits.silence_seconds) as body:
            yield body.piece

    @asynccontextmanager
    async def _whole_or_rest(
        self, reference: ArtifactReference, start: int
    ) -> AsyncIterator[tuple[aiohttp.ClientResponse, Await]]:
        """The answer that brings the bytes, from the peer or from where it sends us."""
        wanted = PARTIAL_CONTENT if start else 200
        question = _question("GET", reference.uri, start)
        async with self._connection.answering(question) as (response, awaiting):
            if response.status in REDIRECTS:
                check_digest(reference, response.headers)
                async with self._redirect.following(response, start) as redirected:
                    self._check_status(redirected, wanted, reference)
                    yield redirected, awaiting
                return
            if response.status not in (200, PARTIAL_CONTENT, RANGE_NOT_SATISFIABLE):
                raise await self._refused(response, awaiting)
            self._check_status(response, wanted, reference)
            yield response, awaiting

    def _check_status(
        self, response: aiohttp.ClientResponse, wanted: int, reference: ArtifactReference
    ) -> None:
        if response.status == wanted:
            return
        if response.status == RANGE_NOT_SATISFIABLE:
            raise ArtifactCorrupt(
                f"what peer {self._peer} has under {reference.uri} is shorter than {reference.size} bytes",
                expected_sha256=reference.sha256,
            )
        if response.status == 404:
            raise PeerRefused(
                Code.ARTIFACT_NOT_FOUND, f"the object store of peer {self._peer} has no {reference.uri}"
            )
        raise bad_answer(f"status {response.status} where {wanted} was asked for")

    async def _refused(self, response: aiohttp.ClientResponse, awaiting: Await) -> BsfgError:
        """The peer's own error."""
        body = await awaiting(_at_most(response, ERROR_BYTES_MAX)) or b""
        retry_after = response.headers.get("Retry-After")
        answer = Answer(response.status, response.content_type, retry_after, body)
        return refusal(answer, f"peer {self._peer} refuses {response.method} {PATH}")


class _RateWatch:
    """Gives up a peer that is slower than the least rate."""

    def __init__(self, pace: Pace, clock: Clock) -> None:
        self._pace = pace
        self._clock = clock
        self._waited = 0.0
        self._came = 0

    async def await_piece(self, awaiting: Await, read: Read) -> bytes | memoryview | None:
        """What comes next; None or empty at the end."""
        began = self._clock.monotonic()
        piece: bytes | memoryview | None = None
        try:
            # Silence ends by the limits of the exchange; a wait that were cut short here could lose what just came.
            piece = await awaiting(read())
        finally:
            self._waited += self._clock.monotonic() - began
            self._came += len(piece or b"")
        if self._waited >= self._pace.window_seconds:
            if self._came < self._pace.bytes_per_second_min * self._waited:
                raise self._too_slow()
            self._waited, self._came = 0.0, 0
        return piece

    def _too_slow(self) -> PeerUnreachable:
        return PeerUnreachable(
            f"it sent {self._came} bytes in {self._waited:.1f} s;"
            f" {self._pace.bytes_per_second_min} a second are the least",
            hint="what came is kept, and the transfer goes on behind it; limits.artifact_bytes_per_second_min",
            reason="slow",
        )


def _question(method: str, uri: ArtifactUri, start: int = 0) -> Question:
    headers = {"Accept": "*/*"} | ({"Range": f"bytes={start}-"} if start else {})
    return Question(method=method, path=PATH, query={"uri": str(uri)}, headers=headers)


async def _at_most(response: aiohttp.ClientResponse, bytes_max: int) -> bytes:
    parts, length = [], 0
    async for part in response.content.iter_any():
        parts.append(part)
        length += len(part)
        if length > bytes_max:
            raise bad_answer(f"its error is longer than {bytes_max} bytes")
    return b"".join(parts)
