"""The watchdog: a link that neither moves nor is proven level has a name within a minute (I26)."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from tests.support.twin_link import NAME, TwinLink

from bsfg.core.conversation import Started
from bsfg.core.link_state import Link, Phase, SenderWord
from bsfg.daemon.driver import LinkDriver
from bsfg.daemon.watchdog import STALL_SECONDS, Watchdog
from bsfg.errors import BsfgError, Code
from bsfg.model.cursor import Cursor, LinkState

LEVEL = SenderWord(head=9, pending=0, sender_time=1, next_time=None)
BEHIND = SenderWord(head=9, pending=4, sender_time=1, next_time=1)


@dataclass
class Hand:
    """A clock that is moved by hand."""

    seconds: float = 1_000.0

    def now(self) -> int:
        return int(self.seconds * 1e9)

    def monotonic(self) -> float:
        return self.seconds

    async def sleep(self, seconds: float) -> None:
        self.seconds += seconds


def flowing(word: SenderWord, scanned_through: int = 5) -> Link:
    settings = TwinLink().settings
    cursor = Cursor("e1", 5, "d", scanned_through)
    return Link(NAME, settings, phase=Phase.FLOWING, fetch=1, cursor=cursor, word=word)


def frozen_driver() -> tuple[LinkDriver, Hand]:
    """A driver whose steps never come to anything."""
    twin, clock = TwinLink(), Hand()
    driver = twin.new_driver()
    driver = LinkDriver(driver.link, driver.client, driver.inbound, driver.quarantine, clock, driver.observer)
    driver._carry_out = lambda command: None  # type: ignore[method-assign]
    return driver, clock


def test_a_step_that_comes_to_nothing_is_stalled_after_a_minute() -> None:
    driver, clock = frozen_driver()
    driver._take(Started())
    clock.seconds += STALL_SECONDS - 1
    assert driver.state is LinkState.STARTING
    clock.seconds += 2
    assert driver.state is LinkState.STALLED


def test_a_link_whose_task_never_began_is_stalled_too() -> None:
    driver, clock = frozen_driver()
    clock.seconds += STALL_SECONDS + 1
    assert not driver.link.tickets and driver.state is LinkState.STALLED


def test_answers_that_bring_nothing_are_no_progress() -> None:
    """The peer answers every few seconds that there is more, and never sends it."""
    dog, link = Watchdog(0.0, 0.0), flowing(BEHIND)
    for now in range(0, 70, 5):
        after = link._replace(word=replace(BEHIND, sender_time=now))
        dog.note(link, after, float(now))
        link = after
    assert dog.state(link, 65.0) is LinkState.STALLED


@pytest.mark.parametrize("word", [BEHIND, LEVEL])
def test_a_cursor_that_moves_is_progress(word: SenderWord) -> None:
    dog, link = Watchdog(0.0, 0.0), flowing(word)
    for now in range(0, 130, 5):
        after = flowing(word, scanned_through=5 + now)
        dog.note(link, after, float(now))
        link = after
    assert dog.state(link, 130.0) is (LinkState.LEVEL if word is LEVEL else LinkState.CATCHING_UP)


def test_a_quiet_link_is_proven_level_by_each_fresh_word_and_not_by_an_old_one() -> None:
    dog, link = Watchdog(0.0, 0.0), flowing(LEVEL)
    for now in range(0, 130, 5):
        after = link._replace(word=replace(LEVEL, sender_time=now))
        dog.note(link, after, float(now))
        link = after
    assert dog.state(link, 130.0) is LinkState.LEVEL
    dog.note(link, link._replace(confirming=True), 180.0)
    assert dog.state(link, 186.0) is LinkState.STALLED, "an event without a word of the sender proves nothing"


@pytest.mark.parametrize(
    ("phase", "state"),
    [
        (Phase.HALTED, LinkState.HALTED),
        (Phase.PARTITIONED, LinkState.PARTITIONED),
        (Phase.RESTING, LinkState.CATCHING_UP),
    ],
)
def test_a_link_that_waits_for_somebody_by_design_is_not_stalled(phase: Phase, state: LinkState) -> None:
    link = flowing(BEHIND)._replace(phase=phase, fetch=None)
    assert Watchdog(0.0, 0.0).state(link, 1e6) is state


def test_trouble_with_a_name_keeps_it_while_it_is_tried_again() -> None:
    dog = Watchdog(0.0, 0.0)
    link = flowing(BEHIND)._replace(trouble=LinkState.BACKING_OFF, error=BsfgError(Code.TIMED_OUT, "silent"))
    for now in range(0, 300, 8):
        after = link._replace(failures=now)
        dog.note(link, after, float(now))
        link = after
    assert dog.state(link, 300.0) is LinkState.BACKING_OFF
    assert dog.state(link, 300.0 + 2 * STALL_SECONDS) is LinkState.STALLED
