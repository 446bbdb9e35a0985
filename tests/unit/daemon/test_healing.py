"""When the store is called full, silent or wedged, and when the embedded server is restarted for it."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.support.twin_link import NAME, STREAM, TwinLink

from bsfg.config.values import LogConfig
from bsfg.daemon.audit import AuditLog
from bsfg.daemon.healing import (
    EXHAUSTED_BYTES,
    FAILED_APPENDS_MIN,
    FAILING_SECONDS,
    LINKS_CHECK_SECONDS,
    RESERVE_BYTES_MIN,
    RESTART_SECONDS_MAX,
    RESTART_SECONDS_MIN,
    SILENT_SECONDS,
    HealedInboundLog,
    Healer,
    Space,
    WriteErrors,
)
from bsfg.daemon.journal import open_journal
from bsfg.errors import BsfgError, Code, Fenced, OutcomeUnknown, StoreFull, SubstrateUnavailable
from bsfg.model.cursor import LinkName, LinkState
from bsfg.model.fact import Fact

MEBIBYTE = 1024 * 1024
UNKNOWN = OutcomeUnknown("NATS has not acknowledged message 7")
WRITE_ERROR = (
    "[1] 2026/11/23 10:20:05.526247 [ERR] JetStream failed to store a msg on stream '$G > a': "
    "write /store/msgs/1.blk: no space left on device\n"
)


@dataclass
class Hand:
    """A clock that is moved by hand."""

    seconds: float = 1_000.0

    def now(self) -> int:
        return int(self.seconds * 1e9)

    def monotonic(self) -> float:
        return self.seconds

    async def sleep(self, seconds: float) -> None:
        self.seconds += seconds


@dataclass
class Server:
    """An embedded server, by its restarts."""

    pid: int | None = 10
    reasons: list[str] = field(default_factory=list)
    fault: BsfgError | None = None

    async def restart(self, reason: str) -> None:
        self.reasons.append(reason)
        if self.fault is not None:
            raise self.fault
        assert self.pid is not None
        self.pid += 1


class Zone:
    """A healer and what it watches: a disk, a server and its log."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, embedded: bool = True) -> None:
        self.clock, self.server, self.resumed = Hand(), Server(), 0
        self.disk = SimpleNamespace(
            f_blocks=1000, f_frsize=MEBIBYTE, f_bfree=900, f_bavail=900, f_files=0, f_ffree=0, f_favail=0
        )
        monkeypatch.setattr(os, "statvfs", lambda path: self.disk)
        self.silence: BsfgError | None = None
        self.stalled: list[LinkName] = []
        self.log = tmp_path / "nats-server.log"
        self.log.write_text("[1] started\n")
        self.healer = Healer(
            data=tmp_path,
            clock=self.clock,
            journal=open_journal(LogConfig(), "plant-a"),
            audit=AuditLog(tmp_path / "audit.jsonl", self.clock),
            ask=self.ask,
            resume=self.resume,
            stalled=lambda: self.stalled,
            server=self.server if embedded else None,
            write_errors=WriteErrors(self.log) if embedded else None,
        )

    async def ask(self, seconds: float) -> None:
        if self.silence is not None:
            raise self.silence

    def resume(self) -> None:
        self.resumed += 1

    def free(self, bytes_: int) -> None:
        self.disk.f_frsize, self.disk.f_blocks = 1024, 1_000 * 1024
        self.disk.f_bfree = self.disk.f_bavail = bytes_ // 1024

    def says(self, text: str) -> None:
        with self.log.open("a") as file:
            file.write(text)

    async def append(self, error: BsfgError | None, place: str = "link a/b") -> None:
        """An append that ends like this; raises nothing but what the healer itself refuses."""
        try:
            async with self.healer.storing("appending", place):
                if error is not None:
                    raise error
        except BsfgError as raised:
            if raised is not error:
                raise

    async def pass_time(self, seconds: float) -> None:
        for _ in range(round(seconds)):
            self.clock.seconds += 1
            await self.healer.check()

    def events(self, capsys: pytest.CaptureFixture[str]) -> list[str]:
        return [line.split('"event": "')[1].split('"')[0] for line in capsys.readouterr().err.splitlines()]


@pytest.fixture
def zone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Zone:
    return Zone(tmp_path, monkeypatch)


