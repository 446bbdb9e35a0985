"""Pages go in whole or as a prefix, behind the fence or not at all, and every doubt is said."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any, Final

import pytest
from tests.support.nats import NatsServer, api, create_stream, running_nats

from bsfg.errors import BsfgError, Code, Fenced, OutcomeUnknown, StoreFull, SubstrateUnavailable
from bsfg.model.cursor import Fence
from bsfg.model.fact import ORIGIN_HEADER, Fact, digest, header_pairs, origin_block, parse_origin
from bsfg.model.moment import format_time
from bsfg.model.names import StreamName, ZoneId
from bsfg.model.page import PageLimits
from bsfg.substrates.append_acks import ChunkAcks
from bsfg.substrates.append_plan import LARGE_BATCH_MESSAGES_MAX, Exclusivity
from bsfg.substrates.inbound_messages import (
    CHUNK_BYTES_MAX,
    PIECE_BYTES,
    Chunk,
    Encoder,
    Origin,
    Strategy,
)
from bsfg.substrates.nats_connection import NatsConnection, NatsTarget
from bsfg.substrates.nats_frames import Frame, FrameParser
from bsfg.substrates.page_reader import PageReader, StoredMessage, message_at, stream_state
from bsfg.substrates.page_writer import PageWriter

ZONE: Final = ZoneId("plant-a")
STREAM: Final = StreamName("facts.orders")
EPOCH: Final = "e1"
BOTH: Final = pytest.mark.parametrize("strategy", list(Strategy))
EXCLUSIVE_OR_NOT: Final = pytest.mark.parametrize("exclusivity", list(Exclusivity))
NOT_PROVED: Final = pytest.mark.parametrize("exclusivity", [Exclusivity.NONE, Exclusivity.DECLARED])
numbers = count(1)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """Takes large batches, as the embedded one does."""
    limits = f"batch {{ max_msgs: {LARGE_BATCH_MESSAGES_MAX} }}"
    with running_nats(tmp_path_factory.mktemp("nats"), limits=limits) as running:
        yield running


def fact(sequence: int, payload: bytes | None = None, tail: str = "", headers: bytes = b"") -> Fact:
    body = b"payload %d" % sequence if payload is None else payload
    return Fact(sequence, STREAM + tail, 1_700_000_000_000_000_000 + sequence * 999_999_937, headers, body)


def facts(first: int, last: int, size: int = 0) -> list[Fact]:
    return [fact(sequence, b"%d" % sequence + bytes(size)) for sequence in range(first, last + 1)]


class Inbound:
    """An inbound stream on a real server, with writers, and a look at what it holds."""

    def __init__(self, target: NatsTarget, connection: NatsConnection) -> None:
        self.target = target
        self.connection = connection
        number = next(numbers)
        self.name = f"in_plant-a_facts_orders_g{number}"
        self.prefix = f"in.plant-a.facts.orders.g{number}"
        self._writers: list[PageWriter] = []

    async def create(self, **config: Any) -> None:
        base: dict[str, Any] = {"allow_atomic": True}
        await create_stream(self.connection, self.name, [self.prefix, f"{self.prefix}.>"], **(base | config))

    def writer(self, strategy: Strategy, exclusivity: Exclusivity = Exclusivity.NONE) -> PageWriter:
        made = PageWriter(
            lambda: NatsConnection.connect(self.target, name="test"),
            self.name,
            strategy,
            exclusivity=exclusivity,
        )
        self._writers.append(made)
        return made

    async def fence(self) -> Fence:
        state = await stream_state(self.connection, self.name)
        return Fence(1, state.created, state.last_seq)

    async def append(self, writer: PageWriter, fence: Fence, page: Sequence[Fact]) -> Fence:
        return await writer.append(fence, self.prefix, ZONE, STREAM, EPOCH, page)

    async def origins(self) -> list[int]:
        """The origin sequences of what is stored, in the stream's order; every one well-formed."""
        name = StreamName(self.prefix)
        reader = PageReader(lambda: NatsConnection.connect(self.target, name="test"), self.name, name)
        found: list[int] = []
        after, pending = 0, 1
        while pending:
            page = await reader.read(after, PageLimits(facts=5_000, bytes=4 * 1024 * 1024))
            after, pending = page.scanned_through, page.pending
            found += [int(each.payload.split(b"\0")[0]) for each in page.facts]
        reader.close()
        return found

    def close(self) -> None:
        for writer in self._writers:
            writer.close()


