"""Asking a peer over real TLS: the four questions, and what each refusal and each outage is called."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from dataclasses import replace

import aiohttp
import pytest
from tests.support.certificates import TestAuthority, peer, trust_of
from tests.support.patience import patience
from tests.support.peer_zones import (
    ENTERPRISE,
    OPERATIONAL,
    PLANT,
    SECRET,
    Pki,
    RealClock,
    Sender,
    asking,
    policy,
    receiver_access,
    sending,
)

from bsfg.errors import BsfgError, Code, PeerRefused, PeerUnreachable
from bsfg.model.cursor import Cursor, parse_init_mode
from bsfg.model.fact import digest
from bsfg.model.names import StreamName
from bsfg.model.page import Agreement, FetchRequest, PageLimits
from bsfg.ports import PeerClient
from bsfg.transport.client import HttpPeerClient
from bsfg.transport.client_connection import ClientLimits

FULL = FetchRequest(OPERATIONAL, PageLimits(), start=parse_init_mode("full_backfill"))
NOW = replace(FULL, start=parse_init_mode("start_now"))


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki(tmp_path_factory.mktemp("pki"))


@pytest.fixture
async def sender(pki: Pki) -> AsyncIterator[Sender]:
    async with sending(pki) as running:
        for number in range(1, 6):
            running.zone.publish(OPERATIONAL, "batch", b"Line: 4\r\n", b"fact %d" % number)
        yield running


@pytest.fixture
async def client(sender: Sender) -> AsyncIterator[HttpPeerClient]:
    async with asking(sender) as opened:
        yield opened


async def test_it_is_a_peer_client(client: HttpPeerClient) -> None:
    port: PeerClient = client
    assert port is client


async def test_health(client: HttpPeerClient) -> None:
    said = await client.health()
    assert (said["zone"], said["identity"], said["status"], said["protocol"]) == (
        "enterprise",
        "enterprise-bsfg",
        "ok",
        [1],
    )


async def test_streams(client: HttpPeerClient) -> None:
    assert [row["stream"] for row in await client.streams()] == [OPERATIONAL]


async def test_fetch_then_confirm_then_fetch(sender: Sender, client: HttpPeerClient) -> None:
    page = await client.fetch(replace(FULL, limits=PageLimits(facts=3)))
    assert [fact.payload for fact in page.facts] == [b"fact 1", b"fact 2", b"fact 3"]
    cursor = Cursor(page.epoch, 3, digest(page.facts[-1]), page.scanned_through)
    assert await client.confirm(OPERATIONAL, cursor) == 3
    kept = await sender.zone.load(PLANT, OPERATIONAL)
    assert kept is not None
    assert kept.digest == cursor.digest
    page = await client.fetch(FetchRequest(OPERATIONAL, PageLimits(), after=cursor))
    assert (page.agreement, [fact.sequence for fact in page.facts]) == (Agreement.EXACT, [4, 5])


async def test_fetch_several_pages(client: HttpPeerClient) -> None:
    request = replace(FULL, limits=PageLimits(facts=2))
    for count, expected in ((16, [[1, 2], [3, 4], [5]]), (2, [[1, 2], [3, 4]]), (1, [[1, 2]])):
        pages = [page async for page in client.pages(request, count)]
        assert [[fact.sequence for fact in page.facts] for page in pages] == expected


async def test_several_pages_end_when_we_no_longer_trust_the_peer(pki: Pki, sender: Sender) -> None:
    access = receiver_access(pki)
    async with asking(sender, access) as client:
        pages = client.pages(replace(FULL, limits=PageLimits(facts=1)), 16)
        assert [fact.sequence for fact in (await anext(pages)).facts] == [1]
        access.swap(trust=pki.receiver_trust(identity="another-bsfg"))
        with pytest.raises(PeerUnreachable) as caught:
            await anext(pages)
        assert caught.value.details["reason"] == "reloading"


async def test_a_refusal_where_several_pages_were_asked_for_is_the_peers_own_word(
    client: HttpPeerClient,
) -> None:
    with pytest.raises(PeerRefused) as caught:
        await anext(client.pages(replace(FULL, stream=SECRET), 4))
    assert caught.value.code is Code.STREAM_DENIED


async def test_large_facts_pass(sender: Sender, client: HttpPeerClient) -> None:
    for _ in range(4):
        sender.zone.publish(OPERATIONAL, "batch", payload=b"\xff" * 1024 * 1024)
    page = await client.fetch(replace(FULL, limits=PageLimits(bytes=4 * 1024 * 1024)))
    assert len(page.facts) == 8
    page = await client.fetch(
        replace(NOW, start=None, after=Cursor(page.epoch, None, None, 5), limits=PageLimits(bytes=1))
    )
    assert [len(fact.payload) for fact in page.facts] == [1024 * 1024]


async def test_a_held_poll_is_answered(sender: Sender, client: HttpPeerClient) -> None:
    polling = asyncio.create_task(client.fetch(replace(NOW, limits=PageLimits(wait_seconds=5))))
    await asyncio.sleep(0.3)
    sender.zone.publish(OPERATIONAL, "batch", payload=b"new")
    assert [fact.payload for fact in (await polling).facts] == [b"new"]


async def test_connections_are_kept(sender: Sender, client: HttpPeerClient) -> None:
    for _ in range(5):
        await client.fetch(FULL)
    assert sender.acceptor.connections == 1


async def refused(awaitable: object) -> PeerRefused:
    with pytest.raises(PeerRefused) as caught:
        await awaitable  # type: ignore[misc]
    return caught.value


async def test_refusals_are_the_peers_own_words(sender: Sender, client: HttpPeerClient) -> None:
    error = await refused(client.fetch(replace(FULL, stream=SECRET)))
    assert error.code is Code.STREAM_DENIED
    assert len(error.details["request_id"]) == 16
    page = await client.fetch(replace(FULL, limits=PageLimits(facts=1)))
    cursor = Cursor(page.epoch, 1, digest(page.facts[0]), 1)
    after = FetchRequest(OPERATIONAL, PageLimits(), after=cursor)
    wrong = replace(after, after=replace(cursor, digest="0" * 64))
    assert (await refused(client.fetch(wrong))).code is Code.HISTORY_MISMATCH
    ahead = replace(after, after=replace(cursor, scanned_through=99))
    error = await refused(client.fetch(ahead))
    assert (error.code, error.details["head"]) == (Code.AHEAD_OF_SOURCE, 5)
    sender.zone.purge("facts_operational", below=4)
    error = await refused(client.fetch(after))
    assert (error.code, error.details["from"], error.details["to"]) == (Code.GAP, 2, 3)
    assert len((await client.fetch(replace(after, accept_gap=(2, 3)))).facts) == 2
    sender.access.swap(partitions={PLANT: None})
    error = await refused(client.health())
    assert (error.code, error.details["retry_after_seconds"]) == (Code.PARTITIONED, 5)
    sender.access.swap(policies={})
    assert (await refused(client.health())).code is Code.PEER_UNKNOWN


async def test_nothing_to_confirm(client: HttpPeerClient) -> None:
    with pytest.raises(BsfgError) as caught:
        await client.confirm(OPERATIONAL, Cursor("e1", None, None, 0))
    assert caught.value.code is Code.INVALID_REQUEST


async def test_our_revoked_certificate_is_the_peers_refusal(sender: Sender, client: HttpPeerClient) -> None:
    sender.access.swap(trust=sender.pki.sender_trust(revoked=[sender.pki.plant]))
    assert (await refused(client.health())).code is Code.IDENTITY_REJECTED


async def test_our_certificate_of_another_ca_is_refused_in_the_handshake(sender: Sender) -> None:
    stranger = TestAuthority(sender.pki.folder / "stranger", "stranger CA").zone("plant-a-bsfg")
    async with asking(sender, receiver_access(sender.pki, stranger)) as client:
        with pytest.raises(BsfgError) as caught:
            await client.health()
    error = caught.value
    assert (error.code, error.details["side"]) == (Code.IDENTITY_REJECTED, "peer")
    assert "unknown_ca" in error.details["reason"]


async def test_a_server_of_another_ca_is_refused_by_us(pki: Pki, sender: Sender) -> None:
    other = TestAuthority(pki.folder / "other-anchor", "other CA")
    trust = trust_of(pki.plant, "plant-a-bsfg", other.path, {ENTERPRISE: peer("enterprise-bsfg")})
    access = receiver_access(pki)
    access.swap(trust=trust)
    async with asking(sender, access) as client:
        with pytest.raises(BsfgError) as caught:
            await client.fetch(FULL)
    error = caught.value
    assert (error.code, error.details["side"]) == (Code.IDENTITY_REJECTED, "us")
    assert sender.heard.contacts == []


async def test_an_impostor_of_the_right_ca_is_refused_by_us(pki: Pki) -> None:
    """Same CA, another zone's identity: refused in the handshake, before a byte of the request."""
    impostor = Pki(pki.folder / "impostor")
    impostor.enterprise_ca, impostor.plant_ca, impostor.plant = pki.enterprise_ca, pki.plant_ca, pki.plant
    impostor.enterprise = pki.enterprise_ca.zone("lookalike-bsfg")
    trust = trust_of(impostor.enterprise, "lookalike-bsfg", pki.plant_ca.path, {PLANT: peer("plant-a-bsfg")})
    impostor.sender_trust = lambda *_, **__: trust  # type: ignore[method-assign]
    async with sending(impostor) as sender, asking(sender) as client:
        with pytest.raises(BsfgError) as caught:
            await client.fetch(FULL)
        assert sender.heard.contacts == []
        assert sender.heard.answers == []
    error = caught.value
    assert (error.code, error.details["side"]) == (Code.IDENTITY_REJECTED, "us")
    assert "lookalike-bsfg" in error.message


