"""Removes from inbound streams what each link's ``keep`` no longer wants; those streams have no age limit.

Processing by local applications is separate from what is kept: removing facts that none of them has acknowledged is
what the policy says, and it is counted, and told once until they have caught up again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from structlog.typing import FilteringBoundLogger

from bsfg.config.values import Keep, LinkConfig
from bsfg.core.link_state import Phase
from bsfg.daemon.running_link import Links, RunningLink
from bsfg.daemon.telemetry import Telemetry
from bsfg.errors import BsfgError
from bsfg.model.cursor import LinkName
from bsfg.model.moment import NANOSECONDS
from bsfg.model.names import ZoneId, inbound_consumer, inbound_physical
from bsfg.ports import Clock
from bsfg.substrates.inbound_keep import InboundKeep

ROUND_SECONDS: Final = 60.0
SOON_SECONDS: Final = 5.0
"""The least time between two rounds, however often links become level."""


@dataclass
class InboundKeeper:
    """One round a minute over every link with ``keep``, and one soon after a link has caught up."""

    store: InboundKeep
    links: Links
    configured: Callable[[], Mapping[LinkName, LinkConfig]]
    zone: ZoneId
    clock: Clock
    journal: FilteringBoundLogger
    telemetry: Telemetry
    _soon: asyncio.Event = field(default_factory=asyncio.Event)
    _told: set[LinkName] = field(default_factory=set)
    """Links whose loss of unprocessed facts has been told."""

    async def run(self) -> None:
        """Keep until cancelled."""
        while True:
            await self.clock.sleep(SOON_SECONDS)
            self._soon.clear()
            for name, config in self.configured().items():
                if config.keep is not None:
                    await self._apply_quietly(name, config.keep)
            try:
                async with asyncio.timeout(ROUND_SECONDS - SOON_SECONDS):
                    await self._soon.wait()
            except TimeoutError:
                continue

    def soon(self, name: LinkName) -> None:
        """A link has caught up, or its policy has changed."""
        config = self.configured().get(name)
        if config is not None and config.keep is not None:
            self._soon.set()

    async def apply(self, name: LinkName, keep: Keep) -> None:
        """Remove what is not kept of one link; nothing of a halted one, whose end has to be looked at first."""
        driver = self.links.driver(name)
        if driver is None or driver.link.fence is None or driver.link.phase is Phase.HALTED:
            return
        oldest_time = None
        if keep.max_age_seconds is not None:
            oldest_time = self.clock.now() - int(keep.max_age_seconds * NANOSECONDS)
        removed = await self.store.apply(
            self._stream(driver),
            inbound_consumer(name.peer, self.zone),
            cursor_at=driver.link.fence.local_sequence,
            oldest_time=oldest_time,
            max_bytes=keep.max_bytes,
        )
        if removed.messages:
            self._tell(name, removed.messages, removed.unprocessed)

    async def _apply_quietly(self, name: LinkName, keep: Keep) -> None:
        try:
            await self.apply(name, keep)
        except BsfgError as error:
            # The store being away is told by others, and the next round comes.
            self.journal.warning(
                "keep_failed",
                peer=name.peer,
                stream=name.stream,
                message=f"removing what keep does not want failed: {error.message}",
            )

    def _stream(self, driver: RunningLink) -> str:
        fence, name = driver.link.fence, driver.name
        assert fence is not None
        return inbound_physical(name.peer, name.stream, fence.generation)

    def _tell(self, name: LinkName, messages: int, unprocessed: int) -> None:
        count = self.telemetry.facts_removed
        processed = max(0, messages - unprocessed)
        count.labels(name.peer, name.stream, "yes").inc(processed)
        count.labels(name.peer, name.stream, "no").inc(messages - processed)
        words = {"peer": name.peer, "stream": name.stream}
        self.journal.info("facts_removed", **words, message=f"keep removed {messages} facts")
        if not unprocessed:
            self._told.discard(name)
        elif name not in self._told:
            self._told.add(name)
            self.journal.warning(
                "unprocessed_removed",
                **words,
                message=f"keep removed {messages - processed} facts that no local application had acknowledged",
            )
