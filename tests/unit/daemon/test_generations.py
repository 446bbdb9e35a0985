"""A new generation beside the one in force: built, compared, switched to, and found again wherever its builder died."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import structlog
from tests.support.nats import NatsServer, running_nats
from tests.support.twin_link import RECEIVER, SOURCE, Shelf, TwinCaller, TwinPeer

from bsfg.config.limits import Limits
from bsfg.config.values import LinkConfig
from bsfg.daemon.audit import AuditLog
from bsfg.daemon.generations import REPAIR, Generations
from bsfg.daemon.link_reporter import LinkReporter
from bsfg.daemon.links import LinkMeans, LinkSupervisor
from bsfg.daemon.repair_source import KeptFacts, copies_of
from bsfg.daemon.system import SystemClock
from bsfg.daemon.telemetry import Telemetry
from bsfg.errors import BsfgError, Code, PeerUnreachable
from bsfg.model.cursor import Cursor, LinkName, LinkState, parse_init_mode
from bsfg.model.names import StreamName, inbound_physical, inbound_subject, link_key, parse_stream
from bsfg.model.page import FetchRequest, Page, PageLimits
from bsfg.model.ranges import Ranges
from bsfg.substrates.append_plan import LARGE_BATCH_MESSAGES_MAX, Exclusivity
from bsfg.substrates.control import Control
from bsfg.substrates.generations import JetStreamGenerations, Kept, Plan
from bsfg.substrates.inbound_log import BUCKET_BUILDS, JetStreamInboundLog
from bsfg.substrates.inbound_scan import InboundScan
from bsfg.substrates.memory import MemoryZone
from bsfg.substrates.nats_connection import NatsConnection
from bsfg.substrates.state_bucket import StateBucket
from bsfg.transport.fetch_service import FetchService

NUMBERS = count(1)


@dataclass
class Rig:
    """A receiver with a real store, and a source in memory; every test has a stream of its own."""

    server: NatsServer
    control: Control
    audit: AuditLog
    folder: Path
    stream: StreamName = field(default_factory=lambda: parse_stream(f"facts.case{next(NUMBERS)}"))
    clock: SystemClock = field(default_factory=SystemClock)
    told: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.name = LinkName(SOURCE, self.stream)
        self.source = MemoryZone(self.clock)
        self.source.create(self.stream)
        caller = TwinCaller(streams=frozenset({self.stream}))
        self.peer = TwinPeer(FetchService(self.source, self.source, self.clock), caller)
        self._tasks: list[asyncio.Task[None]] = []

    async def connect(self) -> NatsConnection:
        return await NatsConnection.connect(self.server.target, name="test")

    def publish(self, *numbers: int) -> None:
        for number in numbers:
            self.source.publish(self.stream, "batch", payload=b"%d" % number)

    async def start(self) -> None:
        """A gateway's part of the work, knowing nothing but what is stored."""
        self.inbound = JetStreamInboundLog(
            self.control,
            self.connect,
            RECEIVER,
            replicas=1,
            report=self.told.append,
            exclusivity=Exclusivity.PROVED,
        )
        self.store = JetStreamGenerations(
            self.control, self.connect, self.inbound, replicas=1, report=self.told.append
        )
        journal: Any = structlog.wrap_logger(None, processors=[self._note])
        means = LinkMeans(self.inbound, Shelf(), self.clock, lambda peer: self.peer)
        reporter = LinkReporter(journal, Telemetry(), lambda peer: None, lambda peer, error: None)
        self.links = LinkSupervisor(means, reporter)
        self.generations = Generations(
            self.store, self.links, means, reporter, self.audit, journal, lambda: True, lambda log: log
        )
        config = LinkConfig(self.name, parse_init_mode("full_backfill"), justification="test")
        await self.links.apply({self.name: config}, Limits(poll_wait_seconds=0.2), ())
        self._tasks = [asyncio.create_task(self.generations.run())]

    def _note(self, logger: object, method: str, event: dict[str, Any]) -> str:
        self.told.append(f"{event['event']}: {event['message']}")
        raise structlog.DropEvent

    async def die(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.generations.stop()
        await self.links.stop()
        self.inbound.close()

    async def until(self, holds: Callable[[], bool], seconds: float = 10.0) -> None:
        deadline = self.clock.monotonic() + seconds
        for _ in iter(holds, True):
            assert self.clock.monotonic() < deadline, self.told[-5:]
            await asyncio.sleep(0.005)

    async def level(self, sequence: int, generation: int = 1) -> None:
        def is_level() -> bool:
            driver = self.links.driver(self.name)
            if driver is None or driver.link.cursor is None or driver.link.fence is None:
                return False
            place = (driver.state, driver.link.cursor.sequence, driver.link.fence.generation)
            return place == (LinkState.LEVEL, sequence, generation)

        await self.until(is_level)

    async def plan(self, start: int = 1, **changes: Any) -> Plan:
        epoch = (await self.source.describe(self.stream)).epoch
        number = await self.store.next_number(self.name)
        return replace(Plan(number, "rewind", epoch, start, "because", 0, 0), **changes)

    def state(self) -> str | None:
        building = self.generations.building(self.name)
        return None if building is None else str(building["state"])

    def audited(self, action: str) -> dict[str, Any]:
        """The last record of this action."""
        return [record for record in self.audit_records() if record["action"] == action][-1]

    def audit_records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / "audit.jsonl").read_text().splitlines()]

    async def held(self, generation: int) -> list[int]:
        """The origin sequences that a generation holds."""
        found = await self.store.facts(self.name, generation, 1, 10_000)
        return [fact.sequence or 0 for fact in found]

    async def exists(self, generation: int) -> bool:
        return generation in await self.inbound.generations(self.name)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    limits = f"batch {{ max_msgs: {LARGE_BATCH_MESSAGES_MAX} }}"
    with running_nats(tmp_path_factory.mktemp("nats"), extra="max_payload: 2MB", limits=limits) as running:
        yield running