@pytest.fixture
async def inbound(server: NatsServer) -> AsyncIterator[Inbound]:
    connection = await NatsConnection.connect(server.target, name="test")
    made = Inbound(server.target, connection)
    await made.create()
    yield made
    made.close()
    connection.close()


def origin_header(message: StoredMessage) -> str:
    return next(value for name, value in header_pairs(message.headers) if name == ORIGIN_HEADER)


def batch_id(message: StoredMessage) -> str:
    return next(value for name, value in header_pairs(message.headers) if name == "Nats-Batch-Id")


def rebuilt(message: StoredMessage, prefix: str) -> Fact:
    """The origin's fact, from nothing but its inbound message."""
    origin = parse_origin(origin_header(message))
    tail = message.subject.removeprefix(prefix)
    return Fact(
        origin.sequence, origin.stream + tail, origin.time, origin_block(message.headers), message.payload
    )


# -- what is stored


@BOTH
async def test_every_fact_can_be_rebuilt_from_its_inbound_message(
    inbound: Inbound, strategy: Strategy
) -> None:
    page = [
        fact(3, b"\r\nHPUB a 1 2\r\n", ".batch.completed", b"Trace: 1\r\nNats-Msg-Id: m-3\r\nTrace: 2\r\n"),
        fact(4, b"", "", b"Empty: \r\n"),
        fact(9, bytes(range(256)), ".ü.\\xff"),
        Fact(10, STREAM, 0, b"", b"at the beginning of time"),
        Fact(11, STREAM, 253_402_300_799_999_999_999, b"", b"at its end"),
    ]
    fence = await inbound.append(inbound.writer(strategy), await inbound.fence(), page)
    assert fence == await inbound.fence()
    assert fence.local_sequence == 5
    for local, each in enumerate(page, start=1):
        message = await message_at(inbound.connection, inbound.name, local)
        assert message is not None
        copy = rebuilt(message, inbound.prefix)
        assert (copy, digest(copy)) == (each, digest(each))
        assert origin_header(message) == f"plant-a facts.orders e1 {each.sequence} " + format_time(each.time)
    first = await message_at(inbound.connection, inbound.name, 1)
    assert first is not None
    assert ("Bsfg-Message-Id", "m-3") in header_pairs(first.headers)
    assert "Nats-Msg-Id" not in dict(header_pairs(first.headers))


@EXCLUSIVE_OR_NOT
@BOTH
async def test_pages_follow_each_other_in_order(
    inbound: Inbound, strategy: Strategy, exclusivity: Exclusivity
) -> None:
    writer, fence = inbound.writer(strategy, exclusivity), await inbound.fence()
    for first, last in ((1, 1), (2, 700), (701, 3_200), (3_201, 3_201)):
        fence = await inbound.append(writer, fence, facts(first, last))
        assert fence.local_sequence == last
    assert fence == await inbound.append(writer, fence, [])
    is_behind_others = strategy is Strategy.PIPELINED and exclusivity is not Exclusivity.PROVED
    assert writer.plan.strategy is (Strategy.ATOMIC if is_behind_others else strategy)
    assert await inbound.origins() == list(range(1, 3_202))


@EXCLUSIVE_OR_NOT
@BOTH
async def test_appends_that_overlap_are_stored_in_the_order_of_their_calls(
    inbound: Inbound, strategy: Strategy, exclusivity: Exclusivity
) -> None:
    writer, fence = inbound.writer(strategy, exclusivity), await inbound.fence()
    pages = [
        inbound.append(writer, Fence(1, fence.created, start), facts(start + 1, start + 600))
        for start in range(0, 3_600, 600)
    ]
    fences = await asyncio.gather(*pages)
    assert [each.local_sequence for each in fences] == list(range(600, 3_601, 600))
    assert await inbound.origins() == list(range(1, 3_601))


