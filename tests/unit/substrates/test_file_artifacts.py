"""The artifact store in a folder: crashes at every step, links, damage, and a full disk."""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.artifacts import OWN, PEER, content_of, file_store, put, reference, uri
from tests.support.patience import patience

from bsfg.errors import ArtifactCorrupt, BsfgError, Code, StoreFull, SubstrateUnavailable
from bsfg.model.artifact import URI_BYTES_MAX, ArtifactReference, parse_artifact_uri
from bsfg.substrates import artifact_staging
from bsfg.substrates.artifact_catalog import ArtifactQuotas, name_digest
from bsfg.substrates.artifact_folder import ArtifactFolder
from bsfg.substrates.artifact_staging import SET_ASIDE_FILES_MAX
from bsfg.substrates.staged_artifacts import StagedArtifactStore

LARGE_QUOTAS = ArtifactQuotas(10**9, 10**9)
NAMED = "s3://plant-a-artifacts/batch-files/2025/001/batch-123.json"


def files(folder: Path) -> dict[str, int]:
    """Every file below a folder with its size."""
    return {
        str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*") if path.is_file()
    }


def object_path(folder: Path, content: bytes) -> Path:
    sha256 = reference(content).sha256
    return folder / "objects" / sha256[:2] / sha256


# Where things lie


async def test_bytes_and_names_lie_by_their_digests_for_their_owner_alone(tmp_path: Path) -> None:
    folder = tmp_path / "artifacts"
    async with file_store(folder) as store:
        await put(store, b"one")
    name = name_digest(uri())
    assert set(files(folder)) == {
        str(object_path(Path(), b"one")),
        f"names/{name[:2]}/{name}",
    }
    assert all(path.stat().st_mode & 0o077 == 0 for path in [folder, *folder.rglob("*")])


SEGMENT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)


@settings(max_examples=300)
@given(
    st.lists(SEGMENT, min_size=1, max_size=8),
    st.sampled_from(["", "s3://", "s3:///", "file://", "s3://b/t/"]),
)
def test_any_uri_that_is_accepted_maps_to_a_name_inside_the_store(segments: list[str], head: str) -> None:
    text = head + "/".join(segments)
    try:
        parsed = parse_artifact_uri(text)
    except BsfgError as error:
        assert error.code is Code.INVALID_URI
        return
    assert str(parsed) == text
    name = name_digest(parsed)
    assert len(name) == 64
    assert set(name) <= set("0123456789abcdef")


@pytest.mark.parametrize(
    "key", ["k" * (URI_BYTES_MAX - len("s3://plant-a-artifacts/batch-files/")), "ä/\u202e", "a b", "..a/..."]
)
async def test_odd_keys_are_stored_inside(tmp_path: Path, key: str) -> None:
    async with file_store(tmp_path / "artifacts") as store:
        name = parse_artifact_uri(f"s3://plant-a-artifacts/batch-files/{key}")
        await put(store, b"odd", name)
        assert await content_of(store, name) == b"odd"
    assert {name.split("/")[0] for name in files(tmp_path)} == {"artifacts"}


# Restarts and crashes


async def test_what_was_stored_is_there_after_a_restart(tmp_path: Path) -> None:
    folder = tmp_path / "artifacts"
    async with file_store(folder) as store:
        await put(store, b"one")
        await put(store, b"theirs", uri(bucket="enterprise-artifacts"), PEER)
    async with file_store(folder) as store:
        assert await content_of(store, uri()) == b"one"
        assert await store.bytes_used() == 9
        assert await store.bytes_used(PEER) == 6


class Crash(BaseException):
    """The process ends here."""


