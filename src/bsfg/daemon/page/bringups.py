"""Bring-up runs, as they lie in ``data/bringup/``: read again only when a record has changed."""

from __future__ import annotations

import json
import os
import re
import stat
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from bsfg.checks.model import Outcome, Severity
from bsfg.model.moment import format_time

RUNS_MAX: Final = 20
RECORD_BYTES_MAX: Final = 8 * 1024 * 1024
RECORD_NAME: Final = "record.json"
_RUN: Final = re.compile(r"[0-9]{8}T[0-9]{6}Z-[a-z][a-z0-9-]{0,31}-[0-9a-f]{4}", re.ASCII)


@dataclass
class BringupRuns:
    """The newest runs first; a record that can't be read is shown as unknown."""

    directory: Path
    _known: dict[str, tuple[tuple[int, int], dict[str, Any]]] = field(default_factory=dict)

    async def rows(self) -> list[dict[str, Any]]:
        """One row a run; few and small files, so they are read in place."""
        try:
            names = [entry.name for entry in self.directory.iterdir() if _RUN.fullmatch(entry.name)]
        except OSError:
            return []
        newest = sorted(names, reverse=True)[:RUNS_MAX]
        self._known = {name: known for name, known in self._known.items() if name in newest}
        return [self._row(name) for name in newest]

    def _row(self, name: str) -> dict[str, Any]:
        try:
            descriptor = os.open(
                self.directory / name / RECORD_NAME, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            )
        except OSError:
            return _unknown(name)
        with os.fdopen(descriptor, "rb") as file:
            state = os.fstat(file.fileno())
            if not stat.S_ISREG(state.st_mode) or state.st_size > RECORD_BYTES_MAX:
                return _unknown(name)
            version = (state.st_mtime_ns, state.st_size)
            known = self._known.get(name)
            if known is None or known[0] != version:
                known = self._known[name] = (version, _summary(name, file.read(RECORD_BYTES_MAX)))
        return known[1]


def _summary(name: str, content: bytes) -> dict[str, Any]:
    try:
        record = json.loads(content)
        results = [(str(each["id"]), str(each["outcome"]), str(each["severity"])) for each in record["results"]]
        began, is_over = format_time(int(record["began"])), record["ended"] is not None
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError):
        return _unknown(name)
    counts = Counter(outcome for _, outcome, _ in results)
    bad = [
        check
        for check, outcome, severity in results
        if outcome == Outcome.FAILED or (outcome == Outcome.NOT_RUN and severity == Severity.HALT)
    ]
    return _unknown(name) | {
        "began": began,
        "outcome": ("failed" if bad else "passed") if is_over else "halted" if bad else "running",
        "passed": counts[Outcome.PASSED] + counts[Outcome.PASSED_WITH_EXCEPTION],
        "failed": counts[Outcome.FAILED] + counts[Outcome.WARNED],
        "attested": counts[Outcome.ATTESTED],
        "not_run": counts[Outcome.NOT_RUN] + counts[Outcome.SKIPPED],
        "halted_at": bad[0] if bad else None,
    }


def _unknown(name: str) -> dict[str, Any]:
    """What the folder's name says: ``<time>-<peer>-<four digits>``."""
    counts = dict.fromkeys(("passed", "failed", "attested", "not_run", "halted_at"))
    return {"run": name, "peer": name[17:-5], "began": None, "outcome": "unknown", **counts}
