"""A proxy in this process that counts what two zones say to each other; TLS passes through it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from bench.fault_proxy import Entrance


class Counted:
    """The bytes of both directions since it was made, of connections that have ended too."""

    def __init__(self, target: str) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._entrances: list[Entrance] = []
        self.address = ""

    @property
    def carried_bytes(self) -> int:
        """What both ends have said so far."""
        ends = [end for entrance in list(self._entrances) for end in (entrance, entrance.other) if end]
        return sum(end.received_bytes for end in ends)

    async def serve(self, is_ready: threading.Event, ended: asyncio.Event) -> None:
        """Until told to end."""
        server = await asyncio.get_running_loop().create_server(self._entrance, "127.0.0.1", 0)
        self.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        is_ready.set()
        await ended.wait()

    def _entrance(self) -> Entrance:
        entrance = Entrance(*self._target, 0.0)
        self._entrances.append(entrance)
        return entrance


@contextmanager
def counted(target: str) -> Iterator[Counted]:
    """A proxy in front of ``host:port`` until the end of the block."""
    wire, is_ready = Counted(target), threading.Event()
    loop = asyncio.new_event_loop()
    ended = asyncio.Event()
    thread = threading.Thread(
        target=loop.run_until_complete, args=(wire.serve(is_ready, ended),), daemon=True
    )
    thread.start()
    if not is_ready.wait(5.0):
        raise RuntimeError(f"the proxy in front of {target} did not start")
    try:
        yield wire
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join()
