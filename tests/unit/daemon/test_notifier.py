"""Who is told of an append, how often, and what advice from a peer can cause."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field

import pytest

from bsfg.config.values import LogConfig
from bsfg.daemon.journal import open_journal
from bsfg.daemon.notifier import (
    GRACE_SECONDS,
    LINES_PER_MINUTE,
    LOOK_SECONDS,
    NOTHING_EXPORTED_SECONDS,
    SILENT_LOOK_SECONDS,
    WAKE_SECONDS,
    NoticeBoard,
    Notifier,
)
from bsfg.daemon.telemetry import Telemetry
from bsfg.errors import BsfgError, Code, PeerRefused, PeerUnreachable, SubstrateUnavailable
from bsfg.model.cursor import LinkName
from bsfg.model.names import StreamName, ZoneId
from bsfg.model.page import LogDescription
from bsfg.substrates.memory import MemoryZone

PLANT = ZoneId("plant-a")
OTHER = ZoneId("plant-b")
STREAM = StreamName("facts.operational")


@dataclass
class Hand:
    """A clock that is moved by hand."""

    seconds: float = 100.0

    def now(self) -> int:
        return int(self.seconds * 1e9)

    def monotonic(self) -> float:
        return self.seconds

    async def sleep(self, seconds: float) -> None:
        self.seconds += seconds


class CountingZone(MemoryZone):
    """The store, and how often it was asked where a stream ends."""

    asked = 0
    fault: BsfgError | None = None

    async def describe(self, stream: StreamName) -> LogDescription:
        self.asked += 1
        if self.fault is not None:
            raise self.fault
        return await super().describe(stream)


@dataclass
class Peer:
    """A peer that takes advice, or raises ``fault``."""

    told: list[int] = field(default_factory=list)
    fault: BsfgError | None = None
    hold: asyncio.Event | None = None

    async def notify(self, stream: StreamName, head: int) -> None:
        if self.hold is not None:
            await self.hold.wait()
        self.told.append(head)
        if self.fault is not None:
            raise self.fault


class Sender:
    """A notifier of one stream, and everything around it."""

    def __init__(self, *peers: ZoneId) -> None:
        self.clock, self.telemetry = Hand(), Telemetry()
        self.zone = CountingZone(self.clock)
        self.zone.create(STREAM)
        self.peers = {peer: Peer() for peer in peers or (PLANT,)}
        self.listening: set[ZoneId] = set()
        self.silent: set[ZoneId] = set()
        self.exported = [(peer, STREAM) for peer in self.peers]
        self.notifier = Notifier(
            self.zone,
            self.clock,
            self.telemetry,
            lambda: self.exported,
            lambda peer, stream: peer in self.listening,
            lambda peer: peer in self.silent,
            lambda peer: self.peers[peer],
        )

    @property
    def told(self) -> list[int]:
        return self.peers[PLANT].told

    def publish(self, facts: int = 1) -> None:
        for _ in range(facts):
            self.zone.publish(STREAM, "batch", payload=b"{}")

    async def pass_time(self, seconds: float) -> None:
        """Look as often as the running notifier would."""
        for _ in range(round(seconds / LOOK_SECONDS)):
            self.clock.seconds += LOOK_SECONDS
            await self.notifier.look()
            for _ in range(3):
                await asyncio.sleep(0)

    def count(self, result: str, peer: ZoneId = PLANT) -> float:
        return self.telemetry.notify_sent.labels(peer, STREAM, result)._value.get()


@pytest.fixture
async def sender() -> Sender:
    made = Sender()
    await made.pass_time(GRACE_SECONDS + 0.2)
    return made


async def test_a_peer_that_does_not_listen_is_told_of_an_append(sender: Sender) -> None:
    sender.publish()
    await sender.pass_time(0.2)
    assert sender.told == [1]
    await sender.pass_time(5)
    assert sender.told == [1], "nothing was appended since"
    assert sender.count("ok") == 1


async def test_ten_times_a_second_at_most_however_many_facts(sender: Sender) -> None:
    for _ in range(100):
        sender.publish(50)
        sender.clock.seconds += 0.01
        await sender.notifier.look()
        await asyncio.sleep(0)
    assert 8 <= len(sender.told) <= 11
    await sender.pass_time(0.5)
    assert sender.told[-1] == 5_000, "the last append is told, too"


async def test_a_peer_that_listens_costs_nothing(sender: Sender) -> None:
    sender.listening.add(PLANT)
    asked = sender.zone.asked
    sender.publish()
    await sender.pass_time(10)
    assert (sender.told, sender.zone.asked) == ([], asked)


async def test_one_look_serves_all_peers() -> None:
    sender = Sender(PLANT, OTHER)
    await sender.pass_time(GRACE_SECONDS + 0.2)
    asked = sender.zone.asked
    sender.publish()
    await sender.pass_time(1)
    assert sender.peers[PLANT].told == sender.peers[OTHER].told == [1]
    assert sender.zone.asked - asked == 10


async def test_a_new_peer_is_given_time_to_fetch_by_itself() -> None:
    sender = Sender()
    sender.publish()
    await sender.pass_time(GRACE_SECONDS * 0.8)
    assert sender.zone.asked == 0
    await sender.pass_time(0.5)
    assert sender.told == [1]


async def test_a_silent_peer_is_seldom_looked_after(sender: Sender) -> None:
    sender.silent.add(PLANT)
    await sender.pass_time(1)
    asked = sender.zone.asked
    await sender.pass_time(20)
    assert sender.zone.asked - asked == pytest.approx(20 / SILENT_LOOK_SECONDS, abs=1)


async def test_advice_that_fails_is_dropped_counted_and_spaced(sender: Sender) -> None:
    sender.peers[PLANT].fault = PeerUnreachable("cable cut")
    for _ in range(40):
        sender.publish()
        await sender.pass_time(1)
    assert 5 <= len(sender.told) <= 15, "the pause grows to eight seconds"
    assert len(set(sender.told)) == len(sender.told), "what was dropped is not given again"
    assert sender.count("unavailable") == len(sender.told)
    sender.peers[PLANT].fault = None
    sender.publish()
    await sender.pass_time(9)
    assert sender.count("ok") == 1


async def test_a_peer_that_does_not_read_the_stream_is_asked_once(sender: Sender) -> None:
    """Until it fetches it: each denial would be an alert there."""
    sender.peers[PLANT].fault = PeerRefused(Code.STREAM_DENIED, "no")
    for _ in range(20):
        sender.publish()
        await sender.pass_time(10)
    assert len(sender.told) == 1
    sender.peers[PLANT].fault = None
    sender.listening.add(PLANT)
    await sender.pass_time(0.2)
    sender.listening.clear()
    sender.publish()
    await sender.pass_time(0.3)
    assert len(sender.told) == 2


async def test_a_slow_peer_has_one_notification_at_a_time_and_hinders_nobody() -> None:
    sender = Sender(PLANT, OTHER)
    sender.peers[PLANT].hold = asyncio.Event()
    for _ in range(20):
        sender.publish()
        await sender.pass_time(0.2)
    assert sender.told == [] and len(sender.peers[OTHER].told) > 10
    sender.peers[PLANT].hold.set()
    await sender.pass_time(0.3)
    assert len(sender.told) == 2 and sender.told[-1] == 20


async def test_a_stream_made_again_is_told_though_its_head_is_lower(sender: Sender) -> None:
    sender.publish(9)
    await sender.pass_time(0.2)
    sender.zone.recreate("facts_operational")
    sender.publish(2)
    await sender.pass_time(0.2)
    assert sender.told == [9, 2]


async def test_a_store_that_is_away_ends_nothing(sender: Sender) -> None:
    sender.zone.fault = SubstrateUnavailable("away")
    await sender.pass_time(1)
    sender.zone.fault = None
    sender.publish()
    await sender.pass_time(0.2)
    assert sender.told == [1]


async def test_who_is_no_longer_exported_to_is_forgotten(sender: Sender) -> None:
    sender.exported = []
    sender.publish()
    await sender.pass_time(1)
    assert sender.told == [] and not sender.notifier._targets


# What a peer's advice causes.


class Board:
    def __init__(self, wake_seconds: float = WAKE_SECONDS) -> None:
        self.clock, self.telemetry, self.woken = Hand(), Telemetry(), list[LinkName]()
        journal = open_journal(LogConfig(), "plant-a")
        self.board = NoticeBoard(self.clock, journal, self.telemetry, self.woken.append)


async def test_advice_is_counted_logged_and_wakes_the_link(capsys: pytest.CaptureFixture[str]) -> None:
    board = Board()
    board.board.noticed(PLANT, STREAM, 7)
    await asyncio.sleep(0.01)
    assert board.woken == [LinkName(PLANT, STREAM)]
    line = json.loads(capsys.readouterr().err)
    assert line["event"] == "notify_available" and line["message"].startswith("notify_available: plant-a says")
    assert (line["peer"], line["stream"]) == (PLANT, STREAM)
    assert b'bsfg_notify_available_total{peer="plant-a",stream="facts.operational"} 1.0' in board.telemetry.exposition()


async def test_a_flood_wakes_once_a_second_and_link(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bsfg.daemon.notifier.WAKE_SECONDS", 1.0)
    board = Board()
    for _ in range(1_000):
        board.board.noticed(PLANT, STREAM, 7)
    await asyncio.sleep(0.01)
    for _ in range(1_000):
        board.board.noticed(PLANT, STREAM, 8)
    board.board.noticed(OTHER, STREAM, 8)
    await asyncio.sleep(0.02)
    assert board.woken == [LinkName(PLANT, STREAM), LinkName(OTHER, STREAM)], "another link is not hindered"
    await asyncio.sleep(1.2)
    assert board.woken[2:] == [LinkName(PLANT, STREAM)], "what came within the second is looked at behind it"
    assert len(capsys.readouterr().err.splitlines()) == LINES_PER_MINUTE + 1
    assert board.telemetry.notify_available.labels(PLANT, STREAM)._value.get() == 2_000
    board.clock.seconds += 61
    board.board.noticed(PLANT, STREAM, 9)
    assert len(capsys.readouterr().err.splitlines()) == 1
    board.board.close()
    await asyncio.sleep(1.2)
    assert len(board.woken) == 3, "a closed board wakes nobody"


async def test_where_nothing_is_exported_it_seldom_looks_and_soon_notices_what_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sender = Sender()
    allowed, sender.exported = sender.exported, []
    paused: list[float] = []

    async def sleep(seconds: float) -> None:
        paused.append(seconds)
        if len(paused) == 3:
            sender.exported = allowed
        if len(paused) == 6:
            raise asyncio.CancelledError

    monkeypatch.setattr(sender.clock, "sleep", sleep)
    with pytest.raises(asyncio.CancelledError):
        await sender.notifier.run()
    assert paused == [NOTHING_EXPORTED_SECONDS] * 3 + [LOOK_SECONDS] * 3
