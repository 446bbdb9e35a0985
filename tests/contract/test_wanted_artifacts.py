"""The port ``WantedArtifacts``: what this zone wants from peers, and how far facts were searched for it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import pytest
from tests.contract.stores import LINK, PEER
from tests.support.nats import NatsServer

from bsfg.model.artifact import ArtifactState, parse_artifact_uri
from bsfg.model.cursor import LinkName
from bsfg.model.names import StreamName, ZoneId
from bsfg.model.wanted import Cause, ScanPosition, WantedArtifact
from bsfg.ports import WantedArtifacts
from bsfg.substrates.control import Control
from bsfg.substrates.memory_wanted import MemoryWantedArtifacts
from bsfg.substrates.wanted_artifacts import BUCKET_ARTIFACTS, JetStreamWantedArtifacts, encode_wanted

URI = parse_artifact_uri("s3://enterprise-bsfg-artifacts/batch-files/2025/001/größe 1.json")
ARTIFACT = WantedArtifact(PEER, URI, "ab" * 32, 2**40, "application/json", references=3, wanted_at=7)
MISSED = replace(
    ARTIFACT,
    state=ArtifactState.MISSING,
    cause=Cause.MISSING,
    message="it is not there",
    found_sha256="cd" * 32,
    failures=4,
    due_at=1_736_935_200_000_000_001,
    told=(Cause.MISSING, Cause.CORRUPT),
)
BY_HAND = WantedArtifact(ZoneId("plant-b"), URI, due_at=None)

Reopen = Callable[[], WantedArtifacts]


@pytest.fixture(params=["memory", "jetstream"])
async def reopen(request: pytest.FixtureRequest) -> AsyncIterator[Reopen]:
    """Gives the list anew each time, as after a restart of the gateway."""
    if request.param == "memory":
        twin = MemoryWantedArtifacts()
        yield lambda: twin
        return
    server: NatsServer = request.getfixturevalue("nats_server")
    control = await Control.open(server.target, name="contract")
    try:
        yield lambda: JetStreamWantedArtifacts(control, replicas=1, report=pytest.fail)
        if (await control.api("STREAM.NAMES", {"subject": f"$KV.{BUCKET_ARTIFACTS}.>"})).get("streams"):
            # A stream that is deleted and made again at once may show what the old one held (nats-server 2.15.1).
            await control.api(f"STREAM.PURGE.KV_{BUCKET_ARTIFACTS}")
    finally:
        await control.close()


async def test_nothing_is_wanted_yet(reopen: Reopen) -> None:
    assert await reopen().load() == []
    assert await reopen().position(LINK) is None
    await reopen().remove(ARTIFACT)


async def test_what_was_saved_comes_back_whole_after_a_restart(reopen: Reopen) -> None:
    for artifact in (MISSED, BY_HAND):
        await reopen().save(artifact)
    assert await reopen().load() == [MISSED, BY_HAND]


async def test_an_entry_is_replaced_and_not_doubled(reopen: Reopen) -> None:
    await reopen().save(ARTIFACT)
    await reopen().save(MISSED)
    assert await reopen().load() == [MISSED]


async def test_other_bytes_under_one_name_are_another_entry(reopen: Reopen) -> None:
    other = replace(ARTIFACT, sha256="ef" * 32)
    for artifact in (ARTIFACT, other):
        await reopen().save(artifact)
    assert sorted(entry.sha256 or "" for entry in await reopen().load()) == ["ab" * 32, "ef" * 32]


async def test_what_was_removed_is_gone_and_the_rest_stays(reopen: Reopen) -> None:
    for artifact in (ARTIFACT, BY_HAND):
        await reopen().save(artifact)
    await reopen().remove(ARTIFACT)
    await reopen().remove(ARTIFACT)
    assert await reopen().load() == [BY_HAND]
    await reopen().save(ARTIFACT)
    assert len(await reopen().load()) == 2


async def test_more_entries_than_are_read_at_once(reopen: Reopen) -> None:
    many = [replace(ARTIFACT, size=number) for number in range(70)]
    for artifact in many:
        await reopen().save(artifact)
    assert {entry.size for entry in await reopen().load()} == set(range(70))


async def test_positions_of_links_are_apart_and_no_entries(reopen: Reopen) -> None:
    other = LinkName(PEER, StreamName("facts.audit"))
    first, second = ScanPosition(1, "2026-01-15T10:00:00Z", 5), ScanPosition(2, "2026-01-15T11:00:00Z", 10**12)
    await reopen().save_position(LINK, first)
    await reopen().save_position(other, second)
    assert (await reopen().position(LINK), await reopen().position(other)) == (first, second)
    assert await reopen().load() == []


async def test_what_cannot_be_read_is_reported_and_left_out(nats_server: NatsServer) -> None:
    control = await Control.open(nats_server.target, name="contract")
    told: list[str] = []
    wanted = JetStreamWantedArtifacts(control, replicas=1, report=told.append)
    try:
        await wanted.save(ARTIFACT)
        key = f"$KV.{BUCKET_ARTIFACTS}.wanted.{PEER}."
        for name, value in (
            ("broken", b"{"),
            ("later", encode_wanted(ARTIFACT).replace(b'"version":1', b'"version":2')),
            ("negative", encode_wanted(ARTIFACT).replace(b'"references":3', b'"references":-3')),
            ("another", encode_wanted(BY_HAND)),
            ("hostile", encode_wanted(ARTIFACT).replace(b"batch-files", b"..")),
        ):
            await control.request(key + name, value)
        await control.request(f"$KV.{BUCKET_ARTIFACTS}.scanned.{LINK.peer}.{LINK.stream}", b"no")
        assert await wanted.load() == [ARTIFACT]
        assert await wanted.position(LINK) is None
        assert len(told) == 6
    finally:
        await control.api(f"STREAM.DELETE.KV_{BUCKET_ARTIFACTS}")
        await control.close()


async def test_the_list_leaves_nothing_behind(nats_server: NatsServer) -> None:
    control = await Control.open(nats_server.target, name="contract")
    wanted = JetStreamWantedArtifacts(control, replicas=1, report=pytest.fail)
    try:
        for number in range(20):
            artifact = replace(ARTIFACT, size=number)
            await wanted.save(artifact)
            await wanted.remove(artifact)
        state = (await control.api(f"STREAM.INFO.KV_{BUCKET_ARTIFACTS}"))["state"]
        assert state["messages"] == 0
    finally:
        await control.api(f"STREAM.DELETE.KV_{BUCKET_ARTIFACTS}")
        await control.close()
