"""Compressed pages: whole again exactly, and never more memory than a page may take, whatever a peer sends."""

from __future__ import annotations

import asyncio
import contextlib
import random
import ssl
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace

import aiohttp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.peer_zones import (
    ENTERPRISE,
    OPERATIONAL,
    Pki,
    RealClock,
    Sender,
    asking,
    receiver_access,
    say,
    sending,
    session,
)

from bsfg.errors import BsfgError, Code, PeerUnreachable
from bsfg.model.cursor import parse_init_mode
from bsfg.model.fact import Fact
from bsfg.model.identity import IdentityRule
from bsfg.model.page import Agreement, FetchRequest, Page, PageLimits
from bsfg.transport.client import HttpPeerClient
from bsfg.transport.client_connection import ClientLimits, PeerEndpoint
from bsfg.transport.compression import (
    InflatingReader,
    accepts_zstd,
    compress,
    compressed_bytes_max,
    inflate,
    zstd,
)
from bsfg.transport.page_codec import BINARY_TYPE, decode, encode, frame_bytes_max
from bsfg.transport.wire import fetch_body

REQUEST = FetchRequest(
    OPERATIONAL,
    PageLimits(facts=100, bytes=20_000),
    start=parse_init_mode("full_backfill"),
    is_compressible=True,
)
BYTES_MAX = frame_bytes_max(REQUEST.limits)
PAGE = Page(OPERATIONAL, "e1", Agreement.EPOCH, 1, 1, 1, 0, 5, None, [Fact(1, OPERATIONAL, 5, b"", b"x")])
BOMB = compress(bytes(300 * 1024 * 1024))


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki(tmp_path_factory.mktemp("pki"))


@dataclass
class Trickle:
    """A body that comes in pieces of this size at the most."""

    body: bytes
    piece: int = 7

    async def read(self, count: int) -> bytes:
        taken, self.body = self.body[: min(count, self.piece)], self.body[min(count, self.piece) :]
        return taken


async def frames_of(body: bytes, piece: int = 7, bytes_max: int = 100_000) -> list[bytes]:
    reader, content, frames = InflatingReader(bytes_max), Trickle(body, piece), []
    while (frame := await reader.next_frame(content)) is not None:
        frames.append(frame)
    return frames


def refused(body: bytes, bytes_max: int = BYTES_MAX) -> BsfgError:
    with pytest.raises(BsfgError) as caught:
        inflate(body, bytes_max)
    assert caught.value.code is Code.BAD_ANSWER
    return caught.value


@given(st.binary(max_size=5_000))
def test_any_bytes_come_back(frame: bytes) -> None:
    assert inflate(compress(frame), len(frame)) == frame


@given(st.lists(st.binary(min_size=1, max_size=500), max_size=5), st.sampled_from([1, 2, 17, 70_000]))
def test_any_frames_come_back_in_order_however_they_are_cut(frames: list[bytes], piece: int) -> None:
    assert asyncio.run(frames_of(b"".join(map(compress, frames)), piece)) == frames


def test_bytes_that_cannot_be_compressed_keep_within_the_limit_of_what_travels() -> None:
    for size in (0, 1, 500, 200_000, 5_000_000):
        noise = random.Random(size).randbytes(size)
        assert len(compress(noise)) <= compressed_bytes_max(size)
        assert inflate(compress(noise), size) == noise


@settings(max_examples=300)
@given(st.binary(max_size=400))
def test_random_bytes_raise_nothing_but_bad_answer(body: bytes) -> None:
    try:
        inflate(body, 1_000)
    except BsfgError as error:
        assert error.code is Code.BAD_ANSWER


@settings(max_examples=300)
@given(st.data())
def test_a_damaged_page_raises_nothing_but_bad_answer(data: st.DataObject) -> None:
    body = bytearray(compress(encode(PAGE)))
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    try:
        assert decode(inflate(bytes(body), BYTES_MAX), REQUEST) == [PAGE]
    except BsfgError as error:
        assert error.code is Code.BAD_ANSWER


def test_a_page_cut_at_any_byte_is_refused() -> None:
    whole = compress(encode(PAGE))
    for length in range(len(whole)):
        refused(whole[:length])
        if length:
            with pytest.raises(BsfgError, match="ends within a page"):
                asyncio.run(frames_of(whole[:length]))


