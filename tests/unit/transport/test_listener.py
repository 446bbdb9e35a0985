"""The peer listener over real TLS: every answer and code of the contract, and nothing beyond its few paths."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from tests.support.certificates import DAY, Issued
from tests.support.patience import patience
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

from bsfg.errors import SubstrateUnavailable
from bsfg.model.cursor import Cursor, parse_init_mode
from bsfg.model.fact import digest
from bsfg.model.names import StreamName
from bsfg.model.page import FetchRequest, PageLimits
from bsfg.transport import routes as routes_module
from bsfg.transport.access import PeerCaller
from bsfg.transport.listener import ListenerLimits
from bsfg.transport.page_codec import BINARY_TYPE, decode
from bsfg.transport.routes import PeerRoute

JETSTREAM = "facts_operational"
START = {"stream": OPERATIONAL, "cursor_policy": "full_backfill"}


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki(tmp_path_factory.mktemp("pki"))


@pytest.fixture
async def sender(pki: Pki) -> AsyncIterator[Sender]:
    async with sending(pki) as running:
        for number in range(1, 6):
            running.zone.publish(OPERATIONAL, "batch", b"Line: 4\r\n", b"fact %d" % number)
        yield running


async def ask(sender: Sender, method: str, path: str, own: Issued | None = None, **named: Any) -> Said:
    async with session(sender, own) as client:
        return await say(client, method, path, **named)


async def after(sender: Sender, sequence: int, **changes: Any) -> dict[str, Any]:
    fact = await sender.zone.fact_at(OPERATIONAL, sequence)
    assert fact is not None
    epoch = (await sender.zone.describe(OPERATIONAL)).epoch
    at = {"epoch": epoch, "sequence": sequence, "digest": digest(fact), "scanned_through": sequence}
    return {"stream": OPERATIONAL, "after": at | changes}


async def fetch(sender: Sender, fields: Any, **named: Any) -> Said:
    return await ask(sender, "POST", "/v1/fetch", json=fields, **named)


async def test_health(sender: Sender) -> None:
    said = await ask(sender, "GET", "/health")
    assert said.status == 200
    assert said.json().pop("time").endswith("Z")
    assert said.json() == {
        "zone": "enterprise",
        "identity": "enterprise-bsfg",
        "status": "ok",
        "version": "1.2.3",
        "protocol": [1],
        "time": said.json()["time"],
    }
    assert sender.heard.answers == [(PLANT, "health", 200)]
    assert sender.heard.contacts == [PLANT]


async def test_streams_are_those_of_this_peer(sender: Sender) -> None:
    rows = (await ask(sender, "GET", "/v1/streams")).json()
    assert [(row["stream"], row["last_sequence"]) for row in rows] == [(OPERATIONAL, 5)]
    sender.access.swap(policies={PLANT: policy({SECRET, OPERATIONAL})})
    rows = (await ask(sender, "GET", "/v1/streams")).json()
    assert [row["stream"] for row in rows] == [OPERATIONAL, SECRET]


async def test_a_json_page(sender: Sender) -> None:
    said = await fetch(sender, START)
    page = said.json()
    assert said.headers["Content-Type"] == "application/json"
    assert [fact["data"] for fact in page["facts"]] == [f"fact {number}" for number in range(1, 6)]
    assert page["facts"][0]["headers"] == [["Line", "4"]]
    assert page["facts"][0]["subject"] == "facts.operational.batch"
    assert (page["start_sequence"], page["scanned_through"], page["head"], page["pending"]) == (1, 5, 5, 0)


async def test_a_binary_page(sender: Sender) -> None:
    said = await fetch(sender, START, headers={"Accept": BINARY_TYPE})
    assert said.headers["Content-Type"] == BINARY_TYPE
    request = FetchRequest(OPERATIONAL, PageLimits(), start=parse_init_mode("full_backfill"))
    [page] = decode(said.body, request)
    assert [fact.payload for fact in page.facts] == [b"fact %d" % number for number in range(1, 6)]


async def test_several_binary_pages(sender: Sender) -> None:
    fields = START | {"max_facts": 2, "pages": 16}
    said = await fetch(sender, fields, headers={"Accept": BINARY_TYPE})
    request = FetchRequest(OPERATIONAL, PageLimits(facts=2), start=parse_init_mode("full_backfill"))
    pages = decode(said.body, request, 16)
    assert [len(page.facts) for page in pages] == [2, 2, 1]
    assert said.headers["Transfer-Encoding"] == "chunked"
    assert "Server" not in said.headers


async def test_json_has_one_page_whatever_was_asked(sender: Sender) -> None:
    page = (await fetch(sender, START | {"max_facts": 2, "pages": 16})).json()
    assert len(page["facts"]) == 2


async def test_confirm(sender: Sender) -> None:
    at = (await after(sender, 3))["after"]
    fields = {"stream": OPERATIONAL, "epoch": at["epoch"], "sequence": 3, "digest": at["digest"]}
    said = await ask(sender, "POST", "/v1/confirm", json=fields)
    assert (said.status, said.json()) == (200, {"confirmed": 3})
    kept = await sender.zone.load(PLANT, OPERATIONAL)
    assert kept is not None
    assert kept.sequence == 3
    assert sender.heard.confirms == [(PLANT, OPERATIONAL, 3)]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "invalid_request"),
        (b"{", 400, "invalid_request"),
        (b"[1]", 400, "invalid_request"),
        (b"\x00\xff", 400, "invalid_request"),
        (json.dumps(START | {"max_facts": 0}).encode(), 400, "invalid_request"),
        (json.dumps(START | {"max_facts": 1.5}).encode(), 400, "invalid_request"),
        (json.dumps(START | {"color": 1}).encode(), 400, "unknown_field"),
        (json.dumps(START | {"stream": "facts.>"}).encode(), 400, "invalid_stream"),
        (json.dumps(START | {"cursor_policy": "bounded_backfill_0h"}).encode(), 400, "init_rejected"),
        (json.dumps(START | {"stream": SECRET}).encode(), 403, "stream_denied"),
        (json.dumps(START | {"stream": "facts.nowhere"}).encode(), 403, "stream_denied"),
        (json.dumps(START).encode() + b" " * 20_000, 413, "too_large"),
    ],
)
async def test_wrong_requests(sender: Sender, body: bytes, status: int, code: str) -> None:
    said = await ask(sender, "POST", "/v1/fetch", data=body)
    error = said.json()["error"]
    assert (said.status, error["code"]) == (status, code)
    assert len(error["request_id"]) == 16
    assert error["message"]
    assert sender.heard.faults == []


async def test_disagreements(sender: Sender) -> None:
    said = await fetch(sender, await after(sender, 2, epoch="other"))
    assert (said.status, said.code) == (409, "history_mismatch")
    said = await fetch(sender, await after(sender, 2, digest="0" * 64))
    assert (said.status, said.code) == (409, "history_mismatch")
    said = await fetch(sender, await after(sender, 5, scanned_through=6))
    assert (said.status, said.code) == (409, "ahead_of_source")
    behind = await after(sender, 1)
    sender.zone.purge(JETSTREAM, below=4)
    said = await fetch(sender, behind)
    error = said.json()["error"]
    assert (said.status, error["code"], error["from"], error["to"]) == (409, "gap", 2, 3)
    said = await fetch(sender, behind | {"accept_gap": {"from": 2, "to": 3}})
    assert [fact["sequence"] for fact in said.json()["facts"]] == [4, 5]


async def test_denied_and_absent_can_not_be_told_apart(sender: Sender) -> None:
    """The stream that exists but is not exported, and the exported one that does not exist."""
    denied = await fetch(sender, START | {"stream": SECRET})
    sender.access.swap(policies={PLANT: policy({StreamName("facts.telemetrx")})})
    absent = await fetch(sender, START | {"stream": "facts.telemetrx"})
    for said in (denied, absent):
        said.headers.pop("Date")
    as_denied = absent.body.replace(b"facts.telemetrx", b"facts.telemetry")
    as_denied = as_denied.replace(
        absent.json()["error"]["request_id"].encode(), denied.json()["error"]["request_id"].encode()
    )
    assert (absent.status, absent.headers, as_denied) == (denied.status, denied.headers, denied.body)
    assert sender.heard.denials == [
        (PLANT, "stream_denied", SECRET),
        (PLANT, "stream_denied", "facts.telemetrx"),
    ]
    sender.access.swap(policies={PLANT: policy({SECRET})})
    assert (await fetch(sender, START | {"stream": SECRET})).status == 200


@pytest.mark.parametrize(
    "path", ["/", "/metrics", "/v1", "/v1/fetch/", "/v1/links", "/live", "/v1//fetch", "/x?a=b"]
)
async def test_no_other_paths(sender: Sender, path: str) -> None:
    said = await ask(sender, "GET", path)
    assert (said.status, said.code) == (404, "not_found")


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/health"), ("GET", "/v1/fetch"), ("DELETE", "/v1/streams"), ("HEAD", "/health")],
)
async def test_no_other_methods(sender: Sender, method: str, path: str) -> None:
    said = await ask(sender, method, path)
    assert said.status == 405
    assert said.headers["Allow"] in ("GET", "POST")


@pytest.mark.parametrize("path", ["/health", "/nowhere", "/v1/fetch"])
async def test_no_answer_has_a_banner(sender: Sender, path: str) -> None:
    said = await ask(sender, "GET", path)
    assert "Server" not in said.headers
    assert b"aiohttp" not in said.body


async def raw(sender: Sender, request: bytes) -> bytes:
    context = sender.pki.receiver_trust().client_context(sender.endpoint().peer)
    reader, writer = await asyncio.open_connection("127.0.0.1", sender.port, ssl=context)
    writer.write(request)
    try:
        return await asyncio.wait_for(reader.read(), 5 * patience())
    finally:
        writer.close()


@pytest.mark.parametrize(
    "request_",
    [
        b"\x16\x03\x01 not http\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /health HTTP/9.9\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: x\r\nBad Header: y\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: x\r\nA: " + b"x" * 20_000 + b"\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: x\r\n" + b"A: x\r\n" * 100 + b"\r\n",
        b"POST /v1/fetch HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ],
)
async def test_what_is_not_http(sender: Sender, request_: bytes) -> None:
    answer = await raw(sender, request_)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith((b"HTTP/1.1 400", b"HTTP/1.0 400"))
    assert b"Server" not in head
    assert b"aiohttp" not in answer
    assert json.loads(body)["error"]["code"] == "invalid_request"


async def test_a_stranger_is_refused_by_the_application(sender: Sender) -> None:
    """A certificate of the right CA with an identity that no peer has."""
    stranger = sender.pki.plant_ca.zone("plant-b-bsfg")
    for path in ("/health", "/nowhere", "/v1/streams"):
        said = await ask(sender, "GET", path, stranger)
        assert (said.status, said.code) == (403, "peer_unknown")
        assert said.headers["Connection"] == "close"
        assert b"plant" not in said.body
    assert {reason for reason, _ in sender.heard.refused} == {"unknown_identity"}
    assert sender.heard.contacts == []
    assert sender.heard.answers == []
    assert (await ask(sender, "GET", "/health")).status == 200


@pytest.mark.parametrize("names", [(), ("plant-a-bsfg", "other")])
async def test_a_certificate_that_is_not_exactly_the_peers(sender: Sender, names: tuple[str, ...]) -> None:
    said = await ask(sender, "GET", "/health", sender.pki.plant_ca.issue("plant-a-bsfg", dns=names))
    assert (said.status, said.code) == (403, "peer_unknown")


async def test_a_revoked_certificate(sender: Sender) -> None:
    sender.access.swap(trust=sender.pki.sender_trust(revoked=[]))
    assert (await ask(sender, "GET", "/health")).status == 200
    sender.access.swap(trust=sender.pki.sender_trust(revoked=[sender.pki.plant]))
    said = await ask(sender, "GET", "/health")
    assert (said.status, said.code) == (403, "identity_rejected")
    assert b"revoked" not in said.body
    assert sender.heard.refused[0][0] == "revoked"


async def test_an_unauthorized_peer(sender: Sender) -> None:
    sender.access.swap(policies={PLANT: replace(policy(), authorized=False)})
    assert (await ask(sender, "GET", "/health")).code == "peer_unknown"
    sender.access.swap(policies={})
    assert (await ask(sender, "GET", "/health")).code == "peer_unknown"
    sender.access.swap(policies={PLANT: policy()})
    assert (await ask(sender, "GET", "/health")).status == 200


@pytest.mark.parametrize("until", [None, 2**62])
async def test_a_partitioned_peer(sender: Sender, until: int | None) -> None:
    sender.access.swap(partitions={PLANT: until})
    async with session(sender) as client:
        for method, path in (("GET", "/health"), ("POST", "/v1/fetch"), ("GET", "/nowhere")):
            said = await say(client, method, path)
            assert (said.status, said.code, said.headers["Retry-After"]) == (503, "partitioned", "5")
        sender.access.swap(partitions={})
        assert (await say(client, "GET", "/health")).status == 200


async def test_a_partition_ends_by_itself(sender: Sender) -> None:
    sender.access.swap(partitions={PLANT: 1})
    assert (await ask(sender, "GET", "/health")).status == 200


async def test_without_a_certificate_the_handshake_fails(sender: Sender) -> None:
    context = ssl.create_default_context(cafile=str(sender.pki.enterprise_ca.path))
    context.check_hostname = False
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as client:
        with pytest.raises(aiohttp.ClientError):
            await client.get(f"https://127.0.0.1:{sender.port}/health")
    assert sender.handshakes[0][1] == "no_certificate"


async def test_an_expired_certificate_fails_the_handshake(sender: Sender) -> None:
    expired = sender.pki.plant_ca.issue("plant-a-bsfg", dns=["plant-a-bsfg"], begins=-2 * DAY, ends=-DAY)
    with pytest.raises(aiohttp.ClientError):
        await ask(sender, "GET", "/health", expired)
    assert sender.handshakes[0][1] == "expired"


async def test_too_many_requests_at_once(pki: Pki) -> None:
    async with sending(pki, ListenerLimits(requests_per_peer=2)) as sender, session(sender) as client:
        polls = [asyncio.create_task(poll(sender, client, 20)) for _ in range(2)]
        await asyncio.sleep(0.3)
        said = await say(client, "GET", "/health")
        assert (said.status, said.code, said.headers["Retry-After"]) == (429, "too_many", "1")
        sender.zone.publish(OPERATIONAL, "batch", payload=b"x")
        assert [(await each).status for each in polls] == [200, 200]
        assert (await say(client, "GET", "/health")).status == 200


async def test_too_many_waiting_fetches(pki: Pki) -> None:
    async with sending(pki, long_polls=1) as sender, session(sender) as client:
        waiting = asyncio.create_task(poll(sender, client, 20))
        await asyncio.sleep(0.3)
        assert (await poll(sender, client, 1)).code == "too_many"
        assert (await poll(sender, client, 0)).status == 200
        waiting.cancel()


async def poll(sender: Sender, client: aiohttp.ClientSession, seconds: float) -> Said:
    """A fetch that waits behind everything there is."""
    fields = {"stream": OPERATIONAL, "cursor_policy": "start_now", "wait_ms": round(seconds * 1000)}
    return await say(client, "POST", "/v1/fetch", json=fields)


async def test_a_client_that_is_gone_gives_its_share_back(pki: Pki) -> None:
    async with sending(pki, ListenerLimits(requests_per_peer=1)) as sender:
        async with session(sender) as client:
            polling = asyncio.create_task(poll(sender, client, 20))
            await asyncio.sleep(0.3)
            polling.cancel()
            await asyncio.gather(polling, return_exceptions=True)
        await asyncio.sleep(0.2)
        assert (await ask(sender, "GET", "/health")).status == 200


async def test_a_body_that_does_not_come(sender: Sender, monkeypatch: pytest.MonkeyPatch) -> None:
    assert routes_module.BODY_SECONDS_MAX == 10
    monkeypatch.setattr(routes_module.read_body, "__defaults__", (0.2,))
    answer = await raw(sender, b"POST /v1/fetch HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\n{")
    assert b"400" in answer.split(b"\r\n")[0]
    assert b"did not arrive within" in answer


async def test_a_client_that_does_not_read_is_cut_off(pki: Pki) -> None:
    async with sending(pki, ListenerLimits(write_seconds=0.5)) as sender:
        for _ in range(4):
            sender.zone.publish(OPERATIONAL, "batch", payload=b"x" * 1024 * 1023)
        context = pki.receiver_trust().client_context(sender.endpoint().peer)
        reader, writer = await asyncio.open_connection("127.0.0.1", sender.port, ssl=context, limit=1024)
        body = json.dumps(START | {"max_bytes": 4 * 1024 * 1024}).encode()
        for _ in range(8):
            writer.write(
                b"POST /v1/fetch HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
            )
        async with asyncio.timeout(10 * patience()):
            while sender.acceptor.connections:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        writer.transport.abort()
        del reader


async def test_an_unexpected_fault_says_nothing(pki: Pki) -> None:
    async def faulty(caller: PeerCaller, request: web.Request) -> web.StreamResponse:
        raise RuntimeError("secret /etc/path")

    async def store_away(caller: PeerCaller, request: web.Request) -> web.StreamResponse:
        raise SubstrateUnavailable("nats://10.0.0.1:4222 is away", server="10.0.0.1")

    extra = [PeerRoute("GET", "/faulty", "faulty", faulty), PeerRoute("GET", "/away", "away", store_away)]
    async with sending(pki, extra_routes=extra) as sender:
        said = await ask(sender, "GET", "/faulty")
        assert (said.status, said.code) == (500, "internal")
        assert b"secret" not in said.body
        assert b"Traceback" not in said.body
        [(operation, error)] = sender.heard.faults
        assert (operation, str(error)) == ("faulty", "secret /etc/path")
        said = await ask(sender, "GET", "/away")
        assert (said.status, said.code, said.headers["Retry-After"]) == (503, "unavailable", "2")
        assert b"10.0.0.1" not in said.body


async def test_a_header_or_an_address_is_no_identity(sender: Sender) -> None:
    stranger = sender.pki.plant_ca.zone("plant-b-bsfg")
    claims = {
        "X-Forwarded-Client-Cert": "CN=plant-a-bsfg",
        "X-Client-Identity": "plant-a-bsfg",
        "Host": "plant-a-bsfg",
    }
    assert (await ask(sender, "GET", "/health", stranger, headers=claims)).code == "peer_unknown"


async def test_a_quiet_cursor_is_taken(sender: Sender) -> None:
    epoch = (await sender.zone.describe(OPERATIONAL)).epoch
    cursor = Cursor(epoch, None, None, 4)
    fields = {"epoch": cursor.epoch, "sequence": None, "digest": None, "scanned_through": 4}
    page = (await fetch(sender, {"stream": OPERATIONAL, "after": fields})).json()
    assert (page["agreement"], [fact["sequence"] for fact in page["facts"]]) == ("epoch", [5])
