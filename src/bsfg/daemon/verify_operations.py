"""``bsfg verify`` in the gateway: what of a link can be compared now, and one comparison a link at a time."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from bsfg.daemon.gateway import Gateway
from bsfg.daemon.generations import REPAIR
from bsfg.daemon.links import require
from bsfg.daemon.local_lines import answer_lines
from bsfg.daemon.local_requests import Parameters, answer
from bsfg.daemon.repair_source import KeptFacts, copies_of
from bsfg.daemon.running_link import RunningLink
from bsfg.daemon.verification import Bounds, Verification
from bsfg.errors import BsfgError, Code
from bsfg.model.cursor import Cursor, LinkName
from bsfg.model.names import parse_stream, parse_zone
from bsfg.model.ranges import RANGES_MAX, Range, Ranges
from bsfg.substrates.generations import Kept, Plan
from bsfg.substrates.inbound_scan import InboundScan

MakeScan = Callable[[LinkName, int, str, Collection[str]], InboundScan]
"""Link, generation, epoch, earlier epochs."""


@dataclass
class Verifications:
    """Every comparison that runs in this zone."""

    gateway: Gateway
    make_scan: MakeScan
    rewind: Callable[..., Awaitable[dict[str, Any]]]
    """As ``cursor rewind``; ``purpose`` says that it is a repair."""
    _running: set[LinkName] = field(default_factory=set)

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/v1/verify", self._route), web.post("/v1/repair", self._repair_route)]

    async def prove(self, name: LinkName, plan: Plan, cursor: Cursor) -> str | None:
        """Why a generation that is being built is not what the peer has; None if it is (``Generations.prove``)."""
        scan = self.make_scan(name, plan.generation, plan.epoch, ())

        async def bounds() -> Bounds:
            row = await self._offered(name)
            return Bounds(plan.epoch, max(plan.start_sequence, row["first_sequence"]), cursor.scanned_through)

        driver = self._driver(name)
        peer = self.gateway.parts.peers.client(name.peer)
        async for row in Verification(name, peer, scan, bounds, driver.link.gaps).run():
            if "result" in row and not row["result"]["identical"]:
                first = (row["result"]["differences"] or row["result"]["unresolved"])[0]
                return f"{first}"
        return None

    async def verify(
        self, peer: str, stream: str, first: int | None, last: int | None
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Lines of progress, and the result as the last; see ``verification.Verification.run``."""
        name = LinkName(parse_zone(peer), parse_stream(stream))
        if name in self._running:
            raise BsfgError(
                Code.CHECK_FAILED, f"link {name} is being verified already", hint="wait for it to end"
            )
        self._running.add(name)
        try:
            verification = await self.verification(name, first, last)
            async with contextlib.aclosing(verification.run()) as rows:
                async for row in rows:
                    yield row
        finally:
            self._running.discard(name)

    async def verification(self, name: LinkName, first: int | None, last: int | None) -> Verification:
        """A comparison of the generation in force."""
        driver = self._driver(name)
        cursor, fence = driver.link.cursor, driver.link.fence
        if cursor is None or fence is None:
            raise BsfgError(
                Code.CHECK_FAILED,
                f"link {name} is {driver.state} and has no cursor, so there is nothing to compare",
                hint="bsfg cursor query says why",
            )
        store = self.gateway.parts.generations.store
        past = [each for each in await store.past_epochs(name, fence.generation) if each != cursor.epoch]
        scan = self.make_scan(name, fence.generation, cursor.epoch, past)
        peer = self.gateway.parts.peers.client(name.peer)

        async def bounds() -> Bounds:
            return await self._bounds(name, scan, fence.generation, cursor.epoch, first, last)

        return Verification(name, peer, scan, bounds, driver.link.gaps)

    async def _bounds(
        self,
        name: LinkName,
        scan: InboundScan,
        generation: int,
        epoch: str,
        first: int | None,
        last: int | None,
    ) -> Bounds:
        """What both sides can still have: retention, the start of the link and its cursor are the ends."""
        driver = self._driver(name)
        link, outside = driver.link, list[str]()
        if link.cursor is None or link.fence is None or link.fence.generation != generation:
            raise BsfgError(
                Code.CHECK_FAILED, f"link {name} has moved to another generation", hint="verify it again"
            )
        row = await self._offered(name)
        if row["epoch"] != epoch or link.cursor.epoch != epoch:
            raise BsfgError(
                Code.HISTORY_MISMATCH,
                f"{name.peer} says epoch {row['epoch']} for {name.stream}, and we hold epoch {epoch}",
                hint="bsfg cursor query shows the link's state",
            )
        through = link.cursor.scanned_through
        if through > row["last_sequence"]:
            raise BsfgError(
                Code.AHEAD_OF_SOURCE,
                f"{name.peer} has {name.stream} only up to {row['last_sequence']}, and we are at {through}",
                hint="the source has lost facts that it once had; its operator must start a new epoch",
            )
        begin = await self._begin(driver, scan, epoch, outside)
        if row["first_sequence"] > begin:
            outside.append(f"{begin} to {row['first_sequence'] - 1}: {name.peer} no longer has it")
            begin = row["first_sequence"]
        if row["last_sequence"] > through:
            outside.append(f"{through + 1} to {row['last_sequence']}: not fetched yet")
        begin, end = max(begin, first or 1), through if last is None else min(through, last)
        places = None
        if (first is not None or last is not None) and begin <= end:
            store = self.gateway.parts.generations.store
            places = (
                await store.first_at(name, generation, epoch, begin),
                await store.first_at(name, generation, epoch, end + 1) - 1,
            )
        return Bounds(epoch, begin, end, tuple(outside), places)

    async def _begin(self, driver: RunningLink, scan: InboundScan, epoch: str, outside: list[str]) -> int:
        """Where what should be here begins: at the link's start, or where ``keep`` has removed up to."""
        init = driver.link.init
        begin = init.start_sequence if init is not None and init.epoch == epoch else None
        config = self.gateway.configuration.links.get(driver.name)
        is_trimmed = (
            config is not None and config.keep is not None and (await scan.state()).first_sequence > 1
        )
        if begin is None or is_trimmed:
            held = await scan.first_fact()
            through = driver.link.cursor.scanned_through if driver.link.cursor else 0
            first_held = through + 1 if held is None else held
            if begin is not None and first_held > begin:
                outside.append(f"{begin} to {first_held - 1}: removed here, as keep says")
            begin = max(begin or 1, first_held)
        return begin

    async def _offered(self, name: LinkName) -> dict[str, Any]:
        for row in await self.gateway.parts.peers.client(name.peer).streams():
            if row["stream"] == name.stream:
                return row
        raise BsfgError(
            Code.STREAM_DENIED,
            f"{name.peer} does not let us read {name.stream}",
            hint="the peer's peers.yaml decides",
        )

    def _driver(self, name: LinkName) -> RunningLink:
        return require(self.gateway.parts.links, name, self.gateway.configuration.links)

    def keeping(self, name: LinkName, plan: Plan, kept: Kept) -> KeptFacts:
        """What a repair takes over (``Generations.keeping``)."""
        scan = self.make_scan(name, kept.generation, plan.epoch, ())
        return KeptFacts(copies_of(scan), Ranges(kept.damaged), frozenset(kept.left_out))

    async def _repair_route(self, request: web.Request) -> web.StreamResponse:
        """Build the link's generation anew from a sequence on; it is proved before it comes into force.

        With ``through``, what was verified up to it and is not ``damaged`` is taken over from the generation in force.
        """
        body = await Parameters.of_body(request)
        peer, stream, reason = body.text("peer"), body.text("stream"), body.text("reason")
        to, dry_run = body.integer_or_none("to"), body.flag("dry_run", default=False)
        through = body.integer_or_none("through")
        rows = [] if through is None else body.objects("damaged")
        body.finish()
        if to is None:
            raise BsfgError(Code.INVALID_REQUEST, "to is missing")
        fence = self._driver(LinkName(parse_zone(peer), parse_stream(stream))).link.fence
        kept = None if through is None or fence is None else _kept(fence.generation, through, rows)
        repairing = self.rewind(
            peer, stream, to=to, reason=reason, accept_differences=True, dry_run=dry_run, purpose=REPAIR, kept=kept
        )
        return await answer(request, repairing)

    async def _route(self, request: web.Request) -> web.StreamResponse:
        query = Parameters.of_query(request)
        peer, stream = query.text("peer"), query.text("stream")
        first, last = query.integer_or_none("from"), query.integer_or_none("to")
        query.finish()
        return await answer_lines(request, self.verify(peer, stream, first, last))


def _kept(generation: int, through: int, rows: list[dict[str, Any]]) -> Kept:
    """What is taken over: all but these rows, ``{"from", "to", "at_peer"}``."""
    damaged, left_out = list[Range](), list[int]()
    for row in rows:
        values = Parameters(row)
        first, last = values.integer_or_none("from"), values.integer_or_none("to")
        is_at_peer = values.flag("at_peer", default=True)
        values.finish()
        if first is None or last is None or first > last:
            raise BsfgError(Code.INVALID_REQUEST, "damaged: from and to are no range of sequences")
        if is_at_peer:
            damaged.append((first, last))
        else:
            left_out += range(first, min(last, first + RANGES_MAX) + 1)
    ranges = Ranges(damaged)
    if len(ranges) + len(left_out) > RANGES_MAX:
        raise BsfgError(Code.TOO_LARGE, f"damaged: more than {RANGES_MAX} ranges")
    return Kept(generation, through, tuple(ranges), tuple(left_out))