@pytest.fixture
async def rig(server: NatsServer, tmp_path: Path) -> AsyncIterator[Rig]:
    async with rig_of(server, tmp_path) as made:
        yield made


@asynccontextmanager
async def rig_of(server: NatsServer, folder: Path) -> AsyncIterator[Rig]:
    control = await Control.open(server.target, name="generations")
    audit = AuditLog(folder / "audit.jsonl", SystemClock())
    made = Rig(server, control, audit, folder)
    await made.start()
    try:
        yield made
    finally:
        await made.die()
        audit.close()
        await control.close()


async def test_a_generation_is_built_compared_and_switched_to_and_the_old_one_stays(rig: Rig) -> None:
    rig.publish(*range(1, 31))
    await rig.level(30)
    plan = await rig.plan(11)
    assert await rig.generations.begin(rig.name, plan)
    await rig.level(30, generation=2)
    assert await rig.held(1) == list(range(1, 31))
    assert await rig.held(2) == list(range(11, 31))
    await rig.until(lambda: rig.state() is None)
    rig.publish(31)
    await rig.level(31, generation=2)
    assert (await rig.held(1))[-1] == 30, "nothing goes into the old one any more"
    record = await rig.inbound.record(rig.name)
    assert record is not None and record.init is not None
    assert (record.init.mode, record.init.start_sequence, record.init.justification) == ("sequence:11", 11, "because")
    assert rig.name not in await rig.store.plans()


async def test_facts_that_come_meanwhile_are_in_both_and_none_is_missing(rig: Rig) -> None:
    rig.publish(*range(1, 201))
    await rig.level(200)
    await rig.generations.begin(rig.name, await rig.plan())
    for number in range(201, 401):
        rig.publish(number)
        await asyncio.sleep(0.001)
    await rig.level(400, generation=2)
    assert await rig.held(2) == list(range(1, 401))
    switch = rig.audited("generation.switch")
    assert switch["scanned_through"] >= switch["before"] > 0, "the cursor never goes back"
    assert switch["compared"] >= switch["before"], "all that was in force has been compared"