async def test_a_page_is_one_batch_where_the_server_takes_large_ones(inbound: Inbound) -> None:
    writer = inbound.writer(Strategy.ATOMIC, Exclusivity.PROVED)
    await inbound.append(writer, await inbound.fence(), facts(1, 5_000))
    places = [await message_at(inbound.connection, inbound.name, sequence) for sequence in (1, 5_000)]
    first, last = (batch_id(place) for place in places if place is not None)
    assert first == last
    assert await inbound.origins() == list(range(1, 5_001))


async def test_a_server_that_takes_no_large_batches_is_given_small_ones(tmp_path: Path) -> None:
    with running_nats(tmp_path) as server:
        connection = await NatsConnection.connect(server.target, name="test")
        inbound = Inbound(server.target, connection)
        await inbound.create()
        writer = inbound.writer(Strategy.ATOMIC, Exclusivity.PROVED)
        fence = await inbound.append(writer, await inbound.fence(), facts(1, 2_500))
        assert writer.plan.batch_messages == 1_000
        await inbound.append(writer, fence, facts(2_501, 5_000))
        assert await inbound.origins() == list(range(1, 5_001))
        inbound.close()
        connection.close()


async def test_large_facts_are_split_by_bytes(inbound: Inbound) -> None:
    page = facts(1, 20, size=1_000_000)
    fence = await inbound.append(inbound.writer(Strategy.ATOMIC), await inbound.fence(), page)
    assert fence.local_sequence == 20
    assert await inbound.origins() == list(range(1, 21))


async def test_a_stream_without_batches_is_written_message_by_message(inbound: Inbound) -> None:
    await api(inbound.connection, f"STREAM.DELETE.{inbound.name}")
    await inbound.create(allow_atomic=False)
    writer = inbound.writer(Strategy.ATOMIC)
    await inbound.append(writer, await inbound.fence(), facts(1, 300))
    assert writer.plan.strategy is Strategy.EACH
    assert await inbound.origins() == list(range(1, 301))


def test_chunks_are_as_near_to_a_full_batch_as_they_can_be() -> None:
    encoder = Encoder(Origin(ZONE, STREAM, EPOCH), "in.x", 1024 * 1024)
    replies = iter((f"id{number}", b"r.%d." % number) for number in count())

    def encoded(
        page: list[Fact], strategy: Strategy = Strategy.ATOMIC, messages_max: int = 1_000
    ) -> list[tuple[Chunk, list[bytes]]]:
        whole = encoder.chunks(page, 40, strategy, lambda: next(replies), messages_max)
        return [(chunk, list(pieces)) for chunk, pieces in whole]

    split = encoded(facts(1, 2_001))
    assert [(each.facts, each.base_sequence, each.replies) for each, _ in split] == [
        (1_000, 40, 1),
        (1_000, 1_040, 1),
        (1, 2_040, 1),
    ]
    assert [bool(each.batch_id) for each, _ in split] == [True, True, False]
    fence = b"Nats-Expected-Last-Sequence: "
    frames = [b"".join(pieces) for _, pieces in split]
    assert [each.count(fence) for each in frames] == [1, 1, 1]
    assert frames[1].index(fence + b"1040\r\n") < frames[1].index(b"Nats-Batch-Sequence: 2\r\n")
    assert [each.count(b"Nats-Batch-Commit: 1\r\n") for each in frames] == [1, 1, 0]
    large = encoded(facts(1, 30, size=900_000))
    assert all(sum(map(len, pieces)) <= CHUNK_BYTES_MAX * 1.01 for _, pieces in large)
    assert [each.facts for each, _ in encoded(facts(1, 3), Strategy.EACH, 1)] == [1, 1, 1]
    single = encoded(facts(1, 300), Strategy.EACH, 125)
    assert [each.facts for each, _ in single] == [125, 125, 50]
    counts = [b"".join(pieces).count(fence) for _, pieces in single]
    assert counts == [each.replies for each, _ in single] == [125, 125, 50]


