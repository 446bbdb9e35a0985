"""A lab under attack: each gateway is started again as systemd would do it, and the line leads through the proxy."""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.faults import machine
from tests.faults.line import FaultProxy, Packets
from tests.faults.producer import Ledger, Producer
from tests.support.lab_zones import ENTERPRISE, OPERATIONAL, PLANT, Lab, Zone
from tests.support.patience import patience

from bsfg.cli.local_client import route
from bsfg.daemon import failpoints
from bsfg.errors import BsfgError
from bsfg.lab import held, processes
from bsfg.lab.held import HeldProcess
from bsfg.lab.homes import ZONE_NAMES

RESTART_SECONDS: Final = 0.1
ANSWER_SECONDS: Final = 60.0
"""A busy machine takes its time to start a gateway."""
ASK_SECONDS: Final = 2.0
POLL_SECONDS: Final = 0.1
LEVEL: Final = "level"
ORDERS: Final = "facts.orders"
LAST_LINES: Final = 60
"""Of each gateway's log, when a stream does not become level."""


@dataclass
class Keeper:
    """Keeps one zone's gateway running until it is told to stop."""

    home: Path
    starts: int = 0
    process: HeldProcess | None = None
    problems: Counter[str] = field(default_factory=Counter)
    _wanted: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    _turn: threading.Lock = field(default_factory=threading.Lock)
    """Held while the process is another one, or is done something to."""

    def start(self) -> None:
        self._wanted.set()
        self._thread = threading.Thread(target=self._keep, daemon=True, name=f"keeper of {self.home.name}")
        self._thread.start()

    def rest(self) -> None:
        """Start nothing any more; what runs goes on."""
        self._wanted.clear()
        if self._thread is not None:
            self._thread.join(ANSWER_SECONDS)

    def start_armed(self, failpoint: str) -> None:
        """Start one gateway that kills itself there, and no other after it."""
        starts = self.starts
        os.environ[failpoints.VARIABLE] = failpoint
        try:
            self._start_one()
        finally:
            del os.environ[failpoints.VARIABLE]
        if self.starts == starts:
            raise Stuck(f"{self.home.name} can't be started: {self.problems}")

    def ended_by(self) -> int | None:
        """The signal that ended the last gateway; 0 if it ended by itself, None while it runs. Does not collect it."""
        assert self.process is not None
        ended = os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if ended is None:
            return None
        return ended.si_status if ended.si_code == os.CLD_KILLED else 0

    def kill(self) -> bool:
        """SIGKILL; whether there was a gateway to kill."""
        with self._turn:
            if self.process is None or self.process.ends_within(0):
                return False
            self.process.kill()
            return True

    def send(self, number: signal.Signals) -> bool:
        with self._turn:
            if self.process is None or self.process.ends_within(0):
                return False
            self.process.send(number)
            return True

    def _keep(self) -> None:
        while self._wanted.is_set():
            if self.process is None or self.process.ends_within(0):
                self._start_one()
            time.sleep(RESTART_SECONDS)

    def _start_one(self) -> None:
        try:
            process = processes.start_gateway(self.home)
        except (BsfgError, OSError) as error:
            self.problems[str(error)[:200]] += 1
            return
        with self._turn:
            ended, self.process = self.process, process
            if ended is not None:
                ended.close()
        self.starts += 1


