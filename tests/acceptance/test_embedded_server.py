"""The embedded nats-server as it really runs: started, locked, adopted, watched, restarted, stopped, and who may what.

Design, decision 11; contract, sections 3 and 6.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import stat
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import nats
import nats.errors
import pytest
from nats.aio.client import Client
from nats.js.api import ConsumerConfig, StreamConfig
from tests.support.patience import patience

from bsfg.daemon.links import PAGE_FACTS
from bsfg.errors import BsfgError, Code, SubstrateUnavailable
from bsfg.lab.homes import LOOPBACK, free_port
from bsfg.model.names import StreamName, ZoneId, physical, subjects
from bsfg.substrates.embedded import EmbeddedObserver, EmbeddedServer, EmbeddedState
from bsfg.substrates.embedded_launch import ServerLauncher
from bsfg.substrates.embedded_process import find_program
from bsfg.substrates.embedded_record import ServerRecord, load_record
from bsfg.substrates.nkey_files import ensure_seed
from bsfg.substrates.store_lock import find_holder, try_lock

OPERATIONAL = StreamName("facts.operational")
ORDERS = StreamName("facts.orders")
ZONE = ZoneId("plant-a")
SECONDS = 15.0

STARTER = """
import asyncio, sys
from pathlib import Path
from bsfg.substrates.embedded import EmbeddedServer

async def main():
    server = EmbeddedServer(Path(sys.argv[1]), "plant-a", int(sys.argv[2]), ["facts.operational"])
    await server.start()
    print(server.pid, flush=True)
    await asyncio.sleep(60)

asyncio.run(main())
"""

MakeServer = Callable[..., EmbeddedServer]


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[MakeServer]:
    """Makes servers of one home and port, all of them gone at the end."""
    made: list[EmbeddedServer] = []
    port = free_port(LOOPBACK, set())

    def new(**changes: Any) -> EmbeddedServer:
        arguments: dict[str, Any] = {"home": tmp_path, "zone": ZONE, "port": port, "streams": [OPERATIONAL]}
        made.append(EmbeddedServer(**(arguments | changes)))
        return made[-1]

    yield new
    for server in made:
        await server.stop()
    holder = find_holder(tmp_path / "data/nats/store.lock")
    if holder is not None and holder.program == "nats-server":
        os.kill(holder.pid, signal.SIGKILL)


async def connect(server: EmbeddedServer, seed: Path | None) -> Client:
    return await nats.connect(
        server.url,
        nkeys_seed=None if seed is None else str(seed),
        connect_timeout=2,
        allow_reconnect=False,
        max_reconnect_attempts=1,
        reconnect_time_wait=0,
        error_cb=_ignore,
    )


@contextlib.asynccontextmanager
async def connected(server: EmbeddedServer, seed: Path | None = None) -> AsyncIterator[Client]:
    connection = await connect(server, seed or server.paths.gateway_seed)
    try:
        yield connection
    finally:
        await connection.close()


async def _ignore(error: Exception) -> None:
    pass


def recorded(server: EmbeddedServer) -> ServerRecord:
    record = load_record(server.paths.record)
    assert record is not None
    return record


async def provision(connection: Client, *streams: StreamName) -> None:
    for stream in streams:
        await connection.jetstream().add_stream(
            StreamConfig(name=physical(stream), subjects=subjects(stream))
        )


async def count(connection: Client, stream: str) -> int:
    return (await connection.jetstream().stream_info(stream)).state.messages


async def until(condition: Callable[[], bool], seconds: float = SECONDS) -> None:
    async with asyncio.timeout(seconds * patience()):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


def is_gone(pid: int) -> bool:
    """Ended, even where nobody has collected it yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


async def start_in_another_process(home: Path, port: int) -> tuple[asyncio.subprocess.Process, int]:
    """A gateway-like parent, and the pid of the nats-server that it started."""
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", STARTER, str(home), str(port), stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    line = await asyncio.wait_for(parent.stdout.readline(), SECONDS * patience())
    return parent, int(line)


async def kill(process: asyncio.subprocess.Process) -> None:
    process.kill()
    await process.wait()


