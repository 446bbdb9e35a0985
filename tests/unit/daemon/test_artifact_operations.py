"""Put, list and gc: what breaks off leaves nothing, and what a fact refers to stays."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from tests.contract.stores import SystemClock
from tests.support.artifacts import OWN, PEER, content_of, memory_store, put, uri
from tests.unit.cli.canned import CannedOperations

from bsfg.daemon import artifact_operations
from bsfg.daemon.artifact_local_routes import artifact_local_routes
from bsfg.daemon.artifact_operations import ArtifactOperations
from bsfg.daemon.audit import AuditLog
from bsfg.daemon.local_api import build_local_application
from bsfg.daemon.local_listeners import serve_unix
from bsfg.daemon.retained_references import RetainedReferences
from bsfg.errors import BsfgError, Code, SubstrateUnavailable
from bsfg.model.page import PageLimits
from bsfg.substrates.memory_artifacts import MemoryArtifactStore

BUCKET = "plant-a-artifacts"


@dataclass
class Streams:
    """Streams with their messages by sequence, as JetStream tells of them."""

    messages: dict[str, dict[int, bytes]] = field(default_factory=dict)
    first: dict[str, int] = field(default_factory=dict)
    created: dict[str, str] = field(default_factory=dict)
    broken: str | None = None
    reads: list[tuple[str, int]] = field(default_factory=list)

    async def api(self, verb: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        if verb == "STREAM.NAMES":
            offset = (body or {})["offset"]
            return {"streams": sorted(self.messages)[offset : offset + 2], "total": len(self.messages)}
        name = verb.rpartition(".")[2]
        last = max(self.messages[name], default=0)
        state = {"first_seq": self.first.get(name, 1), "last_seq": last}
        return {"created": self.created.get(name, "then"), "state": state}

    async def read(self, name: str, sequence: int, limits: PageLimits) -> Sequence[Mapping[str, Any]]:
        self.reads.append((name, sequence))
        if name == self.broken:
            raise SubstrateUnavailable("the store is away")
        rows = [each for each in sorted(self.messages[name]) if each >= sequence][:2]
        return [
            {"local_sequence": each, "payload": self.messages[name][each], "headers": []} for each in rows
        ]


@dataclass
class House:
    """The operations over the in-memory store, and everything around them."""

    store: MemoryArtifactStore
    streams: Streams
    operations: ArtifactOperations
    audit: Path

    async def orphans(self, **named: Any) -> list[str]:
        found = await self.operations.collect(
            **{"dry_run": True, "reason": None, "older_than_seconds": 0} | named
        )
        return [row["uri"] for row in found["orphans"]]


@pytest.fixture
def house(tmp_path: Path) -> House:
    store, streams, audit = memory_store(), Streams(), tmp_path / "audit.jsonl"

    async def wanted(peer: str | None, state: str | None) -> dict[str, Any]:
        return {"artifacts": [{"peer": peer, "state": state}]}

    references = RetainedReferences(streams, streams.read)
    clock = SystemClock()
    operations = ArtifactOperations(store, OWN, BUCKET, references, AuditLog(audit, clock), clock, wanted)
    return House(store, streams, operations, audit)


def fact(key: str, bucket: str = BUCKET) -> bytes:
    return json.dumps({"artifact_uri": str(uri(key, bucket=bucket))}).encode()


# Put


async def pieces(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def test_a_put_says_what_was_stored(house: House) -> None:
    answer = await house.operations.put(pieces(b"on", b"e"), "batch-files", "a/b", "text/plain")
    assert answer == {
        "uri": f"s3://{BUCKET}/batch-files/a/b",
        "sha256": "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed",
        "size": 3,
        "media_type": "text/plain",
    }


async def test_bytes_that_stop_are_given_up(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifact_operations, "SILENCE_SECONDS_MAX", 0.1)

    async def stopping() -> AsyncIterator[bytes]:
        yield b"half"
        await asyncio.sleep(60)

    with pytest.raises(BsfgError) as error:
        await house.operations.put(stopping(), "batch-files", "k", None)
    assert error.value.code is Code.TIMED_OUT
    assert await house.store.find(uri("k")) is None
    await put(house.store, bytes(1_000_000), uri("all the room"))


async def test_a_body_that_breaks_off_is_no_artifact(house: House, tmp_path: Path) -> None:
    application = build_local_application(CannedOperations(), further=artifact_local_routes(house.operations))
    server = await serve_unix(application, tmp_path / "run")
    path = "/v1/artifacts?type=batch-files&key=k"
    for head in (b"Content-Length: 100\r\n\r\nhalf", b"Transfer-Encoding: chunked\r\n\r\n64\r\nhalf"):
        _, writer = await asyncio.open_unix_connection(str(tmp_path / "run" / "bsfg.sock"))
        writer.write(b"POST " + path.encode() + b" HTTP/1.1\r\nHost: localhost\r\n" + head)
        await writer.drain()
        await asyncio.sleep(0.1)
        writer.close()
        await asyncio.sleep(0.1)
        assert await house.store.find(uri("k")) is None
    connector = aiohttp.UnixConnector(str(tmp_path / "run" / "bsfg.sock"))
    async with aiohttp.ClientSession("http://localhost", connector=connector) as session:
        async with session.post(path, data=b"whole") as answer:
            assert (answer.status, (await answer.json())["size"]) == (200, 5)
        async with session.post(path + "&uri=x", data=b"whole") as answer:
            assert (await answer.json())["error"]["code"] == "unknown_field"
    assert await content_of(house.store, uri("k")) == b"whole"
    await server.close()


async def test_a_full_disk_refuses_and_leaves_nothing(house: House) -> None:
    house.store.is_full = True
    with pytest.raises(BsfgError) as error:
        await house.operations.put(pieces(b"one"), "batch-files", "k", None)
    assert error.value.code is Code.LOCAL_FULL
    assert await house.store.find(uri("k")) is None


# List


async def test_a_list_has_our_own_and_those_of_peers(house: House) -> None:
    await put(house.store, b"one", uri("own"))
    await put(house.store, b"two", uri("theirs", bucket="enterprise-artifacts"), PEER)
    both = await house.operations.listed(None, None)
    assert [row["uri"] for row in both["own"]] == [str(uri("own"))]
    assert both["artifacts"] == [{"peer": None, "state": None}]
    assert await house.operations.listed("enterprise", "missing") == {
        "artifacts": [{"peer": "enterprise", "state": "missing"}]
    }


# What nothing refers to


async def test_what_a_retained_fact_refers_to_stays(house: House) -> None:
    for key in ("local", "inbound", "old-generation", "orphan"):
        await put(house.store, key.encode(), uri(key))
    house.streams.messages = {
        "facts_operational": {1: b"{}", 2: b"{}", 3: fact("local")},
        "in_enterprise_facts_g1": {7: fact("old-generation")},
        "in_enterprise_facts_g2": {7: fact("inbound")},
        "KV_bsfg_links": {1: fact("orphan")},
    }
    assert await house.orphans() == [str(uri("orphan"))]
    removed = await house.operations.collect(dry_run=False, reason="archived", older_than_seconds=0)
    assert removed["removed"] == 1
    assert await house.store.find(uri("orphan")) is None
    assert await house.store.find(uri("old-generation")) is not None
    lines = [json.loads(line) for line in house.audit.read_text().splitlines()]
    assert [(line["action"], line.get("uri")) for line in lines] == [
        ("artifact.gc", None),
        ("artifact.remove", str(uri("orphan"))),
    ]


async def test_a_fact_that_expired_no_longer_holds_its_artifact(house: House) -> None:
    await put(house.store, b"one", uri("k"))
    house.streams.messages = {"facts_operational": {1: fact("k"), 2: b"{}"}}
    assert await house.orphans() == []
    house.streams.first["facts_operational"] = 2
    assert await house.orphans() == [str(uri("k"))]


async def test_what_was_searched_is_not_searched_again(house: House) -> None:
    await put(house.store, b"one", uri("k"))
    house.streams.messages = {"facts_operational": dict.fromkeys(range(1, 6), b"{}")}
    await house.orphans()
    house.streams.reads.clear()
    house.streams.messages["facts_operational"][6] = fact("k")
    assert await house.orphans() == []
    assert house.streams.reads == [("facts_operational", 6)]


async def test_a_stream_that_was_made_again_is_searched_from_its_beginning(house: House) -> None:
    await put(house.store, b"one", uri("k"))
    house.streams.messages = {"facts_operational": {1: b"{}", 2: b"{}"}}
    assert await house.orphans() == [str(uri("k"))]
    house.streams.messages = {"facts_operational": {1: fact("k"), 2: b"{}"}}
    house.streams.created["facts_operational"] = "later"
    assert await house.orphans() == []


async def test_where_a_stream_can_not_be_read_nothing_is_removed(house: House) -> None:
    await put(house.store, b"one", uri("k"))
    house.streams.messages = {"a": {1: b"{}"}, "b": {1: b"{}"}}
    house.streams.broken = "b"
    with pytest.raises(SubstrateUnavailable):
        await house.operations.collect(dry_run=False, reason="drill", older_than_seconds=0)
    assert await house.store.find(uri("k")) is not None
    assert not house.audit.read_text()


async def test_what_is_young_or_was_put_again_stays(house: House) -> None:
    await put(house.store, b"one", uri("k"))
    assert await house.orphans(older_than_seconds=None) == []
    assert await house.orphans() == [str(uri("k"))]
    house.store.clock = SystemClock()
    await asyncio.sleep(1.1)
    assert await house.orphans(older_than_seconds=1) == [str(uri("k"))]
    await house.operations.put(pieces(b"one"), "batch-files", "k", None)
    assert await house.orphans(older_than_seconds=1) == []


@pytest.mark.parametrize("reason", [None, "", "  ", "x" * 501])
async def test_removing_needs_a_reason(house: House, reason: str | None) -> None:
    await put(house.store, b"one", uri("k"))
    with pytest.raises(BsfgError) as error:
        await house.operations.collect(dry_run=False, reason=reason, older_than_seconds=0)
    assert error.value.code is Code.INVALID_REQUEST
    assert await house.store.find(uri("k")) is not None
