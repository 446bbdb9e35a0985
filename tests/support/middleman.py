"""Something between two zones that takes TLS apart: it has the stolen keys of both, and is careless about callers.

A caller that it lets in reaches the peer's listener as the zone that it stole the key of.
"""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from tests.support.lab_zones import Zone

_NO_CHECK_TIME: Final = 0x200000
"""X509_V_FLAG_NO_CHECK_TIME of OpenSSL, which Python has no name for."""
_NOTIFY: Final = b"POST /v1/notify "
_END: Final = b"\r\n\r\n"
_CHUNK_BYTES: Final = 65_536


@dataclass(frozen=True)
class Carelessness:
    """What it does that the listener behind it would not."""

    takes_no_certificate: bool = False
    takes_expired: bool = False
    swallows_advice: bool = False


@dataclass
class _Middleman:
    caller: Zone
    peer: Zone
    care: Carelessness
    address: str = ""

    def __post_init__(self) -> None:
        inside, outside = self.peer.paths, self.caller.paths
        self._entrance = ssl.create_default_context(
            ssl.Purpose.CLIENT_AUTH, cafile=str(self.caller.place.ca_cert)
        )
        self._entrance.load_cert_chain(inside.server_certificate, inside.server_key)
        self._entrance.verify_mode = (
            ssl.CERT_OPTIONAL if self.care.takes_no_certificate else ssl.CERT_REQUIRED
        )
        if self.care.takes_expired:
            self._entrance.verify_flags |= _NO_CHECK_TIME
        self._exit = ssl.create_default_context(cafile=str(self.peer.place.ca_cert))
        self._exit.load_cert_chain(outside.server_certificate, outside.server_key)
        for context in (self._entrance, self._exit):
            context.minimum_version = ssl.TLSVersion.TLSv1_3

    async def serve(self, is_ready: threading.Event, ended: asyncio.Event) -> None:
        server = await asyncio.start_server(self._pass_on, "127.0.0.1", 0, ssl=self._entrance)
        self.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        is_ready.set()
        await ended.wait()
        server.close()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if self._is_known(writer):
                host, port = self.peer.address
                identity = f"{self.peer.place.zone}-bsfg"
                inside = await asyncio.open_connection(host, port, ssl=self._exit, server_hostname=identity)
                await asyncio.gather(self._ask(reader, inside[1], writer), _pipe(inside[0], writer))
        except (OSError, EOFError):
            pass
        finally:
            writer.close()

    def _is_known(self, writer: asyncio.StreamWriter) -> bool:
        shown = writer.get_extra_info("peercert")
        names = [value for _, value in (shown or {}).get("subjectAltName", ())]
        return not shown or f"{self.caller.place.zone}-bsfg" in names

    async def _ask(
        self, reader: asyncio.StreamReader, inside: asyncio.StreamWriter, back: asyncio.StreamWriter
    ) -> None:
        """Requests are small: each comes whole, header and body, before the next."""
        try:
            while chunk := await reader.read(_CHUNK_BYTES):
                if self.care.swallows_advice and chunk.startswith(_NOTIFY):
                    await _rest(reader, chunk)
                    back.write(b"HTTP/1.1 204 No Content\r\n\r\n")
                else:
                    inside.write(chunk)
                    await inside.drain()
        finally:
            inside.close()


async def _rest(reader: asyncio.StreamReader, chunk: bytes) -> None:
    while _END not in chunk:
        chunk += await reader.read(_CHUNK_BYTES)
    head, _, body = chunk.partition(_END)
    length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
    if len(body) < length:
        await reader.readexactly(length - len(body))


async def _pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while chunk := await reader.read(_CHUNK_BYTES):
            writer.write(chunk)
            await writer.drain()
    finally:
        writer.close()


@contextmanager
def between(caller: Zone, peer: Zone, care: Carelessness) -> Iterator[str]:
    """The address at which the caller reaches the peer through it, until the end of the block."""
    middleman, is_ready, loop = _Middleman(caller, peer, care), threading.Event(), asyncio.new_event_loop()
    ended = asyncio.Event()
    thread = threading.Thread(target=_run, args=(loop, middleman.serve(is_ready, ended)), daemon=True)
    thread.start()
    assert is_ready.wait(5.0)
    try:
        yield middleman.address
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join()


def _run(loop: asyncio.AbstractEventLoop, serving: Coroutine[None, None, None]) -> None:
    loop.run_until_complete(serving)
    loop.run_until_complete(_ended(asyncio.all_tasks(loop)))
    loop.close()


async def _ended(tasks: set[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