# --- life ---------------------------------------------------------------------------------------------------------


async def test_starts_ready_and_stops_for_good(make: MakeServer, tmp_path: Path) -> None:
    states: list[EmbeddedState] = []
    server = make(observer=EmbeddedObserver(on_state=lambda state, _: states.append(state)))
    await server.start()
    assert (server.state, server.problem) == (EmbeddedState.RUNNING, "")
    async with connected(server) as connection:
        await provision(connection, OPERATIONAL)
        assert (await connection.jetstream().publish("facts.operational.x", b"1")).seq == 1
    pid = server.pid
    assert pid is not None
    assert try_lock(server.paths.lock) is None
    await server.stop()
    assert is_gone(pid)
    lock = try_lock(server.paths.lock)
    assert lock is not None
    os.close(lock)
    assert states == [EmbeddedState.STARTING, EmbeddedState.RUNNING, EmbeddedState.STOPPED]


async def test_what_it_writes_is_private_and_it_listens_on_loopback_alone(make: MakeServer) -> None:
    server = make()
    await server.start()
    paths = server.paths
    for path in (paths.gateway_seed, paths.local_seed, paths.admin_seed, paths.configuration, paths.record):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert stat.S_IMODE(paths.folder.stat().st_mode) == 0o700
    _, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.close()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.2", server.port)


async def test_a_batch_may_be_as_large_as_a_page(make: MakeServer) -> None:
    server = make()
    await server.start()
    async with connected(server) as gateway:
        config = {"name": "pages", "subjects": ["in.pages"], "allow_atomic": True}
        await gateway.request("$JS.API.STREAM.CREATE.pages", json.dumps(config).encode(), timeout=SECONDS)

        async def commit(messages: int) -> dict[str, Any]:
            head = {"Nats-Batch-Id": f"of {messages}"}
            for number in range(1, messages):
                await gateway.publish("in.pages", headers=head | {"Nats-Batch-Sequence": str(number)})
            last = head | {"Nats-Batch-Sequence": str(messages), "Nats-Batch-Commit": "1"}
            answer = await gateway.request("in.pages", headers=last, timeout=SECONDS)
            return dict(json.loads(answer.data))

        assert (await commit(PAGE_FACTS))["count"] == PAGE_FACTS
        assert "too large" in (await commit(PAGE_FACTS + 1))["error"]["description"]


async def test_strict_syncs_always_and_lazy_does_not(make: MakeServer) -> None:
    server = make()
    await server.start()
    assert "sync_interval: always" in server.paths.configuration.read_text()
    await server.detach()
    pid = find_holder(server.paths.lock)
    lazy = make(durability_strict=False)
    await lazy.start()
    assert pid is not None
    assert lazy.pid != pid.pid
    assert "sync_interval" not in lazy.paths.configuration.read_text()


async def test_outlives_a_killed_gateway_and_is_adopted_with_its_connections(
    make: MakeServer, tmp_path: Path
) -> None:
    notices: list[str] = []
    server = make(observer=EmbeddedObserver(on_notice=notices.append))
    parent, pid = await start_in_another_process(tmp_path, server.port)
    async with connected(server) as producer:
        await provision(producer, OPERATIONAL)
        await kill(parent)
        assert (await producer.jetstream().publish("facts.operational", b"while no gateway runs")).seq == 1
        await server.start()
        assert server.pid == pid
        assert os.getsid(pid) == pid
        assert (await producer.jetstream().publish("facts.operational", b"after")).seq == 2
    assert notices == [f"adopted the running nats-server (pid {pid})"]
    await server.stop()
    assert is_gone(pid)


async def test_an_adopted_server_is_watched(make: MakeServer, tmp_path: Path) -> None:
    server = make()
    parent, pid = await start_in_another_process(tmp_path, server.port)
    await kill(parent)
    await server.start()
    os.kill(pid, signal.SIGKILL)
    await until(lambda: server.state is EmbeddedState.RUNNING and server.pid not in (pid, None))


