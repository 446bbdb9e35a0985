"""Audit records as facts: each once, over restarts and full files; the audit stream's own stay in the log."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
from structlog.testing import CapturingLogger
from tests.support.patience import patience

from bsfg.daemon.audit import AuditLog
from bsfg.daemon.audit_facts import POSITION, AuditFacts
from bsfg.daemon.audit_files import all_files, link_of
from bsfg.daemon.system import SystemClock
from bsfg.errors import SubstrateUnavailable
from bsfg.model.names import StreamName, parse_stream

AUDIT: Final = parse_stream("facts.audit")
SMALL: Final = 16 * 1024


@dataclass
class Stage:
    """A real log and the follower of it; what would be appended is kept."""

    folder: Path
    stream: StreamName | None = AUDIT
    is_away: bool = False
    appended: list[dict[str, Any]] = field(default_factory=list)
    moved: asyncio.Event = field(default_factory=asyncio.Event)
    log: AuditLog = field(init=False)
    facts: AuditFacts = field(init=False)

    def __post_init__(self) -> None:
        self.log = AuditLog(self.folder / "audit.jsonl", SystemClock(), bytes_max=SMALL)
        self.restart()

    def restart(self) -> None:
        journal: Any = CapturingLogger()
        self.facts = AuditFacts(self.folder, self.append, lambda: self.stream, journal, period_seconds=0.01)

    async def append(self, stream: StreamName, facts: list[dict[str, Any]]) -> None:
        if self.is_away:
            raise SubstrateUnavailable("the store is away")
        assert stream == self.stream
        self.appended += facts
        self.moved.set()

    async def follow(self) -> None:
        while await self.facts.step():
            pass

    def numbers(self) -> list[Any]:
        return [json.loads(fact["data"]).get("number") for fact in self.appended]


@pytest.fixture
async def stage(tmp_path: Path) -> Stage:
    made = Stage(tmp_path)
    await made.follow()
    return made


async def test_each_record_is_a_fact_once_also_over_full_files_and_restarts(stage: Stage) -> None:
    for number in range(30):
        stage.log.record("action", "allowed", number=number)
        if number % 7 == 0:
            await stage.follow()
        if number % 10 == 0:
            stage.restart()
    await stage.follow()
    assert len(all_files(stage.folder)) > 3
    assert stage.numbers() == list(range(30))
    lines = [line for file in all_files(stage.folder) for line in file.path.read_bytes().splitlines()]
    assert [fact["message_id"] for fact in stage.appended] == [link_of(line) for line in lines]
    assert [fact["data"].encode() for fact in stage.appended] == lines


async def test_what_was_there_before_the_stream_was_configured_stays_in_the_log(tmp_path: Path) -> None:
    stage = Stage(tmp_path, stream=None)
    stage.log.record("action", "allowed", number=1)
    await stage.follow()
    stage.stream = AUDIT
    await stage.follow()
    stage.log.record("action", "allowed", number=2)
    await stage.follow()
    assert stage.numbers() == [2]


async def test_decisions_about_the_audit_stream_make_no_fact(stage: Stage) -> None:
    stage.log.note("read", "allowed", peer="plant-a", stream="facts.audit", number=1)
    stage.log.note("request_denied", "denied", peer="plant-b", stream="facts.audit", number=2)
    stage.log.note("read", "allowed", peer="plant-a", stream="facts.orders", connection=1, number=3)
    stage.log.note("read", "allowed", peer="plant-a", stream="facts.orders", connection=2, number=4)
    stage.log.settle()
    await stage.follow()
    assert stage.numbers() == [3]


async def test_a_store_that_is_away_loses_nothing_and_is_not_pressed(stage: Stage) -> None:
    stage.is_away = True
    running = asyncio.create_task(stage.facts.run())
    for number in range(5):
        stage.log.record("action", "allowed", number=number)
    await asyncio.sleep(0.1)
    assert stage.appended == []
    stage.is_away = False
    async with asyncio.timeout(10 * patience()):
        await stage.moved.wait()
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    assert stage.numbers() == list(range(5))


async def test_files_that_were_removed_meanwhile_are_passed_over(stage: Stage) -> None:
    for number in range(200):
        stage.log.record("action", "allowed", number=number)
    await stage.follow()
    told = [number for number in stage.numbers() if number is not None]
    assert told == list(range(told[0], 200))
    assert told[0] > 0


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"stream": "facts.audit"}', b"\xff"])
async def test_a_damaged_position_begins_at_the_end(stage: Stage, content: bytes) -> None:
    stage.log.record("action", "allowed", number=1)
    (stage.folder / POSITION).write_bytes(content)
    stage.restart()
    await stage.follow()
    stage.log.record("action", "allowed", number=2)
    await stage.follow()
    assert stage.numbers() == [2]
