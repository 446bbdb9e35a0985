"""Pages come out whole, in order and in time, and nothing that is in the stream is ever passed over."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from itertools import count
from pathlib import Path

import pytest
from tests.support.nats import NatsServer, api, create_stream, running_nats
from tests.support.patience import patience

from bsfg.errors import BsfgError, Code, SubstrateUnavailable
from bsfg.model.names import StreamName
from bsfg.model.page import LogSlice, PageLimits
from bsfg.substrates.nats_connection import NatsConnection, NatsTarget
from bsfg.substrates.nats_frames import encode_publish
from bsfg.substrates.page_reader import (
    PageReader,
    last_message,
    message_at,
    message_from,
    stream_state,
)

NOW = PageLimits()
numbers = count(1)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with running_nats(tmp_path_factory.mktemp("nats")) as running:
        yield running


class Log:
    """An exported stream on a real server, with a producer and a reader."""

    def __init__(self, target: NatsTarget, connection: NatsConnection, stream: StreamName) -> None:
        self.connection = connection
        self.stream = stream
        self.physical = stream.replace(".", "_")
        self.reader = PageReader(lambda: NatsConnection.connect(target, name="test"), self.physical, stream)

    async def create(self) -> None:
        await create_stream(self.connection, self.physical, [self.stream, f"{self.stream}.>"])

    async def put(self, payload: bytes, tail: str = "", headers: bytes = b"") -> None:
        answer = await self.connection.request(self.stream + tail, payload, headers=headers)
        assert b'"error"' not in answer.payload

    async def put_many(self, first: int, last: int, size: int = 0) -> None:
        payloads = [b"%d" % number + b"." * size for number in range(first, last + 1)]
        subject = self.stream.encode()
        self.connection.write(b"".join(encode_publish(subject, b"", b"", each) for each in payloads[:-1]))
        await self.put(payloads[-1])

    async def delete(self, *sequences: int) -> None:
        for sequence in sequences:
            await api(self.connection, f"STREAM.MSG.DELETE.{self.physical}", {"seq": sequence})

    async def read_all(self, limits: PageLimits, after: int = 0) -> list[LogSlice]:
        slices = [await self.reader.read(after, limits)]
        while slices[-1].pending:
            slices.append(await self.reader.read(slices[-1].scanned_through, limits))
        return slices


@pytest.fixture
async def log(server: NatsServer) -> AsyncIterator[Log]:
    connection = await NatsConnection.connect(server.target, name="test")
    made = Log(server.target, connection, StreamName(f"facts.test{next(numbers)}"))
    await made.create()
    yield made
    made.reader.close()
    connection.close()


def payloads(slices: list[LogSlice]) -> list[bytes]:
    return [fact.payload for each in slices for fact in each.facts]


def sequences(found: LogSlice) -> list[int]:
    return [fact.sequence for fact in found.facts]


async def test_a_fact_comes_out_as_it_was_put_in(log: Log) -> None:
    await log.put(b"one", ".a.b", b"Trace: 7\r\nNats-Msg-Id: m1\r\nBsfg-Origin: forged\r\n")
    await log.put(b"")
    before = time.time_ns()
    found = await log.reader.read(0, NOW)
    first, second = found.facts
    assert first.subject == f"{log.stream}.a.b"
    assert first.headers == b"Trace: 7\r\nNats-Msg-Id: m1\r\n"
    assert first.payload == b"one"
    assert (second.subject, second.headers, second.payload) == (log.stream, b"", b"")
    assert sequences(found) == [1, 2]
    stored = await message_at(log.connection, log.physical, 1)
    assert stored is not None
    assert stored.time == first.time
    assert before - 10**10 < first.time <= before


async def test_a_payload_that_looks_like_the_protocol_is_only_a_payload(log: Log) -> None:
    nasty = [
        b"\r\nMSG a 1 2\r\nhi\r\n",
        b"NATS/1.0 404 No Messages\r\n\r\n",
        b"-ERR 'x'\r\n",
        bytes(range(256)),
    ]
    for payload in nasty:
        await log.put(payload, headers=b"A: b\r\n")
        await log.put(payload)
    assert payloads([await log.reader.read(0, NOW)]) == [each for each in nasty for _ in range(2)]


async def test_a_message_that_looks_like_a_status_is_a_fact(log: Log) -> None:
    raw = b"NATS/1.0 404 No Messages\r\nA: b\r\n\r\n"
    log.connection.write(b"HPUB %b %d %d\r\n%b\r\n" % (log.stream.encode(), len(raw), len(raw), raw))
    await log.put(b"after")
    odd, following = (await log.reader.read(0, NOW)).facts
    assert (odd.headers, odd.payload, following.payload) == (b"A: b\r\n", b"", b"after")


async def test_ten_thousand_facts_over_many_pages(log: Log) -> None:
    await log.put_many(1, 10_000)
    slices = await log.read_all(PageLimits(facts=700))
    assert payloads(slices) == [b"%d" % number for number in range(1, 10_001)]
    assert [each.scanned_through for each in slices] == [*range(700, 10_000, 700), 10_000]
    assert [each.pending for each in slices] == [10_000 - each.scanned_through for each in slices]
    assert {each.head for each in slices} == {10_000}
    times = [fact.time for each in slices for fact in each.facts]
    assert [each.next_time for each in slices[:-1]] == [times[each.scanned_through] for each in slices[:-1]]
    assert slices[-1].next_time is None


async def test_a_partial_last_page_returns_at_once(log: Log) -> None:
    await log.put_many(1, 5)
    began = time.monotonic()
    found = await log.reader.read(0, PageLimits(facts=3, wait_seconds=5))
    last = await log.reader.read(3, PageLimits(facts=3, wait_seconds=5))
    assert time.monotonic() - began < 0.5
    assert (sequences(found), sequences(last), last.pending) == ([1, 2, 3], [4, 5], 0)


async def test_any_position_can_be_read_at_any_time(log: Log) -> None:
    await log.put_many(1, 20)
    for after in (0, 10, 5, 19, 5, 8, 0):
        found = await log.reader.read(after, PageLimits(facts=3))
        assert sequences(found) == list(range(after + 1, min(after + 3, 20) + 1))
        assert found.pending == 20 - found.scanned_through


async def test_nothing_there_is_level(log: Log) -> None:
    assert await log.reader.read(0, NOW) == LogSlice([], 0, 0, 0, None)
    await log.put_many(1, 3)
    assert await log.reader.read(3, NOW) == LogSlice([], 3, 3, 0, None)


async def test_a_position_beyond_the_log_is_not_moved_and_the_head_says_so(log: Log) -> None:
    await log.put_many(1, 3)
    assert await log.reader.read(7, NOW) == LogSlice([], 7, 3, 0, None)


async def test_a_long_poll_wakes_promptly(log: Log) -> None:
    await log.put_many(1, 2)
    await log.reader.read(0, NOW)
    for number in range(3, 6):
        waiting = asyncio.create_task(log.reader.read(number - 1, PageLimits(wait_seconds=10)))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        began = time.monotonic()
        await log.put(b"new")
        found = await waiting
        assert time.monotonic() - began < 0.5
        assert sequences(found) == [number]
        assert (found.head, found.scanned_through, found.pending) == (number, number, 0)


async def test_a_long_poll_ends_in_time_and_says_how_far_it_saw(log: Log) -> None:
    await log.put_many(1, 4)
    await log.delete(3, 4)
    began = time.monotonic()
    found = await log.reader.read(2, PageLimits(wait_seconds=0.3))
    assert 0.25 < time.monotonic() - began < 1
    assert found == LogSlice([], 4, 4, 0, None)
    await log.put(b"5")
    assert sequences(await log.reader.read(4, NOW)) == [5]


async def test_a_read_that_is_cancelled_leaves_nothing_behind(log: Log) -> None:
    await log.put_many(1, 3)
    for delay in (0, 0.001, 0.002, 0.005, 0.02, 0.05):
        waiting = asyncio.create_task(log.reader.read(3, PageLimits(wait_seconds=10)))
        await asyncio.sleep(delay)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
    await log.put(b"4")
    assert sequences(await log.reader.read(3, NOW)) == [4]
    assert sequences(await log.reader.read(0, NOW)) == [1, 2, 3, 4]


async def test_a_read_that_is_cancelled_gives_its_consumer_back(log: Log) -> None:
    waiting = asyncio.create_task(log.reader.read(0, PageLimits(wait_seconds=10)))
    await asyncio.sleep(0.1)
    assert len((await api(log.connection, f"CONSUMER.NAMES.{log.physical}"))["consumers"]) == 1
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await asyncio.sleep(0.1)
    assert not (await api(log.connection, f"CONSUMER.NAMES.{log.physical}"))["consumers"]


async def test_interior_deletes_are_passed_over(log: Log) -> None:
    await log.put_many(1, 10)
    await log.delete(1, 4, 5, 9)
    slices = await log.read_all(PageLimits(facts=2))
    assert [sequences(each) for each in slices] == [[2, 3], [6, 7], [8, 10]]
    assert [each.pending for each in slices] == [4, 2, 0]
    assert [each.scanned_through for each in slices] == [3, 7, 10]


async def test_a_deleted_tail_is_scanned_but_not_skipped(log: Log) -> None:
    await log.put_many(1, 5)
    await log.delete(4, 5)
    found = await log.reader.read(0, NOW)
    assert (sequences(found), found.scanned_through, found.head, found.pending) == ([1, 2, 3], 3, 5, 0)
    assert await log.reader.read(3, NOW) == LogSlice([], 5, 5, 0, None)
    await log.put(b"6")
    assert sequences(await log.reader.read(5, NOW)) == [6]


async def test_facts_deleted_while_they_are_read_ahead_do_not_stop_the_reader(log: Log) -> None:
    await log.put_many(1, 6)
    await log.reader.read(0, PageLimits(facts=2))
    await log.delete(4, 5, 6)
    rest = await log.read_all(NOW, after=2)
    assert rest[-1].pending == 0
    assert sequences(rest[0])[0] == 3


async def test_a_purge_is_scanned(log: Log) -> None:
    await log.put_many(1, 9)
    await log.reader.read(0, PageLimits(facts=2))
    await api(log.connection, f"STREAM.PURGE.{log.physical}")
    await log.put(b"10")
    found = await log.reader.read(3, NOW)
    assert (sequences(found), found.head) == ([10], 10)
    await api(log.connection, f"STREAM.PURGE.{log.physical}")
    assert await log.reader.read(10, NOW) == LogSlice([], 10, 10, 0, None)
    fresh = await log.reader.read(0, NOW)
    assert fresh == LogSlice([], 10, 10, 0, None)


@pytest.mark.parametrize("facts", [2, 100])
async def test_a_stream_made_again_never_mixes_with_the_old_one(log: Log, facts: int) -> None:
    await log.put_many(1, 9)
    await log.reader.read(0, PageLimits(facts=facts))
    old = log.reader.created
    await api(log.connection, f"STREAM.DELETE.{log.physical}")
    await log.create()
    await log.put_many(101, 105)
    found = await log.reader.read(2, NOW)
    assert [fact.payload for fact in found.facts] == [b"103", b"104", b"105"]
    assert log.reader.created != old
    assert log.reader.created == (await stream_state(log.connection, log.physical)).created


async def test_a_fact_read_ahead_is_not_given_out_for_a_stream_made_again(log: Log) -> None:
    await log.put(b"1")
    await log.put_many(2, 2, size=500)
    await log.reader.read(0, PageLimits(facts=1))
    await api(log.connection, f"STREAM.DELETE.{log.physical}")
    await log.create()
    await log.put_many(101, 102)
    # So few bytes that the fact which was read ahead fills the page, and nothing more is asked of the consumer.
    found = await log.reader.read(1, PageLimits(bytes=100))
    assert [fact.payload for fact in found.facts] == [b"102"]


async def test_a_reader_that_has_stood_there_says_that_its_log_is_the_same(log: Log) -> None:
    await log.put_many(1, 5)
    assert [(await log.reader.read(after, PageLimits(facts=2))).is_continuous for after in (0, 2)] == [False, True]
    assert sequences(await log.reader.read(4, NOW)) == [5]
    waiting = asyncio.create_task(log.reader.read(5, PageLimits(wait_seconds=10)))
    await asyncio.sleep(0.1)
    await log.put(b"6")
    assert (await waiting).is_continuous


async def test_nothing_is_continuous_across_another_start_of_the_server(tmp_path: Path) -> None:
    with running_nats(tmp_path / "nats") as server:
        connection = await NatsConnection.connect(server.target, name="test")
        log = Log(server.target, connection, StreamName("facts.restored"))
        await log.create()
        await log.put_many(1, 4)
        assert not (await log.reader.read(0, PageLimits(facts=1))).is_continuous
        assert (await log.reader.read(1, PageLimits(facts=1))).is_continuous
        server.kill()
        server.start()
        for _ in range(2):
            with contextlib.suppress(SubstrateUnavailable):
                assert not (await log.reader.read(2, PageLimits(facts=1))).is_continuous
                break
        log.reader.close()


async def test_a_fact_read_ahead_alone_proves_nothing_of_its_log(log: Log) -> None:
    await log.put_many(1, 3, size=500)
    await log.reader.read(0, PageLimits(facts=1))
    assert not (await log.reader.read(1, PageLimits(bytes=100))).is_continuous


async def test_a_stream_deleted_under_a_long_poll_is_not_found(log: Log) -> None:
    waiting = asyncio.create_task(log.reader.read(0, PageLimits(wait_seconds=30)))
    await asyncio.sleep(0.1)
    await api(log.connection, f"STREAM.DELETE.{log.physical}")
    async with asyncio.timeout(2 * patience()):
        with pytest.raises(BsfgError) as refused:
            await waiting
    assert refused.value.code is Code.NOT_FOUND


async def test_a_consumer_taken_away_is_made_again(log: Log) -> None:
    await log.put_many(1, 9)
    await log.reader.read(0, PageLimits(facts=2))
    for name in (await api(log.connection, f"CONSUMER.NAMES.{log.physical}"))["consumers"]:
        await api(log.connection, f"CONSUMER.DELETE.{log.physical}.{name}")
    assert sequences(await log.reader.read(2, NOW)) == [3, 4, 5, 6, 7, 8, 9]


async def test_a_fact_larger_than_the_page_comes_alone(log: Log) -> None:
    await log.put(b"a")
    await log.put(b"b" * 50_000)
    await log.put(b"c" * 50_000)
    await log.put(b"d")
    slices = await log.read_all(PageLimits(bytes=1_000))
    assert [sequences(each) for each in slices] == [[1], [2], [3], [4]]
    assert [each.pending for each in slices] == [3, 2, 1, 0]
    assert all(each.next_time for each in slices[:-1])


async def test_a_page_keeps_to_its_bytes(log: Log) -> None:
    await log.put_many(1, 200, size=1_000)
    slices = await log.read_all(PageLimits(bytes=20_000))
    assert [fact.sequence for each in slices for fact in each.facts] == list(range(1, 201))
    assert max(sum(len(fact.payload) for fact in each.facts) for each in slices) <= 20_000
    assert len(slices) < 20


async def test_a_page_of_one_fact(log: Log) -> None:
    await log.put_many(1, 4)
    assert [sequences(each) for each in await log.read_all(PageLimits(facts=1))] == [[1], [2], [3], [4]]


async def test_a_subject_that_is_not_text_stops_nothing(log: Log) -> None:
    subject = log.stream.encode() + b".\xff\xfe"
    log.connection.write(encode_publish(subject, b"", b"", b"odd"))
    await log.put(b"next")
    odd, following = (await log.reader.read(0, NOW)).facts
    assert odd.subject == log.stream + ".\\xff\\xfe"
    assert (odd.payload, following.payload) == (b"odd", b"next")


async def test_a_foreign_subject_in_the_stream_is_not_let_out(server: NatsServer, log: Log) -> None:
    await create_stream(log.connection, f"{log.physical}_x", [f"{log.stream}x.>"])
    await log.connection.request(f"{log.stream}x.secret", b"secret")
    reader = PageReader(
        lambda: NatsConnection.connect(server.target, name="test"), f"{log.physical}_x", log.stream
    )
    with pytest.raises(BsfgError, match="foreign subject") as refused:
        await reader.read(0, NOW)
    assert refused.value.code is Code.INTERNAL
    reader.close()


async def test_a_missing_stream_is_not_found(server: NatsServer) -> None:
    reader = PageReader(
        lambda: NatsConnection.connect(server.target, name="test"), "none", StreamName("none")
    )
    with pytest.raises(BsfgError) as refused:
        await reader.read(0, NOW)
    assert refused.value.code is Code.NOT_FOUND
    reader.close()


async def test_a_store_that_is_away_is_unavailable_and_comes_back(tmp_path: Path) -> None:
    with running_nats(tmp_path / "nats") as server:
        connection = await NatsConnection.connect(server.target, name="test")
        log = Log(server.target, connection, StreamName("facts.away"))
        await log.create()
        await log.put_many(1, 3)
        await log.reader.read(0, PageLimits(facts=1))
        waiting = asyncio.create_task(log.reader.read(3, PageLimits(wait_seconds=10)))
        await asyncio.sleep(0.1)
        server.kill()
        with pytest.raises(SubstrateUnavailable):
            await waiting
        with pytest.raises(SubstrateUnavailable):
            await log.reader.read(1, NOW)
        server.start()
        assert sequences(await log.reader.read(1, NOW)) == [2, 3]
        log.reader.close()


# -- a server that loses a message on the way, as a cluster's route may


@contextlib.asynccontextmanager
async def losing(target_port: int, marker: bytes) -> AsyncIterator[int]:
    """A way to the server that drops the first message with this payload, and nothing else; gives its port."""
    lost = False

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, drops: bool) -> None:
        nonlocal lost
        while chunk := await reader.read(65_536):
            if drops and not lost and (place := chunk.find(marker + b"\r\n")) >= 0:
                start = chunk.rfind(b"MSG ", 0, place)
                chunk = chunk[:start] + chunk[place + len(marker) + 2 :]
                lost = True
            writer.write(chunk)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        upstream, downstream = await asyncio.open_connection("127.0.0.1", target_port)
        with contextlib.suppress(OSError, asyncio.CancelledError):
            await asyncio.gather(forward(reader, downstream, False), forward(upstream, writer, True))

    proxy = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield proxy.sockets[0].getsockname()[1]
    proxy.close()
    assert lost


@pytest.mark.parametrize("total", [1, 2, 3, 9])
@pytest.mark.parametrize("wait_seconds", [0, 0.2])
async def test_a_message_lost_on_the_way_is_read_again(
    server: NatsServer, log: Log, total: int, wait_seconds: float
) -> None:
    """The lost one is the second of several, or the only one, of which no trace is left but the consumer's count."""
    lost = min(2, total)
    await log.put_many(1, total, size=20)
    async with losing(server.port, b"%d" % lost + b"." * 20) as port:
        log.reader = PageReader(
            lambda: NatsConnection.connect(NatsTarget((f"nats://127.0.0.1:{port}",)), name="test"),
            log.physical,
            log.stream,
        )
        found: list[int] = []
        after = 0
        while after < total:
            page = await log.reader.read(after, PageLimits(wait_seconds=wait_seconds))
            found += sequences(page)
            after = page.scanned_through
        assert found == list(range(1, total + 1))
        log.reader.close()


