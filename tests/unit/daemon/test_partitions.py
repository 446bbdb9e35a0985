"""Administrative partitions: durable, bounded, ending by themselves."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from bsfg.daemon import partitions as module
from bsfg.daemon.partitions import SECONDS_MAX, Partition, Partitions
from bsfg.daemon.system import SystemClock
from bsfg.errors import BsfgError, SubstrateUnavailable
from bsfg.model.names import ZoneId, parse_zone

PEER = parse_zone("enterprise")


class Shelf:
    """A store of partitions that can be out of reach."""

    def __init__(self) -> None:
        self.kept: dict[ZoneId, dict[str, Any]] = {}
        self.is_away = False

    async def load_all(self) -> Mapping[ZoneId, dict[str, Any]]:
        return dict(self.kept)

    async def save(self, peer: ZoneId, partition: Mapping[str, Any], /) -> None:
        if self.is_away:
            raise SubstrateUnavailable("away")
        self.kept[peer] = dict(partition)

    async def delete(self, peer: ZoneId, /) -> None:
        if self.is_away:
            raise SubstrateUnavailable("away")
        del self.kept[peer]


class Desk:
    def __init__(self, shelf: Shelf | None = None) -> None:
        self.shelf = shelf or Shelf()
        self.changes: list[tuple[ZoneId, Partition | None, str]] = []
        self.partitions = Partitions(self.shelf, SystemClock(), lambda *words: self.changes.append(words))


async def test_a_partition_is_durable_before_it_acts_and_survives_a_restart() -> None:
    desk = Desk()
    began = await desk.partitions.begin(PEER, "drill", 60)
    assert desk.changes == [(PEER, began, "operator")]
    after = Desk(desk.shelf)
    await after.partitions.load()
    assert after.partitions.in_force == {PEER: began}
    ended = await after.partitions.end(PEER, "operator")
    assert ended == began and desk.shelf.kept == {} and after.partitions.in_force == {}
    assert await after.partitions.end(PEER, "operator") is None


async def test_a_partition_that_can_not_be_kept_does_not_begin() -> None:
    desk = Desk()
    desk.shelf.is_away = True
    with pytest.raises(SubstrateUnavailable):
        await desk.partitions.begin(PEER, "drill", 60)
    assert desk.partitions.in_force == {} and desk.changes == []


@pytest.mark.parametrize(
    ("reason", "seconds"), [("", 60), ("  ", 60), ("x" * 501, 60), ("ok", 0), ("ok", SECONDS_MAX + 1)]
)
async def test_a_partition_needs_a_reason_and_an_end_within_a_day(reason: str, seconds: float) -> None:
    with pytest.raises(BsfgError):
        await Desk().partitions.begin(PEER, reason, seconds)


async def test_one_without_an_end_waits_for_an_operator() -> None:
    assert (await Desk().partitions.begin(PEER, "long", None)).until is None


async def test_a_partition_ends_by_itself_even_after_the_store_was_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "TICK_SECONDS", 0.01)
    desk = Desk()
    await desk.partitions.begin(PEER, "drill", 0.05)
    desk.shelf.is_away = True
    clock = asyncio.create_task(desk.partitions.run())
    await asyncio.sleep(0.1)
    assert PEER in desk.partitions.in_force
    desk.shelf.is_away = False
    await asyncio.sleep(0.1)
    clock.cancel()
    assert desk.partitions.in_force == {} and desk.changes[-1] == (PEER, None, "time is over")


async def test_a_record_that_can_not_be_read_still_cuts_the_peer_off() -> None:
    desk = Desk()
    desk.shelf.kept[PEER] = {"reason": "drill", "until": "soon"}
    await desk.partitions.load()
    assert desk.partitions.in_force[PEER].until is None
