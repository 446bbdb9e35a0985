"""An external NATS is strict only when every server that can hold streams was seen to sync always (I3; decision 6)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.support.nats import NatsServer, running_nats
from tests.support.nats_cluster import NatsCluster, claiming, running_cluster
from tests.support.patience import patience

from bsfg.errors import SubstrateUnavailable
from bsfg.lab.homes import free_port
from bsfg.substrates import durability
from bsfg.substrates.control import Control
from bsfg.substrates.durability import (
    DurabilityWatch,
    Gathered,
    ServerReport,
    ask_monitors,
    ask_system_account,
    doubt,
    read_report,
)
from bsfg.substrates.nats_connection import NatsConnection
from bsfg.substrates.nats_target import NatsTarget
from bsfg.substrates.server_version import demand_accepted

SECONDS = 10.0
ALONE = ServerReport("ID1", "n1", "2.15.1", "", has_jetstream=True, syncs_always=True)
ALL_OF_THREE = [
    replace(
        ALONE,
        server_id=f"ID{number}",
        name=f"n{number}",
        members=3,
        member_names=frozenset({"n1", "n2", "n3"}),
    )
    for number in (1, 2, 3)
]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsCluster]:
    """Three servers that sync always."""
    with running_cluster(tmp_path_factory.mktemp("nats") / "always") as running:
        yield running


@pytest.fixture
def monitored(tmp_path: Path) -> Iterator[tuple[NatsServer, str]]:
    """One server that syncs always, and its monitor's URL; stopped and started again it may sync otherwise."""
    monitor = f"127.0.0.1:{free_port('127.0.0.1', set())}"
    with running_nats(tmp_path / "nats", sync_interval="always", extra=f'http: "{monitor}"') as server:
        yield server, f"http://{monitor}"


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(SECONDS * patience()):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def connected_id(cluster: NatsCluster) -> str:
    """The id of the server n1, which a gateway would be connected to."""
    [report] = (await ask_monitors([cluster.nodes[0].monitor], None)).reports
    return report.server_id


def zone_target(cluster: NatsCluster, account: str, folder: Path) -> NatsTarget:
    signer = getattr(cluster.accounts, account)
    credentials = cluster.accounts.credentials(signer, folder / f"{account}.creds")
    urls = tuple(cluster.urls.split(","))
    return NatsTarget(urls, None, credentials, ssl.create_default_context(cafile=str(cluster.ca)))


# What the reports mean.


def test_one_server_that_syncs_always_is_beyond_doubt() -> None:
    assert doubt(Gathered([ALONE]), "ID1", 1) is None


def test_one_server_that_syncs_now_and_then_is_not() -> None:
    lazy = replace(ALONE, syncs_always=False, sync_seconds=120.0)
    assert (
        doubt(Gathered([lazy]), "ID1", 1) == "server n1 syncs every 120 s, not always (sync_interval: always)"
    )


def test_the_monitor_of_another_server_shows_nothing() -> None:
    assert (
        doubt(Gathered([ALONE]), "ID9", 1) == "the servers that answer are not those that we are connected to"
    )


def test_no_answer_is_told_with_its_cause() -> None:
    assert doubt(Gathered([], ["http://n1:8222 can't be asked: refused"]), "ID1", 1) == (
        "http://n1:8222 can't be asked: refused"
    )


def test_all_servers_of_a_cluster_have_to_be_seen() -> None:
    assert doubt(Gathered(ALL_OF_THREE), "ID1", 3) is None
    found = doubt(Gathered(ALL_OF_THREE[:2], ["http://n3:8222 can't be asked: refused"]), "ID1", 3)
    assert found == (
        "2 of 3 servers of JetStream were seen to sync always (missing: n3); http://n3:8222 can't be asked: refused"
    )


def test_the_same_server_asked_twice_counts_once() -> None:
    assert doubt(Gathered([ALL_OF_THREE[0]] * 3), "ID1", 3) is not None