@pytest.mark.parametrize("strategy", list(Strategy))
@pytest.mark.parametrize("sizes", [[512] * 2_000, [4_096] * 200, [1] * 3, [600_000, 1, 1, 600_000, 7] * 3])
def test_frames_are_joined_some_whole_ones_at_a_time(strategy: Strategy, sizes: list[int]) -> None:
    encoder = Encoder(Origin(ZONE, STREAM, EPOCH), "in.x", 1024 * 1024)
    page = [fact._replace(payload=b"x" * size) for fact, size in zip(facts(1, len(sizes)), sizes, strict=True)]
    whole = encoder.chunks(page, 40, strategy, lambda: ("1", b"r.1."), 5_000)
    pieces = [piece for encoded in whole for piece in encoded.pieces]
    payloads = []
    for piece in pieces:
        # Something else may be written on the connection between two of them.
        parser = FrameParser()
        runs, operations = parser.feed(piece.replace(b"HPUB in.x ", b"HMSG in.x 1 "))
        payloads += [message.payload for _, messages in runs for message in messages]
        assert parser.is_empty and not operations
    assert payloads == [fact.payload for fact in page]
    assert len(pieces) <= sum(sizes) // PIECE_BYTES + 2 * len(whole)
    if len(set(sizes)) == 1:
        assert all(len(piece) < 1.5 * PIECE_BYTES for piece in pieces)


# -- the fence


@BOTH
@pytest.mark.parametrize("size", [1, 50])
async def test_a_foreign_message_fences_the_writer_off(
    inbound: Inbound, strategy: Strategy, size: int
) -> None:
    writer, fence = inbound.writer(strategy), await inbound.fence()
    fence = await inbound.append(writer, fence, facts(1, 3))
    await inbound.connection.request(inbound.prefix, b"999")
    with pytest.raises(Fenced):
        await inbound.append(writer, fence, facts(4, 3 + size))
    assert await inbound.origins() == [1, 2, 3, 999]
    # The position read back from the stream is a good one again, on a new connection.
    again = await inbound.append(writer, await inbound.fence(), facts(4, 5))
    assert again.local_sequence == 6


@BOTH
async def test_nothing_is_stored_beyond_a_message_whose_place_was_taken(
    inbound: Inbound, strategy: Strategy
) -> None:
    """A foreign message counts as much as the refused one, so every later fence alone would be met."""
    writer, fence = inbound.writer(strategy), await inbound.fence()
    fence = await inbound.append(writer, fence, facts(1, 3))
    await inbound.connection.request(inbound.prefix, b"999")
    outcomes = await asyncio.gather(
        *(
            inbound.append(writer, Fence(1, fence.created, sequence - 1), facts(sequence, sequence))
            for sequence in range(4, 10)
        ),
        return_exceptions=True,
    )
    assert all(isinstance(each, Fenced) for each in outcomes)
    assert await inbound.origins() == [1, 2, 3, 999]


@EXCLUSIVE_OR_NOT
@BOTH
async def test_a_stale_writer_changes_nothing(
    inbound: Inbound, strategy: Strategy, exclusivity: Exclusivity
) -> None:
    old, new = inbound.writer(strategy, exclusivity), inbound.writer(strategy, exclusivity)
    fence = await inbound.append(old, await inbound.fence(), facts(1, 10))
    await inbound.append(new, fence, facts(11, 2_500))
    with pytest.raises(Fenced):
        await inbound.append(old, fence, facts(11, 2_500))
    assert await inbound.origins() == list(range(1, 2_501))


@NOT_PROVED
@BOTH
async def test_a_page_behind_a_refused_one_is_not_stored_where_another_writer_filled_its_place(
    inbound: Inbound, strategy: Strategy, exclusivity: Exclusivity
) -> None:
    """Fact 15 was deleted at the source after the other writer had read it, so that both pages have ten facts."""
    old, new = inbound.writer(strategy, exclusivity), inbound.writer(strategy, exclusivity)
    fence = await inbound.append(old, await inbound.fence(), facts(1, 10))
    await inbound.append(new, fence, facts(11, 20))
    outcomes = await asyncio.gather(
        inbound.append(old, fence, [*facts(11, 14), *facts(16, 21)]),
        inbound.append(old, Fence(1, fence.created, 20), facts(22, 31)),
        return_exceptions=True,
    )
    assert all(isinstance(each, Fenced) for each in outcomes)
    assert await inbound.origins() == list(range(1, 21))


