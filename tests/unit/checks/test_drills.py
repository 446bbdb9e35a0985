"""What a drill has seen, and what it means: each thing that can be wrong fails its own line, and no other."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from bsfg.checks.drills import histories, partition, replay
from bsfg.checks.drills.histories import GapSeen, HistorySeen
from bsfg.checks.drills.line import DrillLine
from bsfg.checks.drills.partition import LinkSeen, PartitionSeen, StreamSeen, missing_line
from bsfg.checks.drills.replay import ReplaySeen

AT = 1_700_000_000_000_000_000


def line(event: str, stream: str | None, message: str) -> dict[str, Any]:
    return {"event": event, "peer": "enterprise", "message": message} | ({"stream": stream} if stream else {})


LINK = LinkSeen("facts.x", "level", 7, 9)
LOG = [
    line("peer_reachable", None, "peer enterprise reachable"),
    line("cursor_comparison", "facts.x", "cursor comparison: local=7, peer=12"),
    line("backfill_required", "facts.x", "backfill required: 3 facts"),
    line("replay_initiated", "facts.x", "replay initiated"),
    line("cursor_advanced", "facts.x", "cursor advanced to 12"),
]


def good() -> PartitionSeen:
    stream = StreamSeen("facts.y", "then", "epoch", 1, 50, may_trim=False)
    return PartitionSeen(
        "enterprise",
        "facts.y",
        reason="drill",
        until="soon",
        links_before=[LINK],
        links_cut_off=[replace(LINK, state="partitioned")],
        links_after=[replace(LINK, sequence=12, scanned_through=12)],
        streams_before=[stream],
        streams_after=[replace(stream, last_sequence=90)],
        told=["127.0.0.1:5"],
        append_seconds_before=[0.001],
        append_seconds=[0.001] * 40,
        read_seconds=[0.002],
        facts_read=10,
        head_before=50,
        head_cut_off=90,
        backlog_before=0,
        backlog_cut_off=40,
        backlog_after=0,
        restored=True,
        log=LOG,
        seconds_to_level=1.5,
        repeated={"facts.x": 0},
    )


def outcomes(lines: list[DrillLine]) -> dict[str, str]:
    assert all(line.evidence for line in lines if line.is_met), "a line is met without evidence"
    return {line.id: line.judgement.outcome.value for line in lines}


def test_a_drill_in_which_all_went_well_passes_every_line() -> None:
    assert outcomes(partition.judge(good(), AT)) == dict.fromkeys(partition.TITLES, "passed")


def _change(**values: Any) -> Callable[[PartitionSeen], None]:
    def apply(seen: PartitionSeen) -> None:
        for name, value in values.items():
            setattr(seen, name, value)

    return apply


def _stream(**values: Any) -> Callable[[PartitionSeen], None]:
    def apply(seen: PartitionSeen) -> None:
        seen.streams_after = [replace(seen.streams_after[0], **values)]

    return apply


@pytest.mark.parametrize(
    ("change", "check", "outcome"),
    [
        (_change(links_cut_off=[LINK]), "partition.blocked", "failed"),
        (
            _change(links_cut_off=[replace(LINK, state="partitioned", sequence=8)]),
            "partition.blocked",
            "failed",
        ),
        (_change(opened_to_peer=["a -> b"]), "partition.connections", "failed"),
        (_change(outlived=["127.0.0.1:5"]), "partition.connections", "failed"),
        (_change(append_seconds=[0.001] * 39 + [2.5]), "partition.autonomy", "failed"),
        (_change(read_seconds=[3.0]), "partition.autonomy", "failed"),
        (_change(read_seconds=[]), "partition.autonomy", "not run"),
        (_change(backlog_cut_off=39), "partition.backlog", "failed"),
        (_change(head_cut_off=89, backlog_cut_off=39), "partition.backlog", "failed"),
        (_change(restored=False), "partition.restored", "failed"),
        (_change(log=LOG[:-1]), "partition.reconciled", "failed"),
        (_change(seconds_to_level=None), "partition.backfill", "failed"),
        (_change(links_after=[replace(LINK, sequence=6)]), "partition.backfill", "failed"),
        (_change(links_after=[replace(LINK, scanned_through=8)]), "partition.backfill", "failed"),
        (_change(backlog_after=None), "partition.backfill", "passed with exception"),
        (_change(repeated={"facts.x": 1}), "partition.duplicates", "failed"),
        (_change(repeated={}), "partition.duplicates", "not run"),
        (_stream(created="now"), "partition.continuity", "failed"),
        (_stream(epoch="other"), "partition.continuity", "failed"),
        (_stream(last_sequence=49), "partition.continuity", "failed"),
        (_stream(first_sequence=2), "partition.continuity", "failed"),
        (_change(configuration_loads=[{"time": "t"}]), "partition.configuration", "passed with exception"),
    ],
)
def test_what_is_wrong_shows_in_its_line_and_in_no_other(
    change: Callable[[PartitionSeen], None], check: str, outcome: str
) -> None:
    seen = good()
    change(seen)
    found = outcomes(partition.judge(seen, AT))
    assert {name: value for name, value in found.items() if value != "passed"} == {check: outcome}


def test_retention_that_is_configured_may_move_the_first_sequence_and_only_up() -> None:
    seen = good()
    seen.streams_before = [replace(seen.streams_before[0], first_sequence=5, may_trim=True)]
    for first, outcome in ((6, "passed"), (4, "failed")):
        seen.streams_after = [replace(seen.streams_before[0], first_sequence=first)]
        assert outcomes(partition.judge(seen, AT))["partition.continuity"] == outcome


@pytest.mark.parametrize("number", range(5))
def test_each_of_the_five_lines_is_missed_and_so_is_its_order(number: int) -> None:
    assert missing_line(LOG, "enterprise", LINK) is None
    assert missing_line(LOG[:number] + LOG[number + 1 :], "enterprise", LINK) is not None
    moved = [LOG[number], *LOG[:number], *LOG[number + 1 :]]
    assert (missing_line(moved, "enterprise", LINK) is None) == (number == 0)


def test_lines_of_another_link_or_with_another_cursor_do_not_count() -> None:
    others = [row | ({"stream": "facts.z"} if "stream" in row else {}) for row in LOG]
    assert missing_line(others, "enterprise", LINK) is not None
    assert missing_line(LOG, "enterprise", replace(LINK, sequence=8)) is not None
    assert missing_line(LOG, "plant-b", LINK) is not None


REPLAY = ReplaySeen(
    "facts.x", 5_000, 1_200, 3_801, 5_000, 1_200, "wrong last sequence", 4_000, 0, 0, 0, ("then", "then")
)


@pytest.mark.parametrize(
    ("values", "check"),
    [
        ({}, None),
        ({"held": 900, "fetched": 900, "dropped": 900}, None),
        ({"appended_again": 3, "head_growth": 3}, None),
        ({"fetched": 999, "dropped": 999}, "replay.duplicates"),
        ({"dropped": 1_199}, "replay.duplicates"),
        ({"refusal": None}, "replay.stale-append"),
        ({"repeated": 1}, "replay.unchanged"),
        ({"created": ("then", "now")}, "replay.unchanged"),
        ({"appended_again": 1}, "replay.unchanged"),
    ],
)
def test_a_replay_that_changes_anything_fails_its_own_line(values: dict[str, Any], check: str | None) -> None:
    found = outcomes(replay.judge(replace(REPLAY, **values), AT))
    assert {name for name, value in found.items() if value != "passed"} == ({check} if check else set())


def test_a_replay_without_a_held_fact_shows_nothing() -> None:
    assert set(outcomes(replay.judge(ReplaySeen("facts.x"), AT)).values()) == {"not run"}


HELD = {"messages": 20, "created": "then"}
HISTORY = HistorySeen(True, HELD, "halted", "diverged", "m", HELD)
GAP = GapSeen(
    True, (21, 4_920), 5_020, "halted", "gap", "m", (21, 4_920), 20, True, 120, [(21, 4_920)], 20, 100
)


@pytest.mark.parametrize(
    ("values", "check"),
    [
        ({}, None),
        ({"state": "level", "reason": None}, "history.halts"),
        ({"reason": "gap"}, "history.halts"),
        ({"after": HELD | {"messages": 50}}, "history.untouched"),
    ],
)
def test_another_history_must_halt_the_link_and_change_nothing(
    values: dict[str, Any], check: str | None
) -> None:
    found = outcomes(histories.judge_history(replace(copy.deepcopy(HISTORY), **values), AT))
    assert {name for name, value in found.items() if value != "passed"} == ({check} if check else set())


@pytest.mark.parametrize(
    ("values", "check"),
    [
        ({}, None),
        ({"found": (21, 4_919)}, "gap.exact"),
        ({"state": "level", "reason": None, "found": None}, "gap.exact"),
        ({"held_halted": 21}, "gap.exact"),
        ({"recorded": []}, "gap.recorded"),
        ({"held_after": 119}, "gap.recorded"),
        ({"went_on": False}, "gap.recorded"),
    ],
)
def test_a_gap_must_be_exact_recorded_and_passed(values: dict[str, Any], check: str | None) -> None:
    found = outcomes(histories.judge_gap(replace(copy.deepcopy(GAP), **values), AT))
    assert {name for name, value in found.items() if value != "passed"} == ({check} if check else set())


def test_a_scratch_link_that_never_came_up_shows_nothing() -> None:
    assert set(outcomes(histories.judge_history(replace(HISTORY, was_level=False), AT)).values()) == {
        "not run"
    }
    assert set(outcomes(histories.judge_gap(replace(GAP, was_level=False), AT)).values()) == {"not run"}
