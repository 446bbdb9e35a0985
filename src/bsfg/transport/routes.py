"""What one path of the peer listener is, and what its handler needs: a file a group of routes, a value a route."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from aiohttp import web

from bsfg.errors import BsfgError, Code
from bsfg.model.names import ZoneId
from bsfg.transport.access import PeerCaller

BODY_SECONDS_MAX: Final = 10.0
RETRY_TOO_MANY_SECONDS: Final = 1

Handler = Callable[[PeerCaller, web.Request], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class PeerRoute:
    """One method of one path. The handler is called for a verified, authorized, not partitioned peer only, and raises
    ``BsfgError`` for every refusal; what more it may see, it demands of the caller."""

    method: str
    path: str
    operation: str
    """How the route is called in metrics and audit."""
    handle: Handler
    is_stream: bool = False
    """The answer may take any time: the handler has a deadline for each step of it."""


class Quota:
    """How much of something each peer may hold at once, so that one peer never takes what another needs (I24, I43)."""

    def __init__(self, what: str, per_peer_max: int) -> None:
        self._what = what
        self._per_peer_max = per_peer_max
        self._held: Counter[ZoneId] = Counter()

    @contextmanager
    def hold(self, peer: ZoneId) -> Iterator[None]:
        """One more for this peer; ``too_many`` if it has all that it may have."""
        if self._held[peer] >= self._per_peer_max:
            raise BsfgError(
                Code.TOO_MANY,
                f"more than {self._per_peer_max} {self._what} of one peer at once",
                hint="finish some before asking again",
                retry_after_seconds=RETRY_TOO_MANY_SECONDS,
            )
        self._held[peer] += 1
        try:
            yield
        finally:
            self._held[peer] -= 1
            if not self._held[peer]:
                del self._held[peer]


async def read_body(request: web.Request, seconds: float = BODY_SECONDS_MAX) -> bytes:
    """The request's body; ``too_large`` and ``invalid_request`` if it is too long or does not arrive in time."""
    try:
        async with asyncio.timeout(seconds):
            return await request.read()
    except TimeoutError as error:
        raise BsfgError(
            Code.INVALID_REQUEST, f"the body did not arrive within {seconds:.0f} s", hint="send it at once"
        ) from error
    except web.HTTPRequestEntityTooLarge as error:
        raise BsfgError(
            Code.TOO_LARGE,
            f"the body is longer than {request.client_max_size} bytes",
            hint="send less at once",
        ) from error
