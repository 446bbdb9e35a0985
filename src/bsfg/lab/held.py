"""Processes of a lab: found by what they run, held by a descriptor, so that no other process is ever signalled."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from bsfg.errors import BsfgError, Code
from bsfg.substrates.embedded_launch import EmbeddedPaths
from bsfg.substrates.embedded_process import runs_with
from bsfg.substrates.store_lock import PROCESSES, find_holder, read_command

KILL_SECONDS: Final = 2.0


class HeldProcess:
    """One running process; unlike its pid, the descriptor can't come to mean another one."""

    def __init__(self, pid: int) -> None:
        """Raises ``ProcessLookupError`` if there is no such process."""
        self.pid = pid
        self._descriptor = os.pidfd_open(pid)

    def send(self, number: signal.Signals) -> None:
        """Send a signal, unless it has ended."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._descriptor, number)

    def ends_within(self, seconds: float) -> bool:
        """Whether it has ended by then; one of our own children is collected."""
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        has_ended = bool(poll.poll(max(0, int(seconds * 1000))))
        if has_ended:
            with contextlib.suppress(ChildProcessError):
                os.waitid(os.P_PIDFD, self._descriptor, os.WEXITED | os.WNOHANG)
        return has_ended

    def stop(self, seconds: float) -> None:
        """End it: SIGTERM first, SIGKILL when that takes too long. It is gone on return."""
        self.send(signal.SIGTERM)
        if not self.ends_within(seconds):
            self.kill()

    def kill(self) -> None:
        """SIGKILL, as a crash would; it is gone on return."""
        self.send(signal.SIGKILL)
        if not self.ends_within(KILL_SECONDS):
            raise BsfgError(
                Code.TIMED_OUT,
                f"process {self.pid} did not end, not even by SIGKILL",
                hint="it is likely waiting for a disk that does not answer",
            )

    def close(self) -> None:
        os.close(self._descriptor)


@contextmanager
def gateway_of(home: Path) -> Iterator[HeldProcess | None]:
    """The gateway that serves this home, by its command line; None if there is none."""
    pid = find_gateway(home)
    with _held(pid, lambda found: _serves(read_command(found), home)) as process:
        yield process


@contextmanager
def server_of(home: Path) -> Iterator[HeldProcess | None]:
    """The nats-server on this home's store, by the store's lock; None if there is none."""
    pid = find_server(home)
    with _held(pid, lambda _found: find_server(home) == pid) as process:
        yield process


def find_gateway(home: Path) -> int | None:
    """The pid of the gateway that serves this home."""
    for entry in PROCESSES.iterdir():
        if entry.name.isdecimal() and _serves(read_command(int(entry.name)), home):
            return int(entry.name)
    return None


def find_server(home: Path) -> int | None:
    """The pid of the nats-server that holds the lock of this home's store."""
    paths = EmbeddedPaths.of(home)
    holder = find_holder(paths.lock) if paths.lock.exists() else None
    return holder.pid if holder and runs_with(holder.command, paths.configuration) else None


def launch(command: list[str], output: Path) -> HeldProcess:
    """Start a program in a session of its own, with nothing of our terminal; its output is appended to a file."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    pid = os.posix_spawn(
        sys.executable,
        command,
        os.environ,
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(output), flags, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
        setsigmask=[],
        setsigdef=[signal.SIGINT, signal.SIGTERM, signal.SIGHUP],
    )
    return HeldProcess(pid)


@contextmanager
def _held(pid: int | None, is_still_it: Callable[[int], bool]) -> Iterator[HeldProcess | None]:
    """Hold a process and only then ask again whether it is the one that was meant."""
    process = None
    if pid is not None:
        with contextlib.suppress(ProcessLookupError):
            process = HeldProcess(pid)
    try:
        yield process if process and is_still_it(process.pid) else None
    finally:
        if process is not None:
            process.close()


def _serves(command: tuple[str, ...] | None, home: Path) -> bool:
    return command is not None and command[-3:] == ("serve", "--home", str(home))
