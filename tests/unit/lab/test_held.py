"""Processes of a lab are recognized by what they run, and nothing else is ever signalled."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bsfg.lab import held
from bsfg.lab.held import HeldProcess

READY_SECONDS = 5.0
OBEDIENT = "import sys, time; print('ready', flush=True); time.sleep(60)"
STUBBORN = "import signal, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(60)"  # noqa: E501


def started(script: str, home: Path) -> HeldProcess:
    """A process whose command line is that of the home's gateway."""
    home.mkdir()
    output = home / "output"
    process = held.launch([sys.executable, "-c", script, "serve", "--home", str(home)], output)
    deadline = time.monotonic() + READY_SECONDS
    while not output.exists() or b"ready" not in output.read_bytes():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return process


@pytest.fixture
def obedient(tmp_path: Path) -> Iterator[HeldProcess]:
    process = started(OBEDIENT, tmp_path / "zone")
    yield process
    process.kill()
    process.close()


def test_a_gateway_is_found_by_its_home_alone(obedient: HeldProcess, tmp_path: Path) -> None:
    assert held.find_gateway(tmp_path / "zone") == obedient.pid
    assert held.find_gateway(tmp_path / "zon") is None
    assert held.find_gateway(tmp_path) is None


def test_nothing_is_held_where_nothing_runs(tmp_path: Path) -> None:
    with held.gateway_of(tmp_path) as gateway, held.server_of(tmp_path) as server:
        assert gateway is None and server is None


def test_stop_ends_an_obedient_process_in_order(obedient: HeldProcess, tmp_path: Path) -> None:
    with held.gateway_of(tmp_path / "zone") as gateway:
        assert gateway is not None
        gateway.stop(READY_SECONDS)
    assert held.find_gateway(tmp_path / "zone") is None


def test_stop_kills_what_does_not_listen(tmp_path: Path) -> None:
    process = started(STUBBORN, tmp_path / "zone")
    began = time.monotonic()
    process.stop(0.3)
    process.close()
    assert 0.3 <= time.monotonic() - began < READY_SECONDS
    assert held.find_gateway(tmp_path / "zone") is None


def test_a_process_that_became_another_is_not_held(
    obedient: HeldProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between finding a pid and holding it, the pid may have come to mean another process."""
    monkeypatch.setattr(held, "find_gateway", lambda home: obedient.pid)
    with held.gateway_of(Path("/another/home")) as gateway:
        assert gateway is None
    assert not obedient.ends_within(0)


def test_a_launched_process_has_its_own_session(obedient: HeldProcess) -> None:
    fields = Path(f"/proc/{obedient.pid}/stat").read_text().rpartition(")")[2].split()
    assert int(fields[3]) == obedient.pid
