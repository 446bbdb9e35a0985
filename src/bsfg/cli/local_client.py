"""The local API from the command line's side: HTTP over the home's Unix socket, however deep the home is."""

from __future__ import annotations

import http.client
import json
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlencode

from bsfg.errors import BsfgError, Code

SOCKET_NAME: Final = "bsfg.sock"
DEADLINE_SECONDS: Final = 30.0
LONG_DEADLINE_SECONDS: Final = 600.0
"""For a fetch, a change of a stream, a reconciliation: they may move much."""
SILENCE_SECONDS_MAX: Final = 30.0
"""The gateway says something in a stream of lines every ten seconds."""
UPLOAD_SECONDS: Final = 60.0
"""How long a gateway may take nothing of an upload, and how long its answer may take when it has all."""
ANSWER_BYTES_MAX: Final = 64 * 1024 * 1024
LINE_BYTES_MAX: Final = 16 * 1024 * 1024
_CHUNK_BYTES: Final = 256 * 1024
_ERROR_LINE: Final = b'{"error":'


Pieces = Callable[[socket.socket], Iterator[bytes]]
"""Pieces of a body, none of them empty; they end where the input does, or where the socket has an answer."""


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over ``run/bsfg.sock``; the directory's descriptor stands in for its path, which may exceed 107 bytes."""

    def __init__(self, run_directory: Path, timeout_seconds: float) -> None:
        super().__init__("localhost", timeout=timeout_seconds)
        self._run_directory = run_directory

    def connect(self) -> None:
        directory = os.open(self._run_directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(self.timeout)
            connection.connect(f"/proc/self/fd/{directory}/{SOCKET_NAME}")
        except BaseException:
            connection.close()
            raise
        finally:
            os.close(directory)
        self.sock = connection


def route(*segments: str) -> str:
    """A path of the API, each segment quoted."""
    return "/v1/" + "/".join(quote(segment, safe="") for segment in segments)


class LocalClient:
    """One zone's gateway as its operator reaches it.

    Every call raises the gateway's own :class:`BsfgError`; ``unavailable`` where no gateway is up, ``timed_out`` where
    it does not answer in time.
    """

    def __init__(self, home: Path) -> None:
        self._home = home

    def get(self, path: str, *, deadline_seconds: float = DEADLINE_SECONDS, **query: Any) -> Any:
        return self._call("GET", path, query, None, deadline_seconds)

    def post(
        self, path: str, body: Mapping[str, Any] | bytes, *, deadline_seconds: float = DEADLINE_SECONDS, **query: Any
    ) -> Any:
        encoded = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self._call("POST", path, query, encoded, deadline_seconds)

    def upload(
        self, path: str, pieces: Pieces, *, answer_seconds: float = UPLOAD_SECONDS, **query: Any
    ) -> Any:
        """Send pieces of a body as they come; the answer may come before their end, and ends them."""
        with _Upload(self._home, _target(path, query), pieces, answer_seconds) as request:
            return _decoded(request.answer())

    def delete(self, path: str, *, deadline_seconds: float = DEADLINE_SECONDS) -> Any:
        return self._call("DELETE", path, {}, None, deadline_seconds)

    def lines(self, path: str, **query: Any) -> Iterator[list[bytes]]:
        """The lines of a stream as they come, in groups that arrived together; an error among them is raised."""
        with _Request(self._home, "GET", _target(path, query), None, SILENCE_SECONDS_MAX) as request:
            yield from request.lines()

    def download(self, path: str, **query: Any) -> Iterator[bytes]:
        """A body of any length in pieces; one that ends early is ``unavailable``."""
        with _Request(self._home, "GET", _target(path, query), None, SILENCE_SECONDS_MAX) as request:
            yield from request.pieces()

    def post_lines(self, path: str, body: Mapping[str, Any]) -> Iterator[list[bytes]]:
        """The lines of a stream that a request begins and that ends with it."""
        encoded = json.dumps(body).encode()
        with _Request(self._home, "POST", _target(path, {}), encoded, SILENCE_SECONDS_MAX) as request:
            yield from request.lines()

    def _call(self, method: str, path: str, query: Mapping[str, Any], body: bytes | None, seconds: float) -> Any:
        with _Request(self._home, method, _target(path, query), body, seconds) as request:
            return _decoded(request.answer())


def _target(path: str, query: Mapping[str, Any]) -> str:
    given = {name.rstrip("_"): value for name, value in query.items() if value is not None}
    return f"{path}?{urlencode(given)}" if given else path


class _Request:
    """One request and its answer; leaving it closes the connection and gives system errors their meaning."""

    def __init__(self, home: Path, method: str, target: str, body: bytes | None, seconds: float) -> None:
        self._home, self._method, self._target, self._body, self._seconds = home, method, target, body, seconds
        self._ends = time.monotonic() + seconds
        self._connection = _UnixConnection(home / "run", seconds)

    def __enter__(self) -> _Request:
        try:
            self._send()
        except BaseException as error:
            self._connection.close()
            self._translate(error)
            raise
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._connection.close()
        if error is not None:
            self._translate(error)

    def _send(self) -> None:
        headers = {} if self._body is None else {"Content-Type": "application/json"}
        self._connection.request(self._method, self._target, self._body, headers)
        self._receive()

    def _receive(self) -> None:
        self._response = self._connection.getresponse()
        if self._response.status >= http.client.BAD_REQUEST:
            raise _error_of(self.answer(), self._response.status)

    def answer(self) -> bytes:
        """The whole body, within the deadline and the limit."""
        pieces: list[bytes] = []
        while piece := self._response.read1(_CHUNK_BYTES):
            pieces.append(piece)
            if sum(map(len, pieces)) > ANSWER_BYTES_MAX:
                raise BsfgError(Code.BAD_ANSWER, f"the gateway's answer is longer than {ANSWER_BYTES_MAX} bytes")
            self._shorten_timeout()
        if self._response.length:
            raise http.client.IncompleteRead(b"", self._response.length)
        return b"".join(pieces)

    def pieces(self) -> Iterator[bytes]:
        while piece := self._response.read1(_CHUNK_BYTES):
            yield piece
        if self._response.length:
            raise http.client.IncompleteRead(b"", self._response.length)

    def lines(self) -> Iterator[list[bytes]]:
        rest = b""
        while piece := self._response.read1(_CHUNK_BYTES):
            *whole, rest = (rest + piece).split(b"\n")
            if len(rest) > LINE_BYTES_MAX:
                raise BsfgError(Code.BAD_ANSWER, f"the gateway sent a line of more than {LINE_BYTES_MAX} bytes")
            for index, line in enumerate(whole):
                if line.startswith(_ERROR_LINE):
                    yield [line for line in whole[:index] if line]
                    raise _error_of(line, 0)
            yield [line for line in whole if line]

    def _shorten_timeout(self) -> None:
        left = self._ends - time.monotonic()
        if left <= 0:
            raise TimeoutError
        if self._connection.sock is not None:
            self._connection.sock.settimeout(left)

    def _translate(self, error: BaseException) -> None:
        if isinstance(error, TimeoutError):
            raise BsfgError(
                Code.TIMED_OUT,
                f"the gateway of {self._home} did not answer {self._method} {self._target}"
                f" within {self._seconds:.0f} s",
                hint="it may still carry the request out; see bsfg status",
            ) from None
        if isinstance(error, PermissionError):
            raise BsfgError(
                Code.IDENTITY_REJECTED,
                f"the local API of {self._home} is not open to this user",
                hint="run it as the gateway's own user or as root",
            ) from None
        if isinstance(error, FileNotFoundError | NotADirectoryError | ConnectionRefusedError):
            raise _not_up(self._home, "no gateway is up") from None
        if isinstance(error, http.client.HTTPException | ConnectionError):
            raise _not_up(self._home, "the gateway ended while it answered") from None


class _Upload(_Request):
    """A request whose body has no known length."""

    def __init__(self, home: Path, target: str, pieces: Pieces, answer_seconds: float) -> None:
        super().__init__(home, "POST", target, None, UPLOAD_SECONDS)
        self._pieces = pieces
        self._answer_seconds = answer_seconds

    def _send(self) -> None:
        self._connection.connect()
        with suppress(BrokenPipeError, ConnectionResetError):
            # The gateway closes when it has said no; its answer is what counts then.
            self._send_body()
        self._seconds = self._answer_seconds
        self._ends = time.monotonic() + self._seconds
        self._connection.sock.settimeout(self._seconds)
        self._receive()

    def _send_body(self) -> None:
        connection = self._connection
        connection.putrequest("POST", self._target)
        connection.putheader("Content-Type", "application/x-ndjson")
        connection.putheader("Transfer-Encoding", "chunked")
        connection.endheaders()
        for piece in self._pieces(connection.sock):
            connection.send(b"%x\r\n%b\r\n" % (len(piece), piece))
        connection.send(b"0\r\n\r\n")


def _not_up(home: Path, cause: str) -> BsfgError:
    return BsfgError(Code.UNAVAILABLE, f"{cause} for {home}", hint=f"start it: bsfg serve --home {home}")


def _decoded(content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError:
        raise BsfgError(Code.BAD_ANSWER, "the gateway's answer is not JSON", hint="do the versions agree?") from None


def _error_of(content: bytes, status: int) -> BsfgError:
    """The error that the gateway answered with, as it raised it."""
    answer = _decoded(content)
    body = answer.get("error") if isinstance(answer, dict) else None
    if not isinstance(body, dict):
        return BsfgError(Code.BAD_ANSWER, f"the gateway answered with status {status} and no error")
    details = {str(name): value for name, value in body.items() if name not in ("code", "message", "hint")}
    code = Code.from_label(str(body.get("code")))
    return BsfgError(code, str(body.get("message", "")), hint=str(body.get("hint", "")), **details)
