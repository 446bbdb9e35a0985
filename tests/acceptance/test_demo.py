"""The demo as a whole, every sabotage, and that it clears up whatever happens."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

import pytest
from _pytest.mark.structures import ParameterSet
from tests.support.patience import busyness

from bsfg.lab import demo, held, processes
from bsfg.lab.demo_stage import Sizes
from bsfg.lab.homes import ZONES

PROGRAM: Final = [sys.executable, "-m", "bsfg.cli.main"]
DEMO_SECONDS_MAX: Final = 120.0
DEADLINE_SECONDS: Final = 240.0
PLAY_SECONDS: Final = 15.0
FEW: Final = Sizes(first=300, more=40, replay=50, killed=6_000, partitioned=40)


def running(directory: Path) -> list[int]:
    homes = [directory / spec.zone for spec in ZONES]
    found = [find(home) for home in homes for find in (held.find_gateway, held.find_server)]
    return [pid for pid in found if pid is not None]


def played(directory: Path, *, sabotage: str | None = None, keep: bool = False) -> tuple[int, dict[str, Any]]:
    said: list[str] = []
    status = demo.run(
        directory=directory, keep=keep, sabotage=sabotage, output="json", write=said.append, sizes=FEW
    )
    return status, json.loads("\n".join(said))


def with_temporary(folder: Path) -> dict[str, str]:
    """The environment of a demo that puts its temporary files here."""
    return {**os.environ, "TMPDIR": str(folder)}


def needing(name: str) -> set[str]:
    """The lines that can't be judged once this one has failed."""
    found = {name}
    for line in demo.LINES[[line.id for line in demo.LINES].index(name) :]:
        if line.needs == demo.EVERYTHING or line.needs in found:
            found.add(line.id)
    return found - {name}


def test_all_lines_hold_within_two_minutes(tmp_path: Path) -> None:
    began = time.monotonic()
    done = subprocess.run(
        [*PROGRAM, "demo"],
        capture_output=True, text=True, timeout=DEADLINE_SECONDS, check=False, env=with_temporary(tmp_path),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert time.monotonic() - began < DEMO_SECONDS_MAX * busyness()
    first, *lines, summary = done.stdout.splitlines()
    assert first.startswith("Two zones on this machine, in ")
    assert len([line for line in lines if line.startswith("✓ ")]) == len(demo.LINES)
    assert not [line for line in lines if len(line) > 100]
    assert summary.startswith(f"{len(demo.LINES)} of {len(demo.LINES)} hold; ")
    directory = Path(first.removeprefix("Two zones on this machine, in "))
    assert running(directory) == []
    assert directory.parent == tmp_path and list(tmp_path.iterdir()) == []


IN_EACH_RUN: Final = frozenset({"health"})
"""The others take minutes, and are for ``make test-slow``."""


def _marked(name: str) -> ParameterSet:
    return pytest.param(name, marks=() if name in IN_EACH_RUN else pytest.mark.slow)


@pytest.mark.parametrize("name", [_marked(name) for name in demo.SABOTAGES])
def test_a_sabotage_fails_its_line_and_no_other(name: str, tmp_path: Path) -> None:
    status, answer = played(tmp_path / "lab", sabotage=name)
    outcomes = {line["id"]: line["outcome"] for line in answer["lines"]}
    dependants = needing(name)
    expected = {
        line.id: "failed" if line.id == name else "not run" if line.id in dependants else "passed"
        for line in demo.LINES
    }
    assert outcomes == expected, [line["summary"] for line in answer["lines"] if line["outcome"] == "failed"]
    assert (status, answer["ok"], answer["sabotage"]) == (1, False, name)
    assert running(tmp_path / "lab") == []


@pytest.mark.slow
def test_a_kept_lab_can_be_played_with_as_it_says(tmp_path: Path) -> None:
    directory = tmp_path / "lab"
    try:
        status, answer = played(directory, keep=True)
        assert (status, answer["ok"]) == (0, True)
        assert all(line["evidence"] for line in answer["lines"])
        assert len(running(directory)) == 4
        assert answer["lab"]["zones"]["plant-a"]["pid"] == held.find_gateway(directory / "plant-a")
        for line in answer["play"]:
            assert_playable(line)
        assert running(directory) == []
    finally:
        if processes.is_lab(directory):
            processes.down(directory)


def assert_playable(line: str) -> None:
    """Every line does what it says: one is refused, one runs until it is ended, all others succeed."""
    done = subprocess.run(
        ["timeout", "--signal=INT", "3", "bash", "-c", line] if "--follow" in line else ["bash", "-c", line],
        capture_output=True, text=True, timeout=PLAY_SECONDS, check=False,
    )  # fmt: skip
    if "# refused" in line:
        assert done.returncode in (52, 56), done
    elif "--follow" in line:
        assert done.stdout.count("\n") > FEW.first, done
    else:
        assert done.returncode == 0 and done.stdout, (line, done)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_an_interrupted_demo_clears_up(number: signal.Signals, tmp_path: Path) -> None:
    with subprocess.Popen(
        [*PROGRAM, "demo"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=with_temporary(tmp_path),
    ) as process:  # fmt: skip
        assert process.stdout is not None
        directory = Path(process.stdout.readline().strip().removeprefix("Two zones on this machine, in "))
        assert process.stdout.readline().startswith("✓")
        assert len(running(directory)) == 4
        process.send_signal(number)
        _, errors = process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert running(directory) == []
    assert directory.parent == tmp_path and list(tmp_path.iterdir()) == []
