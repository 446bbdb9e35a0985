"""How a zone sees its caller: the route over real TLS, and a peer whose view is not to be believed."""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest
from tests.support.peer_zones import (
    ENTERPRISE,
    PLANT,
    Pki,
    RealClock,
    asking,
    receiver_access,
    say,
    sending,
    session,
)

from bsfg.errors import BsfgError, Code, PeerRefused, PeerUnreachable
from bsfg.model.identity import IdentityRule
from bsfg.model.names import ZoneId
from bsfg.transport.client import HttpPeerClient
from bsfg.transport.client_connection import ClientLimits, PeerEndpoint
from bsfg.transport.view_codec import ROWS_MAX, VIEW_BYTES_MAX, parse_view
from bsfg.transport.view_route import VIEWS_PER_PEER, view_route

STREAM: Final = {
    "stream": "facts.operational", "epoch": "e1", "head": 7, "confirmed": 5, "confirmed_at": "2026-01-01T00:00:00Z",
    "replicas": 3, "durability": "strict",
}  # fmt: skip
LINK: Final = {
    "stream": "facts.orders", "state": "level", "reason": None, "epoch": "e2", "sequence": 3, "scanned_through": 3,
    "lag_facts": 0, "lag_seconds": 0.5,
}  # fmt: skip
VIEW: Final[dict[str, Any]] = {
    "zone": "plant-a", "identity": "plant-a-bsfg", "tls_version": "TLSv1.3", "time": "2026-01-01T00:00:00Z",
    "anchors": ["a" * 64], "certificate_days_left": 364, "replicas_configured": 3, "streams": [STREAM],
    "artifacts": ["batch-files"], "last_contact": None, "reaches_you": True, "links": [LINK], "metrics_up": True,
    "last_scraped": None,
}  # fmt: skip


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki(tmp_path_factory.mktemp("pki"))


def with_(path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    body = copy.deepcopy(VIEW)
    place: Any = body
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return body


def test_a_view_comes_through_and_what_is_not_known_is_dropped() -> None:
    assert parse_view(VIEW) == VIEW
    assert parse_view(with_(("novelty",), 1) | {"streams": [STREAM | {"novelty": 1}]}) == VIEW
    silent = dict.fromkeys(("epoch", "head", "confirmed", "confirmed_at", "replicas", "durability"))
    assert parse_view(with_(("streams", 0), STREAM | silent))["streams"] == [STREAM | silent]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("zone",), "Plant A"), (("identity",), "x" * 201), (("identity",), "a\x1b[2J"), (("identity",), None),
        (("tls_version",), "<script>"), (("time",), "now"), (("anchors",), ["A" * 64]), (("anchors",), "a" * 64),
        (("anchors",), ["a" * 64] * (ROWS_MAX + 1)), (("certificate_days_left",), True),
        (("certificate_days_left",), 10**9), (("replicas_configured",), 0), (("streams",), {}),
        (("streams", 0, "stream"), "in.x"), (("streams", 0, "epoch"), "e" * 500), (("streams", 0, "head"), -1),
        (("streams", 0, "head"), 1.5), (("streams", 0, "confirmed_at"), 5), (("streams", 0, "durability"), "Strict!"),
        (("streams", 0), 5), (("artifacts",), ["a/b"]), (("artifacts",), [None]), (("last_contact",), ""),
        (("reaches_you",), "yes"), (("links", 0, "state"), "fine"), (("links", 0, "reason"), "bored"),
        (("links", 0, "lag_seconds"), -0.5), (("links", 0, "lag_seconds"), float("nan")), (("metrics_up",), 1),
    ],
)  # fmt: skip
def test_a_lie_in_any_field_is_a_bad_answer(path: tuple[Any, ...], value: Any) -> None:
    with pytest.raises(BsfgError) as caught:
        parse_view(with_(path, value))
    assert caught.value.code is Code.BAD_ANSWER
    assert caught.value.message.isprintable()


