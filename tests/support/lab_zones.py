"""A lab of two real zones in a folder of a test's own, and what operators, applications and accidents do with it."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, TypeVar

from prometheus_client.parser import text_string_to_metric_families
from tests.support.patience import busyness, patience

from bsfg.cli.local_client import LocalClient, route
from bsfg.config.home import Home
from bsfg.lab import held, processes, program
from bsfg.lab.homes import ZONE_NAMES
from bsfg.lab.processes import LabZone
from bsfg.lab.stores import Store, opened
from bsfg.transport.development_ca import write_whole

ENTERPRISE: Final = "enterprise"
PLANT: Final = "plant-a"
OPERATIONAL: Final = "facts.operational"
OPERATIONAL_STREAM: Final = "facts_operational"
INBOUND_STREAM: Final = "in_enterprise_facts_operational_g1"
LINK: Final = ("--peer", ENTERPRISE, "--stream", OPERATIONAL)
COMMAND_SECONDS: Final = 60.0
POLL_SECONDS: Final = 0.05

_Answer = TypeVar("_Answer")


def eventually(what: str, seconds: float, ask: Callable[[], _Answer], *, promised: bool = False) -> _Answer:
    """Ask again and again until the answer is true; it is returned. Fails naming the last answer.

    It waits longer than the seconds said; where they are a promise of ours, only as far as the machine is busy.
    """
    began = time.monotonic()
    factor = busyness if promised else patience
    while True:
        answer = ask()
        if answer:
            return answer
        waited = time.monotonic() - began
        assert waited < seconds * factor(), f"{what}: not within {waited:.0f} s; the last answer was {answer!r}"
        time.sleep(POLL_SECONDS)


@dataclass(frozen=True)
class Done:
    """A command that ended."""

    status: int
    output: str
    errors: str
    seconds: float

    @property
    def json(self) -> Any:
        return json.loads(self.output)

    @property
    def error(self) -> dict[str, Any]:
        """The error that it printed as JSON; any other line on stderr, a traceback above all, fails."""
        body: dict[str, Any] = json.loads(self.errors)["error"]
        return body


def run(*command: str | Path, stdin: bytes = b"", seconds: float = COMMAND_SECONDS) -> Done:
    """Any program, as typed by an operator."""
    began = time.monotonic()
    done = subprocess.run([str(word) for word in command], input=stdin, capture_output=True, timeout=seconds)
    took = time.monotonic() - began
    return Done(done.returncode, done.stdout.decode(), done.stderr.decode("utf-8", "replace"), took)


def bsfg(home: Path, *arguments: str, stdin: bytes = b"", seconds: float = COMMAND_SECONDS) -> Done:
    """The program ``bsfg`` with a home."""
    return run(*program.command_line(*arguments, "--home", str(home)), stdin=stdin, seconds=seconds)


@dataclass(frozen=True)
class Zone:
    """One zone of a running lab."""

    place: LabZone

    @property
    def home(self) -> Path:
        return self.place.home

    @property
    def paths(self) -> Home:
        return Home(self.place.home)

    @property
    def address(self) -> tuple[str, int]:
        """Where its peer listener is."""
        host, _, port = self.place.endpoint.rpartition(":")
        return host, int(port)

    # What an operator types.

    def bsfg(self, *arguments: str, stdin: bytes = b"", seconds: float = COMMAND_SECONDS) -> Done:
        return bsfg(self.home, *arguments, stdin=stdin, seconds=seconds)

    def begin(self, *arguments: str) -> subprocess.Popen[bytes]:
        """A command that goes on while the test does something else."""
        line = program.command_line(*arguments, "--home", str(self.home))
        return subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def ask(self, *arguments: str, stdin: bytes = b"") -> Any:
        """The JSON of a command that has to succeed."""
        done = self.bsfg(*arguments, "--output", "json", stdin=stdin)
        assert done.status == 0, f"bsfg {' '.join(arguments)} ended with {done.status}: {done.errors}"
        return done.json

    def refused(self, *arguments: str, stdin: bytes = b"", seconds: float = COMMAND_SECONDS) -> tuple[int, str, str]:
        """Exit status, error code and message of a command that must fail, and say so in one line of JSON."""
        done = self.bsfg(*arguments, "--output", "json", stdin=stdin, seconds=seconds)
        assert done.status != 0, f"bsfg {' '.join(arguments)} was not refused: {done.output}"
        assert "Traceback" not in done.errors, done.errors
        return done.status, done.error["code"], done.error["message"]

    def append(self, stream: str, *payloads: bytes) -> dict[str, Any]:
        answer: dict[str, Any] = self.ask(
            "append", "--stream", stream, "--ndjson", "-", stdin=b"".join(payload + b"\n" for payload in payloads)
        )
        return answer

    # What these commands print, by the local API: it is asked often, and starting a program each time would take as
    # much of the machine as what the test waits for.

    @property
    def api(self) -> LocalClient:
        return LocalClient(self.home)

    def status(self) -> dict[str, Any]:
        answer: dict[str, Any] = self.api.get(route("status"))
        return answer

    def cursor(self, peer: str = ENTERPRISE, stream: str = OPERATIONAL) -> dict[str, Any]:
        answer: dict[str, Any] = self.api.get(route("cursors", peer, stream))
        return answer

    def cursors(self) -> dict[str, Any]:
        answer: dict[str, Any] = self.api.get(route("cursors"))
        return answer

    def stream(self, name: str, *, peer: str | None = None) -> dict[str, Any]:
        answer: dict[str, Any] = self.api.get(route("streams", name), peer=peer)
        return answer

    def streams(self) -> dict[str, Any]:
        answer: dict[str, Any] = self.api.get(route("streams"))
        return answer

    # What monitoring sees.

    def local(self, path: str) -> tuple[int, str]:
        """Status and text of a request to the ``local:`` listener."""
        try:
            with urllib.request.urlopen(f"http://{self.place.local}{path}", timeout=10) as response:
                return response.status, response.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def metric(self, name: str, **labels: str) -> float | None:
        """A sample's value, by its whole name; None if it is absent."""
        for family in text_string_to_metric_families(self.local("/metrics")[1]):
            for sample in family.samples:
                if sample.name == name and labels.items() <= sample.labels.items():
                    return float(sample.value)
        return None

    def log_size(self) -> int:
        return self.place.log.stat().st_size

    def log(self, start: int = 0) -> list[dict[str, Any]]:
        """The whole lines of the log behind a position."""
        with self.place.log.open("rb") as file:
            file.seek(start)
            return [json.loads(line) for line in file.read().splitlines(keepends=True) if line.endswith(b"\n")]

    # What happens to it.

    def kill_gateway(self) -> None:
        """SIGKILL; it is gone on return, its nats-server is not."""
        with held.gateway_of(self.home) as process:
            assert process is not None, f"{self.place.zone} has no gateway"
            process.kill()

    def stop_gateway(self) -> None:
        """SIGTERM, as systemd does; its nats-server ends too."""
        with held.gateway_of(self.home) as process:
            assert process is not None, f"{self.place.zone} has no gateway"
            process.stop(12)

    def start_gateway(self) -> None:
        """Start it and don't wait for anything."""
        processes.start_gateway(self.home).close()

    def signal_gateway(self, number: signal.Signals) -> None:
        with held.gateway_of(self.home) as process:
            assert process is not None, f"{self.place.zone} has no gateway"
            process.send(number)

    def kill_server(self) -> None:
        with held.server_of(self.home) as process:
            assert process is not None, f"{self.place.zone} has no nats-server"
            process.kill()

    def signal_server(self, number: signal.Signals) -> None:
        with held.server_of(self.home) as process:
            assert process is not None, f"{self.place.zone} has no nats-server"
            process.send(number)

    @contextmanager
    def paused_gateway(self) -> Iterator[None]:
        """Alive for the kernel, silent for everybody else: the listener's backlog still takes connections."""
        self.signal_gateway(signal.SIGSTOP)
        try:
            yield
        finally:
            self.signal_gateway(signal.SIGCONT)

    @contextmanager
    def paused_server(self) -> Iterator[None]:
        self.signal_server(signal.SIGSTOP)
        try:
            yield
        finally:
            self.signal_server(signal.SIGCONT)

    # What configuration management does.

    def install(self, path: Path, content: str | bytes) -> None:
        """Replace a file at once."""
        write_whole(path, content if isinstance(content, bytes) else content.encode(), 0o644)

    @contextmanager
    def changed(self, path: Path, *replacements: tuple[str, str]) -> Iterator[None]:
        """A configuration file with these texts replaced inside the block, and as it was behind it.

        Nothing is reloaded: the gateway has to notice by itself, or be told.
        """
        before = path.read_text()
        text = before
        for old, new in replacements:
            assert old in text, f"{path} does not hold {old!r}"
            text = text.replace(old, new)
        self.install(path, text)
        try:
            yield
        finally:
            self.install(path, before)

    # What an application does.

    @asynccontextmanager
    async def nats(self, *, admin: bool = True) -> AsyncIterator[Store]:
        """Its NATS through nats-py, as the administrator or as a local application."""
        seed = self.place.nats_admin_credentials if admin else self.place.nats_credentials
        async with opened(self.place, seed) as store:
            yield store


