"""Advice over real TLS, and who needs none: the route, the client's half, and whose fetch is here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import nullcontext
from dataclasses import dataclass, field

import pytest
from tests.support.peer_zones import (
    ENTERPRISE,
    OPERATIONAL,
    PLANT,
    SECRET,
    Pki,
    RealClock,
    Said,
    Sender,
    asking,
    policy,
    receiver_access,
    say,
    sending,
    session,
)

from bsfg.errors import BsfgError, Code, PeerRefused
from bsfg.model.identity import IdentityRule
from bsfg.model.names import StreamName, ZoneId
from bsfg.transport.client import HttpPeerClient
from bsfg.transport.client_connection import PeerEndpoint
from bsfg.transport.notify_route import AWAY_SECONDS, Attention, notify_route
from bsfg.transport.wire import SEQUENCE_MAX, NotifyCall, notify_body, parse_notify

IMPORTED = StreamName("facts.orders")


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki(tmp_path_factory.mktemp("pki"))


@pytest.fixture
def heard() -> list[tuple[ZoneId, StreamName, int]]:
    return []


@pytest.fixture
async def receiver(pki: Pki, heard: list[tuple[ZoneId, StreamName, int]]) -> AsyncIterator[Sender]:
    """Enterprise, which imports ``facts.orders`` from plant-a, and nothing else."""
    route = notify_route(
        lambda peer, stream: (peer, stream) == (PLANT, IMPORTED), lambda *said: heard.append(said)
    )
    async with sending(pki, extra_routes=[route]) as running:
        yield running


async def advise(receiver: Sender, body: object) -> Said:
    async with session(receiver) as client:
        return await say(client, "POST", "/v1/notify", json=body)


async def test_advice_on_an_imported_stream_is_taken(receiver: Sender, heard: list[object]) -> None:
    said = await advise(receiver, {"stream": IMPORTED, "head": 7})
    assert (said.status, said.body) == (204, b"")
    assert "Server" not in said.headers
    assert heard == [(PLANT, IMPORTED, 7)]
    assert receiver.heard.answers == [(PLANT, "notify", 204)]


async def test_what_we_do_not_import_is_refused_like_what_does_not_exist(
    receiver: Sender, heard: list[object]
) -> None:
    """Not even a stream that the caller may read from us makes a difference."""
    receiver.access.swap(policies={PLANT: policy({SECRET, OPERATIONAL})})
    for stream in (OPERATIONAL, SECRET, "facts.nonsense"):
        said = await advise(receiver, {"stream": stream, "head": 7})
        assert (said.status, said.code) == (403, "stream_denied")
    assert heard == []
    assert [denial[:2] for denial in receiver.heard.denials] == [(PLANT, "stream_denied")] * 3


async def test_an_unauthorized_or_partitioned_peer_is_not_heard(receiver: Sender, heard: list[object]) -> None:
    receiver.access.swap(partitions={PLANT: None})
    assert (await advise(receiver, {"stream": IMPORTED, "head": 7})).code == "partitioned"
    receiver.access.swap(partitions={}, policies={})
    assert (await advise(receiver, {"stream": IMPORTED, "head": 7})).code == "peer_unknown"
    assert heard == []
    receiver.access.swap(policies={PLANT: policy()})
    assert (await advise(receiver, {"stream": IMPORTED, "head": 7})).status == 204


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"stream": IMPORTED}, "invalid_request"),
        ({"head": 7}, "invalid_request"),
        ({"stream": IMPORTED, "head": -1}, "invalid_request"),
        ({"stream": IMPORTED, "head": True}, "invalid_request"),
        ({"stream": IMPORTED, "head": 7.0}, "invalid_request"),
        ({"stream": IMPORTED, "head": "7"}, "invalid_request"),
        ({"stream": IMPORTED, "head": SEQUENCE_MAX + 1}, "invalid_request"),
        ({"stream": "facts.>", "head": 7}, "invalid_stream"),
        ({"stream": IMPORTED, "head": 7, "facts": []}, "unknown_field"),
        ([IMPORTED, 7], "invalid_request"),
    ],
)
async def test_malformed_advice(receiver: Sender, heard: list[object], body: object, code: str) -> None:
    assert (await advise(receiver, body)).code == code
    assert heard == []


def test_a_body_reads_back() -> None:
    assert parse_notify(notify_body(IMPORTED, SEQUENCE_MAX)) == NotifyCall(IMPORTED, SEQUENCE_MAX)


async def test_the_client_gives_advice(receiver: Sender, heard: list[object]) -> None:
    async with asking(receiver) as client:
        await client.notify(IMPORTED, 9)
        with pytest.raises(PeerRefused) as refused:
            await client.notify(OPERATIONAL, 9)
    assert heard == [(PLANT, IMPORTED, 9)]
    assert refused.value.code is Code.STREAM_DENIED


async def test_a_peer_that_knows_no_advice_says_so(pki: Pki) -> None:
    async with sending(pki) as older, asking(older) as client:
        with pytest.raises(PeerRefused) as refused:
            await client.notify(IMPORTED, 9)
    assert refused.value.code is Code.NOT_FOUND


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 204 X\r\n\r\n",
        b"HTTP/1.1 200 X\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
    ],
)
async def test_only_204_takes_advice_and_204_is_no_other_answer(pki: Pki, answer: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=pki.sender_trust().server_context())
    endpoint = PeerEndpoint(
        ENTERPRISE, IdentityRule("enterprise-bsfg"), "127.0.0.1", server.sockets[0].getsockname()[1]
    )
    client = HttpPeerClient(endpoint, receiver_access(pki), RealClock())
    try:
        is_taken = b" 204 " in answer
        with nullcontext() if is_taken else pytest.raises(BsfgError) as refused:
            await client.notify(IMPORTED, 9)
        assert is_taken or refused.value.code is Code.BAD_ANSWER
        with pytest.raises(BsfgError) as refused:
            await client.health()
        assert refused.value.code is Code.BAD_ANSWER
    finally:
        await client.close()
        server.close()


@dataclass
class Hand:
    """A clock that is moved by hand."""

    seconds: float = 0.0

    def now(self) -> int:
        return int(self.seconds * 1e9)

    def monotonic(self) -> float:
        return self.seconds

    async def sleep(self, seconds: float) -> None:
        self.seconds += seconds


@dataclass
class Reader:
    """A caller who may read some streams."""

    peer: ZoneId = PLANT
    streams: frozenset[StreamName] = field(default_factory=lambda: frozenset({OPERATIONAL}))


def test_a_peer_listens_while_its_fetch_is_here_and_a_moment_longer() -> None:
    clock = Hand()
    attention = Attention(clock)
    assert not attention.is_listening(PLANT, OPERATIONAL)
    with attention.listening(Reader(), OPERATIONAL):
        with attention.listening(Reader(), OPERATIONAL):
            assert attention.is_listening(PLANT, OPERATIONAL)
        clock.seconds += 30
        assert attention.is_listening(PLANT, OPERATIONAL), "one of two fetches is still here"
        assert not attention.is_listening(ENTERPRISE, OPERATIONAL)
    clock.seconds += AWAY_SECONDS * 0.9
    assert attention.is_listening(PLANT, OPERATIONAL), "the next fetch is on its way"
    clock.seconds += AWAY_SECONDS * 0.2
    assert not attention.is_listening(PLANT, OPERATIONAL)


def test_nothing_is_kept_of_streams_that_a_peer_may_not_read() -> None:
    attention = Attention(Hand())
    for number in range(100):
        with attention.listening(Reader(), StreamName(f"facts.made_up_{number}")):
            assert not attention.is_listening(PLANT, StreamName(f"facts.made_up_{number}"))
    assert not attention._fetches and not attention._left_at
