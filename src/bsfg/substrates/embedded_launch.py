"""One server on the store: start it, or adopt the one that an earlier gateway left (design, decision 11)."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import socket
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bsfg.errors import BsfgError, Code, SubstrateUnavailable
from bsfg.model.names import StreamName, ZoneId
from bsfg.substrates.append_plan import LARGE_BATCH_MESSAGES_MAX
from bsfg.substrates.embedded_configuration import HOST, ServerSettings, ServerUsers, digest, render
from bsfg.substrates.embedded_probe import ask_as, has_loaded
from bsfg.substrates.embedded_process import (
    ServerProcess,
    last_words,
    launch,
    log_size,
    program_version,
    runs_with,
)
from bsfg.substrates.embedded_record import ServerRecord, load_record
from bsfg.substrates.nkey_files import ensure_seed
from bsfg.substrates.private_files import private_folder, replace_private
from bsfg.substrates.server_version import (
    BATCH_LIMIT_SINCE,
    ServerVersion,
    format_version,
    judge,
    parse_version,
)
from bsfg.substrates.store_lock import Holder, find_holder, holder_if, try_lock

HOLDER_SECONDS: Final = 2.0
"""How long the lock may be with a process that is no server: a gateway that is just starting one."""
RELOAD_SECONDS: Final = 5.0
RECOVERY_SECONDS_MAX: Final = 600.0
"""How long a server may take to read a large store after a crash before it counts as a failed start."""
_POLL_SECONDS: Final = 0.05


@dataclass(frozen=True, slots=True)
class EmbeddedPaths:
    """Where everything of the embedded server lies in a zone's home (contract, section 3)."""

    folder: Path
    gateway_seed: Path
    local_seed: Path
    admin_seed: Path

    @classmethod
    def of(cls, home: Path) -> EmbeddedPaths:
        home = home.absolute()
        folder = home / "data" / "nats"
        return cls(
            folder,
            folder / "gateway.nk",
            home / "config" / "nats-local.nk",
            home / "config" / "nats-admin.nk",
        )

    @property
    def configuration(self) -> Path:
        return self.folder / "nats-server.conf"

    @property
    def store(self) -> Path:
        return self.folder / "store"

    @property
    def lock(self) -> Path:
        return self.folder / "store.lock"

    @property
    def record(self) -> Path:
        return self.folder / "server.json"

    @property
    def log(self) -> Path:
        return self.folder / "nats-server.log"

    @property
    def output(self) -> Path:
        """What the server says before it has its log, and when it crashes."""
        return self.folder / "nats-server.out"


class ServerEnded(SubstrateUnavailable):
    """The server ended before it was ready, or while it ran; the message carries its last words."""


