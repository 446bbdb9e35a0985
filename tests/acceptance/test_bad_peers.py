"""One good peer among thirty bad ones, each with a link of its own, over real sockets, in one process (I24, I29)."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import random
import statistics
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.support.certificates import peer, trust_of
from tests.support.peer_zones import ENTERPRISE as GOOD
from tests.support.peer_zones import OPERATIONAL as STREAM
from tests.support.peer_zones import Pki, RealClock, Sender, policy, sending

from bsfg.config.limits import Limits
from bsfg.config.values import LinkConfig, LogConfig
from bsfg.daemon.journal import open_journal
from bsfg.daemon.link_reporter import LinkReporter
from bsfg.daemon.links import LinkMeans, LinkSupervisor
from bsfg.daemon.telemetry import Telemetry
from bsfg.model.cursor import LinkName, LinkState, parse_init_mode
from bsfg.model.fact import Fact
from bsfg.model.identity import IdentityRule
from bsfg.model.names import ZoneId
from bsfg.substrates.memory import MemoryZone
from bsfg.transport.access import Access
from bsfg.transport.client import HttpPeerClient
from bsfg.transport.client_connection import PeerEndpoint
from bsfg.transport.page_codec import BINARY_TYPE

Behaviour = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
HEAD = f"HTTP/1.1 200 X\r\nContent-Type: {BINARY_TYPE}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()


async def black_hole(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(3600)


async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


async def garbage(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(random.Random(1).randbytes(4096))
    await writer.drain()


async def a_byte_a_second(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    for byte in HEAD * 100:
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(1)


async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(HEAD)
    for _ in range(2_000):
        writer.write(b"10000\r\n" + bytes(65536) + b"\r\n")
        await writer.drain()
        await asyncio.sleep(0.002)


BEHAVIOURS: dict[Behaviour, bool] = {
    black_hole: False,
    reset: False,
    garbage: False,
    a_byte_a_second: True,
    endless: True,
}
"""Each with whether it comes as far as TLS."""
BAD_PEERS = 30


class Shelf:
    async def put(self, link: LinkName, epoch: str, fact: Fact) -> None:
        raise AssertionError("no fact here is unstorable")


@dataclass
class Crowd:
    """A receiving zone with links to one good peer and many bad ones, over real sockets."""

    supervisor: LinkSupervisor
    tried: dict[ZoneId, list[float]]
    """When each bad peer was connected to."""

    def stored(self) -> int:
        cursor = self.supervisor.drivers[0].link.cursor
        return cursor.sequence or 0 if cursor else 0

    def state(self, zone: ZoneId) -> LinkState:
        return self.supervisor.state(LinkName(zone, STREAM))


@asynccontextmanager
async def crowd(pki: Pki, sender: Sender, bad: int) -> AsyncIterator[Crowd]:
    async with contextlib.AsyncExitStack() as stack:
        zones = {ZoneId(f"bad-{number}"): list(BEHAVIOURS)[number % len(BEHAVIOURS)] for number in range(bad)}
        identities = {GOOD: "enterprise-bsfg"} | {zone: f"{zone}-bsfg" for zone in zones}
        trust = trust_of(
            pki.plant,
            "plant-a-bsfg",
            pki.enterprise_ca.path,
            {zone: peer(name) for zone, name in identities.items()},
        )
        access = Access(trust, {zone: policy((), zone) for zone in identities})
        clock = RealClock()
        inbound = MemoryZone(clock)
        tried: dict[ZoneId, list[float]] = defaultdict(list)
        ports = {GOOD: sender.port}
        for zone, behaviour in zones.items():
            ports[zone] = await stack.enter_async_context(bad_peer(pki, zone, behaviour, tried[zone]))
        clients = {
            zone: HttpPeerClient(
                PeerEndpoint(zone, IdentityRule(identities[zone]), "127.0.0.1", ports[zone]), access, clock
            )
            for zone in identities
        }
        for client in clients.values():
            stack.push_async_callback(client.close)
        journal = open_journal(LogConfig(file=pki.folder / "log"), "plant-a")
        reporter = LinkReporter(journal, Telemetry(), lambda zone: None, lambda zone, error: None)
        supervisor = LinkSupervisor(LinkMeans(inbound, Shelf(), clock, clients.__getitem__), reporter)
        stack.push_async_callback(supervisor.stop)
        links = [LinkName(zone, STREAM) for zone in identities]
        configs = {name: LinkConfig(name, parse_init_mode("full_backfill")) for name in links}
        await supervisor.apply(configs, Limits(), ())
        yield Crowd(supervisor, tried)


@asynccontextmanager
async def bad_peer(pki: Pki, zone: ZoneId, behaviour: Behaviour, tried: list[float]) -> AsyncIterator[int]:
    """Its port."""
    context = None
    if BEHAVIOURS[behaviour]:
        own = pki.enterprise_ca.zone(f"{zone}-bsfg")
        trust = trust_of(own, f"{zone}-bsfg", pki.plant_ca.path, {ZoneId("plant-a"): peer("plant-a-bsfg")})
        context = trust.server_context()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tried.append(time.monotonic())
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await behaviour(reader, writer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def lags(sender: Sender, here: Crowd, seconds: float) -> list[float]:
    """From publishing a fact to its being stored here, again and again."""
    found, until = [], time.monotonic() + seconds
    while time.monotonic() < until:
        began, head = time.monotonic(), sender.zone.publish(STREAM, "t", payload=b"{}")
        async with asyncio.timeout(10):
            while here.stored() < head:
                await here.supervisor.drivers[0].changed()
        found.append(time.monotonic() - began)
        await asyncio.sleep(0.02)
    return found


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki(tmp_path_factory.mktemp("pki"))


async def test_a_good_peer_does_not_notice_thirty_bad_ones(pki: Pki) -> None:
    async with sending(pki) as sender, crowd(pki, sender, 0) as alone:
        await lags(sender, alone, 0.5)
        baseline = statistics.median(await lags(sender, alone, 2))
    async with sending(pki) as sender, crowd(pki, sender, BAD_PEERS) as here:
        first = await lags(sender, here, 4)
        gc.collect()
        before = resident_bytes()
        found = first + await lags(sender, here, 8)
        gc.collect()
        grown = resident_bytes() - before
        assert statistics.median(found) < 2 * baseline + 0.02, f"{statistics.median(found)} beside {baseline}"
        assert sorted(found)[int(len(found) * 0.95)] < 0.3
        assert grown < 64 * 1024 * 1024, f"{grown} bytes more"
        assert here.state(GOOD) in (LinkState.LEVEL, LinkState.CATCHING_UP)
        states = {here.state(zone) for zone in here.tried}
        assert LinkState.LEVEL not in states and LinkState.CATCHING_UP not in states
        check_attempts(here, 12.0)


def check_attempts(here: Crowd, seconds: float) -> None:
    """Delays double from 0.2 s to 8 s, half of each by chance: at most 8 attempts in 12 s, and no two peers alike."""
    assert len(here.tried) == BAD_PEERS and all(here.tried.values())
    most = max(len(times) for times in here.tried.values())
    assert most <= 8, f"{most} attempts at one peer in {seconds} s"
    reset_ones = [times for number, times in enumerate(here.tried.values()) if number % len(BEHAVIOURS) == 1]
    fourth = [times[3] - times[0] for times in reset_ones]
    assert max(fourth) - min(fourth) > 0.1, "what failed at the same moment is tried again at the same moment"
