"""The accept loop of the peer listener: bounded, deadlined, and telling of every handshake that fails.

asyncio's own servers report a failed handshake nowhere (measured), and keep one context for their whole life. Here each
connection gets the current context, and each failure has an address and a reason (threats of the peer listener, I44).
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from bsfg.errors import BsfgError, Code
from bsfg.tasks import end_tasks
from bsfg.transport.handshake import TIMEOUT, HandshakeRefused, detail_of, reason_of

BACKLOG: Final = 128
RESOLVE_TIMEOUT_SECONDS: Final = 3.0
SHUTDOWN_TIMEOUT_SECONDS: Final = 5.0
DESCRIPTOR_PAUSE_SECONDS: Final = 1.0
ACCEPT_ERROR_PAUSE_SECONDS: Final = 0.1
LINGER_SECONDS: Final = 0.5
LINGER_READ_BYTES: Final = 16 * 1024
_OUT_OF_DESCRIPTORS: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

HandshakeFailed = Callable[[str, str, str], None]
"""Told of each connection that was not let in: the other side's address, a reason of ``handshake.REASONS``, words."""


@dataclass(frozen=True, slots=True)
class AcceptorLimits:
    """What strangers may occupy."""

    connections_max: int = 256
    """Open connections, handshakes included; one more is closed at once."""
    handshakes_max: int = 64
    """Handshakes at a time; further connections wait in the backlog."""
    handshake_timeout_seconds: float = 10.0
    slow_handshake_seconds: float = 1.0
    """While others wait, a handshake that takes longer gives up its place: silence must not lock peers out."""