async def test_an_adopted_server_takes_new_streams_without_a_restart(make: MakeServer) -> None:
    first = make()
    await first.start()
    pid = first.pid
    await first.detach()
    second = make(streams=[OPERATIONAL, ORDERS])
    await second.start()
    assert second.pid == pid
    async with connected(second) as gateway, connected(second, second.paths.local_seed) as local:
        await provision(gateway, ORDERS)
        await local.jetstream().publish("facts.orders", b"1")


@pytest.mark.parametrize("damage", ["port", "record", "limit of a batch"])
async def test_a_server_that_cannot_be_adopted_is_restarted_in_order(make: MakeServer, damage: str) -> None:
    first = make()
    await first.start()
    pid = first.pid
    async with connected(first) as gateway:
        await provision(gateway, OPERATIONAL)
        await gateway.jetstream().publish("facts.operational", b"kept")
    await first.detach()
    if damage == "record":
        first.paths.record.write_text("{")
    if damage == "limit of a batch":
        replace(recorded(first), batch_messages_max=1_000).save(first.paths.record)
    second = make(port=free_port(LOOPBACK, set()) if damage == "port" else first.port)
    await second.start()
    assert second.pid != pid
    async with connected(second) as gateway:
        assert await count(gateway, physical(OPERATIONAL)) == 1


async def test_two_gateways_never_start_two_servers(make: MakeServer) -> None:
    first, second = make(), make()
    await asyncio.gather(first.start(), second.start())
    assert first.pid == second.pid
    pid = first.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    await until(lambda: all(server.pid not in (pid, None) for server in (first, second)))
    assert first.pid == second.pid


