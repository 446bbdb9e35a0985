"""What `make test` runs: the tests in three parts, and what failed in them once more, alone.

A few tests wait for real processes, and on a machine that others keep busy one of thousands may fail without anything
being wrong. Such a failure must not refuse a change, nor be hidden. So where at most ``SECOND_ATTEMPTS_MAX`` tests
of the whole run failed, those alone run again, one at a time; each that passes then is named at the end. A test that
fails twice fails the run, more failures fail it without a second attempt, and so does every other end of pytest: what
can't be collected, an internal error, an interruption, a skip without a written reason (tests/conftest.py).
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest

SECOND_ATTEMPTS_MAX: Final = 3
PARALLEL: Final = ("--numprocesses", "2")
PARTS: Final = (
    (*PARALLEL, "--ignore=tests/acceptance", "--ignore=tests/faults"),
    # Those that run real zones.
    (*PARALLEL, "-m", "not slow", "tests/acceptance"),
    # Those that cut power and cables, each in namespaces of its own.
    (*PARALLEL, "tests/faults"),
)


def run(parts: Sequence[Sequence[str]] = PARTS, folder: Path | None = None) -> int:
    """Run pytest with the arguments of each part in turn; the exit status of the first that fails, or 0."""
    repeated: list[str] = []
    took: list[str] = []
    status = 0
    for number, arguments in enumerate(parts, start=1):
        began = time.monotonic()
        status = _run_part(arguments, folder, repeated)
        took.append(f"part {number}: {time.monotonic() - began:.0f} s")
        if status != pytest.ExitCode.OK:
            break
    print(", ".join(took))
    if status == pytest.ExitCode.OK:
        for test in repeated:
            print(f"passed at its second attempt alone, which is a defect to be mended: {test}")
    return status


def _run_part(arguments: Sequence[str], folder: Path | None, repeated: list[str]) -> int:
    """One part, and its failures again where that is allowed; adds those to ``repeated``."""
    with tempfile.TemporaryDirectory(prefix="bsfg-gate-") as cache:
        status = _pytest(folder, cache, arguments)
        failed = _failed(Path(cache)) if status == pytest.ExitCode.TESTS_FAILED else []
        if not failed or len(repeated) + len(failed) > SECOND_ATTEMPTS_MAX:
            return status
        print("once more, alone:", *failed, sep="\n  ", flush=True)
        repeated += failed
        return _pytest(folder, cache, failed)


def _pytest(folder: Path | None, cache: str, arguments: Sequence[str]) -> int:
    command = [sys.executable, "-m", "pytest", "--quiet", "-o", f"cache_dir={cache}", *arguments]
    return subprocess.run(command, cwd=folder, check=False).returncode


def _failed(cache: Path) -> list[str]:
    """The ids of the tests that failed, as pytest itself keeps them for ``--last-failed``."""
    kept = cache / "v" / "cache" / "lastfailed"
    found: dict[str, bool] = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
    return list(found)


def _leave_to_pytest(_number: int, _frame: object) -> None:
    """An interruption reaches pytest too, which ends what it started; its exit status then ends this run."""


if __name__ == "__main__":
    signal.signal(signal.SIGINT, _leave_to_pytest)
    sys.exit(run())