@pytest.mark.parametrize("body", [None, [], "view", 5, {}])
def test_what_is_no_view_is_a_bad_answer(body: Any) -> None:
    with pytest.raises(BsfgError) as caught:
        parse_view(body)
    assert caught.value.code is Code.BAD_ANSWER


async def seen_by(peer: ZoneId) -> dict[str, Any]:
    assert peer == PLANT
    return {name: value for name, value in VIEW.items() if name != "tls_version"}


async def test_the_caller_learns_how_it_is_seen(pki: Pki) -> None:
    async with sending(pki, extra_routes=[view_route(seen_by)]) as running:
        async with asking(running) as client:
            assert await client.view() == VIEW
        assert running.heard.answers == [(PLANT, "view", 200)]
        running.access.swap(partitions={PLANT: None})
        async with session(running) as raw:
            assert (await say(raw, "GET", "/v1/view")).code == "partitioned"


async def test_a_policy_that_changes_meanwhile_counts(pki: Pki) -> None:
    async with sending(pki) as template:
        access = template.access

        async def slow(peer: ZoneId) -> dict[str, Any]:
            access_of[0].swap(policies={})
            return await seen_by(peer)

        access_of = [access]
    async with sending(pki, extra_routes=[view_route(slow)]) as running:
        access_of[0] = running.access
        async with session(running) as raw:
            assert (await say(raw, "GET", "/v1/view")).code == "peer_unknown"


async def test_a_peer_may_look_only_so_often_at_once(pki: Pki) -> None:
    gate = asyncio.Event()

    async def held(peer: ZoneId) -> dict[str, Any]:
        await gate.wait()
        return await seen_by(peer)

    async with sending(pki, extra_routes=[view_route(held)]) as running, session(running) as raw:
        waiting = [asyncio.create_task(say(raw, "GET", "/v1/view")) for _ in range(VIEWS_PER_PEER)]
        await asyncio.sleep(0.3)
        assert (await say(raw, "GET", "/v1/view")).code == "too_many"
        gate.set()
        assert [said.status for said in await asyncio.gather(*waiting)] == [200] * VIEWS_PER_PEER


@asynccontextmanager
async def answered_with(pki: Pki, answer: Callable[[], bytes | None]) -> AsyncIterator[HttpPeerClient]:
    """A client whose peer answers with these bytes, or with silence."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = answer()
        if body is None:
            await asyncio.sleep(5)
        else:
            head = f"HTTP/1.1 200 X\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=pki.sender_trust().server_context())
    endpoint = PeerEndpoint(
        ENTERPRISE, IdentityRule("enterprise-bsfg"), "127.0.0.1", server.sockets[0].getsockname()[1]
    )
    limits = ClientLimits(connect_seconds=2, silence_seconds=0.5, answer_seconds=1.0)
    client = HttpPeerClient(endpoint, receiver_access(pki), RealClock(), limits)
    try:
        yield client
    finally:
        await client.close()
        server.close()


async def test_the_honest_twin(pki: Pki) -> None:
    async with answered_with(pki, lambda: json.dumps(VIEW).encode()) as client:
        assert await client.view() == VIEW


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (json.dumps(with_(("zone",), "\x1b")).encode(), BsfgError),
        (b"[" * 50_000, BsfgError),
        (b'{"zone":' + b" " * VIEW_BYTES_MAX, BsfgError),
        (b"", BsfgError),
        (None, PeerUnreachable),
    ],
    ids=["a lie", "deep", "long", "empty", "silence"],
)
async def test_a_hostile_view_ends_in_time(pki: Pki, answer: bytes | None, kind: type[BsfgError]) -> None:
    async with answered_with(pki, lambda: answer) as client:
        with pytest.raises(kind) as caught:
            await asyncio.wait_for(client.view(), 8)
    assert not isinstance(caught.value, PeerRefused)
    assert caught.value.message.isprintable()