class SlowPeer(TwinPeer):
    """Gives five facts at a time, and not at once."""

    async def fetch(self, request: FetchRequest) -> Page:
        await asyncio.sleep(0.1)
        return await super().fetch(replace(request, limits=replace(request.limits, facts=5)))


async def test_the_new_generation_reaches_the_cursor_before_it_comes_into_force(rig: Rig) -> None:
    rig.publish(*range(1, 21))
    await rig.level(20)
    rig.links.client_of = lambda peer: SlowPeer(rig.peer.service, rig.peer.caller)
    await rig.generations.begin(rig.name, await rig.plan(3))
    await rig.until(lambda: rig.state() is None)
    switch = rig.audited("generation.switch")
    assert (switch["before"], switch["scanned_through"], switch["compared"]) == (20, 20, 18)


async def test_a_difference_among_the_last_facts_stops_the_switch_too(rig: Rig) -> None:
    rig.publish(*range(1, 21))
    await rig.level(20)
    await forge(rig, 20)
    rig.links.client_of = lambda peer: SlowPeer(rig.peer.service, rig.peer.caller)
    await rig.generations.begin(rig.name, await rig.plan(3))
    await rig.until(lambda: rig.state() in ("halted", None))
    building = rig.generations.building(rig.name)
    assert building is not None and building["different"] == 1
    assert await rig.inbound.in_force(rig.name) == 1


async def test_a_generation_without_its_record_never_begins_by_the_init_mode(rig: Rig) -> None:
    rig.publish(*range(1, 6))
    await rig.level(5)
    plan = await rig.plan(4)
    rig.peer.fault = BsfgError(Code.UNAVAILABLE, "cable cut")
    await rig.generations.begin(rig.name, plan)
    await rig.until(lambda: (rig.generations.building(rig.name) or {})["problem"] == "cable cut")
    bucket = StateBucket(rig.control, BUCKET_BUILDS, replicas=1)
    await bucket.delete(f"record.{link_key(SOURCE, rig.stream)}")
    rig.peer.fault = None
    await rig.until(lambda: rig.state() == "halted")
    assert await rig.held(2) == []


async def test_a_word_that_comes_while_a_link_is_stopped_is_not_lost(rig: Rig) -> None:
    rig.publish(1)
    await rig.level(1)
    async with rig.links.stopped(rig.name):
        rig.links.partition(SOURCE, True)
    driver = rig.links.driver(rig.name)
    assert driver is not None and driver.state is LinkState.PARTITIONED
    rig.publish(2)
    rig.links.partition(SOURCE, False)
    await rig.level(2)
    with pytest.raises(BsfgError, match="does not run"):
        async with rig.links.stopped(LinkName(SOURCE, parse_stream("facts.unknown"))):
            raise AssertionError("never entered")


async def test_a_plan_that_was_only_written_is_carried_out_by_the_next_gateway(rig: Rig) -> None:
    rig.publish(1, 2, 3)
    await rig.level(3)
    plan = await rig.plan(2)
    await rig.die()
    await rig.store.save_plan(rig.name, plan)
    await rig.start()
    await rig.level(3, generation=2)
    assert await rig.held(2) == [2, 3]


async def test_a_half_filled_generation_is_continued_and_not_begun_again(rig: Rig) -> None:
    rig.publish(*range(1, 11))
    await rig.level(10)
    plan = await rig.plan()
    await rig.die()
    await rig.store.save_plan(rig.name, plan)
    log = await rig.store.open(rig.name, plan)
    fence = (await log.locate(rig.name)).fence
    await log.append(rig.name, fence, plan.epoch, (await rig.source.read(rig.stream, 0, PageLimits(facts=4))).facts)
    log.close()
    await rig.start()
    await rig.level(10, generation=2)
    assert await rig.held(2) == list(range(1, 11)), "no fact twice"


