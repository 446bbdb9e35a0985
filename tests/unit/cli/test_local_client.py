"""The way to the gateway: deep homes, deadlines, answers that break off."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from tests.unit.cli.canned import FACT, STATUS, CannedOperations
from tests.unit.cli.conftest import bsfg_program, local_api

from bsfg.cli import local_client
from bsfg.cli.local_client import LocalClient, route
from bsfg.errors import BsfgError, Code


async def test_a_home_may_lie_deeper_than_a_socket_address_reaches(tmp_path: Path) -> None:
    home = tmp_path.joinpath(*["a-very-long-folder-name"] * 6)
    assert len(str(home / "run" / "bsfg.sock")) > 108
    async with local_api(home, CannedOperations()):
        finished = await bsfg_program("status", "--home", home, "--output", "json")
    assert (finished.status, finished.json) == (0, STATUS)


async def test_a_home_may_be_relative_and_behind_a_link(tmp_path: Path) -> None:
    async with local_api(tmp_path / "home", CannedOperations()):
        (tmp_path / "link").symlink_to("home")
        assert (await bsfg_program("status", "--home", "link", cwd=tmp_path)).status == 0


def test_segments_of_a_path_are_quoted() -> None:
    assert route("streams", "a/../b?c", "%") == "/v1/streams/a%2F..%2Fb%3Fc/%25"


async def test_no_descriptor_is_left_open(home: Path, operations: CannedOperations) -> None:
    def to_the_home() -> list[str]:
        targets = []
        for descriptor in Path("/proc/self/fd").iterdir():
            with suppress(FileNotFoundError):
                targets.append(str(descriptor.readlink()))
        return [target for target in targets if target.startswith(str(home))]

    server_has = to_the_home()
    await asyncio.to_thread(LocalClient(home).get, route("status"))
    assert to_the_home() == server_has == [str(home / "run")]


@contextmanager
def gateway_that_answers(
    home: Path, *pieces: bytes, hold: bool = False, pause_seconds: float = 0.0
) -> Iterator[None]:
    """A real listener on the home's socket that answers one request with these bytes."""
    (home / "run").mkdir(parents=True)
    done = threading.Event()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(home / "run" / "bsfg.sock"))
        listening.listen()

        def answer() -> None:
            connection, _ = listening.accept()
            with connection, suppress(ConnectionError):
                connection.recv(65536)
                for piece in pieces:
                    connection.sendall(piece)
                    done.wait(pause_seconds)
                if hold:
                    done.wait(20)

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join(20)


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (b"", Code.UNAVAILABLE),
        (b"SSH-2.0-server\r\n", Code.UNAVAILABLE),
        (HEAD + b"Content-Length: 100\r\n\r\n{", Code.UNAVAILABLE),
        (HEAD + b"Content-Length: 1\r\n\r\n{", Code.BAD_ANSWER),
        (b"HTTP/1.1 500 Oops\r\nContent-Length: 2\r\n\r\n{}", Code.BAD_ANSWER),
        (b"HTTP/1.1 500 Oops\r\nContent-Length: 2\r\n\r\n<>", Code.BAD_ANSWER),
    ],
)
def test_an_answer_that_is_none_has_a_code(home: Path, answer: bytes, code: Code) -> None:
    with gateway_that_answers(home, answer), pytest.raises(BsfgError) as refused:
        LocalClient(home).get(route("status"))
    assert refused.value.code is code


@pytest.mark.parametrize("pieces", [(), (HEAD + b"Content-Length: 9\r\n\r\n", b"{")])
def test_a_gateway_that_falls_silent_is_timed_out(home: Path, pieces: tuple[bytes, ...]) -> None:
    with gateway_that_answers(home, *pieces, hold=True), pytest.raises(BsfgError) as refused:
        LocalClient(home).get(route("status"), deadline_seconds=0.3)
    assert refused.value.code is Code.TIMED_OUT
    assert "within 0 s" in refused.value.message


def test_a_gateway_that_drips_is_timed_out(home: Path) -> None:
    drops = [b" "] * 30
    begin = time.monotonic()
    with gateway_that_answers(home, HEAD + b"Content-Length: 30\r\n\r\n", *drops, pause_seconds=0.1):
        with pytest.raises(BsfgError) as refused:
            LocalClient(home).get(route("status"), deadline_seconds=0.5)
        assert time.monotonic() - begin < 2
    assert refused.value.code is Code.TIMED_OUT


def test_an_answer_has_a_limit(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_client, "ANSWER_BYTES_MAX", 10)
    with (
        gateway_that_answers(home, HEAD + b"Content-Length: 13\r\n\r\n" + b'"aaaaaaaaaaa"'),
        pytest.raises(BsfgError, match="longer than 10 bytes"),
    ):
        LocalClient(home).get(route("status"))


def chunk(content: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(content), content)


@pytest.mark.parametrize("last", [b"", b"10\r\nhalf a chu"])
def test_lines_that_break_off_are_no_end(home: Path, last: bytes) -> None:
    groups = []
    with gateway_that_answers(home, CHUNKED + chunk(b'{"a": 1}\n\n{"b"') + last), pytest.raises(BsfgError) as refused:
        groups.extend(LocalClient(home).lines(route("read")))
    assert refused.value.code is Code.UNAVAILABLE
    assert [line for group in groups for line in group] == [b'{"a": 1}']


def test_lines_may_be_cut_anywhere(home: Path) -> None:
    pieces = [chunk(bytes([byte])) for byte in b'{"a": 1}\n{"b": 2}\n']
    with gateway_that_answers(home, CHUNKED, *pieces, b"0\r\n\r\n"):
        groups = list(LocalClient(home).lines(route("read")))
    assert [line for group in groups for line in group] == [b'{"a": 1}', b'{"b": 2}']


def test_a_line_has_a_limit(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_client, "LINE_BYTES_MAX", 10)
    with (
        gateway_that_answers(home, CHUNKED + chunk(b"x" * 11), hold=True),
        pytest.raises(BsfgError, match="a line of more than 10 bytes"),
    ):
        list(LocalClient(home).lines(route("read")))


async def test_an_error_in_the_middle_of_the_lines_is_the_commands(home: Path, operations: CannedOperations) -> None:
    operations.facts = [FACT, BsfgError(Code.UNAVAILABLE, "the store is away")]
    finished = await bsfg_program("read", "--stream", "facts.orders", "--home", home)
    assert (finished.status, finished.json) == (3, FACT)
    assert finished.complaint == "error: the store is away\n"


def test_a_socket_of_somebody_else_is_exit_4(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from bsfg.cli.main import main

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    with gateway_that_answers(home):
        monkeypatch.setattr(socket.socket, "connect", refuse)
        assert main(["status", "--home", str(home)]) == 4
        monkeypatch.undo()
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(home / "run" / "bsfg.sock"))
    assert "is not open to this user" in capsys.readouterr().err