class ServerLauncher:
    """Brings the one server of a store up; never two on one store, because only the lock's holder may start one."""

    def __init__(
        self,
        paths: EmbeddedPaths,
        zone: ZoneId,
        port: int,
        durability_strict: bool,
        program: Path,
        notice: Callable[[str], None],
    ) -> None:
        self.paths = paths
        self.url = f"nats://{HOST}:{port}"
        self.process: ServerProcess | None = None
        self.version: ServerVersion | None = None
        self._zone = zone
        self._port = port
        self._durability_strict = durability_strict
        self._program = program
        self._notice = notice
        self._log_start = 0

    async def obtain(self, streams: Sequence[StreamName]) -> ServerProcess:
        """A server on the store with our configuration, started or adopted; it need not be ready yet.

        Raises ``configuration`` where an operator must act, ``unavailable`` where another attempt may succeed.
        """
        version = await program_version(self._program)
        text = self._prepare(streams, version)
        waiting_until = asyncio.get_running_loop().time() + HOLDER_SECONDS
        while True:
            lock = try_lock(self.paths.lock)
            if lock is not None:
                return self._launch(lock, text, version)
            holder = self._holder()
            if holder is not None and runs_with(holder.command, self.paths.configuration):
                adopted = await self._adopt(holder, text, streams)
                if adopted is not None:
                    return adopted
            elif asyncio.get_running_loop().time() > waiting_until:
                raise self._held_by(holder)
            await asyncio.sleep(_POLL_SECONDS)

    async def wait_ready(self, process: ServerProcess) -> None:
        """The server answers us as its gateway, and JetStream is up. Raises ``ServerEnded`` if it ends before."""
        deadline = asyncio.get_running_loop().time() + RECOVERY_SECONDS_MAX
        while True:
            try:
                answer = await ask_as(self.url, self.paths.gateway_seed)
            except SubstrateUnavailable:
                if asyncio.get_running_loop().time() > deadline:
                    raise
            else:
                self.version = answer.version
                if not process.has_ended:
                    return
            if process.has_ended:
                raise self.ended(process)
            await asyncio.sleep(_POLL_SECONDS)

    async def reload(self, process: ServerProcess, streams: Sequence[StreamName]) -> None:
        """The running server serves these streams to local applications; connections stay.

        Raises ``unavailable`` if the server has not taken the configuration in time; it keeps the one it had, and
        takes the new one when it is started next.
        """
        text = self._prepare(streams, self.version or (0, 0, 0))
        log_start = log_size(self.paths.log)
        replace_private(self.paths.configuration, text.encode())
        process.send(signal.SIGHUP)
        deadline = asyncio.get_running_loop().time() + RELOAD_SECONDS
        while not await self._has_loaded(streams):
            if process.has_ended:
                raise self.ended(process)
            if asyncio.get_running_loop().time() > deadline:
                said = last_words(self.paths.output, self.paths.log, log_start)
                raise SubstrateUnavailable(
                    f"nats-server (pid {process.pid}) did not take its new configuration: {said}"
                )
            await asyncio.sleep(_POLL_SECONDS)
        self._remember(process, text)

    def ended(self, process: ServerProcess) -> ServerEnded:
        """What to say about a server that has ended."""
        said = last_words(self.paths.output, self.paths.log, self._log_start)
        return ServerEnded(
            f"nats-server (pid {process.pid}) {process.end}" + (f"; it said last: {said}" if said else ""),
            hint=f"its log is {self.paths.log}",
        )

    def _prepare(self, streams: Sequence[StreamName], version: ServerVersion) -> str:
        """The configuration's text; folders and seeds exist on return."""
        paths = self.paths
        private_folder(paths.folder)
        private_folder(paths.store)
        users = ServerUsers(
            ensure_seed(paths.gateway_seed), ensure_seed(paths.local_seed), ensure_seed(paths.admin_seed)
        )
        return render(
            ServerSettings(
                self._zone,
                self._port,
                paths.store,
                paths.log,
                self._durability_strict,
                tuple(streams),
                users,
                _batch_messages_max(version),
            )
        )

    def _launch(self, lock: int, text: str, version: ServerVersion) -> ServerProcess:
        paths = self.paths
        try:
            self._refuse_newer_store(version)
            refuse_foreign_files(_store_folders(paths.store), os.geteuid())
            refuse_taken_port(self._port)
            replace_private(paths.configuration, text.encode())
            with contextlib.suppress(FileNotFoundError):
                paths.output.replace(paths.output.with_suffix(".out.1"))
            self._log_start = log_size(paths.log)
            self.version = version
            process = self._hold(launch(self._program, paths.configuration, paths.output, lock))
        finally:
            os.close(lock)
        self._remember(process, text)
        if judge(version).reason:
            self._notice(judge(version).reason)
        return process

    async def _adopt(self, holder: Holder, text: str, streams: Sequence[StreamName]) -> ServerProcess | None:
        """The server that holds the lock, ours from now on; None if it is gone, which one that doesn't suit then is."""
        try:
            process = self._hold(ServerProcess(holder.pid))
        except ProcessLookupError:
            return None
        # The lock is asked again, because the pid may have come to mean another process before we held it.
        if holder_if(self.paths.lock, process.pid) is None:
            process.release()
            self.process = None
            return None
        self._log_start = log_size(self.paths.log)
        obstacle = self._obstacle(process) or await self._reload_adopted(process, text, streams)
        if not obstacle:
            self._notice(f"adopted the running nats-server (pid {process.pid})")
            return process
        self._notice(f"restarting the running nats-server (pid {process.pid}): {obstacle}")
        await process.terminate()
        return None

    def _obstacle(self, process: ServerProcess) -> str:
        record = load_record(self.paths.record)
        if record is None or (record.pid, record.start_ticks) != (process.pid, process.start_ticks):
            return "how it was started is not recorded"
        version = parse_version(record.version)
        if version is None or not judge(version).accepted:
            return f"its version {record.version} is refused"
        was = (record.port, record.store, record.durability_strict, record.batch_messages_max)
        wanted = (self._port, str(self.paths.store), self._durability_strict, _batch_messages_max(version))
        if was != wanted:
            return "its port, store, durability or limit of a batch is no longer the configured one"
        self.version = version
        return ""

    async def _reload_adopted(self, process: ServerProcess, text: str, streams: Sequence[StreamName]) -> str:
        record = load_record(self.paths.record)
        if record is not None and record.configuration_sha256 == digest(text):
            return ""
        try:
            # A server that is still starting would be killed by the signal.
            await self._wait_listening(process)
            await self.reload(process, streams)
        except SubstrateUnavailable as error:
            return error.message
        return ""

    async def _wait_listening(self, process: ServerProcess) -> None:
        deadline = asyncio.get_running_loop().time() + RELOAD_SECONDS
        while not process.has_ended and asyncio.get_running_loop().time() < deadline:
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(RELOAD_SECONDS):
                    _, writer = await asyncio.open_connection(HOST, self._port)
                writer.close()
                return
            await asyncio.sleep(_POLL_SECONDS)
        raise SubstrateUnavailable("it does not listen")

    async def _has_loaded(self, streams: Sequence[StreamName]) -> bool:
        with contextlib.suppress(SubstrateUnavailable):
            return await has_loaded(self.url, self.paths.gateway_seed, self.paths.local_seed, streams)
        return False

    def _remember(self, process: ServerProcess, text: str) -> None:
        record = ServerRecord(
            pid=process.pid,
            start_ticks=process.start_ticks or 0,
            port=self._port,
            version=format_version(self.version or (0, 0, 0)),
            store=str(self.paths.store),
            durability_strict=self._durability_strict,
            batch_messages_max=_batch_messages_max(self.version or (0, 0, 0)),
            configuration_sha256=digest(text),
        )
        # Without a record the next gateway restarts the server; without the server nothing works.
        with contextlib.suppress(OSError):
            record.save(self.paths.record)

    def _holder(self) -> Holder | None:
        record = load_record(self.paths.record)
        recorded = holder_if(self.paths.lock, record.pid) if record else None
        return recorded or find_holder(self.paths.lock)

    def _held_by(self, holder: Holder | None) -> BsfgError:
        who = f"{holder.program} (pid {holder.pid})" if holder else "a process that this user cannot see"
        return BsfgError(
            Code.CONFIGURATION,
            f"cannot start nats-server: the store {self.paths.store} is locked by {who}",
            hint="two servers on one store lose facts: end that process, or give this zone a home of its own",
            pid=holder.pid if holder else None,
        )

    def _refuse_newer_store(self, version: ServerVersion) -> None:
        record = load_record(self.paths.record)
        last = parse_version(record.version) if record else None
        if last is not None and last[:2] > version[:2]:
            raise BsfgError(
                Code.CONFIGURATION,
                f"the store {self.paths.store} was last used by nats-server {format_version(last)}, "
                f"which is newer than this one ({format_version(version)})",
                hint="install that version or a newer one; an older server may drop streams that it can't read",
            )

    def _hold(self, process: ServerProcess) -> ServerProcess:
        if self.process is not None:
            self.process.release()
        self.process = process
        return process


