"""Once for each message id, however old: whatever happened to the index, to the gateway, or to the stream (I8, I12)."""

from __future__ import annotations

import asyncio
import re
import shutil
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.support.local_appends import Edge, new, open_edge
from tests.support.nats import NatsServer, running_nats
from tests.support.patience import patience
from tests.unit.substrates.test_local_appends import NAME, STREAM, ZONE, payloads, until_connected, update

from bsfg.errors import BsfgError, Code, StoreFull, SubstrateUnavailable
from bsfg.model.fact import Fact, digest
from bsfg.substrates import index_follower
from bsfg.substrates.control import Control
from bsfg.substrates.index_follower import StreamIndex
from bsfg.substrates.message_index import Entry, content_of, index_files
from bsfg.substrates.nats_connection import NatsConnection
from bsfg.substrates.new_facts import NewFact, Outgoing
from bsfg.substrates.own_ranges import OwnRange, OwnRanges
from bsfg.substrates.provisioning import provision_local
from bsfg.substrates.stream_configs import StreamSpec

WINDOW_SECONDS = 0.1
"""The shortest that JetStream takes: what is found later was not found by it."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    with running_nats(tmp_path / "nats", extra="max_payload: 2MB") as running:
        yield running


async def provision(control: Control) -> None:
    await provision_local(control, ZONE, [StreamSpec(STREAM)], replicas=1, epoch_began=lambda *_: None)
    await update(control, duplicate_window=int(WINDOW_SECONDS * 1e9))


@pytest.fixture
async def control(server: NatsServer) -> AsyncIterator[Control]:
    opened = await Control.open(server.target, name="test")
    await provision(opened)
    yield opened
    await opened.close()


@pytest.fixture
async def edge(server: NatsServer, control: Control, tmp_path: Path) -> AsyncIterator[Edge]:
    async with open_edge(server, control, tmp_path / "ids") as opened:
        yield opened


@pytest.fixture
async def direct(server: NatsServer) -> AsyncIterator[NatsConnection]:
    """A producer that does not know the gateway."""
    connection = await NatsConnection.connect(server.target, name="direct")
    yield connection
    connection.close()


def facts(count: int, first: int = 0) -> list[NewFact]:
    return [new(b"%d" % n, message_id=f"m{n}") for n in range(first, first + count)]


async def publish(direct: NatsConnection, payload: bytes, headers: bytes = b"") -> None:
    answer = await direct.request(f"{STREAM}.a", payload, headers=headers)
    assert b'"seq"' in answer.payload
    assert b'"duplicate"' not in answer.payload


async def window_over() -> None:
    await asyncio.sleep(WINDOW_SECONDS * 2)


async def count_of(control: Control) -> int:
    return int((await control.api(f"STREAM.INFO.{NAME}"))["state"]["messages"])


async def assert_all_known(edge: Edge, control: Control, again: Sequence[NewFact]) -> None:
    before = await count_of(control)
    result = await edge.append(STREAM, *again)
    assert (result["appended"], result["duplicates"]) == (0, len(again))
    assert await count_of(control) == before


def overwrite(path: Path, start: int, junk: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(start)
        file.write(junk)


# The same again


@pytest.mark.parametrize("count", [1, 2, 40, 1500])
@pytest.mark.parametrize("atomic", [True, False], ids=["batches", "messages"])
async def test_the_same_again_is_the_fact_that_is_there(
    edge: Edge, control: Control, count: int, atomic: bool
) -> None:
    await update(control, allow_atomic=atomic)
    await edge.append(STREAM, new(b"before"))
    await edge.append(STREAM, *facts(count))
    await window_over()
    result = await edge.append(STREAM, *facts(count))
    assert result == {"appended": 0, "first_sequence": 2, "last_sequence": count + 1, "duplicates": count}
    result = await edge.append(STREAM, *facts(count + 1))
    new_one = count + 2
    assert result == {"appended": 1, "first_sequence": new_one, "last_sequence": new_one, "duplicates": count}
    assert len(await payloads(edge)) == count + 2


async def test_the_same_in_one_call_is_stored_once(edge: Edge) -> None:
    result = await edge.append(STREAM, *facts(30), *facts(31), new(b"x"), *facts(3))
    assert (result["appended"], result["duplicates"]) == (32, 33)
    assert await payloads(edge) == [b"%d" % n for n in range(31)] + [b"x"]


async def test_two_who_append_the_same_at_once_store_it_once(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is slow between looking up and publishing, so that JetStream's window is over when the next one does."""
    index = edge.indexes.of(STREAM)
    pauses = iter([0.0, 0.3, 0.6, 0.9])
    monkeypatch.setattr(index, "known", Meddler(index, lambda: asyncio.sleep(next(pauses)), times=4))
    results = await asyncio.gather(*(edge.append(STREAM, *facts(200)) for _ in range(4)))
    assert sum(result["appended"] or 0 for result in results) == 200
    assert await payloads(edge) == [b"%d" % n for n in range(200)]


