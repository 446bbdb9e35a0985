"""Ports taken, keys open, NATS away, slow or full, a deep home: clear words, in time, nothing lost (I27, I28, I38)."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from tests.support.lab_zones import (
    ENTERPRISE,
    OPERATIONAL,
    PLANT,
    Done,
    Lab,
    Zone,
    bsfg,
    eventually,
    printed_seconds,
)

from bsfg.cli.local_client import LocalClient, route
from bsfg.config.load import load
from bsfg.errors import BsfgError
from bsfg.lab import held, processes
from bsfg.lab.homes import LOOPBACK

REFUSES_SECONDS_MAX: Final = 15.0
NAMED_SECONDS_MAX: Final = 15.0
RECOVERS_SECONDS_MAX: Final = 20.0
HEALTH_SECONDS_MAX: Final = 1.0
SERVE_SECONDS_MAX: Final = 20.0
ORDERS: Final = "facts.orders"
SHIPMENTS: Final = "facts.shipments"


# A zone that can't start


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A zone that was never started, complete in itself."""
    processes.build(tmp_path / "lab")
    home = tmp_path / "lab" / PLANT
    yield home
    assert held.find_gateway(home) is None
    assert held.find_server(home) is None


def _serve_refused(home: Path) -> tuple[int, dict[str, Any]]:
    """Exit status and error of a gateway that ends at once; its last line is one JSON object, and no traceback."""
    done = bsfg(home, "serve", "--output", "json", seconds=SERVE_SECONDS_MAX)
    assert "Traceback" not in done.errors
    error: dict[str, Any] = json.loads(done.errors.splitlines()[-1])["error"]
    return done.status, error


@contextmanager
def _taken(host: str, port: int) -> Iterator[None]:
    with closing(socket.socket()) as stranger:
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        stranger.bind((host, port))
        stranger.listen()
        yield


def test_a_key_that_others_can_read_is_refused_in_clear_words(home: Path) -> None:
    key = home / "certs" / "server.key"
    key.chmod(0o644)
    status, error = _serve_refused(home)
    assert status == 2
    assert error["code"] == "configuration"
    assert f"key file {key} can be read by others (mode 0644)" in error["message"]
    assert f"chmod 600 {key}" in json.dumps(error)


@pytest.mark.parametrize("name", ["nats-local.nk", "nats-admin.nk"])
def test_a_seed_that_others_can_read_is_refused_in_clear_words(home: Path, name: str) -> None:
    (home / "config" / name).chmod(0o644)
    status, error = _serve_refused(home)
    assert (status, error["code"]) == (2, "configuration")
    assert name in error["message"]


def test_a_taken_peer_address_is_named(home: Path) -> None:
    listen = load(home).zone.listen
    with _taken(listen.host, listen.port):
        status, error = _serve_refused(home)
    assert (status, error["code"]) == (2, "configuration")
    assert f"can't listen on {listen}" in error["message"]


def test_a_taken_local_address_is_named(home: Path) -> None:
    local = load(home).zone.local
    with _taken(local.host, local.port):
        status, error = _serve_refused(home)
    assert (status, error["code"]) == (2, "configuration")
    assert str(local) in error["message"]


def test_a_taken_nats_port_is_named(home: Path) -> None:
    port = processes.nats_port(load(home))
    with _taken(LOOPBACK, port):
        status, error = _serve_refused(home)
    assert status in (2, 3)
    assert f"port {port}" in error["message"]
    assert "ss -ltnp" in json.dumps(error)


def test_a_missing_certificate_and_bad_files_are_named_all_at_once(home: Path) -> None:
    (home / "certs" / "server.crt").unlink()
    (home / "certs" / "ca.crt").write_text("not a certificate")
    status, error = _serve_refused(home)
    assert (status, error["code"]) == (2, "configuration")
    named = {Path(problem["file"]).name for problem in error["problems"]}
    assert {"server.crt", "ca.crt"} <= named


def test_a_command_without_a_gateway_says_how_to_start_it(home: Path) -> None:
    done = bsfg(home, "status", "--output", "json")
    assert (done.status, done.error["code"]) == (3, "unavailable")
    assert f"bsfg serve --home {home}" in done.error["hint"]


# A running lab


