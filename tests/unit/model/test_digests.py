"""Digests of ranges: what they are taken over, how a range is cut, and that pages cut anywhere change nothing."""

from __future__ import annotations

import hashlib
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bsfg.model.digests import EMPTY_DIGEST, PartDigest, RangeDigester, hashed, joined_digest, split, width_of
from bsfg.model.fact import Fact
from bsfg.model.facts import Facts


def fact(sequence: int, payload: bytes = b"p", subject: str = "facts.x", headers: bytes = b"") -> Fact:
    return Fact(sequence, subject, 7, headers, payload)


def by_definition(facts: list[Fact]) -> str:
    """As docs/verify.md has it."""
    hasher = hashlib.sha256()
    for each in facts:
        subject = each.subject.encode()
        hasher.update(each.sequence.to_bytes(8, "big"))
        for field in (subject, each.headers, each.payload):
            hasher.update(len(field).to_bytes(4, "big"))
        for field in (subject, each.headers, each.payload):
            hasher.update(field)
    return hasher.hexdigest()


@given(
    st.lists(st.integers(1, 60), unique=True).map(sorted),
    st.integers(1, 20),
    st.lists(st.integers(1, 9), min_size=1),
)
def test_parts_are_what_the_definition_says_however_the_pages_fall(
    sequences: list[int], width: int, pages: list[int]
) -> None:
    facts = [fact(sequence, b"%d" % sequence, headers=b"A: b\r\n" * (sequence % 2)) for sequence in sequences]
    digester, start, turn = RangeDigester(1, 60, width), 0, 0
    while start < len(facts):
        end = start + pages[turn % len(pages)]
        digester.add(Facts.of(facts[start:end]))
        start, turn = end, turn + 1
    ranges = [(first, min(first + width - 1, 60)) for first in range(1, 61, width)]
    assert digester.finish() == [
        PartDigest(len(held), by_definition(held))
        for held in ([each for each in facts if first <= each.sequence <= last] for first, last in ranges)
    ]


@pytest.mark.parametrize(
    "other",
    [
        fact(2),
        fact(1, b"q"),
        fact(1, b"", subject="facts.xp"),
        fact(1, headers=b"A: b\r\n"),
        fact(1, b"", headers=b"p"),
    ],
    ids=["sequence", "payload", "a byte moved to the subject", "headers", "a byte moved to the headers"],
)
def test_every_field_counts_and_none_runs_into_another(other: Fact) -> None:
    assert hashed(Facts.of([other])) != hashed(Facts.of([fact(1)]))


@given(
    st.lists(st.integers(1, 2**64 - 1), min_size=1, max_size=6, unique=True).map(sorted),
    st.lists(st.sampled_from([b"", b"p", b"q", b"pp"]), min_size=6, max_size=6),
    st.lists(st.sampled_from(["facts.x", "facts.\N{LATIN SMALL LETTER E WITH ACUTE}"]), min_size=6, max_size=6),
    st.lists(st.sampled_from([b"", b"A: b\r\n"]), min_size=6, max_size=6),
    st.tuples(st.booleans(), st.booleans(), st.booleans()),
)
def test_facts_that_share_a_field_and_such_that_do_not(
    sequences: list[int],
    payloads: list[bytes],
    subjects: list[str],
    headers: list[bytes],
    shared: tuple[bool, bool, bool],
) -> None:
    columns = [
        column[:1] * 6 if is_shared else column
        for column, is_shared in zip((payloads, subjects, headers), shared, strict=True)
    ]
    facts = [fact(*each) for each in zip(sequences, *columns, strict=False)]
    assert hashlib.sha256(hashed(Facts.of(facts))).hexdigest() == by_definition(facts)


def test_the_time_does_not_count() -> None:
    assert hashed(Facts.of([fact(1)._replace(time=9)])) == hashed(Facts.of([fact(1)]))


@given(st.integers(1, 10_000), st.integers(0, 10_000), st.integers(1, 256))
def test_a_range_is_cut_without_holes_into_no_more_parts_than_asked(
    first: int, more: int, parts: int
) -> None:
    ranges = split(first, first + more, parts)
    assert len(ranges) <= parts
    assert (ranges[0][0], ranges[-1][1]) == (first, first + more)
    assert all(one[1] + 1 == other[0] for one, other in itertools.pairwise(ranges))
    assert all(end - begin + 1 == width_of(first, first + more, parts) for begin, end in ranges[:-1])


def test_a_part_is_complete_only_when_something_lies_behind_it() -> None:
    digester = RangeDigester(1, 20, 10)
    digester.add(Facts.of([fact(10)]))
    assert digester.parts == []
    digester.reach(10)
    assert digester.parts == []
    digester.reach(11)
    assert [part.count for part in digester.parts] == [1]
    assert digester.finish()[1] == PartDigest(0, EMPTY_DIGEST)


def test_the_digest_of_several_parts_is_over_their_digests() -> None:
    parts = [PartDigest(1, "ab" * 32), PartDigest(1, "cd" * 32)]
    assert joined_digest(parts[:1]) == "ab" * 32
    assert joined_digest(parts) == hashlib.sha256(b"\xab" * 32 + b"\xcd" * 32).hexdigest()
