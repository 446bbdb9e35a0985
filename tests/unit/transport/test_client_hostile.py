"""A peer with a good certificate and a bad will: the client ends in time, bounded, and says why."""

from __future__ import annotations

import asyncio
import json
import struct
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from tests.support.peer_zones import ENTERPRISE, OPERATIONAL, Pki, RealClock, receiver_access

from bsfg.errors import BsfgError, Code, PeerRefused, PeerUnreachable
from bsfg.model.cursor import Cursor, parse_init_mode
from bsfg.model.fact import Fact
from bsfg.model.identity import IdentityRule
from bsfg.model.page import Agreement, FetchRequest, Page, PageLimits
from bsfg.transport.client import HttpPeerClient
from bsfg.transport.client_connection import ClientLimits, PeerEndpoint
from bsfg.transport.page_codec import BINARY_TYPE, encode

REQUEST = FetchRequest(OPERATIONAL, PageLimits(facts=10, bytes=1), start=parse_init_mode("full_backfill"))
FACT = Fact(1, OPERATIONAL, 5, b"", b"x")
PAGE = Page(OPERATIONAL, "e1", Agreement.EPOCH, 1, 1, 1, 0, 5, None, [FACT])
LIMITS = ClientLimits(connect_seconds=2, silence_seconds=0.5, answer_seconds=1.0)

