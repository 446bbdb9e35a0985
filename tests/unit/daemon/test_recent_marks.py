"""One question to the store serves all links that look at about the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from bsfg.daemon.recent_marks import FRESH_SECONDS, REFUSED_SECONDS, RecentMarks
from bsfg.errors import SubstrateUnavailable
from bsfg.model.cursor import Fence, LinkName, StreamMark
from bsfg.model.names import StreamName, ZoneId

LINKS = [LinkName(ZoneId("enterprise"), StreamName(f"facts.s{number}")) for number in range(50)]
MARK = StreamMark(Fence(1, "2026-01-02T03:04:05Z", 7), 1, 7, 0)


class Clock:
    seconds = 0.0

    def now(self) -> int:
        return 0

    def monotonic(self) -> float:
        return self.seconds

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(0)


class Store:
    """Answers in a later turn of the loop, as a store does."""

    asked, is_away = 0, False

    async def marks(self) -> Mapping[LinkName, StreamMark]:
        self.asked += 1
        await asyncio.sleep(0.01)
        if self.is_away:
            raise SubstrateUnavailable("nobody is there")
        return dict.fromkeys(LINKS, MARK)


async def test_links_that_look_at_once_cost_one_question() -> None:
    store = Store()
    marks = RecentMarks(store, Clock())
    assert await asyncio.gather(*[marks.mark(link) for link in LINKS]) == [MARK] * len(LINKS)
    assert store.asked == 1


async def test_an_answer_is_used_for_as_long_as_it_is_fresh_and_no_longer() -> None:
    store, clock = Store(), Clock()
    marks = RecentMarks(store, clock)
    await marks.mark(LINKS[0])
    clock.seconds = FRESH_SECONDS - 0.1
    await marks.mark(LINKS[0])
    assert store.asked == 1
    clock.seconds = FRESH_SECONDS
    await marks.mark(LINKS[0])
    assert store.asked == 2


async def test_a_store_that_gives_no_marks_leaves_each_link_to_look_for_itself() -> None:
    store, clock = Store(), Clock()
    marks = RecentMarks(store, clock)
    assert await marks.mark(LINKS[0]) == MARK
    store.is_away, clock.seconds = True, FRESH_SECONDS
    assert await marks.mark(LINKS[0]) is None, "what was true before is not said again"
    clock.seconds += REFUSED_SECONDS - 0.1
    assert await marks.mark(LINKS[0]) is None
    assert store.asked == 2
    store.is_away = False
    clock.seconds += 0.1
    assert await marks.mark(LINKS[0]) == MARK


async def test_a_mark_that_others_asked_for_is_had_without_asking_while_it_is_fresh() -> None:
    store, clock = Store(), Clock()
    marks = RecentMarks(store, clock)
    assert marks.recent(LINKS[0]) is None
    await marks.mark(LINKS[1])
    assert marks.recent(LINKS[0]) == MARK
    clock.seconds = FRESH_SECONDS
    assert marks.recent(LINKS[0]) is None
    assert store.asked == 1
