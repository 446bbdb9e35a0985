"""Ending tasks."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

from bsfg.tasks import end_tasks


async def forever() -> None:
    await asyncio.Event().wait()


async def fail() -> None:
    raise ValueError("nobody waits for this")


async def fail_when_cancelled() -> None:
    try:
        await forever()
    finally:
        raise ValueError("nor for this")


async def test_tasks_are_over_whatever_they_were_at() -> None:
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    tasks = [asyncio.create_task(each()) for each in (forever, fail, fail_when_cancelled)]
    await asyncio.sleep(0)
    await end_tasks(*tasks)
    assert [task.done() for task in tasks] == [True] * 3
    assert [task.cancelled() for task in tasks] == [True, False, False]
    del tasks
    gc.collect()
    assert complaints == []


async def test_who_waits_sees_nothing_of_how_they_ended_and_gives_up_when_cancelled() -> None:
    async def stubborn() -> None:
        while True:
            try:
                await forever()
            except asyncio.CancelledError:
                await asyncio.sleep(0.05)
                return

    task = asyncio.create_task(stubborn())
    await asyncio.sleep(0)
    ending = asyncio.create_task(end_tasks(task))
    await asyncio.sleep(0)
    ending.cancel()
    await asyncio.wait({ending})
    assert ending.cancelled()
    await asyncio.wait({task})


async def test_what_is_over_costs_no_turn_of_the_loop() -> None:
    task = asyncio.create_task(fail())
    await asyncio.wait({task})
    turns: list[None] = []
    asyncio.get_running_loop().call_soon(turns.append, None)
    await end_tasks(task)
    await end_tasks()
    assert turns == []
