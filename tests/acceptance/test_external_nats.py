"""A zone on a NATS cluster that others run: TLS, credentials, three replicas, servers that die, streams of others.

The plant's gateway uses three real servers on loopback; the enterprise has its embedded one.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import nats
import pytest
from tests.support.lab_zones import (
    ENTERPRISE,
    INBOUND_STREAM,
    OPERATIONAL,
    OPERATIONAL_STREAM,
    PLANT,
    Zone,
    eventually,
)
from tests.support.nats import running_nats
from tests.support.nats_cluster import NatsCluster, claiming, running_cluster
from tests.support.patience import patience

from bsfg.config.home import Home
from bsfg.config.load import load
from bsfg.errors import BsfgError
from bsfg.lab import held, homes, processes, program
from bsfg.lab.homes import LabPaths
from bsfg.lab.processes import LabZone
from bsfg.lab.stores import Store, StoredMessage, opened
from bsfg.substrates.control import Control
from bsfg.substrates.nats_target import NatsTarget

ORDERS: Final = "facts.orders"
INBOUND_ORDERS: Final = "in_plant-a_facts_orders_g1"
FACTS_A_CALL: Final = 500
UP_SECONDS: Final = 20.0
FOREIGN: Final = {
    "name": OPERATIONAL_STREAM,
    "subjects": [OPERATIONAL, f"{OPERATIONAL}.>"],
    "description": "made by the plant's own tools",
    "storage": "file",
    "num_replicas": 1,
    "max_msgs": 5_000,
    "max_age": 3_600_000_000_000,
    "metadata": {"team": "mes"},
}


@dataclass
class Stage:
    """The cluster and both zones."""

    directory: Path
    cluster: NatsCluster
    enterprise: Zone
    plant: Zone
    gateways: dict[str, held.HeldProcess] = field(default_factory=dict)

    @property
    def target(self) -> NatsTarget:
        """The cluster as the plant's gateway logs in there."""
        context = ssl.create_default_context(cafile=str(self.cluster.ca))
        return NatsTarget(
            tuple(self.cluster.urls.split(",")), None, self.plant.paths.config / "nats.creds", context
        )

    def start(self, zone: Zone) -> None:
        command = program.command_line("serve", "--home", str(zone.home))
        self.gateways[zone.place.zone] = held.launch(command, zone.paths.data / "gateway.stderr")

    def stop(self, zone: Zone) -> None:
        process = self.gateways.pop(zone.place.zone)
        process.stop(12)
        process.close()

    def level(self) -> None:
        """Both zones are healthy and have all facts of each other."""
        for zone in (self.enterprise, self.plant):
            eventually(f"{zone.place.zone} is healthy", UP_SECONDS, lambda zone=zone: obstacle(zone) == "")
        for sender, receiver in ((self.enterprise, self.plant), (self.plant, self.enterprise)):
            eventually("every link is level", UP_SECONDS, lambda a=sender, b=receiver: is_level(a, b))

    async def api(self, verb: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        control = await Control.open(self.target, name="test")
        try:
            return await control.api(verb, body)
        finally:
            await control.close()


def obstacle(zone: Zone) -> str:
    """Why the zone is not healthy; empty if it is."""
    try:
        return "; ".join(zone.status()["problems"])
    except BsfgError as error:
        return error.message


def is_level(sender: Zone, receiver: Zone) -> bool:
    heads = {row["stream"]: row["last_sequence"] for row in sender.streams()["streams"]}
    rows = [row for row in receiver.cursors()["cursors"] if row["peer"] == sender.place.zone]
    return all(row["state"] == "level" and row["scanned_through"] >= heads[row["stream"]] for row in rows)


def substrate_line(cluster: NatsCluster, *, monitors: int = 3) -> str:
    listed = ", ".join(f'"{node.monitor}"' for node in cluster.nodes[:monitors])
    monitor = f", monitor: [{listed}]" if monitors else ""
    return (
        f'substrate: {{url: "{cluster.urls}", credentials: config/nats.creds, ca: certs/nats-ca.crt, replicas: 3'
        f"{monitor}, inbound_exclusive: true}}"
    )


def with_substrate(text: str, line: str) -> str:
    """zone.yaml with this substrate."""
    return "".join(
        f"{line}\n" if row.startswith("substrate:") else row for row in text.splitlines(keepends=True)
    )


def place_of(directory: Path, zone: str) -> LabZone:
    """A zone of the stage; its NATS is where zone.yaml says."""
    paths = LabPaths(directory)
    home, authority = Home(paths.home(zone)), paths.authority(zone)
    config = load(home.path).zone
    return LabZone(
        zone=zone,
        home=home.path,
        endpoint=str(config.listen),
        local=str(config.local),
        nats="",
        nats_credentials=home.local_seed,
        nats_admin_credentials=home.admin_seed,
        log=home.data / "bsfg.log",
        ca_cert=authority.certificate,
        ca_key=authority.key,
        pid=None,
    )


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Both zones up and level; the plant's stream facts_operational was there before its gateway."""
    folder = tmp_path_factory.mktemp("external")
    with running_cluster(folder / "nats") as cluster:
        lab = folder / "lab"
        homes.build(lab)
        plant = Home(LabPaths(lab).home(PLANT))
        cluster.accounts.credentials(cluster.accounts.zone, plant.config / "nats.creds")
        (plant.certs / "nats-ca.crt").write_bytes(cluster.ca.read_bytes())
        plant.zone_file.write_text(with_substrate(plant.zone_file.read_text(), substrate_line(cluster)))
        stage = Stage(lab, cluster, Zone(processes.zone_of(lab, ENTERPRISE)), Zone(place_of(lab, PLANT)))
        asyncio.run(stage.api(f"STREAM.CREATE.{OPERATIONAL_STREAM}", FOREIGN))
        try:
            stage.start(stage.enterprise)
            stage.start(stage.plant)
            stage.level()
            yield stage
        finally:
            for zone in (stage.plant, stage.enterprise):
                if zone.place.zone in stage.gateways:
                    stage.stop(zone)
            with held.server_of(stage.enterprise.home) as server:
                if server is not None:
                    server.stop(8)


# Facts.


class Producer(threading.Thread):
    """An application that appends under ids, and again what was not acknowledged, until it is told to end."""

    def __init__(self, zone: Zone, stream: str) -> None:
        super().__init__(daemon=True)
        self._zone = zone
        self._stream = stream
        self._ending = threading.Event()
        self.acknowledged = 0
        self.refusals: list[int] = []

    def run(self) -> None:
        while not self._ending.is_set():
            self._append_once()

    def finish(self) -> int:
        """How many facts are acknowledged, numbered from 0."""
        self._ending.set()
        self.join(60)
        assert not self.is_alive()
        return self.acknowledged

    def _append_once(self) -> None:
        numbers = range(self.acknowledged, self.acknowledged + FACTS_A_CALL)
        rows = [{"message_id": f"{self._stream}-{number}", "data": payload(number)} for number in numbers]
        lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
        done = self._zone.bsfg("append", "--stream", self._stream, "--envelope", "-", stdin=lines)
        if done.status == 0:
            self.acknowledged = numbers.stop
        else:
            assert "Traceback" not in done.errors
            self.refusals.append(done.status)


def payload(number: int) -> str:
    return json.dumps({"number": number, "text": "x" * (number % 700)})


@contextmanager
def producing(zone: Zone, stream: str) -> Iterator[Producer]:
    producer = Producer(zone, stream)
    producer.start()
    try:
        yield producer
    finally:
        producer.finish()


@asynccontextmanager
async def plant_store(stage: Stage) -> AsyncIterator[Store]:
    """The cluster, read by nats-py."""
    client = await nats.connect(
        servers=list(stage.target.urls),
        tls=stage.target.tls,
        user_credentials=str(stage.target.credentials_file),
        connect_timeout=3,
    )
    try:
        yield Store(client, [], asyncio.Event())
    finally:
        await client.close()


def numbers_of(messages: Sequence[StoredMessage]) -> list[int]:
    """The numbers of the producer's facts, in order."""
    found = [json.loads(message.payload) for message in messages]
    return [row["number"] for row in found if set(row) == {"number", "text"}]


@pytest.mark.slow
async def test_nothing_is_lost_or_repeated_while_servers_die(stage: Stage) -> None:
    with producing(stage.enterprise, OPERATIONAL) as down, producing(stage.plant, ORDERS) as up:
        eventually(
            "facts flow to the plant", UP_SECONDS, lambda: (stage.plant.cursor()["sequence"] or 0) > 1_000
        )
        leader = stage.cluster.leader_of(INBOUND_STREAM)
        stage.cluster.node(leader).kill()
        before = stage.plant.cursor()["sequence"]
        eventually(
            "facts flow without the leader",
            UP_SECONDS,
            lambda: (stage.plant.cursor()["sequence"] or 0) > before + 1_000,
        )
        stage.cluster.node(leader).start()
        stage.cluster.wait_ready()
        other = next(node for node in stage.cluster.nodes if node.name != leader)
        other.kill()
        reason = "of 3 servers of JetStream were seen to sync always"
        eventually("its absence is told", UP_SECONDS, lambda: reason in obstacle(stage.plant))
        # One call may have been answered just before.
        enough = up.acknowledged + 3 * FACTS_A_CALL
        eventually("orders are taken meanwhile", UP_SECONDS, lambda: up.acknowledged >= enough)
        other.start()
        stage.cluster.wait_ready()
        sent_down, sent_up = down.finish(), up.finish()
    assert down.refusals == [], "the enterprise never waits for the plant"
    assert set(up.refusals) <= {3}, "a refusal is a clean one"
    stage.level()
    async with plant_store(stage) as store:
        arrived = await store.read_all(INBOUND_STREAM)
        ours = numbers_of(await store.read_all("facts_orders"))
    async with opened(stage.enterprise.place, stage.enterprise.place.nats_admin_credentials) as store:
        assert numbers_of(await store.read_all(INBOUND_ORDERS)) == ours
    assert numbers_of(arrived) == list(range(sent_down))
    origins = [message.origin.sequence for message in arrived]
    assert origins == sorted(set(origins))
    assert sorted(set(ours)) == list(range(len(set(ours))))
    assert len(ours) == len(set(ours))
    assert len(ours) >= sent_up


async def test_without_any_server_the_gateway_refuses_and_comes_back_by_itself(stage: Stage) -> None:
    stage.level()
    stage.cluster.kill()
    eventually("the plant is not ready", UP_SECONDS, lambda: stage.plant.local("/ready")[0] == 503)
    assert stage.plant.local("/live")[0] == 200
    status, code, message = stage.plant.refused("append", "--stream", ORDERS, "--ndjson", "-", stdin=b"{}\n")
    assert (status, code) == (3, "unavailable"), message
    stage.enterprise.append(OPERATIONAL, b'{"while":"away"}')
    eventually(
        "the link says what it waits for",
        UP_SECONDS,
        lambda: stage.plant.cursor()["state"] == "local_unavailable",
    )
    for node in stage.cluster.nodes:
        node.start()
    stage.cluster.wait_ready()
    eventually("the plant is ready", UP_SECONDS, lambda: stage.plant.local("/ready")[0] == 200)
    stage.level()
    async with plant_store(stage) as store:
        last = await store.last(INBOUND_STREAM)
    assert last.payload == b'{"while":"away"}'
    stage.plant.append(ORDERS, b'{"after":"all"}')


# What an acknowledgement means.


def test_every_monitor_says_that_its_server_syncs_always(stage: Stage) -> None:
    stage.level()
    status = stage.plant.status()
    assert status["substrate"]["durability"] == "strict"
    assert status["substrate"]["durability_reason"] is None
    assert status["substrate"]["appends"] == "atomic batches (one at a time)"
    assert (status["health"], status["problems"]) == ("ok", [])
    rows = stage.plant.streams()["streams"]
    assert {row["durability"] for row in rows} == {"strict"}


@pytest.mark.parametrize(
    ("monitors", "reason"),
    [
        (0, "zone.yaml names neither monitor nor system_credentials under substrate"),
        (2, "2 of 3 servers of JetStream were seen to sync always (missing: n3)"),
    ],
    ids=["no-monitor", "two-of-three"],
)
def test_what_can_not_be_seen_is_unverified(stage: Stage, monitors: int, reason: str) -> None:
    with restarted_with(stage, substrate_line(stage.cluster, monitors=monitors)):
        eventually("the reason is told", UP_SECONDS, lambda: reason in obstacle(stage.plant))
        status = stage.plant.status()
        assert status["health"] == "degraded"
        assert status["problems"] == [f"durability of the local store is unverified: {reason}"]
        assert status["substrate"]["durability"] == "unverified"
        rows = stage.plant.streams()["streams"]
        assert {row["durability"] for row in rows} == {"unverified"}
    stage.level()


@contextmanager
def restarted_with(stage: Stage, line: str) -> Iterator[None]:
    """The plant's gateway runs with another substrate inside the block."""
    path = stage.plant.paths.zone_file
    before = path.read_text()
    stage.stop(stage.plant)
    path.write_text(with_substrate(before, line))
    stage.start(stage.plant)
    try:
        yield
    finally:
        stage.stop(stage.plant)
        path.write_text(before)
        stage.start(stage.plant)


async def test_a_server_of_a_refused_version_is_not_used(stage: Stage, tmp_path: Path) -> None:
    with running_nats(tmp_path / "old") as server:
        async with claiming(server, "2.10.20") as url:
            await asyncio.to_thread(_is_refused, stage, url)
    stage.level()


def _is_refused(stage: Stage, url: str) -> None:
    with restarted_with(stage, f'substrate: {{url: "{url}"}}'):
        words = "nats-server 2.10.20 is refused, as all through 2.10.23"
        eventually("the version is told", UP_SECONDS, lambda: words in obstacle(stage.plant))
        assert stage.plant.local("/ready")[0] == 503
        status, code, message = stage.plant.refused(
            "append", "--stream", ORDERS, "--ndjson", "-", stdin=b"{}\n"
        )
        assert (status, code) == (3, "unavailable")
        assert words in message
        eventually("links wait for it", UP_SECONDS, lambda: set(_link_states(stage)) == {"local_unavailable"})


def _link_states(stage: Stage) -> list[str]:
    return [row["state"] for row in stage.plant.cursors()["cursors"]]


# Streams that were there, and limits that change.


async def test_a_stream_of_others_is_adopted_and_left_alone(stage: Stage) -> None:
    row = _row(stage, OPERATIONAL)
    assert row["adopted"] is True
    assert row["replicas"] == 1
    differences = {each["field"]: (each["found"], each["expected"]) for each in row["differences"]}
    assert differences["max_msgs"] == (5_000, -1)
    assert differences["max_age"] == (3_600_000_000_000, 0)
    assert differences["num_replicas"] == (1, 3)
    config = (await stage.api(f"STREAM.INFO.{OPERATIONAL_STREAM}"))["config"]
    metadata = config.pop("metadata")
    assert {name: config[name] for name in FOREIGN if name != "metadata"} == {
        name: value for name, value in FOREIGN.items() if name != "metadata"
    }
    own = {name for name in metadata if not name.startswith("_nats.")}
    assert own == {"team", "bsfg_epoch", "bsfg_epoch_created"}
    status, _, message = stage.plant.refused("stream", "apply", OPERATIONAL, "--reason", "drill")
    assert status == 1
    assert "was not created by BSFG" in message
    stage.plant.append(OPERATIONAL, b'{"taken":"none the less"}')


async def test_a_limit_is_widened_by_itself_and_narrowed_by_an_operator(stage: Stage) -> None:
    async def max_bytes() -> int:
        return int((await stage.api("STREAM.INFO.facts_shipments"))["config"]["max_bytes"])

    path = stage.plant.paths.zone_file
    before = path.read_text()
    stream = "  - name: facts.shipments\n"
    assert stream in before
    try:
        for size in ("1MiB", "2MiB"):
            stage.plant.install(path, before.replace(stream, f"{stream}    max_bytes: {size}\n"))
            stage.plant.ask("config", "reload")
            if size == "1MiB":
                eventually(
                    "the wider stream is reported", UP_SECONDS, lambda: _differing(stage) == ["max_bytes"]
                )
                assert await max_bytes() == -1, "nothing is narrowed by itself"
                answer = stage.plant.ask(
                    "stream", "apply", "facts.shipments", "--reason", "quota of the plant"
                )
                assert answer["changed"] == [{"field": "max_bytes", "found": -1, "expected": 1024**2}]
                assert await max_bytes() == 1024**2
            else:
                await _until_equal(max_bytes, 2 * 1024**2)
        assert _differing(stage) == []
    finally:
        stage.plant.install(path, before)
        stage.plant.ask("config", "reload")
    await _until_equal(max_bytes, -1)
    audit = (stage.plant.paths.data / "audit.jsonl").read_text()
    assert '"quota of the plant"' in audit


def _row(stage: Stage, stream: str) -> dict[str, Any]:
    rows: Sequence[dict[str, Any]] = stage.plant.streams()["streams"]
    return next(row for row in rows if row["stream"] == stream and row["direction"] == "local")


def _differing(stage: Stage) -> list[str]:
    return [each["field"] for each in _row(stage, "facts.shipments")["differences"]]


async def _until_equal(ask: Callable[[], Any], wanted: int) -> None:
    async with asyncio.timeout(UP_SECONDS * patience()):
        while await ask() != wanted:  # noqa: ASYNC110
            await asyncio.sleep(0.2)
