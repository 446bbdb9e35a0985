"""One gateway serves a home: a second one is told so at once, and what a dead gateway has left is waited for."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from bsfg.bootstrap import zone
from bsfg.bootstrap.process import WORKER_MODULE
from bsfg.config.home import Home
from bsfg.errors import BsfgError

HOLD: Final = """
import fcntl, sys, time
lock = open(sys.argv[1], "w")
fcntl.flock(lock, fcntl.LOCK_EX)
print("held", flush=True)
time.sleep(float(sys.argv[2]))
"""


@contextmanager
def held_by(home: Home, seconds: float, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that holds the home's lock for so long, with these words on its command line."""
    home.run.mkdir(parents=True)
    command = [sys.executable, "-c", HOLD, str(home.run / "gateway.lock"), str(seconds), *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == b"held\n"
            yield process
        finally:
            process.kill()


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


async def test_a_worker_that_is_left_is_waited_for(home: Home) -> None:
    with held_by(home, 0.4, "-m", WORKER_MODULE):
        began = time.monotonic()
        os.close(await zone.claim(home))
        assert time.monotonic() - began > 0.2


async def test_a_worker_that_stays_is_named(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zone, "WORKERS_SECONDS_MAX", 0.2)
    with held_by(home, 60, "-m", WORKER_MODULE) as process, pytest.raises(BsfgError) as caught:
        await zone.claim(home)
    assert f"held by process {process.pid}" in caught.value.message


async def test_a_gateway_is_not_waited_for(home: Home) -> None:
    with held_by(home, 60) as process:
        began = time.monotonic()
        with pytest.raises(BsfgError, match=f"another gateway serves this home.*{process.pid}"):
            await zone.claim(home)
        assert time.monotonic() - began < zone.WORKERS_SECONDS_MAX / 2
