"""Where the local API listens: a Unix socket, however deep the home is, and ``local:``."""

from __future__ import annotations

import os
import socket
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aiohttp import web

from bsfg.daemon.local_guards import peer_credentials
from bsfg.errors import BsfgError, Code

SOCKET_NAME: Final = "bsfg.sock"
SHUTDOWN_SECONDS: Final = 1.0


@dataclass(slots=True)
class LocalServer:
    """A listener that is up; ``close`` ends its requests within a second and removes what it made."""

    runner: web.AppRunner
    directory: int | None = None
    inode: int | None = None

    @property
    def port(self) -> int:
        """The TCP port that was opened."""
        return int(self.runner.addresses[0][1])

    async def close(self) -> None:
        await self.runner.cleanup()
        if self.directory is None:
            return
        with suppress(FileNotFoundError):
            if os.stat(SOCKET_NAME, dir_fd=self.directory).st_ino == self.inode:
                os.unlink(SOCKET_NAME, dir_fd=self.directory)
        os.close(self.directory)
        self.directory = None


async def serve_unix(application: web.Application, run_directory: Path) -> LocalServer:
    """Listen on ``bsfg.sock`` (0600) in the run directory (0700), however long its path is.

    A socket that nobody listens on is replaced. Raises ``configuration`` where a gateway answers on it, or where
    something else than a socket has its name.
    """
    directory = _open_private(run_directory)
    try:
        _remove_stale(directory, run_directory)
        listening = _bound(directory)
        runner = await _runner(application)
        await web.SockSite(runner, listening).start()
        return LocalServer(runner, directory, os.stat(SOCKET_NAME, dir_fd=directory).st_ino)
    except BaseException:
        os.close(directory)
        raise


def _open_private(run_directory: Path) -> int:
    run_directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    directory = os.open(run_directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    os.fchmod(directory, 0o700)
    return directory


async def serve_tcp(application: web.Application, host: str, port: int) -> LocalServer:
    """Listen on ``local:``; port 0 takes a free one. Raises ``configuration`` where the address can't be had."""
    runner = await _runner(application)
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError as error:
        await runner.cleanup()
        raise BsfgError(
            Code.CONFIGURATION,
            f"local: can't listen on {host}:{port}: {error.strerror or error}",
            hint="another program has this port, or the address is not this host's; change local: in zone.yaml",
        ) from error
    return LocalServer(runner)


async def _runner(application: web.Application) -> web.AppRunner:
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=SHUTDOWN_SECONDS)
    await runner.setup()
    return runner


def _bound(directory: int) -> socket.socket:
    # A Unix socket's address holds 107 bytes; the directory's descriptor stands in for its path.
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listening.bind(f"/proc/self/fd/{directory}/{SOCKET_NAME}")
        os.chmod(SOCKET_NAME, 0o600, dir_fd=directory)
    except BaseException:
        listening.close()
        raise
    return listening


def _remove_stale(directory: int, run_directory: Path) -> None:
    path = run_directory / SOCKET_NAME
    try:
        mode = os.stat(SOCKET_NAME, dir_fd=directory, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise BsfgError(Code.CONFIGURATION, f"{path} is not a socket", hint="remove it")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(f"/proc/self/fd/{directory}/{SOCKET_NAME}")
        except ConnectionRefusedError:
            os.unlink(SOCKET_NAME, dir_fd=directory)
            return
        except BlockingIOError:
            holder = "a process that does not answer"
        else:
            holder = f"process {peer_credentials(probe)[0]}"
    raise BsfgError(
        Code.CONFIGURATION,
        f"another gateway serves this home: {holder} listens on {path}",
        hint="stop it first",
    )
