"""Where a drill may run: decided before anything is turned on. What it does is held by the acceptance tests."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from bsfg.daemon.connections import CutOff, _connection, own_connections
from bsfg.daemon.drills import Drills
from bsfg.daemon.timeline import Timeline
from bsfg.errors import BsfgError
from bsfg.model.names import StreamName, ZoneId

PEER = ZoneId("enterprise")


def drills(
    tmp_path: Path, *, lab: bool = False, authorized: bool = True, partitioned: bool = False
) -> Drills:
    (tmp_path / "data").mkdir(exist_ok=True)
    peer = SimpleNamespace(authorized=authorized, streams=(StreamName("facts.x"),))
    configuration = SimpleNamespace(
        home=tmp_path,
        zone=SimpleNamespace(lab=lab),
        peers={PEER: peer},
        links={},
        paths=SimpleNamespace(data=tmp_path / "data"),
    )
    in_force = {PEER: SimpleNamespace(reason="by hand")} if partitioned else {}
    parts = SimpleNamespace(
        partitions=SimpleNamespace(in_force=in_force), clock=SimpleNamespace(now=lambda: 5_000_000_000)
    )
    gateway = SimpleNamespace(configuration=configuration, parts=parts)
    nothing = cast("Any", None)
    return Drills(cast("Any", gateway), nothing, nothing, nothing, nothing, CutOff(), Timeline())


async def refusal(house: Drills, kind: str = "partition", window: str | None = None) -> str:
    with pytest.raises(BsfgError) as caught:
        await anext(house.run(kind, PEER, None, window))
    return caught.value.code.label


async def test_outside_a_lab_a_drill_needs_an_agreed_window(tmp_path: Path) -> None:
    assert await refusal(drills(tmp_path)) == "configuration"
    assert await refusal(drills(tmp_path), window=" ") == "invalid_request"
    order = drills(tmp_path)._order("partition", PEER, None, "CHG-1042")
    assert order.reason.endswith("window CHG-1042")
    assert drills(tmp_path, lab=True)._order("partition", PEER, None, None).window is None


async def test_a_drill_is_refused_where_it_can_show_nothing_and_leaves_no_note(tmp_path: Path) -> None:
    assert await refusal(drills(tmp_path, lab=True), kind="flood") == "invalid_request"
    assert await refusal(drills(tmp_path, lab=True, authorized=False)) == "configuration"
    assert await refusal(drills(tmp_path, lab=True, partitioned=True)) == "partitioned"
    assert await refusal(drills(tmp_path, lab=True), kind="duplicate-replay") == "configuration"
    assert not (tmp_path / "data" / "drill.json").exists()


async def test_one_drill_at_a_time(tmp_path: Path) -> None:
    house = drills(tmp_path, lab=True)
    house._running = "another"
    assert await refusal(house) == "check_failed"
    assert house._running == "another"


def test_connections_of_this_process_and_of_its_workers_are_seen_and_no_others() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        dial = (
            f"import socket, sys; c = socket.create_connection(('127.0.0.1', {port}));"
            " print(flush=True); sys.stdin.read()"
        )
        with subprocess.Popen(
            [sys.executable, "-c", dial], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as worker:
            assert worker.stdout is not None
            worker.stdout.readline()
            with socket.create_connection(("127.0.0.1", port)) as own:
                found = {each.local for each in own_connections() if each.remote_port == port}
                assert len(found) == 2
                assert f"127.0.0.1:{own.getsockname()[1]}" in found
            worker.communicate(timeout=10)
        assert [each for each in own_connections() if each.remote_port == port] == []


def test_the_kernel_s_table_is_read_in_both_families() -> None:
    four = _connection("0100007F:0CEA", "0A0A0A0A:01BB")
    assert (four.local, four.remote, four.remote_port) == ("127.0.0.1:3306", "10.10.10.10:443", 443)
    six = _connection("00000000000000000000000001000000:0050", "0000000000000000FFFF00000100007F:0051")
    assert (six.local, six.remote) == ("[::1]:80", "127.0.0.1:81")