async def test_a_reload_closes_what_was_open(sender: Sender) -> None:
    access = receiver_access(sender.pki)
    async with asking(sender, access) as client:
        await client.health()
        first = sender.acceptor.connections
        old = client._connection._pool
        access.swap(trust=sender.pki.receiver_trust())
        await client.health()
        await asyncio.sleep(0.2)
        assert (first, sender.acceptor.connections) == (1, 1)
        assert old is not None
        assert old.session.closed


@pytest.mark.parametrize("is_known", [False, True])
async def test_a_held_poll_goes_over_to_new_trust(sender: Sender, is_known: bool) -> None:
    access = receiver_access(sender.pki)
    async with asking(sender, access) as client:
        if is_known:
            await client.health()
        polling = asyncio.create_task(client.fetch(replace(NOW, limits=PageLimits(wait_seconds=20))))
        await asyncio.sleep(0.3)
        access.swap(trust=sender.pki.receiver_trust())
        await asyncio.sleep(0.3)
        sender.zone.publish(OPERATIONAL, "batch", payload=b"new")
        assert len((await asyncio.wait_for(polling, 2 * patience())).facts) == 1


@pytest.mark.parametrize("is_known", [False, True])
async def test_who_asked_is_not_left_as_if_cancelled_by_a_change_of_trust(sender: Sender, is_known: bool) -> None:
    access = receiver_access(sender.pki)

    async def asks(client: HttpPeerClient) -> int:
        await client.fetch(replace(NOW, limits=PageLimits(wait_seconds=20)))
        task = asyncio.current_task()
        assert task is not None
        return task.cancelling()

    async with asking(sender, access) as client:
        if is_known:
            await client.health()
        polling = asyncio.create_task(asks(client))
        await asyncio.sleep(0.3)
        access.swap(trust=sender.pki.receiver_trust())
        await asyncio.sleep(0.3)
        sender.zone.publish(OPERATIONAL, "batch", payload=b"new")
        assert await asyncio.wait_for(polling, 2 * patience()) == 0


