"""The line between the zones: a TCP proxy that delays, throttles, cuts and freezes, and packets that are dropped."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

CHUNK_BYTES: Final = 64 * 1024
LOOK_SECONDS: Final = 0.02
START_SECONDS: Final = 5.0
_TABLE: Final = "bsfg_faults"


@dataclass
class Trouble:
    """What is wrong with the line now; changed by other threads at any time."""

    delay_seconds: float = 0.0
    bytes_per_second: float = 0.0
    """0 for no limit."""
    cut_after_bytes: int = -1
    """How many bytes still pass before every connection breaks; -1 for none."""
    is_frozen: bool = False
    """Connections stay open and new ones are taken, and nothing passes: half-open, as behind a lost router."""


@dataclass
class FaultProxy:
    """Passes TLS through to ``target``; the address to connect to is ``host`` and ``port``."""

    target: tuple[str, int]
    host: str = "127.0.0.1"
    port: int = 0
    trouble: Trouble = field(default_factory=Trouble)
    cuts: int = 0
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)
    _started: threading.Event = field(default_factory=threading.Event)

    def start(self) -> None:
        threading.Thread(target=self._run, daemon=True, name="fault proxy").start()
        assert self._started.wait(START_SECONDS), "the fault proxy did not start"

    def break_connections(self) -> None:
        """Reset whatever is open."""
        self._loop.call_soon_threadsafe(self._abort_all)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._accept, self.host, self.port))
        self.port = server.sockets[0].getsockname()[1]
        self._started.set()
        self._loop.run_forever()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            onward_reader, onward_writer = await asyncio.open_connection(*self.target)
        except OSError:
            writer.transport.abort()
            return
        ends = {writer, onward_writer}
        self._writers |= ends
        with contextlib.suppress(OSError):
            await asyncio.gather(self._relay(reader, onward_writer), self._relay(onward_reader, writer))
        for end in ends:
            end.transport.abort()
        self._writers -= ends

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while chunk := await reader.read(CHUNK_BYTES):
            await self._hinder(len(chunk))
            if self.trouble.cut_after_bytes >= 0:
                left = self.trouble.cut_after_bytes
                self.trouble.cut_after_bytes -= len(chunk)
                if self.trouble.cut_after_bytes < 0:
                    writer.write(chunk[:left])
                    await asyncio.sleep(LOOK_SECONDS)
                    self.cuts += 1
                    self._abort_all()
                    return
            writer.write(chunk)
            await writer.drain()
        if not writer.is_closing():
            writer.write_eof()

    async def _hinder(self, size: int) -> None:
        while self.trouble.is_frozen:  # noqa: ASYNC110
            await asyncio.sleep(LOOK_SECONDS)
        if self.trouble.delay_seconds:
            await asyncio.sleep(self.trouble.delay_seconds)
        if self.trouble.bytes_per_second:
            await asyncio.sleep(min(2.0, size / self.trouble.bytes_per_second))

    def _abort_all(self) -> None:
        for writer in self._writers:
            writer.transport.abort()


@dataclass
class Packets:
    """Packets that the kernel drops, by port; the whole lab is on this network namespace's loopback."""

    dropped: dict[int, tuple[str, ...]] = field(default_factory=dict)
    _next: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def dropping(self, *matches: str) -> Iterator[None]:
        """Drop what matches, as ``tcp dport 9443``, inside the block."""
        with self._lock:
            self._next += 1
            number = self._next
            self.dropped[number] = matches
            self._apply()
        try:
            yield
        finally:
            with self._lock:
                del self.dropped[number]
                self._apply()

    def _apply(self) -> None:
        """One transaction: there is no moment with half the rules."""
        rules = "\n".join(f"    {match} drop" for matches in self.dropped.values() for match in matches)
        chain = f"  chain out {{\n    type filter hook output priority 0;\n{rules}\n  }}"
        text = f"table inet {_TABLE}\ndelete table inet {_TABLE}\ntable inet {_TABLE} {{\n{chain}\n}}\n"
        subprocess.run(["nft", "-f", "-"], input=text.encode(), check=True, timeout=10, capture_output=True)