@pytest.mark.parametrize("exclusivity", list(Exclusivity))
async def test_without_batches_the_word_that_nobody_else_publishes_is_taken(
    inbound: Inbound, exclusivity: Exclusivity
) -> None:
    await api(inbound.connection, f"STREAM.DELETE.{inbound.name}")
    await inbound.create(allow_atomic=False)
    writer = inbound.writer(Strategy.PIPELINED, exclusivity)
    await inbound.append(writer, await inbound.fence(), facts(1, 300))
    assert writer.plan.strategy is (Strategy.EACH if exclusivity is Exclusivity.NONE else Strategy.PIPELINED)
    assert await inbound.origins() == list(range(1, 301))


@EXCLUSIVE_OR_NOT
@BOTH
async def test_two_writers_at_once_store_each_fact_once(
    inbound: Inbound, strategy: Strategy, exclusivity: Exclusivity
) -> None:
    fence = await inbound.fence()
    page = facts(1, 3_000)
    outcomes = await asyncio.gather(
        *(inbound.append(inbound.writer(strategy, exclusivity), fence, page) for _ in range(3)),
        return_exceptions=True,
    )
    assert any(isinstance(each, Fenced) for each in outcomes)
    assert all(isinstance(each, Fenced | OutcomeUnknown | Fence) for each in outcomes)
    stored = await inbound.origins()
    assert stored == list(range(1, len(stored) + 1))


@BOTH
@pytest.mark.parametrize("stored", [0, 5])
@pytest.mark.parametrize("is_new_writer", [False, True])
async def test_a_stream_made_again_is_another_stream(
    inbound: Inbound, strategy: Strategy, stored: int, is_new_writer: bool
) -> None:
    writer, fence = inbound.writer(strategy), await inbound.fence()
    fence = await inbound.append(writer, fence, facts(1, stored))
    # A refused append proves nothing but opens the writer's connection where nothing was stored yet.
    with pytest.raises(Fenced):
        await inbound.append(writer, Fence(1, fence.created + "x", 0), facts(1, 1))
    await api(inbound.connection, f"STREAM.DELETE.{inbound.name}")
    await inbound.create()
    writer = inbound.writer(strategy) if is_new_writer else writer
    with pytest.raises(Fenced):
        await inbound.append(writer, fence, facts(stored + 1, stored + 3))
    assert (await stream_state(inbound.connection, inbound.name)).messages == 0
    assert (await inbound.append(writer, await inbound.fence(), facts(1, 2))).local_sequence == 2


@BOTH
async def test_a_writer_goes_over_to_a_stream_made_again_when_its_fence_says_so(
    inbound: Inbound, strategy: Strategy
) -> None:
    writer = inbound.writer(strategy)
    await inbound.append(writer, await inbound.fence(), facts(1, 5))
    await api(inbound.connection, f"STREAM.DELETE.{inbound.name}")
    await inbound.create()
    await inbound.connection.request(inbound.prefix, b"999")
    await inbound.append(writer, await inbound.fence(), facts(1, 2))
    assert await inbound.origins() == [999, 1, 2]


async def test_a_missing_stream_is_not_found(inbound: Inbound) -> None:
    writer, fence = inbound.writer(Strategy.ATOMIC), await inbound.fence()
    await api(inbound.connection, f"STREAM.DELETE.{inbound.name}")
    with pytest.raises(BsfgError) as refused:
        await inbound.append(writer, fence, facts(1, 2))
    assert refused.value.code is Code.NOT_FOUND


@EXCLUSIVE_OR_NOT
@BOTH
async def test_a_stream_that_vanishes_under_the_writer_stores_nothing(
    inbound: Inbound, strategy: Strategy, exclusivity: Exclusivity
) -> None:
    writer = inbound.writer(strategy, exclusivity)
    fence = await inbound.append(writer, await inbound.fence(), facts(1, 2))
    await api(inbound.connection, f"STREAM.DELETE.{inbound.name}")
    with pytest.raises(SubstrateUnavailable, match="no stream takes the subject"):
        await inbound.append(writer, fence, facts(3, 4))


