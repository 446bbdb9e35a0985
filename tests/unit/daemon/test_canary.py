"""The canary: how long a fact took, by two clocks that are never subtracted from each other."""

from __future__ import annotations

from dataclasses import dataclass

from tests.support.twin_link import STREAM, TwinLink

from bsfg.daemon.canary import LOST_SECONDS, Canary
from bsfg.model.fact import Fact
from bsfg.model.page import Agreement, Page

PERIOD = 30.0


@dataclass
class Hand:
    """A clock that is moved by hand, and years away from the sender's."""

    seconds: float = 5.0e8

    def now(self) -> int:
        return int(self.seconds * 1e9)

    def monotonic(self) -> float:
        return self.seconds

    async def sleep(self, seconds: float) -> None:
        self.seconds += seconds


def fact(sequence: int, stored_seconds: float) -> Fact:
    return Fact(sequence, str(STREAM), int(stored_seconds * 1e9), b"", b"x")


def page(sender_seconds: float, *facts: Fact) -> Page:
    head = facts[-1].sequence if facts else 0
    sender_time = int(sender_seconds * 1e9)
    return Page(STREAM, "e", Agreement.EXACT, 1, head, head, 0, sender_time, None, list(facts))


def test_the_time_at_the_sender_and_the_time_here_are_added() -> None:
    clock = Hand()
    canary = Canary(clock, PERIOD)
    canary.page_came(page(1_000.5, fact(1, 990.0), fact(2, 1_000.0)))
    clock.seconds += 0.25
    assert canary.stored([fact(1, 990.0)]) is None, "the one that is followed is not durable yet"
    assert canary.stored([fact(2, 1_000.0)]) == 0.75


def test_one_fact_a_period_is_followed() -> None:
    clock = Hand()
    canary = Canary(clock, PERIOD)
    measured = 0
    for sequence in range(1, 200):
        canary.page_came(page(1_000, fact(sequence, 1_000)))
        measured += canary.stored([fact(sequence, 1_000)]) is not None
        clock.seconds += 1
    assert measured == 200 // PERIOD + 1


def test_off_follows_nothing_and_an_empty_page_is_none() -> None:
    clock = Hand()
    off, on = Canary(clock), Canary(clock, PERIOD)
    off.page_came(page(1_000, fact(1, 1_000)))
    on.page_came(page(1_000))
    assert off.stored([fact(1, 1_000)]) is None and on.stored([fact(1, 1_000)]) is None


def test_a_fact_that_never_becomes_durable_is_given_up() -> None:
    clock = Hand()
    canary = Canary(clock, PERIOD)
    canary.page_came(page(1_000, fact(900, 1_000)))
    clock.seconds += LOST_SECONDS + 1
    canary.page_came(page(2_000, fact(5, 2_000)))
    assert canary.stored([fact(5, 2_000)]) == 0.0


async def test_a_link_tells_of_the_fact_that_it_followed() -> None:
    async with TwinLink() as twin:
        twin.driver.canary = Canary(twin.clock, PERIOD)
        twin.publish(1, 2, 3)
        await twin.until(lambda: bool(twin.diary.arrivals))
        assert 0 <= twin.diary.arrivals[0] < 5
