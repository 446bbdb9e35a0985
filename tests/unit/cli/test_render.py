"""The parts that screens are made of: nothing escapes its column, nothing unknown becomes a number."""

from __future__ import annotations

import re
from typing import Any

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bsfg.cli import render, screens


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "unknown"),
        (True, "yes"),
        (False, "no"),
        (0, "0"),
        ("plain Ä €", "plain Ä €"),
        ("a\x1b[2Jb\r\n\t", "a\\x1b[2Jb\\r\\n\\t"),
        ("\x9b31m", "\\x9b31m"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("\udc80", "\\udc80"),
    ],
)
def test_a_value_is_one_line_of_printable_text(value: Any, shown: str) -> None:
    assert render.printable(value) == shown


@given(st.text())
def test_no_text_moves_the_cursor(text: str) -> None:
    shown = render.printable(text)
    assert shown.isprintable()
    assert shown.encode().decode() == shown


@pytest.mark.parametrize(
    ("function", "value", "shown"),
    [
        (render.number, 1234567, "1,234,567"),
        (render.number, None, "unknown"),
        (render.seconds, 0.04, "0.0 s"),
        (render.seconds, 59.9, "59 s"),
        (render.seconds, 60, "1 m"),
        (render.seconds, 3661, "1 h 1 m"),
        (render.seconds, 200_000, "2 d 7 h"),
        (render.seconds, None, "unknown"),
        (render.size, 0, "0 B"),
        (render.size, 1023, "1023 B"),
        (render.size, 1536, "1.5 KiB"),
        (render.size, 2**70, "1048576.0 PiB"),
        (render.size, None, "unknown"),
        (render.joined, [], "none"),
        (render.joined, ["a", "b\n"], "a, b\\n"),
        (render.joined, None, "unknown"),
        (render.moment, "2025-01-15T10:00:00.123456789Z", "2025-01-15T10:00:00Z"),
        (render.moment, None, "unknown"),
    ],
)
def test_a_value_in_its_unit(function: Any, value: Any, shown: str) -> None:
    assert function(value) == shown


@given(st.lists(st.lists(st.text(max_size=200), min_size=5, max_size=5), max_size=5), st.sampled_from([0, 2]))
def test_a_table_stays_within_80_columns(rows: list[list[str]], indent: int) -> None:
    cells = [[render.printable(cell) for cell in row] for row in rows]
    lines = render.table(["A", "B", "C", "D", "E"], cells, indent=indent)
    assert len(lines) == len(rows) + 1
    assert max(map(len, lines)) <= render.COLUMNS


def test_what_is_cut_says_so() -> None:
    assert render.table(["NAME"], [["x" * 100]])[1] == "x" * 79 + "…"


def test_names_to_copy_are_never_cut() -> None:
    assert render.table(["NAME", "TEXT"], [["x" * 100, "y" * 20]], whole=1)[1] == "x" * 100 + "  " + "y" * 7 + "…"


def test_a_long_value_goes_on_below_itself() -> None:
    lines = render.fields([("a", "word " * 30), ("long name", "x")])
    assert max(map(len, lines)) <= render.COLUMNS
    assert lines[1].startswith(" " * 11 + "word")
    assert lines[-1] == "long name  x"


def test_a_tree_shows_nested_values() -> None:
    value = {"a": {"b": [1, {"c": None, "d": []}], "e": True}, "f\n": "x\x1b"}
    assert render.tree(value) == [
        "a:",
        "  b:",
        "    - 1",
        "    - c: -",
        "      d: none",
        "  e: yes",
        "f\\n: x\\x1b",
    ]


@pytest.mark.parametrize(
    "screen",
    [
        screens.status,
        screens.cursors,
        screens.cursor,
        screens.fetched,
        screens.previewed,
        screens.peers,
        screens.peer_check,
        screens.streams,
        screens.reloaded,
        screens.partitioned,
        screens.reconciled,
        screens.facts,
    ],
)
def test_a_screen_survives_an_answer_that_says_nothing(screen: Any) -> None:
    text = click.unstyle("\n".join(screen({})))
    assert not re.search(r"\b0\b", text.replace("0 passed, 0 failed, 0 not run", ""))