@pytest.mark.parametrize("rest", [b"\x00", b"garbage", compress(b"another"), bytes(200_000)])
def test_what_follows_the_only_page_is_refused(rest: bytes) -> None:
    assert "follow" in refused(compress(encode(PAGE)) + rest).message


def test_a_page_one_byte_too_long_is_refused_and_one_that_fits_is_not() -> None:
    assert len(inflate(compress(bytes(1_000)), 1_000)) == 1_000
    assert "more than 1000 bytes" in refused(compress(bytes(1_001)), 1_000).message


@pytest.mark.parametrize("as_stream", [False, True])
def test_a_bomb_takes_no_more_memory_than_a_page(as_stream: bool) -> None:
    tracemalloc.start()
    try:
        if as_stream:
            with pytest.raises(BsfgError, match="inflates to more"):
                asyncio.run(frames_of(BOMB, 70_000, 4 * 1024 * 1024))
        else:
            refused(BOMB, 4 * 1024 * 1024)
        assert tracemalloc.get_traced_memory()[1] < 10 * 1024 * 1024
    finally:
        tracemalloc.stop()


def test_a_window_larger_than_http_allows_is_refused_and_that_one_is_not() -> None:
    def with_window(log: int) -> bytes:
        options = {zstd.CompressionParameter.window_log: log}
        compressor = zstd.ZstdCompressor(options=options)
        return compressor.compress(b"a page") + compressor.flush()

    assert inflate(with_window(23), 1_000) == b"a page"
    assert "inflated" in refused(with_window(24), 1_000).message


def test_endless_input_that_gives_nothing_is_refused() -> None:
    async def ask() -> None:
        empty_blocks = compress(b"")[:4] + b"\x00\x58" + b"\x00\x00\x00" * 1_000_000
        await frames_of(empty_blocks, 70_000, 1_000)

    with pytest.raises(BsfgError, match="longer than"):
        asyncio.run(ask())


@pytest.mark.parametrize(
    ("header", "accepts"),
    [
        ("zstd", True),
        ("gzip, ZSTD;q=0.5", True),
        ("gzip, zstd ; q=1.0", True),
        ("identity", False),
        ("", False),
        ("zstd;q=0", False),
        ("zstd; q=0.000", False),
        ("zstdx, *", False),
    ],
)
def test_the_header_that_asks(header: str, accepts: bool) -> None:
    assert accepts_zstd(header) is accepts


# Over real connections.


def fill(sender: Sender, count: int = 60) -> None:
    for number in range(count):
        sender.zone.publish(OPERATIONAL, "t", payload=b'{"value": %d}' % number * 30)


async def pages_of(client: HttpPeerClient, request: FetchRequest, count: int) -> list[Page]:
    async with aclosing(client.pages(request, count)) as pages:
        return [page async for page in pages]


async def raw_answer(sender: Sender, pages: int, **headers: str) -> tuple[str | None, str, bytes]:
    """Encoding, type and body as they travel."""
    context = ssl.create_default_context(cafile=str(sender.pki.enterprise_ca.path))
    context.check_hostname = False
    context.load_cert_chain(sender.pki.plant.certificate_path, sender.pki.plant.key_path)
    async with (
        aiohttp.ClientSession(auto_decompress=False) as client,
        client.post(
            f"https://127.0.0.1:{sender.port}/v1/fetch",
            data=fetch_body(REQUEST, pages),
            headers={"Accept": BINARY_TYPE}
            | {name.replace("_", "-"): text for name, text in headers.items()},
            ssl=context,
        ) as response,
    ):
        assert response.status == 200
        return response.headers.get("Content-Encoding"), response.content_type, await response.read()


@pytest.mark.parametrize("count", [1, 8])
async def test_compressed_and_plain_pages_are_the_same(pki: Pki, count: int) -> None:
    async with sending(pki) as sender, asking(sender) as client:
        fill(sender)
        request = replace(REQUEST, limits=PageLimits(facts=25, bytes=50_000))
        plain = await pages_of(client, replace(request, is_compressible=False), count)
        compressed = await pages_of(client, request, count)
        assert [page.facts for page in compressed] == [page.facts for page in plain]
        assert sum(len(page.facts) for page in plain) == (25 if count == 1 else 60)


