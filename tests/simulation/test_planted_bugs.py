"""A judge that catches nothing proves nothing: each bug planted here must be caught, by the rule that names it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import ModuleType
from typing import Any, Final

import pytest
from tests.simulation.fault_kinds import Fault
from tests.simulation.faults_of_receiver import inbound_purged, store_power_cut
from tests.simulation.faults_of_sender import last_facts_deleted, source_restored
from tests.simulation.receiver_store import Answer, ReceiverStore
from tests.simulation.seeds import run_seed
from tests.simulation.source_store import SourceStore
from tests.simulation.store_connection import StoreConnection
from tests.simulation.world import World

import bsfg.core.link
import bsfg.daemon.driver
import bsfg.transport.fetch_service
from bsfg.core.conversation import (
    Commands,
    Confirm,
    Event,
    PageFetched,
    StoreDoubted,
    Woken,
)
from bsfg.core.link import advance
from bsfg.core.link_state import Link
from bsfg.core.reconcile import Halt, NeedsStart, Resume, resume
from bsfg.model.cursor import Cursor, Fence, LinkName, LocalPosition
from bsfg.model.fact import Fact
from bsfg.model.names import StreamName
from bsfg.model.page import Agreement, LogSlice, PageLimits
from bsfg.ports import Confirmed

SEEDS_MAX: Final = 200
LATE_SECONDS: Final = 32.0
"""By then links are level in most seeds, and nothing but a look would find out what happened to a stream."""

Planted = Mapping[str, Any]
Stage = Callable[[World], None]


def must_be_caught(
    by: str, where: ModuleType | type[object], planted: Planted, stage: Stage | None = None
) -> None:
    """Some seed breaks this rule with the bug, and nothing without it; ``stage`` adds faults to both."""
    for seed in range(1, SEEDS_MAX):
        with pytest.MonkeyPatch.context() as patch:
            for name, bug in planted.items():
                patch.setattr(where, name, bug)
            found = run_seed(seed, prepare=stage).violations.get(seed, [])
        is_caught = any(violation.startswith(by) for violation in found)
        if is_caught and not run_seed(seed, prepare=stage).violations:
            return
    pytest.fail(f"nothing broke {by} in {SEEDS_MAX} seeds")


def test_confirming_before_the_append_is_caught() -> None:
    def confirms_what_it_fetched(link: Link, event: Event) -> tuple[Link, Commands]:
        link, commands = advance(link, event)
        ahead = link.cursor_ahead
        if isinstance(event, PageFetched) and link.flights and ahead is not None:
            return link, (Confirm(ahead), *commands)
        return link, commands

    must_be_caught("I4", bsfg.daemon.driver, {"advance": confirms_what_it_fetched})


def test_trusting_a_cached_cursor_is_caught() -> None:
    def believes_the_record(position: LocalPosition) -> Resume | NeedsStart | Halt:
        found, record = resume(position), position.record
        return replace(found, cursor=record.cursor) if isinstance(found, Resume) and record else found

    must_be_caught("I9/I10", bsfg.core.link, {"resume": believes_the_record})


def test_a_cached_cursor_that_is_ahead_after_a_power_cut_is_caught() -> None:
    def believes_a_newer_record(position: LocalPosition) -> Resume | NeedsStart | Halt:
        found, record = resume(position), position.record
        if isinstance(found, Resume) and record:
            is_newer = (record.cursor.sequence or 0) > (found.cursor.sequence or 0)
            return replace(found, cursor=record.cursor) if is_newer else found
        return found

    def cut_the_power(world: World) -> None:
        """The record is on disk, the facts that it speaks of are not."""
        world.store.is_strict = False
        for seconds in range(8, 24, 5):
            world.mischief(seconds, partial(last_facts_deleted, world))
            world.mischief(seconds + 3.0, world.store.sync_record)
            world.mischief(seconds + 3.1, partial(store_power_cut, world))

    must_be_caught("lost", bsfg.core.link, {"resume": believes_a_newer_record}, cut_the_power)


def test_starting_anew_where_the_store_has_lost_all_is_caught() -> None:
    def forgets_that_it_began(position: LocalPosition) -> Resume | NeedsStart | Halt:
        return resume(replace(position, begun=None))

    def cut_the_power_early(world: World) -> None:
        """Nothing of the young store is on disk."""
        world.store.is_strict = False
        for seconds in range(2, 8):
            world.mischief(seconds, partial(store_power_cut, world))

    must_be_caught("I21", bsfg.core.link, {"resume": forgets_that_it_began}, cut_the_power_early)


def test_appending_without_a_fence_is_caught() -> None:
    take = ReceiverStore.take

    def takes_anything(self: ReceiverStore, fence: Fence, epoch: str, facts: Sequence[Fact]) -> Answer:
        return take(self, replace(fence, local_sequence=self.last_sequence), epoch, facts)

    must_be_caught("I9/I10", ReceiverStore, {"take": takes_anything})


def test_reading_the_fence_again_before_the_append_is_caught() -> None:
    append = StoreConnection.append

    async def appends_behind_whatever_is_there(
        self: StoreConnection, link: LinkName, fence: Fence, epoch: str, facts: Sequence[Fact]
    ) -> Fence:
        return await append(self, link, (await self.locate(link)).fence, epoch, facts)

    must_be_caught("I9/I10", StoreConnection, {"append": appends_behind_whatever_is_there})


def test_answering_without_agreement_is_caught() -> None:
    def agrees(after: Cursor, ours: str | None, confirmed: Confirmed | None) -> Agreement:
        return Agreement.EPOCH

    def asks_nothing(*described: object) -> None:
        """Any history will do."""

    rules: Planted = {
        "agreement_on": agrees,
        "must_not_be_ahead": asks_nothing,
        "must_be_same_history": asks_nothing,
    }
    must_be_caught("I16", bsfg.transport.fetch_service, rules)


def test_going_on_with_what_was_believed_when_the_store_returns_is_caught() -> None:
    """The gateway lives on while its NATS loses what it had acknowledged."""

    def only_wakes(link: Link, event: Event) -> tuple[Link, Commands]:
        return advance(link, Woken() if isinstance(event, StoreDoubted) else event)

    def cut_the_power_of_an_external_store(world: World) -> None:
        world.store.is_strict = False
        world.mischief(world.profile.seconds - 0.7, partial(_lose_power_under_a_living_gateway, world))

    patched = {"advance": only_wakes, "LOOK_SECONDS": 1e6}
    must_be_caught("lost", bsfg.daemon.driver, patched, cut_the_power_of_an_external_store)


def _lose_power_under_a_living_gateway(world: World) -> None:
    world.store.lose_power()
    world.is_record_damaged = True
    world.later(0.5, world.store_back)


def test_never_looking_at_a_stream_that_flows_is_caught() -> None:
    must_be_caught("stuck", bsfg.daemon.driver, {"LOOK_SECONDS": 1e6}, partial(_meanwhile, inbound_purged))


def _meanwhile(fault: Fault, world: World) -> None:
    world.mischief(LATE_SECONDS, partial(fault, world))


def test_not_agreeing_again_behind_a_read_of_another_history_is_caught() -> None:
    """As a reader that calls every read continuous: the source is made again while a poll is held."""
    read = SourceStore.read

    async def reads_on(self: SourceStore, stream: StreamName, after: int, limits: PageLimits) -> LogSlice:
        return replace(await read(self, stream, after, limits), is_continuous=True)

    def restore_under_polls(world: World) -> None:
        for seconds in range(6, 28, 2):
            world.mischief(seconds, partial(source_restored, world))

    must_be_caught("I16", SourceStore, {"read": reads_on}, restore_under_polls)


def test_taking_the_frontier_from_the_head_is_caught() -> None:
    def believes_the_head(link: Link, event: Event) -> tuple[Link, Commands]:
        if isinstance(event, PageFetched):
            event = replace(event, page=replace(event.page, scanned_through=event.page.head))
        return advance(link, event)

    must_be_caught("lost", bsfg.daemon.driver, {"advance": believes_the_head})
