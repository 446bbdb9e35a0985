"""The live access: swapped whole, waking whoever waits, and deciding at one place."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from tests.support.certificates import peer, trust_of
from tests.support.patience import patience
from tests.support.peer_zones import OPERATIONAL, PLANT, SECRET, Pki, RealClock, policy

from bsfg.errors import BsfgError
from bsfg.model.names import StreamName, ZoneId
from bsfg.model.policy import ReadArtifact, ReadStream
from bsfg.transport.access import Access, PeerCaller


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki(tmp_path_factory.mktemp("pki"))


@pytest.fixture
def access(pki: Pki) -> Access:
    return Access(pki.sender_trust(), {PLANT: policy()})


def code_of(
    access: Access, wish: ReadStream | ReadArtifact | None, zone: ZoneId = PLANT, now: int = 100
) -> str:
    try:
        access.current.demand(zone, wish, now)
    except BsfgError as error:
        return error.code.label
    return "allowed"


async def test_what_is_not_written_is_denied(access: Access) -> None:
    assert code_of(access, None) == "allowed"
    assert code_of(access, ReadStream(OPERATIONAL)) == "allowed"
    assert code_of(access, ReadStream(SECRET)) == "stream_denied"
    assert code_of(access, ReadArtifact("order-files")) == "artifact_denied"
    assert code_of(access, None, ZoneId("plant-b")) == "peer_unknown"


async def test_an_artifact_type_that_is_written_is_allowed(access: Access) -> None:
    access.swap(policies={PLANT: replace(policy(), artifact_types=frozenset({"order-files"}))})
    assert code_of(access, ReadArtifact("order-files")) == "allowed"


async def test_a_partition_holds_until_its_end(access: Access) -> None:
    access.swap(partitions={PLANT: 100})
    assert code_of(access, None, now=99) == "partitioned"
    assert code_of(access, ReadStream(SECRET), now=99) == "partitioned"
    assert code_of(access, None, now=100) == "allowed"
    access.swap(partitions={PLANT: None})
    assert code_of(access, None, now=2**62) == "partitioned"
    assert code_of(access, None, ZoneId("plant-b"), now=99) == "peer_unknown"


async def test_a_swap_keeps_what_is_not_given(access: Access) -> None:
    before = access.current
    access.swap(partitions={PLANT: None})
    after = access.current
    assert (after.generation, after.trust, after.policies) == (
        before.generation + 1,
        before.trust,
        before.policies,
    )
    assert before.partitions == {}


async def test_a_swap_wakes_everybody_who_waits(access: Access) -> None:
    waiting = [asyncio.create_task(access.changed_since(1)) for _ in range(3)]
    await asyncio.sleep(0.01)
    assert not any(task.done() for task in waiting)
    access.swap()
    async with asyncio.timeout(1 * patience()):
        snapshots = await asyncio.gather(*waiting)
    assert {snapshot.generation for snapshot in snapshots} == {2}


async def test_an_old_generation_is_answered_at_once(access: Access) -> None:
    access.swap()
    async with asyncio.timeout(1 * patience()):
        assert (await access.changed_since(1)).generation == 2


async def test_later_edits_of_a_mapping_change_nothing(pki: Pki) -> None:
    policies = {PLANT: policy()}
    access = Access(pki.sender_trust(), policies)
    policies[PLANT] = policy({SECRET})
    assert code_of(access, ReadStream(SECRET)) == "stream_denied"


async def test_a_certificate_that_becomes_another_peers_is_refused(pki: Pki, access: Access) -> None:
    """A request that began as one peer must not end as another."""
    caller = PeerCaller(access, RealClock(), pki.plant.der)
    caller.demand(ReadStream(OPERATIONAL))
    other = ZoneId("plant-b")
    trust = trust_of(pki.enterprise, "enterprise-bsfg", pki.plant_ca.path, {other: peer("plant-a-bsfg")})
    access.swap(trust=trust, policies={other: policy(zone=other), PLANT: policy()})
    with pytest.raises(BsfgError) as caught:
        caller.demand(ReadStream(OPERATIONAL))
    assert caught.value.details["reason"] == "identity_moved"


async def test_a_callers_streams_are_those_of_now(pki: Pki, access: Access) -> None:
    caller = PeerCaller(access, RealClock(), pki.plant.der)
    assert caller.streams == {OPERATIONAL}
    access.swap(policies={PLANT: policy({StreamName("facts.other")})})
    assert caller.streams == {"facts.other"}
    access.swap(policies={})
    assert caller.streams == frozenset()
