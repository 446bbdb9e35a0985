"""Artifacts between two real zones: named by facts, brought by themselves, whatever happens on the way (runbook 7)."""

from __future__ import annotations

import hashlib
import os
import random
import time
from collections.abc import Iterator
from typing import Any

import pytest
from tests.faults.line import FaultProxy, Trouble
from tests.support.artifact_lab import object_path, put, reaches, reference, row, tell
from tests.support.lab_zones import ENTERPRISE, OPERATIONAL, Lab, Zone, eventually

MEGABYTE = 1024 * 1024


@pytest.fixture(scope="module")
def line(lab: Lab) -> Iterator[FaultProxy]:
    """What plant-a reaches enterprise by."""
    proxy = FaultProxy(lab.enterprise.address)
    proxy.start()
    peers = lab.plant.paths.peers_file
    with lab.plant.changed(peers, (lab.enterprise.place.endpoint, f"127.0.0.1:{proxy.port}")):
        lab.plant.ask("config", "reload")
        yield proxy


@pytest.fixture(autouse=True)
def _line_is_sound(line: FaultProxy) -> Iterator[None]:
    yield
    line.trouble = Trouble()


def stored(zone: Zone, fact: dict[str, Any]) -> bytes:
    return object_path(zone, fact["artifact_sha256"]).read_bytes()


def said(zone: Zone, start: int, event: str) -> list[dict[str, Any]]:
    return [entry for entry in zone.log(start) if entry["event"] == event]


def fetches(zone: Zone, result: str) -> float:
    return zone.metric("bsfg_artifact_fetches_total", result=result) or 0.0


def test_what_facts_name_comes_by_itself_once(lab: Lab) -> None:
    content = random.Random(1).randbytes(300_000)
    fact = put(lab.enterprise, "2025/001/batch-1.json", content)
    document = put(lab.enterprise, "manual.pdf", b"%PDF", "documents")
    before = fetches(lab.plant, "verified")
    tell(lab.enterprise, {"batch": 1} | fact, {"documents": [document]})
    for name in (fact, document):
        reaches(lab.plant, name["artifact_uri"], "verified")
    assert stored(lab.plant, fact) == content
    tell(lab.enterprise, *[{"batch": number} | fact for number in range(1_000)])
    lab.level()
    time.sleep(0.5)
    assert fetches(lab.plant, "verified") == before + 2
    assert lab.plant.metric("bsfg_artifacts", state="missing") == 0


def test_a_line_that_is_cut_at_any_byte(lab: Lab, line: FaultProxy) -> None:
    generator = random.Random(7)
    content = generator.randbytes(4 * MEGABYTE)
    fact = put(lab.enterprise, "cut.bin", content)
    before = line.cuts
    for place in (1, 900, 70_000, generator.randrange(MEGABYTE), generator.randrange(2 * MEGABYTE)):
        line.trouble = Trouble(cut_after_bytes=place)
        if place == 1:
            tell(lab.enterprise, fact)
        eventually("the line is cut", 15, lambda place=place: line.trouble.cut_after_bytes < 0)
    line.trouble = Trouble()
    reaches(lab.plant, fact["artifact_uri"], "verified")
    assert stored(lab.plant, fact) == content
    assert line.cuts >= before + 5


def test_a_gateway_that_is_killed_in_the_middle_goes_on(lab: Lab, line: FaultProxy) -> None:
    content = random.Random(3).randbytes(6 * MEGABYTE)
    fact = put(lab.enterprise, "killed.bin", content)
    line.trouble = Trouble(bytes_per_second=3 * MEGABYTE)
    tell(lab.enterprise, fact)

    def is_on_its_way() -> bool:
        parts = (lab.plant.home / "data" / "artifacts").rglob("*")
        return any(part.is_file() and MEGABYTE < part.stat().st_size < len(content) for part in parts)

    eventually("a part of it is here", 15, is_on_its_way)
    lab.plant.kill_gateway()
    lab.plant.start_gateway()
    lab.healthy()
    reaches(lab.plant, fact["artifact_uri"], "verified")
    assert stored(lab.plant, fact) == content


def test_references_survive_a_kill_before_anything_came(lab: Lab, line: FaultProxy) -> None:
    line.trouble = Trouble(bytes_per_second=50_000)
    facts = [put(lab.enterprise, f"many/{number}.bin", os.urandom(20_000)) for number in range(8)]
    tell(lab.enterprise, *facts)
    lab.level()
    lab.plant.kill_gateway()
    line.trouble = Trouble()
    lab.plant.start_gateway()
    lab.healthy()
    for fact in facts:
        reaches(lab.plant, fact["artifact_uri"], "verified")


