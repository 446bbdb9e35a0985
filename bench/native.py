"""The reference: JetStream streams at a leaf node that source the hub's streams over mutual TLS."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final
from urllib.request import urlopen

import nats
from nats.js.api import AckPolicy, ConsumerConfig, ExternalStream, StreamConfig, StreamSource

from bench import certificates
from bench.facts import Facts, Place, publish
from bench.pair import JetStreamPair, Setting, source_stream
from bench.processes import Processes, accepts_connections, free_port

NATS_SERVER: Final = Path(sys.executable).parent / "nats-server"
HUB: Final = "hub"
LEAF: Final = "leaf"
CONSUMER_SECONDS: Final = 60.0

_SERVER: Final = """\
server_name: {name}
listen: "127.0.0.1:{port}"
http: "127.0.0.1:{monitor}"
max_payload: 2MB
jetstream {{
  store_dir: "{store}"
  domain: {name}{sync}
}}
"""
_LEAFNODES: Final = {
    HUB: """\
leafnodes {{
  listen: "127.0.0.1:{leaf_port}"
  tls {{ cert_file: "{folder}/hub.crt", key_file: "{folder}/hub.key", ca_file: "{folder}/ca.crt", verify: true }}
}}
""",
    LEAF: """\
leafnodes {{
  remotes: [{{
    url: "tls://127.0.0.1:{leaf_port}"
    tls {{ cert_file: "{folder}/leaf.crt", key_file: "{folder}/leaf.key", ca_file: "{folder}/ca.crt" }}
  }}]
}}
""",
}


def configuration(
    name: str, folder: Path, *, port: int, monitor: int, leaf_port: int, is_strict: bool
) -> str:
    """The configuration file of the hub or the leaf."""
    sync = "\n  sync_interval: always" if is_strict else ""
    server = _SERVER.format(name=name, port=port, monitor=monitor, store=folder / f"{name}-store", sync=sync)
    return server + _LEAFNODES[name].format(leaf_port=leaf_port, folder=folder)


@contextmanager
def running(folder: Path, setting: Setting) -> Iterator[NativePair]:
    """Hub and leaf, connected; both end with the block."""
    certificates.issue(folder, [HUB, LEAF])
    with Processes(folder) as processes:
        pair = NativePair(folder, setting, processes)
        pair.start(HUB, is_strict=setting.is_strict)
        pair.start(LEAF, is_strict=setting.is_strict)
        pair.wait_connected()
        asyncio.run(pair.create_streams())
        yield pair


class NativePair(JetStreamPair):
    """A hub that has the facts and a leaf that sources them."""

    def __init__(self, folder: Path, setting: Setting, processes: Processes) -> None:
        self._folder, self._setting, self._processes = folder, setting, processes
        self._ports = {HUB: free_port(), LEAF: free_port()}
        self._monitors = {HUB: free_port(), LEAF: free_port()}
        self._leaf_port = free_port()
        self.source = Place(f"nats://127.0.0.1:{self._ports[HUB]}")
        self.target = Place(f"nats://127.0.0.1:{self._ports[LEAF]}")

    def start(self, name: str, *, is_strict: bool) -> None:
        """Start one of the servers; it listens on return."""
        path = self._folder / f"{name}.conf"
        port = self._ports[name]
        text = configuration(
            name,
            self._folder,
            port=port,
            monitor=self._monitors[name],
            leaf_port=self._leaf_port,
            is_strict=is_strict,
        )
        path.write_text(text, encoding="utf-8")
        self._processes.start(name, [str(NATS_SERVER), "--config", str(path)])
        listens = partial(accepts_connections, "127.0.0.1", port)
        self._processes.wait_until(f"{name} listening on port {port}", listens)

    def wait_connected(self) -> None:
        self._processes.wait_until("the leaf node connection", self._is_connected)

    def _is_connected(self) -> bool:
        try:
            with urlopen(f"http://127.0.0.1:{self._monitors[HUB]}/leafz", timeout=2) as answer:
                return bool(json.load(answer)["leafnodes"] == 1)
        except OSError:
            return False

    async def create_streams(self) -> None:
        """The hub's empty streams."""
        hub = await nats.connect(self.source.url, allow_reconnect=False)
        try:
            for stream in self._setting.streams:
                subjects = [stream, f"{stream}.>"]
                await hub.jetstream().add_stream(StreamConfig(name=source_stream(stream), subjects=subjects))
        finally:
            await hub.close()

    def fill(self, facts: Facts) -> float:
        """Under strict the hub is filled at default sync and then restarted: filling it is not what is measured."""
        if not self._setting.is_strict:
            return publish(self.source, facts)
        self._restart_hub(is_strict=False)
        rate = publish(self.source, facts)
        self._restart_hub(is_strict=True)
        self.wait_connected()
        return rate

    def _restart_hub(self, *, is_strict: bool) -> None:
        self._processes.stop(HUB)
        self.start(HUB, is_strict=is_strict)

    async def release(self) -> None:
        """Create the sourcing streams."""
        leaf = await nats.connect(self.target.url, allow_reconnect=False)
        try:
            for stream in self._setting.streams:
                external = ExternalStream(api=f"$JS.{HUB}.API", deliver="")
                source = StreamSource(name=source_stream(stream), external=external)
                await leaf.jetstream().add_stream(
                    StreamConfig(name=self.target_stream(stream), sources=[source])
                )
        finally:
            await leaf.close()

    async def create_consumer(self) -> tuple[str, str]:
        """A pull consumer of the hub's first stream without acknowledgements; the names of both."""
        stream = source_stream(self._setting.streams[0])
        hub = await nats.connect(self.source.url, allow_reconnect=False)
        try:
            wanted = ConsumerConfig(
                ack_policy=AckPolicy.NONE, mem_storage=True, inactive_threshold=CONSUMER_SECONDS
            )
            return stream, (await hub.jetstream().add_consumer(stream, wanted)).name
        finally:
            await hub.close()

    def pids(self) -> Mapping[str, frozenset[int]]:
        return {
            f"{name} nats-server": frozenset({process.pid})
            for name, process in self._processes.started.items()
        }

    def target_stream(self, stream: str) -> str:
        return f"in_hub_{source_stream(stream)}"


def describe() -> str:
    """The configuration as it is printed, with ports and folders in general."""
    place = Path("FOLDER")
    texts = [
        configuration(name, place, port=0, monitor=0, leaf_port=0, is_strict=False) for name in (HUB, LEAF)
    ]
    source = f'{{name: facts_operational, external: {{api: "$JS.{HUB}.API"}}}}'
    return "".join(
        [*texts, f"the leaf's stream, in files: {{name: in_hub_facts_operational, sources: [{source}]}}"]
    )