STEPS = [
    (ArtifactFolder, "move"),
    (ArtifactFolder, "publish"),
    (artifact_staging.StagedFile, "sync"),
    (artifact_staging.StagedFile, "append"),
]


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize(("owner", "step"), STEPS)
async def test_a_crash_at_any_step_leaves_it_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: type, step: str, moment: str
) -> None:
    folder = tmp_path / "artifacts"
    real = getattr(owner, step)

    def crash(*arguments: object) -> None:
        if moment == "after":
            real(*arguments)
        raise Crash

    async with file_store(folder) as store:
        await put(store, b"before", uri("before"))
        writing = await store.begin(OWN)
        await writing.write(b"one")
        monkeypatch.setattr(owner, step, crash)
        with pytest.raises(Crash):
            await writing.finish(uri(), media_type=None, expected=None)
        monkeypatch.undo()
    async with file_store(folder) as store:
        found = await store.find(uri())
        if found is not None:
            assert (step, moment) == ("publish", "after")
            assert await content_of(store, uri()) == b"one"
        assert await content_of(store, uri("before")) == b"before"
        assert await store.bytes_used() == 6 + (3 if found else 0)
        kept = {name: size for name, size in files(folder).items() if not name.startswith("names/")}
        assert kept == {
            str(object_path(Path(), each)): len(each)
            for each in ([b"before", b"one"] if found else [b"before"])
        }
        await put(store, b"one")
        assert await content_of(store, uri()) == b"one"


