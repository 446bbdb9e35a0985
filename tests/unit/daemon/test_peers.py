"""Whether a peer answers: probed only where nobody else speaks with it, and known within ten seconds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tests.support.patience import patience

from bsfg.daemon import peers
from bsfg.daemon.peers import PeerMonitor
from bsfg.daemon.system import SystemClock
from bsfg.errors import BsfgError, Code
from bsfg.model.names import parse_zone

PERIOD = 0.2
"""Instead of four seconds; the deadline of a probe is as long."""


class Peer:
    """A client that answers, refuses or hangs."""

    def __init__(self) -> None:
        self.asked, self.is_silent = 0, False

    async def health(self) -> dict[str, Any]:
        self.asked += 1
        if self.is_silent:
            await asyncio.Event().wait()
        return {"time": "2026-01-02T03:04:05Z"}


@asynccontextmanager
async def monitored(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[PeerMonitor, Peer]]:
    monkeypatch.setattr(peers, "PROBE_SECONDS", PERIOD)
    monkeypatch.setattr(peers, "QUIET_SECONDS", PERIOD)
    monkeypatch.setattr(peers, "PROBE_TIMEOUT_SECONDS", PERIOD)
    monkeypatch.setattr(peers, "PAUSE_SECONDS_MIN", 0.01)
    peer = Peer()
    changes = lambda *words: None  # noqa: E731
    monitor = PeerMonitor(parse_zone("enterprise"), peer, SystemClock(), changes)  # type: ignore[arg-type]
    task = asyncio.create_task(monitor.run())
    try:
        yield monitor, peer
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_peer_that_nobody_speaks_with_is_probed_each_period(monkeypatch: pytest.MonkeyPatch) -> None:
    async with monitored(monkeypatch) as (monitor, peer):
        await asyncio.sleep(PERIOD * 5.5)
        assert 3 <= peer.asked <= 7 and monitor.reachable is True


async def test_a_peer_that_links_speak_with_is_not_probed(monkeypatch: pytest.MonkeyPatch) -> None:
    async with monitored(monkeypatch) as (monitor, peer):
        for _ in range(30):
            await asyncio.sleep(PERIOD / 5)
            monitor.answered()
        assert peer.asked == 1 and monitor.reachable is True


async def test_silence_after_the_last_word_is_known_within_a_period_and_a_deadline(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with monitored(monkeypatch) as (monitor, peer):
        await asyncio.sleep(PERIOD / 2)
        monitor.answered()
        peer.is_silent, began = True, time.monotonic()
        gone = asyncio.Event()
        monitor.changed = lambda *words: gone.set()
        async with asyncio.timeout(5 * patience()):
            await gone.wait()
        assert monitor.reachable is False and time.monotonic() - began < 2 * PERIOD + 0.15


async def test_the_clock_is_looked_at_also_where_links_speak_all_the_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(peers, "CLOCK_SECONDS", PERIOD * 2)
    async with monitored(monkeypatch) as (monitor, peer):
        for _ in range(30):
            await asyncio.sleep(PERIOD / 5)
            monitor.answered()
        assert peer.asked >= 2 and monitor.skew_seconds is not None


async def test_a_peer_that_is_cut_off_is_not_asked_and_asked_at_once_when_it_is_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with monitored(monkeypatch) as (monitor, peer):
        await asyncio.sleep(PERIOD / 2)
        monitor.partitioned(True)
        monitor.probe_soon()
        asked = peer.asked
        await asyncio.sleep(PERIOD * 3)
        assert peer.asked == asked and monitor.reachable is False
        monitor.partitioned(False)
        await asyncio.sleep(PERIOD / 2)
        assert peer.asked == asked + 1 and monitor.reachable is True


async def test_a_failure_that_anybody_meets_counts_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async with monitored(monkeypatch) as (monitor, _):
        await asyncio.sleep(PERIOD / 2)
        monitor.silent(BsfgError(Code.UNAVAILABLE, "refused", reason="refused"))
        assert monitor.reachable is False and monitor.reason == "refused"