@pytest.mark.parametrize("is_known", [False, True])
async def test_who_asked_ends_when_told_to_together_with_a_change_of_trust(sender: Sender, is_known: bool) -> None:
    access = receiver_access(sender.pki)
    async with asking(sender, access) as client:
        if is_known:
            await client.health()
        polling = asyncio.create_task(client.fetch(replace(NOW, limits=PageLimits(wait_seconds=20))))
        await asyncio.sleep(0.3)
        access.swap(trust=sender.pki.receiver_trust())
        polling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(polling, 2 * patience())


@pytest.mark.parametrize("is_trusted", [True, False])
async def test_a_change_between_two_parts_of_an_answer_ends_it(sender: Sender, is_trusted: bool) -> None:
    """Nobody is awaiting a part at that moment; the next one is not waited for (I34)."""
    access = receiver_access(sender.pki)

    async def part() -> bytes | None:
        await asyncio.sleep(0.3)
        return b"part"

    async with asking(sender, access) as client:
        await client.health()
        connection = client._connection
        assert connection._pool is not None
        assert await connection._part_while_trusted(connection._pool, part()) == b"part"
        if not is_trusted:
            access.swap(trust=sender.pki.receiver_trust())
        asked = asyncio.wait_for(connection._part_while_trusted(connection._pool, part()), 0.2)
        with pytest.raises(TimeoutError if is_trusted else PeerUnreachable):
            await asked


