"""Facts as columns read as any sequence of facts does."""

from __future__ import annotations

from bsfg.model.fact import Fact
from bsfg.model.facts import Facts

ROWS = [Fact(number, f"facts.s.{number % 2}", number * 10, b"A: b\r\n", b"%d" % number) for number in (2, 3, 5, 9)]


def test_columns_and_rows_are_the_same_facts() -> None:
    facts = Facts.of(ROWS)
    assert list(facts) == ROWS
    assert facts == ROWS
    assert facts != ROWS[1:]
    assert facts.sequences == [2, 3, 5, 9]
    assert facts.subjects == ["facts.s.0", "facts.s.1", "facts.s.1", "facts.s.1"]
    assert Facts.of(facts) is facts
    assert (len(facts), facts[0], facts[-1], list(facts[1:3])) == (4, ROWS[0], ROWS[3], ROWS[1:3])
    assert facts.content_bytes == 4 * (6 + 1)


def test_no_facts() -> None:
    assert not Facts.of([])
    assert Facts.of([]) == []
    assert Facts.of([]).behind(7) == Facts.joined([Facts.of([]), Facts.of([])]) == []


def test_parts_are_joined_in_order_and_left_as_they_are() -> None:
    first, second = Facts.of(ROWS[:1]), Facts.of(ROWS[1:])
    assert Facts.joined([first, second]) == ROWS
    assert (len(first), len(second)) == (1, 3)
    assert Facts.joined([second]) is second


def test_facts_behind_a_sequence() -> None:
    facts = Facts.of(ROWS)
    assert facts.behind(1) is facts
    for sequence, count in ((2, 3), (3, 2), (4, 2), (9, 0)):
        assert facts.behind(sequence) == ROWS[4 - count :]


def test_facts_without_some() -> None:
    facts = Facts.of(ROWS)
    assert facts.without(frozenset()) is facts
    assert facts.without(frozenset({4, 7})) is facts
    assert facts.without(frozenset({2, 5})) == [ROWS[1], ROWS[3]]