@dataclass
class Lab:
    """Both zones, where they were when the lab came up."""

    directory: Path

    @cached_property
    def enterprise(self) -> Zone:
        return Zone(processes.zone_of(self.directory, ENTERPRISE))

    @cached_property
    def plant(self) -> Zone:
        return Zone(processes.zone_of(self.directory, PLANT))

    @property
    def zones(self) -> Mapping[str, Zone]:
        return {ENTERPRISE: self.enterprise, PLANT: self.plant}

    def level(self, seconds: float = 20.0) -> dict[str, Any]:
        """Wait until plant-a has every fact that enterprise has, and enterprise's word of it; its cursor."""
        head = int(self.enterprise.stream(OPERATIONAL)["last_sequence"])

        def is_level() -> dict[str, Any] | None:
            row = self.plant.cursor()
            is_level = row["state"] == "level" and row["scanned_through"] >= head and row["head"] is not None
            return row if is_level else None

        found = eventually("plant-a is level", seconds, is_level)
        assert found is not None
        return found

    def healthy(self) -> None:
        """Wait until both zones are healthy and all links level; starts what does not run."""
        processes.start(self.directory)


@contextmanager
def running_lab(directory: Path, *, empty: bool = True) -> Iterator[Lab]:
    """A lab in a new folder; every process of it is gone at the end, whatever state a test left it in."""
    try:
        processes.up(directory, empty=empty)
        lab = Lab(directory)
        # A test may break the configuration, so the addresses are read now.
        assert len(lab.zones) == len(ZONE_NAMES)
        yield lab
    finally:
        _take_down(directory)


def _take_down(directory: Path) -> None:
    if not processes.is_lab(directory):
        return
    for zone in ZONE_NAMES:
        home = processes.LabPaths(directory).home(zone)
        for find in (held.gateway_of, held.server_of):
            with find(home) as process:
                if process is not None:
                    process.send(signal.SIGCONT)
    try:
        processes.down(directory)
    finally:
        for zone in ZONE_NAMES:
            _end(processes.LabPaths(directory).home(zone))


def _end(home: Path) -> None:
    """By force, whatever is left."""
    for find in (held.gateway_of, held.server_of):
        with find(home) as process, contextlib.suppress(ProcessLookupError):
            if process is not None:
                process.kill()


def printed_seconds(what: str, seconds: float) -> None:
    """A measurement, for whoever reads the test's output."""
    print(f"{what}: {seconds:.2f} s")


def place_in_file(message: str) -> tuple[str, int, int] | None:
    """File, line and column at the beginning of a configuration problem."""
    found = re.match(r"(\S+):(\d+):(\d+): ", message)
    return (found[1], int(found[2]), int(found[3])) if found else None
