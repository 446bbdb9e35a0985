"""Asking a peer with a good certificate and any will for an artifact: bounded in time, bytes and trust."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field

import pytest
from tests.support.certificates import TestAuthority
from tests.support.patience import patience
from tests.support.peer_zones import ENTERPRISE, Pki, RealClock, policy, receiver_access

from bsfg.errors import ArtifactCorrupt, BsfgError, Code, PeerRefused, PeerUnreachable
from bsfg.model.artifact import ArtifactReference, parse_artifact_uri
from bsfg.model.identity import IdentityRule
from bsfg.transport.access import Access
from bsfg.transport.artifact_client import HttpArtifactClient, Pace
from bsfg.transport.client_connection import ClientLimits, PeerEndpoint

URI = parse_artifact_uri("s3://enterprise-bsfg-artifacts/batch-files/2025/ü 1+1=2&x;.json")
BYTES = bytes(range(256)) * 40
SHA256 = hashlib.sha256(BYTES).hexdigest()
REFERENCE = ArtifactReference(URI, SHA256, len(BYTES), "application/json")
LIMITS = ClientLimits(connect_seconds=2, silence_seconds=0.6, answer_seconds=5.0)
PACE = Pace(bytes_per_second_min=2_000, window_seconds=0.5)

Behaviour = Callable[[asyncio.StreamWriter, str], Awaitable[None]]


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki(tmp_path_factory.mktemp("pki"))


@dataclass
class Asked:
    """The request heads that came, and how many connections."""

    heads: list[str] = field(default_factory=list)
    connections: int = 0

    @property
    def ranges(self) -> list[str | None]:
        lines = [dict(line.split(": ", 1) for line in head.splitlines()[1:] if line) for head in self.heads]
        return [line.get("Range") for line in lines]


@asynccontextmanager
async def serving(context: ssl.SSLContext, behaviour: Behaviour) -> AsyncIterator[tuple[int, Asked]]:
    """Whoever answers each request like this, on a free port."""
    asked = Asked()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.connections += 1
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                asked.heads.append(head)
                await behaviour(writer, head)
        except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1], asked
    finally:
        server.close()


@asynccontextmanager
async def answered_by(
    pki: Pki, behaviour: Behaviour, redirect_host: str | None = None, access: Access | None = None
) -> AsyncIterator[tuple[HttpArtifactClient, Asked]]:
    async with serving(pki.sender_trust().server_context(), behaviour) as (port, asked):
        endpoint = PeerEndpoint(ENTERPRISE, IdentityRule("enterprise-bsfg"), "127.0.0.1", port)
        client = HttpArtifactClient(
            endpoint,
            access or receiver_access(pki),
            RealClock(),
            LIMITS,
            pace=PACE,
            redirect_host=redirect_host,
        )
        try:
            yield client, asked
        finally:
            await client.close()


def digest_header(content: bytes = BYTES) -> str:
    return f"Digest: sha-256={base64.b64encode(hashlib.sha256(content).digest()).decode()}\r\n"


def head(length: int, status: str = "200 OK", more: str | None = None, kind: str = "text/csv") -> bytes:
    more = digest_header() if more is None else more
    return f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n{more}\r\n".encode()


def saying(answer: bytes, *, then_close: bool = False) -> Behaviour:
    async def behave(writer: asyncio.StreamWriter, _head: str) -> None:
        writer.write(answer)
        await writer.drain()
        if then_close:
            writer.close()

    return behave


def honest(content: bytes = BYTES) -> Behaviour:
    """A peer that has it: HEAD, GET and ranges."""

    async def behave(writer: asyncio.StreamWriter, request: str) -> None:
        start = 0
        if "Range: bytes=" in request:
            start = int(request.split("Range: bytes=")[1].split("-")[0])
        size = len(content)
        if start:
            span = f"Content-Range: bytes {start}-{size - 1}/{size}\r\n"
            writer.write(head(size - start, "206 Partial Content", span + digest_header(content)))
        else:
            writer.write(head(size, more=digest_header(content)))
        if not request.startswith("HEAD"):
            writer.write(content[start:])
        await writer.drain()

    return behave


async def whole(
    client: HttpArtifactClient, start: int = 0, reference: ArtifactReference = REFERENCE
) -> bytes:
    parts = []
    async with aclosing(client.pieces(reference, start)) as pieces:
        async for piece in pieces:
            parts.append(piece)
    return b"".join(parts)


async def error_of(
    pki: Pki, behaviour: Behaviour, start: int = 0, redirect_host: str | None = None
) -> BsfgError:
    async with answered_by(pki, behaviour, redirect_host) as (client, _):
        with pytest.raises(BsfgError) as caught:
            await asyncio.wait_for(whole(client, start), 8)
    assert caught.value.message.isprintable()
    return caught.value


async def test_the_whole_comes_and_the_name_travels_intact(pki: Pki) -> None:
    async with answered_by(pki, honest()) as (client, asked):
        assert await whole(client) == BYTES
        line = asked.heads[0].splitlines()[0]
        assert line.startswith("GET /v1/artifacts?uri=s3://enterprise-bsfg-artifacts/batch-files/2025/")
        assert "%C3%BC" in line and "%26x" in line and "%2B" in line


async def test_the_peer_says_what_it_has(pki: Pki) -> None:
    async with answered_by(pki, honest()) as (client, asked):
        assert await client.describe(URI) == ArtifactReference(URI, SHA256, len(BYTES), "text/csv")
        assert asked.heads[0].startswith("HEAD ")


@pytest.mark.parametrize("start", [1, 5_000, len(BYTES) - 1])
async def test_a_cut_is_resumed_by_range(pki: Pki, start: int) -> None:
    async with answered_by(pki, honest()) as (client, asked):
        assert await whole(client, start) == BYTES[start:]
        assert asked.ranges == [f"bytes={start}-"]


async def test_nothing_is_asked_where_all_is_here(pki: Pki) -> None:
    async with answered_by(pki, honest()) as (client, asked):
        assert await whole(client, len(BYTES)) == b""
        assert asked.heads == []


async def test_an_empty_artifact(pki: Pki) -> None:
    reference = ArtifactReference(URI, hashlib.sha256(b"").hexdigest(), 0)
    async with answered_by(pki, honest(b"")) as (client, _):
        assert await whole(client, reference=reference) == b""


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (404, "artifact_not_found", Code.ARTIFACT_NOT_FOUND),
        (403, "artifact_denied", Code.ARTIFACT_DENIED),
        (503, "partitioned", Code.PARTITIONED),
        (403, "peer_unknown", Code.PEER_UNKNOWN),
    ],
)
@pytest.mark.parametrize("asks", ["describe", "pieces"])
async def test_a_refusal_is_the_peers_own_word(
    pki: Pki, status: int, code: str, expected: Code, asks: str
) -> None:
    body = f'{{"error": {{"code": "{code}", "message": "no"}}}}'.encode()

    async def refuse(writer: asyncio.StreamWriter, request: str) -> None:
        writer.write(head(len(body), f"{status} X", "", "application/json"))
        if not request.startswith("HEAD"):
            writer.write(body)
        await writer.drain()

    async with answered_by(pki, refuse) as (client, _):
        with pytest.raises(PeerRefused) as caught:
            await (client.describe(URI) if asks == "describe" else whole(client))
    assert caught.value.code is expected


async def test_an_endless_error(pki: Pki) -> None:
    async def endless(writer: asyncio.StreamWriter, _request: str) -> None:
        writer.write(b"HTTP/1.1 404 X\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
        while not writer.is_closing():
            writer.write(b"10000\r\n" + b"x" * 65536 + b"\r\n")
            await writer.drain()
            await asyncio.sleep(0)

    assert (await error_of(pki, endless)).code is Code.BAD_ANSWER


@pytest.mark.parametrize("length", [0, 1, len(BYTES) - 1, len(BYTES) + 1, 2**60])
async def test_a_wrong_length_is_another_artifact_before_a_byte_is_taken(pki: Pki, length: int) -> None:
    error = await error_of(pki, saying(head(length)))
    assert isinstance(error, ArtifactCorrupt)
    assert error.details["expected_sha256"] == SHA256


async def test_a_swapped_object_is_told_by_its_own_digest(pki: Pki) -> None:
    other = bytes(len(BYTES))
    error = await error_of(pki, honest(other))
    assert isinstance(error, ArtifactCorrupt)
    assert error.details["sha256"] == hashlib.sha256(other).hexdigest()


async def test_one_swapped_between_two_transfers_too(pki: Pki) -> None:
    assert isinstance(await error_of(pki, honest(bytes(len(BYTES))), start=100), ArtifactCorrupt)
    assert isinstance(await error_of(pki, honest(BYTES + b"x"), start=100), ArtifactCorrupt)


async def test_one_that_became_shorter_than_what_is_here(pki: Pki) -> None:
    error = await error_of(pki, saying(head(0, "416 Range Not Satisfiable", "")), start=100)
    assert isinstance(error, ArtifactCorrupt)


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n" + digest_header().encode() + b"\r\n", "how long"),
        (b"HTTP/1.1 200 OK\r\n" + digest_header().encode() + b"\r\n", "how long"),
        (head(len(BYTES), more="Digest: sha-256=AAAA\r\n"), "no sha-256"),
        (head(len(BYTES), more="Digest: sha-256=%%%%\r\n"), "no sha-256"),
        (head(len(BYTES), more=f"Digest: sha-256={SHA256}\r\n"), "no sha-256"),
        (head(len(BYTES), more="Content-Encoding: gzip\r\n"), "gzip"),
        (head(len(BYTES), "206 Partial Content"), "206"),
        (head(len(BYTES), "302 Found", "Location: https://127.0.0.1:1/\r\n"), "artifact_redirect_host"),
        (head(99999999999999999999), "HTTP"),
        (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", "HTTP"),
    ],
)
async def test_an_answer_that_breaks_the_contract(pki: Pki, answer: bytes, word: str) -> None:
    error = await error_of(pki, saying(answer, then_close=True))
    assert (error.code, word in error.message) == (Code.BAD_ANSWER, True), error.message


@pytest.mark.parametrize(
    "span",
    [
        "",
        "Content-Range: bytes 99-10239/10240\r\n",
        "Content-Range: bytes 100-10238/10240\r\n",
        "Content-Range: bytes 100-10239/*\r\n",
        "Content-Range: bytes 10239-100/10240\r\n",
    ],
)
async def test_a_range_that_was_not_asked_for(pki: Pki, span: str) -> None:
    answer = head(len(BYTES) - 100, "206 Partial Content", span + digest_header())
    error = await error_of(pki, saying(answer + BYTES[100:]), start=100)
    assert error.code is Code.BAD_ANSWER


async def test_a_peer_that_does_not_give_ranges(pki: Pki) -> None:
    error = await error_of(pki, saying(head(len(BYTES)) + BYTES), start=100)
    assert (error.code, "206" in error.message) == (Code.BAD_ANSWER, True)


@pytest.mark.parametrize("came", [0, 1, 5_000, len(BYTES) - 1])
async def test_a_cut_at_any_byte_keeps_what_came(pki: Pki, came: int) -> None:
    taken = 0
    async with answered_by(pki, saying(head(len(BYTES)) + BYTES[:came], then_close=True)) as (client, _):
        with pytest.raises(PeerUnreachable) as caught:
            async with aclosing(client.pieces(REFERENCE, 0)) as pieces:
                async for piece in pieces:
                    taken += len(piece)
    assert taken == came
    assert caught.value.details["reason"] == "reset"


async def test_a_few_bytes_now_and_then_are_given_up(pki: Pki) -> None:
    async def drip(writer: asyncio.StreamWriter, _request: str) -> None:
        writer.write(head(len(BYTES)))
        for byte in BYTES:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0.05)

    began = time.monotonic()
    error = await error_of(pki, drip)
    assert isinstance(error, PeerUnreachable) and error.details["reason"] == "slow"
    assert time.monotonic() - began < 2.0


async def test_a_steady_peer_is_never_given_up(pki: Pki) -> None:
    """Every window ends in the middle of a wait, and nothing of what comes just then is lost."""
    content = bytes(range(256)) * 400

    async def steady(writer: asyncio.StreamWriter, _request: str) -> None:
        writer.write(head(len(content), more=""))
        for start in range(0, len(content), 2_048):
            writer.write(content[start : start + 2_048])
            await writer.drain()
            await asyncio.sleep(0.03)

    reference = ArtifactReference(URI, SHA256, len(content))
    async with answered_by(pki, steady) as (client, _):
        assert await whole(client, reference=reference) == content


async def test_silence_in_the_middle_is_given_up(pki: Pki) -> None:
    async def silent(writer: asyncio.StreamWriter, _request: str) -> None:
        writer.write(head(len(BYTES)) + BYTES[:100])
        await writer.drain()
        await asyncio.sleep(30)

    began = time.monotonic()
    assert isinstance(await error_of(pki, silent), PeerUnreachable)
    assert time.monotonic() - began < 2.0


async def test_time_that_we_take_ourselves_makes_no_peer_slow(pki: Pki) -> None:
    content = bytes(4 * 1024 * 1024)
    reference = ArtifactReference(URI, hashlib.sha256(content).hexdigest(), len(content))
    came = 0
    async with answered_by(pki, honest(content)) as (client, _), aclosing(client.pieces(reference, 0)) as pieces:
        async for piece in pieces:
            came += len(piece)
            await asyncio.sleep(0.4)
    assert came == len(content)


async def test_a_peer_is_read_no_faster_than_pieces_are_taken(pki: Pki) -> None:
    sent = 0

    async def flood(writer: asyncio.StreamWriter, _request: str) -> None:
        nonlocal sent
        writer.write(head(2**40, more=""))
        while not writer.is_closing():
            writer.write(bytes(65536))
            await writer.drain()
            await asyncio.sleep(0)
            sent += 65536

    reference = ArtifactReference(URI, SHA256, 2**40)
    async with answered_by(pki, flood) as (client, _), aclosing(client.pieces(reference, 0)) as pieces:
        await anext(pieces)
        await asyncio.sleep(0.5)
        assert sent < 32 * 1024 * 1024


async def test_a_peer_that_loses_its_standing_loses_the_transfer(pki: Pki) -> None:
    async def steady(writer: asyncio.StreamWriter, _request: str) -> None:
        writer.write(head(2**40, more=""))
        while not writer.is_closing():
            writer.write(bytes(65536))
            await writer.drain()
            await asyncio.sleep(0.01)

    access = receiver_access(pki)
    reference = ArtifactReference(URI, SHA256, 2**40)
    async with answered_by(pki, steady, access=access) as (client, _):
        async with aclosing(client.pieces(reference, 0)) as pieces:
            await anext(pieces)
            access.swap(policies={})
            with pytest.raises(PeerUnreachable) as caught:
                async with asyncio.timeout(3 * patience()):
                    async for _ in pieces:
                        pass
        assert caught.value.details["reason"] == "reloading"
        with pytest.raises(BsfgError) as refused:
            await whole(client)
        assert refused.value.code is Code.PEER_UNKNOWN
        access.swap(policies={ENTERPRISE: policy((), ENTERPRISE)})


# Redirects.


def store_context(authority: TestAuthority) -> ssl.SSLContext:
    issued = authority.zone("objects.example")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(issued.certificate_path, issued.key_path)
    return context


def sending_to(location: str) -> Behaviour:
    return saying(head(0, "307 X", f"Location: {location}\r\n" + digest_header()))


@pytest.mark.parametrize("start", [0, 100])
async def test_a_redirect_to_the_configured_host_is_followed_without_our_certificate(pki: Pki, start: int) -> None:
    async with serving(store_context(pki.enterprise_ca), honest()) as (port, asked):
        host = f"127.0.0.1:{port}"
        async with answered_by(pki, sending_to(f"https://{host}/b/k?X-Sig=a%2Fb"), host) as (client, _):
            assert await whole(client, start) == BYTES[start:]
    assert asked.heads[0].startswith("GET /b/k?X-Sig=a%2Fb ")
    assert asked.ranges == [f"bytes={start}-" if start else None]


async def test_a_store_that_is_not_trusted_gets_no_request(pki: Pki, tmp_path_factory: pytest.TempPathFactory) -> None:
    stranger = TestAuthority(tmp_path_factory.mktemp("stranger"), "stranger CA")
    async with serving(store_context(stranger), honest()) as (port, asked):
        host = f"127.0.0.1:{port}"
        error = await error_of(pki, sending_to(f"https://{host}/"), redirect_host=host)
    assert isinstance(error, PeerUnreachable) and "object store" in error.message
    assert asked.heads == []


@pytest.mark.parametrize(
    "location",
    [
        "http://objects.example/b/k",
        "https://objects.example.evil/b/k",
        "https://evil/objects.example",
        "https://objects.example:444/b/k",
        "https://user@objects.example/b/k",
        "https://user:word@objects.example/b/k",
        "//objects.example/b/k",
        "/b/k",
        "file:///etc/passwd",
        "https://[::1/b",
        "",
        "https://objects.example/" + "x" * 7_900,
    ],
)
async def test_a_redirect_elsewhere_is_refused_and_nothing_is_dialled(pki: Pki, location: str) -> None:
    error = await error_of(pki, sending_to(location), redirect_host="objects.other")
    assert error.code is Code.BAD_ANSWER
    if "objects.example:" not in location and "evil" not in location and "x" * 99 not in location:
        error = await error_of(pki, sending_to(location), redirect_host="objects.example")
        assert error.code is Code.BAD_ANSWER


async def test_a_second_redirect_is_refused(pki: Pki) -> None:
    async with serving(store_context(pki.enterprise_ca), sending_to("https://127.0.0.1:1/")) as (port, _):
        host = f"127.0.0.1:{port}"
        error = await error_of(pki, sending_to(f"https://{host}/"), redirect_host=host)
    assert (error.code, "307" in error.message) == (Code.BAD_ANSWER, True)


async def test_an_object_store_without_it(pki: Pki) -> None:
    async with serving(store_context(pki.enterprise_ca), saying(head(0, "404 X", ""))) as (port, _):
        host = f"127.0.0.1:{port}"
        error = await error_of(pki, sending_to(f"https://{host}/"), redirect_host=host)
    assert error.code is Code.ARTIFACT_NOT_FOUND
