"""The short way of a level link's poll is the long one, wherever it is taken."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations_with_replacement, product
from typing import Any

from tests.scenarios.test_link import NAME, SETTINGS, at, fact, page

from bsfg.core.conversation import Fetch, Located, PageFetched, Started
from bsfg.core.level import still_level
from bsfg.core.link import advance
from bsfg.core.link_state import Flight, Link, Phase, Recovery, SenderWord, StepFailure, state_of
from bsfg.core.reconcile import Halt
from bsfg.errors import PeerUnreachable
from bsfg.model.cursor import Cursor, Fence, HaltReason, LinkState
from bsfg.model.fact import digest
from bsfg.model.facts import Facts
from bsfg.model.page import FetchRequest, PageLimits

POLLING = replace(SETTINGS, limits=PageLimits(wait_seconds=5.0))
TICKET = 20
CURSOR = Cursor("e1", 7, digest(fact(7)), 7)
LEVEL = Link(
    NAME,
    POLLING,
    phase=Phase.FLOWING,
    ticket=TICKET,
    fetch=TICKET,
    is_polling=True,
    fence=Fence(1, "2026-01-01T00:00:00Z", 7),
    cursor=CURSOR,
    word=SenderWord(7, 0, 8_000, None),
    confirmed=7,
    recovery=None,
)
FAILURE = StepFailure(PeerUnreachable("cable cut"), 0.5, 77)
FLIGHT = Flight(19, Facts.of([fact(8)]), Cursor("e1", 8, digest(fact(8)), 8), Fence(1, "", 8))
OTHERWISE: dict[str, list[Any]] = {
    "phase": [Phase.LOCATING, Phase.RECORDING, Phase.WAITING, Phase.PARTITIONED, Phase.HALTED],
    "is_polling": [False],
    "flights": [(FLIGHT,)],
    "is_fence_proved": [True],
    "cursor": [replace(CURSOR, scanned_through=9), Cursor("e1", None, None, 7), replace(CURSOR, epoch="e2")],
    "saved": [CURSOR, replace(CURSOR, scanned_through=9), Cursor("e1", None, None, 7)],
    "fetch_failure": [FAILURE],
    "accept_gap": [(3, 5)],
    "word": [None, SenderWord(9, 2, 8_000, 8_000)],
    "failures": [1],
    "trouble": [LinkState.BACKING_OFF],
    "error": [FAILURE.error],
    "halt": [Halt(HaltReason.DIVERGED, "words")],
    "is_partitioned": [True],
    "confirming": [True],
    "confirmed": [None, 6],
    "recovery": [Recovery(), Recovery(7)],
}
PAGES = [
    page(start=8),
    page(start=8, pending=3),
    page(start=8, scanned=9),
    page(start=10),
    page(start=8, epoch="e2"),
    page(8, start=8),
    replace(page(8, start=8), scanned_through=7),
    page(start=3),
]


def links() -> Iterator[Link]:
    """The level link, and each that differs from it in one thing or in two."""
    single = [(name, value) for name, values in OTHERWISE.items() for value in values]
    yield LEVEL
    for one, other in combinations_with_replacement(single, 2):
        yield LEVEL._replace(**dict([one, other]))


def test_a_poll_that_brings_nothing_new_stays_out() -> None:
    rested = still_level(LEVEL, TICKET, page(start=8))
    assert rested is not None and (rested.fetch, rested.rounds) == (TICKET, LEVEL.rounds + 1)
    assert rested.word == SenderWord.of(page(start=8)) != LEVEL.word


def test_an_answer_to_another_poll_does_not_count() -> None:
    assert still_level(LEVEL, TICKET - 1, page(start=8)) is None


def test_the_short_way_is_taken_only_where_the_long_one_would_ask_the_same_again() -> None:
    taken = 0
    for link, answer in product(links(), PAGES):
        rested = still_level(link, TICKET, answer)
        if rested is None:
            continue
        taken += 1
        long, commands = advance(link, PageFetched(TICKET, answer))
        assert long._replace(ticket=TICKET, fetch=TICKET) == rested
        request = FetchRequest(NAME.stream, POLLING.limits, after=link.cursor)
        assert commands == (Fetch(TICKET + 1, request, 1),)
        assert long.is_polling
        assert state_of(link) is state_of(rested) is LinkState.LEVEL, "nobody is told of another state"
    assert taken > 3


def test_the_level_link_of_these_tests_is_one_that_came_to_be() -> None:
    link, _ = advance(Link(NAME, POLLING), Started())
    link, _ = advance(link, Located(link.ticket, at(7, 7)))
    for _ in range(2):
        link, _ = advance(link, PageFetched(link.ticket, page(start=8)))
    link = link._replace(confirming=False, confirmed=7)
    assert still_level(link, link.ticket, page(start=8)) is not None
