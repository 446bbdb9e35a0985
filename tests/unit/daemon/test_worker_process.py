"""A worker that ends, is silent, deaf or mad: noticed, named, ended, and started again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import structlog
from tests.support.behaved_worker import program
from tests.support.patience import patience
from tests.support.twin_link import NAME

from bsfg.config.limits import Limits
from bsfg.core.backoff import Backoff
from bsfg.core.conversation import Woken
from bsfg.daemon import worker_process
from bsfg.daemon.system import SystemClock
from bsfg.daemon.worker_process import WorkerProcess
from bsfg.daemon.worker_words import Beginning, Orders, Report
from bsfg.errors import BsfgError, Code


@dataclass
class Owner:
    reports: int = 0
    losses: list[str] = field(default_factory=list)
    fault: Exception | None = None
    """Raised once, by what is to be ordered."""

    def beginning(self, index: int) -> Beginning:
        nothing: Any = None
        return Beginning(index, Path("/"), nothing, (), None)

    def orders(self, index: int, number: int, known: Any) -> tuple[Orders, Any]:
        fault, self.fault = self.fault, None
        if fault is not None:
            raise fault
        return Orders(number, None, {}, {}, {}, {}, Limits()), known

    def described(self, index: int) -> str:
        return "no links yet"

    def heard(self, index: int, report: Report) -> None:
        self.reports += 1

    def lost(self, index: int, cause: str) -> None:
        self.losses.append(cause)


async def until(what: Callable[[], Any], seconds: float = 30.0) -> Any:
    deadline = time.monotonic() + seconds * patience()
    while not (found := what()):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
    return found


@asynccontextmanager
async def running(how: str) -> AsyncIterator[tuple[WorkerProcess, Owner]]:
    owner, lines = Owner(), structlog.wrap_logger(None, processors=[_drop])
    worker = WorkerProcess(0, program(how), owner, SystemClock(), lines, Backoff(0.05, 0.1))
    task = asyncio.create_task(worker.run())
    try:
        yield worker, owner
    finally:
        await worker.stop()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert worker._process is None or worker._process.returncode is not None


def _drop(*words: Any) -> str:
    raise structlog.DropEvent


@pytest.fixture(autouse=True)
def short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_process, "TICK_SECONDS", 0.1)
    monkeypatch.setattr(worker_process, "STARTING_TICKS_MAX", 300)
    monkeypatch.setattr(worker_process, "STOP_SECONDS", 0.5)


async def test_one_that_behaves_takes_orders_and_stops() -> None:
    async with running("well") as (worker, owner):
        await until(lambda: owner.reports > 3)
        worker.order()
        async with asyncio.timeout(5 * patience()):
            await worker.caught_up(also_starting=True)
        assert worker.problem is None
    assert owner.losses == []


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("silent", "has not answered for 1 s"),
        ("mad", "said what can't be understood"),
        ("ends", "ended with status 1: it is enough"),
    ],
)
async def test_one_that_fails_is_named_and_started_again(how: str, words: str) -> None:
    async with running(how) as (worker, owner):
        await until(lambda: len(owner.losses) > 1)
        assert words in owner.losses[0]
        assert "worker 1 (process" in owner.losses[0]
        assert "started again" in owner.losses[0]
        assert worker._starts > 1


async def test_a_fault_of_ours_does_not_leave_its_links_without_a_worker() -> None:
    async with running("well") as (worker, owner):
        owner.fault = KeyError("nobody foresaw this")
        await until(lambda: worker._is_up)
        assert "can't be attended to: KeyError" in owner.losses[0]
        assert worker._starts == 2


async def test_one_that_does_not_take_its_orders_does_not_live_on() -> None:
    """What was revoked must not go on in a process that did not hear of it (I34, I35)."""
    async with running("deaf") as (worker, owner):
        await until(lambda: worker._is_up)
        worker.order()
        began = time.monotonic()
        async with asyncio.timeout(10 * patience()):
            await worker.caught_up(also_starting=True)
        await until(lambda: owner.losses)
        assert "has not taken its orders" in owner.losses[0]
        assert time.monotonic() - began < 5


async def test_who_asks_a_worker_that_is_lost_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async with running("silent") as (worker, _):
        await until(lambda: worker._is_up)
        with pytest.raises(BsfgError, match="has not answered") as caught:
            await worker.ask(NAME, Woken())
        assert caught.value.code is Code.UNAVAILABLE


async def test_one_that_does_not_stop_is_ended() -> None:
    async with running("stubborn") as (worker, _):
        await until(lambda: worker._is_up)
        process = worker._process
        began = time.monotonic()
        await worker.stop()
        assert time.monotonic() - began < 5
        assert process is not None and process.returncode == -9
