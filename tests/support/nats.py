"""A real nats-server on a free loopback port with a store of its own, for tests."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from tests.support.patience import patience

from bsfg.substrates.nats_connection import NatsConnection, NatsTarget

BINARY: Final = Path(sys.executable).with_name("nats-server")
START_SECONDS: Final = 10.0
STOP_SECONDS: Final = 10.0


class NatsServer:
    """A nats-server process; its port and store stay the same over restarts."""

    def __init__(
        self, directory: Path, sync_interval: str | None = None, extra: str = "", *, limits: str = ""
    ) -> None:
        self.directory = directory
        self.port = -1
        self._sync_interval = sync_interval
        self._extra = extra
        self._limits = limits
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    @property
    def target(self) -> NatsTarget:
        return NatsTarget((self.url,))

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Return when the server accepts connections and JetStream is up."""
        self.directory.mkdir(parents=True, exist_ok=True)
        sync = f'sync_interval: "{self._sync_interval}"' if self._sync_interval else ""
        limits = f"limits {{ {self._limits} }}" if self._limits else ""
        configuration = self.directory / "nats.conf"
        configuration.write_text(
            f'host: "127.0.0.1"\nport: {self.port}\nports_file_dir: "{self.directory}"\n'
            f'jetstream {{\n  store_dir: "{self.directory / "store"}"\n  {sync}\n  {limits}\n}}\n{self._extra}\n'
        )
        log = (self.directory / "nats.log").open("ab")
        with log:
            self._process = subprocess.Popen(
                [str(BINARY), "-c", str(configuration)], stdout=log, stderr=subprocess.STDOUT
            )
        self.port = self._wait_for_port()

    def kill(self) -> None:
        """SIGKILL, as a crash would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(STOP_SECONDS)

    def stop(self) -> None:
        """SIGTERM and wait; kill what does not end."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()

    def _wait_for_port(self) -> int:
        ports_file = self.directory / f"{BINARY.name}_{self.pid}.ports"
        deadline = time.monotonic() + START_SECONDS * patience()
        while time.monotonic() < deadline:
            assert self._process is not None
            if self._process.poll() is not None:
                break
            if ports_file.exists() and (text := ports_file.read_text()):
                ports_file.unlink()
                return int(json.loads(text)["nats"][0].rsplit(":", 1)[1])
            time.sleep(0.005)
        self.kill()
        raise AssertionError(f"nats-server did not start:\n{(self.directory / 'nats.log').read_text()}")


@contextmanager
def running_nats(
    directory: Path, *, sync_interval: str | None = None, extra: str = "", limits: str = ""
) -> Iterator[NatsServer]:
    """A server that runs inside the block; ``extra`` is further configuration text, ``limits`` are JetStream's."""
    server = NatsServer(directory, sync_interval, extra, limits=limits)
    server.start()
    try:
        yield server
    finally:
        server.stop()


async def api(
    connection: NatsConnection, name: str, question: dict[str, Any] | None = None
) -> dict[str, Any]:
    """One request to JetStream's JSON API that must succeed: ``await api(nc, "STREAM.PURGE.orders")``."""
    frame = await connection.request(f"$JS.API.{name}", json.dumps(question or {}).encode())
    answer: dict[str, Any] = json.loads(frame.payload)
    assert "error" not in answer, answer
    return answer


async def create_stream(
    connection: NatsConnection, name: str, nats_subjects: list[str], **config: Any
) -> dict[str, Any]:
    """A file stream with ``limits`` retention and ``discard: new``."""
    base = {"name": name, "subjects": nats_subjects, "storage": "file", "discard": "new"}
    return await api(connection, f"STREAM.CREATE.{name}", base | config)