def _batch_messages_max(version: ServerVersion) -> int | None:
    return LARGE_BATCH_MESSAGES_MAX if version[:2] >= BATCH_LIMIT_SINCE else None


def refuse_taken_port(port: int) -> None:
    """Raise ``unavailable`` if somebody else listens on the port."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            raise SubstrateUnavailable(
                f"cannot start nats-server: port {port} of {HOST} is taken by another program",
                hint=f"see who it is with `ss -ltnp 'sport = :{port}'`, or choose another port in zone.yaml: "
                "substrate: {embedded: {port: N}}",
                port=port,
            ) from error


def refuse_foreign_files(folders: Iterable[Path], user: int) -> None:
    """Raise ``configuration`` if a folder of the store belongs to another user, as after a start as root."""
    for folder in folders:
        owner = folder.stat().st_uid
        if user != 0 and owner != user:
            raise BsfgError(
                Code.CONFIGURATION,
                f"cannot start nats-server: {folder} belongs to user {owner}, and the gateway runs as user {user}",
                hint=f"chown -R {user} the store, or run the gateway as user {owner}",
            )


def _store_folders(store: Path) -> list[Path]:
    return [store, *store.glob("jetstream"), *store.glob("jetstream/*"), *store.glob("jetstream/*/streams/*")]
