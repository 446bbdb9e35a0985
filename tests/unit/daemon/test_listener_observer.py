"""What of the peer listener is audited: refusals singly and then as a count, allowed reads once a connection."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import CapturingLogger

from bsfg.daemon.audit import AuditLog
from bsfg.daemon.audit_files import verify
from bsfg.daemon.listener_observer import ListenerObserver
from bsfg.daemon.refusals import KEYS_MAX, MINUTE_SECONDS, OTHERS, SINGLY_PER_MINUTE
from bsfg.daemon.system import SystemClock
from bsfg.daemon.telemetry import Telemetry
from bsfg.errors import Code
from bsfg.model.names import parse_stream, parse_zone
from bsfg.model.policy import ReadArtifact, ReadStream

PEER = parse_zone("enterprise")
ORDERS = ReadStream(parse_stream("facts.orders"))
RULE = "enterprise: streams has facts.orders"


class Connection:
    """Stands for a transport: all that matters is which one it is."""


@dataclass
class Stage:
    """An observer on a real audit log, its time in our hands."""

    folder: Path
    now: float = 0.0
    policy: str = "p1"
    log: AuditLog = field(init=False)
    observer: ListenerObserver = field(init=False)

    def __post_init__(self) -> None:
        self.log = AuditLog(self.folder / "audit.jsonl", SystemClock())
        journal: Any = CapturingLogger()
        self.observer = ListenerObserver(
            journal, self.log, Telemetry(), lambda: self.policy, lambda: self.now
        )

    def records(self) -> list[dict[str, Any]]:
        self.log.settle()
        assert verify(self.folder).problems == []
        return [json.loads(line) for line in (self.folder / "audit.jsonl").read_bytes().splitlines()]

    def read(
        self, connection: Connection, wish: ReadStream | ReadArtifact = ORDERS, request: str = "r"
    ) -> None:
        self.observer.allowed(connection, PEER, wish, RULE, request)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    made = Stage(tmp_path)
    yield made
    made.log.close()


def test_refusals_are_told_singly_and_then_as_a_count_without_a_further_one(stage: Stage) -> None:
    for port in range(25):
        stage.observer.handshake_failed(f"10.0.0.1:{port}", "unknown_ca", "who is that")
    stage.observer.handshake_failed("10.0.0.1:1", "expired", "too old")
    stage.observer.handshake_failed("10.0.0.2:1", "unknown_ca", "who is that")
    stage.now = MINUTE_SECONDS - 1
    stage.observer.tell_counts()
    assert len(stage.records()) == SINGLY_PER_MINUTE + 2
    stage.now = MINUTE_SECONDS
    stage.observer.tell_counts()
    stage.observer.tell_counts()
    last = stage.records()[-1]
    assert len(stage.records()) == SINGLY_PER_MINUTE + 3
    assert (last["action"], last["outcome"]) == ("handshake_failed", "denied")
    assert (last["source"], last["reason"], last["count"]) == ("10.0.0.1", "unknown_ca", 15)
    stage.observer.handshake_failed("10.0.0.1:9", "unknown_ca", "again")
    assert "count" not in stage.records()[-1]


def test_sources_without_end_are_counted_together(stage: Stage) -> None:
    for number in range(5_000):
        stage.observer.handshake_failed(
            f"10.{number // 65536}.{number // 256 % 256}.{number % 256}:1", "unknown_ca", ""
        )
    assert len(stage.records()) == KEYS_MAX + SINGLY_PER_MINUTE
    stage.now = MINUTE_SECONDS
    stage.observer.tell_counts()
    last = stage.records()[-1]
    assert (last["source"], last["count"]) == (OTHERS, 5_000 - KEYS_MAX - SINGLY_PER_MINUTE)


def test_a_denial_says_who_what_rule_and_request(stage: Stage) -> None:
    stage.observer.denied(PEER, Code.STREAM_DENIED, "facts.secret\nforged", "abc123")
    stage.observer.identity_refused("10.0.0.1:5", "no_such_peer", "CN=x\r\nforged", "def456")
    denial, refusal = stage.records()
    assert (denial["action"], denial["outcome"], denial["peer"]) == ("request_denied", "denied", "enterprise")
    assert (denial["stream"], denial["request_id"]) == ("facts.secret\nforged", "abc123")
    assert "peers.yaml does not have it" in denial["rule"]
    assert (refusal["source"], refusal["reason"], refusal["request_id"]) == (
        "10.0.0.1:5",
        "no_such_peer",
        "def456",
    )


def test_an_allowed_read_is_recorded_once_a_connection_stream_and_policy(stage: Stage) -> None:
    first, second = Connection(), Connection()
    for number in range(1_000):
        stage.read(first, request=f"r{number}")
    [record] = stage.records()
    assert (record["action"], record["outcome"], record["peer"]) == ("read", "allowed", "enterprise")
    assert (record["stream"], record["rule"], record["policy"]) == ("facts.orders", RULE, "p1")
    assert (record["request_id"], record["connection"]) == ("r0", 1)
    stage.read(second)
    stage.read(first, ReadStream(parse_stream("facts.shipments")))
    stage.read(first, ReadArtifact("documents"))
    assert [record["connection"] for record in stage.records()] == [1, 2, 1, 1]
    stage.policy = "p2"
    stage.read(first)
    stage.read(first)
    assert len(stage.records()) == 5
    assert stage.records()[-1]["connection"] == 1
    assert len(stage.observer._connections) == 1


def test_connections_that_are_gone_are_forgotten(stage: Stage) -> None:
    for _ in range(100):
        stage.read(Connection())
    assert len(stage.observer._allowed) == 0
    assert len(stage.records()) == 100