@pytest.mark.parametrize(("replicas", "is_certain"), [(1, False), (3, True)])
def test_a_server_that_is_offline_is_excused_where_every_stream_has_a_quorum(
    replicas: int, is_certain: bool
) -> None:
    leader = replace(ALL_OF_THREE[0], offline=frozenset({"n3"}))
    assert (doubt(Gathered([leader, ALL_OF_THREE[1]]), "ID1", replicas) is None) == is_certain


def test_one_lazy_server_of_a_cluster_spoils_it() -> None:
    lazy = replace(ALL_OF_THREE[2], syncs_always=False, sync_seconds=120.0)
    assert "server n3 syncs every 120 s" in str(doubt(Gathered([*ALL_OF_THREE[:2], lazy]), "ID1", 3))


def test_servers_without_jetstream_and_of_other_domains_hold_none_of_our_streams() -> None:
    elsewhere = replace(ALONE, server_id="ID7", name="hub", domain="hub", syncs_always=False)
    plain = replace(ALONE, server_id="ID8", name="edge", has_jetstream=False, syncs_always=False)
    assert doubt(Gathered([ALONE, elsewhere, plain]), "ID1", 1) is None
    assert doubt(Gathered([plain]), "ID8", 1) == "no server that answers runs JetStream"


def test_a_server_of_a_refused_version_is_not_believed() -> None:
    old = replace(ALONE, version="2.10.20")
    assert doubt(Gathered([old]), "ID1", 1) == (
        "server n1: nats-server 2.10.20 is refused, as all through 2.10.23"
    )


# Asking real servers.


async def test_the_monitors_of_a_cluster(cluster: NatsCluster) -> None:
    own = await connected_id(cluster)
    gathered = await ask_monitors([node.monitor for node in cluster.nodes], None)
    assert {report.name: report.syncs_always for report in gathered.reports} == dict.fromkeys(
        ("n1", "n2", "n3"), True
    )
    assert {report.members for report in gathered.reports} == {3}
    assert doubt(gathered, own, 3) is None
    two = await ask_monitors([node.monitor for node in cluster.nodes[:2]], None)
    assert "2 of 3 servers of JetStream" in str(doubt(two, own, 3))
    assert "(missing: n3)" in str(doubt(two, own, 3))


async def test_the_system_account_of_a_cluster(cluster: NatsCluster, tmp_path: Path) -> None:
    gathered = await ask_system_account(zone_target(cluster, "system", tmp_path))
    assert sorted(report.name for report in gathered.reports) == ["n1", "n2", "n3"]
    assert doubt(gathered, await connected_id(cluster), 3) is None


async def test_a_user_of_another_account_learns_nothing(cluster: NatsCluster, tmp_path: Path) -> None:
    gathered = await ask_system_account(zone_target(cluster, "zone", tmp_path))
    assert gathered.reports == []
    assert "is it one of the system account?" in str(doubt(gathered, await connected_id(cluster), 3))


async def test_a_cluster_with_one_lazy_server(tmp_path: Path) -> None:
    with running_cluster(tmp_path / "mixed", ("always", "always", "2m")) as mixed:
        own = await connected_id(mixed)
        gathered = await ask_monitors([node.monitor for node in mixed.nodes], None)
        assert doubt(gathered, own, 3) == "server n3 syncs every 120 s, not always (sync_interval: always)"
        by_account = await ask_system_account(zone_target(mixed, "system", tmp_path))
        assert doubt(by_account, own, 3) == doubt(gathered, own, 3)