async def test_a_half_built_generation_never_comes_into_force_by_a_lost_record(rig: Rig) -> None:
    rig.publish(*range(1, 6))
    await rig.level(5)
    plan = await rig.plan(4)
    await rig.die()
    await rig.store.save_plan(rig.name, plan)
    (await rig.store.open(rig.name, plan)).close()
    await rig.store.forget(rig.name)
    assert await rig.inbound.in_force(rig.name) == 1
    await rig.store.complete(rig.name, 2)
    assert await rig.inbound.in_force(rig.name) == 2, "a complete one may"


@pytest.mark.parametrize("step", ["complete", "record"])
async def test_a_gateway_that_dies_within_the_switch_leaves_one_generation_in_force(rig: Rig, step: str) -> None:
    rig.publish(*range(1, 6))
    await rig.level(5)
    await rig.generations.begin(rig.name, await rig.plan(3))
    await rig.level(5, generation=2)
    record = await rig.inbound.record(rig.name)
    plan = await rig.plan(4)
    await rig.die()
    await rig.store.save_plan(rig.name, plan)
    log = await rig.store.open(rig.name, plan)
    fence = (await log.locate(rig.name)).fence
    await log.append(rig.name, fence, plan.epoch, (await rig.source.read(rig.stream, 3, PageLimits(facts=9))).facts)
    await rig.store.complete(rig.name, 3)
    if step == "record":
        built = await log.record(rig.name)
        assert built is not None and record is not None
        await rig.inbound.save_record(rig.name, replace(record, generation=3, created=built.created, local_sequence=2))
    log.close()
    assert await rig.inbound.in_force(rig.name) == (2 if step == "complete" else 3)
    await rig.start()
    await rig.level(5, generation=3)
    await rig.until(lambda: any(line.startswith("generation_switched: generation 3") for line in rig.told))
    is_switched = [record for record in rig.audit_records() if record.get("generation") == 3]
    assert bool(is_switched) == (step == "complete"), "what is in force is not built again"
    rig.publish(6)
    await rig.level(6, generation=3)
    assert await rig.held(3) == [4, 5, 6]
    assert rig.name not in await rig.store.plans()


async def test_facts_that_differ_stop_the_switch_until_an_operator_lets_them_count(rig: Rig) -> None:
    rig.publish(*range(1, 9))
    await rig.level(8)
    await forge(rig, 8)
    await rig.generations.begin(rig.name, await rig.plan(5))
    await rig.until(lambda: rig.state() == "halted")
    building = rig.generations.building(rig.name)
    assert building is not None and (building["compared"], building["different"]) == (3, 1)
    assert await rig.inbound.in_force(rig.name) == 1
    await rig.die()
    await rig.start()
    await rig.until(lambda: rig.state() == "halted")
    await rig.generations.begin(rig.name, await rig.plan(5, accepts_differences=True))
    await rig.until(lambda: rig.state() is None)
    assert await rig.inbound.in_force(rig.name) == 2
    assert await rig.held(2) == [5, 6, 7, 8]


async def forge(rig: Rig, sequence: int) -> None:
    """The last message is replaced by another one with the same coordinates; the link has to read its end anew."""
    name = inbound_physical(SOURCE, rig.stream, 1)
    connection = await rig.connect()
    found = (await rig.control.api(f"STREAM.MSG.GET.{name}", {"seq": sequence}))["message"]
    headers = base64.b64decode(found["hdrs"]).decode().splitlines()
    origin = next(line for line in headers if line.startswith("Bsfg-Origin"))
    await rig.control.api(f"STREAM.MSG.DELETE.{name}", {"seq": sequence})
    subject = inbound_subject(SOURCE, rig.stream, 1) + ".batch"
    await connection.request(subject, b"forged", headers=f"{origin}\r\n".encode())
    connection.close()


