"""Starting and ending processes of a side, and what the kernel counted for them."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

START_SECONDS_MAX: Final = 30.0
STOP_SECONDS_MAX: Final = 15.0
POLL_SECONDS: Final = 0.02
_TICKS_PER_SECOND: Final = os.sysconf("SC_CLK_TCK")
_PEAK: Final = "VmHWM:"


@dataclass
class Processes:
    """The processes that a side started itself, by name; ended on leaving the ``with`` block."""

    log_folder: Path
    stop_signal: signal.Signals = signal.SIGTERM
    started: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, name: str, command: list[str], user: str | None = None) -> None:
        with (self.log_folder / f"{name}.log").open("ab") as log:
            self.started[name] = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.log_folder,
                start_new_session=True,
                user=user,
            )

    def stop(self, name: str) -> None:
        """Told to stop, and SIGKILL when that takes too long; it is gone on return."""
        process = self.started.pop(name)
        process.send_signal(self.stop_signal)
        try:
            process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(STOP_SECONDS_MAX)

    def wait_until(self, what: str, holds: Callable[[], bool]) -> None:
        """Poll until it holds; an error after the deadline or as soon as a process has ended."""
        deadline = time.monotonic() + START_SECONDS_MAX
        while not holds():
            for name, process in self.started.items():
                if process.poll() is not None:
                    raise RuntimeError(f"{name} ended with status {process.returncode}: {self._said(name)}")
            if time.monotonic() > deadline:
                raise TimeoutError(f"{what} did not happen in {START_SECONDS_MAX:.0f} s")
            time.sleep(POLL_SECONDS)

    def _said(self, name: str) -> str:
        return (self.log_folder / f"{name}.log").read_text(encoding="utf-8", errors="replace").strip()[-300:]

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        for name in reversed(list(self.started)):
            self.stop(name)


def family(root: int) -> frozenset[int]:
    """A process and its descendants as they are now."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                parents[int(folder.name)] = int(_stat_fields(int(folder.name))[1])
    members = {root}
    while children := {pid for pid, parent in parents.items() if parent in members} - members:
        members |= children
    return frozenset(members)


def _stat_fields(pid: int) -> list[str]:
    """The fields of /proc/PID/stat behind the command: state, parent, …"""
    return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()


def cpu_seconds(pid: int) -> float:
    """User and system time of all threads of a process; 0 for one that has ended."""
    try:
        fields = _stat_fields(pid)
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND


def machine_cpu_seconds() -> float:
    """What all processes of the machine and its host have taken of its processors."""
    first = Path("/proc/stat").read_text(encoding="utf-8").partition("\n")[0].split()
    user, nice, system, _idle, _waiting, interrupt, soft_interrupt, stolen = map(int, first[1:9])
    return (user + nice + system + interrupt + soft_interrupt + stolen) / _TICKS_PER_SECOND


def peak_mib(pid: int) -> float:
    """The most memory that a process ever had resident."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(_PEAK)), 0.0)


def resident_mib(sides: Mapping[str, Iterable[int]]) -> dict[str, float]:
    """The memory that is resident now, of the processes of each name together."""
    return {name: sum(map(_resident, pids)) for name, pids in sides.items()}


def _resident(pid: int) -> float:
    text = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return int(text.split("VmRSS:")[1].split()[0]) / 1024


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def accepts_connections(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True