async def test_a_stop_comes_although_a_library_swallows_its_cancellation(
    make: MakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    swallowed = 0

    async def stubborn(self: ServerLauncher, process: object) -> None:
        nonlocal swallowed
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            swallowed += 1
            await asyncio.sleep(60)

    monkeypatch.setattr(ServerLauncher, "wait_ready", stubborn)
    server = make()
    starting = asyncio.create_task(server.start())
    await until(lambda: server.pid is not None)
    async with asyncio.timeout(5 * patience()):
        await server.stop()
    assert (swallowed, server.pid) == (1, None)
    await asyncio.gather(starting, return_exceptions=True)


async def test_a_killed_server_comes_back_with_all_that_it_acknowledged(make: MakeServer) -> None:
    reasons: list[str] = []
    server = make(observer=EmbeddedObserver(on_restart=reasons.append))
    await server.start()
    async with connected(server) as gateway:
        await provision(gateway, OPERATIONAL)
        for number in range(50):
            await gateway.jetstream().publish("facts.operational", str(number).encode())
    pid = server.pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    await until(lambda: bool(reasons))
    assert server.pid not in (pid, None)
    assert "SIGKILL" in reasons[0]
    async with connected(server) as gateway:
        assert await count(gateway, physical(OPERATIONAL)) == 50


async def test_a_restart_heals_even_a_server_that_does_not_answer(make: MakeServer) -> None:
    reasons: list[str] = []
    server = make(observer=EmbeddedObserver(on_restart=reasons.append))
    await server.start()
    pid = server.pid
    await server.restart("JetStream is wedged")
    assert server.pid not in (pid, None)
    assert reasons == ["JetStream is wedged"]
    assert server.state is EmbeddedState.RUNNING
    assert server.pid is not None
    os.kill(server.pid, signal.SIGSTOP)
    started = asyncio.get_running_loop().time()
    await server.stop()
    assert asyncio.get_running_loop().time() - started < 10


# --- what stands in the way ---------------------------------------------------------------------------------------


async def test_a_lock_held_by_another_program_is_refused_and_names_it(make: MakeServer) -> None:
    server = make()
    server.paths.folder.mkdir(parents=True)
    lock = try_lock(server.paths.lock)
    assert lock is not None
    other = await asyncio.create_subprocess_exec("sleep", "60", pass_fds=[lock])
    os.close(lock)
    try:
        with pytest.raises(BsfgError, match=rf"locked by sleep \(pid {other.pid}\)") as caught:
            await server.start()
        assert caught.value.code is Code.CONFIGURATION
        assert other.returncode is None
        assert (server.state, server.pid) == (EmbeddedState.FAILED, None)
    finally:
        await kill(other)
    await server.start()
    assert server.state is EmbeddedState.RUNNING


async def test_a_taken_port_is_named_and_used_once_it_is_free(make: MakeServer) -> None:
    server = make()
    with socket.socket() as other:
        other.bind(("127.0.0.1", server.port))
        other.listen()
        with pytest.raises(SubstrateUnavailable, match=f"port {server.port} of 127.0.0.1 is taken") as caught:
            await server.start(keep_trying=True)
        assert "embedded: {port" in caught.value.hint
        assert server.state is EmbeddedState.RESTARTING
        assert str(server.port) in server.problem
    await until(lambda: server.state is EmbeddedState.RUNNING)


async def test_a_store_of_a_newer_server_is_refused(make: MakeServer) -> None:
    server = make()
    server.paths.store.mkdir(parents=True)
    record = ServerRecord(1, 2, server.port, "99.1.0", str(server.paths.store), True, None, "")
    record.save(server.paths.record)
    with pytest.raises(BsfgError, match=r"last used by nats-server 99\.1\.0") as caught:
        await server.start()
    assert caught.value.code is Code.CONFIGURATION
    assert load_record(server.paths.record) == record


async def test_a_seed_that_others_can_read_is_refused(make: MakeServer) -> None:
    server = make()
    await server.start()
    await server.stop()
    server.paths.local_seed.chmod(0o644)
    with pytest.raises(BsfgError, match=r"nats-local\.nk"):
        await server.start()
    server.paths.local_seed.chmod(0o600)
    await server.start()


async def test_a_crash_loop_is_named_with_its_last_words(make: MakeServer, tmp_path: Path) -> None:
    program = tmp_path / "nats-server"
    program.write_text(
        '#!/bin/sh\n[ "$1" = --version ] && echo "nats-server: v2.15.1" && exit 0\n'
        "echo 'starting'\necho 'the store is unreadable' >&2\nexit 7\n"
    )
    program.chmod(0o755)
    server = make(program=program)
    with pytest.raises(
        SubstrateUnavailable, match="ended with status 7; it said last: the store is unreadable"
    ):
        await server.start(keep_trying=True)
    assert server.state is EmbeddedState.RESTARTING
    await until(lambda: server.state is EmbeddedState.CRASH_LOOPING)
    assert "the store is unreadable" in server.problem
    await server.stop()
    assert server.pid is None


async def test_a_real_server_that_cannot_use_its_store_says_why(make: MakeServer) -> None:
    server = make()
    server.paths.store.mkdir(parents=True)
    (server.paths.store / "jetstream").write_text("not a folder")
    with pytest.raises(SubstrateUnavailable, match="JetStream"):
        await server.start()
    assert server.state is EmbeddedState.FAILED


# --- who may what -------------------------------------------------------------------------------------------------


@pytest.fixture
async def zone(make: MakeServer) -> AsyncIterator[tuple[EmbeddedServer, Client, Client]]:
    """A running server with a local and an inbound stream, its gateway's and a local application's connection."""
    server = make()
    await server.start()
    async with connected(server) as gateway, connected(server, server.paths.local_seed) as local:
        await provision(gateway, OPERATIONAL, ORDERS)
        jetstream = gateway.jetstream()
        await jetstream.add_stream(
            StreamConfig(name="in_e_g1", subjects=["in.e.g1", "in.e.g1.>"], allow_direct=True)
        )
        await jetstream.create_key_value(bucket="bsfg_links")
        await jetstream.add_consumer("in_e_g1", ConsumerConfig(durable_name="e-from-plant-a"))
        for number in range(10):
            await jetstream.publish("in.e.g1.x", str(number).encode())
        yield server, gateway, local


async def test_a_local_application_publishes_reads_and_consumes(
    zone: tuple[EmbeddedServer, Client, Client],
) -> None:
    _, gateway, local = zone
    jetstream = local.jetstream()
    assert (await jetstream.publish("facts.operational.batch", b"1", headers={"Nats-Msg-Id": "a"})).seq == 1
    assert (await jetstream.publish("facts.operational.batch", b"1", headers={"Nats-Msg-Id": "a"})).duplicate
    assert (await jetstream.stream_info("in_e_g1")).state.messages == 10
    assert (await jetstream.get_msg("in_e_g1", 3)).data == b"2"
    assert (await jetstream.get_msg("in_e_g1", 3, direct=True)).data == b"2"
    bound = await jetstream.pull_subscribe_bind("e-from-plant-a", stream="in_e_g1")
    first = await bound.fetch(4, timeout=5)
    for message in first:
        await message.ack_sync()
    assert [message.data for message in first + await bound.fetch(6, timeout=5)] == [
        b"%d" % n for n in range(10)
    ]
    own = await jetstream.pull_subscribe("in.e.g1.>", durable="own", stream="in_e_g1")
    assert len(await own.fetch(10, timeout=5)) == 10
    pushed = await jetstream.subscribe("in.e.g1.>", stream="in_e_g1", ordered_consumer=True)
    assert (await pushed.next_msg(timeout=5)).data == b"0"
    assert await count(gateway, physical(OPERATIONAL)) == 1


async def test_a_local_application_hears_its_streams_and_what_arrives_once(
    zone: tuple[EmbeddedServer, Client, Client],
) -> None:
    _, gateway, local = zone
    heard: list[bytes] = []

    async def hear(message: Any) -> None:
        heard.append(message.data)

    await local.subscribe("facts.operational.>", cb=hear)
    await local.subscribe("in.>", cb=hear)
    await local.flush()
    await local.jetstream().publish("facts.operational.x", b"own")
    await gateway.jetstream().publish("facts.operational.x", b"appended")
    await gateway.jetstream().publish("in.e.g1", b"arrived")
    await until(lambda: len(heard) >= 3)
    await asyncio.sleep(0.1)
    assert heard == [b"own", b"appended", b"arrived"]


async def refused(attempt: Awaitable[object]) -> bool:
    try:
        await attempt
    except (nats.errors.TimeoutError, nats.errors.NoRespondersError):
        return True
    return False


async def state_of_streams(gateway: Client) -> dict[str, tuple[int, int, list[str]]]:
    infos = await gateway.jetstream().streams_info()
    return {
        info.config.name or "": (info.state.messages, info.state.last_seq, info.config.subjects or [])
        for info in infos
    }


FORBIDDEN = (
    ("in.e.g1", b"forged"),
    ("in.e.g1.x", b"forged"),
    ("facts.telemetry", b"not a configured stream"),
    ("$KV.bsfg_links.e", b"{}"),
    ("$JS.API.STREAM.PURGE.in_e_g1", b""),
    ("$JS.API.STREAM.PURGE.facts_orders", b""),
    ("$JS.API.STREAM.DELETE.in_e_g1", b""),
    ("$JS.API.STREAM.MSG.DELETE.in_e_g1", b'{"seq":1}'),
    ("$JS.API.STREAM.CREATE.more", b'{"name":"more","subjects":["more"]}'),
    ("$JS.API.STREAM.UPDATE.in_e_g1", b'{"name":"in_e_g1","subjects":["in.e.g1.>"]}'),
    ("$JS.API.CONSUMER.DELETE.in_e_g1.e-from-plant-a", b""),
)


async def test_a_local_application_changes_nothing_else_and_the_administrator_may(
    zone: tuple[EmbeddedServer, Client, Client],
) -> None:
    server, gateway, local = zone
    before = await state_of_streams(gateway)
    for subject, payload in FORBIDDEN:
        assert await refused(local.request(subject, payload, timeout=0.3)), subject
    assert await state_of_streams(gateway) == before
    async with connected(server, server.paths.admin_seed) as admin:
        await admin.jetstream().publish("in.e.g1", b"administered")
        assert await count(gateway, "in_e_g1") == 11
        await admin.jetstream().purge_stream("in_e_g1")
        assert await count(gateway, "in_e_g1") == 0
        await admin.jetstream().delete_stream("in_e_g1")
        assert "in_e_g1" not in await state_of_streams(gateway)


REPLIES = (
    "in.e.g1",
    "in.e.g1.x",
    "$KV.bsfg_links.e",
    "$JS.API.STREAM.PURGE.in_e_g1",
    "$JS.API.STREAM.DELETE.in_e_g1",
)


async def test_an_answer_never_goes_where_its_asker_may_not_publish(
    zone: tuple[EmbeddedServer, Client, Client],
) -> None:
    """The server publishes answers with its own rights: to an inbound stream they would be a forged fact."""
    server, gateway, local = zone
    before = await state_of_streams(gateway)
    asked = ("facts.operational.x", "$JS.API.INFO", "$JS.API.CONSUMER.MSG.NEXT.in_e_g1.e-from-plant-a")
    for subject in asked:
        for reply in REPLIES:
            await local.publish(subject, b"", reply=reply)
    await local.flush()
    await asyncio.sleep(0.3)
    after = await state_of_streams(gateway)
    assert after.pop(physical(OPERATIONAL))[0] == len(REPLIES)
    assert after == {name: state for name, state in before.items() if name != physical(OPERATIONAL)}
    async with connected(server, server.paths.admin_seed) as admin:
        await admin.publish("facts.operational.x", b"", reply="in.e.g1")
        await admin.flush()
        await asyncio.sleep(0.3)
    assert await count(gateway, "in_e_g1") == 11


async def test_nobody_comes_in_without_a_seed_or_with_a_strange_one(make: MakeServer, tmp_path: Path) -> None:
    server = make()
    await server.start()
    strange = tmp_path / "strange.nk"
    ensure_seed(strange)
    for seed in (None, strange):
        with pytest.raises(nats.errors.Error, match="Authorization Violation"):
            await connect(server, seed)
    async with connected(server, server.paths.local_seed):
        pass


async def test_new_streams_are_served_without_a_restart_and_old_ones_no_longer(make: MakeServer) -> None:
    server = make()
    await server.start()
    pid = server.pid
    async with connected(server) as gateway, connected(server, server.paths.local_seed) as local:
        await provision(gateway, OPERATIONAL, ORDERS)
        assert await refused(local.jetstream().publish("facts.orders.x", b"1", timeout=0.3))
        consumer = await local.jetstream().pull_subscribe(
            "facts.orders.>", durable="app", stream="facts_orders"
        )
        await server.apply_streams([ORDERS])
        assert server.pid == pid
        assert gateway.is_connected
    async with connected(server, server.paths.local_seed) as local:
        assert (await local.jetstream().publish("facts.orders.x", b"1")).seq == 1
        assert await refused(local.jetstream().publish("facts.operational.x", b"1", timeout=0.3))
        consumer = await local.jetstream().pull_subscribe_bind("app", stream="facts_orders")
        assert [message.data for message in await consumer.fetch(1, timeout=5)] == [b"1"]
    record = json.loads(server.paths.record.read_text())
    assert record["pid"] == pid


async def test_streams_applied_while_it_starts_are_served_when_it_is_ready(make: MakeServer) -> None:
    server = make()
    starting = asyncio.create_task(server.start())
    async with asyncio.timeout(SECONDS * patience()):
        while server.pid is None:  # noqa: ASYNC110
            await asyncio.sleep(0)
    assert server.state is EmbeddedState.STARTING
    await server.apply_streams([ORDERS])
    await starting
    async with connected(server) as gateway, connected(server, server.paths.local_seed) as local:
        await provision(gateway, ORDERS)
        await local.jetstream().publish("facts.orders", b"1")


async def test_a_configuration_that_the_server_does_not_take_is_reported(make: MakeServer) -> None:
    server = make()
    await server.start()
    assert server.pid is not None
    os.kill(server.pid, signal.SIGSTOP)
    try:
        with pytest.raises(SubstrateUnavailable, match="did not take"):
            await server.apply_streams([ORDERS])
    finally:
        os.kill(server.pid, signal.SIGCONT)


def test_the_wheel_brings_the_server() -> None:
    assert find_program().name == "nats-server"
