"""Starting, measuring and ending the processes of one side."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

START_TIMEOUT_SECONDS: Final = 30.0
STOP_TIMEOUT_SECONDS: Final = 15.0
POLL_SECONDS: Final = 0.02
_TICKS_PER_SECOND: Final = os.sysconf("SC_CLK_TCK")


@dataclass
class Processes:
    """The processes of one side with all their descendants; ended on leaving the ``with`` block."""

    log_folder: Path
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, name: str, command: list[str], environment: dict[str, str] | None = None) -> None:
        with (self.log_folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=os.environ | (environment or {})
            )
        self.started.append(process)

    def cpu_seconds(self) -> float:
        """User and system time of every process of this side that runs now, threads included."""
        return sum(_cpu_seconds(pid) for pid in _family([process.pid for process in self.started]))

    def require_count(self, count: int) -> None:
        """A process that is not ours would be missing in the figures, and flatter them."""
        family = _family([process.pid for process in self.started])
        if len(family) < count:
            raise RuntimeError(f"{len(family)} processes can be measured, {count} belong to this side")

    def require_alive(self) -> None:
        for process in self.started:
            if process.poll() is not None:
                raise RuntimeError(f"{process.args!r} ended with status {process.returncode}; see {self.log_folder}")

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        family = _family([process.pid for process in self.started])
        for process in reversed(self.started):
            process.terminate()
        for process in self.started:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_TIMEOUT_SECONDS)
        for pid in family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)
        for process in self.started:
            process.wait(STOP_TIMEOUT_SECONDS)


def _family(roots: list[int]) -> set[int]:
    parents: dict[int, int] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with contextlib.suppress(OSError):
                parents[int(folder.name)] = int(_stat_fields(int(folder.name))[1])
    family = {root for root in roots if root in parents}
    while True:
        children = {pid for pid, parent in parents.items() if parent in family} - family
        if not children:
            return family
        family |= children


def _stat_fields(pid: int) -> list[str]:
    """The fields of /proc/PID/stat behind the command: state, parent, …"""
    return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()


def _cpu_seconds(pid: int) -> float:
    try:
        fields = _stat_fields(pid)
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(what: str, holds: Callable[[], bool], processes: Processes) -> None:
    """Poll until it holds; an error after the deadline or as soon as a process has ended."""
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while not holds():
        processes.require_alive()
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not happen in {START_TIMEOUT_SECONDS:.0f} s; see {processes.log_folder}")
        time.sleep(POLL_SECONDS)


def accepts_connections(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True
