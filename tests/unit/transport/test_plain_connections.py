"""Held polls and answers of many pages have connections of our own; all that is unusual goes the ordinary way."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import pytest
from tests.support.patience import patience
from tests.support.peer_zones import ENTERPRISE, OPERATIONAL, Pki, RealClock, receiver_access

from bsfg.errors import BsfgError, Code, PeerRefused, PeerUnreachable
from bsfg.model.cursor import parse_init_mode
from bsfg.model.fact import Fact
from bsfg.model.identity import IdentityRule
from bsfg.model.page import Agreement, FetchRequest, Page, PageLimits
from bsfg.transport.answer_head import HEAD_BYTES_MAX, HEADERS_MAX, Head, parse_head
from bsfg.transport.client import HttpPeerClient
from bsfg.transport.client_connection import ClientLimits, PeerEndpoint
from bsfg.transport.compression import compress
from bsfg.transport.page_codec import BINARY_TYPE, encode, frame_bytes_max

LIMITS = ClientLimits(connect_seconds=2, silence_seconds=0.4, answer_seconds=0.8)
PAGE = Page(OPERATIONAL, "e1", Agreement.EPOCH, 1, 1, 1, 0, 5, None, [Fact(1, OPERATIONAL, 5, b"", b"x")])
BODY = encode(PAGE)
LOOK = FetchRequest(OPERATIONAL, PageLimits(facts=10, bytes=1), start=parse_init_mode("full_backfill"))
POLL = FetchRequest(OPERATIONAL, PageLimits(facts=10, bytes=1, wait_seconds=0.2), start=LOOK.start)
PLAIN = (
    f"HTTP/1.1 200 OK\r\nContent-Type: {BINARY_TYPE}\r\nContent-Length: {len(BODY)}\r\n\r\n".encode() + BODY
)

Say = Callable[[asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki(tmp_path_factory.mktemp("pki"))


def saying(*pieces: bytes, pause: float = 0.0, closes: bool = False) -> Say:
    async def say(writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause)
        if closes:
            writer.close()

    return say


@dataclass
class Peer:
    """A peer that answers each request as it is told to, and plainly when it is told nothing."""

    says: list[Say] = field(default_factory=list)
    asked_on: list[int] = field(default_factory=list)
    """For each request, which connection it came on."""
    open: set[int] = field(default_factory=set)
    _connections: int = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        number = self._connections
        self.open.add(number)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(
                    line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")
                )
                await reader.readexactly(int(length.split(b":")[1]))
                self.asked_on.append(number)
                say = self.says.pop(0) if self.says else saying(PLAIN)
                await say(writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.open.discard(number)
            writer.close()


@asynccontextmanager
async def asking(pki: Pki, *says: Say, limits: ClientLimits = LIMITS) -> AsyncIterator[tuple[HttpPeerClient, Peer]]:
    """A client that has had one ordinary answer, and a peer that goes on like this."""
    peer = Peer([saying(PLAIN), *says])
    server = await asyncio.start_server(peer.serve, "127.0.0.1", 0, ssl=pki.sender_trust().server_context())
    endpoint = PeerEndpoint(
        ENTERPRISE, IdentityRule("enterprise-bsfg"), "127.0.0.1", server.sockets[0].getsockname()[1]
    )
    client = HttpPeerClient(endpoint, receiver_access(pki), RealClock(), limits)
    try:
        assert await client.fetch(LOOK) == PAGE
        yield client, peer
    finally:
        await client.close()
        server.close()


async def test_polls_have_a_connection_of_their_own_and_keep_it(pki: Pki) -> None:
    async with asking(pki) as (client, peer):
        for _ in range(3):
            assert await client.fetch(POLL) == PAGE
        assert await client.fetch(LOOK) == PAGE
        assert peer.asked_on == [1, 2, 2, 2, 1]


async def test_polls_at_the_same_time_have_one_each(pki: Pki) -> None:
    slow = saying(PLAIN)

    async def later(writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.1)
        await slow(writer)

    async with asking(pki, *[later] * 6) as (client, peer):
        for _ in range(2):
            assert await asyncio.gather(*[client.fetch(POLL) for _ in range(3)]) == [PAGE] * 3
        assert sorted(peer.asked_on) == [1, 2, 2, 3, 3, 4, 4]


async def test_an_answer_in_many_pieces_is_put_together(pki: Pki) -> None:
    pieces = [PLAIN[at : at + 7] for at in range(0, len(PLAIN), 7)]
    async with asking(pki, saying(*pieces, pause=0.001)) as (client, peer):
        assert await client.fetch(POLL) == PAGE
        assert peer.asked_on == [1, 2]


async def test_a_refusal_is_the_peers_own(pki: Pki) -> None:
    body = b'{"error": {"code": "stream_denied", "message": "no", "request_id": "r1"}}'
    head = f"HTTP/1.1 403 Forbidden\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    async with asking(pki, saying(head.encode() + body)) as (client, peer):
        with pytest.raises(PeerRefused) as caught:
            await client.fetch(POLL)
        assert (caught.value.code, peer.asked_on) == (Code.STREAM_DENIED, [1, 2])


CHUNKED = (
    f"HTTP/1.1 200 OK\r\nContent-Type: {BINARY_TYPE}\r\nTransfer-Encoding: chunked\r\n\r\n{len(BODY):x}\r\n".encode()
    + BODY
    + b"\r\n0\r\n\r\n"
)
UNUSUAL = {
    "chunked": saying(CHUNKED),
    "no HTTP": saying(b"\x00" * 100),
    "more than its length": saying(PLAIN + b"and more"),
    "a longer length than is read": saying(PLAIN.replace(str(len(BODY)).encode(), b"99999999")),
    "a head without an end": saying(b"HTTP/1.1 200 OK\r\nX: " + b"x" * HEAD_BYTES_MAX),
    "closed at once": saying(closes=True),
    "closed in the head": saying(PLAIN[:20], closes=True),
    "closed in the body": saying(PLAIN[:-1], closes=True),
}


@pytest.mark.parametrize("say", UNUSUAL.values(), ids=list(UNUSUAL))
async def test_whatever_is_out_of_the_ordinary_is_asked_again_the_ordinary_way(pki: Pki, say: Say) -> None:
    async with asking(pki, say) as (client, peer):
        began = time.monotonic()
        assert await client.fetch(POLL) == PAGE
        assert peer.asked_on == [1, 2, 1] and time.monotonic() - began < 0.3
        await asyncio.sleep(0.05)
        assert peer.open == {1}, "what answered so is closed"
        assert await client.fetch(POLL) == PAGE
        assert peer.asked_on[3:] == [3], "and it is tried again once the peer has answered"


async def test_a_redirect_is_not_followed(pki: Pki) -> None:
    moved = b"HTTP/1.1 302 Found\r\nLocation: https://elsewhere/\r\nContent-Length: 0\r\n\r\n"
    async with asking(pki, saying(moved)) as (client, _):
        with pytest.raises(BsfgError) as caught:
            await client.fetch(POLL)
        assert caught.value.code is Code.BAD_ANSWER


@pytest.mark.parametrize(
    ("say", "seconds"),
    [(saying(), 0.6), (saying(PLAIN[:30], pause=5), 0.8), (saying(PLAIN[:-1], pause=5), 0.8)],
    ids=["says nothing", "stops in the head", "stops in the body"],
)
async def test_a_silent_peer_is_given_up_in_time_and_named(pki: Pki, say: Say, seconds: float) -> None:
    async def hangs(writer: asyncio.StreamWriter) -> None:
        await say(writer)
        await asyncio.sleep(5)

    async with asking(pki, hangs) as (client, peer):
        began = time.monotonic()
        with pytest.raises(PeerUnreachable) as caught:
            await client.fetch(POLL)
        took = time.monotonic() - began
        assert seconds - 0.1 < took < seconds + 0.4
        assert caught.value.details["reason"] == "timeout"
        assert peer.asked_on == [1, 2]


async def test_polls_that_wait_for_different_times_are_each_given_up_in_their_own(pki: Pki) -> None:
    async def hangs(writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(5)

    async def given_up(client: HttpPeerClient, wait_seconds: float) -> float:
        began = time.monotonic()
        with pytest.raises(PeerUnreachable):
            await client.fetch(replace(POLL, limits=replace(POLL.limits, wait_seconds=wait_seconds)))
        return time.monotonic() - began

    async with asking(pki, saying(PLAIN), *[hangs] * 3) as (client, _):
        await client.fetch(replace(POLL, limits=replace(POLL.limits, wait_seconds=3.0)))
        waits = (1.2, 0.2, 0.7)
        took = await asyncio.gather(*[given_up(client, wait_seconds) for wait_seconds in waits])
        late = [seconds - wait - LIMITS.silence_seconds for seconds, wait in zip(took, waits, strict=True)]
        assert all(-0.1 < each < 0.4 * patience() for each in late), late


async def test_closing_ends_held_polls_and_leaves_nothing_open(pki: Pki) -> None:
    async def hangs(writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.3)
        writer.close()

    async with asking(pki, saying(PLAIN), hangs) as (client, peer):
        await client.fetch(POLL)
        polling = asyncio.create_task(client.fetch(POLL))
        await asyncio.sleep(0.05)
        await client.close()
        with pytest.raises(PeerUnreachable):
            await asyncio.wait_for(polling, 0.1)
        await asyncio.sleep(0.4)
        assert peer.open == set()


async def test_words_that_nobody_asked_for_close_the_connection(pki: Pki) -> None:
    async def talks(writer: asyncio.StreamWriter) -> None:
        writer.write(PLAIN)
        await asyncio.sleep(0.05)
        writer.write(PLAIN)

    async with asking(pki, talks) as (client, peer):
        assert await client.fetch(POLL) == PAGE
        await asyncio.sleep(0.15)
        assert peer.open == {1}
        assert await client.fetch(POLL) == PAGE
        assert peer.asked_on == [1, 2, 3]


async def test_a_poll_that_is_given_up_takes_its_connection_along(pki: Pki) -> None:
    async def hangs(writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.15)

    async with asking(pki, hangs) as (client, peer):
        polling = asyncio.create_task(client.fetch(POLL))
        await asyncio.sleep(0.05)
        polling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await polling
        await asyncio.sleep(0.3)
        assert peer.open == {1}
        assert await client.fetch(POLL) == PAGE


NEXT = replace(
    PAGE,
    start_sequence=2,
    scanned_through=2,
    head=2,
    facts=[Fact(2, OPERATIONAL, 5, b"", b"y")],
    agreement=Agreement.EXACT,
)
TWO = BODY + encode(NEXT)


def chunks(*contents: bytes) -> bytes:
    sent = b"".join(b"%x\r\n%b\r\n" % (len(content), content) for content in contents)
    return f"HTTP/1.1 200 OK\r\nContent-Type: {BINARY_TYPE}\r\nTransfer-Encoding: chunked\r\n\r\n".encode() + sent


def with_length(content: bytes, status: str = "200 OK", content_type: str = BINARY_TYPE) -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\nContent-Length: {len(content)}\r\n\r\n"
    return head.encode() + content


END = b"0\r\n\r\n"


async def pages_of(client: HttpPeerClient, count: int = 4) -> list[Page]:
    return [page async for page in client.pages(LOOK, count)]


@pytest.mark.parametrize(
    "answer", [chunks(TWO) + END, chunks(TWO[:9], TWO[9:60], TWO[60:]) + END, with_length(TWO)]
)
@pytest.mark.parametrize("size", [1, 10_000])
async def test_answers_of_many_pages_share_a_connection_of_our_own(pki: Pki, answer: bytes, size: int) -> None:
    pieces = [answer[at : at + size] for at in range(0, len(answer), size)]
    async with asking(pki, saying(*pieces), saying(answer), saying(PLAIN), saying(answer)) as (client, peer):
        for _ in range(2):
            assert await pages_of(client) == [PAGE, NEXT]
        assert await client.fetch(POLL) == PAGE
        assert await pages_of(client) == [PAGE, NEXT]
        assert peer.asked_on == [1, 2, 2, 2, 2]


async def test_the_first_answer_of_many_pages_goes_the_ordinary_way_and_proves_the_peer(pki: Pki) -> None:
    async with asking(pki, saying(closes=True), *[saying(chunks(TWO) + END)] * 2) as (client, peer):
        for _ in range(2):
            assert await pages_of(client) == [PAGE, NEXT]
        assert peer.asked_on == [1, 2, 1, 3]


async def test_pages_are_given_as_they_come(pki: Pki) -> None:
    has_come = asyncio.Event()

    async def slowly(writer: asyncio.StreamWriter) -> None:
        writer.write(chunks(BODY))
        await writer.drain()
        await has_come.wait()
        writer.write(chunks(encode(NEXT)).partition(b"\r\n\r\n")[2] + END)

    async with asking(pki, slowly) as (client, peer):
        pages = client.pages(LOOK, 4)
        assert await anext(pages) == PAGE
        has_come.set()
        assert await anext(pages) == NEXT
        assert [page async for page in pages] == []
        assert peer.asked_on == [1, 2]


async def test_the_answer_is_read_no_faster_than_pages_are_taken(pki: Pki) -> None:
    fact = Fact(1, OPERATIONAL, 5, b"", bytes(600_000))
    large = encode(replace(PAGE, facts=[fact]))
    has_sent = asyncio.Event()

    async def pouring(writer: asyncio.StreamWriter) -> None:
        writer.write(chunks(large))
        for _ in range(60):
            writer.write(chunks(large).partition(b"\r\n\r\n")[2])
            await writer.drain()
        has_sent.set()

    async with asking(pki, pouring) as (client, peer):
        pages = client.pages(replace(LOOK, limits=PageLimits(facts=10, bytes=1_000_000)), 100)
        assert (await anext(pages)).facts == [fact]
        await asyncio.sleep(0.6)
        assert not has_sent.is_set()
        assert peer.asked_on == [1, 2]
        await pages.aclose()
        await asyncio.sleep(0.05)
        assert peer.open == {1}, "what is not read to its end is closed"


@pytest.mark.parametrize(
    ("answer", "came", "says"),
    [
        (chunks(TWO), 2, "before the answer was complete"),
        (chunks(TWO[:-1]), 1, "before the answer was complete"),
        (chunks(TWO[:-1]) + END, 1, "before the answer was complete"),
        (with_length(TWO)[:-1], 1, "before the answer was complete"),
        (chunks(BODY, BODY) + END, 1, "breaks the contract"),
        (chunks(BODY, b"garbage of any kind at all") + END, 1, "does not begin as a binary page"),
        (chunks(BODY + TWO[:8] + b"\xff\xff\xff\xff" + b"\0" * 4), 1, "more than may come"),
        (chunks(BODY) + b"what?", 1, "not well-formed HTTP"),
        (chunks(TWO, encode(NEXT)) + END, 2, "breaks the contract"),
        (with_length(b"[]", content_type="application/json"), 0, "of type 'application/json'"),
    ],
)
async def test_what_came_whole_is_given_and_the_rest_is_named(
    pki: Pki, answer: bytes, came: int, says: str
) -> None:
    async with asking(pki, saying(answer, closes=True), saying(chunks(TWO) + END)) as (client, peer):
        pages: list[Page] = []
        with pytest.raises(BsfgError) as caught:
            async for page in client.pages(LOOK, 4):
                pages.append(page)
        assert pages == [PAGE, NEXT][:came]
        assert says in caught.value.message
        assert peer.asked_on == [1, 2]
        assert await pages_of(client) == [PAGE, NEXT]


async def test_after_a_failure_the_next_question_goes_the_ordinary_way(pki: Pki) -> None:
    async with asking(pki, saying(chunks(BODY), closes=True), saying(chunks(TWO) + END)) as (client, peer):
        with pytest.raises(PeerUnreachable):
            await pages_of(client)
        assert await pages_of(client) == [PAGE, NEXT]
        assert peer.asked_on == [1, 2, 1]


@pytest.mark.parametrize("answer", [chunks() + END, with_length(b"")])
async def test_an_answer_without_a_page(pki: Pki, answer: bytes) -> None:
    async with asking(pki, saying(answer), saying(chunks(TWO) + END)) as (client, peer):
        with pytest.raises(BsfgError, match="no page"):
            await pages_of(client)
        assert await pages_of(client) == [PAGE, NEXT]
        assert peer.asked_on == [1, 2, 2]


async def test_a_refusal_of_many_pages_is_the_peers_own(pki: Pki) -> None:
    body = b'{"error": {"code": "stream_denied", "message": "no", "request_id": "r1"}}'
    refusing = saying(with_length(body, "403 Forbidden", "application/json"))
    async with asking(pki, refusing, saying(chunks(TWO) + END)) as (client, peer):
        with pytest.raises(PeerRefused) as caught:
            await pages_of(client)
        assert caught.value.code is Code.STREAM_DENIED
        assert await pages_of(client) == [PAGE, NEXT]
        assert peer.asked_on == [1, 2, 2]


UNUSUAL_FOR_MANY = {
    "no HTTP": saying(b"\x00" * 100),
    "another framing": saying(chunks(TWO).replace(b": chunked", b": gzip, chunked") + END),
    "closed at once": saying(closes=True),
    "closed in the head": saying(chunks(TWO)[:20], closes=True),
    "a long refusal": saying(with_length(b" " * 70_000, "403 Forbidden", "application/json")),
    "a refusal in chunks": saying((chunks(b"{}") + END).replace(b"200 OK", b"403 Forbidden")),
}


@pytest.mark.parametrize("say", UNUSUAL_FOR_MANY.values(), ids=list(UNUSUAL_FOR_MANY))
async def test_an_unusual_answer_of_many_pages_is_asked_again_the_ordinary_way(pki: Pki, say: Say) -> None:
    async with asking(pki, say, saying(chunks(TWO) + END)) as (client, peer):
        assert await pages_of(client) == [PAGE, NEXT]
        assert peer.asked_on == [1, 2, 1]
        await asyncio.sleep(0.05)
        assert peer.open == {1}


async def test_compressed_pages_go_the_ordinary_way(pki: Pki) -> None:
    answer = chunks(compress(BODY), compress(encode(NEXT))).replace(b"\r\n", b"\r\nContent-Encoding: zstd\r\n", 1)
    async with asking(pki, saying(answer + END)) as (client, peer):
        pages = client.pages(replace(LOOK, is_compressible=True), 4)
        assert [page async for page in pages] == [PAGE, NEXT]
        assert peer.asked_on == [1, 1]


@pytest.mark.parametrize("answer", [b"", chunks(TWO)[:30], chunks(BODY), chunks(TWO[:-1])])
async def test_a_peer_that_stops_within_many_pages_is_given_up_in_time(pki: Pki, answer: bytes) -> None:
    async def hangs(writer: asyncio.StreamWriter) -> None:
        writer.write(answer)
        await writer.drain()
        await asyncio.sleep(5)

    async with asking(pki, hangs, limits=replace(LIMITS, answer_seconds=30)) as (client, peer):
        began = time.monotonic()
        with pytest.raises(PeerUnreachable) as caught:
            await pages_of(client)
        assert caught.value.details["reason"] == "timeout"
        assert time.monotonic() - began < 0.8 + 0.4 * patience()
        assert peer.asked_on == [1, 2]


async def test_a_page_that_drips_is_given_up_in_the_time_of_an_answer(pki: Pki) -> None:
    async def drips(writer: asyncio.StreamWriter) -> None:
        answer = chunks(encode(replace(PAGE, facts=[Fact(1, OPERATIONAL, 5, b"", bytes(9_000))])))
        head, _, body = answer.partition(b"\r\n\r\n")
        writer.write(head + b"\r\n\r\n")
        for byte in body:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0.02)

    async with asking(pki, drips) as (client, peer):
        began = time.monotonic()
        with pytest.raises(PeerUnreachable):
            await pages_of(client)
        assert time.monotonic() - began < 3 * patience()
        assert peer.asked_on == [1, 2]


async def test_a_connection_that_brought_pages_is_given_up_like_any_other(pki: Pki) -> None:
    async def hangs(writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(5)

    async with asking(pki, saying(chunks(TWO) + END), hangs) as (client, peer):
        assert await pages_of(client) == [PAGE, NEXT]
        with pytest.raises(PeerUnreachable):
            await asyncio.wait_for(client.fetch(POLL), 2 * patience())
        assert peer.asked_on == [1, 2, 2]


async def test_a_connection_that_the_peer_will_close_is_not_asked_again(pki: Pki) -> None:
    closing = chunks(TWO).replace(b"\r\n", b"\r\nConnection: close\r\n", 1) + END
    async with asking(pki, saying(closing), saying(PLAIN)) as (client, peer):
        assert await pages_of(client) == [PAGE, NEXT]
        assert await client.fetch(POLL) == PAGE
        assert peer.asked_on == [1, 2, 3]


@pytest.mark.parametrize("status", ["200 OK", "403 Forbidden"])
async def test_a_poll_with_a_longer_answer_than_its_kind_may_have_is_named(pki: Pki, status: str) -> None:
    content_type = BINARY_TYPE if status == "200 OK" else "application/json"
    long = with_length(b" " * (frame_bytes_max(POLL.limits) + 1), status, content_type)
    async with asking(pki, saying(long)) as (client, peer):
        with pytest.raises(BsfgError, match="more than") as caught:
            await client.fetch(POLL)
        assert caught.value.code is Code.BAD_ANSWER
        assert peer.asked_on == [1, 2]


async def test_pages_in_an_encoding_that_nobody_asked_for_are_refused(pki: Pki) -> None:
    answer = chunks(compress(BODY)).replace(b"\r\n", b"\r\nContent-Encoding: zstd\r\n", 1) + END
    async with asking(pki, saying(answer), saying(answer)) as (client, _):
        with pytest.raises(BsfgError, match="encoded as"):
            await pages_of(client)


async def test_a_slow_peer_that_never_rests_has_the_time_of_an_answer_for_each_page(pki: Pki) -> None:
    async def slowly(writer: asyncio.StreamWriter) -> None:
        for part in (BODY, encode(NEXT)):
            writer.write(chunks(part) if part is BODY else chunks(part).partition(b"\r\n\r\n")[2])
            await asyncio.sleep(0.3)
        writer.write(END)

    async with asking(pki, slowly) as (client, peer):
        assert await pages_of(client) == [PAGE, NEXT]
        assert peer.asked_on == [1, 2]


async def test_closing_ends_an_answer_of_many_pages(pki: Pki) -> None:
    async def hangs(writer: asyncio.StreamWriter) -> None:
        writer.write(chunks(BODY))
        await asyncio.sleep(0.3)

    async with asking(pki, hangs) as (client, peer):
        pages = client.pages(LOOK, 4)
        assert await anext(pages) == PAGE
        waiting = asyncio.create_task(anext(pages))
        await asyncio.sleep(0.05)
        await client.close()
        with pytest.raises(PeerUnreachable):
            await asyncio.wait_for(waiting, 0.2 * patience())
        await asyncio.sleep(0.4)
        assert peer.open == set()


async def test_closing_ends_the_wait_for_many_pages(pki: Pki) -> None:
    async def hangs(writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(0.3)

    async with asking(pki, hangs) as (client, _):
        waiting = asyncio.create_task(pages_of(client))
        await asyncio.sleep(0.1)
        await client.close()
        with pytest.raises(PeerUnreachable):
            await asyncio.wait_for(waiting, 0.2 * patience())


def head(*lines: str, first: str = "HTTP/1.1 200 OK") -> Head | None:
    return parse_head("\r\n".join([first, *lines]).encode("latin-1"))


def test_a_head_of_the_plainest_form() -> None:
    found = head(
        "content-LENGTH: 12", "Content-Type: Application/JSON; charset=utf-8", "Content-Encoding:zstd",
        "Retry-After: 5 ", "Date: today", "Connection: close",
    )  # fmt: skip
    assert found == Head(200, 12, "application/json", "zstd", "5", True)
    assert head("Content-Length: 0", first="HTTP/1.1 503 ") == Head(503, 0, "", "", "", False)
    assert head("Content-Length: 0", first="HTTP/1.1 404") == Head(404, 0, "", "", "", False)
    assert head("Transfer-Encoding: Chunked") == Head(200, None, "", "", "", False)


@pytest.mark.parametrize(
    "lines",
    [
        (),
        ("Content-Length: -1",),
        ("Content-Length: 1e3",),
        ("Content-Length: 1, 1",),
        ("Content-Length: 1", "Content-Length: 1"),
        ("Content-Length: 1", "Transfer-Encoding: chunked"),
        ("Transfer-Encoding: chunked", "Transfer-Encoding: chunked"),
        ("Transfer-Encoding: gzip, chunked",),
        ("Transfer-Encoding: chunked", "Trailer: Digest"),
        ("Content-Length: 1", "Upgrade: h2c"),
        ("Content-Length: 1", "Trailer: Digest"),
        ("Content-Length : 1",),
        ("Content-Length: 1", " folded"),
        ("Content-Length: 1", "no colon"),
        ("Content-Length: 1", "X: \x00"),
        ("Content-Length: 1", "X: caf\xe9"),
        ("Content-Length: 1", *(f"X-{number}: 1" for number in range(HEADERS_MAX))),
    ],
)
def test_any_other_head_is_left_to_the_ordinary_way(lines: tuple[str, ...]) -> None:
    assert head(*lines) is None


@pytest.mark.parametrize(
    "first", ["HTTP/1.0 200 OK", "HTTP/1.1 100 Continue", "HTTP/1.1 2000 OK", "HTTP/2 200", "x"]
)
def test_any_other_status_line_is_left_to_the_ordinary_way(first: str) -> None:
    assert head("Content-Length: 0", first=first) is None
