"""Our side: the two gateways of a fresh lab with their nats-servers, facts from enterprise to plant-a."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from ruamel.yaml import YAML

from bench.facts import Facts, Place, publish
from bench.fault_proxy import delayed
from bench.pair import JetStreamPair, Setting
from bench.processes import START_SECONDS_MAX
from bsfg.cli.local_client import LocalClient, route
from bsfg.errors import BsfgError, Code
from bsfg.lab import held, processes
from bsfg.lab.homes import ENTERPRISE, PLANT_A, LabPaths
from bsfg.model.names import StreamName, ZoneId, inbound_physical

SENDER: Final = ENTERPRISE.zone
RECEIVER: Final = PLANT_A.zone
HOLD_SECONDS: Final = 3_600
POLL_SECONDS: Final = 0.05
ATTEMPTS_MAX: Final = 3
ADDRESS_TAKEN: Final = (Code.CONFIGURATION, Code.UNAVAILABLE)
"""As it shows before a gateway is started, and after."""


@contextmanager
def running(folder: Path, setting: Setting) -> Iterator[GatewayPair]:
    """A lab, healthy, its receiver level; down at the end of the block, however that comes."""
    with contextlib.ExitStack() as stack:
        yield GatewayPair(_started(folder, setting, stack), setting)


def _started(folder: Path, setting: Setting, stack: contextlib.ExitStack) -> Path:
    """Another lab on this machine may take an address between its choice and its use; then one more try."""
    for attempt in range(ATTEMPTS_MAX):
        try:
            return _start(folder / f"lab-{attempt}", setting, stack)
        except BsfgError as error:
            if error.code not in ADDRESS_TAKEN or attempt == ATTEMPTS_MAX - 1:
                raise
    raise AssertionError("the last attempt returns or raises")


def _start(directory: Path, setting: Setting, stack: contextlib.ExitStack) -> Path:
    processes.build(directory)
    for zone in (SENDER, RECEIVER):
        _set_durability(directory, zone, setting.is_strict)
    _mirror_nothing(directory)
    if setting.round_trip_seconds:
        listener = processes.zone_of(directory, SENDER).endpoint
        entrance = stack.enter_context(delayed(listener, setting.round_trip_seconds / 2))
        _set_endpoint(directory, entrance)
    stack.callback(_down, directory)
    processes.start(directory)
    return directory


def _down(directory: Path) -> None:
    with contextlib.suppress(BsfgError):
        processes.down(directory)


class GatewayPair(JetStreamPair):
    """A lab whose receiver can be partitioned from its sender."""

    def __init__(self, directory: Path, setting: Setting) -> None:
        self._directory, self._setting = directory, setting
        zones = {zone: processes.zone_of(directory, zone) for zone in (SENDER, RECEIVER)}
        self._homes = {zone: found.home for zone, found in zones.items()}
        self.source = Place(zones[SENDER].nats, zones[SENDER].nats_credentials)
        self.target = Place(zones[RECEIVER].nats, zones[RECEIVER].nats_admin_credentials)

    def fill(self, facts: Facts) -> float:
        """The receiver is partitioned. Under strict the sender is filled lazily and then restarted as strict."""
        question = {"peer": SENDER, "reason": "bench", "seconds": HOLD_SECONDS}
        LocalClient(self._homes[RECEIVER]).post(route("partitions"), question)
        if not self._setting.is_strict:
            return publish(self.source, facts)
        self._restart_sender(is_strict=False)
        rate = publish(self.source, facts)
        self._restart_sender(is_strict=True)
        return rate

    def _restart_sender(self, *, is_strict: bool) -> None:
        processes.down(self._directory, SENDER)
        _set_durability(self._directory, SENDER, is_strict)
        home = self._homes[SENDER]
        processes.start_gateway(home).close()
        deadline = time.monotonic() + START_SECONDS_MAX
        while not _is_up(home):
            if time.monotonic() > deadline:
                raise TimeoutError(f"{SENDER} did not come up again in {START_SECONDS_MAX:.0f} s")
            time.sleep(POLL_SECONDS)

    async def release(self) -> None:
        """End the partition."""
        client = LocalClient(self._homes[RECEIVER])
        await asyncio.to_thread(client.delete, route("partitions", SENDER))

    def pids(self) -> Mapping[str, frozenset[int]]:
        found: dict[str, frozenset[int]] = {}
        for zone, home in self._homes.items():
            gateway, server = held.find_gateway(home), held.find_server(home)
            if gateway is None or server is None:
                raise RuntimeError(f"{zone} is not whole: gateway {gateway}, nats-server {server}")
            found |= {f"{zone} gateway": frozenset({gateway}), f"{zone} nats-server": frozenset({server})}
        return found

    @property
    def directory(self) -> Path:
        """The lab's."""
        return self._directory

    @property
    def homes(self) -> Mapping[str, Path]:
        return self._homes

    @property
    def listener(self) -> str:
        """Where the sender serves its peers."""
        return processes.zone_of(self._directory, SENDER).endpoint

    def target_stream(self, stream: str) -> str:
        return inbound_physical(ZoneId(SENDER), StreamName(stream), 1)


def _is_up(home: Path) -> bool:
    with contextlib.suppress(BsfgError):
        LocalClient(home).get(route("status"))
        return True
    return False


def _set_durability(directory: Path, zone: str, is_strict: bool) -> None:
    def change(document: Any) -> None:
        document["durability"] = "strict" if is_strict else "lazy"

    _change(LabPaths(directory).home(zone) / "config" / "zone.yaml", change)


def _mirror_nothing(directory: Path) -> None:
    """Native sources don't look for artifacts that facts name, and neither do these links."""

    def change(document: Any) -> None:
        for entry in document["cursors"]:
            entry.pop("artifacts", None)

    _change(LabPaths(directory).home(RECEIVER) / "config" / "cursors.yaml", change)


def _set_endpoint(directory: Path, entrance: str) -> None:
    def change(document: Any) -> None:
        document["peers"][0]["endpoint"] = entrance

    _change(LabPaths(directory).home(RECEIVER) / "config" / "peers.yaml", change)


def _change(path: Path, change: Any) -> None:
    yaml = YAML()
    document = yaml.load(path)
    change(document)
    yaml.dump(document, path)