@pytest.mark.parametrize(
    ("payload", "tail", "headers"),
    [(b"other", "a", []), (b"0", "b", []), (b"0", None, []), (b"0", "a", [("A", "1")])],
    ids=["payload", "subject", "bare subject", "headers"],
)
async def test_other_content_is_a_conflict_and_stored_nowhere(
    edge: Edge, payload: bytes, tail: str | None, headers: list[tuple[str, str]]
) -> None:
    await edge.append(STREAM, *facts(3))
    await window_over()
    with pytest.raises(BsfgError, match="'m0' stands for other content, at sequence 1") as raised:
        await edge.append(STREAM, *facts(5, 1), new(payload, tail, "m0", headers), new(b"never"))
    assert raised.value.code is Code.CONFLICTING_DUPLICATE
    details = raised.value.details
    assert (details["message_id"], details["original_sequence"], details["facts"]) == ("m0", 1, [6, 6])
    assert (details["appended"], details["duplicates"], details["last_sequence"]) == (3, 2, 6)
    assert await payloads(edge) == [b"%d" % n for n in range(6)]
    assert (await edge.append(STREAM, new(b"0", message_id="m0")))["duplicates"] == 1


async def test_a_conflict_within_one_call_names_the_first(edge: Edge) -> None:
    with pytest.raises(BsfgError) as raised:
        await edge.append(STREAM, new(b"x"), *facts(20), new(b"other", message_id="m7"), *facts(5, 100))
    assert raised.value.details["original_sequence"] == 9
    assert raised.value.details["appended"] == 21
    assert len(await payloads(edge)) == 21


async def test_a_full_stream_refuses_facts_with_ids_and_knows_those_before(edge: Edge, control: Control) -> None:
    await update(control, max_bytes=100_000)
    with pytest.raises(StoreFull) as raised:
        await edge.append(STREAM, *facts(3000))
    stored = raised.value.details["appended"]
    await update(control, max_bytes=-1)
    await window_over()
    assert (await edge.append(STREAM, *facts(3000)))["appended"] == 3000 - stored
    assert await payloads(edge) == [b"%d" % n for n in range(3000)]


# Direct producers


@pytest.mark.parametrize(
    "headers", [b"Nats-Msg-Id: m5\r\n", b"Nats-Msg-Id:   m5 \r\nA: 1\r\n", b"A: 1\r\nNats-Msg-Id: m5\r\nB: 2\r\n"]
)
@pytest.mark.parametrize("around", [0, 30])
@pytest.mark.parametrize("later", [True, False], ids=["later", "at once"])
async def test_what_a_direct_producer_published_is_known(
    edge: Edge, direct: NatsConnection, headers: bytes, around: int, later: bool
) -> None:
    await edge.append(STREAM, *facts(3))
    await publish(direct, b"5", headers)
    if later:
        await window_over()
    others = [tuple(line.split(": ")) for line in headers.decode().split("\r\n")[:-1] if "Nats" not in line]
    same = new(b"5", message_id="m5", headers=others)  # type: ignore[arg-type]
    result = await edge.append(STREAM, same, *facts(around, 100))
    assert (result["appended"], result["duplicates"]) == (around, 1)
    with pytest.raises(BsfgError) as raised:
        await edge.append(STREAM, *facts(around, 200), new(b"other", message_id="m5"))
    assert raised.value.code is Code.CONFLICTING_DUPLICATE
    assert raised.value.details["original_sequence"] == 4