async def test_an_abort_leaves_the_old_generation_and_its_number_is_not_used_again(rig: Rig) -> None:
    rig.publish(*range(1, 4))
    await rig.level(3)
    rig.peer.fault = BsfgError(Code.UNAVAILABLE, "cable cut")
    await rig.generations.begin(rig.name, await rig.plan())
    await rig.until(lambda: rig.state() == "filling")
    assert not await rig.generations.begin(rig.name, await rig.plan()), "just that is being built already"
    with pytest.raises(BsfgError, match="is being built from sequence 1") as refused:
        await rig.generations.begin(rig.name, await rig.plan(2))
    assert refused.value.code is Code.CHECK_FAILED
    given_up = await rig.generations.abort(rig.name, "wrong stream")
    assert given_up is not None and given_up.generation == 2
    assert (rig.state(), await rig.exists(2)) == (None, False)
    assert await rig.generations.abort(rig.name, "again") is None
    rig.peer.fault = None
    await rig.generations.begin(rig.name, await rig.plan())
    await rig.level(3, generation=3)


async def test_a_source_that_lost_the_start_meanwhile_halts_the_build_and_not_the_link(rig: Rig) -> None:
    rig.publish(*range(1, 7))
    await rig.level(6)
    plan = await rig.plan(2)
    rig.source.purge(rig.stream.replace(".", "_"), below=5)
    await rig.generations.begin(rig.name, plan)
    await rig.until(lambda: rig.state() == "halted")
    building = rig.generations.building(rig.name)
    assert building is not None and building["problem"].startswith("gap: ")
    rig.publish(7)
    await rig.level(7)


async def test_a_half_built_stream_that_nobody_planned_is_told(rig: Rig) -> None:
    rig.publish(1)
    await rig.level(1)
    plan = await rig.plan()
    (await rig.store.open(rig.name, plan)).close()
    await rig.die()
    await rig.start()
    await rig.until(lambda: any(line.startswith("generation_abandoned") for line in rig.told))
    assert await rig.inbound.in_force(rig.name) == 1


async def test_a_plan_that_can_not_be_read_hinders_nobody(rig: Rig) -> None:
    connection = await rig.connect()
    rig.publish(1, 2)
    await rig.level(2)
    await rig.generations.begin(rig.name, await rig.plan())
    await rig.level(2, generation=2)
    for key in (f"plan.{rig.name.peer}.{rig.stream}", "plan.Not A Zone".replace(" ", "_")):
        await connection.request(f"$KV.{BUCKET_BUILDS}.{key}", b"{garbage")
    connection.close()
    assert rig.name not in await rig.store.plans()
    assert await rig.store.next_number(rig.name) == 3


async def test_where_facts_begin_is_found_also_if_somebody_else_wrote_behind_them(rig: Rig) -> None:
    rig.publish(*range(1, 6))
    await rig.level(5)
    connection = await rig.connect()
    await connection.request(inbound_subject(SOURCE, rig.stream, 1), b"foreign")
    connection.close()
    epoch = (await rig.source.describe(rig.stream)).epoch
    for sequence in range(1, 6):
        assert await rig.store.first_at(rig.name, 1, epoch, sequence) == sequence
    assert await rig.store.first_at(rig.name, 1, epoch, 6) == 6
    assert await rig.store.first_at(rig.name, 1, "another", 1) == 6


async def test_an_epoch_that_was_left_stays_known(rig: Rig) -> None:
    rig.publish(1)
    await rig.level(1)
    for epoch in ("e1", "e2", "e1"):
        await rig.store.leave_epoch(rig.name, 1, epoch)
    assert await rig.store.past_epochs(rig.name, 1) == ["e1", "e2"]


def keeping(rig: Rig) -> Callable[[LinkName, Plan, Kept], KeptFacts]:
    def keep(name: LinkName, plan: Plan, kept: Kept) -> KeptFacts:
        scan = InboundScan(rig.control, rig.connect, name, kept.generation, plan.epoch)
        return KeptFacts(copies_of(scan), Ranges(kept.damaged), frozenset(kept.left_out))

    return keep


