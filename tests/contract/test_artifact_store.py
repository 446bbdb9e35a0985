"""The contract of ``ports.ArtifactStore``: in memory, in a folder, in a real S3 server."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.support.artifacts import (
    OWN,
    PEER,
    QUOTAS,
    content_of,
    file_store,
    make_bucket,
    memory_store,
    put,
    reference,
    s3_store,
    uri,
)
from tests.support.radosgw import RadosGateway

from bsfg.errors import ArtifactCorrupt, BsfgError, Code
from bsfg.model.artifact import ArtifactReference
from bsfg.ports import ArtifactStore

ROOM = QUOTAS.per_peer_bytes


@pytest.fixture(params=["memory", "file", "s3"])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[ArtifactStore]:
    """An empty store."""
    if request.param == "memory":
        yield memory_store()
    elif request.param == "file":
        async with file_store(tmp_path / "artifacts") as real:
            yield real
    else:
        server: RadosGateway = request.getfixturevalue("radosgw")
        bucket = f"bucket-{secrets.token_hex(8)}"
        make_bucket(server, bucket)
        async with s3_store(server, bucket, tmp_path / "staging") as real:
            yield real


def refused(error: pytest.ExceptionInfo[BsfgError]) -> Code:
    return error.value.code


# Storing


async def test_what_is_put_is_there_with_its_digest(store: ArtifactStore) -> None:
    stored = await put(store, b'{"batch": 1}')
    assert stored == reference(b'{"batch": 1}')
    found = await store.find(uri())
    assert found is not None
    assert found.reference == stored
    assert await content_of(store, uri()) == b'{"batch": 1}'
    assert await store.has(stored.sha256)


@pytest.mark.parametrize("size", [0, 1, 65_536, 300_000])
async def test_any_size_comes_back_whole(store: ArtifactStore, size: int) -> None:
    content = bytes(index * 7 % 251 for index in range(size))
    await put(store, content)
    assert await content_of(store, uri()) == content


async def test_what_is_not_there_is_nothing(store: ArtifactStore) -> None:
    await put(store, b"one")
    assert await store.find(uri("other")) is None
    assert not await store.has(reference(b"other").sha256)


async def test_a_part_is_read_by_its_bounds(store: ArtifactStore) -> None:
    content = bytes(range(256)) * 1_000
    await put(store, content)
    assert await content_of(store, uri(), 70_000, 200_001) == content[70_000:200_001]
    assert await content_of(store, uri(), 5, 6) == content[5:6]


async def test_nothing_shows_before_the_end(store: ArtifactStore) -> None:
    writing = await store.begin(OWN)
    await writing.write(b"half")
    assert writing.size == 4
    assert await store.find(uri()) is None
    assert not await store.has(reference(b"half").sha256)
    await writing.finish(uri(), media_type=None, expected=None)
    assert await store.find(uri()) is not None


async def test_the_same_bytes_again_are_done(store: ArtifactStore) -> None:
    first = await put(store, b"one")
    assert await put(store, b"one") == first
    assert await store.bytes_used() == 3


async def test_other_bytes_under_the_same_name_are_refused(store: ArtifactStore) -> None:
    await put(store, b"one")
    with pytest.raises(BsfgError) as error:
        await put(store, b"two")
    assert refused(error) is Code.CONFLICTING_DUPLICATE
    assert error.value.details["stored_sha256"] == reference(b"one").sha256
    assert await content_of(store, uri()) == b"one"
    assert not await store.has(reference(b"two").sha256)


async def test_two_at_once_under_one_name_leave_one(store: ArtifactStore) -> None:
    results = await asyncio.gather(put(store, b"one"), put(store, b"two"), return_exceptions=True)
    lost = [result for result in results if isinstance(result, BsfgError)]
    assert [error.code for error in lost] == [Code.CONFLICTING_DUPLICATE]
    assert await content_of(store, uri()) in (b"one", b"two")


async def test_other_bytes_than_expected_are_named_and_never_shown(store: ArtifactStore) -> None:
    wanted = reference(b"right")
    writing = await store.begin(PEER, resume=wanted)
    await writing.write(b"wrong")
    with pytest.raises(ArtifactCorrupt) as error:
        await writing.finish(uri(), media_type=None, expected=wanted)
    details = error.value.details
    assert (details["sha256"], details["expected_sha256"]) == (reference(b"wrong").sha256, wanted.sha256)
    assert await store.find(uri()) is None
    assert not await store.has(reference(b"wrong").sha256)
    again = await store.begin(PEER, resume=wanted)
    assert again.size == 0
    await again.abandon()


@pytest.mark.parametrize("content", [b"righ", b"right and more"])
async def test_another_size_than_expected_is_corrupt(store: ArtifactStore, content: bytes) -> None:
    writing = await store.begin(PEER)
    await writing.write(content)
    with pytest.raises(ArtifactCorrupt):
        await writing.finish(uri(), media_type=None, expected=reference(b"right"))
    assert await store.find(uri()) is None


# Going on


async def test_a_kept_writing_is_gone_on_with(store: ArtifactStore) -> None:
    wanted = reference(b"first second")
    writing = await store.begin(PEER, resume=wanted)
    await writing.write(b"first ")
    await writing.keep()
    again = await store.begin(PEER, resume=wanted)
    assert again.size == 6
    await again.write(b"second")
    assert (await again.finish(uri(), media_type=None, expected=wanted)).sha256 == wanted.sha256
    assert await content_of(store, uri()) == b"first second"


async def test_an_abandoned_writing_leaves_nothing(store: ArtifactStore) -> None:
    wanted = reference(b"first second")
    writing = await store.begin(PEER, resume=wanted)
    await writing.write(b"first ")
    await writing.abandon()
    again = await store.begin(PEER, resume=wanted)
    assert again.size == 0
    await again.abandon()


async def test_two_attempts_at_one_artifact_do_not_mix(store: ArtifactStore) -> None:
    wanted = reference(b"abcdef")
    first, second = await store.begin(PEER, resume=wanted), await store.begin(PEER, resume=wanted)
    await first.write(b"abc")
    await second.write(b"abcdef")
    await second.finish(uri(), media_type=None, expected=wanted)
    await first.write(b"def")
    await first.finish(uri(), media_type=None, expected=wanted)
    assert await content_of(store, uri()) == b"abcdef"
    assert await store.bytes_used() == 6


async def test_more_than_the_artifact_can_be_is_not_gone_on_with(store: ArtifactStore) -> None:
    long = ArtifactReference(uri(), reference(b"abc").sha256, 6)
    writing = await store.begin(PEER, resume=long)
    await writing.write(b"abcdef")
    await writing.keep()
    again = await store.begin(PEER, resume=reference(b"abc"))
    assert again.size == 0
    await again.abandon()


# Names


async def test_bytes_get_another_name_and_are_stored_once(store: ArtifactStore) -> None:
    stored = await put(store, b"one")
    other = ArtifactReference(uri("other"), stored.sha256, stored.size)
    await store.link(OWN, other)
    await store.link(OWN, other)
    assert await content_of(store, uri("other")) == b"one"
    assert await store.bytes_used() == 3


async def test_a_name_is_for_bytes_that_are_here(store: ArtifactStore) -> None:
    with pytest.raises(BsfgError) as error:
        await store.link(OWN, reference(b"nowhere"))
    assert refused(error) is Code.ARTIFACT_NOT_FOUND
    assert await store.find(uri()) is None


async def test_a_name_with_other_bytes_is_not_given_away(store: ArtifactStore) -> None:
    await put(store, b"one")
    two = await put(store, b"two", uri("two"))
    with pytest.raises(BsfgError) as error:
        await store.link(OWN, ArtifactReference(uri(), two.sha256, two.size))
    assert refused(error) is Code.CONFLICTING_DUPLICATE
    assert await content_of(store, uri()) == b"one"


async def test_names_are_told_by_owner_and_in_order(store: ArtifactStore) -> None:
    await put(store, b"b", uri("b"))
    await put(store, b"a", uri("a"))
    await put(store, b"theirs", uri("x", bucket="enterprise-artifacts"), PEER)
    own = [str(row.reference.uri) async for row in store.stored(OWN)]
    assert own == ["s3://plant-a-artifacts/batch-files/a", "s3://plant-a-artifacts/batch-files/b"]
    assert len([row async for row in store.stored()]) == 3
    assert len([row async for row in store.stored(PEER)]) == 1


async def test_names_that_differ_in_one_letter_or_its_case_are_two(store: ArtifactStore) -> None:
    for key in ("Batch", "batch", "batch/", "batch "):
        if not key.endswith("/"):
            await put(store, key.encode(), uri(key))
    assert await content_of(store, uri("Batch")) == b"Batch"
    assert await content_of(store, uri("batch")) == b"batch"
    assert await content_of(store, uri("batch ")) == b"batch "


async def test_a_removed_name_is_gone_and_its_bytes_with_the_last(store: ArtifactStore) -> None:
    stored = await put(store, b"one")
    await store.link(OWN, ArtifactReference(uri("other"), stored.sha256, stored.size))
    await store.remove(uri())
    assert await store.find(uri()) is None
    assert await content_of(store, uri("other")) == b"one"
    await store.remove(uri("other"))
    assert not await store.has(stored.sha256)
    assert await store.bytes_used() == 0
    await store.remove(uri("other"))


# Room


async def test_the_room_of_a_peer_ends_at_its_quota_and_only_its(store: ArtifactStore) -> None:
    writing = await store.begin(PEER)
    await writing.write(bytes(ROOM))
    with pytest.raises(BsfgError) as error:
        await writing.write(b"x")
    assert refused(error) is Code.QUOTA_EXCEEDED
    assert error.value.details["quota_bytes"] == ROOM
    await put(store, bytes(ROOM + 1), uri("own"))
    await writing.finish(uri(bucket="enterprise-artifacts"), media_type=None, expected=None)
    with pytest.raises(BsfgError) as error:
        await store.begin(PEER)
    assert refused(error) is Code.QUOTA_EXCEEDED


async def test_the_room_of_the_zone_ends_at_its_quota(store: ArtifactStore) -> None:
    await put(store, bytes(QUOTAS.zone_bytes - 10), uri("most"))
    with pytest.raises(BsfgError) as error:
        await put(store, bytes(11))
    assert refused(error) is Code.QUOTA_EXCEEDED
    await put(store, bytes(10))
    await store.remove(uri("most"))
    await put(store, bytes(11), uri("eleven"))


async def test_what_is_known_to_be_too_large_is_refused_before_its_first_byte(store: ArtifactStore) -> None:
    with pytest.raises(BsfgError) as error:
        await store.begin(PEER, resume=ArtifactReference(uri(), "0" * 64, ROOM + 1))
    assert refused(error) is Code.QUOTA_EXCEEDED


async def test_what_is_on_its_way_or_kept_takes_room(store: ArtifactStore) -> None:
    wanted = ArtifactReference(uri(), reference(bytes(ROOM)).sha256, ROOM)
    writing = await store.begin(PEER, resume=wanted)
    await writing.write(bytes(ROOM - 5))
    other = await store.begin(PEER)
    with pytest.raises(BsfgError):
        await other.write(bytes(6))
    await other.abandon()
    await writing.keep()
    other = await store.begin(PEER)
    with pytest.raises(BsfgError):
        await other.write(bytes(6))
    await other.write(bytes(5))
    await other.abandon()
    again = await store.begin(PEER, resume=wanted)
    await again.write(bytes(5))
    await again.finish(uri(), media_type=None, expected=wanted)
    assert await store.bytes_used(PEER) == ROOM


async def test_refused_writings_give_their_room_back(store: ArtifactStore) -> None:
    for _ in range(3):
        writing = await store.begin(PEER)
        await writing.write(bytes(ROOM))
        with pytest.raises(ArtifactCorrupt):
            await writing.finish(uri(), media_type=None, expected=reference(b"other"))
        writing = await store.begin(PEER)
        await writing.write(bytes(ROOM))
        await writing.abandon()