# -- what can't be stored


@EXCLUSIVE_OR_NOT
@BOTH
async def test_a_full_stream_says_so_and_holds_a_prefix(
    inbound: Inbound, strategy: Strategy, exclusivity: Exclusivity
) -> None:
    await api(inbound.connection, f"STREAM.DELETE.{inbound.name}")
    await inbound.create(max_bytes=200_000)
    writer = inbound.writer(strategy, exclusivity)
    fence = await inbound.append(writer, await inbound.fence(), facts(1, 50, size=500))
    if writer.plan.strategy is Strategy.PIPELINED:
        # Its one acknowledgement tells that the last fact was refused, and not why the first one was.
        with pytest.raises(Fenced):
            await inbound.append(writer, fence, facts(51, 1_050, size=500))
        fence = await inbound.fence()
    with pytest.raises(StoreFull):
        await inbound.append(writer, fence, facts(fence.local_sequence + 1, 1_050, size=500))
    stored = await inbound.origins()
    assert stored == list(range(1, len(stored) + 1))
    assert len(stored) == 50 if writer.plan.strategy is Strategy.ATOMIC else 50 < len(stored) < 400
    config = (await stream_state(inbound.connection, inbound.name)).config
    await api(inbound.connection, f"STREAM.UPDATE.{inbound.name}", config | {"max_bytes": 2_000_000})
    await inbound.append(writer, await inbound.fence(), facts(len(stored) + 1, 1_050, size=500))
    assert await inbound.origins() == list(range(1, 1_051))


@BOTH
async def test_a_fact_that_nats_would_not_take_is_named_before_anything_is_written(
    inbound: Inbound, strategy: Strategy
) -> None:
    writer, fence = inbound.writer(strategy), await inbound.fence()
    room = 1024 * 1024 - 400
    with pytest.raises(BsfgError) as refused:
        await inbound.append(writer, fence, [fact(1), fact(2, bytes(1024 * 1024)), fact(3)])
    assert refused.value.code is Code.TOO_LARGE
    assert refused.value.details == {"sequence": 2}
    assert (await inbound.fence()) == fence
    await inbound.append(writer, fence, [fact(1), fact(2, bytes(room)), fact(3)])
    with pytest.raises(BsfgError, match="headers") as refused:
        await inbound.append(
            writer, await inbound.fence(), [fact(4, headers=b"A: " + b"x" * 32_770 + b"\r\n")]
        )
    assert refused.value.code is Code.BAD_ANSWER


@BOTH
async def test_a_message_larger_than_the_stream_takes(inbound: Inbound, strategy: Strategy) -> None:
    await api(inbound.connection, f"STREAM.DELETE.{inbound.name}")
    await inbound.create(max_msg_size=2_000)
    with pytest.raises(BsfgError) as refused:
        await inbound.append(inbound.writer(strategy), await inbound.fence(), [fact(1, bytes(3_000))])
    assert refused.value.code is Code.TOO_LARGE
    await inbound.append(inbound.writer(strategy), await inbound.fence(), [fact(1, bytes(1_000))])


@pytest.mark.parametrize(
    "bad",
    [
        fact(7, headers=b"Nats-Rollup: all\r\n"),
        fact(7, headers=b"Bsfg-Origin: x\r\n"),
        fact(7, headers=b"A: b\r\n\r\nPUB x 0\r\n"),
        fact(7, tail=".a b"),
        fact(7, tail=".a\r\nPUB x 0"),
        fact(7, tail=".a\ud800"),
        fact(7, tail=".>"),
        fact(7)._replace(subject="facts.other"),
        fact(7)._replace(time=-1),
        fact(7)._replace(time=10**30),
    ],
)
async def test_what_a_peer_may_not_send_is_not_written(inbound: Inbound, bad: Fact) -> None:
    writer, fence = inbound.writer(Strategy.ATOMIC), await inbound.fence()
    with pytest.raises(BsfgError) as refused:
        await inbound.append(writer, fence, [fact(6), bad, fact(8)])
    assert refused.value.code is Code.BAD_ANSWER
    assert refused.value.details["sequence"] == 7
    assert await inbound.fence() == fence