# -- single messages


async def test_the_state_of_a_stream(log: Log) -> None:
    empty = await stream_state(log.connection, log.physical)
    assert (empty.first_seq, empty.last_seq, empty.messages) == (0, 0, 0)
    assert (empty.first_time, empty.last_time) == (None, None)
    await log.put_many(1, 3)
    await log.delete(1)
    state = await stream_state(log.connection, log.physical)
    facts = (await log.reader.read(0, NOW)).facts
    assert (state.first_seq, state.last_seq, state.messages) == (2, 3, 2)
    assert (state.first_time, state.last_time) == (facts[0].time, facts[1].time)
    assert (state.replicas, state.allow_atomic, state.created) == (1, False, empty.created)
    await api(log.connection, f"STREAM.PURGE.{log.physical}")
    purged = await stream_state(log.connection, log.physical)
    assert (purged.first_seq, purged.last_seq, purged.messages, purged.first_time) == (4, 3, 0, None)


async def test_single_messages(log: Log) -> None:
    assert await last_message(log.connection, log.physical) is None
    await log.put(bytes(range(256)), ".t", b"A: b\r\n")
    await log.put_many(2, 9)
    await log.delete(2, 4, 5, 6, 7, 8, 9)
    first = await message_at(log.connection, log.physical, 1)
    assert first is not None
    assert (first.subject, first.payload) == (f"{log.stream}.t", bytes(range(256)))
    assert first.headers == b"NATS/1.0\r\nA: b\r\n\r\n"
    for missing in (2, 4, 9, 10):
        assert await message_at(log.connection, log.physical, missing) is None
    following = await message_from(log.connection, log.physical, 2)
    last = await last_message(log.connection, log.physical)
    assert following == last
    assert last is not None
    assert (last.sequence, last.headers, last.payload) == (3, b"", b"3")
    assert await message_from(log.connection, log.physical, 4) is None


Question = Callable[[NatsConnection], Awaitable[object]]


@pytest.mark.parametrize(
    "question",
    [
        lambda connection: stream_state(connection, "none"),
        lambda connection: message_at(connection, "none", 1),
        lambda connection: last_message(connection, "none"),
    ],
)
async def test_questions_about_a_missing_stream(log: Log, question: Question) -> None:
    with pytest.raises(BsfgError) as refused:
        await question(log.connection)
    assert refused.value.code is Code.NOT_FOUND
