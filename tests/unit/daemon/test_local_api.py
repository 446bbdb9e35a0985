"""The local API: who may call it, what it passes on, and what it refuses."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest
from tests.support.patience import patience
from tests.unit.cli.canned import BINARY_FACT, FACT, CannedOperations

from bsfg.daemon import local_api, local_guards, local_lines
from bsfg.daemon.local_api import FACTS_MAX, build_local_application, build_tcp_application
from bsfg.daemon.local_guards import BODY_BYTES_MAX
from bsfg.daemon.local_listeners import LocalServer, serve_tcp, serve_unix
from bsfg.errors import BsfgError, Code

TOKEN: Final = "correct-horse-battery"
BEARER: Final = {"Authorization": f"Bearer {TOKEN}"}


@pytest.fixture
def operations() -> CannedOperations:
    return CannedOperations()


@pytest.fixture
async def unix(tmp_path: Path, operations: CannedOperations) -> AsyncIterator[aiohttp.ClientSession]:
    server = await serve_unix(build_local_application(operations), tmp_path / "run")
    connector = aiohttp.UnixConnector(str(tmp_path / "run" / "bsfg.sock"))
    async with aiohttp.ClientSession("http://localhost", connector=connector) as session:
        yield session
    await server.close()


@asynccontextmanager
async def tcp(operations: CannedOperations, token: str | None, **settings: Any) -> AsyncIterator[aiohttp.ClientSession]:
    application = build_tcp_application(
        operations, metrics=lambda: b"bsfg_up 1\n", is_ready=lambda: False, token=token, **settings
    )
    server = await serve_tcp(application, "127.0.0.1", 0)
    async with aiohttp.ClientSession(f"http://127.0.0.1:{server.port}") as session:
        yield session
    await server.close()


async def error_of(response: aiohttp.ClientResponse) -> tuple[int, str]:
    return response.status, (await response.json())["error"]["code"]


# The socket


async def test_the_socket_is_for_its_owner_alone(tmp_path: Path, operations: CannedOperations) -> None:
    run = tmp_path / "run"
    run.mkdir(mode=0o755)
    server = await serve_unix(build_local_application(operations), run)
    assert stat.S_IMODE(run.stat().st_mode) == 0o700
    assert stat.S_IMODE((run / "bsfg.sock").stat().st_mode) == 0o600
    await server.close()
    assert not (run / "bsfg.sock").exists()


async def test_a_stale_socket_is_replaced(tmp_path: Path, operations: CannedOperations) -> None:
    run = tmp_path / "run"
    run.mkdir()
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(run / "bsfg.sock"))
    server = await serve_unix(build_local_application(operations), run)
    await server.close()


async def test_a_live_socket_is_left_to_its_gateway(tmp_path: Path, operations: CannedOperations) -> None:
    run = tmp_path / "run"
    first = await serve_unix(build_local_application(operations), run)
    with pytest.raises(BsfgError, match=f"process {os.getpid()} listens") as refused:
        await serve_unix(build_local_application(operations), run)
    assert refused.value.code is Code.CONFIGURATION
    assert (run / "bsfg.sock").is_socket()
    await first.close()


async def test_what_is_no_socket_is_not_removed(tmp_path: Path, operations: CannedOperations) -> None:
    (tmp_path / "bsfg.sock").write_text("somebody's notes")
    with pytest.raises(BsfgError, match="is not a socket"):
        await serve_unix(build_local_application(operations), tmp_path)
    assert (tmp_path / "bsfg.sock").read_text() == "somebody's notes"


async def test_a_closing_server_leaves_the_socket_of_its_successor(
    tmp_path: Path, operations: CannedOperations
) -> None:
    run = tmp_path / "run"
    first = await serve_unix(build_local_application(operations), run)
    (run / "bsfg.sock").unlink()
    second = await serve_unix(build_local_application(operations), run)
    await first.close()
    assert (run / "bsfg.sock").is_socket()
    await second.close()


CALLER = """
import http.client, os, socket, sys
os.setuid(int(sys.argv[2]))
connection = http.client.HTTPConnection("localhost")
connection.sock = socket.socket(socket.AF_UNIX)
connection.sock.connect(sys.argv[1])
connection.request("GET", "/v1/health")
response = connection.getresponse()
print(response.status, response.read().decode())
"""


async def call_as(user: int, path: Path) -> str:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CALLER, str(path), str(user), stdout=subprocess.PIPE
    )
    stdout, _ = await asyncio.wait_for(process.communicate(), 20 * patience())
    return stdout.decode()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can call as another user")
async def test_another_user_is_refused_even_where_the_file_mode_lets_him_in(operations: CannedOperations) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        run = Path(directory)
        server = await serve_unix(build_local_application(operations), run)
        os.chmod(run, 0o755)  # noqa: PTH101
        os.chmod(run / "bsfg.sock", 0o666)  # noqa: PTH101
        assert (await call_as(0, run / "bsfg.sock")).startswith("200 ")
        refused = await call_as(65534, run / "bsfg.sock")
        assert refused.startswith("403 ")
        assert "user 65534 may not use the local API" in refused
        await server.close()
    assert operations.calls == [("health", None)]


# Routes


@pytest.mark.parametrize(
    ("method", "path", "body", "call"),
    [
        ("GET", "/v1/status", None, ("status", None)),
        ("GET", "/v1/health", None, ("health", None)),
        ("GET", "/v1/peers", None, ("peers", None)),
        ("GET", "/v1/peers/enterprise/check", None, ("peer_check", "enterprise")),
        ("GET", "/v1/peers/enterprise/exports", None, ("peer_exports", "enterprise")),
        ("GET", "/v1/peers/enterprise/streams", None, ("peer_streams", "enterprise")),
        ("GET", "/v1/streams", None, ("streams", None)),
        ("GET", "/v1/streams/facts.orders", None, ("stream_info", ("facts.orders", None))),
        ("GET", "/v1/streams/facts.orders?peer=plant-b", None, ("stream_info", ("facts.orders", "plant-b"))),
        ("POST", "/v1/streams/facts.orders/apply", {"reason": "r"}, ("stream_apply", ("facts.orders", "r"))),
        ("GET", "/v1/consumers?stream=facts.orders&consumer=c", None, ("consumer_info", ("facts.orders", None, "c"))),
        (
            "POST",
            "/v1/consumers/next",
            {"stream": "facts.orders", "count": 3, "ack": False, "wait_seconds": 1.5},
            (
                "consumer_next",
                {
                    "stream": "facts.orders",
                    "peer": None,
                    "consumer": None,
                    "count": 3,
                    "ack": False,
                    "wait_seconds": 1.5,
                },
            ),
        ),
        ("POST", "/v1/append?stream=facts.orders", {"facts": [{"data": "x"}]}, ("append", 1)),
        (
            "POST",
            "/v1/fetch",
            {"peer": "enterprise", "stream": "facts.orders", "dry_run": True},
            (
                "fetch",
                {
                    "peer": "enterprise",
                    "stream": "facts.orders",
                    "cursor_init": None,
                    "init_timestamp": None,
                    "dry_run": True,
                },
            ),
        ),
        ("GET", "/v1/cursors", None, ("cursors", None)),
        ("GET", "/v1/cursors/enterprise/facts.orders", None, ("cursor", ("enterprise", "facts.orders"))),
        ("GET", "/v1/config", None, ("active_configuration", None)),
        ("POST", "/v1/config/reload", None, ("reload", None)),
        (
            "POST",
            "/v1/partitions",
            {"peer": "enterprise", "reason": "drill", "seconds": None},
            ("partition", ("enterprise", "drill", None)),
        ),
        ("DELETE", "/v1/partitions/enterprise", None, ("reconcile", "enterprise")),
    ],
)
async def test_a_route_calls_its_operation(
    unix: aiohttp.ClientSession,
    operations: CannedOperations,
    method: str,
    path: str,
    body: dict[str, Any] | None,
    call: tuple[str, Any],
) -> None:
    async with unix.request(method, path, json=body) as response:
        assert response.status == 200
        if call[0] != "append":
            assert await response.json() == operations.answers[call[0]]
    assert operations.calls == [call]


@pytest.mark.parametrize(
    ("method", "path", "body", "expected"),
    [
        ("GET", "/v1/nothing", b"", (404, "not_found")),
        ("DELETE", "/v1/status", b"", (405, "invalid_request")),
        ("GET", "/v1/status?verbose=1", b"", (400, "unknown_field")),
        ("GET", "/v1/consumers", b"", (400, "invalid_request")),
        ("GET", "/v1/consumers?stream=a&stream=b", b"", (400, "invalid_request")),
        ("GET", "/v1/read?stream=a&from=-1", b"", (400, "invalid_request")),
        ("GET", "/v1/read?stream=a&follow=yes", b"", (400, "invalid_request")),
        ("POST", "/v1/fetch", b"{", (400, "invalid_request")),
        ("POST", "/v1/fetch", b"[" * 100_000, (400, "invalid_request")),
        ("POST", "/v1/fetch", b"[]", (400, "invalid_request")),
        ("POST", "/v1/fetch", b'{"peer": "p", "stream": 7}', (400, "invalid_request")),
        ("POST", "/v1/fetch", b'{"peer": "p", "stream": "s", "dryrun": true}', (400, "unknown_field")),
        ("POST", "/v1/fetch", b'{"peer": "p", "stream": "s", "dry_run": 1}', (400, "invalid_request")),
        ("POST", "/v1/partitions", b'{"peer": "p", "reason": ""}', (400, "invalid_request")),
        ("POST", "/v1/partitions", b'{"peer": "p", "reason": "r", "seconds": true}', (400, "invalid_request")),
        ("POST", "/v1/partitions", b'{"peer": "p", "reason": "r", "seconds": NaN}', (400, "invalid_request")),
        ("POST", "/v1/consumers/next", b'{"stream": "s", "count": 1.5}', (400, "invalid_request")),
        ("POST", "/v1/append?stream=s", b'{"facts": [1]}', (400, "invalid_request")),
        ("POST", "/v1/append", b'{"facts": []}', (400, "invalid_request")),
    ],
)
async def test_a_request_that_is_wrong_reaches_no_operation(
    unix: aiohttp.ClientSession,
    operations: CannedOperations,
    method: str,
    path: str,
    body: bytes,
    expected: tuple[int, str],
) -> None:
    async with unix.request(method, path, data=body) as response:
        assert await error_of(response) == expected
    assert operations.calls == []


async def test_a_body_has_a_limit(unix: aiohttp.ClientSession, operations: CannedOperations) -> None:
    head = b'{"facts": [{"data": "'
    for length, status in ((BODY_BYTES_MAX - len(head) - 4, 200), (BODY_BYTES_MAX, 413)):
        async with unix.post("/v1/append?stream=s", data=head + b"x" * length + b'"}]}') as response:
            assert response.status == status
            if status != 200:
                assert await error_of(response) == (413, "too_large")
    assert operations.calls == [("append", 1)]


async def test_lines_to_append_may_be_longer_than_any_body(
    unix: aiohttp.ClientSession, operations: CannedOperations
) -> None:
    async def lines() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b"x" * (BODY_BYTES_MAX // 16 - 1) + b"\n"

    async with unix.post("/v1/append/ndjson?stream=s&subject=a&envelope=0", data=lines()) as response:
        assert (response.status, (await response.json())["appended"]) == (200, 20)
    assert operations.calls == [("append_lines", ("s", "a", False))]
    assert len(operations.received) > BODY_BYTES_MAX


@pytest.mark.parametrize(
    ("query", "code"),
    [("", "invalid_request"), ("?stream=s&other=1", "unknown_field"), ("?stream=s&envelope=x", "invalid_request")],
)
async def test_lines_need_their_stream_and_nothing_unknown(
    unix: aiohttp.ClientSession, operations: CannedOperations, query: str, code: str
) -> None:
    async with unix.post(f"/v1/append/ndjson{query}", data=b"x\n") as response:
        assert await error_of(response) == (400, code)
    assert operations.calls == []


async def test_a_conflict_in_lines_is_409_with_what_went_before(
    unix: aiohttp.ClientSession, operations: CannedOperations
) -> None:
    operations.answers["append_lines"] = BsfgError(Code.CONFLICTING_DUPLICATE, "line 2: no", appended=1)
    async with unix.post("/v1/append/ndjson?stream=s", data=b"x\n" * 5_000_000) as response:
        assert response.status == 409
        assert (await response.json())["error"]["appended"] == 1


async def test_an_append_has_a_limit_of_facts(unix: aiohttp.ClientSession, operations: CannedOperations) -> None:
    for count, status in ((FACTS_MAX, 200), (FACTS_MAX + 1, 413)):
        async with unix.post("/v1/append?stream=s", json={"facts": [{}] * count}) as response:
            assert response.status == status
    assert operations.calls == [("append", FACTS_MAX)]


async def test_an_error_keeps_code_hint_and_details(unix: aiohttp.ClientSession, operations: CannedOperations) -> None:
    error = BsfgError(Code.PARTITIONED, "peer plant-b is cut off", hint="wait", until=None)
    operations.answers["status"] = error
    async with unix.get("/v1/status") as response:
        assert response.status == 503
        assert response.headers["Retry-After"]
        assert await response.json() == error.as_json()


async def test_an_unforeseen_error_is_a_sentence_and_its_traceback_is_in_the_log_alone(
    unix: aiohttp.ClientSession, operations: CannedOperations, caplog: pytest.LogCaptureFixture
) -> None:
    operations.answers["status"] = ZeroDivisionError("secret detail")
    async with unix.get("/v1/status") as response:
        text = await response.text()
        assert await error_of(response) == (500, "internal")
    assert "secret detail" not in text
    assert "ZeroDivisionError" in caplog.text


async def test_an_operation_has_a_deadline(
    unix: aiohttp.ClientSession, operations: CannedOperations, monkeypatch: pytest.MonkeyPatch
) -> None:
    operations.answers["cursor"] = operations.hold
    monkeypatch.setattr(local_api.answer, "__defaults__", (0.05,))
    async with asyncio.timeout(10 * patience()), unix.get("/v1/cursors/p/s") as response:
        assert await error_of(response) == (504, "timed_out")


async def test_requests_in_flight_have_a_limit(
    unix: aiohttp.ClientSession, operations: CannedOperations, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_guards, "REQUESTS_IN_FLIGHT_MAX", 1)
    for _ in range(2):
        async with unix.get("/v1/status") as response:
            assert response.status == 200
    operations.called.clear()
    operations.answers["cursors"] = operations.hold
    waiting = asyncio.create_task(unix.get("/v1/cursors").__aenter__())
    await asyncio.wait_for(operations.called.wait(), 10 * patience())
    async with unix.get("/v1/health") as response:
        assert await error_of(response) == (429, "too_many")
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)


# Lines


async def read_lines(session: aiohttp.ClientSession, query: str) -> list[Any]:
    async with session.get(f"/v1/read?{query}") as response:
        assert response.status == 200
        assert response.content_type == "application/x-ndjson"
        return [json.loads(line) for line in (await response.read()).splitlines()]


async def test_read_is_one_fact_a_line(unix: aiohttp.ClientSession, operations: CannedOperations) -> None:
    assert await read_lines(unix, "stream=facts.orders&peer=plant-b&from=7&count=9") == [FACT, BINARY_FACT]
    wanted = {"stream": "facts.orders", "peer": "plant-b", "from_sequence": 7, "follow": False, "count": 9}
    assert operations.calls == [("read", wanted)]


async def test_nothing_to_read_is_an_empty_answer(unix: aiohttp.ClientSession, operations: CannedOperations) -> None:
    operations.facts = []
    assert await read_lines(unix, "stream=s") == []


async def test_an_error_before_the_first_line_has_its_status(
    unix: aiohttp.ClientSession, operations: CannedOperations
) -> None:
    operations.facts = [BsfgError(Code.NOT_FOUND, "no such stream")]
    async with unix.get("/v1/read?stream=s") as response:
        assert await error_of(response) == (404, "not_found")


async def test_an_error_behind_the_first_line_is_the_last_line(
    unix: aiohttp.ClientSession, operations: CannedOperations
) -> None:
    operations.facts = [FACT, BsfgError(Code.UNAVAILABLE, "the store is away"), FACT]
    lines = await read_lines(unix, "stream=s")
    assert lines == [FACT, {"error": {"code": "unavailable", "message": "the store is away"}}]


async def test_a_silent_stream_of_lines_shows_that_it_lives(
    unix: aiohttp.ClientSession, operations: CannedOperations, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_lines, "OPENING_SECONDS", 0.05)
    monkeypatch.setattr(local_lines, "HEARTBEAT_SECONDS", 0.05)
    operations.facts = []
    async with asyncio.timeout(10 * patience()), unix.get("/v1/read?stream=s&follow=1") as response:
        assert await response.content.readline() == b"\n"
        assert await response.content.readline() == b"\n"


async def test_a_reader_that_leaves_ends_the_reading(
    unix: aiohttp.ClientSession, operations: CannedOperations, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_lines, "OPENING_SECONDS", 0.05)
    monkeypatch.setattr(local_lines, "HEARTBEAT_SECONDS", 0.05)
    async with unix.get("/v1/read?stream=s&follow=1") as response:
        await response.content.readline()
        assert not operations.reading_ended.is_set()
        response.close()
    async with asyncio.timeout(10 * patience()):
        await operations.reading_ended.wait()


async def test_a_server_closes_although_somebody_follows(tmp_path: Path, operations: CannedOperations) -> None:
    server = await serve_unix(build_local_application(operations), tmp_path / "run")
    connector = aiohttp.UnixConnector(str(tmp_path / "run" / "bsfg.sock"))
    async with (
        aiohttp.ClientSession("http://localhost", connector=connector) as session,
        session.get("/v1/read?stream=s&follow=1") as response,
    ):
        await response.content.readline()
        async with asyncio.timeout(5 * patience()):
            await server.close()
    assert operations.reading_ended.is_set()


# The TCP listener


async def test_metrics_live_and_ready_need_no_token(operations: CannedOperations) -> None:
    async with tcp(operations, TOKEN) as session:
        async with session.get("/metrics") as response:
            assert (response.status, await response.read()) == (200, b"bsfg_up 1\n")
            assert response.headers["Content-Type"].startswith("text/plain; version=")
        async with session.get("/live") as response:
            assert response.status == 200
        async with session.get("/ready") as response:
            assert response.status == 503


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (BEARER, 200),
        ({}, 403),
        ({"Authorization": TOKEN}, 403),
        ({"Authorization": "Bearer correct-horse"}, 403),
        ({"Authorization": "Bearer \xff"}, 403),
    ],
)
async def test_everything_else_needs_the_token(
    operations: CannedOperations, headers: dict[str, str], status: int
) -> None:
    async with tcp(operations, TOKEN) as session, session.get("/v1/status", headers=headers) as response:
        assert response.status == status
        assert TOKEN not in await response.text()
    assert len(operations.calls) == (1 if status == 200 else 0)


def test_an_empty_token_opens_nothing(operations: CannedOperations) -> None:
    with pytest.raises(BsfgError, match="the local token is empty"):
        build_tcp_application(operations, metrics=bytes, is_ready=bool, token="")


async def test_without_a_token_there_is_no_api_on_tcp(operations: CannedOperations) -> None:
    async with tcp(operations, None) as session:
        async with session.get("/v1/status", headers={"Authorization": "Bearer "}) as response:
            assert await error_of(response) == (404, "not_found")
        async with session.get("/live") as response:
            assert response.status == 200


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:9480", 200),
        ("[::1]:9480", 200),
        ("LocalHost", 200),
        ("gateway.plant-a.example:9480", 200),
        ("attacker.example:9480", 403),
        ("", 403),
        ("127.0.0.1.attacker.example", 403),
    ],
)
async def test_a_name_that_is_not_ours_is_refused(operations: CannedOperations, host: str, status: int) -> None:
    names = ["gateway.plant-a.example"]
    async with (
        tcp(operations, TOKEN, host_names=names) as session,
        session.get("/metrics", headers={"Host": host}) as response,
    ):
        assert response.status == status


async def test_a_taken_port_is_an_error_with_its_address(operations: CannedOperations) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(BsfgError, match=f"127.0.0.1:{port}") as refused:
            await serve_tcp(build_local_application(operations), "127.0.0.1", port)
    assert refused.value.code is Code.CONFIGURATION


async def test_a_closed_server_can_be_closed_again(tmp_path: Path, operations: CannedOperations) -> None:
    server: LocalServer = await serve_unix(build_local_application(operations), tmp_path / "run")
    await server.close()
    await server.close()
