"""Two generations held against each other: by coordinates, by pages, and on where they grew."""

from __future__ import annotations

from bsfg.daemon.comparison import PAGE_FACTS, Comparison, ReadFacts
from bsfg.substrates.generations import InboundFact


class Facts:
    """A generation's facts; ``most`` is the largest page that was asked for."""

    def __init__(self, *places: tuple[str | None, int, str]) -> None:
        self.rows: list[InboundFact] = []
        self.add(*places)

    def add(self, *places: tuple[str | None, int, str]) -> None:
        for epoch, sequence, digest in places:
            self.rows.append(InboundFact(len(self.rows) + 1, epoch, sequence, digest))

    @property
    def reader(self) -> ReadFacts:
        async def read(position: int, count: int) -> list[InboundFact]:
            return [row for row in self.rows if row.local_sequence >= position][: min(count, 3)]

        return read


def facts(*sequences: int, epoch: str = "e1", mark: str = "") -> list[tuple[str | None, int, str]]:
    return [(epoch, sequence, f"d{sequence}{mark}") for sequence in sequences]


def begun(before: Facts, new: Facts) -> Comparison:
    comparison = Comparison()
    comparison.begin("e1", before.reader, 1, new.reader)
    return comparison


async def test_each_fact_is_counted_once_by_where_it_is() -> None:
    before = Facts(*facts(1, 2, 4, 5), *facts(7, mark="x"), *facts(8, 9))
    new = Facts(*facts(2, 3, 4, 7, 8, 9))
    comparison = begun(before, new)
    await comparison.advance()
    found = (comparison.same, comparison.only_before, comparison.only_new, comparison.different)
    assert found == (4, 2, 1, 1)
    assert comparison.first_different == 7


async def test_facts_of_other_epochs_and_of_other_writers_are_passed_over() -> None:
    before = Facts(*facts(1, 2, epoch="e0"), (None, 0, ""), *facts(1, 2))
    comparison = begun(before, Facts(*facts(1, 2)))
    await comparison.advance()
    assert (comparison.same, comparison.only_before, comparison.only_new) == (2, 0, 0)


async def test_it_goes_on_where_one_of_the_two_had_nothing_more() -> None:
    before, new = Facts(*facts(1, 2, 3, 4)), Facts(*facts(1, 2))
    comparison = begun(before, new)
    await comparison.advance()
    assert (comparison.same, comparison.only_before) == (2, 0)
    new.add(*facts(3, 4, 5, 6))
    await comparison.advance()
    before.add(*facts(5))
    before.add(*facts(6, mark="x"))
    await comparison.advance()
    assert (comparison.same, comparison.only_before, comparison.only_new, comparison.different) == (5, 0, 0, 1)


async def test_no_more_than_a_page_is_asked_for() -> None:
    asked: list[int] = []

    async def read(position: int, count: int) -> list[InboundFact]:
        asked.append(count)
        return []

    comparison = Comparison()
    await comparison.advance()
    comparison.begin("e1", read, 1, read)
    await comparison.advance()
    assert set(asked) == {PAGE_FACTS}