async def damage(rig: Rig, *removed: int) -> None:
    """Facts are gone from the generation in force, and the link has noticed."""
    name = inbound_physical(rig.name.peer, rig.stream, 1)
    for sequence in removed:
        await rig.control.api(f"STREAM.MSG.DELETE.{name}", {"seq": sequence})


@pytest.mark.parametrize("dies", [False, True])
async def test_what_is_undamaged_is_taken_over_and_only_the_rest_is_asked_of_the_sender(
    rig: Rig, dies: bool
) -> None:
    rig.publish(*range(1, 3_001))
    await rig.level(3_000)
    await damage(rig, 7, 8, 2_000)
    proved: list[int] = []

    async def prove(name: LinkName, plan: Plan, cursor: Cursor) -> str | None:
        proved.append(cursor.scanned_through)
        return None

    rig.generations.keeping, rig.generations.prove = keeping(rig), prove
    damaged = ((7, 8), (900, 900), (2_000, 2_000))
    plan = await rig.plan(kept=Kept(1, 2_990, damaged), purpose=REPAIR, accepts_differences=True)
    before = len(rig.peer.served)
    await rig.generations.begin(rig.name, plan)
    if dies:
        await rig.until(lambda: bool((rig.generations.building(rig.name) or {}).get("copied")))
        await rig.die()
        await rig.start()
        rig.generations.keeping, rig.generations.prove = keeping(rig), prove
    await rig.level(3_000, generation=2)
    assert proved and min(proved) >= 2_990, "all that was taken over is proved"
    asked = rig.peer.served[before:]
    assert set(asked) == {7, 8, 900, 2_000, *range(2_991, 3_001)}
    assert await rig.held(2) == list(range(1, 3_001))
    switch = rig.audited("generation.switch")
    assert dies or (switch["copied"], switch["fetched"]) == (2_986, 14)
    facts = await rig.store.facts(rig.name, 2, 899, 3)
    assert [fact.digest for fact in facts] == [fact.digest for fact in await rig.store.facts(rig.name, 1, 899, 3)]


async def test_nothing_is_proved_before_all_that_is_taken_over_is_there(rig: Rig) -> None:
    rig.publish(*range(1, 31))
    await rig.level(30)
    proved: list[int] = []

    async def prove(name: LinkName, plan: Plan, cursor: Cursor) -> str | None:
        proved.append(cursor.scanned_through)
        return None

    rig.generations.keeping, rig.generations.prove = keeping(rig), prove
    rig.peer.fault = PeerUnreachable("away")
    plan = await rig.plan(kept=Kept(1, 30, ((7, 7),)), purpose=REPAIR, accepts_differences=True)
    await rig.generations.begin(rig.name, plan)
    await rig.until(lambda: (rig.generations.building(rig.name) or {}).get("scanned_through") == 6)
    await asyncio.sleep(1.0)
    assert not proved
    rig.peer.fault = None
    await rig.level(30, generation=2)
    assert min(proved) == 30


async def test_a_plan_that_takes_over_what_is_damaged_does_not_come_into_force(rig: Rig) -> None:
    rig.publish(*range(1, 31))
    await rig.level(30)
    await damage(rig, 7)
    rig.generations.keeping = keeping(rig)

    async def prove(name: LinkName, plan: Plan, cursor: Cursor) -> str | None:
        held = await rig.held(plan.generation)
        return None if held == list(range(1, cursor.scanned_through + 1)) else "fact 7 is missing"

    rig.generations.prove = prove
    plan = await rig.plan(kept=Kept(1, 30, ((9, 9),)), purpose=REPAIR, accepts_differences=True)
    await rig.generations.begin(rig.name, plan)
    await rig.until(lambda: rig.state() == "halted")
    assert "fact 7 is missing" in str((rig.generations.building(rig.name) or {})["problem"])
    await rig.level(30)
