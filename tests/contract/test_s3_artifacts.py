"""The artifact store in a real S3 server: what only happens there."""

from __future__ import annotations

import hashlib
import os
import secrets
import stat
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from tests.contract.stores import SystemClock
from tests.support.artifacts import (
    OWN,
    content_of,
    make_bucket,
    put,
    reference,
    s3_backend,
    s3_store,
    uri,
)
from tests.support.radosgw import REGION, RadosGateway

from bsfg.errors import BsfgError, Code, SubstrateUnavailable
from bsfg.substrates import s3_artifacts
from bsfg.substrates.artifact_catalog import ArtifactQuotas, name_digest
from bsfg.substrates.s3_artifacts import S3Artifacts, S3Keys, S3Place, open_s3_artifacts, read_keys

LARGE = ArtifactQuotas(10**9, 10**9)
PARTS_BYTES = 20 * 1024 * 1024 + 7


def get(address: str) -> tuple[int, bytes]:
    """What anybody gets who asks there."""
    try:
        with urllib.request.urlopen(address, timeout=30) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, b""


@pytest.fixture
def bucket(radosgw: RadosGateway) -> str:
    """A bucket of the test's own."""
    name = f"bucket-{secrets.token_hex(8)}"
    make_bucket(radosgw, name)
    return name


async def test_what_was_stored_is_there_for_the_next_gateway(
    radosgw: RadosGateway, bucket: str, tmp_path: Path
) -> None:
    async with s3_store(radosgw, bucket, tmp_path / "one") as store:
        await put(store, b"one")
    async with s3_store(radosgw, bucket, tmp_path / "two") as store:
        assert await content_of(store, uri()) == b"one"
        assert await store.bytes_used() == 3


async def test_a_large_one_goes_up_in_parts_and_nothing_stays_on_the_node(
    radosgw: RadosGateway, bucket: str, tmp_path: Path
) -> None:
    content = os.urandom(PARTS_BYTES)
    async with s3_store(radosgw, bucket, tmp_path / "staging", LARGE) as store:
        assert (await put(store, content)).sha256 == hashlib.sha256(content).hexdigest()
        assert await content_of(store, uri()) == content
        assert await content_of(store, uri(), PARTS_BYTES - 9, PARTS_BYTES) == content[-9:]
    assert [path for path in (tmp_path / "staging").rglob("*") if path.is_file()] == []


async def test_two_gateways_at_once_leave_one_name(
    radosgw: RadosGateway, bucket: str, tmp_path: Path
) -> None:
    async with (
        s3_store(radosgw, bucket, tmp_path / "one") as one,
        s3_store(radosgw, bucket, tmp_path / "two") as two,
    ):
        await put(one, b"one")
        with pytest.raises(BsfgError) as error:
            await put(two, b"two")
        assert error.value.code is Code.CONFLICTING_DUPLICATE
        assert await content_of(two, uri()) == b"one"


async def test_a_name_is_created_and_never_replaced(radosgw: RadosGateway, bucket: str) -> None:
    backend = s3_backend(radosgw, bucket)
    name = name_digest(uri())
    assert await backend.create_name(name, b"first")
    assert not await backend.create_name(name, b"second")
    assert await backend.read_name(name) == b"first"


async def test_an_address_for_a_peer_leads_to_the_bytes_and_to_nothing_else(
    radosgw: RadosGateway, bucket: str, tmp_path: Path
) -> None:
    backend = s3_backend(radosgw, bucket)
    async with s3_store(radosgw, bucket, tmp_path / "staging") as store:
        await put(store, b"one")
        found = await store.find(uri())
    assert found is not None
    address = await backend.presigned(found, 60)
    assert address.startswith(f"{radosgw.endpoint}/{bucket}/objects/")
    assert radosgw.secret_key not in address
    assert get(address) == (200, b"one")
    assert get(address.replace(found.reference.sha256, "0" * 64))[0] == 403


