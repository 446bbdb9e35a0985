"""Carries out the duplicate replay drill: held facts on the wire again, and a stale append (runbook, section 9)."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any, Final

from bsfg.checks.drills.line import DrillLine
from bsfg.checks.drills.replay import REPLAYED_MIN, ReplaySeen, judge
from bsfg.core.conversation import Append, PageFetched
from bsfg.core.link import advance
from bsfg.core.link_state import Link, Phase
from bsfg.daemon.gateway import Gateway
from bsfg.daemon.held_parts import repeated
from bsfg.daemon.verify_operations import Verifications
from bsfg.errors import BsfgError, Code, Fenced
from bsfg.model.cursor import Cursor, Fence, LinkName
from bsfg.model.names import StreamName, ZoneId
from bsfg.model.page import BYTES_MAX, FACTS_MAX, FetchRequest, Page, PageLimits
from bsfg.substrates.inbound_log import JetStreamInboundLog

LOOKED_THROUGH_MAX: Final = 100_000
PAGES_MAX: Final = 64

Row = dict[str, Any]


@dataclass
class ReplayDrill:
    """One duplicate replay drill; it turns nothing on."""

    gateway: Gateway
    fetch: Callable[..., Awaitable[Row]]
    inbound: JetStreamInboundLog
    verifications: Verifications
    peer: ZoneId
    stream: StreamName
    seen: ReplaySeen = field(init=False)

    def __post_init__(self) -> None:
        self.seen = ReplaySeen(self.stream)
        self.name = LinkName(self.peer, self.stream)

    async def run(self) -> AsyncGenerator[Row, None]:
        """The drill, step by step."""
        yield {"rollback": "none is needed: nothing is turned on, and nothing is stored", "ends_at": None}
        link, fence, cursor = self._standing()
        if cursor.sequence is None:
            return
        scan = self.verifications.make_scan(self.name, fence.generation, cursor.epoch, ())
        state = await scan.state()
        self.seen.held, head = state.messages, link.word.head if link.word else 0
        begin = max(state.first_sequence, fence.local_sequence - max(REPLAYED_MIN, 1))
        store = self.gateway.parts.generations.store
        earlier = (await store.facts(self.name, fence.generation, begin, 1))[0]
        yield {"step": f"asking {self.peer} for facts of {self.stream} that are held already"}
        pages = await self._fetched(
            cursor, earlier.sequence or 0, earlier.digest, is_first=begin == state.first_sequence
        )
        for page in pages:
            self._replay(link, fence, cursor, page)
        yield {"step": f"{self.seen.fetched} facts came again, {self.seen.dropped} dropped"}
        if pages and pages[0].facts:
            await self._append_stale(fence, cursor, pages[0])
        yield {"step": f"a stale append: {self.seen.refusal or 'TAKEN'}"}
        again = await self.fetch(
            peer=self.peer, stream=self.stream, cursor_init=None, init_timestamp=None, dry_run=False
        )
        self.seen.appended_again = int(again["appended"])
        self.seen.head_growth = max(0, int(again["cursor"]["head"] or 0) - head)
        after = await scan.state()
        self.seen.created = (state.created, after.created)
        self.seen.repeated = await repeated(scan, max(1, after.last_sequence - LOOKED_THROUGH_MAX))

    def lines(self) -> list[DrillLine]:
        """What the drill has shown."""
        return judge(self.seen, self.gateway.parts.clock.now())

    def _standing(self) -> tuple[Link, Fence, Cursor]:
        driver = self.gateway.parts.links.driver(self.name)
        link = driver.link if driver else None
        if link is None or link.cursor is None or link.fence is None:
            raise BsfgError(
                Code.CHECK_FAILED,
                f"link {self.name} has no cursor now",
                hint="bsfg cursor query says what it does",
            )
        return link, link.fence, link.cursor

    async def _fetched(
        self, cursor: Cursor, sequence: int, digest: str | None, *, is_first: bool
    ) -> list[Page]:
        """Pages of held facts, from the one behind an earlier fact on, or from the first that is held."""
        client = self.gateway.parts.peers.client(self.peer)
        limits = PageLimits(facts=FACTS_MAX, bytes=BYTES_MAX)
        after = (
            Cursor(cursor.epoch, None, None, sequence - 1)
            if is_first
            else Cursor(cursor.epoch, sequence, digest, sequence)
        )
        pages: list[Page] = []
        while len(pages) < PAGES_MAX and after.scanned_through < (cursor.sequence or 0):
            page = await client.fetch(FetchRequest(self.stream, limits, after=after))
            if not page.facts:
                break
            pages.append(page)
            after = Cursor(cursor.epoch, None, None, page.scanned_through)
        return pages

    def _replay(self, link: Link, fence: Fence, cursor: Cursor, page: Page) -> None:
        """Give the page to the link's state machine, where the link is now: the very rule that the gateway runs."""
        held = [fact for fact in page.facts if fact.sequence <= (cursor.sequence or 0)]
        if not held:
            return
        page = replace(page, facts=held, scanned_through=held[-1].sequence)
        standing = Link(
            self.name,
            link.settings,
            phase=Phase.FLOWING,
            ticket=1,
            fetch=1,
            fence=fence,
            cursor=cursor,
            recovery=None,
        )
        after, commands = advance(standing, PageFetched(1, page))
        stored = sum(len(command.facts) for command in commands if isinstance(command, Append))
        self.seen.first = self.seen.first or held[0].sequence
        self.seen.last = held[-1].sequence
        self.seen.fetched += len(held)
        self.seen.dropped += min(after.facts_duplicate, len(held) - stored)

    async def _append_stale(self, fence: Fence, cursor: Cursor, page: Page) -> None:
        """A held fact once more, behind the fence that held before it was stored: over a connection of its own."""
        log = self.inbound.building(fence.generation)
        self.seen.stale_at = max(0, fence.local_sequence - len(page.facts))
        stale = replace(fence, local_sequence=self.seen.stale_at)
        try:
            await log.append(self.name, stale, cursor.epoch, [page.facts[0]])
        except Fenced as error:
            self.seen.refusal = error.message
        finally:
            log.close()