async def test_a_half_written_artifact_is_gone_on_with_after_a_kill(tmp_path: Path) -> None:
    folder, wanted = tmp_path / "artifacts", reference(b"first second")
    async with file_store(folder) as store:
        writing = await store.begin(PEER, resume=wanted)
        await writing.write(b"first ")
        await writing.keep()
        nameless = await store.begin(OWN)
        await nameless.write(bytes(artifact_staging.BUFFER_BYTES // 8))
    async with file_store(folder) as store:
        again = await store.begin(PEER, resume=wanted)
        assert again.size == 6
        assert [name for name in files(folder) if "new." in name] == []
        await again.write(b"second")
        await again.finish(uri(), media_type=None, expected=wanted)
        assert await content_of(store, uri()) == b"first second"


async def test_a_half_written_artifact_that_was_damaged_is_found_out(tmp_path: Path) -> None:
    folder, wanted = tmp_path / "artifacts", reference(b"first second")
    async with file_store(folder) as store:
        writing = await store.begin(PEER, resume=wanted)
        await writing.write(b"first ")
        await writing.keep()
        partial = next(path for path in (folder / "partial").iterdir())
        partial.write_bytes(b"\0\0\0\0\0\0")
        again = await store.begin(PEER, resume=wanted)
        await again.write(b"second")
        with pytest.raises(ArtifactCorrupt) as error:
            await again.finish(uri(), media_type=None, expected=wanted)
        assert error.value.details["resumed_bytes"] == 6


async def test_half_written_artifacts_that_nobody_goes_on_with_end(tmp_path: Path) -> None:
    folder = tmp_path / "artifacts"
    async with file_store(folder) as store:
        writing = await store.begin(PEER, resume=reference(b"first second"))
        await writing.write(b"first ")
        await writing.keep()
    partial = next(path for path in (folder / "partial").iterdir())
    os.utime(partial, (0, 0))
    async with file_store(folder) as store:
        assert await store.bytes_used() == 0
        assert not partial.exists()


async def test_what_is_set_aside_is_bounded(tmp_path: Path) -> None:
    folder = tmp_path / "artifacts"
    async with file_store(folder) as store:
        for number in range(SET_ASIDE_FILES_MAX + 3):
            writing = await store.begin(PEER)
            await writing.write(b"wrong")
            with pytest.raises(ArtifactCorrupt) as error:
                await writing.finish(uri(), media_type=None, expected=reference(b"right %d" % number))
            kept = folder / "set-aside" / reference(b"right %d" % number).sha256
            assert error.value.details["set_aside"] == str(kept)
            assert kept.read_bytes() == b"wrong"
    assert len(list((folder / "set-aside").iterdir())) == SET_ASIDE_FILES_MAX


# Damage and links


async def test_a_record_that_can_not_be_read_is_told_and_its_bytes_stay(tmp_path: Path) -> None:
    folder, reports = tmp_path / "artifacts", list[str]()
    async with file_store(folder) as store:
        await put(store, b"one")
    record = next(path for path in (folder / "names").rglob("*") if path.is_file())
    record.write_text("{half")
    async with file_store(folder, reports=reports) as store:
        assert await store.bytes_used() == 0
        assert await store.find(uri()) is None
        assert await store.has(reference(b"one").sha256)
        assert "can't be read" in reports[0]
        await put(store, b"one")
        assert await content_of(store, uri()) == b"one"


async def test_a_record_under_another_name_is_not_believed(tmp_path: Path) -> None:
    folder, reports = tmp_path / "artifacts", list[str]()
    async with file_store(folder) as store:
        await put(store, b"one")
        await put(store, b"two", uri("two"))
        first, second = (
            folder / "names" / name_digest(each)[:2] / name_digest(each) for each in (uri(), uri("two"))
        )
        first.write_bytes(second.read_bytes())
    async with file_store(folder, reports=reports) as store:
        assert await store.find(uri()) is None
        assert "another name" in reports[0]


async def test_bytes_of_another_length_are_not_shown(tmp_path: Path) -> None:
    folder, reports = tmp_path / "artifacts", list[str]()
    async with file_store(folder, reports=reports) as store:
        await put(store, b"one")
        path = object_path(folder, b"one")
        path.write_bytes(b"on")
        assert await store.find(uri()) is None
        assert "2 instead of 3" in reports[0]


@pytest.mark.parametrize("part", ["objects", "names", "partial"])
async def test_a_link_in_the_place_of_a_folder_is_followed_by_nobody(tmp_path: Path, part: str) -> None:
    folder, outside = tmp_path / "artifacts", tmp_path / "outside"
    folder.mkdir()
    outside.mkdir()
    (folder / part).symlink_to(outside)
    async with file_store(folder) as store:
        with pytest.raises(SubstrateUnavailable, match="symbolic link"):
            await put(store, b"one")
    assert list(outside.iterdir()) == []


async def test_a_link_in_the_place_of_a_file_is_not_read(tmp_path: Path) -> None:
    folder, secret = tmp_path / "artifacts", tmp_path / "secret"
    secret.write_bytes(b"key")
    async with file_store(folder) as store:
        await put(store, b"one")
        path = object_path(folder, b"one")
        path.unlink()
        path.symlink_to(secret)
        with pytest.raises(SubstrateUnavailable, match="symbolic link"):
            await store.find(uri())


async def test_a_pipe_in_the_place_of_a_file_holds_nobody_up(tmp_path: Path) -> None:
    folder = tmp_path / "artifacts"
    async with file_store(folder) as store:
        await put(store, b"one")
        path = object_path(folder, b"one")
        path.unlink()
        os.mkfifo(path)
        async with asyncio.timeout(5 * patience()):
            with pytest.raises(SubstrateUnavailable):
                await store.find(uri())


async def test_a_folder_that_comes_back_is_used_again(tmp_path: Path) -> None:
    folder = tmp_path / "artifacts"
    folder.mkdir()
    (folder / "names").symlink_to(tmp_path)
    async with file_store(folder) as store:
        with pytest.raises(SubstrateUnavailable):
            await put(store, b"one")
        (folder / "names").unlink()
        await put(store, b"one")
        assert await content_of(store, uri()) == b"one"


# A full disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "bsfg-test", str(disk)], check=True)
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


async def write_all(
    store: StagedArtifactStore, content: bytes, resume: ArtifactReference | None = None
) -> None:
    writing = await store.begin(PEER, resume=resume)
    try:
        for start in range(writing.size, len(content), 100_000):
            await writing.write(content[start : start + 100_000])
        await writing.finish(uri(), media_type=None, expected=resume)
    except BsfgError:
        await writing.keep()
        raise


async def test_a_disk_that_fills_up_shows_nothing_and_goes_on_with_room(small_disk: Path) -> None:
    content = os.urandom(900_000)
    wanted = reference(content)
    (small_disk / "other").write_bytes(bytes(500_000))
    async with file_store(small_disk / "artifacts", LARGE_QUOTAS) as store:
        for _ in range(2):
            with pytest.raises(StoreFull):
                await write_all(store, content, wanted)
            assert await store.find(uri()) is None
        (small_disk / "other").unlink()
        await write_all(store, content, wanted)
        assert await content_of(store, uri()) == content


async def test_a_disk_without_room_for_the_name_leaves_none(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise StoreFull("the disk is full")

    async with file_store(small_disk / "artifacts", LARGE_QUOTAS) as store:
        writing = await store.begin(OWN)
        await writing.write(b"one")
        monkeypatch.setattr(ArtifactFolder, "publish", full)
        with pytest.raises(StoreFull):
            await writing.finish(uri(), media_type=None, expected=None)
        await writing.abandon()
        monkeypatch.undo()
        assert await store.find(uri()) is None
        await put(store, b"one")
        assert await content_of(store, uri()) == b"one"


# Bringing what is written to the disk beside the next


MEBIBYTE = 1024 * 1024


async def test_the_disk_is_waited_for_beside_the_next_bytes_and_for_no_more_than_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artifact_staging, "SYNC_BYTES", 2 * MEBIBYTE)
    monkeypatch.setattr(artifact_staging, "BUFFER_BYTES", MEBIBYTE)
    goes_on, began, real = threading.Event(), threading.Event(), os.fdatasync

    def slow(descriptor: int) -> None:
        began.set()
        assert goes_on.wait(10)
        real(descriptor)

    monkeypatch.setattr(os, "fdatasync", slow)
    content = os.urandom(8 * MEBIBYTE)
    async with file_store(tmp_path / "artifacts", quotas=LARGE_QUOTAS) as store:
        writing = await store.begin(OWN)

        async def write_all() -> None:
            for start in range(0, len(content), MEBIBYTE):
                await writing.write(content[start : start + MEBIBYTE])

        writes = asyncio.create_task(write_all())
        assert await asyncio.to_thread(began.wait, 5)
        await asyncio.sleep(0.3)
        # One of the disk's turns holds up neither the next bytes nor more than those.
        assert 3 * MEBIBYTE <= writing.file.size < 6 * MEBIBYTE
        assert not writes.done()
        goes_on.set()
        await writes
        stored = await writing.finish(uri(), media_type=None, expected=reference(content))
        assert await content_of(store, stored.uri) == content


@pytest.mark.parametrize("last", ["finish", "keep", "abandon"])
async def test_a_disk_that_fails_beside_the_next_bytes_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: str
) -> None:
    monkeypatch.setattr(artifact_staging, "SYNC_BYTES", MEBIBYTE)
    monkeypatch.setattr(artifact_staging, "BUFFER_BYTES", MEBIBYTE)

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    content = os.urandom(MEBIBYTE + 10)
    async with file_store(tmp_path / "artifacts", quotas=LARGE_QUOTAS) as store:
        writing = await store.begin(OWN, resume=reference(content))
        monkeypatch.setattr(os, "fdatasync", full)
        await writing.write(content[:MEBIBYTE])
        await writing.write(content[MEBIBYTE:])
        if last == "finish":
            with pytest.raises(StoreFull):
                await writing.finish(uri(), media_type=None, expected=None)
            assert await store.find(uri()) is None
        await (writing.abandon() if last == "abandon" else writing.keep())
        monkeypatch.undo()
        # What was kept is gone on with, and what was not comes again.
        again = await store.begin(OWN, resume=reference(content))
        await again.write(content[again.size :])
        await again.finish(uri(), media_type=None, expected=reference(content))
        assert await content_of(store, uri()) == content