@pytest.mark.parametrize("is_known", [False, True])
async def test_a_held_poll_ends_when_we_no_longer_trust_the_peer(pki: Pki, sender: Sender, is_known: bool) -> None:
    access = receiver_access(pki)
    async with asking(sender, access) as client:
        if is_known:
            await client.health()
        polling = asyncio.create_task(client.fetch(replace(NOW, limits=PageLimits(wait_seconds=20))))
        await asyncio.sleep(0.3)
        began = time.monotonic()
        access.swap(trust=pki.receiver_trust(identity="another-bsfg"))
        with pytest.raises(BsfgError) as caught:
            await polling
        assert time.monotonic() - began < 5
        assert (caught.value.code, caught.value.details["side"]) == (Code.IDENTITY_REJECTED, "us")


@pytest.mark.parametrize("is_known", [False, True])
async def test_a_change_that_does_not_concern_the_peer_leaves_a_poll_alone(sender: Sender, is_known: bool) -> None:
    access = receiver_access(sender.pki)
    async with asking(sender, access) as client:
        if is_known:
            await client.health()
        polling = asyncio.create_task(client.fetch(replace(NOW, limits=PageLimits(wait_seconds=20))))
        await asyncio.sleep(0.3)
        access.swap(policies={ENTERPRISE: policy({StreamName("facts.orders")}, ENTERPRISE)})
        await asyncio.sleep(0.3)
        assert len(sender.heard.contacts) == 1 + is_known
        sender.zone.publish(OPERATIONAL, "batch", payload=b"new")
        assert len((await asyncio.wait_for(polling, 2 * patience())).facts) == 1


@pytest.mark.parametrize("seconds", [0.0, 0.3])
async def test_a_partition_works_in_both_directions(sender: Sender, seconds: float) -> None:
    access = receiver_access(sender.pki)
    async with asking(sender, access) as client:
        polling = asyncio.create_task(client.fetch(replace(NOW, limits=PageLimits(wait_seconds=20))))
        await asyncio.sleep(seconds)
        access.swap(partitions={ENTERPRISE: None})
        with pytest.raises(BsfgError) as caught:
            await asyncio.wait_for(polling, 5 * patience())
        assert caught.value.code is Code.PARTITIONED
        assert not isinstance(caught.value, PeerRefused)


async def test_a_change_while_the_connections_of_the_former_trust_are_closed_counts(
    sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    access, close = receiver_access(sender.pki), aiohttp.ClientSession.close

    async def closing(session: aiohttp.ClientSession) -> None:
        await close(session)
        access.swap(policies={})

    async with asking(sender, access) as client:
        await client.health()
        access.swap(trust=sender.pki.receiver_trust())
        monkeypatch.setattr(aiohttp.ClientSession, "close", closing)
        with pytest.raises(BsfgError) as caught:
            await client.health()
        monkeypatch.undo()
    assert caught.value.code is Code.PEER_UNKNOWN
    assert len(sender.heard.contacts) == 1


async def test_an_unauthorized_peer_is_not_dialled(sender: Sender) -> None:
    access = receiver_access(sender.pki)
    access.swap(policies={ENTERPRISE: replace(policy((), ENTERPRISE), authorized=False)})
    async with asking(sender, access) as client:
        with pytest.raises(BsfgError) as caught:
            await client.health()
    assert caught.value.code is Code.PEER_UNKNOWN
    assert sender.acceptor.connections == 0


async def test_nobody_listens(pki: Pki, sender: Sender) -> None:
    endpoint = sender.endpoint()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        endpoint = replace(endpoint, port=taken.getsockname()[1])
        client = HttpPeerClient(endpoint, receiver_access(pki), RealClock())
        with pytest.raises(PeerUnreachable) as caught:
            await client.health()
        await client.close()
    assert caught.value.details["reason"] == "refused"


async def test_somebody_listens_and_is_silent(pki: Pki, sender: Sender) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(1)
        endpoint = replace(sender.endpoint(), port=silent.getsockname()[1])
        limits = ClientLimits(connect_seconds=0.3)
        client = HttpPeerClient(endpoint, receiver_access(pki), RealClock(), limits)
        began = time.monotonic()
        with pytest.raises(PeerUnreachable) as caught:
            await client.health()
        await client.close()
    assert caught.value.details["reason"] == "timeout"
    assert time.monotonic() - began < 2


async def test_a_name_that_is_none(pki: Pki, sender: Sender) -> None:
    endpoint = replace(sender.endpoint(), host="no-such-host.invalid")
    client = HttpPeerClient(endpoint, receiver_access(pki), RealClock())
    with pytest.raises(PeerUnreachable) as caught:
        await client.health()
    await client.close()
    assert caught.value.details["reason"] in ("dns", "timeout")


async def test_proxies_of_the_environment_are_ignored(
    sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    async with asking(sender) as client:
        assert (await client.health())["zone"] == "enterprise"