def test_one_that_is_missing_at_first(lab: Lab) -> None:
    start = lab.plant.log_size()
    content = b"later"
    fact = reference("missing.json", content)
    tell(lab.enterprise, fact, {"after": "it"})
    found = reaches(lab.plant, fact["artifact_uri"], "missing")
    assert found["next_retry"] is not None and found["references"] == 1
    lab.level()
    status = lab.plant.status()
    assert status["health"] == "ok"
    assert any("1 missing" in problem for problem in status["problems"])
    assert lab.plant.metric("bsfg_artifacts", state="missing") == 1
    eventually("it was tried again", 15, lambda: (row(lab.plant, fact["artifact_uri"]) or {}).get("failures", 0) > 1)
    eventually("it is said", 5, lambda: len(said(lab.plant, start, "artifact_missing")) == 1)
    put(lab.enterprise, "missing.json", content)
    reaches(lab.plant, fact["artifact_uri"], "verified")
    eventually("it is said", 5, lambda: len(said(lab.plant, start, "artifact_recovered")) == 1)
    assert lab.plant.status()["problems"] == []


def test_one_that_is_spoilt_at_its_source(lab: Lab) -> None:
    start = lab.plant.log_size()
    content = os.urandom(100_000)
    fact = put(lab.enterprise, "spoilt.bin", content)
    at_source = object_path(lab.enterprise, fact["artifact_sha256"])
    other = os.urandom(len(content))
    at_source.chmod(0o600)
    at_source.write_bytes(other)
    tell(lab.enterprise, fact)
    found = reaches(lab.plant, fact["artifact_uri"], "corrupt")
    assert found["sha256"] == fact["artifact_sha256"]
    assert found["found_sha256"] == hashlib.sha256(other).hexdigest()
    assert not object_path(lab.plant, fact["artifact_sha256"]).exists()
    eventually("it is said", 5, lambda: len(said(lab.plant, start, "artifact_corrupt")) == 1)
    at_source.write_bytes(content)
    lab.plant.ask("artifact", "retry", "--peer", ENTERPRISE)
    reaches(lab.plant, fact["artifact_uri"], "verified")
    assert stored(lab.plant, fact) == content


def test_one_of_a_type_that_is_not_allowed_until_it_is(lab: Lab) -> None:
    fact = put(lab.enterprise, "plan.txt", b"secret", "plans")
    tell(lab.enterprise, fact)
    found = reaches(lab.plant, fact["artifact_uri"], "forbidden")
    assert found["next_retry"] is None
    peers = lab.enterprise.paths.peers_file
    with lab.enterprise.changed(peers, ("batch-files", "plans, batch-files")):
        lab.enterprise.ask("config", "reload")
        lab.plant.ask("artifact", "retry", "--peer", ENTERPRISE)
        reaches(lab.plant, fact["artifact_uri"], "verified")
    lab.enterprise.ask("config", "reload")


def test_facts_do_not_wait_for_a_large_artifact(lab: Lab) -> None:
    zone_file = lab.plant.paths.zone_file
    text = zone_file.read_text()
    assert "limits:" not in text
    content = os.urandom(12 * MEGABYTE)
    fact = put(lab.enterprise, "large.bin", content)
    lab.plant.install(zone_file, text + "limits: {artifact_bytes_per_second_max: 3MiB}\n")
    try:
        lab.plant.ask("config", "reload")
        tell(lab.enterprise, fact)
        began, lags = time.monotonic(), []
        while (row(lab.plant, fact["artifact_uri"]) or {}).get("state") != "verified":
            sent = time.monotonic()
            tell(lab.enterprise, {"sent": sent})
            lab.level()
            lags.append(time.monotonic() - sent)
            assert sent - began < 20
        took = time.monotonic() - began
    finally:
        lab.plant.install(zone_file, text)
        lab.plant.ask("config", "reload")
    assert took > 2.5, "the limit did not hold"
    assert len(lags) >= 2
    print(f"12 MiB at 3 MiB/s took {took:.1f} s; append to level {max(lags):.2f} s at most, commands included")
    lag = lab.plant.metric("bsfg_replication_lag_seconds", peer=ENTERPRISE, stream=OPERATIONAL)
    assert lag is not None and lag < 1.0
