"""Turns among the links of one peer on a line that is the bottleneck, and the limit of one link; time is by hand."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import defaultdict
from dataclasses import dataclass, field, replace

import pytest

from bsfg.core.conversation import Fetch
from bsfg.daemon.page_room import PageRoom
from bsfg.daemon.scheduling import (
    DEBT_SECONDS_MAX,
    FETCHES_MAX,
    LEASE_SECONDS,
    TURN_SECONDS_MAX,
    FairQueue,
    Lane,
    LinkTraffic,
    Pace,
    PeerTraffic,
    Throttle,
)
from bsfg.daemon.system import SystemClock
from bsfg.daemon.ticks import TICK_SECONDS
from bsfg.errors import PeerUnreachable
from bsfg.model.cursor import LinkName
from bsfg.model.fact import Fact
from bsfg.model.names import parse_stream, parse_zone
from bsfg.model.page import BYTES_MAX, Agreement, FetchRequest, Page, PageLimits

PEER = parse_zone("enterprise")
AUDIT = LinkName(PEER, parse_stream("facts.audit"))
TELEMETRY = LinkName(PEER, parse_stream("facts.telemetry"))
MEBIBYTE = 1024 * 1024
TICK = 0.01


def link(number: int) -> LinkName:
    return LinkName(PEER, parse_stream(f"facts.line{number}"))


@dataclass
class Line:
    """A line of so many bytes a second that fetches under way share evenly; every link always has more to fetch."""

    rate: float = 40 * MEBIBYTE
    now: float = 0.0
    queue: FairQueue = field(default_factory=FairQueue)
    had: defaultdict[LinkName, float] = field(default_factory=lambda: defaultdict(float))
    fetches: dict[LinkName, float] = field(default_factory=dict)
    """Bytes still to come of the page under way."""
    dead: set[LinkName] = field(default_factory=set)
    """Their fetches bring nothing."""
    most_at_once: int = 0
    longest_wait: defaultdict[LinkName, float] = field(default_factory=lambda: defaultdict(float))

    def join(self, name: LinkName, priority: int = 5, *, is_proven: bool = True) -> Lane:
        lane = self.queue.lane(name)
        lane.priority, lane.is_proven = priority, is_proven
        self.queue.wants(lane, self.now)
        return lane

    def run(self, seconds: float) -> None:
        until = self.now + seconds
        while self.now < until:
            for name, lane in self.queue._lanes.items():
                if name not in self.fetches and self.queue.may_begin(lane, self.now):
                    assert lane.waiting_since is not None
                    waited = self.now - lane.waiting_since
                    self.longest_wait[name] = max(self.longest_wait[name], waited)
                    self.queue.began(lane, self.now)
                    self.fetches[name] = BYTES_MAX
            self.most_at_once = max(self.most_at_once, len(self.fetches))
            self.now += TICK
            self._move()

    def _move(self) -> None:
        alive = [name for name in self.fetches if name not in self.dead]
        for name in alive:
            share = self.rate * TICK / len(alive)
            self.fetches[name] -= share
            self.had[name] += share
            if self.fetches[name] <= 0:
                del self.fetches[name]
                lane = self.queue.lane(name)
                self.queue.came(lane, BYTES_MAX, self.now)
                self.queue.ended(lane, self.now, has_more=True, has_failed=False)
                self.queue.wants(lane, self.now)


def test_audit_goes_before_telemetry_and_telemetry_never_stands_still() -> None:
    line = Line()
    line.join(TELEMETRY, 5)
    line.join(AUDIT, 9)
    line.run(60)
    assert 12 < line.had[AUDIT] / line.had[TELEMETRY] < 20, "the weights are 16 to 1"
    assert line.longest_wait[AUDIT] == 0.0


def test_equal_links_share_evenly() -> None:
    line = Line()
    for number in range(7):
        line.join(link(number))
    line.run(60)
    shares = [line.had[link(number)] for number in range(7)]
    assert max(shares) - min(shares) <= 2 * BYTES_MAX
    assert line.most_at_once == FETCHES_MAX
    assert sum(shares) == pytest.approx(line.rate * 60, rel=0.02), "the line is never idle"


def test_the_lowest_priority_comes_within_the_bound() -> None:
    line = Line()
    line.join(TELEMETRY, 0)
    line.join(AUDIT, 9)
    line.run(100)
    assert line.had[TELEMETRY] >= 8 * BYTES_MAX
    assert 0 < line.longest_wait[TELEMETRY] <= TURN_SECONDS_MAX + 2 * TICK


def test_a_heavier_link_that_comes_later_goes_first() -> None:
    line = Line()
    line.join(TELEMETRY, 5)
    line.run(20)
    alone = line.had[TELEMETRY]
    assert alone == pytest.approx(20 * line.rate, rel=0.01)
    line.join(AUDIT, 9)
    line.run(40)
    share = line.had[AUDIT] / (line.had[TELEMETRY] - alone)
    assert 10 < share < 25, "what telemetry had before is not held against it"


def test_a_link_that_was_alone_for_long_owes_nothing_to_one_that_comes() -> None:
    line = Line()
    line.join(link(1))
    line.run(100)
    alone = line.had[link(1)]
    line.join(link(2))
    line.run(20)
    assert line.had[link(1)] - alone == pytest.approx(line.had[link(2)], rel=0.1)


def test_a_heavier_link_without_pages_holds_nobody_up_for_longer_than_its_lease() -> None:
    line = Line(dead={AUDIT})
    line.join(AUDIT, 9)
    line.join(TELEMETRY, 5)
    line.run(LEASE_SECONDS + 10)
    assert line.longest_wait[TELEMETRY] == pytest.approx(LEASE_SECONDS, abs=1.0)
    assert line.had[TELEMETRY] > 9 * line.rate


def test_a_link_that_failed_holds_nobody_up() -> None:
    line = Line(dead={AUDIT})
    line.join(AUDIT, 9, is_proven=False)
    line.join(TELEMETRY, 5)
    line.run(10)
    assert line.longest_wait[TELEMETRY] == 0.0
    assert line.had[TELEMETRY] == pytest.approx(10 * line.rate, rel=0.01)


def test_dead_links_do_not_take_all_the_places() -> None:
    line = Line(dead={link(number) for number in range(FETCHES_MAX)})
    for number in range(FETCHES_MAX + 1):
        line.join(link(number))
    line.run(LEASE_SECONDS + 10)
    assert line.longest_wait[link(FETCHES_MAX)] == pytest.approx(LEASE_SECONDS, abs=2 * TICK)
    assert line.had[link(FETCHES_MAX)] > 9 * line.rate


def test_a_link_whose_store_is_behind_holds_nobody_up() -> None:
    queue = FairQueue()
    heavy, light = queue.lane(AUDIT), queue.lane(TELEMETRY)
    for lane, priority in ((heavy, 9), (light, 5)):
        lane.priority, lane.is_proven = priority, True
    queue.wants(heavy, 0.0)
    queue.began(heavy, 0.0)
    queue.wants(light, 0.0)
    assert not queue.may_begin(light, 0.0)
    queue.paused(heavy, True, 0.0)
    assert queue.may_begin(light, 0.0)
    queue.paused(heavy, False, 0.0)
    assert not queue.may_begin(light, 0.0)


def test_a_turn_beside_a_heavier_link_or_on_a_slow_line_is_one_page() -> None:
    queue = FairQueue()
    heavy, light = queue.lane(AUDIT), queue.lane(TELEMETRY)
    light.is_proven, heavy.priority = True, 9
    assert queue.pages(light, 8, 0.0) == 8
    assert queue.pages(heavy, 8, 0.0) == 1, "the first fetch after an outage only shows that pages come"
    heavy.is_proven = True
    queue.wants(heavy, 0.0)
    assert (queue.pages(light, 8, 0.0), queue.pages(heavy, 8, 0.0)) == (1, 8)
    light.page_seconds = heavy.page_seconds = 0.7
    assert queue.pages(heavy, 8, 0.0) == 2
    heavy.page_seconds = 30.0
    assert queue.pages(heavy, 8, 0.0) == 1


# The limit of one link.


def test_a_turn_beside_a_heavier_link_whose_first_page_is_on_its_way_is_one_page() -> None:
    """Or who proves itself first after an outage would have the line for seconds."""
    queue = FairQueue()
    heavy, light = queue.lane(link(1)), queue.lane(link(2))
    heavy.priority = 9
    queue.began(light, 0.0)
    queue.came(light, 1, 0.1)
    assert queue.pages(light, 8, 0.2) == 8, "the heavier one does not fetch"
    queue.began(heavy, 0.3)
    assert queue.pages(light, 8, 0.4) == 1
    queue.ended(heavy, 0.5, has_more=False, has_failed=True)
    assert queue.pages(light, 8, 0.6) == 8


def test_a_limit_is_kept_over_time_whatever_the_pages() -> None:
    throttle, now, came = Throttle(1_000_000), 100.0, 0
    for size in (400_000, 60_000, 500_000, 300_000, 100_000) * 20:
        now += throttle.delay(now)
        began = now
        now += 0.05
        throttle.charge(size, began, now)
        came += size
    now += throttle.delay(now)
    assert came / (now - 100.0) == pytest.approx(1_000_000, rel=0.02)


def test_idleness_earns_nothing_and_owes_nothing() -> None:
    throttle = Throttle(1_000)
    throttle.charge(2_000, 100.0, 100.0)
    assert throttle.delay(100.0) == pytest.approx(2.0)
    assert throttle.delay(1_000.0) == 0.0
    throttle.charge(2_000, 1_000.0, 1_000.0)
    assert throttle.delay(1_000.0) == pytest.approx(2.0)


def test_a_huge_fact_is_not_paid_for_forever() -> None:
    throttle = Throttle(10)
    throttle.charge(MEBIBYTE, 0.0, 1.0)
    assert throttle.delay(1.0) == DEBT_SECONDS_MAX


def test_without_a_limit_nothing_is_delayed() -> None:
    throttle = Throttle()
    throttle.charge(10**12, 0.0, 0.0)
    assert throttle.delay(0.0) == 0.0
    assert throttle.page_bytes_max(BYTES_MAX) == BYTES_MAX


@pytest.mark.parametrize(("rate", "page"), [(1, 1), (1_000_000, 500_000), (10**9, BYTES_MAX)])
def test_a_page_is_at_most_half_a_second_of_the_limit(rate: int, page: int) -> None:
    assert Throttle(rate).page_bytes_max(BYTES_MAX) == page


# Turns that really wait.


def fetch(ticket: int = 1, pages: int = 8, wait_seconds: float = 0.0) -> Fetch:
    limits = PageLimits(facts=5_000, bytes=BYTES_MAX, wait_seconds=wait_seconds)
    return Fetch(ticket, FetchRequest(AUDIT.stream, limits), pages)


def page(size: int, pending: int = 1) -> Page:
    facts = [Fact(1, AUDIT.stream, 1, b"", bytes(size))]
    return Page(AUDIT.stream, "e1", Agreement.EXACT, 1, 1, 1 + pending, pending, 1, None, facts)


def traffic(peer: PeerTraffic, name: LinkName, pace: Pace | None = None) -> LinkTraffic:
    made = LinkTraffic(name, peer, SystemClock())
    made.configure(pace or Pace())
    return made


async def prove(link: LinkTraffic) -> None:
    async with link.turn(fetch()) as turn:
        turn.came(page(10))


async def test_a_lighter_link_waits_until_the_heavier_one_is_level() -> None:
    peer = PeerTraffic()
    heavy, light = traffic(peer, AUDIT, Pace(priority=9)), traffic(peer, TELEMETRY)
    await prove(light)
    await prove(heavy)
    order = []

    async def fetch_lightly() -> None:
        async with light.turn(fetch(2)):
            order.append("light")

    async with heavy.turn(fetch(2)) as turn:
        task = asyncio.create_task(fetch_lightly())
        await asyncio.sleep(0.3)
        order.append("heavy")
        turn.came(page(10, pending=0))
    async with asyncio.timeout(0.3):
        await task
    assert order == ["heavy", "light"]


async def test_a_long_poll_and_a_first_look_wait_for_nobody() -> None:
    peer = PeerTraffic()
    heavy, light = traffic(peer, AUDIT, Pace(priority=9)), traffic(peer, TELEMETRY)
    await prove(light)
    await prove(heavy)
    async with heavy.turn(fetch(2)), asyncio.timeout(0.05):
        for step in (fetch(2, pages=8, wait_seconds=30.0), fetch(3, pages=1)):
            async with light.turn(step) as turn:
                assert (turn.step.ticket, turn.step.pages) == (step.ticket, step.pages)


async def test_polls_that_begin_at_any_time_end_together() -> None:
    link, ends = traffic(PeerTraffic(), AUDIT), set[int]()
    for _ in range(5):
        async with link.turn(fetch(1, pages=1, wait_seconds=5.0)) as turn:
            wait_seconds = turn.step.request.limits.wait_seconds
            assert 5.0 - TICK_SECONDS < wait_seconds <= 5.0, "a gateway polls with at most five seconds"
            ends.add(round((time.monotonic() + wait_seconds) / TICK_SECONDS * 20) % 20)
        await asyncio.sleep(0.033)
    assert ends <= {19, 0, 1}


async def test_a_poll_that_is_asked_again_is_asked_as_configuration_has_it_by_then() -> None:
    link = traffic(PeerTraffic(), AUDIT)
    async with link.turn(fetch(1, pages=1, wait_seconds=5.0)) as turn:
        assert turn.step.request.limits.bytes == MEBIBYTE and not turn.step.request.is_compressible
        link.configure(Pace(bytes_per_second=1_000, is_compressible=True))
        await turn.again()
        assert turn.step.request.limits.bytes == 500 and turn.step.request.is_compressible
        assert turn.step.request.limits.wait_seconds > 5.0 - TICK_SECONDS
        turn.came(page(300))
        began = time.monotonic()
        await turn.again()
        assert time.monotonic() - began > 0.2, "what came is paid for first"
        link.configure(Pace())
        await turn.again()
        assert turn.step.request.limits.bytes == MEBIBYTE


async def test_a_turn_that_is_given_up_while_it_waits_holds_nobody_up() -> None:
    peer = PeerTraffic()
    heavy, light = traffic(peer, AUDIT, Pace(priority=9)), traffic(peer, TELEMETRY)
    await prove(heavy)
    await prove(light)
    lane = peer.queue.lane(TELEMETRY)

    async def wait_lightly() -> None:
        async with light.turn(fetch(2)):
            raise AssertionError("its turn can't come")

    async with heavy.turn(fetch(2)):
        task = asyncio.create_task(wait_lightly())
        await asyncio.sleep(0.02)
        assert lane.waiting_since is not None
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert lane.waiting_since is None


async def test_a_failed_fetch_must_show_itself_again() -> None:
    peer = PeerTraffic()
    made = traffic(peer, AUDIT)
    await prove(made)
    async with made.turn(fetch(2)) as turn:
        assert turn.step.pages == 8
    with pytest.raises(PeerUnreachable):
        async with made.turn(fetch(3)):
            raise PeerUnreachable("cable cut")
    async with made.turn(fetch(4)) as turn:
        assert turn.step.pages == 1


async def test_a_turn_that_ends_late_does_not_end_the_next() -> None:
    peer = PeerTraffic()
    made = traffic(peer, AUDIT)
    lane = peer.queue.lane(AUDIT)
    late = made.turn(fetch(1))
    await late.__aenter__()
    async with made.turn(fetch(2)):
        await late.__aexit__(None, None, None)
        assert lane.moved_at is not None
    assert lane.moved_at is None


async def test_a_limited_link_asks_for_small_single_pages_and_waits_between_them() -> None:
    made = traffic(PeerTraffic(), AUDIT, Pace(bytes_per_second=1_000_000, is_compressible=True))
    clock = SystemClock()
    began = clock.monotonic()
    for ticket in range(1, 5):
        async with made.turn(fetch(ticket)) as turn:
            assert (turn.step.pages, turn.step.request.limits.bytes) == (1, 500_000)
            assert turn.step.request.is_compressible
            turn.came(page(100_000))
    assert 0.28 < clock.monotonic() - began < 0.45


async def test_a_limited_link_without_debt_polls_at_once() -> None:
    made = traffic(PeerTraffic(), AUDIT, Pace(bytes_per_second=1_000))
    async with asyncio.timeout(0.05):
        async with made.turn(fetch(1, wait_seconds=30.0)):
            pass


async def test_a_link_that_is_gone_holds_nobody_up() -> None:
    peer = PeerTraffic()
    heavy, light = traffic(peer, AUDIT, Pace(priority=9)), traffic(peer, TELEMETRY)
    await prove(light)
    await prove(heavy)
    turn = heavy.turn(fetch(2))
    await turn.__aenter__()
    heavy.close()
    async with asyncio.timeout(0.05):
        async with light.turn(fetch(2)):
            pass
    await turn.__aexit__(None, None, None)


@pytest.mark.parametrize(
    ("links", "page_bytes"),
    [(1, 2 * MEBIBYTE), (2, 5 * MEBIBYTE // 4), (4, 5 * MEBIBYTE // 8), (10, MEBIBYTE // 4), (50, MEBIBYTE // 4)],
)
async def test_links_that_catch_up_side_by_side_share_the_memory_for_pages(links: int, page_bytes: int) -> None:
    room, asked, step = PageRoom(), list[int](), fetch()
    limits = replace(step.request.limits, bytes=2 * MEBIBYTE)
    step = replace(step, request=replace(step.request, limits=limits))
    async with contextlib.AsyncExitStack() as under_way:
        for number in range(links):
            # Each with a peer of its own: memory is one for all of them.
            made = LinkTraffic(link(number), PeerTraffic(), SystemClock(), room)
            await prove(made)
            turn = await under_way.enter_async_context(made.turn(step))
            asked.append(turn.step.request.limits.bytes)
    assert (asked[0], asked[-1]) == (2 * MEBIBYTE, page_bytes)
    async with made.turn(step) as turn:
        assert turn.step.request.limits.bytes == 2 * MEBIBYTE, "once the others are done"


async def test_a_page_that_is_asked_for_alone_is_no_large_one() -> None:
    made = traffic(PeerTraffic(), AUDIT)
    async with made.turn(fetch(pages=1)) as turn:
        assert turn.step.request.limits.bytes == MEBIBYTE
    async with made.turn(fetch()) as turn:
        assert (turn.step.pages, turn.step.request.limits.bytes) == (1, MEBIBYTE), "it has to show that pages come"
        turn.came(page(300))
    async with made.turn(fetch()) as turn:
        assert (turn.step.pages, turn.step.request.limits.bytes) == (8, BYTES_MAX)


def test_nobody_is_given_more_than_was_asked_for() -> None:
    room = PageRoom()
    assert [room.page_bytes(1, pages) for pages in (1, 16)] == [1, 1]
    with pytest.raises(ValueError, match="x"), room.shared(), room.shared():
        raise ValueError("x")
    with room.shared():
        assert room.page_bytes(3 * MEBIBYTE, 16) == 3 * MEBIBYTE