@pytest.fixture
def external(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Zone:
    return Zone(tmp_path, monkeypatch, embedded=False)


# The disk.


async def test_a_full_disk_refuses_appends_and_is_named_until_it_is_freed(
    zone: Zone, capsys: pytest.CaptureFixture[str]
) -> None:
    await zone.append(None)
    zone.free(40 * MEBIBYTE)
    with pytest.raises(StoreFull) as refused:
        await zone.append(None)
    assert refused.value.code is Code.LOCAL_FULL and "40.0 MiB of 1000 MiB are free" in refused.value.message
    await zone.pass_time(3)
    assert [problem for problem in zone.healer.problems() if "is full" in problem]
    zone.free(60 * MEBIBYTE)
    await zone.append(None)
    await zone.pass_time(1)
    assert zone.healer.problems() == [] and zone.resumed == 1
    assert zone.events(capsys) == ["disk_full", "disk_freed"]
    assert zone.server.reasons == [], "the server never met the end of the disk"


@pytest.mark.parametrize(
    ("total", "reserve"),
    [(24 * MEBIBYTE, 2 * MEBIBYTE), (1024 * MEBIBYTE, 51.2 * MEBIBYTE), (2**40, 256 * MEBIBYTE)],
)
def test_the_reserve_fits_the_disk(total: int, reserve: float) -> None:
    space = Space(int(reserve), total)
    assert not space.is_full and replace(space, free_bytes=int(reserve) - 1).is_full


def test_a_disk_without_room_for_files_is_full(zone: Zone) -> None:
    zone.disk.f_files, zone.disk.f_ffree, zone.disk.f_favail = 1_000, 5, 5
    with pytest.raises(StoreFull, match="5 files may still be made"):
        zone.healer.demand_room("append")
    zone.disk.f_ffree = zone.disk.f_favail = 500
    zone.healer.demand_room("append")


def test_a_file_system_that_says_nothing_hinders_nothing(zone: Zone) -> None:
    zone.disk.f_blocks = zone.disk.f_bfree = zone.disk.f_bavail = 0
    zone.healer.demand_room("append")


async def test_a_disk_that_was_exhausted_leads_to_one_restart_once_it_is_freed(
    zone: Zone, capsys: pytest.CaptureFixture[str]
) -> None:
    zone.free(EXHAUSTED_BYTES - 1024)
    await zone.pass_time(60)
    assert zone.server.reasons == [], "without space a restart heals nothing"
    zone.free(100 * MEBIBYTE)
    await zone.pass_time(2)
    assert len(zone.server.reasons) == 1 and zone.resumed >= 1
    await zone.pass_time(100)
    assert len(zone.server.reasons) == 1 and zone.healer.problems() == []
    assert zone.events(capsys) == ["disk_full", "disk_freed", "substrate_wedged", "substrate_healed"]


async def test_a_server_that_was_restarted_by_others_is_not_restarted_again(zone: Zone) -> None:
    zone.free(0)
    await zone.pass_time(2)
    zone.server.pid = 77
    zone.free(100 * MEBIBYTE)
    await zone.pass_time(5)
    assert zone.server.reasons == []


async def test_one_that_was_restarted_while_the_disk_was_still_full_is(zone: Zone) -> None:
    zone.free(0)
    await zone.pass_time(2)
    zone.server.pid = 77
    await zone.pass_time(2)
    zone.free(100 * MEBIBYTE)
    await zone.pass_time(5)
    assert len(zone.server.reasons) == 1


# What the server says in its log.


async def test_a_failed_write_in_the_log_leads_to_a_restart(zone: Zone) -> None:
    zone.says(WRITE_ERROR)
    await zone.pass_time(1)
    assert len(zone.server.reasons) == 1


@pytest.mark.parametrize(
    "line",
    [
        "[1] [INF] Server is ready\n",
        "[1] [DBG] JetStream failed to store a msg on stream '$G > a': maximum bytes exceeded\n",
        "[1] [ERR] 127.0.0.1:5 - cid:5 - \"JetStream failed to store a msg on stream 'x': write /\" - Violation\n",
    ],
)
async def test_nothing_else_in_the_log_does(zone: Zone, line: str) -> None:
    zone.says(line)
    await zone.pass_time(2)
    assert zone.server.reasons == []


async def test_a_log_is_read_once_and_its_rotation_is_survived(zone: Zone) -> None:
    errors = WriteErrors(zone.log)
    zone.says(WRITE_ERROR)
    assert "no space left" in errors.take() and errors.take() == ""
    zone.log.write_text("[1] new\n" + WRITE_ERROR)
    assert "no space left" in errors.take()
    zone.log.unlink()
    assert errors.take() == ""


# Appends that come to nothing.


async def test_appends_that_fail_long_enough_though_the_server_answers_lead_to_a_restart(zone: Zone) -> None:
    for _ in range(FAILED_APPENDS_MIN):
        await zone.append(UNKNOWN)
        await zone.pass_time(FAILING_SECONDS / FAILED_APPENDS_MIN - 1)
    assert zone.server.reasons == [], "not for so long yet"
    await zone.pass_time(FAILED_APPENDS_MIN + 1)
    assert len(zone.server.reasons) == 1


@pytest.mark.parametrize(
    "error",
    [
        Fenced("wrong last sequence"),
        BsfgError(Code.TOO_LARGE, "too large"),
        StoreFull("maximum bytes exceeded"),
    ],
)
async def test_a_definite_refusal_is_no_wedge(zone: Zone, error: BsfgError) -> None:
    for _ in range(10):
        await zone.append(error)
        await zone.pass_time(5)
    assert zone.server.reasons == []


async def test_one_success_ends_the_suspicion_and_streams_are_judged_apart(zone: Zone) -> None:
    for number in range(20):
        await zone.append(UNKNOWN, f"link {number % 10}")
        await zone.append(None, "link 3")
        await zone.pass_time(1)
    assert zone.server.reasons == [], "two failures of each are too few"


async def test_a_server_that_does_not_answer_is_silent_not_wedged(zone: Zone) -> None:
    zone.silence = SubstrateUnavailable("NATS request INFO: no answer within 3 s")
    for _ in range(20):
        await zone.append(UNKNOWN)
        await zone.pass_time(2)
    assert zone.server.reasons == []
    assert zone.healer.problems() == ["nats-server does not answer: NATS request INFO: no answer within 3 s"]
    resumed, zone.silence = zone.resumed, None
    await zone.pass_time(1)
    assert zone.healer.problems() == [] and zone.resumed == resumed + 1
    await zone.pass_time(60)
    assert zone.server.reasons == []


async def test_a_short_silence_is_not_named(zone: Zone) -> None:
    zone.silence = SubstrateUnavailable("busy")
    await zone.pass_time(SILENT_SECONDS)
    assert zone.healer.problems() == []
    await zone.pass_time(2)
    assert zone.healer.problems() != []


# Restarts are bounded.


async def test_restarts_that_do_not_help_become_rare(zone: Zone) -> None:
    times = []
    for _ in range(3_600):
        count = len(zone.server.reasons)
        zone.says(WRITE_ERROR)
        await zone.pass_time(1)
        if len(zone.server.reasons) > count:
            times.append(zone.clock.seconds)
    pauses = [later - earlier for earlier, later in pairwise(times)]
    assert pauses[0] >= RESTART_SECONDS_MIN and pauses == sorted(pauses)
    assert pauses[-1] >= RESTART_SECONDS_MAX and len(times) < 15


async def test_a_failed_restart_is_named_and_ends_nothing(zone: Zone, capsys: pytest.CaptureFixture[str]) -> None:
    zone.server.fault = SubstrateUnavailable("not ready after 10 s")
    zone.says(WRITE_ERROR)
    await zone.pass_time(1)
    assert "substrate_lost" in zone.events(capsys)
    assert zone.healer.problems() != []
    zone.server.pid, zone.server.fault = 99, None
    await zone.pass_time(1)
    assert zone.healer.problems() == [], "the supervisor brought another one up meanwhile"


async def test_a_restart_is_audited(zone: Zone, tmp_path: Path) -> None:
    zone.says(WRITE_ERROR)
    await zone.pass_time(1)
    assert "substrate.restart" in (tmp_path / "audit.jsonl").read_text()


# A server that others run.


async def test_an_external_server_is_named_and_not_touched(external: Zone, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(10):
        await external.append(UNKNOWN)
        await external.pass_time(3)
    [problem] = external.healer.problems()
    assert "does not store what is appended (restart it" in problem and "link a/b" in problem
    assert external.events(capsys) == ["substrate_wedged"], "once"
    await external.append(None)
    await external.pass_time(1)
    assert external.healer.problems() == []


# Links.


async def test_a_stalled_link_is_said_once(zone: Zone, capsys: pytest.CaptureFixture[str]) -> None:
    zone.stalled = [NAME]
    await zone.pass_time(10)
    assert zone.events(capsys) == ["link_stalled"]
    zone.stalled = []
    await zone.pass_time(LINKS_CHECK_SECONDS)
    zone.stalled = [NAME]
    await zone.pass_time(LINKS_CHECK_SECONDS)
    assert zone.events(capsys) == ["link_stalled"]


async def _unanswered(*_: object) -> None:
    raise UNKNOWN


async def test_the_appends_of_a_link_are_evidence(zone: Zone, monkeypatch: pytest.MonkeyPatch) -> None:
    async with TwinLink() as twin:
        log = HealedInboundLog(twin.receiver, zone.healer)
        fence = (await log.locate(NAME)).fence
        with monkeypatch.context() as lost, pytest.raises(OutcomeUnknown):
            lost.setattr(twin.receiver, "append", _unanswered)
            await log.append(NAME, fence, "e", [Fact(1, STREAM, 5, b"", b"x")])
        assert list(zone.healer._failing) == [f"link {NAME}"]
        fence = await log.append(NAME, fence, "e", [Fact(1, STREAM, 5, b"", b"x")])
        assert fence.local_sequence == 1 and not zone.healer._failing


async def test_a_link_to_a_full_disk_is_local_full_and_its_appends_are_not_sent(zone: Zone) -> None:
    async with TwinLink() as twin:
        await twin.kill()
        zone.free(0)
        twin.driver = twin.new_driver()
        twin.driver.inbound = HealedInboundLog(twin.receiver, zone.healer)
        twin._task = asyncio.create_task(twin.driver.run())
        twin.source.publish(STREAM, "batch", payload=b"1")
        await twin.until(lambda: twin.driver.state is LinkState.LOCAL_FULL)
        assert twin.stored() == []
        zone.free(100 * MEBIBYTE)
        await twin.level(1)
        assert twin.stored() == [1]


def test_our_own_appends_stop_before_the_server_meets_the_end() -> None:
    assert EXHAUSTED_BYTES < RESERVE_BYTES_MIN