@pytest.mark.parametrize("count", [1, 8])
async def test_pages_travel_compressed_only_where_that_was_asked_for(pki: Pki, count: int) -> None:
    async with sending(pki) as sender:
        fill(sender)
        encoding, _, plain = await raw_answer(sender, count, Accept_Encoding="gzip, identity")
        assert encoding is None and plain.startswith(b"BSFGPG")
        encoding, _, compressed = await raw_answer(sender, count, Accept_Encoding="gzip, zstd")
        assert encoding == "zstd" and len(compressed) < len(plain) / 5
        assert len(zstd.decompress(compressed)) == len(plain), "any reader of zstd can read the whole"


async def test_json_for_people_is_never_compressed(pki: Pki) -> None:
    async with sending(pki) as sender:
        fill(sender)
        answer = await raw_answer(sender, 1, Accept="application/json", Accept_Encoding="zstd")
        assert answer[:2] == (None, "application/json")
        assert answer[2].startswith(b"{")


async def test_a_compressed_request_is_not_understood(pki: Pki) -> None:
    async with sending(pki) as sender, session(sender) as client:
        body, headers = fetch_body(REQUEST), {"Content-Type": "application/json"}
        assert (await say(client, "POST", "/v1/fetch", data=body, headers=headers)).status == 200
        headers["Content-Encoding"] = "zstd"
        said = await say(client, "POST", "/v1/fetch", data=compress(body), headers=headers)
        assert (said.status, said.code) == (400, "invalid_request")


@asynccontextmanager
async def answered_with(pki: Pki, body: bytes, headers: str) -> AsyncIterator[HttpPeerClient]:
    """A client whose peer answers every request with this."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        assert b"content-encoding" not in head.lower()
        writer.write(f"HTTP/1.1 200 X\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode() + body)
        with contextlib.suppress(ConnectionError):
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=pki.sender_trust().server_context())
    port = server.sockets[0].getsockname()[1]
    endpoint = PeerEndpoint(ENTERPRISE, IdentityRule("enterprise-bsfg"), "127.0.0.1", port)
    limits = ClientLimits(connect_seconds=2, silence_seconds=0.5, answer_seconds=2.0)
    client = HttpPeerClient(endpoint, receiver_access(pki), RealClock(), limits)
    try:
        yield client
    finally:
        await client.close()
        server.close()


def head(kind: str = BINARY_TYPE, encoding: str = "zstd") -> str:
    return f"Content-Type: {kind}\r\nContent-Encoding: {encoding}\r\n"


@pytest.mark.parametrize("count", [1, 8])
async def test_the_honest_twin_of_hostile_peers(pki: Pki, count: int) -> None:
    async with answered_with(pki, compress(encode(PAGE)), head()) as client:
        assert await pages_of(client, REQUEST, count) == [PAGE]


@pytest.mark.parametrize("count", [1, 8])
@pytest.mark.parametrize(
    ("body", "headers"),
    [
        pytest.param(BOMB, head(), id="bomb"),
        pytest.param(compress(encode(PAGE))[:-3], head(), id="truncated"),
        pytest.param(compress(encode(PAGE)) + b"garbage", head(), id="trailing"),
        pytest.param(compress(b""), head(), id="empty"),
        pytest.param(compress(encode(PAGE)[:-1]), head(), id="half a page"),
        pytest.param(compress(encode(PAGE) * 2), head(), id="two pages in one frame"),
        pytest.param(encode(PAGE), head(), id="not compressed at all"),
        pytest.param(compress(encode(PAGE)), head(encoding="gzip"), id="another encoding"),
        pytest.param(compress(b"{}"), head("application/json"), id="compressed json"),
    ],
)
async def test_a_hostile_answer_is_refused(pki: Pki, count: int, body: bytes, headers: str) -> None:
    async with answered_with(pki, body, headers) as client:
        with pytest.raises(BsfgError) as caught:
            await pages_of(client, REQUEST, count)
        assert caught.value.code is Code.BAD_ANSWER, caught.value.message
        assert not isinstance(caught.value, PeerUnreachable)


async def test_a_compressed_answer_that_was_not_asked_for_is_refused(pki: Pki) -> None:
    async with answered_with(pki, compress(encode(PAGE)), head()) as client:
        with pytest.raises(BsfgError, match="not asked for"):
            await client.fetch(replace(REQUEST, is_compressible=False))


async def test_a_sender_that_does_not_compress_is_understood(pki: Pki) -> None:
    async with answered_with(pki, encode(PAGE), f"Content-Type: {BINARY_TYPE}\r\n") as client:
        assert await client.fetch(REQUEST) == PAGE
        assert await pages_of(client, REQUEST, 8) == [PAGE]