class Meddler:
    """Does something right after the index has said what it knows."""

    def __init__(self, index: StreamIndex, action: Callable[[], Any], times: int = 1) -> None:
        self.known, self.action, self.left = index.known, action, times

    async def __call__(self, keys: Sequence[bytes]) -> dict[bytes, Entry]:
        found = await self.known(keys)
        if self.left:
            self.left -= 1
            await self.action()
        return found


@pytest.mark.parametrize("count", [1, 40], ids=["message", "batch"])
@pytest.mark.parametrize("same", [True, False], ids=["same", "other"])
async def test_a_direct_producer_that_is_faster_is_found_by_the_window(
    edge: Edge, control: Control, direct: NatsConnection, monkeypatch: pytest.MonkeyPatch, count: int, same: bool
) -> None:
    await update(control, duplicate_window=int(60e9))
    index = edge.indexes.of(STREAM)
    payload = b"%d" % (count - 1) if same else b"other"
    mark = f"Nats-Msg-Id: m{count - 1}\r\n".encode()
    monkeypatch.setattr(index, "known", Meddler(index, lambda: publish(direct, payload, mark)))
    if same:
        result = await edge.append(STREAM, *facts(count))
        assert (result["appended"], result["duplicates"]) == (count - 1, 1)
    else:
        with pytest.raises(BsfgError) as raised:
            await edge.append(STREAM, *facts(count))
        assert raised.value.code is Code.CONFLICTING_DUPLICATE
        assert raised.value.details["appended"] == count - 1
    assert await payloads(edge) == [payload, *(b"%d" % n for n in range(count - 1))]


async def test_an_id_that_only_the_window_remembers_is_refused_until_it_is_over(edge: Edge, control: Control) -> None:
    """The fact was deleted, and with the index its content is forgotten: nobody can say whether it was the same."""
    await update(control, duplicate_window=int(1e9))
    async with edge.appends.session(STREAM):
        await edge.append(STREAM, *facts(20))
    await control.api(f"STREAM.MSG.DELETE.{NAME}", {"seq": 18})
    index = edge.indexes.of(STREAM)
    async with index._busy:
        await index._throw_away()
    with pytest.raises(SubstrateUnavailable, match="remembers message id 'm17' at sequence 18") as raised:
        await edge.append(STREAM, *facts(30))
    assert (raised.value.details["appended"], raised.value.details["duplicates"]) == (0, 0)
    await asyncio.sleep(1.1)
    result = await edge.append(STREAM, *facts(30))
    assert (result["appended"], result["duplicates"]) == (11, 19)


# The gateway and its index


@pytest.mark.parametrize("server_too", [False, True], ids=["gateway", "server too"])
async def test_ids_are_known_after_a_restart(
    server: NatsServer, control: Control, tmp_path: Path, server_too: bool
) -> None:
    async with open_edge(server, control, tmp_path / "ids") as edge:
        await edge.append(STREAM, *facts(300))
    if server_too:
        server.kill()
        server.start()
        await until_connected(control)
    await window_over()
    async with open_edge(server, control, tmp_path / "ids") as edge:
        edge.indexes.start([STREAM])
        await assert_all_known(edge, control, facts(300))
        assert not edge.reports


async def test_only_a_stream_with_an_index_is_followed(server: NatsServer, control: Control, tmp_path: Path) -> None:
    async with open_edge(server, control, tmp_path / "ids") as edge:
        await edge.append(STREAM, new(b"x"))
        edge.indexes.start([STREAM])
        assert edge.indexes.existing(STREAM) is None
        assert not (tmp_path / "ids").exists()


async def test_an_index_follows_by_itself_from_where_it_was(
    server: NatsServer, control: Control, tmp_path: Path, direct: NatsConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_follower, "FOLLOW_SECONDS", 0.02)
    async with open_edge(server, control, tmp_path / "ids") as edge:
        await edge.append(STREAM, *facts(2))
    await publish(direct, b"direct", b"Nats-Msg-Id: d\r\n")
    async with open_edge(server, control, tmp_path / "ids") as edge:
        edge.indexes.start([STREAM])
        async with asyncio.timeout(5 * patience()):
            while entries_of(tmp_path / "ids") != 3:  # noqa: ASYNC110
                await asyncio.sleep(0.02)


