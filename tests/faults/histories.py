"""Histories that don't fit: each halts the link for its own reason, and nothing is stored over it."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Awaitable, Callable
from typing import Final

from tests.faults.judge import Row, read_copy, source_name
from tests.faults.report import Report
from tests.faults.stage import Stage, Stuck, staged
from tests.support.lab_zones import ENTERPRISE, OPERATIONAL, PLANT

from bsfg.lab.stores import Store

HALT_SECONDS: Final = 25.0
FACTS: Final = 40
DELETE_LOOKS: Final = 500
"""How often the server is looked at until it has removed a stream's folder."""
REASONS: Final = {"purged": "gap", "made again": "diverged", "restored": "ahead_of_source"}


def run(seed: int) -> Report:
    """A source that was purged below the cursor and beyond it, made again, and restored from yesterday's copy."""
    report = Report("histories", seed)
    stories: dict[str, Callable[[Stage], list[Row]]] = {"purged": _purge, "made again": _recreate, "restored": _restore}
    for name, story in stories.items():
        with staged(seed) as stage:
            stage.start()
            _produce(stage, FACTS)
            stage.wait_level(HALT_SECONDS)
            _purge_below_cursor(stage)
            _produce(stage, FACTS)
            stage.wait_level(HALT_SECONDS)
            report.happened["purged below the cursor, went on"] += 1
            before = story(stage)
            try:
                _wait_halted(stage, REASONS[name])
                report.happened[f"{name}, halted for {REASONS[name]}"] += 1
            except Stuck as stuck:
                report.wrong.append(f"{name}: {stuck}")
            if _copy(stage) != before:
                report.wrong.append(f"{name}: the receiver's stream changed under a history that does not fit")
    return report


def _copy(stage: Stage) -> list[Row]:
    return read_copy(stage.zone(PLANT), ENTERPRISE, OPERATIONAL)


def _produce(stage: Stage, facts: int) -> None:
    producer = stage.producer()
    producer.ledger = producer.ledger.read(producer.ledger.path)
    producer.start(producer.ledger.count + facts)
    if not producer.join(HALT_SECONDS):
        raise Stuck(f"{facts} facts could not be appended")


def _at_source(stage: Stage, change: Callable[[Store], Awaitable[object]]) -> None:
    async def apply() -> None:
        async with stage.zone(ENTERPRISE).nats() as store:
            await change(store)

    asyncio.run(apply())


def _purge_below_cursor(stage: Stage) -> None:
    """What the receiver has is nobody's loss."""
    name = source_name(OPERATIONAL)
    _at_source(stage, lambda store: store.client.jetstream().purge_stream(name, seq=FACTS // 2))


def _purge(stage: Stage) -> list[Row]:
    """Facts go that the receiver does not have yet; what it has by then, as of each story."""
    name, before = source_name(OPERATIONAL), _copy(stage)
    keeper = stage.keeper(PLANT)
    # It is gone rather than paused: the answer to its last fetch could wait in its socket otherwise.
    keeper.rest()
    keeper.kill()
    _produce(stage, FACTS)
    _at_source(stage, lambda store: store.client.jetstream().purge_stream(name, keep=FACTS // 2))
    keeper.start()
    return before


def _recreate(stage: Stage) -> list[Row]:
    name, before = source_name(OPERATIONAL), _copy(stage)

    async def recreate(store: Store) -> None:
        jetstream = store.client.jetstream()
        config = (await jetstream.stream_info(name)).config
        await jetstream.delete_stream(name)
        folder = next(stage.zone(ENTERPRISE).home.glob(f"data/**/streams/{name}"), None)
        for _ in range(DELETE_LOOKS):
            if folder is None or not folder.exists():
                break
            await asyncio.sleep(0.01)
        await jetstream.add_stream(config)

    with stage.paused_gateway(ENTERPRISE):
        _at_source(stage, recreate)
    _produce(stage, FACTS)
    return before


def _restore(stage: Stage) -> list[Row]:
    """The whole store of the source is as it was before its last facts."""
    keeper, zone = stage.keeper(ENTERPRISE), stage.zone(ENTERPRISE)
    folder = next(zone.home.glob("data/**/jetstream")).parent
    copy = stage.lab.directory / "yesterday"
    _stop(stage)
    shutil.copytree(folder, copy)
    keeper.start()
    _produce(stage, FACTS)
    stage.wait_level(HALT_SECONDS)
    before = _copy(stage)
    _stop(stage)
    shutil.rmtree(folder)
    shutil.copytree(copy, folder)
    keeper.start()
    return before


def _stop(stage: Stage) -> None:
    keeper = stage.keeper(ENTERPRISE)
    keeper.rest()
    if keeper.process is not None:
        keeper.process.stop(HALT_SECONDS)


def _wait_halted(stage: Stage, reason: str) -> None:
    deadline = time.monotonic() + HALT_SECONDS
    row = None
    while time.monotonic() < deadline:
        row = stage.cursor(PLANT, ENTERPRISE, OPERATIONAL)
        if row is not None and (row["state"], row["reason"]) == ("halted", reason):
            return
        time.sleep(0.1)
    raise Stuck(f"not halted for {reason}: {row and (row['state'], row['reason'])}")
