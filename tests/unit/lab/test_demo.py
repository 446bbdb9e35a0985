"""The demo's own logic: its lines, how they are told, and that a comparison sees every difference."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bsfg.lab import demo
from bsfg.lab.demo_compare import difference
from bsfg.lab.demo_report import Outcome, Result, summary_line
from bsfg.lab.stores import StoredMessage

ORIGIN = "enterprise facts.operational 0123456789abcdef 7 2025-01-15T10:00:00.000000001Z"
SENT = StoredMessage(
    7, "facts.operational.batch", 1736935200000000001, (("Nats-Msg-Id", "a"), ("X-Line", "PL-01")), b"{}"
)
HELD = StoredMessage(
    3,
    "in.enterprise.facts.operational.g1.batch",
    1736935999000000000,
    (
        ("Nats-Expected-Last-Sequence", "2"),
        ("Bsfg-Message-Id", "a"),
        ("X-Line", "PL-01"),
        ("Bsfg-Origin", ORIGIN),
    ),
    b"{}",
)


def differs(sent: StoredMessage, held: StoredMessage = HELD) -> str | None:
    return difference(sent, held, "facts.operational", "in.enterprise.facts.operational.g1")


def test_a_fact_and_its_copy_are_equal() -> None:
    assert differs(SENT) is None


@pytest.mark.parametrize(
    ("sent", "what"),
    [
        (replace(SENT, sequence=8), "sequence"),
        (replace(SENT, time=SENT.time + 1), "time"),
        (replace(SENT, subject="facts.operational"), "subject"),
        (replace(SENT, payload=b"{ }"), "payload"),
        (replace(SENT, headers=(("X-Line", "PL-01"),)), "headers"),
        (replace(SENT, headers=(("Nats-Msg-Id", "a"), ("X-Line", "PL-02"))), "headers"),
    ],
)
def test_every_difference_is_seen(sent: StoredMessage, what: str) -> None:
    assert differs(sent) == what


def test_every_line_has_its_sabotage_and_needs_an_earlier_line() -> None:
    ids = [line.id for line in demo.LINES]
    assert tuple(ids) == demo.SABOTAGES
    for index, line in enumerate(demo.LINES):
        assert line.needs in (None, demo.EVERYTHING, *ids[:index])


def result(outcome: Outcome, summary: str = "found") -> Result:
    return Result("id", "A title that is rather long, 37 columns", outcome, summary, 12.34, {})


def test_a_line_fits_into_100_columns() -> None:
    lines = [line for outcome in Outcome for line in result(outcome, "x" * 50).as_lines()[:1]]
    assert max(map(len, lines)) <= 100
    assert result(Outcome.PASSED, "x" * 51).as_lines()[1] == "    " + "x" * 51


def test_a_failed_line_says_why_whole() -> None:
    marked, reason = result(Outcome.FAILED, "because").as_lines()
    assert marked.startswith("✗") and "failed" in marked and marked.endswith("12.3 s")
    assert reason == "    because"


def test_the_summary_counts() -> None:
    results = [result(Outcome.PASSED), result(Outcome.FAILED), result(Outcome.NOT_RUN)]
    assert summary_line(results, 9.87) == "1 of 3 hold, 1 failed, 1 not run; 9.9 s"
    assert summary_line(results[:1], 1) == "1 of 1 hold; 1.0 s"
