"""What a repair takes over from the generation in force: undamaged, in order, from wherever it goes on."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from bsfg.daemon.repair_source import KeptFacts
from bsfg.model.fact import Fact
from bsfg.model.facts import Facts
from bsfg.model.page import PageLimits
from bsfg.model.ranges import Ranges
from bsfg.substrates.held_pages import HeldPage

WIDE = PageLimits(facts=100, bytes=10_000)


class Shelf:
    """Pages of facts with these sequences, each of ten bytes."""

    def __init__(self, *pages: list[int]) -> None:
        self._pages = pages
        self.reads = 0
        self.is_open = False

    async def copies(self) -> AsyncGenerator[HeldPage, None]:
        self.reads += 1
        self.is_open = True
        try:
            for sequences in self._pages:
                yield HeldPage(Facts.of(Fact(each, "facts.x", each, b"", b"0123456789") for each in sequences))
        finally:
            self.is_open = False

    def kept(self, *damaged: tuple[int, int], left_out: tuple[int, ...] = ()) -> KeptFacts:
        return KeptFacts(self.copies, Ranges(damaged), frozenset(left_out))


async def taken(kept: KeptFacts, after: int, through: int, limits: PageLimits = WIDE) -> list[int]:
    return list((await kept.take(after, through, limits)).sequences)


async def test_facts_come_page_by_page_and_none_that_is_damaged() -> None:
    kept = Shelf([1, 2, 3, 4], [5, 6], [7, 8, 9]).kept((3, 3), (5, 7), left_out=(9,))
    assert await taken(kept, 0, 100) == [1, 2, 4]
    assert await taken(kept, 4, 100) == [8]
    assert await taken(kept, 8, 100) == []


async def test_no_fact_comes_from_behind_the_end() -> None:
    shelf = Shelf([1, 2, 3], [4, 5])
    kept = shelf.kept()
    assert await taken(kept, 0, 2) == [1, 2]
    assert await taken(kept, 2, 2) == []
    assert await taken(kept, 2, 9) == [3]
    assert await taken(kept, 3, 4) == [4]
    assert shelf.reads == 1


async def test_whoever_goes_back_begins_anew() -> None:
    shelf = Shelf([1, 2], [3, 4], [5, 6])
    kept = shelf.kept()
    assert [await taken(kept, after, 9) for after in (0, 2, 4)] == [[1, 2], [3, 4], [5, 6]]
    assert await taken(kept, 1, 9) == [2]
    assert await taken(kept, 2, 9) == [3, 4]
    assert shelf.reads == 2
    await kept.close()
    assert not shelf.is_open


async def test_a_page_is_as_large_as_it_may_be_and_never_empty() -> None:
    kept = Shelf([1, 2, 3, 4]).kept()
    assert await taken(kept, 0, 9, PageLimits(facts=3, bytes=10_000)) == [1, 2, 3]
    assert await taken(kept, 0, 9, PageLimits(facts=100, bytes=20)) == [1, 2]
    assert await taken(kept, 0, 9, PageLimits(facts=100, bytes=1)) == [1]


async def test_what_lies_out_of_order_though_it_was_not_named_is_left_out() -> None:
    kept = Shelf([1, 2, 7, 3], [4, 2, 5]).kept()
    assert await taken(kept, 0, 9) == [1, 2, 3]
    assert await taken(kept, 3, 9) == [4, 5]
