"""The facts of a page as columns, so that what is done with a page is done once and not once a fact.

A :class:`Facts` reads like any sequence of :class:`Fact`; who looks at single facts needs to know nothing more. Who
moves pages works on the columns, which are lists of equal length in the order of the facts' sequences.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence, Set
from typing import Final, overload

from bsfg.model.fact import Fact

# Called once a fact: the constructor that NamedTuple makes takes twice as long.
_new_fact: Final = tuple.__new__


class Facts(Sequence[Fact]):
    """Facts in order; neither it nor its columns are changed once it is made."""

    __slots__ = ("headers", "payloads", "sequences", "subjects", "times")

    def __init__(
        self,
        sequences: list[int],
        subjects: list[str],
        times: list[int],
        headers: list[bytes],
        payloads: list[bytes],
    ) -> None:
        self.sequences = sequences
        self.subjects = subjects
        self.times = times
        self.headers = headers
        """The block of allowed headers of each, empty for none."""
        self.payloads = payloads

    @classmethod
    def of(cls, facts: Iterable[Fact]) -> Facts:
        """These facts as columns; the very same where they are columns already."""
        if isinstance(facts, Facts):
            return facts
        rows = list(facts)
        return cls(
            [fact.sequence for fact in rows],
            [fact.subject for fact in rows],
            [fact.time for fact in rows],
            [fact.headers for fact in rows],
            [fact.payload for fact in rows],
        )

    @classmethod
    def joined(cls, parts: Sequence[Facts]) -> Facts:
        """The facts of all parts, in the order of the parts."""
        if len(parts) == 1:
            return parts[0]
        whole = cls([], [], [], [], [])
        for part in parts:
            whole.sequences += part.sequences
            whole.subjects += part.subjects
            whole.times += part.times
            whole.headers += part.headers
            whole.payloads += part.payloads
        return whole

    def behind(self, sequence: int) -> Facts:
        """The facts behind this sequence."""
        first = bisect_right(self.sequences, sequence)
        return self[first:] if first else self

    def through(self, sequence: int) -> Facts:
        """The facts up to this sequence, and with it."""
        end = bisect_right(self.sequences, sequence)
        return self[:end] if end < len(self.sequences) else self

    def without(self, sequences: Set[int]) -> Facts:
        """The facts but those with these sequences."""
        if not sequences or sequences.isdisjoint(self.sequences):
            return self
        return Facts.of(fact for fact in self if fact.sequence not in sequences)

    @property
    def content_bytes(self) -> int:
        """Bytes of all headers and payloads."""
        return sum(map(len, self.payloads)) + sum(map(len, self.headers))

    def __len__(self) -> int:
        return len(self.sequences)

    def __iter__(self) -> Iterator[Fact]:
        columns = zip(self.sequences, self.subjects, self.times, self.headers, self.payloads, strict=True)
        for column in columns:
            yield _new_fact(Fact, column)

    @overload
    def __getitem__(self, index: int) -> Fact: ...
    @overload
    def __getitem__(self, index: slice) -> Facts: ...
    def __getitem__(self, index: int | slice) -> Fact | Facts:
        if isinstance(index, slice):
            return Facts(
                self.sequences[index],
                self.subjects[index],
                self.times[index],
                self.headers[index],
                self.payloads[index],
            )
        return Fact(
            self.sequences[index],
            self.subjects[index],
            self.times[index],
            self.headers[index],
            self.payloads[index],
        )

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Facts):
            return all(getattr(self, column) == getattr(other, column) for column in self.__slots__)
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Facts({list(self)!r})"


NO_FACTS: Final = Facts([], [], [], [], [])