@pytest.mark.parametrize("epoch", ["", "a b", "a\r\nNats-Rollup: all", "a\0", "a\ud800"])
async def test_an_epoch_can_carry_nothing_else(inbound: Inbound, epoch: str) -> None:
    with pytest.raises(BsfgError) as refused:
        await inbound.writer(Strategy.EACH).append(
            await inbound.fence(), inbound.prefix, ZONE, STREAM, epoch, [fact(1)]
        )
    assert refused.value.code is Code.BAD_ANSWER


async def test_a_percent_sign_in_an_epoch_is_only_itself(inbound: Inbound) -> None:
    fence = await inbound.fence()
    writer = inbound.writer(Strategy.ATOMIC)
    await writer.append(fence, inbound.prefix, ZONE, STREAM, "%d%%s", [fact(1)])
    message = await message_at(inbound.connection, inbound.name, 1)
    assert message is not None
    assert parse_origin(origin_header(message)).epoch == "%d%%s"


# -- a store that goes away


@BOTH
@pytest.mark.parametrize("delay", [0.0, 0.002, 0.02, 0.05])
async def test_a_store_killed_in_the_middle_leaves_a_prefix_and_a_doubt(
    tmp_path: Path, strategy: Strategy, delay: float
) -> None:
    with running_nats(tmp_path / "nats", sync_interval="always") as server:
        connection = await NatsConnection.connect(server.target, name="test")
        inbound = Inbound(server.target, connection)
        await inbound.create()
        writer, fence = inbound.writer(strategy), await inbound.fence()
        acknowledged = 0

        async def write() -> None:
            nonlocal acknowledged, fence
            while True:
                page = facts(acknowledged + 1, acknowledged + 1_500)
                fence = await inbound.append(writer, fence, page)
                acknowledged = fence.local_sequence

        writing = asyncio.create_task(write())
        await asyncio.sleep(delay)
        server.kill()
        with pytest.raises((OutcomeUnknown, SubstrateUnavailable)):
            await writing
        with pytest.raises(SubstrateUnavailable):
            await inbound.append(writer, fence, facts(1, 1))
        server.start()
        inbound.connection = await NatsConnection.connect(server.target, name="test")
        stored = await inbound.origins()
        assert stored == list(range(1, len(stored) + 1))
        assert len(stored) >= acknowledged
        assert (await inbound.fence()).created == fence.created
        page = facts(len(stored) + 1, len(stored) + 10)
        await inbound.append(writer, await inbound.fence(), page)
        assert await inbound.origins() == list(range(1, len(stored) + 11))
        inbound.close()
        inbound.connection.close()


async def test_a_store_that_was_never_reached_has_stored_nothing() -> None:
    target = NatsTarget(("nats://127.0.0.1:1",))
    writer = PageWriter(lambda: NatsConnection.connect(target, name="test"), "none")
    with pytest.raises(SubstrateUnavailable):
        await writer.append(Fence(1, "x", 0), "in.x", ZONE, STREAM, EPOCH, [fact(1)])


