"""What ``verify`` and ``drill`` show to people: one answer first, and nothing that a peer sent moves the cursor."""

from __future__ import annotations

from typing import Any, Final

from bsfg.cli.drill import shown_line
from bsfg.cli.verify import DIFFERENCES_SHOWN_MAX, verified

RESULT: Final[dict[str, Any]] = {
    "peer": "enterprise",
    "stream": "facts.x",
    "epoch": "e",
    "from": 1,
    "to": 9,
    "facts": 9,
    "digest": "ab" * 32,
    "identical": True,
    "differences": [],
    "unresolved": [],
    "explained": [],
    "outside": [],
}


def shown(**changed: Any) -> list[str]:
    return list(verified(RESULT | changed))


def test_the_answer_is_the_first_line() -> None:
    assert shown() == ["complete and identical from 1 to 9, 9 facts", f"  digest {'ab' * 32}"]
    assert shown(facts=0, **{"from": 10}) == ["nothing to compare: no fact of this range is on both sides"]


def test_every_difference_and_every_reservation_has_its_line() -> None:
    lines = shown(
        identical=False,
        digest=None,
        differences=[
            {"kind": "different", "sequence": 4, "local_sequence": 5},
            {"kind": "foreign", "sequence": None, "local_sequence": 7, "note": "bad \x1b[2J"},
        ],
        unresolved=[{"from": 100, "to": 200}],
        explained=[{"from": 6, "to": 8, "reason": "gap"}],
        outside=["10 to 12: not fetched yet"],
    )
    assert lines == [
        "NOT identical from 1 to 9: 2 differences",
        "  different: fact 4 (local 5)",
        "  foreign: message (local 7): bad \\x1b[2J",
        "  100 to 200: differs, and was not narrowed further",
        "  explained: 6 to 8: gap",
        "  not compared: 10 to 12: not fetched yet",
        "  hint: bsfg repair --peer enterprise --stream facts.x fetches it again",
    ]


def test_a_long_list_is_cut_and_says_so() -> None:
    many = [{"kind": "missing", "sequence": number, "local_sequence": None} for number in range(1, 61)]
    lines = shown(identical=False, differences=many)
    assert f"  and {60 - DIFFERENCES_SHOWN_MAX} more (--output json shows all)" in lines


def test_a_line_of_a_drill_says_what_was_found_and_expected() -> None:
    judgement = {"outcome": "failed", "summary": "a\x1bb", "found": "f", "expected": "e", "hint": None}
    lines = list(shown_line({"section": "8.1", "title": "t", "judgement": judgement}))
    assert [line.strip() for line in lines[1:]] == ["a\\x1bb", "found: f", "expected: e"]
