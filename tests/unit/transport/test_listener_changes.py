"""Open connections and held polls feel a change of access at once (I34): measured, the limit being five seconds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from datetime import timedelta
from pathlib import Path

import aiohttp
import pytest
from tests.support.certificates import TestAuthority
from tests.support.peer_zones import (
    OPERATIONAL,
    PLANT,
    SECRET,
    Pki,
    Said,
    Sender,
    policy,
    say,
    sending,
    session,
)

from bsfg.transport.page_codec import BINARY_TYPE

CHANGE_SECONDS_MAX = 5.0
POLL = {"stream": OPERATIONAL, "cursor_policy": "start_now", "wait_ms": 30_000}


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki(tmp_path_factory.mktemp("pki"))


@pytest.fixture
async def sender(pki: Pki) -> AsyncIterator[Sender]:
    async with sending(pki) as running:
        running.zone.publish(OPERATIONAL, "batch", payload=b"fact")
        yield running


def revoke(sender: Sender) -> None:
    sender.access.swap(trust=sender.pki.sender_trust(revoked=[sender.pki.plant]))


def remove_from_trust(sender: Sender) -> None:
    sender.access.swap(trust=sender.pki.sender_trust(authorized=False))


def remove(sender: Sender) -> None:
    sender.access.swap(policies={})


def narrow(sender: Sender) -> None:
    sender.access.swap(policies={PLANT: policy({SECRET})})


def partition(sender: Sender) -> None:
    sender.access.swap(partitions={PLANT: None})


def change_anchor(sender: Sender) -> None:
    other = Pki(sender.pki.folder / "other")
    other.enterprise, other.enterprise_ca = sender.pki.enterprise, sender.pki.enterprise_ca
    sender.access.swap(trust=other.sender_trust())


CHANGES = [
    (revoke, 403, "identity_rejected"),
    (remove_from_trust, 403, "peer_unknown"),
    (remove, 403, "peer_unknown"),
    (narrow, 403, "stream_denied"),
    (partition, 503, "partitioned"),
    (change_anchor, 403, "identity_rejected"),
]


@pytest.mark.parametrize(("change", "status", "code"), CHANGES)
async def test_a_held_poll_ends_at_once(
    sender: Sender, change: Callable[[Sender], None], status: int, code: str
) -> None:
    async with session(sender) as client:
        polling = asyncio.create_task(say(client, "POST", "/v1/fetch", json=POLL))
        await asyncio.sleep(0.3)
        assert not polling.done()
        began = time.monotonic()
        change(sender)
        said = await polling
        assert time.monotonic() - began < CHANGE_SECONDS_MAX
        assert (said.status, said.code) == (status, code)


async def test_a_held_poll_ends_when_the_certificate_does(sender: Sender) -> None:
    """Time alone ends it: nothing is changed by anybody."""
    ends = timedelta(seconds=2)
    own = sender.pki.plant_ca.issue("plant-a-bsfg", dns=["plant-a-bsfg"], ends=ends)
    async with session(sender, own) as client:
        began = time.monotonic()
        said = await say(client, "POST", "/v1/fetch", json=POLL)
        assert time.monotonic() - began < ends.total_seconds() + CHANGE_SECONDS_MAX
        assert (said.status, said.code) == (403, "identity_rejected")


@pytest.mark.parametrize(("change", "status", "code"), CHANGES)
async def test_an_open_connection_is_refused_at_once(
    sender: Sender, change: Callable[[Sender], None], status: int, code: str
) -> None:
    connections: set[int] = set()
    async with session(sender) as client:
        for _ in range(2):
            said = await say(client, "POST", "/v1/fetch", json=POLL | {"wait_ms": 0})
            assert said.status == 200
            connections |= open_ports(client)
        change(sender)
        said = await say(client, "POST", "/v1/fetch", json=POLL | {"wait_ms": 0})
        assert (said.status, said.code) == (status, code)
        assert len(connections) == 1, "the refused request was to come on the connection that was open"


def open_ports(client: aiohttp.ClientSession) -> set[int]:
    """The local ports of the session's kept connections."""
    assert client.connector is not None
    kept = [entry[0] for entries in client.connector._conns.values() for entry in entries]
    return {protocol.transport.get_extra_info("sockname")[1] for protocol in kept if protocol.transport}


async def test_a_held_poll_outlives_a_change_that_leaves_it_allowed(sender: Sender) -> None:
    async with session(sender) as client:
        polling = asyncio.create_task(say(client, "POST", "/v1/fetch", json=POLL))
        await asyncio.sleep(0.3)
        sender.access.swap(trust=sender.pki.sender_trust(revoked=[]))
        sender.access.swap(policies={PLANT: policy({OPERATIONAL, SECRET})})
        await asyncio.sleep(0.3)
        assert not polling.done()
        sender.zone.publish(OPERATIONAL, "batch", payload=b"new")
        said = await polling
        assert [fact["data"] for fact in said.json()["facts"]] == ["new"]


async def test_a_refused_identity_loses_its_connection(sender: Sender) -> None:
    async with session(sender) as client:
        assert (await say(client, "GET", "/health")).status == 200
        revoke(sender)
        said = await say(client, "GET", "/health")
        assert (said.code, said.headers["Connection"]) == ("identity_rejected", "close")


async def test_an_answer_of_several_pages_ends_with_its_permission(sender: Sender) -> None:
    """The second page is not begun once the first was read under a permission that has ended."""
    for _ in range(40):
        sender.zone.publish(OPERATIONAL, "batch", payload=b"x" * 1024 * 1023)
    fields = {
        "stream": OPERATIONAL,
        "cursor_policy": "full_backfill",
        "max_bytes": 4 * 1024 * 1024,
        "pages": 16,
    }
    async with session(sender) as client:
        request = client.post("/v1/fetch", json=fields, headers={"Accept": BINARY_TYPE})
        async with request as response:
            narrow(sender)
            received = len(await response.read())
    assert 0 < received < 30 * 1024 * 1024


async def test_an_impostor_of_another_peers_anchor(tmp_path: Path, sender: Sender) -> None:
    """A CA that vouches for one peer can't make another's certificate (I33)."""
    evil = TestAuthority(tmp_path / "evil", "evil CA").zone("plant-a-bsfg")
    with pytest.raises(aiohttp.ClientError):
        async with session(sender, evil) as client:
            said: Said = await say(client, "GET", "/health")
            assert said.status != 200
    assert sender.handshakes[0][1] == "unknown_ca"
