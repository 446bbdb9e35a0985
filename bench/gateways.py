"""Our side: two gateways as ``bsfg serve`` on the homes of a fresh lab, facts from enterprise to plant-a."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final
from urllib.error import URLError
from urllib.parse import urlsplit
from urllib.request import urlopen

from ruamel.yaml import YAML

from bench.facts import publish
from bench.measure import Run, transfer
from bench.processes import Processes, accepts_connections, wait_until

BSFG: Final = str(Path(sys.executable).parent / "bsfg")
COMMAND_TIMEOUT_SECONDS: Final = 60
PROCESSES: Final = 4
INBOUND: Final = "in_enterprise_facts_operational_g1"


@dataclass(frozen=True)
class Zone:
    """What the bench needs to know of one zone of the lab."""

    home: Path
    local: str
    nats: str
    nats_credentials: Path
    nats_admin_credentials: Path

    def admin_seed(self) -> str:
        return self.nats_admin_credentials.read_text(encoding="ascii").strip()


def describe(sync_always: bool) -> str:
    sync = "strict (sync_interval always)" if sync_always else "lazy (sync_interval default)"
    return f"2 gateways and their 2 nats-server, HTTP over mutual TLS, 1 replica, durability {sync}"


def run(folder: Path, facts: int, sync_always: bool) -> Run:
    """Fill enterprise while the link is administratively partitioned, end that, wait until plant-a holds everything."""
    zones = _build_homes(folder / "lab", "strict" if sync_always else "lazy")
    enterprise, plant = zones["enterprise"], zones["plant-a"]
    with Processes(folder) as processes:
        for name, zone in zones.items():
            processes.start(name, [BSFG, "serve", "--home", str(zone.home)])
        for name, zone in zones.items():
            wait_until(f"{name} ready", partial(_is_ready, zone), processes)
        processes.require_count(PROCESSES)
        _bsfg("admin", "partition", *_link(plant), "--reason", "bench", "--for", "1h")
        publish(enterprise.nats, facts, enterprise.nats_credentials)
        return asyncio.run(_measured(plant, facts, processes))


def _build_homes(folder: Path, durability: str) -> dict[str, Zone]:
    """A lab is brought up once, so that its homes are complete, and taken down again."""
    answer = json.loads(_bsfg("lab", "up", "--dir", str(folder), "--empty", "--output", "json"))
    _bsfg("lab", "down", "--dir", str(folder))
    zones = {name: _zone(described) for name, described in answer["zones"].items()}
    for zone in zones.values():
        _set_durability(zone.home / "config" / "zone.yaml", durability)
    return zones


def _zone(described: dict[str, Any]) -> Zone:
    return Zone(
        home=Path(described["home"]),
        local=described["local"],
        nats=described["nats"],
        nats_credentials=Path(described["nats_credentials"]),
        nats_admin_credentials=Path(described["nats_admin_credentials"]),
    )


def _set_durability(path: Path, durability: str) -> None:
    yaml = YAML()
    document = yaml.load(path)
    document["durability"] = durability
    yaml.dump(document, path)


def _is_ready(zone: Zone) -> bool:
    server = urlsplit(zone.nats)
    if not accepts_connections(server.hostname or "", server.port or 0):
        return False
    try:
        with urlopen(f"http://{zone.local}/ready", timeout=2) as answer:
            return bool(answer.status == 200)
    except (URLError, OSError):
        return False


def _link(plant: Zone) -> list[str]:
    return ["--home", str(plant.home), "--peer", "enterprise"]


async def _measured(plant: Zone, facts: int, processes: Processes) -> Run:
    async def start() -> None:
        await asyncio.to_thread(_bsfg, "admin", "reconcile", *_link(plant))

    return await transfer(plant.nats, INBOUND, facts, start, processes, plant.admin_seed())


def _bsfg(*arguments: str) -> str:
    finished = subprocess.run(
        [BSFG, *arguments], capture_output=True, text=True, check=False, timeout=COMMAND_TIMEOUT_SECONDS
    )
    if finished.returncode != 0:
        raise RuntimeError(
            f"bsfg {' '.join(arguments[:2])} ended with status {finished.returncode}: {finished.stderr.strip()}"
        )
    return finished.stdout
