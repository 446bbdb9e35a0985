"""The judge finds each kind of damage, and nothing in facts that are exact; a seed decides a schedule alone."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from tests.faults.judge import Row, Verdict, judge_copy, judge_source
from tests.faults.producer import Ledger, payload_of
from tests.faults.schedule import KILLS, LINE_FAULTS, Kind, plan

SEED = 7
EXACT: list[Row] = [(number + 1, payload_of(SEED, number)) for number in range(6)]
ZONES = ("a", "b")


def kinds_of(verdict: Verdict) -> set[str]:
    return {field.name for field in dataclasses.fields(verdict) if getattr(verdict, field.name)}


def test_exact_facts_are_exact_also_with_offered_ones_that_nobody_acknowledged() -> None:
    assert judge_source(SEED, 6, 6, EXACT).is_exact
    assert judge_source(SEED, 4, 8, EXACT).is_exact
    assert judge_copy(EXACT, EXACT).is_exact


@pytest.mark.parametrize(
    ("rows", "kinds"),
    [
        (EXACT[:-1], {"lost"}),
        ([*EXACT, (7, EXACT[5][1])], {"duplicate"}),
        ([*EXACT[:2], (3, EXACT[3][1]), (4, EXACT[2][1]), *EXACT[4:]], {"reordered"}),
        ([*EXACT, (7, payload_of(SEED, 6))], {"unexpected"}),
        ([*EXACT, (7, payload_of(SEED + 1, 5))], {"unexpected"}),
        ([*EXACT, (7, b"no fact")], {"unexpected"}),
        ([*EXACT[:5], (6, EXACT[5][1] + b" ")], {"lost", "unexpected"}),
    ],
)
def test_damage_at_the_source_has_its_name(rows: list[Row], kinds: set[str]) -> None:
    assert kinds_of(judge_source(SEED, 6, 6, rows)) == kinds


@pytest.mark.parametrize(
    ("rows", "kinds"),
    [
        (EXACT[:-1], {"lost"}),
        ([EXACT[0], *EXACT[2:]], {"lost"}),
        ([*EXACT, EXACT[5]], {"duplicate"}),
        ([EXACT[1], EXACT[0], *EXACT[2:]], {"reordered"}),
        ([*EXACT, (7, b"no fact")], {"unexpected"}),
        ([*EXACT[:5], (6, b"another")], {"unexpected"}),
    ],
)
def test_damage_at_the_receiver_has_its_name(rows: list[Row], kinds: set[str]) -> None:
    assert kinds_of(judge_copy(EXACT, rows)) == kinds


def test_what_the_run_itself_took_away_is_not_missed_and_nothing_else_is_forgiven() -> None:
    source = EXACT[:-1]
    assert judge_source(SEED, 6, 6, source, [5]).is_exact
    assert kinds_of(judge_source(SEED, 6, 6, source[:-1], [5])) == {"lost"}
    assert judge_copy(source, EXACT, [6]).is_exact
    assert judge_copy(source, source, [6]).is_exact
    assert kinds_of(judge_copy(source, EXACT)) == {"unexpected"}


def test_a_ledger_outlives_its_producer(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger")
    assert Ledger.read(ledger.path).count == 0
    ledger.note(500)
    ledger.note(700)
    assert Ledger.read(ledger.path).count == 700


def test_a_seed_decides_the_schedule_alone() -> None:
    assert plan(1, 60, ZONES) == plan(1, 60, ZONES)
    assert plan(1, 60, ZONES) != plan(2, 60, ZONES)


def test_a_schedule_has_every_kind_before_any_comes_again_and_pauses_within_their_bounds() -> None:
    faults = plan(3, 120, ZONES)
    first = faults[: len(Kind) * len(ZONES)]
    wanted = {(kind, "" if kind in LINE_FAULTS else zone) for kind in Kind for zone in ZONES}
    assert {(fault.kind, fault.target) for fault in first} == wanted
    assert all(1.0 <= fault.seconds <= 10.0 for fault in faults if fault.kind not in (*KILLS, Kind.CUT))
    assert [fault.at_seconds for fault in faults] == sorted(fault.at_seconds for fault in faults)
    assert {fault.kind for fault in plan(3, 60, ZONES, kinds=KILLS)} == set(KILLS)