def test_a_second_gateway_of_one_home_is_refused_and_harms_nothing(lab: Lab) -> None:
    plant = lab.plant
    server = held.find_server(plant.home)
    status, error = _serve_refused(plant.home)
    assert (status, error["code"]) == (2, "configuration")
    assert "another gateway serves this home" in error["message"]
    assert held.find_server(plant.home) == server, "the nats-server of the first one was stopped"
    assert plant.append(ORDERS, b'{"still":"here"}')["appended"] == 1
    assert plant.status()["health"] == "ok"


def _timed_append(zone: Zone, payload: bytes) -> tuple[float, Done]:
    done = zone.bsfg("append", "--stream", ORDERS, "--output", "json", "-", stdin=payload)
    return done.seconds, done


def _health_seconds(zone: Zone) -> float:
    began = time.monotonic()
    zone.api.get(route("health"))
    return time.monotonic() - began


def _payloads(zone: Zone, stream: str) -> list[str]:
    facts = zone.bsfg("read", "--stream", stream).output.splitlines()
    return [json.loads(fact)["data"] for fact in facts]


def test_a_nats_that_hangs_is_refused_in_time_and_comes_back_by_itself(lab: Lab) -> None:
    plant = lab.plant
    plant.append(ORDERS, b'{"before":"hang"}')
    lab.level()
    with plant.paused_server():
        seconds, refused = _timed_append(plant, b'{"during":"hang"}')
        printed_seconds(f"append refused with {refused.error['code']}", seconds)
        assert refused.status == 3
        assert refused.error["code"] in ("unavailable", "outcome_unknown")
        assert seconds < REFUSES_SECONDS_MAX
        eventually("/ready says no", NAMED_SECONDS_MAX, lambda: plant.local("/ready")[0] == 503)
        assert plant.local("/live")[0] == 200
        lab.enterprise.append(OPERATIONAL, b'{"during":"hang"}')
        row = eventually("the link names it", NAMED_SECONDS_MAX, lambda: _state(plant, "local_unavailable"))
        assert row["error"]
        assert _health_seconds(plant) < HEALTH_SECONDS_MAX
        health = plant.status()
        assert health["health"] == "degraded"
        assert any("store" in problem or "nats" in problem.lower() for problem in health["problems"])
        # The other zone neither waits nor suffers.
        assert lab.enterprise.api.get(route("status"))["health"] == "ok"
    began = time.monotonic()
    eventually("/ready again", RECOVERS_SECONDS_MAX, lambda: plant.local("/ready")[0] == 200)
    lab.level()
    printed_seconds("level again after the hang", time.monotonic() - began)
    assert plant.append(ORDERS, b'{"after":"hang"}')["appended"] == 1
    stored = _payloads(plant, ORDERS)
    assert stored.count('{"before":"hang"}') == stored.count('{"after":"hang"}') == 1
    # Refused for sure means not stored; unknown may be either, but never twice.
    assert stored.count('{"during":"hang"}') <= (1 if refused.error["code"] == "outcome_unknown" else 0)
    eventually("healthy", RECOVERS_SECONDS_MAX, lambda: plant.status()["health"] == "ok")


def _state(zone: Zone, state: str) -> dict[str, Any]:
    row: dict[str, Any] = zone.api.get(route("cursors", ENTERPRISE, OPERATIONAL))
    return row if row["state"] == state else {}


def test_a_nats_that_is_killed_is_started_again_and_nothing_acknowledged_is_lost(lab: Lab) -> None:
    plant = lab.plant
    acknowledged: list[int] = []
    stop = threading.Event()

    def produce() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            try:
                plant.api.post(route("append"), {"facts": [{"data": f"kill {number}"}]}, stream=SHIPMENTS)
                acknowledged.append(number)
            except BsfgError:
                time.sleep(0.05)

    producer = threading.Thread(target=produce)
    producer.start()
    try:
        for _ in range(2):
            seen = len(acknowledged)
            eventually("appends succeed", RECOVERS_SECONDS_MAX, lambda seen=seen: len(acknowledged) > seen + 20)
            plant.kill_server()
        seen = len(acknowledged)
        eventually("appends succeed again", RECOVERS_SECONDS_MAX, lambda: len(acknowledged) > seen + 20)
    finally:
        stop.set()
        producer.join()
    stored = _payloads(plant, SHIPMENTS)
    lost = [number for number in acknowledged if stored.count(f"kill {number}") != 1]
    assert lost == []
    lab.healthy()
    head = plant.stream(SHIPMENTS)["last_sequence"]
    eventually(
        "enterprise has them all",
        RECOVERS_SECONDS_MAX,
        lambda: lab.enterprise.cursor(PLANT, SHIPMENTS)["sequence"] == head,
    )