Behaviour = Callable[[asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki(tmp_path_factory.mktemp("pki"))


@asynccontextmanager
async def answered_by(pki: Pki, behaviour: Behaviour) -> AsyncIterator[HttpPeerClient]:
    """A client whose peer reads one request and then behaves like this."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            lengths = [line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
            if lengths:
                await reader.readexactly(int(lengths[0].split(b":")[1]))
            await behaviour(writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=pki.sender_trust().server_context())
    port = server.sockets[0].getsockname()[1]
    endpoint = PeerEndpoint(ENTERPRISE, IdentityRule("enterprise-bsfg"), "127.0.0.1", port)
    client = HttpPeerClient(endpoint, receiver_access(pki), RealClock(), LIMITS)
    try:
        yield client
    finally:
        await client.close()
        server.close()


def saying(body: bytes, status: int = 200, kind: str = BINARY_TYPE, headers: str = "") -> Behaviour:
    async def behave(writer: asyncio.StreamWriter) -> None:
        head = f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n{headers}\r\n"
        writer.write(head.encode() + body)
        await writer.drain()

    return behave


def saying_raw(answer: bytes) -> Behaviour:
    async def behave(writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await writer.drain()

    return behave


async def error_of(pki: Pki, behaviour: Behaviour, ask: str = "fetch") -> BsfgError:
    async with answered_by(pki, behaviour) as client:
        asked: dict[str, Callable[[], Awaitable[Any]]] = {
            "fetch": lambda: client.fetch(REQUEST),
            "health": client.health,
            "streams": client.streams,
            "confirm": lambda: client.confirm(OPERATIONAL, Cursor("e1", 5, "a" * 64, 5)),
        }
        with pytest.raises(BsfgError) as caught:
            await asyncio.wait_for(asked[ask](), 8)
    assert caught.value.message.isprintable()
    return caught.value


async def test_the_honest_twin(pki: Pki) -> None:
    async with answered_by(pki, saying(encode(PAGE))) as client:
        assert await client.fetch(REQUEST) == PAGE


async def test_an_endless_body(pki: Pki) -> None:
    sent = 0

    async def endless(writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        writer.write(
            f"HTTP/1.1 200 X\r\nContent-Type: {BINARY_TYPE}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
        )
        while True:
            writer.write(b"10000\r\n" + b"x" * 65536 + b"\r\n")
            sent += 65536
            await writer.drain()

    error = await error_of(pki, endless)
    assert (error.code, "longer than" in error.message) == (Code.BAD_ANSWER, True)
    assert sent < 16 * 1024 * 1024


async def test_an_announced_endless_body(pki: Pki) -> None:
    error = await error_of(
        pki,
        saying_raw(
            f"HTTP/1.1 200 X\r\nContent-Type: {BINARY_TYPE}\r\nContent-Length: 999999999999\r\n\r\n".encode()
        ),
    )
    assert (error.code, "announces" in error.message) == (Code.BAD_ANSWER, True)


async def test_a_body_that_is_cut_short(pki: Pki) -> None:
    error = await error_of(
        pki,
        saying_raw(
            f"HTTP/1.1 200 X\r\nContent-Type: {BINARY_TYPE}\r\nContent-Length: 500\r\n\r\nabc".encode()
        ),
    )
    assert isinstance(error, PeerUnreachable)
    assert error.details["reason"] == "reset"


async def test_one_byte_now_and_then(pki: Pki) -> None:
    async def drip(writer: asyncio.StreamWriter) -> None:
        writer.write(f"HTTP/1.1 200 X\r\nContent-Type: {BINARY_TYPE}\r\nContent-Length: 100\r\n\r\n".encode())
        for _ in range(100):
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.2)

    began = time.monotonic()
    error = await error_of(pki, drip)
    assert isinstance(error, PeerUnreachable)
    assert error.details["reason"] == "timeout"
    assert time.monotonic() - began < 6


async def test_silence(pki: Pki) -> None:
    async def silent(writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(5)

    began = time.monotonic()
    error = await error_of(pki, silent)
    assert isinstance(error, PeerUnreachable)
    assert error.details["reason"] == "timeout"
    assert time.monotonic() - began < 2


async def test_a_connection_that_is_closed(pki: Pki) -> None:
    error = await error_of(pki, saying_raw(b""))
    assert isinstance(error, PeerUnreachable)
    assert error.details["reason"] == "reset"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308, 304])
async def test_redirects_are_not_followed(pki: Pki, status: int) -> None:
    error = await error_of(pki, saying(b"", status, headers="Location: https://127.0.0.1:1/\r\n"))
    assert (error.code, "redirects" in error.message) == (Code.BAD_ANSWER, True)


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"\x00" * 100 + b"\r\n\r\n",
        b"HTTP/1.1 2000 X\r\n\r\n",
        b"HTTP/1.1 200 X\r\nA: " + b"x" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 X\r\n" + b"A: x\r\n" * 10_000 + b"\r\n",
    ],
)
async def test_what_is_not_http(pki: Pki, answer: bytes) -> None:
    assert (await error_of(pki, saying_raw(answer))).code is Code.BAD_ANSWER


def frame(body: bytes) -> bytes:
    return struct.pack(">8sII", b"BSFGPG\x00\x01", len(body), zlib.crc32(body)) + body


def with_fact(**changes: Any) -> bytes:
    return encode(
        replace(PAGE, scanned_through=9, head=9, facts=[FACT, FACT._replace(**({"sequence": 2} | changes))])
    )


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "shorter"),
        (b"garbage" * 50, "version 1"),
        (encode(PAGE)[:-1], "follow"),
        (encode(PAGE)[:-1] + b"y", "checksum"),
        (encode(PAGE) * 2, "follow the last page"),
        (frame(b"\x00"), "malformed"),
        (with_fact(sequence=1), "follows"),
        (with_fact(sequence=10), "behind scanned_through"),
        (with_fact(headers=b"Nats-Rollup: all\r\n"), "headers"),
        (with_fact(headers=b"Bsfg-Origin: x\r\n"), "headers"),
        (with_fact(subject="facts.telemetry"), "subject"),
        (with_fact(subject="facts.operational.>"), "subject"),
        (encode(replace(PAGE, stream=OPERATIONAL + ".x")), "stream"),
        (encode(replace(PAGE, epoch="\r\n")), "epoch"),
        (encode(replace(PAGE, agreement=Agreement.EXACT)), "agree on"),
        (
            encode(
                replace(
                    PAGE, facts=[FACT._replace(sequence=n) for n in range(1, 12)], scanned_through=11, head=11
                )
            ),
            "11 facts",
        ),
    ],
)
async def test_pages_that_lie(pki: Pki, body: bytes, says: str) -> None:
    error = await error_of(pki, saying(body))
    assert error.code is Code.BAD_ANSWER
    assert says in error.message


async def test_an_encoding_that_was_not_asked_for(pki: Pki) -> None:
    bomb = zlib.compress(b"x" * 10_000_000)
    error = await error_of(pki, saying(bomb, headers="Content-Encoding: deflate\r\n"))
    assert (error.code, "encoded" in error.message) == (Code.BAD_ANSWER, True)


async def test_a_page_of_html(pki: Pki) -> None:
    error = await error_of(pki, saying(b"<html>", kind="text/html"))
    assert (error.code, "text/html" in error.message) == (Code.BAD_ANSWER, True)


def refusing(status: int, error: Any, headers: str = "") -> Behaviour:
    return saying(json.dumps({"error": error}).encode(), status, "application/json", headers)


async def test_an_error_of_the_contract_is_cut_to_a_line(pki: Pki) -> None:
    error = await error_of(
        pki, refusing(403, {"code": "stream_denied", "message": "a\r\nb\x1b[31m" + "x" * 5000})
    )
    assert isinstance(error, PeerRefused)
    assert error.code is Code.STREAM_DENIED
    assert len(error.message) < 400


@pytest.mark.parametrize(
    "label", ["fenced", "local_full", "outcome_unknown", "configuration", "brand_new", 5, None]
)
async def test_codes_that_no_peer_may_use_are_internal(pki: Pki, label: Any) -> None:
    error = await error_of(pki, refusing(409, {"code": label, "message": "x"}))
    assert isinstance(error, PeerRefused)
    assert error.code is Code.INTERNAL


async def test_details_are_checked(pki: Pki) -> None:
    said = {
        "code": "gap",
        "message": "x",
        "from": "1",
        "to": -1,
        "head": 7,
        "request_id": "a\nb",
        "epoch": " ",
        "z": 1,
    }
    error = await error_of(pki, refusing(409, said))
    assert error.details == {"status": 409, "head": 7}


@pytest.mark.parametrize(
    ("value", "seconds"), [("0", 0), ("3", 3), ("99999", 8), ("-1", None), ("soon", None), ("9" * 50, None)]
)
async def test_retry_after_is_clamped(pki: Pki, value: str, seconds: int | None) -> None:
    behaviour = refusing(503, {"code": "unavailable", "message": "x"}, f"Retry-After: {value}\r\n")
    error = await error_of(pki, behaviour)
    assert (error.code, error.details.get("retry_after_seconds")) == (Code.UNAVAILABLE, seconds)


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'{"error": 5}', b'{"oops": {}}', b"[" * 50_000])
async def test_errors_without_the_contracts_shape(pki: Pki, body: bytes) -> None:
    assert (await error_of(pki, saying(body, 500, "application/json"))).code is Code.BAD_ANSWER


async def test_an_error_body_is_bounded(pki: Pki) -> None:
    assert "announces" in (await error_of(pki, saying(b"x" * 70_000, 500, "application/json"))).message


GOOD_HEALTH = {
    "zone": "enterprise",
    "identity": "enterprise-bsfg",
    "status": "ok",
    "version": "1",
    "protocol": [1, 2],
    "time": "2025-01-15T10:00:00Z",
    "unknown": "ignored",
}


async def test_the_honest_health(pki: Pki) -> None:
    async with answered_by(pki, saying(json.dumps(GOOD_HEALTH).encode(), kind="application/json")) as client:
        said = await client.health()
    assert said == {name: value for name, value in GOOD_HEALTH.items() if name != "unknown"}


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"zone": "plant-b"}, Code.IDENTITY_REJECTED),
        ({"identity": "plant-b-bsfg"}, Code.IDENTITY_REJECTED),
        ({"zone": None}, Code.BAD_ANSWER),
        ({"status": "great"}, Code.BAD_ANSWER),
        ({"version": "x" * 1000}, Code.BAD_ANSWER),
        ({"version": "1\n2"}, Code.BAD_ANSWER),
        ({"protocol": [2]}, Code.BAD_ANSWER),
        ({"protocol": [True]}, Code.BAD_ANSWER),
        ({"protocol": 1}, Code.BAD_ANSWER),
        ({"protocol": [{}]}, Code.BAD_ANSWER),
        ({"time": "now"}, Code.BAD_ANSWER),
    ],
)
async def test_health_that_lies(pki: Pki, changes: dict[str, Any], code: Code) -> None:
    body = json.dumps(GOOD_HEALTH | changes).encode()
    assert (await error_of(pki, saying(body, kind="application/json"), "health")).code is code


GOOD_ROW = {
    "stream": "facts.operational",
    "epoch": "e1",
    "first_sequence": 0,
    "last_sequence": 0,
    "first_time": None,
    "last_time": None,
}


@pytest.mark.parametrize(
    "rows",
    [
        {},
        [5],
        [GOOD_ROW | {"stream": "in.x"}],
        [GOOD_ROW | {"epoch": ""}],
        [GOOD_ROW | {"last_sequence": -1}],
        [GOOD_ROW | {"last_sequence": True}],
        [GOOD_ROW | {"last_time": "x"}],
        [GOOD_ROW] * 1001,
    ],
)
async def test_stream_lists_that_lie(pki: Pki, rows: Any) -> None:
    error = await error_of(pki, saying(json.dumps(rows).encode(), kind="application/json"), "streams")
    assert error.code is Code.BAD_ANSWER


@pytest.mark.parametrize(
    "answer", [{}, {"confirmed": 4}, {"confirmed": "5"}, {"confirmed": None}, {"confirmed": 2**63}]
)
async def test_confirms_that_lie(pki: Pki, answer: Any) -> None:
    error = await error_of(pki, saying(json.dumps(answer).encode(), kind="application/json"), "confirm")
    assert error.code is Code.BAD_ANSWER


FOLLOWING = replace(
    PAGE,
    start_sequence=2,
    scanned_through=2,
    head=2,
    facts=[FACT._replace(sequence=2)],
    agreement=Agreement.EXACT,
)
TWO = encode(PAGE) + encode(FOLLOWING)


async def pages_of(pki: Pki, behaviour: Behaviour, count: int = 4) -> tuple[list[Page], BsfgError | None]:
    """What came before the error, and the error."""
    came: list[Page] = []
    async with answered_by(pki, behaviour) as client:
        try:
            async with asyncio.timeout(8):
                async for page in client.pages(REQUEST, count):
                    came.append(page)
        except BsfgError as error:
            return came, error
    return came, None


async def test_the_honest_pages(pki: Pki) -> None:
    assert await pages_of(pki, saying(TWO)) == ([PAGE, FOLLOWING], None)


@pytest.mark.parametrize(
    ("body", "came", "says"),
    [
        (b"", 0, "no page"),
        (TWO[:10], 0, "before the answer was complete"),
        (TWO[:40], 0, "before the answer was complete"),
        (TWO[:-1], 1, "before the answer was complete"),
        (encode(PAGE) * 2, 1, "breaks the contract"),
        (encode(PAGE) + b"garbage of any kind at all", 1, "does not begin as a binary page"),
        (encode(PAGE) + TWO[:8] + b"\xff\xff\xff\xff" + b"\0" * 4, 1, "more than may come"),
    ],
)
async def test_what_came_whole_is_given_and_the_rest_is_named(
    pki: Pki, body: bytes, came: int, says: str
) -> None:
    pages, error = await pages_of(pki, saying(body))
    assert len(pages) == came
    assert error is not None and says in error.message


async def test_more_pages_than_were_asked_for(pki: Pki) -> None:
    last = replace(FOLLOWING, start_sequence=3, scanned_through=3, head=3, facts=[FACT._replace(sequence=3)])
    pages, error = await pages_of(pki, saying(TWO + encode(last)), count=2)
    assert len(pages) == 2
    assert error is not None and error.code is Code.BAD_ANSWER


async def test_a_second_page_that_never_comes(pki: Pki) -> None:
    async def stopping(writer: asyncio.StreamWriter) -> None:
        head = f"HTTP/1.1 200 X\r\nContent-Type: {BINARY_TYPE}\r\nContent-Length: {len(TWO)}\r\n\r\n"
        writer.write(head.encode() + TWO[:-5])
        await writer.drain()
        await asyncio.sleep(10)

    began = time.monotonic()
    pages, error = await pages_of(pki, stopping)
    assert len(pages) == 1 and time.monotonic() - began < 3
    assert isinstance(error, PeerUnreachable)
