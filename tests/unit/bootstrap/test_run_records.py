"""A run's record on the disk: whole, private, and never believed where it is not."""

from __future__ import annotations

import json
import stat
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
from tests.support.run_records import build_homes, run_record

from bsfg.bootstrap import run_records
from bsfg.checks.model import CheckResult, Evidence, Outcome, RunRecord, Severity, Side, Waiver
from bsfg.config.home import Home
from bsfg.daemon.handoffs import write_handoff
from bsfg.errors import BsfgError, Code

RESULT: Final = CheckResult(
    "a.b", "3.1", "a is b", Severity.HALT, Side.PEER, Outcome.SKIPPED, "known", 5, 0.25,
    waiver=Waiver("known", "Ann", "CHG-1"), evidence=(Evidence("x", {"y": [1, None]}, 6, "file"),),
)  # fmt: skip
RECORD: Final = RunRecord(
    "plant-a", "plant-a-bsfg", "hq", "hq-bsfg", "20260101T000000Z-hq-0a1b", 1, None, "0.1", None, (RESULT,),
    {"k": 1}, {},
)  # fmt: skip


def test_a_record_comes_back_as_it_was(tmp_path: Path) -> None:
    path = run_records.save(Home(tmp_path), RECORD)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert run_records.latest(Home(tmp_path), "hq") == RECORD
    assert [each.name for each in path.parent.iterdir()] == ["record.json"]


def test_the_latest_of_this_peer_counts(tmp_path: Path) -> None:
    home = Home(tmp_path)
    assert run_records.latest(home, "hq") is None
    newer = replace(RECORD, run="20260102T000000Z-hq-0000")
    other = replace(RECORD, run="20260103T000000Z-hq-b-0000", peer="hq-b")
    for record in (newer, RECORD, other):
        run_records.save(home, record)
    assert run_records.latest(home, "hq") == newer
    assert run_records.latest(home, "hq-b") == other
    assert run_records.new_run("hq", 1_767_225_600 * 10**9).startswith("20260101T000000Z-hq-")


@pytest.mark.parametrize(
    "spoil",
    [
        lambda record: b"",
        lambda record: b"[]",
        lambda record: json.dumps(record | {"format": 2}).encode(),
        lambda record: json.dumps({key: value for key, value in record.items() if key != "zone"}).encode(),
        lambda record: json.dumps(record | {"results": [{}]}).encode(),
        lambda record: json.dumps(record | {"results": [record["results"][0] | {"outcome": "fine"}]}).encode(),
        lambda record: json.dumps(record | {"results": [record["results"][0] | {"began": "x"}]}).encode(),
        lambda record: b"[" * 100_000,
    ],
)
def test_a_spoiled_record_is_named_and_not_used(tmp_path: Path, spoil: Callable[[Any], bytes]) -> None:
    path = run_records.save(Home(tmp_path), RECORD)
    path.write_bytes(spoil(json.loads(path.read_bytes())))
    with pytest.raises(BsfgError, match=r"record\.json can't be used") as caught:
        run_records.latest(Home(tmp_path), "hq")
    assert caught.value.code is Code.CONFIGURATION


def test_a_field_of_a_later_version_is_left_out(tmp_path: Path) -> None:
    path = run_records.save(Home(tmp_path), RECORD)
    path.write_text(json.dumps(json.loads(path.read_bytes()) | {"novelty": 1}))
    assert run_records.read(path) == RECORD


def test_one_run_at_a_time(tmp_path: Path) -> None:
    home = Home(tmp_path)
    with run_records.claim(home):
        with pytest.raises(BsfgError, match="another bring-up or drill") as caught, run_records.claim(home):
            pass
        assert caught.value.code is Code.UNAVAILABLE
    with run_records.claim(home):
        pass


def _many(home: Home, count: int, peer: str = "hq") -> list[str]:
    """Runs of this peer, the oldest first."""
    names = [f"20260101T0000{number:02}Z-{peer}-0000" for number in range(count)]
    for name in names:
        run_records.save(home, replace(RECORD, run=name, peer=peer))
    return names


def test_old_runs_go_but_those_that_a_handoff_refers_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_records, "KEPT_MAX", 3)
    zone = build_homes(tmp_path)["enterprise"]
    record = replace(run_record(), run="20251231T000000Z-plant-a-0000")
    run_records.save(zone, record)
    write_handoff(zone, record, time.time_ns())
    names, others = _many(zone, 5, "plant-a"), _many(zone, 5, "hq")
    assert run_records.prune(zone, "plant-a") == 2
    kept = sorted(path.name for path in run_records.folder(zone).iterdir())
    assert kept == sorted([record.run, *names[2:], *others])
    assert run_records.prune(zone, "plant-a") == 0


def test_every_run_stays_while_a_handoff_can_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_records, "KEPT_MAX", 1)
    home = Home(tmp_path)
    _many(home, 3)
    spoilt = home.data / "handoff" / "20260101T000000.000Z-hq"
    spoilt.mkdir(parents=True)
    assert run_records.prune(home, "hq") == 0
    spoilt.rmdir()
    assert run_records.prune(home, "hq") == 2