def test_a_full_stream_refuses_and_widening_heals_it(lab: Lab) -> None:
    enterprise = lab.enterprise
    stream = "facts.batch_completed"
    line = f"  - name: {stream}"
    zone_file = enterprise.paths.zone_file
    with enterprise.changed(zone_file, (line, f"  - {{name: {stream}, max_bytes: 64KiB}}")):
        assert enterprise.ask("config", "reload")["reloaded"] is True
        # A narrower limit can delete, so it needs a word and a reason.
        enterprise.ask("stream", "apply", stream, "--reason", "test")
        appended, refused = _fill(enterprise, stream)
        assert (refused.status, refused.error["code"]) == (1, "local_full")
        assert 10 < appended < 64
        info = enterprise.stream(stream)
        assert info["messages"] == info["last_sequence"] == appended
        eventually("the fill is seen", 10, lambda: _fill_ratio(enterprise, stream) > 0.9)
        # A batch that does not fit tells how much of it went in: nothing.
        status, code, _ = enterprise.refused("append", "--stream", stream, "--ndjson", "-", stdin=b"x\n" * 4_000)
        assert (status, code) == (1, "local_full")
        assert enterprise.append("facts.telemetry", b"{}")["appended"] == 1
    assert enterprise.ask("config", "reload")["reloaded"] is True
    eventually("room again", 10, lambda: _appends(enterprise, stream))
    head = enterprise.stream(stream)["last_sequence"]
    eventually(
        "plant-a has them all", RECOVERS_SECONDS_MAX, lambda: lab.plant.cursor(stream=stream)["sequence"] == head
    )
    assert lab.plant.stream(stream, peer=ENTERPRISE)["messages"] == head


def _fill(zone: Zone, stream: str) -> tuple[int, Done]:
    """Append kilobytes one by one until one is refused: how many were taken, and the refusal."""
    for number in range(100):
        done = zone.bsfg("append", "--stream", stream, "--output", "json", "-", stdin=b"y" * 2048)
        if done.status != 0:
            return number, done
    raise AssertionError("the stream takes more than its max_bytes")


def _fill_ratio(zone: Zone, stream: str) -> float:
    return zone.metric("bsfg_store_buffer_fill_ratio", stream=stream) or 0.0


def _appends(zone: Zone, stream: str) -> bool:
    return zone.bsfg("append", "--stream", stream, "-", stdin=b"{}").status == 0


def test_a_stream_that_is_added_while_the_zone_runs_takes_facts_of_applications(lab: Lab) -> None:
    plant = lab.plant

    async def publish() -> int:
        async with plant.nats(admin=False) as store:
            return await store.publish("facts.added.test", b"{}")

    line = f"  - name: {SHIPMENTS}"
    with plant.changed(plant.paths.zone_file, (line, f"{line}\n  - name: facts.added")):
        assert plant.ask("config", "reload")["reloaded"] is True
        eventually("it is there", 10, lambda: plant.bsfg("stream", "info", "facts.added").status == 0)
        assert asyncio.run(publish()) == 1
        assert plant.append("facts.added", b"{}")["last_sequence"] == 2
    plant.ask("config", "reload")


def test_a_deep_home_works(tmp_path: Path) -> None:
    """A path of more than 200 characters, twice what the address of a Unix socket may hold."""
    directory = tmp_path / ("a-folder-with-a-long-name-" * 4) / ("and-another-one-" * 6) / "lab"
    processes.build(directory)
    home = directory / PLANT
    assert len(str(home)) > 200
    try:
        processes.start_gateway(home).close()
        eventually("the zone is up", 15, lambda: bsfg(home, "stream", "info", ORDERS).status == 0)
        done = bsfg(home, "append", "--stream", ORDERS, "--output", "json", "-", stdin=b"{}")
        assert done.json["last_sequence"] == 1
        assert LocalClient(home).get(route("status"))["zone"] == PLANT
        assert (home / "run" / "bsfg.sock").is_socket()
    finally:
        processes.down(directory)
    assert held.find_server(home) is None