class Acceptor:
    """Accepts TLS connections on one address and hands them to a protocol factory."""

    def __init__(
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        context: Callable[[], ssl.SSLContext],
        handshake_failed: HandshakeFailed,
        limits: AcceptorLimits | None = None,
    ) -> None:
        """``context`` is asked at each connection, so a new snapshot takes effect without closing the listener."""
        self._protocol_factory = protocol_factory
        self._context = context
        self._handshake_failed = handshake_failed
        self._limits = limits or AcceptorLimits()
        self._listeners: list[socket.socket] = []
        self._loops: list[asyncio.Task[None]] = []
        self._handshakes: dict[asyncio.Task[None], tuple[float, str]] = {}
        self._open: list[tuple[asyncio.WriteTransport, Any]] = []

    async def start(self, host: str, port: int) -> None:
        """Listen on every address of ``host`` (port 0: any free one); returns when connections are accepted.

        Raises ``CONFIGURATION`` naming the address if it is taken, not this machine's, or not allowed.
        """
        try:
            for family, address in await _addresses(host, port):
                self._listeners.append(_listen(family, address))
        except BaseException:
            self._close_listeners()
            raise
        self._loops = [asyncio.create_task(self._accept_all(listener)) for listener in self._listeners]

    @property
    def port(self) -> int:
        """The port that is listened on; 0 before ``start`` and after ``stop``."""
        return int(self._listeners[0].getsockname()[1]) if self._listeners else 0

    @property
    def connections(self) -> int:
        """Open connections, handshakes included."""
        self._open = [(transport, end) for transport, end in self._open if end.fileno() != -1]
        return len(self._open) + len(self._handshakes)

    async def stop(self) -> None:
        """Accept nothing more and break off handshakes; what is open stays open (see ``close_all``)."""
        for tasks in (self._loops, self._handshakes):
            await end_tasks(*tasks)
        self._loops = []
        self._close_listeners()

    def close_all(self) -> None:
        """Cut every connection now, without waiting for what it still has to say; the listener goes on."""
        for task in self._handshakes:
            task.cancel()
        for transport, end in self._open:
            if end.fileno() != -1:
                transport.abort()
        self._open = []

    def _close_listeners(self) -> None:
        for listener in self._listeners:
            listener.close()
        self._listeners = []

    async def _accept_all(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._wait_for_room()
            try:
                connection, address = await loop.sock_accept(listener)
            except OSError as error:
                await self._pause(error)
            else:
                self._admit(connection, _shown(address))

    async def _wait_for_room(self) -> None:
        loop = asyncio.get_running_loop()
        while len(self._handshakes) >= self._limits.handshakes_max:
            oldest, (began, address) = next(iter(self._handshakes.items()))
            patience = began + self._limits.slow_handshake_seconds - loop.time()
            if patience > 0:
                await asyncio.wait(self._handshakes, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
            else:
                del self._handshakes[oldest]
                oldest.cancel()
                self._handshake_failed(address, TIMEOUT, "gave up its place to others that waited")

    async def _pause(self, error: OSError) -> None:
        """The connection that can't be accepted stays in the backlog: without a pause the loop would spin on it."""
        if error.errno in _OUT_OF_DESCRIPTORS:
            self._handshake_failed("", "out_of_descriptors", f"accept: {error.strerror}")
            await asyncio.sleep(DESCRIPTOR_PAUSE_SECONDS)
        else:
            await asyncio.sleep(ACCEPT_ERROR_PAUSE_SECONDS)

    def _admit(self, connection: socket.socket, address: str) -> None:
        if self.connections >= self._limits.connections_max:
            connection.close()
            detail = f"{self._limits.connections_max} connections are open"
            self._handshake_failed(address, "too_many", detail)
            return
        task = asyncio.create_task(self._handshake(connection, address))
        self._handshakes[task] = (asyncio.get_running_loop().time(), address)
        task.add_done_callback(lambda done: self._handshakes.pop(done, None))

    async def _handshake(self, connection: socket.socket, address: str) -> None:
        try:
            context = self._context()
            # asyncio closes its socket at once when a handshake fails; this one lives on until the alert is out.
            lingering = connection.dup()
        except Exception as error:
            connection.close()
            self._handshake_failed(address, _reason_before_handshake(error), detail_of(error))
            return
        try:
            await self._shake_hands(connection, context)
        except Exception as error:
            # Whatever a stranger's bytes bring about ends here, counted, and the loop goes on.
            self._handshake_failed(address, reason_of(error), detail_of(error))
            if isinstance(error, HandshakeRefused):
                await _send_last(lingering, error.alert)
        finally:
            lingering.close()

    async def _shake_hands(self, connection: socket.socket, context: ssl.SSLContext) -> None:
        transport, _ = await asyncio.get_running_loop().connect_accepted_socket(
            self._protocol_factory,
            connection,
            ssl=context,
            ssl_handshake_timeout=self._limits.handshake_timeout_seconds,
            ssl_shutdown_timeout=SHUTDOWN_TIMEOUT_SECONDS,
        )
        self._open.append((transport, transport.get_extra_info("socket")))


async def _send_last(connection: socket.socket, alert: bytes) -> None:
    """Send the alert, then read what still arrives for a moment: closing with unread bytes would destroy it."""
    loop = asyncio.get_running_loop()
    with suppress(OSError, TimeoutError):
        connection.send(alert)
        connection.shutdown(socket.SHUT_WR)
        async with asyncio.timeout(LINGER_SECONDS):
            while await loop.sock_recv(connection, LINGER_READ_BYTES):
                pass


def _reason_before_handshake(error: Exception) -> str:
    exhausted = isinstance(error, OSError) and error.errno in _OUT_OF_DESCRIPTORS
    return "out_of_descriptors" if exhausted else reason_of(error)


async def _addresses(host: str, port: int) -> list[tuple[socket.AddressFamily, Any]]:
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(RESOLVE_TIMEOUT_SECONDS):
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, TimeoutError) as error:
        raise _cannot_listen(host, port, f"the host can't be resolved: {detail_of(error)}") from error
    return list(dict.fromkeys((family, address) for family, _, _, _, address in found))


def _listen(family: socket.AddressFamily, address: Any) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setblocking(False)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise _cannot_listen(address[0], address[1], str(error.strerror)) from error
    return listener


def _cannot_listen(host: str, port: int, cause: str) -> BsfgError:
    shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return BsfgError(
        Code.CONFIGURATION,
        f"can't listen on {shown}: {cause}",
        hint=f"see who has it with 'ss -ltnp sport = :{port}', or change listen in zone.yaml",
    )


def _shown(address: Any) -> str:
    host, port = address[0], address[1]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
