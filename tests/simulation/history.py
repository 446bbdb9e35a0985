"""What really happened at the source, kept outside of everything that is tested.

Each publish continues one history. Where a source loses its tail and goes on, a new branch forks off behind what was
left, and its facts take sequences that other facts have had: only here can the two be told apart.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, eq=False)
class Branch:
    """A history, or what became of it behind a fork."""

    number: int
    parent: Branch | None
    forked_behind: int
    """The last sequence that it shares with its parent."""


@dataclass(frozen=True)
class Place:
    branch: Branch
    sequence: int


@dataclass
class History:
    """Every fact ever published, by its number, and what the source itself took away again."""

    branch: Branch = field(default_factory=lambda: Branch(0, None, 0))
    places: list[Place] = field(default_factory=list)
    """Where each fact was stored; its number is its index and its payload."""
    deleted: set[int] = field(default_factory=set)
    """Facts taken out singly: holes are legal (design, decision 5)."""
    expired: set[int] = field(default_factory=set)
    """Facts that retention or a purge took: who never got them is owed a gap record."""
    branches: int = 1
    _numbers: dict[tuple[int, int], int] = field(default_factory=dict)

    def published(self, sequence: int) -> int:
        """The number of a new fact at this sequence."""
        number = len(self.places)
        self.places.append(Place(self.branch, sequence))
        self._numbers[self.branch.number, sequence] = number
        return number

    def forked(self, behind: int) -> None:
        """The source lost what lay behind this sequence; what comes now is another history."""
        self.branch = Branch(self.branches, self.branch, behind)
        self.branches += 1

    def at(self, branch: Branch, sequence: int) -> int | None:
        """The number of the fact that this history has, or had, at a sequence."""
        found: Branch | None = branch
        while found is not None and sequence <= found.forked_behind:
            found = found.parent
        return None if found is None else self._numbers.get((found.number, sequence))

    def continues(self, number: int, earlier: int) -> bool:
        """Whether a fact comes later in the very history that an earlier one belongs to."""
        place, before = self.places[number], self.places[earlier]
        same = self.at(place.branch, before.sequence) == earlier
        return same and place.sequence > before.sequence
