"""Thin lines between two real zones: compressed pages, a limit, and what matters most first."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
import time
from collections.abc import Iterator

import pytest
from tests.support.lab_zones import OPERATIONAL, Lab, Zone
from tests.support.patience import patience

AUDIT = "facts.audit"
FACT_BYTES = 1_000
MEGABYTE = 1_000_000
MEGABYTES_BEHIND = 10
"""Many times what is under way on a link."""


class ThinLine:
    """A line to an address, in a thread of its own, that carries so many bytes a second and counts them."""

    def __init__(self, host: str, port: int) -> None:
        self.bytes_per_second: float | None = None
        self.carried = 0
        self.port = 0
        self._target = (host, port)
        self._free_at = 0.0
        self._ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> ThinLine:
        self._thread.start()
        assert self._ready.wait(5)
        return self

    def __exit__(self, *exception: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    def _run(self) -> None:
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(*self._target, limit=16 * 1024)
        await asyncio.gather(self._copy(reader, far_writer, False), self._copy(far_reader, writer, True))

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, is_down: bool) -> None:
        with contextlib.suppress(ConnectionError):
            while piece := await reader.read(16 * 1024):
                if is_down:
                    self.carried += len(piece)
                    await self._pass(len(piece))
                writer.write(piece)
                await writer.drain()
        writer.close()

    async def _pass(self, count: int) -> None:
        if self.bytes_per_second is None:
            return
        now = time.monotonic()
        self._free_at = max(self._free_at, now) + count / self.bytes_per_second
        await asyncio.sleep(self._free_at - now)


@pytest.fixture(scope="module")
def line(lab: Lab) -> Iterator[ThinLine]:
    """What plant-a reaches enterprise by."""
    with ThinLine(*lab.enterprise.address) as thin:
        peers = lab.plant.paths.peers_file
        with lab.plant.changed(peers, (lab.enterprise.place.endpoint, f"127.0.0.1:{thin.port}")):
            yield thin


Samples = list[tuple[float, dict[str, float]]]


def append(lab: Lab, stream: str, megabytes: int, *, is_text: bool = True) -> int:
    """Facts of 1,000 bytes, compressible or not; the stream's head."""
    noise = random.Random(7)
    text = b'{"sensor":"furnace-7","celsius":1412.5,"state":"melting"}' * 30

    def payload() -> bytes:
        return b'"%s"' % (text.replace(b'"', b"")[:998] if is_text else noise.randbytes(499).hex().encode())

    lab.enterprise.append(stream, *[payload() for _ in range(megabytes * MEGABYTE // FACT_BYTES)])
    return int(lab.enterprise.stream(stream)["last_sequence"])


def reached(zone: Zone, stream: str) -> float:
    with contextlib.suppress(OSError):
        return zone.metric("bsfg_cursor_sequence", stream=stream) or 0.0
    return 0.0


def catch_up(lab: Lab, heads: dict[str, int], **added: dict[str, object]) -> Samples:
    """Start plant-a with this added to its links, and watch their cursors until they have reached these heads."""
    text = lab.plant.paths.cursors_file.read_text()
    for stream, entries in added.items():
        head = f"    stream: facts.{stream}\n"
        assert head in text
        text = text.replace(head, head + "".join(f"    {key}: {value}\n" for key, value in entries.items()))
    before, samples = lab.plant.paths.cursors_file.read_text(), Samples()
    lab.plant.install(lab.plant.paths.cursors_file, text)
    try:
        lab.plant.start_gateway()
        deadline = time.monotonic() + 60 * patience()
        while not samples or any(samples[-1][1][stream] < head for stream, head in heads.items()):
            assert time.monotonic() < deadline, samples[-1]
            now, at = time.monotonic(), {stream: reached(lab.plant, stream) for stream in heads}
            samples.append((now, at))
            time.sleep(0.05)
    finally:
        lab.plant.install(lab.plant.paths.cursors_file, before)
    return samples


def fastest(samples: Samples, stream: str, seconds: float) -> float:
    """Bytes a second over the busiest stretch of at least this length."""
    moving = [(now, at[stream]) for now, at in samples]
    return max(
        (later - earlier) * FACT_BYTES / (ended - began)
        for began, earlier in moving
        for ended, later in moving
        if ended - began >= seconds
    )


def test_compressed_within_a_limit(lab: Lab, line: ThinLine) -> None:
    """A megabyte a second, as measured over its busiest stretch."""
    lab.plant.stop_gateway()
    head = append(lab, OPERATIONAL, 5)
    before = line.carried
    pace = {"max_bytes_per_second": "1MB", "compression": "zstd"}
    samples = catch_up(lab, {OPERATIONAL: head}, operational=pace)
    rate = fastest(samples, OPERATIONAL, 2.0)
    assert 0.75 * MEGABYTE < rate < 1.3 * MEGABYTE, f"{rate:.0f} bytes a second"
    assert line.carried - before < 0.5 * MEGABYTE, f"{line.carried - before} bytes for 5 MB of text"


def test_neither_compressed_nor_limited_by_default(lab: Lab, line: ThinLine) -> None:
    lab.plant.stop_gateway()
    head = append(lab, OPERATIONAL, 5)
    before = line.carried
    samples = catch_up(lab, {OPERATIONAL: head})
    assert fastest(samples, OPERATIONAL, 0.5) > 4 * MEGABYTE
    assert line.carried - before > 4.9 * MEGABYTE


def test_audit_before_the_rest_after_an_outage(lab: Lab, line: ThinLine) -> None:
    """On a line of 4 MB a second, both with as much to catch up."""
    lab.plant.stop_gateway()
    heads = {
        AUDIT: append(lab, AUDIT, MEGABYTES_BEHIND, is_text=False),
        OPERATIONAL: append(lab, OPERATIONAL, MEGABYTES_BEHIND, is_text=False),
    }
    line.bytes_per_second = 4 * MEGABYTE
    try:
        samples = catch_up(lab, heads, audit={"priority": 9})
    finally:
        line.bytes_per_second = None
    rest = next(at[OPERATIONAL] for _, at in samples if at[AUDIT] >= heads[AUDIT])
    share = 1 - (heads[OPERATIONAL] - rest) * FACT_BYTES / (MEGABYTES_BEHIND * MEGABYTE)
    assert share < 0.6, f"when audit was level, the other stream had {share:.0%} of its facts"
