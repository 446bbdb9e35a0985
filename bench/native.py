"""The reference: a JetStream stream at a leaf node that sources the hub's stream over mutual TLS."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final
from urllib.request import urlopen

import nats
from nats.js.api import ExternalStream, StreamConfig, StreamSource

from bench import certificates
from bench.facts import publish
from bench.measure import Run, transfer
from bench.processes import Processes, accepts_connections, free_port, wait_until

NATS_SERVER: Final = Path(sys.executable).parent / "nats-server"
STREAM: Final = "facts_operational"
SUBJECTS: Final = ["facts.operational", "facts.operational.>"]

_SERVER: Final = """\
server_name: {name}
listen: "127.0.0.1:{port}"
http: "127.0.0.1:{monitor}"
jetstream {{
  store_dir: "{store}"
  domain: {name}
  max_memory_store: 256MB
  {sync}
}}
"""
_HUB: Final = """\
leafnodes {{
  listen: "127.0.0.1:{leaf_port}"
  tls {{ cert_file: "{folder}/hub.crt", key_file: "{folder}/hub.key", ca_file: "{folder}/ca.crt", verify: true }}
}}
"""
_LEAF: Final = """\
leafnodes {{
  remotes: [
    {{
      url: "tls://127.0.0.1:{leaf_port}"
      tls {{ cert_file: "{folder}/leaf.crt", key_file: "{folder}/leaf.key", ca_file: "{folder}/ca.crt" }}
    }}
  ]
}}
"""


@dataclass(frozen=True)
class Ports:
    hub: int
    leaf: int
    hub_monitor: int
    leaf_monitor: int
    leaf_port: int


def describe(sync_always: bool) -> str:
    sync = "always" if sync_always else "default (2m)"
    return f"2 nats-server, leaf node over mutual TLS, file streams, 1 replica, sync_interval {sync}"


def run(folder: Path, facts: int, sync_always: bool) -> Run:
    """Fill the hub, create the sourcing stream at the leaf, wait until it holds everything."""
    ports = Ports(*(free_port() for _ in range(5)))
    certificates.issue(folder, ["hub", "leaf"])
    _write_configuration(folder, ports, sync_always)
    with Processes(folder) as processes:
        for name in ("hub", "leaf"):
            processes.start(name, [str(NATS_SERVER), "--config", str(folder / f"{name}.conf")])
        for port in (ports.hub, ports.leaf):
            wait_until(f"listening on {port}", partial(accepts_connections, "127.0.0.1", port), processes)
        wait_until("the leaf node connection", partial(_leaf_is_connected, ports.hub_monitor), processes)
        return asyncio.run(_measured(ports, facts, processes))


def _write_configuration(folder: Path, ports: Ports, sync_always: bool) -> None:
    sync = "sync_interval: always" if sync_always else ""
    for name, port, monitor, rest in (
        ("hub", ports.hub, ports.hub_monitor, _HUB),
        ("leaf", ports.leaf, ports.leaf_monitor, _LEAF),
    ):
        text = _SERVER.format(name=name, port=port, monitor=monitor, store=folder / f"{name}-store", sync=sync)
        text += rest.format(leaf_port=ports.leaf_port, folder=folder)
        (folder / f"{name}.conf").write_text(text, encoding="utf-8")


def _leaf_is_connected(monitor: int) -> bool:
    try:
        with urlopen(f"http://127.0.0.1:{monitor}/leafz", timeout=2) as answer:
            return bool(json.load(answer)["leafnodes"] == 1)
    except OSError:
        return False


async def _measured(ports: Ports, facts: int, processes: Processes) -> Run:
    hub = await nats.connect(f"nats://127.0.0.1:{ports.hub}")
    await hub.jetstream().add_stream(StreamConfig(name=STREAM, subjects=SUBJECTS, max_age=0))
    await hub.close()
    await asyncio.to_thread(publish, f"nats://127.0.0.1:{ports.hub}", facts)
    leaf = await nats.connect(f"nats://127.0.0.1:{ports.leaf}")
    source = StreamSource(name=STREAM, external=ExternalStream(api="$JS.hub.API", deliver=""))

    async def start() -> None:
        await leaf.jetstream().add_stream(StreamConfig(name="in_hub", sources=[source]))

    try:
        return await transfer(f"nats://127.0.0.1:{ports.leaf}", "in_hub", facts, start, processes)
    finally:
        await leaf.close()
