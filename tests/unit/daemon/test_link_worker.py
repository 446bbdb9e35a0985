"""A worker's own side: it carries out what is ordered, answers what is asked, and ends with its gateway."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from tests.support.certificates import TestAuthority, peer, trust_of
from tests.support.patience import patience
from tests.support.twin_link import NAME, RECEIVER, SOURCE, Shelf

from bsfg.config.address import Address
from bsfg.config.limits import Limits
from bsfg.config.values import LinkConfig, PeerConfig
from bsfg.core.conversation import Woken
from bsfg.core.link_state import Phase
from bsfg.daemon import link_worker
from bsfg.daemon.link_worker import LinkWorker, PeerClients
from bsfg.daemon.links import LinkMeans, LinkSupervisor
from bsfg.daemon.system import SystemClock
from bsfg.daemon.worker_channel import Channel
from bsfg.daemon.worker_reports import Reports
from bsfg.daemon.worker_words import Answer, Ask, Beat, Orders, Report, Snapshot, Stop, Taken
from bsfg.model.cursor import LinkName, LinkState, parse_init_mode
from bsfg.model.identity import IdentityRule
from bsfg.model.names import StreamName
from bsfg.substrates.memory import MemoryZone
from bsfg.transport.access import Access
from bsfg.transport.client import HttpPeerClient
from bsfg.transport.client_connection import ClientLimits, PeerEndpoint

PEER = PeerConfig(SOURCE, IdentityRule("enterprise-bsfg"), Address("127.0.0.1", 1), "bucket", authorized=True)
CONFIG = LinkConfig(NAME, parse_init_mode("full_backfill"), justification="test")


@dataclass
class Rig:
    """A worker in this very process, and the gateway's end of its channel; its peer is nowhere."""

    channel: Channel
    worker: LinkWorker
    running: asyncio.Task[None]
    first: Orders
    folder: Path
    ends: list[str]

    async def hear(self, wanted: type) -> Any:
        async with asyncio.timeout(20 * patience()):
            while not isinstance(word := await self.channel.receive(), wanted):
                assert word is not None
        return word

    async def snapshot(self) -> Snapshot:
        while not (report := await self.hear(Report)).snapshots:
            continue
        found: Snapshot = report.snapshots[-1]
        return found

    async def has_ended(self, seconds: float) -> bool:
        await asyncio.wait({self.running}, timeout=seconds)
        return self.running.done() and self.running.exception() is None


@asynccontextmanager
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    trust = _trust(tmp_path / "one")
    ours, theirs = socket.socketpair()
    access, clock, reports, ends = Access(trust, {}), SystemClock(), Reports(), list[str]()
    clients = PeerClients(
        lambda config: HttpPeerClient(
            PeerEndpoint(config.id, config.rule, config.endpoint.host, config.endpoint.port),
            access,
            clock,
            ClientLimits(),
        )
    )
    links = LinkSupervisor(LinkMeans(MemoryZone(clock), Shelf(), clock, clients.client), reports)
    channel = await Channel.over(theirs)
    worker = LinkWorker(channel, access, clients, links, reports, clock, lambda: ends.append("ending"))
    first = Orders(1, None, {SOURCE: PEER.policy()}, {}, {SOURCE: PEER}, {NAME: CONFIG}, Limits())
    found = Rig(
        await Channel.over(ours), worker, asyncio.create_task(worker.run(first)), first, tmp_path, ends
    )
    try:
        yield found
    finally:
        found.running.cancel()
        await asyncio.gather(found.running, return_exceptions=True)
        await found.channel.close()
        await channel.close()


def _trust(folder: Path) -> Any:
    authority = TestAuthority(folder)
    own = authority.zone(f"{RECEIVER}-bsfg")
    return trust_of(own, f"{RECEIVER}-bsfg", authority.path, {SOURCE: peer("enterprise-bsfg")})


async def test_orders_are_carried_out_and_links_reported(tmp_path: Path) -> None:
    async with rig(tmp_path) as found:
        assert (await found.hear(Taken)).number == 1
        assert (await found.snapshot()).name == NAME
        found.channel.send(replace(found.first, number=2, links={}))
        assert (await found.hear(Taken)).number == 2
        assert found.worker.links.drivers == []


async def test_new_trust_policies_and_partitions_are_in_force_before_anything_else(tmp_path: Path) -> None:
    async with rig(tmp_path) as found:
        await found.hear(Taken)
        before = found.worker.access.current.trust
        other = _trust(tmp_path / "two")
        found.channel.send(replace(found.first, number=2, trust=other.material, partitions={SOURCE: None}))
        await found.hear(Taken)
        now = found.worker.access.current
        assert now.trust is not before
        assert now.trust.anchor_fingerprints(SOURCE) == other.anchor_fingerprints(SOURCE)
        assert (now.policies, now.partitions) == ({SOURCE: PEER.policy()}, {SOURCE: None})
        while (await found.snapshot()).state is not LinkState.PARTITIONED:
            continue
        found.channel.send(replace(found.first, number=3, policies={}))
        await found.hear(Taken)
        assert found.worker.access.current.policies == {}


async def test_a_question_is_answered_with_the_link_as_it_was(tmp_path: Path) -> None:
    async with rig(tmp_path) as found:
        await found.hear(Taken)
        found.channel.send(Ask(7, NAME, Woken(by_operator=True)))
        answer = await found.hear(Answer)
        assert answer.number == 7 and answer.snapshot.name == NAME
        assert answer.snapshot.link.phase in Phase
        found.channel.send(Ask(8, LinkName(SOURCE, StreamName("facts.none")), Woken()))
        assert await found.hear(Answer) == Answer(8, None)


async def test_it_ends_in_order_when_it_is_told_to(tmp_path: Path) -> None:
    async with rig(tmp_path) as found:
        await found.hear(Taken)
        found.channel.send(Stop())
        assert await found.has_ended(10)
        assert found.worker.links.drivers == [] and found.ends == ["ending"]


async def test_it_ends_when_its_gateway_is_gone(tmp_path: Path) -> None:
    async with rig(tmp_path) as found:
        await found.hear(Taken)
        await found.channel.close()
        assert await found.has_ended(10)
        assert found.worker.links.drivers == []


async def test_it_ends_when_its_gateway_is_silent_and_not_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link_worker, "TICK_SECONDS", 0.1)
    async with rig(tmp_path) as found:
        for _ in range(20):
            found.channel.send(Beat())
            assert not await found.has_ended(0.1)
        assert await found.has_ended(10)
        assert found.worker.links.drivers == []
