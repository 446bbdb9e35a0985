"""Which facts lie where they should not, by their sequences."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bsfg.model.arrangement import arrange


def swapped(count: int, one: int, other: int) -> list[int]:
    sequences = list(range(1, count + 1))
    sequences[one - 1], sequences[other - 1] = sequences[other - 1], sequences[one - 1]
    return sequences


@given(st.integers(1, 50), st.integers(1, 50))
def test_both_of_two_that_changed_places_are_named_and_no_other(one: int, other: int) -> None:
    found = arrange(swapped(50, one, other), 0)
    assert found.misplaced == ({one, other} if one != other else set())


@pytest.mark.parametrize(
    ("sequences", "above", "named", "others"),
    [
        ([1, 2, 3], 0, set(), []),
        ([1, 2, 9, 3, 4, 5], 0, {9}, [2]),
        ([1, 5, 6, 7, 2, 8], 0, {2}, [4]),
        ([11, 12, 5, 13], 10, {5}, [2]),
        ([5, 4], 10, {4, 5}, [0, 1]),
        ([], 0, set(), []),
    ],
    ids=["in order", "far ahead", "late", "below what was there", "all below", "none"],
)
def test_one_that_was_moved_is_the_stranger(
    sequences: list[int], above: int, named: set[int], others: list[int]
) -> None:
    found = arrange(sequences, above)
    assert (set(found.misplaced), found.others) == (named, others)


def test_a_copy_does_not_fit_though_it_is_in_no_wrong_place() -> None:
    assert len(arrange([1, 2, 2, 3], 0).others) == 1


@given(st.lists(st.integers(1, 30), max_size=40), st.integers(0, 10))
def test_the_run_rises_strictly_and_nothing_is_lost(sequences: list[int], above: int) -> None:
    found = arrange(sequences, above)
    run = [sequences[index] for index in found.run]
    assert all(one < other for one, other in itertools.pairwise(run))
    assert all(sequence > above for sequence in run)
    assert sorted(found.run + found.others) == list(range(len(sequences)))
