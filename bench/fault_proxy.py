"""A TCP proxy that delivers every byte late, at any rate: ``python -m bench.fault_proxy HOST:PORT SECONDS``.

It passes TLS through. Establishing a connection costs the round trip that TCP's handshake would. This is distance
alone: it does not show how congestion control fares on a long line.
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

HELD_BYTES_MAX: Final = 64 * 1024 * 1024
"""On the way in one direction; more than a second of what is measured."""
STOP_SECONDS_MAX: Final = 5.0
REPOSITORY: Final = Path(__file__).resolve().parents[1]


class Direction(asyncio.Protocol):
    """One end of a proxied connection: what it receives leaves through the other end, late."""

    def __init__(self, delay_seconds: float) -> None:
        self._delay = delay_seconds
        self._loop = asyncio.get_running_loop()
        self._opens_at = self._loop.time() + 2 * delay_seconds
        self._line: deque[tuple[float, bytes]] = deque()
        self._held = 0
        self.received_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self.transport: asyncio.Transport | None = None
        self.other: Direction | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, chunk: bytes) -> None:
        self.received_bytes += len(chunk)
        self._put(chunk)
        if self._held > HELD_BYTES_MAX and self.transport is not None:
            self.transport.pause_reading()

    def eof_received(self) -> bool:
        self._put(b"")
        return True

    def connection_lost(self, error: Exception | None) -> None:
        self._put(b"")

    def deliver(self) -> None:
        """Pass on what is due, once there is an other end."""
        self._timer = None
        if self.other is None or self.other.transport is None:
            return
        while self._line and self._line[0][0] <= self._loop.time():
            _, chunk = self._line.popleft()
            self._held -= len(chunk)
            if chunk:
                self.other.transport.write(chunk)
            else:
                self.other.transport.close()
        if self._held <= HELD_BYTES_MAX and self.transport is not None and not self.transport.is_closing():
            self.transport.resume_reading()
        if self._line:
            self._timer = self._loop.call_at(self._line[0][0], self.deliver)

    def _put(self, chunk: bytes) -> None:
        """The empty chunk is the end of the connection, and comes as late as all else."""
        due = max(self._loop.time(), self._opens_at) + self._delay
        self._line.append((due, chunk))
        self._held += len(chunk)
        if self._timer is None:
            self._timer = self._loop.call_at(self._line[0][0], self.deliver)


class Entrance(Direction):
    """The end that a client connected to; opens the other one."""

    def __init__(self, host: str, port: int, delay_seconds: float) -> None:
        super().__init__(delay_seconds)
        self._target = (host, port)
        self._opening: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._opening = self._loop.create_task(self._open())

    async def _open(self) -> None:
        exit_ = Direction(self._delay)
        try:
            await self._loop.create_connection(lambda: exit_, *self._target)
        except OSError:
            if self.transport is not None:
                self.transport.abort()
            return
        self.other, exit_.other = exit_, self
        self.deliver()


async def _serve(host: str, port: int, delay_seconds: float) -> None:
    """Until standard input ends, so that no proxy outlives whoever started it."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Entrance(host, port, delay_seconds), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    ended = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), ended.set)
    await ended.wait()


@contextmanager
def delayed(target: str, delay_seconds: float) -> Iterator[str]:
    """A proxy process in front of ``host:port``, so many seconds each way; yields the address to connect to."""
    command = [sys.executable, "-m", "bench.fault_proxy", target, str(delay_seconds)]
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=REPOSITORY,
        text=True,
        start_new_session=True,
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        if not (port := process.stdout.readline().strip()):
            raise RuntimeError(f"the fault proxy in front of {target} did not start")
        yield f"127.0.0.1:{port}"
    finally:
        process.stdin.close()
        try:
            process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


if __name__ == "__main__":
    place, _, number = sys.argv[1].rpartition(":")
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(place, int(number), float(sys.argv[2])))