async def test_proxies_of_the_environment_are_not_asked(
    monitored: tuple[NatsServer, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    assert len((await ask_monitors([monitored[1]], None)).reports) == 1


@asynccontextmanager
async def answering(answer: bytes | None) -> AsyncIterator[str]:
    """A port that answers each request so; None: never."""
    ended = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        if answer is None:
            await ended.wait()
        else:
            writer.write(answer)
            with contextlib.suppress(ConnectionError):
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        ended.set()
        server.close()


def http(body: bytes, status: str = "200 OK", more: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{more}\r\n".encode() + body


ODD_ANSWERS = {
    "not-http": (b"hello\r\n", "can't be asked"),
    "not-json": (http(b"<html>"), "does not answer as a nats-server's monitor does"),
    "other-json": (http(b"[1]"), "does not answer as a nats-server's monitor does"),
    "other-shape": (
        http(b'{"server_id": "A", "server_name": "b", "version": "1", "jetstream": [1]}'),
        "monitor does",
    ),
    "deep": (http(b"[" * 200_000), "does not answer as a nats-server's monitor does"),
    "long": (http(b" " * (durability.ANSWER_BYTES_MAX + 1)), "answers with more than 1048576 bytes"),
    "refused": (http(b"", "403 Forbidden"), "answers with status 403"),
    "elsewhere": (http(b"", "302 Found", "Location: http://127.0.0.1:1/varz\r\n"), "answers with status 302"),
}


@pytest.mark.parametrize(("answer", "words"), ODD_ANSWERS.values(), ids=ODD_ANSWERS.keys())
async def test_an_odd_answer_is_no_report(answer: bytes, words: str) -> None:
    async with answering(answer) as url:
        gathered = await ask_monitors([url], None)
    assert gathered.reports == []
    assert len(gathered.failures) == 1
    assert words in gathered.failures[0]


async def test_a_silent_monitor_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durability, "HTTP_SECONDS", 0.3)
    async with asyncio.timeout(3 * patience()), answering(None) as url:
        gathered = await ask_monitors([url], None)
    assert gathered.failures == [f"{url} does not answer within 0.3 s"]


def test_a_report_is_read_from_what_a_server_says() -> None:
    varz = {
        "server_id": "ID1",
        "server_name": "n1",
        "version": "2.15.1",
        "jetstream": {
            "config": {"sync_interval": 120_000_000_000, "domain": "plant"},
            "meta": {
                "leader": "n1",
                "cluster_size": 3,
                "replicas": [{"name": "n2"}, {"name": "n3", "offline": True}],
            },
        },
    }
    wanted = ServerReport(
        "ID1", "n1", "2.15.1", "plant", True, False, 120.0, 3, frozenset({"n2", "n3"}), frozenset({"n3"})
    )
    assert read_report(varz) == wanted
    varz["jetstream"]["meta"]["leader"] = "n2"  # type: ignore[index]
    assert read_report(varz).offline == frozenset(), "only the leader knows who is away"


# Watching.


@asynccontextmanager
async def watching(
    control: Control, ask: durability.Ask | None, notices: list[str], *, is_lazy: bool = False
) -> AsyncIterator[DurabilityWatch]:
    watch = DurabilityWatch(control, ask, replicas=1, is_lazy=is_lazy, notice=notices.append)
    task = asyncio.create_task(watch.run())
    try:
        yield watch
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def controlling(url: str) -> AsyncIterator[Control]:
    control = await Control.open(NatsTarget((url,)), name="test")
    try:
        yield control
    finally:
        await control.close()


async def test_a_reconnection_is_a_reason_to_look_again(
    monitored: tuple[NatsServer, str], tmp_path: Path
) -> None:
    server, url = monitored
    notices: list[str] = []
    async with (
        controlling(server.url) as control,
        watching(control, lambda: ask_monitors([url], None), notices) as watch,
    ):
        assert (watch.word, watch.reason) == ("unverified", "it was not checked yet")
        await until(lambda: watch.word == "strict")
        assert watch.reason is None
        server.stop()
        server._sync_interval = "2m"
        server.start()
        await until(lambda: watch.word == "unverified")
        assert "syncs every 120 s" in str(watch.reason)
    assert [notice.split(":")[0] for notice in notices] == [
        "durability is strict",
        "durability is unverified",
    ]


async def test_it_is_looked_at_again_after_a_minute(
    monitored: tuple[NatsServer, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(durability, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(durability, "RECHECK_SECONDS", 0.2)
    monkeypatch.setattr(durability, "RETRY_SECONDS", 0.2)
    answers: list[Sequence[ServerReport]] = []
    async with controlling(monitored[0].url) as control:
        own = replace(ALONE, server_id=str(control.server_id))
        answers.append([own])

        async def ask() -> Gathered:
            return Gathered(answers[-1])

        async with watching(control, ask, []) as watch:
            await until(lambda: watch.word == "strict")
            answers.append([replace(own, syncs_always=False)])
            await until(lambda: watch.word == "unverified")
            answers.append([own])
            await until(lambda: watch.word == "strict")


async def test_without_a_source_it_stays_unverified(monitored: tuple[NatsServer, str]) -> None:
    async with controlling(monitored[0].url) as control, watching(control, None, []) as watch:
        await until(lambda: watch.reason == durability.NO_SOURCE)
        assert watch.word == "unverified"


async def test_lazy_is_a_choice_that_nobody_has_to_prove(monitored: tuple[NatsServer, str]) -> None:
    async with controlling(monitored[0].url) as control, watching(control, None, [], is_lazy=True) as watch:
        await watch.check()
        assert (watch.word, watch.reason) == ("lazy", None)


# Versions of external servers.


async def test_a_refused_version_is_no_connection(monitored: tuple[NatsServer, str]) -> None:
    async with claiming(monitored[0], "2.10.23") as url:
        control = Control(NatsTarget((url,)), name="test")
        control.start()
        try:
            await until(lambda: "2.10.23 is refused" in str(control.problem))
            assert not control.connected
            with pytest.raises(SubstrateUnavailable, match=r"2\.10\.23 is refused"):
                await control.api("INFO")
        finally:
            await control.close()
    async with claiming(monitored[0], "2.10.24") as url, controlling(url) as control:
        assert control.connected


async def test_facts_go_past_a_server_of_a_refused_version(monitored: tuple[NatsServer, str]) -> None:
    async with claiming(monitored[0], "2.10.23") as old:
        with pytest.raises(SubstrateUnavailable, match=r"2\.10\.23 is refused"):
            await NatsConnection.connect(NatsTarget((old,)), name="test")
        connection = await NatsConnection.connect(NatsTarget((old, monitored[0].url)), name="test")
        assert connection.server_info["version"] != "2.10.23"
        connection.close()


async def test_a_version_with_known_defects_is_told_once(monitored: tuple[NatsServer, str]) -> None:
    notices: list[str] = []
    async with (
        claiming(monitored[0], "2.12.4") as url,
        controlling(url) as control,
        watching(control, None, notices, is_lazy=True),
    ):
        await until(lambda: bool(notices))
        connections = control.connections
        assert control._client is not None
        await control._client.close()
        await until(lambda: control.connections > connections and control.connected)
        await asyncio.sleep(1.2)
    assert notices == [
        "nats-server 2.12.4 has known defects in JetStream: use 2.12.12 or newer of 2.12, or 2.14.4 or newer"
    ]


@pytest.mark.parametrize("version", ["2.15.1", "2.12.4", "", "dev"])
def test_other_versions_are_taken(version: str) -> None:
    demand_accepted(version)


def test_a_refused_version_says_what_to_use() -> None:
    with pytest.raises(SubstrateUnavailable) as caught:
        demand_accepted("2.10.20")
    assert "2.12.12" in caught.value.hint


def test_answers_of_the_system_account_are_held_against_their_shape() -> None:
    frames: list[Any] = [
        durability.Frame(b"inbox", b"", b"", payload)
        for payload in (
            b"{}",
            b"x",
            json.dumps({"data": {"server_id": "A", "server_name": "n", "version": "1"}}).encode(),
        )
    ]
    gathered = durability._of_frames(frames)
    assert [report.name for report in gathered.reports] == ["n"]
    assert len(gathered.failures) == 2