@dataclass
class Stage:
    """One lab, its keepers, its line, and what happened to it."""

    lab: Lab
    seed: int
    proxy: FaultProxy
    packets: Packets | None
    happened: Counter[str] = field(default_factory=Counter)
    keepers: dict[str, Keeper] = field(default_factory=dict)

    def keeper(self, zone: str) -> Keeper:
        return self.keepers[zone]

    def zone(self, name: str) -> Zone:
        return self.lab.zones[name]

    def start(self) -> None:
        """Keep both gateways up, and return when they answer and every link is level."""
        for keeper in self.keepers.values():
            keeper.start()
        self.wait_level(ANSWER_SECONDS)

    def producer(self, name: str = ENTERPRISE, stream: str = OPERATIONAL, facts_per_second: float = 0.0) -> Producer:
        ledger = Ledger(self.lab.directory / f"ledger-{stream}")
        return Producer(self.zone(name), stream, self.seed, ledger, facts_per_second)

    def kill_server(self, name: str) -> bool:
        with held.server_of(self.zone(name).home) as process:
            if process is not None:
                process.kill()
            return process is not None

    def signal_server(self, name: str, number: signal.Signals) -> bool:
        with held.server_of(self.zone(name).home) as process:
            if process is not None:
                process.send(number)
            return process is not None

    @contextmanager
    def paused_gateway(self, name: str) -> Iterator[None]:
        """It is alive and does nothing."""
        self.keeper(name).send(signal.SIGSTOP)
        try:
            yield
        finally:
            self.keeper(name).send(signal.SIGCONT)

    def port(self, name: str) -> int:
        """The port at which the other zone reaches this one."""
        return self.proxy.port if name == ENTERPRISE else self.zone(name).address[1]

    def cursor(self, receiver: str, peer: str, stream: str) -> dict[str, Any] | None:
        """None while the gateway does not answer."""
        with contextlib.suppress(BsfgError):
            answer: dict[str, Any] = self.zone(receiver).api.get(
                route("cursors", peer, stream), deadline_seconds=ASK_SECONDS
            )
            return answer
        return None

    def wait_level(self, seconds: float) -> float:
        """Wait until the streams in both directions are level at their receivers; how long that took, in seconds."""
        began = time.monotonic()
        pairs = [(PLANT, ENTERPRISE, OPERATIONAL), (ENTERPRISE, PLANT, ORDERS)]
        last: dict[str, Any] | None = None
        while pairs and time.monotonic() - began < seconds * patience():
            receiver, peer, stream = pairs[0]
            last = self.cursor(receiver, peer, stream)
            if self.is_level(last, peer, stream):
                pairs.pop(0)
            else:
                time.sleep(POLL_SECONDS)
        if pairs:
            raise Stuck(
                f"{pairs[0][2]} at {pairs[0][0]} is not level after {time.monotonic() - began:.0f} s: {last}\n"
                + "\n".join(self.last_words())
            )
        return time.monotonic() - began

    def is_level(self, row: dict[str, Any] | None, peer: str, stream: str) -> bool:
        """Whether a link says so, and has scanned as far as its source goes."""
        if row is None or row["state"] != LEVEL:
            return False
        try:
            head = self.zone(peer).api.get(route("streams", stream), deadline_seconds=ASK_SECONDS)["last_sequence"]
        except BsfgError:
            return False
        return bool((row["scanned_through"] or 0) >= head)

    def end(self) -> None:
        """Nothing of the lab runs any more; its folder stays."""
        for keeper in self.keepers.values():
            keeper.rest()
            keeper.kill()
        for zone in ZONE_NAMES:
            self.kill_server(zone)

    def last_words(self) -> list[str]:
        """The end of each gateway's log, which says why it is where it is."""
        lines = []
        for zone in ZONE_NAMES:
            log = self.zone(zone).paths.data / "bsfg.log"
            lines += [f"{zone}:", *log.read_text(errors="replace").splitlines()[-LAST_LINES:]]
        return lines

    def tracebacks(self) -> list[str]:
        """What no operator may ever see, by file."""
        files = [path for zone in ZONE_NAMES for path in (self.zone(zone).home / "data").glob("*.*")]
        return [
            f"{path.parent.parent.name}/{path.name}"
            for path in files
            if path.suffix in (".stderr", ".log") and b"Traceback" in path.read_bytes()
        ]


class Stuck(Exception):
    """Something did not end within its bound."""


@contextmanager
def staged(seed: int, *, is_lazy: bool = False) -> Iterator[Stage]:
    """A lab that is built and not yet started; every process of it is gone at the end."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bsfg-faults-"))) / "lab"
        processes.build(directory)
        lab = Lab(directory)
        proxy = FaultProxy(lab.enterprise.address)
        proxy.start()
        _lead_through(lab, proxy)
        if is_lazy:
            for zone in ZONE_NAMES:
                path = lab.zones[zone].paths.zone_file
                path.write_text(path.read_text() + "durability: lazy\n")
        packets = Packets() if machine.can_drop_packets() else None
        stage = Stage(lab, seed, proxy, packets)
        stage.keepers = {zone: Keeper(lab.zones[zone].home) for zone in ZONE_NAMES}
        stack.callback(stage.end)
        yield stage


def _lead_through(lab: Lab, proxy: FaultProxy) -> None:
    """plant-a reaches enterprise through the proxy."""
    host, port = lab.enterprise.address
    path = lab.plant.paths.peers_file
    text = path.read_text()
    assert f"{host}:{port}" in text
    path.write_text(text.replace(f"{host}:{port}", f"{proxy.host}:{proxy.port}"))