async def test_bytes_without_a_name_stay_while_they_may_be_on_their_way(
    radosgw: RadosGateway, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with s3_store(radosgw, bucket, tmp_path / "one") as store:
        await put(store, b"one")
    backend = s3_backend(radosgw, bucket)
    await backend.remove_name(name_digest(uri()))
    async with s3_store(radosgw, bucket, tmp_path / "two") as store:
        assert await store.bytes_used() == 0
        assert await store.has(reference(b"one").sha256)
    monkeypatch.setattr(s3_artifacts, "LEFTOVER_SECONDS", -10)
    async with s3_store(radosgw, bucket, tmp_path / "three") as store:
        assert await store.bytes_used() == 0
        assert not await store.has(reference(b"one").sha256)


async def test_a_bucket_that_is_not_there_is_named(radosgw: RadosGateway, tmp_path: Path) -> None:
    async with s3_store(radosgw, "no-such-bucket", tmp_path / "staging") as store:
        for asked in (store.find(uri()), put(store, b"one")):
            with pytest.raises(SubstrateUnavailable, match="no bucket no-such-bucket"):
                await asked


async def test_wrong_keys_are_refused_and_not_shown(radosgw: RadosGateway, bucket: str) -> None:
    keys = S3Keys(radosgw.access_key, "wrong-secret-key")
    backend = S3Artifacts(S3Place(radosgw.endpoint, REGION, bucket), keys)
    with pytest.raises(SubstrateUnavailable) as error:
        await backend.create_name("0" * 64, b"x")
    assert "wrong-secret-key" not in error.value.message
    assert "wrong-secret-key" not in repr(keys)


async def test_a_server_that_is_away_is_named_in_time_and_what_was_written_stays(
    radosgw: RadosGateway, bucket: str, tmp_path: Path
) -> None:
    async with s3_store(radosgw, bucket, tmp_path / "staging") as store:
        writing = await store.begin(OWN, resume=reference(b"one"))
        await writing.write(b"one")
        store._backend = S3Artifacts(S3Place("http://127.0.0.1:1", REGION, bucket), S3Keys("a", "b"))
        with pytest.raises(SubstrateUnavailable, match=r"127\.0\.0\.1:1"):
            await writing.finish(uri(), media_type=None, expected=None)
        await writing.keep()
    backend = s3_backend(radosgw, bucket)
    again = open_s3_artifacts(
        backend, tmp_path / "staging", OWN, lambda: LARGE, SystemClock(), list[str]().append
    )
    again.open()
    writing = await again.begin(OWN, resume=reference(b"one"))
    assert writing.size == 3
    await writing.finish(uri(), media_type=None, expected=reference(b"one"))
    assert await content_of(again, uri()) == b"one"
    await again.close()


# Keys


def test_keys_come_from_their_file(tmp_path: Path) -> None:
    path = tmp_path / "credentials"
    path.write_text("[plant]\naws_access_key_id = AK%IA\naws_secret_access_key = se=cr%et\n")
    assert read_keys(path, {}) == S3Keys("AK%IA", "se=cr%et", None)


def test_keys_come_from_the_environment_where_no_file_is_named() -> None:
    environment = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_SESSION_TOKEN": "c"}
    assert read_keys(None, environment) == S3Keys("a", "b", "c")


@pytest.mark.parametrize(
    "text", ["", "[default]\naws_access_key_id = a\n", "aws_access_key_id = a\n", "[x]\n[x]\n", "\udcff"]
)
def test_a_file_without_keys_is_an_error_and_nothing_else_is_asked(tmp_path: Path, text: str) -> None:
    path = tmp_path / "credentials"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(BsfgError) as error:
        read_keys(path, {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"})
    assert error.value.code is Code.CONFIGURATION


def test_a_proxy_of_the_environment_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")
    S3Artifacts(S3Place("http://127.0.0.1:1", REGION, "bucket"), S3Keys("a", "b"))
    assert "https_proxy" not in os.environ


def test_staging_is_for_its_owner_alone(tmp_path: Path) -> None:
    backend = S3Artifacts(S3Place("http://127.0.0.1:1", REGION, "bucket"), S3Keys("a", "b"))
    open_s3_artifacts(backend, tmp_path / "staging", OWN, lambda: LARGE, SystemClock(), list[str]().append)
    assert stat.S_IMODE((tmp_path / "staging").stat().st_mode) == 0o700
