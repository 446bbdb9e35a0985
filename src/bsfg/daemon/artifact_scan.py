"""Searches the facts of links with ``artifacts: mirror`` for references: beside the link, never in its way.

A scan reads the inbound stream behind its own durable position, page by page. What a page names is on the durable list
before the position moves over it, so a kill at any moment costs a page that is searched again, and no reference.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from structlog.typing import FilteringBoundLogger

from bsfg.core.references import find_references
from bsfg.daemon import failpoints
from bsfg.daemon.journal import place_of
from bsfg.daemon.retrievals import Retrievals
from bsfg.errors import BsfgError
from bsfg.model.cursor import Fence, LinkName
from bsfg.model.page import PageLimits
from bsfg.model.wanted import ScanPosition
from bsfg.ports import Clock, InboundFacts, WantedArtifacts
from bsfg.tasks import end_tasks

PAGE: Final = PageLimits(facts=2_000, bytes=4 * 1024 * 1024, wait_seconds=5.0)
RETRY_SECONDS: Final = 2.0
POSITION_SECONDS: Final = 1.0
"""How often a position is made durable: a kill costs a search of what came since, and no reference."""


@dataclass
class _Scan:
    """How far one link's facts were searched."""

    position: ScanPosition | None
    is_saved: bool = True
    saved_at: float = float("-inf")

    def after(self, generation: int) -> int:
        """The local sequence behind which nothing of this generation was searched."""
        is_same = self.position is not None and self.position.generation == generation
        return self.position.local_sequence if is_same and self.position else 0

    def move(self, position: ScanPosition) -> None:
        self.position, self.is_saved = position, False


@dataclass
class ReferenceScan:
    """One task for each link that mirrors. ``fence_of`` says which inbound stream of a link is in force."""

    facts: InboundFacts
    wanted: WantedArtifacts
    retrievals: Retrievals
    fence_of: Callable[[LinkName], Fence | None]
    clock: Clock
    journal: FilteringBoundLogger
    _tasks: dict[LinkName, asyncio.Task[None]] = field(default_factory=dict)
    _buckets: dict[LinkName, str] = field(default_factory=dict)
    _told: dict[LinkName, str] = field(default_factory=dict)

    def apply(self, buckets: Mapping[LinkName, str]) -> None:
        """Search exactly these links, each for what lies in its peer's bucket."""
        self._buckets = dict(buckets)
        for link in [link for link in self._tasks if link not in buckets]:
            self._tasks.pop(link).cancel()
        for link in buckets:
            if link not in self._tasks:
                self._tasks[link] = asyncio.create_task(self._run(link), name=f"references of {link}")

    async def stop(self) -> None:
        tasks = list(self._tasks.values())
        self._tasks.clear()
        await end_tasks(*tasks)

    async def _run(self, link: LinkName) -> None:
        scan: _Scan | None = None
        while True:
            try:
                if scan is None:
                    scan = _Scan(await self.wanted.position(link))
                await self._page(link, scan)
            except BsfgError as error:
                # A list that is full and a store that is away are waited for: the position stays where it is.
                self._tell(link, error.message)
                scan = None
                await self.clock.sleep(RETRY_SECONDS)
            except Exception as error:
                self._tell(link, f"{error!r}{place_of(error)}")
                scan = None
                await self.clock.sleep(RETRY_SECONDS)

    async def _page(self, link: LinkName, scan: _Scan) -> None:
        """Search one page, waiting for facts if there are none."""
        fence = self.fence_of(link)
        if fence is None:
            await self.clock.sleep(RETRY_SECONDS)
            return
        after = scan.after(fence.generation)
        limits = PAGE if scan.is_saved else replace(PAGE, wait_seconds=POSITION_SECONDS)
        created, page = await self.facts.read(link, fence.generation, after, limits)
        if after and scan.position and created != scan.position.created:
            # The stream was made again under its name: nothing of this one was searched.
            scan.move(ScanPosition(fence.generation, created, 0))
            return
        if page.scanned_through > after:
            found = find_references(link.peer, self._buckets[link], page.facts)
            if found.problems:
                self._tell(link, f"{found.problems[0]} ({len(found.problems)} such references in this page)")
            await self.retrievals.want(found.wanted)
            failpoints.passed("references.wanted")
            scan.move(ScanPosition(fence.generation, created, page.scanned_through))
        await self._save(link, scan, is_idle=page.scanned_through == after)

    async def _save(self, link: LinkName, scan: _Scan, *, is_idle: bool) -> None:
        """Make the position durable, seldom enough that a stream of single facts does not cost a write for each."""
        now = self.clock.monotonic()
        if scan.is_saved or scan.position is None or (not is_idle and now - scan.saved_at < POSITION_SECONDS):
            return
        await self.wanted.save_position(link, scan.position)
        scan.is_saved, scan.saved_at = True, now
        failpoints.passed("references.passed")

    def _tell(self, link: LinkName, message: str) -> None:
        """The same words once."""
        if self._told.get(link) == message:
            return
        self._told[link] = message
        self.journal.warning(
            "artifact_reference",
            peer=link.peer,
            stream=link.stream,
            message=f"searching facts for artifacts: {message}",
        )