def entries_of(folder: Path) -> int:
    """How many ids are on disk, as another reader of the files sees it."""
    copies = folder.with_name("copies")
    shutil.rmtree(copies, ignore_errors=True)
    shutil.copytree(folder, copies)
    [path] = copies.glob("*.ids")
    database = sqlite3.connect(path)
    try:
        return int(database.execute("SELECT count(*) FROM ids").fetchone()[0])
    except sqlite3.Error:
        return -1
    finally:
        database.close()


async def test_a_gateway_killed_between_acknowledgement_and_index_has_lost_nothing(
    server: NatsServer, control: Control, tmp_path: Path
) -> None:
    """The index on disk is from before the append, as a kill leaves it."""
    ids, kept = tmp_path / "ids", tmp_path / "kept"
    async with open_edge(server, control, ids) as edge:
        await edge.append(STREAM, *facts(50))
    shutil.copytree(ids, kept)
    async with open_edge(server, control, ids) as edge:
        await edge.append(STREAM, new(b"plain"), *facts(50, 50))
    shutil.rmtree(ids)
    kept.rename(ids)
    await window_over()
    async with open_edge(server, control, ids) as edge:
        await assert_all_known(edge, control, facts(100))
        assert not edge.reports


def _remove(path: Path) -> None:
    path.unlink()


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _foreign(path: Path) -> None:
    path.write_bytes(b"not a database " * 1000)


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:9000])


