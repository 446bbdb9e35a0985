"""What a row of a table of broken labs is: what is broken, how it is mended, and the one check that has to say so."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
from _pytest.mark.structures import ParameterSet
from tests.support.lab_zones import ENTERPRISE, Lab, Zone, eventually

MET: Final = {"passed", "passed with exception", "attested", "not run", "skipped"}
RUN_SECONDS: Final = 120.0

Break = Callable[[Lab], AbstractContextManager[Any]]


@dataclass(frozen=True)
class Row:
    """What is broken, and the one check that has to say so."""

    check: str
    broken: Break
    name: str = ""
    outcome: str = "failed"
    in_each_run: bool = False
    """The others take minutes, and are for ``make test-slow``."""

    @property
    def complaints(self) -> dict[str, str]:
        """What the bring-up may complain of: this check, or nothing where it could not look."""
        return {} if self.outcome in MET else {self.check: self.outcome}

    def __str__(self) -> str:
        return self.check + (f": {self.name}" if self.name else "")


def marked(row: Row) -> ParameterSet:
    """For the run of each change only where the row says so."""
    return pytest.param(row, marks=() if row.in_each_run else pytest.mark.slow)


def bringup(zone: Zone, peer: str, *more: str) -> tuple[int, dict[str, Any]]:
    done = zone.bsfg("bringup", "--peer", peer, "--output", "json", *more, seconds=RUN_SECONDS)
    assert "Traceback" not in done.errors, done.errors
    assert done.output, done.errors
    return done.status, done.json


def complaints(answer: dict[str, Any]) -> dict[str, str]:
    return {row["id"]: row["outcome"] for row in answer["results"] if row["outcome"] not in MET}


def fails_there_alone(lab: Lab, row: Row) -> None:
    """Break it, bring plant-a's relationship with enterprise up, and see who complains."""
    with row.broken(lab):
        status, answer = bringup(lab.plant, ENTERPRISE, "--again")
    found = next(result for result in answer["results"] if result["id"] == row.check)
    assert complaints(answer) == row.complaints, (complaints(answer), found)
    # What could not be looked at is no failure, but where the runbook halts it is no success either.
    is_unseen_halt = row.outcome == "not run" and found["severity"] == "halt"
    is_good = not row.complaints and not is_unseen_halt
    assert (found["outcome"], status) == (row.outcome, 0 if is_good else 1), found
    if row.complaints:
        assert found["found"] and found["expected"] and found["hint"], found
    assert (answer["halted_at"] is not None) == (row.outcome == "failed" or is_unseen_halt)


def inputs(*replacements: tuple[str, str]) -> Break:
    """Lines of config/bringup.yaml; nothing is reloaded, because only the command reads it."""
    return lambda lab: lab.plant.changed(lab.plant.paths.bringup_file, *replacements)


def configured(zone: str, file: str, *replacements: tuple[str, str]) -> Break:
    """A configuration file that the gateway loads."""

    @contextmanager
    def broken(lab: Lab) -> Iterator[None]:
        place = lab.zones[zone]
        try:
            with place.changed(getattr(place.paths, file), *replacements):
                reload(place)
                yield
        finally:
            reload(place)

    return broken


def both(*breaks: Break) -> Break:
    @contextmanager
    def broken(lab: Lab) -> Iterator[None]:
        with ExitStack() as stack:
            for each in breaks:
                stack.enter_context(each(lab))
            yield

    return broken


@contextmanager
def kept(zone: Zone, *paths: Path) -> Iterator[None]:
    """These files as they were, behind the block."""
    before = [(path, path.read_bytes(), path.stat().st_mode & 0o777) for path in paths]
    try:
        yield
    finally:
        for path, content, mode in before:
            path.unlink(missing_ok=True)
            path.touch(mode)
            path.write_bytes(content)
        reload(zone)


def reload(zone: Zone) -> None:
    """Whether or not it can be loaded."""
    zone.bsfg("config", "reload")


def wait_state(lab: Lab, stream: str, state: str) -> None:
    eventually(f"{stream} is {state}", 15, lambda: lab.plant.cursor(stream=stream)["state"] == state)
