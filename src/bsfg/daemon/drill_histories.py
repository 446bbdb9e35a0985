"""Carries out the drills of histories that don't fit, against a scratch stream: another history, a large gap."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any, Final

from bsfg.checks.drills.histories import GapSeen, HistorySeen, judge_gap, judge_history
from bsfg.checks.drills.line import DrillLine
from bsfg.core.conversation import GapAccepted
from bsfg.daemon.gateway import Gateway
from bsfg.daemon.scratch_link import ScratchLink, scratch_link
from bsfg.daemon.stream_operations import LocalStore
from bsfg.model.cursor import LinkState
from bsfg.model.names import StreamName
from bsfg.ports import ExportedLog

FACTS: Final = 20
OTHER_FACTS: Final = 30
GAP_FACTS: Final = 5_000
KEPT_FACTS: Final = 100

Row = dict[str, Any]


@dataclass
class HistoryDrill:
    """The source is made again under its name: the link must halt, and keep what it has."""

    gateway: Gateway
    store: LocalStore
    log: ExportedLog
    scratch: StreamName
    seen: HistorySeen = field(default_factory=HistorySeen)

    async def run(self) -> AsyncGenerator[Row, None]:
        """The drill, step by step."""
        yield _rollback(self.scratch)
        async with scratch_link(self.gateway, self.store, self.log, self.scratch) as link:
            yield {"step": f"a scratch stream of {FACTS} facts, and a link that reads it"}
            last = await link.append(FACTS)
            await link.start()
            self.seen.was_level = await link.reaches(LinkState.LEVEL, last)
            self.seen.before = await link.held()
            yield {"step": f"the stream is deleted and made again, with {OTHER_FACTS} other facts"}
            await link.drop_stream()
            await link.make_stream()
            await link.append(OTHER_FACTS)
            await link.reaches(LinkState.HALTED)
            self.seen.state, self.seen.reason, self.seen.message = _standing(link)
            self.seen.after = await link.held()
        yield {"step": "the scratch stream and its link are removed"}

    def lines(self) -> list[DrillLine]:
        """What the drill has shown."""
        return judge_history(self.seen, self.gateway.parts.clock.now())


@dataclass
class GapDrill:
    """Retention passes the cursor while the link is away: an exact gap, a halt, and the way on."""

    gateway: Gateway
    store: LocalStore
    log: ExportedLog
    scratch: StreamName
    seen: GapSeen = field(default_factory=GapSeen)

    async def run(self) -> AsyncGenerator[Row, None]:
        """The drill, step by step."""
        yield _rollback(self.scratch)
        async with scratch_link(self.gateway, self.store, self.log, self.scratch) as link:
            yield {"step": f"a scratch stream of {FACTS} facts, and a link that reads it"}
            cursor = await link.append(FACTS)
            await link.start()
            self.seen.was_level = await link.reaches(LinkState.LEVEL, cursor)
            await link.stop()
            yield {"step": f"the link stands while {GAP_FACTS} facts come and all but {KEPT_FACTS} expire"}
            last = await link.append(GAP_FACTS)
            first_kept = last - KEPT_FACTS + 1
            await link.purge_below(first_kept)
            self.seen.expected = (cursor + 1, first_kept - 1)
            self.seen.last = last
            await link.start()
            await link.reaches(LinkState.HALTED)
            self.seen.state, self.seen.reason, self.seen.message = _standing(link)
            halt = link.driver.link.halt if link.driver else None
            self.seen.found = halt.gap if halt else None
            self.seen.held_halted = (await link.held())["messages"]
            yield {"step": "the gap is accepted, as bsfg cursor accept-gap does"}
            link.tell(GapAccepted(self.gateway.parts.clock.now()))
            self.seen.went_on = await link.reaches(LinkState.LEVEL, last)
            self.seen.held_after = (await link.held())["messages"]
            gaps = link.driver.link.gaps if link.driver else ()
            self.seen.recorded = [(gap.first, gap.last) for gap in gaps]
            self.seen.facts, self.seen.kept = FACTS, KEPT_FACTS
        yield {"step": "the scratch stream and its link are removed"}

    def lines(self) -> list[DrillLine]:
        """What the drill has shown."""
        return judge_gap(self.seen, self.gateway.parts.clock.now())


def _rollback(scratch: StreamName) -> Row:
    return {
        "rollback": f"none is needed: only the scratch stream {scratch} is touched, and it is removed",
        "ends_at": None,
    }


def _standing(link: ScratchLink) -> tuple[str, str | None, str | None]:
    assert link.driver is not None
    halt = link.driver.link.halt
    return link.driver.state.value, halt.reason.value if halt else None, halt.message if halt else None