def _spoil_pages(path: Path) -> None:
    overwrite(path, 4096, bytes(range(256)) * ((path.stat().st_size - 4096) // 256))


def _spoil_entries(path: Path) -> None:
    database = sqlite3.connect(path)
    database.execute("UPDATE ids SET content = 7")
    database.commit()
    database.close()


def _other_version(path: Path) -> None:
    database = sqlite3.connect(path)
    database.execute("UPDATE history SET version = version + 1")
    database.commit()
    database.close()


def _other_stream(path: Path) -> None:
    database = sqlite3.connect(path)
    database.execute("UPDATE history SET created = 'another time'")
    database.execute("DELETE FROM ids")
    database.commit()
    database.close()


def _no_history(path: Path) -> None:
    database = sqlite3.connect(path)
    database.execute("DROP TABLE history")
    database.commit()
    database.close()


@pytest.mark.parametrize(
    "damage",
    [
        _remove,
        _empty,
        _foreign,
        _truncate,
        _spoil_pages,
        _spoil_entries,
        _other_version,
        _other_stream,
        _no_history,
    ],
)
async def test_a_damaged_index_is_made_again_from_the_stream(
    server: NatsServer, control: Control, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    async with open_edge(server, control, tmp_path / "ids") as edge:
        await edge.append(STREAM, *facts(3000))
    [path] = index_files(tmp_path / "ids", STREAM)
    await window_over()
    damage(path)
    async with open_edge(server, control, tmp_path / "ids") as edge:
        edge.indexes.start([STREAM])
        await assert_all_known(edge, control, facts(3000))
        assert edge.reports


@pytest.mark.parametrize("message_id", [None, "m"])
async def test_without_a_place_for_the_index_only_facts_with_ids_are_refused(
    edge: Edge, message_id: str | None
) -> None:
    edge.folder.parent.mkdir(exist_ok=True)
    edge.folder.write_text("in the way")
    if message_id is None:
        assert (await edge.append(STREAM, new(b"x")))["appended"] == 1
    else:
        with pytest.raises(SubstrateUnavailable, match="index of message ids"):
            await edge.append(STREAM, new(b"x", message_id=message_id))
        assert await payloads(edge) == []


async def test_an_index_that_is_not_level_in_time_goes_on_behind_the_refusal(
    server: NatsServer, control: Control, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_edge(server, control, tmp_path / "ids") as edge:
        for start in range(0, 20_000, 5_000):
            await edge.append(STREAM, *facts(5_000, start))
    shutil.rmtree(tmp_path / "ids")
    monkeypatch.setattr(index_follower, "LEVEL_SECONDS_MAX", 0.05)
    monkeypatch.setattr(index_follower, "REST_FACTOR", 0.1)
    async with open_edge(server, control, tmp_path / "ids") as edge:
        said = "of 0"
        while said.endswith("of 0"):  # Until the stream's end was looked up.
            with pytest.raises(SubstrateUnavailable) as refused:
                await edge.append(STREAM, *facts(1))
            said = refused.value.message
        assert re.search(r"is being built: it is at sequence \d+ of 20000$", said)
        assert (await edge.append(STREAM, new(b"plain")))["appended"] == 1
        async with asyncio.timeout(20 * patience()):
            while True:
                try:
                    assert (await edge.append(STREAM, *facts(1)))["duplicates"] == 1
                    break
                except SubstrateUnavailable:
                    await asyncio.sleep(0.1)


# The stream


async def test_an_id_outlives_its_fact(edge: Edge, control: Control) -> None:
    await edge.append(STREAM, *facts(40))
    await control.api(f"STREAM.PURGE.{NAME}")
    await window_over()
    result = await edge.append(STREAM, *facts(41))
    assert (result["appended"], result["duplicates"], result["first_sequence"]) == (1, 40, 41)


async def test_a_stream_made_again_is_another_history(edge: Edge, control: Control) -> None:
    await edge.append(STREAM, *facts(40))
    await control.api(f"STREAM.DELETE.{NAME}")
    await provision(control)
    result = await edge.append(STREAM, *facts(41))
    assert (result["appended"], result["first_sequence"]) == (41, 1)
    assert len(index_files(edge.folder, STREAM)) == 1


async def test_a_new_epoch_has_an_index_of_its_own(edge: Edge, control: Control) -> None:
    await edge.append(STREAM, *facts(40))
    await window_over()
    [before] = index_files(edge.folder, STREAM)
    config = (await control.api(f"STREAM.INFO.{NAME}"))["config"]
    metadata = config["metadata"] | {"bsfg_epoch": "0123456789abcdef"}
    await control.api(f"STREAM.UPDATE.{NAME}", config | {"metadata": metadata})
    await assert_all_known(edge, control, facts(40))
    [after] = index_files(edge.folder, STREAM)
    assert after != before
    assert "0123456789abcdef" in after.name


async def test_a_new_epoch_begun_while_the_gateway_was_down_leaves_no_old_index(
    server: NatsServer, control: Control, tmp_path: Path
) -> None:
    async with open_edge(server, control, tmp_path / "ids") as edge:
        await edge.append(STREAM, *facts(40))
    [before] = index_files(tmp_path / "ids", STREAM)
    await control.api(f"STREAM.DELETE.{NAME}")
    await provision(control)
    async with open_edge(server, control, tmp_path / "ids") as edge:
        assert (await edge.append(STREAM, *facts(40)))["appended"] == 40
        assert len(index_files(tmp_path / "ids", STREAM)) == 1
        assert not before.exists()


@pytest.mark.parametrize("refill", [0, 5, 60], ids=["shorter", "partly filled", "filled up"])
@pytest.mark.parametrize("survives", [False, True], ids=["restarted", "running"])
async def test_ids_of_facts_that_a_power_cut_took_are_forgotten(
    server: NatsServer, control: Control, tmp_path: Path, refill: int, survives: bool
) -> None:
    """The stream's end is lost, and its sequences may be used again: what the index says of them is not true."""
    async with open_edge(server, control, tmp_path / "ids") as edge:
        await edge.append(STREAM, *facts(40))
        server.kill()
        shutil.copytree(tmp_path / "nats", tmp_path / "yesterday")
        server.start()
        await until_connected(control)
        await edge.append(STREAM, *facts(20, 40))
        if not survives:
            await edge.indexes.close()
        server.kill()
        shutil.rmtree(tmp_path / "nats")
        (tmp_path / "yesterday").rename(tmp_path / "nats")
        server.start()
        await until_connected(control)
        connection = await NatsConnection.connect(server.target, name="refill")
        for _ in range(refill):
            await publish(connection, b"59")
        connection.close()
        async with open_edge(server, control, tmp_path / "ids") if not survives else held(edge) as later:
            result = await later.append(STREAM, *facts(60))
            assert (result["appended"], result["duplicates"]) == (20, 40)
            await assert_all_known(later, control, facts(60))


class held:  # noqa: N801
    """An edge that goes on."""

    def __init__(self, edge: Edge) -> None:
        self.edge = edge

    async def __aenter__(self) -> Edge:
        return self.edge

    async def __aexit__(self, *error: object) -> None:
        """It ends by itself."""


async def test_what_the_index_has_not_reached_is_not_stored_in_it(edge: Edge) -> None:
    """It would be believed after a power cut that took it from the stream."""
    await edge.append(STREAM, *facts(40))
    index = edge.indexes.of(STREAM)
    assert index._entries
    assert not index._store_soon()
    await edge.append(STREAM, *facts(1))
    assert index._store_soon()


async def test_facts_published_before_the_index_began_anew_are_not_noted_in_it(edge: Edge) -> None:
    index = edge.indexes.of(STREAM)
    async with edge.appends.session(STREAM) as session:
        await session.append([Outgoing(n, STREAM.encode(), b"", b"x") for n in range(20)])
        async with index._busy:
            await index._throw_away()
        await session.append([Outgoing(n, STREAM.encode(), b"", b"x") for n in range(20)])
        await session.settle()
        assert index._own.last == 0
        await session.append([Outgoing(n, STREAM.encode(), b"", b"x") for n in range(20)])
        await session.settle()
        assert index._own.last == 60


@pytest.mark.parametrize("block", [b"", b"A: 1\r\nB: 2\r\n"])
def test_content_is_the_digest_of_a_fact_without_its_id(block: bytes) -> None:
    whole = digest(Fact(0, f"{STREAM}.ä", 0, block, b"payload"))
    assert content_of(f"{STREAM}.ä", block, b"payload").hex() == whole[:32]


@pytest.mark.parametrize(
    ("added", "last", "at_four"),
    [
        ([(1, 2), (3, 5)], 5, (1, 5)),
        ([(3, 5), (1, 2)], 5, (1, 5)),
        ([(1, 2), (4, 5)], 5, (4, 5)),
        ([(4, 4), (6, 9), (5, 5)], 9, (4, 9)),
        ([(1, 9), (2, 3)], 9, (1, 9)),
        ([(5, 9)], 9, None),
        ([], 0, None),
    ],
)
def test_own_stretches_grow_together(
    added: list[tuple[int, int]], last: int, at_four: tuple[int, int] | None
) -> None:
    own = OwnRanges()
    for first, end in added:
        own.add(OwnRange(first, end, b"%d" % end))
    assert own.last == last
    found = own.from_sequence(4)
    assert (found[:2] if found else None) == at_four
    assert found is None or found.anchor == b"%d" % found.last


async def test_own_plain_facts_are_not_read_back(
    edge: Edge, control: Control, direct: NatsConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = edge.indexes.of(STREAM)
    await edge.append(STREAM, *facts(1))
    read: list[int] = []
    original = index._take
    monkeypatch.setattr(index, "_take", lambda found: (read.append(len(found)), original(found))[1])
    await edge.append(STREAM, *[new(b"%d" % n) for n in range(5000)])
    await publish(direct, b"direct", b"Nats-Msg-Id: d\r\n")
    await window_over()
    result = await edge.append(STREAM, new(b"direct", message_id="d"), *facts(1))
    assert result["duplicates"] == 2
    assert 0 < sum(read) < 100


async def test_many_ids_pass_through_little_memory(
    edge: Edge, control: Control, direct: NatsConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_follower, "STORE_ENTRIES", 100)
    monkeypatch.setattr(index_follower, "ENTRIES_MAX", 500)
    index = edge.indexes.of(STREAM)
    for start in range(0, 6000, 1000):
        await edge.append(STREAM, *facts(1000, start))
        assert len(index._entries) <= 500 + 1000
    async with index._busy:
        await index._throw_away()
    await window_over()
    await assert_all_known(edge, control, facts(6000))
    assert len(index._entries) <= 500 + 1000
