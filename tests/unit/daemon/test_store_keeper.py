"""What the keeper of the store says when its connection breaks and comes back."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest
import structlog
from tests.support.patience import patience

from bsfg.daemon import store_keeper
from bsfg.daemon.store_keeper import StoreKeeper


@dataclass
class Line:
    """A connection whose breaks the test decides about."""

    connected: bool = True
    problem: str | None = None
    connections: int = 1


async def kept(line: Line, seconds: float) -> int:
    """How often the store was said to have come back within the time."""
    returns = 0

    async def provision() -> None:
        """Nothing to make."""

    def came_back() -> None:
        nonlocal returns
        returns += 1

    keeper = StoreKeeper(line, provision, came_back, structlog.get_logger())
    running = asyncio.create_task(keeper.run())
    await asyncio.sleep(seconds)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert keeper.is_ready
    return returns


@pytest.fixture(autouse=True)
def looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_keeper, "PROBE_SECONDS", 0.02)
    monkeypatch.setattr(store_keeper, "RETRY_SECONDS", 0.08)


async def test_a_connection_that_holds_comes_back_once() -> None:
    assert await kept(Line(), 0.3) == 1


async def test_a_connection_that_broke_and_came_back_between_two_looks_is_told() -> None:
    line = Line()
    asyncio.get_running_loop().call_later(0.15, setattr, line, "connections", 2)
    assert await kept(line, 0.5) == 2


async def test_a_connection_that_was_away_is_told_when_it_is_back() -> None:
    line = Line()

    def comes_back() -> None:
        line.connections, line.connected = 2, True

    loop = asyncio.get_running_loop()
    loop.call_later(0.15, setattr, line, "connected", False)
    loop.call_later(0.3, comes_back)
    assert await kept(line, 0.8) == 2


class Away:
    """A connection that is away, and notices when it is looked at without anybody else being let run."""

    problem = "away"
    connections = 1

    def __init__(self) -> None:
        self.is_back = False
        self.looks = 0

    @property
    def connected(self) -> bool:
        self.looks += 1
        assert self.looks < 1_000, "nobody else is let run"
        return self.is_back


async def test_what_is_asked_for_while_the_connection_is_away_waits_for_it_and_lets_others_run() -> None:
    line, provisions = Away(), 0

    async def provision() -> None:
        nonlocal provisions
        provisions += 1

    keeper = StoreKeeper(line, provision, lambda: None, structlog.get_logger())
    keeper.provision_soon()
    running = asyncio.create_task(keeper.run())
    await asyncio.sleep(0.1)
    assert (running.done(), provisions) == (False, 0)
    line.is_back = True
    async with asyncio.timeout(5 * patience()):
        while not keeper.is_ready:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert provisions == 1
