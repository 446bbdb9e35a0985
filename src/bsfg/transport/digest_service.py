"""``POST /v1/digests``: what our half of a stream is, in digests of ranges (contract, section 4; docs/verify.md).

The work of one request is bounded in time and in memory, a peer has one at a time, and permission is asked for again
with every page: a digest says which facts there are.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from aiohttp import web

from bsfg.errors import BsfgError, Code
from bsfg.model.digests import DigestAnswer, DigestCall, RangeDigester, width_of
from bsfg.model.facts import Facts
from bsfg.model.page import BYTES_MAX, FACTS_MAX, LogSlice, PageLimits
from bsfg.model.policy import ReadStream
from bsfg.ports import Clock, ExportedLog
from bsfg.tasks import end_tasks
from bsfg.transport.access import PeerCaller
from bsfg.transport.agreement import must_be_same_history, must_not_be_ahead
from bsfg.transport.answers import json_response
from bsfg.transport.routes import PeerRoute, Quota, read_body
from bsfg.transport.served_log import Caller, describe, read_while_allowed
from bsfg.transport.wire import parse_digests

DIGEST_SECONDS_MAX: Final = 8.0
"""No further page is read after this; what parts are complete by then are the answer."""


class DigestService:
    """The sender's rules for digests, over ports alone."""

    def __init__(self, log: ExportedLog, clock: Clock) -> None:
        self._log = log
        self._clock = clock

    async def digests(self, caller: Caller, call: DigestCall) -> DigestAnswer:
        """Digests of the range's parts, in order; fewer than asked for where time is over.

        Raises every refusal of a fetch, and ``too_large`` where not even the first part can be read in time.
        """
        caller.demand(ReadStream(call.stream))
        description = await describe(self._log, call.stream)
        must_be_same_history(call.epoch, description)
        must_not_be_ahead(call.last, description)
        digester = RangeDigester(call.first, call.last, width_of(call.first, call.last, call.parts))
        await self._read(caller, call, digester, max(call.first, description.first_sequence))
        # A stream that was made again while we read would give another history's digests.
        description = await describe(self._log, call.stream)
        must_be_same_history(call.epoch, description)
        caller.demand(ReadStream(call.stream))
        if not digester.parts:
            raise BsfgError(
                Code.TOO_LARGE,
                f"the first part of stream {call.stream} from {call.first} on can't be read"
                f" within {DIGEST_SECONDS_MAX:.0f} s",
                hint="ask for a shorter range, or for more parts",
            )
        return DigestAnswer(digester.parts, description.first_sequence)

    async def _read(self, caller: Caller, call: DigestCall, digester: RangeDigester, start: int) -> None:
        """The store reads the next page while one is hashed."""
        if start > call.last:
            digester.finish()
            return
        began = self._clock.monotonic()
        coming: asyncio.Task[LogSlice] | None = self._reading(caller, call, start - 1)
        try:
            while coming is not None:
                seen, coming = await coming, None
                facts = Facts.of(seen.facts).through(call.last)
                caller.demand(ReadStream(call.stream))
                is_end = len(facts) < len(seen.facts) or not seen.pending or seen.scanned_through >= call.last
                is_late = self._clock.monotonic() - began > DIGEST_SECONDS_MAX
                if not is_end and not is_late:
                    coming = self._reading(caller, call, seen.scanned_through)
                # Hashing a page takes a while, and no link may wait for it.
                await asyncio.to_thread(digester.add, facts)
                if is_end:
                    digester.finish()
                else:
                    digester.reach(seen.scanned_through + 1)
        finally:
            if coming is not None:
                await end_tasks(coming)

    def _reading(self, caller: Caller, call: DigestCall, position: int) -> asyncio.Task[LogSlice]:
        limits = PageLimits(min(FACTS_MAX, call.last - position), BYTES_MAX, 0.0)
        return asyncio.create_task(read_while_allowed(self._log, caller, call.stream, position, limits))


def digest_route(service: DigestService) -> PeerRoute:
    """The route; a second request of the same peer is ``too_many`` while the first runs."""
    running = Quota("digest requests", 1)

    async def digests(caller: PeerCaller, request: web.Request) -> web.StreamResponse:
        call = parse_digests(await read_body(request))
        caller.demand(ReadStream(call.stream))
        with running.hold(caller.peer):
            answer = await service.digests(caller, call)
        return json_response(answer_fields(call, answer))

    return PeerRoute("POST", "/v1/digests", "digests", digests)


def answer_fields(call: DigestCall, answer: DigestAnswer) -> dict[str, Any]:
    """The answer as JSON values."""
    return {
        "stream": call.stream,
        "epoch": call.epoch,
        "first_sequence": answer.first_sequence,
        "parts": [{"count": part.count, "digest": part.digest} for part in answer.parts],
    }