@EXCLUSIVE_OR_NOT
@BOTH
async def test_a_store_that_does_not_answer_in_time_leaves_the_outcome_unknown(
    inbound: Inbound, strategy: Strategy, exclusivity: Exclusivity, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bsfg.substrates.page_writer.ACK_SECONDS", 0.2)
    await api(inbound.connection, f"STREAM.DELETE.{inbound.name}")
    await inbound.create(no_ack=True, allow_atomic=strategy is Strategy.ATOMIC)
    with pytest.raises(OutcomeUnknown):
        await inbound.append(inbound.writer(strategy, exclusivity), await inbound.fence(), facts(1, 3))


async def test_an_append_that_is_cancelled_is_not_continued_on_its_connection(inbound: Inbound) -> None:
    writer, fence = inbound.writer(Strategy.EACH), await inbound.fence()
    for _ in range(5):
        base = await inbound.fence()
        start = base.local_sequence
        writing = asyncio.create_task(inbound.append(writer, base, facts(start + 1, start + 3_000)))
        await asyncio.sleep(0.01)
        writing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await writing
        await asyncio.sleep(0.05)
    stored = await inbound.origins()
    assert stored == list(range(1, len(stored) + 1))
    assert (await inbound.append(writer, await inbound.fence(), [fact(7, b"0")])).created == fence.created


# -- what an acknowledgement must say


def answer(**fields: object) -> Frame:
    return Frame(b"", b"", b"", json.dumps(fields).encode())


def judge(chunk: Chunk, *answers: Frame) -> None:
    acks = ChunkAcks(chunk, "S", asyncio.get_running_loop().create_future())
    for number, frame in enumerate(answers):
        acks.take(number, frame)
    acks.judge()


BATCH: Final = Chunk(facts=3, base_sequence=10, batch_id="b", replies=1)
SINGLES: Final = Chunk(facts=2, base_sequence=10, batch_id="", replies=2)
GOOD: Final = {"stream": "S", "seq": 13, "batch": "b", "count": 3}


async def test_a_good_acknowledgement() -> None:
    judge(BATCH, answer(**GOOD))
    judge(SINGLES, answer(stream="S", seq=11), answer(stream="S", seq=12, domain="hub"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"stream": "T"},
        {"seq": 14},
        {"batch": "c"},
        {"batch": ""},
        {"count": 2},
        {"count": 0},
        {"duplicate": True},
        {"seq": "13"},
    ],
)
async def test_an_acknowledgement_of_something_else_proves_nothing(wrong: dict[str, object]) -> None:
    with pytest.raises(OutcomeUnknown):
        judge(BATCH, answer(**(GOOD | wrong)))


@pytest.mark.parametrize(
    ("answers", "error"),
    [
        ([answer(stream="S", seq=11)], OutcomeUnknown),
        ([], OutcomeUnknown),
        ([answer(stream="S", seq=12), answer(stream="S", seq=13)], OutcomeUnknown),
        ([Frame(b"", b"", b"", b"")] * 2, OutcomeUnknown),
        ([Frame(b"", b"", b"NATS/1.0 503\r\n\r\n", b"")] * 2, SubstrateUnavailable),
    ],
)
async def test_missing_and_odd_answers(answers: list[Frame], error: type[Exception]) -> None:
    with pytest.raises(error):
        judge(SINGLES, *answers)


@pytest.mark.parametrize(
    ("err_code", "description", "code"),
    [
        (10071, "wrong last sequence: 12", Code.FENCED),
        (10164, "wrong last sequence", Code.FENCED),
        (10077, "maximum bytes exceeded", Code.LOCAL_FULL),
        (10077, "maximum messages exceeded", Code.LOCAL_FULL),
        (10077, "write /x: no space left on device", Code.LOCAL_FULL),
        (10077, "message too large", Code.TOO_LARGE),
        (10077, "input/output error", Code.UNAVAILABLE),
        (10054, "message size exceeds maximum allowed", Code.TOO_LARGE),
        (10097, "header size exceeds maximum allowed of 64k", Code.TOO_LARGE),
        (10023, "insufficient resources", Code.LOCAL_FULL),
        (10047, "insufficient storage resources available", Code.LOCAL_FULL),
        (10002, "resource limits exceeded for account", Code.LOCAL_FULL),
        (10176, "atomic publish batch is incomplete", Code.UNAVAILABLE),
        (10210, "atomic publish too many inflight", Code.UNAVAILABLE),
    ],
)
async def test_every_refusal_has_its_meaning(err_code: int, description: str, code: Code) -> None:
    error = {"code": 400, "err_code": err_code, "description": description}
    with pytest.raises(BsfgError) as refused:
        judge(BATCH, answer(error=error, stream="S", seq=0))
    assert refused.value.code is code
    assert str(err_code) in refused.value.message


async def test_the_first_refusal_decides_and_not_those_that_follow_from_it() -> None:
    full = answer(error={"err_code": 10077, "description": "maximum bytes exceeded"}, stream="S", seq=0)
    fenced = answer(error={"err_code": 10071, "description": "wrong last sequence: 10"}, stream="S", seq=0)
    with pytest.raises(StoreFull):
        judge(SINGLES, full, fenced)
    with pytest.raises(Fenced):
        judge(SINGLES, answer(stream="S", seq=11), fenced)
