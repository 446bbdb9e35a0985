"""Thin lines between two real zones, and one good peer among thirty bad ones."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import random
import statistics
import threading
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.support.certificates import peer, trust_of
from tests.support.lab_zones import ENTERPRISE, OPERATIONAL, Lab, Zone, eventually
from tests.support.peer_zones import ENTERPRISE as GOOD
from tests.support.peer_zones import OPERATIONAL as STREAM
from tests.support.peer_zones import Pki, RealClock, Sender, policy, sending

from bsfg.config.limits import Limits
from bsfg.config.values import LinkConfig, LogConfig
from bsfg.daemon.journal import open_journal
from bsfg.daemon.links import LinkSupervisor
from bsfg.daemon.telemetry import Telemetry
from bsfg.model.cursor import LinkName, LinkState, parse_init_mode
from bsfg.model.fact import Fact
from bsfg.model.identity import IdentityRule
from bsfg.model.names import ZoneId, inbound_physical
from bsfg.substrates.memory import MemoryZone
from bsfg.transport.access import Access
from bsfg.transport.client import HttpPeerClient
from bsfg.transport.client_connection import PeerEndpoint
from bsfg.transport.page_codec import BINARY_TYPE

AUDIT = "facts.audit"
FACT_BYTES = 1_000
MEGABYTE = 1_000_000


class ThinLine:
    """A line to an address, in a thread of its own, that carries so many bytes a second and counts them."""

    def __init__(self, host: str, port: int) -> None:
        self.bytes_per_second: float | None = None
        self.carried = 0
        self.port = 0
        self._target = (host, port)
        self._free_at = 0.0
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> ThinLine:
        self._thread.start()
        assert self._ready.wait(5)
        return self

    def __exit__(self, *exception: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    def _run(self) -> None:
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(*self._target, limit=16 * 1024)
        await asyncio.gather(self._copy(reader, far_writer, False), self._copy(far_reader, writer, True))

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, is_down: bool) -> None:
        with contextlib.suppress(ConnectionError):
            while piece := await reader.read(16 * 1024):
                if is_down:
                    self.carried += len(piece)
                    await self._pass(len(piece))
                writer.write(piece)
                await writer.drain()
        writer.close()

    async def _pass(self, count: int) -> None:
        if self.bytes_per_second is None:
            return
        now = time.monotonic()
        self._free_at = max(self._free_at, now) + count / self.bytes_per_second
        await asyncio.sleep(self._free_at - now)


@pytest.fixture(scope="module")
def line(lab: Lab) -> Iterator[ThinLine]:
    """What plant-a reaches enterprise by."""
    with ThinLine(*lab.enterprise.address) as thin:
        peers = lab.plant.paths.config / "peers.yaml"
        with lab.plant.changed(peers, (lab.enterprise.place.endpoint, f"127.0.0.1:{thin.port}")):
            yield thin


@contextmanager
def away(lab: Lab, stream: str, **added: str) -> Iterator[None]:
    """Plant-a is away inside the block, and comes back with this added to its link."""
    cursors, head = lab.plant.paths.config / "cursors.yaml", f"    stream: {stream}\n"
    lines = "".join(f"    {key}: {value}\n" for key, value in added.items())
    lab.plant.stop_gateway()
    yield
    with lab.plant.changed(cursors, (head, head + lines)):
        lab.plant.start_gateway()
        eventually("plant-a is back", 15, lambda: reached(lab.plant, stream) is not None)
        eventually("it is level", 60, lambda: is_level(lab, stream))


def append(lab: Lab, stream: str, megabytes: int, *, is_text: bool = True) -> None:
    pieces = range(megabytes * MEGABYTE // FACT_BYTES)
    text = b'{"sensor":"furnace-7","celsius":1412.5,"state":"melting"}' * 20
    noise = random.Random(7)
    facts = [text[:FACT_BYTES] if is_text else noise.randbytes(FACT_BYTES // 2).hex().encode() for _ in pieces]
    lab.enterprise.append(stream, *facts)


def reached(zone: Zone, stream: str) -> float | None:
    with contextlib.suppress(OSError):
        return zone.metric("bsfg_cursor_sequence", stream=stream)
    return None


def head_of(lab: Lab, stream: str) -> int:
    return int(lab.enterprise.ask("stream", "info", stream)["last_sequence"])


def is_level(lab: Lab, stream: str) -> bool:
    return reached(lab.plant, stream) == head_of(lab, stream)
