"""The lock on an embedded store, and who holds it (design, decision 11).

The lock is an flock on an open file, which every process that inherits the descriptor shares. The gateway takes it,
hands the descriptor to its nats-server and closes its own copy: from then on the lock lives exactly as long as that
server, whatever happens to the gateway.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PROCESSES: Final = Path("/proc")
_COMMAND_BYTES_MAX: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that holds the lock, as the kernel tells it."""

    pid: int
    command: tuple[str, ...]

    @property
    def program(self) -> str:
        """The program's name; its whole command line may hold secrets and is not shown."""
        return Path(self.command[0]).name if self.command else "unknown program"


def try_lock(path: Path) -> int | None:
    """The descriptor that holds the lock, to be closed by the caller; None while somebody else holds it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def find_holder(path: Path) -> Holder | None:
    """The process that holds the lock; None if nobody does, or it belongs to a user whose processes we can't see.

    ``/proc/locks`` names who took the lock, which is a gateway that may be dead; ``fdinfo`` tells who has it now.
    """
    return next((holder for pid in _pids() if (holder := holder_if(path, pid))), None)


def holder_if(path: Path, pid: int) -> Holder | None:
    """This process, if it holds the lock now."""
    if not _holds(path, pid):
        return None
    command = read_command(pid)
    return None if command is None else Holder(pid, command)


def read_command(pid: int) -> tuple[str, ...] | None:
    """A process's command line; None if it is gone or not ours to see."""
    try:
        with (PROCESSES / str(pid) / "cmdline").open("rb") as file:
            raw = file.read(_COMMAND_BYTES_MAX)
    except OSError:
        return None
    return tuple(os.fsdecode(part) for part in raw.split(b"\0")[:-1])


def start_ticks(pid: int) -> int | None:
    """When a process started, in clock ticks since boot: with the pid it names one process, not its successor."""
    try:
        text = (PROCESSES / str(pid) / "stat").read_text("utf-8", "replace")
        return int(text.rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None


def _pids() -> Iterator[int]:
    for entry in PROCESSES.iterdir():
        if entry.name.isdecimal():
            yield int(entry.name)


def _holds(path: Path, pid: int) -> bool:
    try:
        lock = path.stat()
        descriptors = list((PROCESSES / str(pid) / "fd").iterdir())
    except OSError:
        return False
    return any(_is_locked_by(descriptor, lock) for descriptor in descriptors)


def _is_locked_by(descriptor: Path, lock: os.stat_result) -> bool:
    try:
        status = descriptor.stat()
        if (status.st_dev, status.st_ino) != (lock.st_dev, lock.st_ino):
            return False
        text = (descriptor.parent.parent / "fdinfo" / descriptor.name).read_text("ascii", "replace")
    except OSError:
        # The descriptor was closed while we looked.
        return False
    return any(line.startswith("lock:") and "FLOCK" in line for line in text.splitlines())
