"""Which facts of a log stand where they should not, told by their sequences alone."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Arrangement:
    """Sequences in the order in which they lie, as a rising run and what does not fit into it."""

    run: list[int]
    """Indices of a longest strictly rising run."""
    others: list[int]
    """Indices of all else."""
    misplaced: frozenset[int]
    """The sequences to be named: both of two that changed places, the one that was moved."""


def arrange(sequences: Sequence[int], above: int) -> Arrangement:
    """Find the longest strictly rising run of sequences that are above what came before."""
    run = _longest_run(sequences, above)
    kept = set(run)
    others = [index for index in range(len(sequences)) if index not in kept]
    moved = frozenset(sequences[index] for index in others)
    # Two that changed places differ from the sorted order at just their two places, however far apart they are; one
    # that was moved shifts all between, and is told by not fitting into the run.
    exchanged = frozenset(
        found for found, wanted in zip(sequences, sorted(sequences), strict=True) if found != wanted
    )
    if others and min(sequences) > above and 0 < len(exchanged) <= 2 * len(others):
        return Arrangement(run, others, exchanged)
    return Arrangement(run, others, moved)


def _longest_run(sequences: Sequence[int], above: int) -> list[int]:
    """Indices of a longest strictly rising run above a bound, by patience sorting."""
    ends: list[int] = []
    indices: list[int] = []
    before: list[int] = [-1] * len(sequences)
    for index, sequence in enumerate(sequences):
        if sequence <= above:
            continue
        place = bisect_left(ends, sequence)
        if place == len(ends):
            ends.append(sequence)
            indices.append(index)
        else:
            ends[place], indices[place] = sequence, index
        before[index] = indices[place - 1] if place else -1
    run: list[int] = []
    at = indices[-1] if indices else -1
    while at >= 0:
        run.append(at)
        at = before[at]
    return run[::-1]
