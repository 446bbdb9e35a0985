"""``POST /v1/notify``: a peer's advice that a stream has more (contract, section 4; runbook 6.6).

Advice is never believed: it only brings the next poll forward, so forged, repeated or late advice changes no result
(I47). Whoever hears of a stream by itself, because its fetch is here, needs none: :class:`Attention` knows who that is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from aiohttp import web

from bsfg.model.names import StreamName, ZoneId
from bsfg.ports import Clock
from bsfg.transport.access import PeerCaller, stream_denied
from bsfg.transport.answers import BareResponse
from bsfg.transport.routes import PeerRoute, read_body
from bsfg.transport.wire import parse_notify

AWAY_SECONDS: Final = 1.0
"""How long after its last fetch of a stream a peer still counts as listening: the next one is on its way."""
NO_CONTENT: Final = 204


class Attention:
    """Which peer has a fetch of which stream here, or had one a moment ago."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._fetches: Counter[tuple[ZoneId, StreamName]] = Counter()
        self._left_at: dict[tuple[ZoneId, StreamName], float] = {}

    @contextmanager
    def listening(self, caller: PeerCaller, stream: StreamName) -> Iterator[None]:
        """The caller listens inside this block, and shortly after, if it may read the stream."""
        key = (caller.peer, stream)
        if stream not in caller.streams:
            # Nothing is kept of names that a peer makes up.
            yield
            return
        self._fetches[key] += 1
        try:
            yield
        finally:
            self._fetches[key] -= 1
            self._left_at[key] = self._clock.monotonic()

    def is_listening(self, peer: ZoneId, stream: StreamName) -> bool:
        """Whether the peer learns of a new fact in the stream without being told."""
        key = (peer, stream)
        if self._fetches[key] > 0:
            return True
        left_at = self._left_at.get(key)
        return left_at is not None and self._clock.monotonic() - left_at < AWAY_SECONDS


def notify_route(
    imports: Callable[[ZoneId, StreamName], bool],
    noticed: Callable[[ZoneId, StreamName, int], None],
) -> PeerRoute:
    """The route. ``imports`` says whether we read that stream from that peer; ``noticed`` must not block.

    A stream that we don't import from the caller is refused like one that does not exist (I31).
    """

    async def notify(caller: PeerCaller, request: web.Request) -> web.StreamResponse:
        call = parse_notify(await read_body(request))
        caller.demand(None)
        if not imports(caller.peer, call.stream):
            raise stream_denied(call.stream)
        noticed(caller.peer, call.stream, call.head)
        return BareResponse(status=NO_CONTENT)

    return PeerRoute("POST", "/v1/notify", "notify", notify)
