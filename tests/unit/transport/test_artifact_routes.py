"""``/v1/artifacts`` over real TLS: who gets what, which part of it, how fast, and for how long."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from tests.support.artifacts import file_store, put, uri
from tests.support.peer_zones import OPERATIONAL, PLANT, Pki, Said, Sender, say, sending, session

from bsfg.model.policy import PeerPolicy
from bsfg.ports import StoredArtifact
from bsfg.substrates.artifact_catalog import ArtifactQuotas
from bsfg.substrates.staged_artifacts import StagedArtifactStore
from bsfg.transport import listener as listener_module
from bsfg.transport.artifact_routes import PIECE_BYTES_MAX, ArtifactRoutes

BUCKET = "enterprise-artifacts"
CONTENT = bytes(range(256)) * 2_000
URI = str(uri("2025/001/batch-123.json", bucket=BUCKET))
LARGE = 24 * 1024 * 1024
CHANGE_SECONDS_MAX = 5.0


@dataclass
class Serving:
    """A listener with artifacts, and what its address for peers is made by."""

    sender: Sender
    store: StagedArtifactStore
    presign: Callable[[StoredArtifact], Any] | None = None

    async def ask(self, address: str | None = URI, method: str = "GET", **named: Any) -> Said:
        params = named.pop("params", {} if address is None else {"uri": address})
        async with session(self.sender) as client:
            return await say(client, method, "/v1/artifacts", params=params, **named)


def allowed(*types: str) -> PeerPolicy:
    return PeerPolicy(PLANT, True, frozenset({OPERATIONAL}), frozenset(types))


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki(tmp_path_factory.mktemp("pki"))


@asynccontextmanager
async def serving(pki: Pki, folder: Path, rate: int = 1_024, streams: int = 4) -> AsyncIterator[Serving]:
    async with file_store(folder / "artifacts", ArtifactQuotas(10**9, 10**9)) as store:
        made: list[Serving] = []
        routes = ArtifactRoutes(store, BUCKET, streams, rate, lambda: made[0].presign)
        async with sending(pki, extra_routes=routes.routes()) as sender:
            sender.access.swap(policies={PLANT: allowed("batch-files", "documents")})
            made.append(Serving(sender, store))
            yield made[0]


@pytest.fixture
async def served(pki: Pki, tmp_path: Path) -> AsyncIterator[Serving]:
    async with serving(pki, tmp_path) as running:
        await put(running.store, CONTENT, uri(bucket=BUCKET))
        yield running


def digest_header(content: bytes) -> str:
    return "sha-256=" + base64.b64encode(hashlib.sha256(content).digest()).decode()


# What is sent


async def test_an_allowed_artifact_comes_whole_with_its_digest(served: Serving) -> None:
    said = await served.ask()
    assert (said.status, said.body) == (200, CONTENT)
    assert said.headers["Content-Length"] == str(len(CONTENT))
    assert said.headers["Digest"] == digest_header(CONTENT)
    assert said.headers["Content-Type"] == "application/json"
    assert said.headers["Accept-Ranges"] == "bytes"
    assert "Server" not in said.headers


async def test_its_head_comes_without_it(served: Serving) -> None:
    said = await served.ask(method="HEAD")
    assert (said.status, said.body) == (200, b"")
    assert said.headers["Content-Length"] == str(len(CONTENT))
    assert said.headers["Digest"] == digest_header(CONTENT)


async def test_an_empty_one_is_one_too(served: Serving) -> None:
    await put(served.store, b"", uri("empty", bucket=BUCKET))
    said = await served.ask(str(uri("empty", bucket=BUCKET)))
    assert (said.status, said.body, said.headers["Content-Length"]) == (200, b"", "0")


@pytest.mark.parametrize(
    ("header", "start", "end"),
    [("bytes=0-9", 0, 10), ("bytes=500000-", 500_000, 512_000), ("bytes=-7", 511_993, 512_000)],
)
async def test_a_part_is_sent_as_a_part(served: Serving, header: str, start: int, end: int) -> None:
    said = await served.ask(headers={"Range": header})
    assert (said.status, said.body) == (206, CONTENT[start:end])
    assert said.headers["Content-Range"] == f"bytes {start}-{end - 1}/{len(CONTENT)}"
    assert said.headers["Content-Length"] == str(end - start)
    assert said.headers["Digest"] == digest_header(CONTENT)


@pytest.mark.parametrize("header", ["bytes=9-1", "bytes=0-1,3-4", "bytes=512000-", "bytes=x-"])
async def test_a_part_that_is_none_is_refused_with_the_size(served: Serving, header: str) -> None:
    said = await served.ask(headers={"Range": header})
    assert (said.status, said.code) == (416, "invalid_request")
    assert said.headers["Content-Range"] == f"bytes */{len(CONTENT)}"


async def test_a_part_of_other_bytes_is_the_whole(served: Serving) -> None:
    etag = (await served.ask(method="HEAD")).headers["Etag"]
    same = await served.ask(headers={"Range": "bytes=0-9", "If-Range": etag})
    other = await served.ask(headers={"Range": "bytes=0-9", "If-Range": '"other"'})
    assert (same.status, other.status, other.body) == (206, 200, CONTENT)


# Who gets what


@pytest.mark.parametrize(
    "address",
    [
        "http://enterprise-artifacts/batch-files/x",
        "S3://enterprise-artifacts/batch-files/x",
        "s3://user@enterprise-artifacts/batch-files/x",
        "s3://enterprise-artifacts:80/batch-files/x",
        "s3://enterprise-artifacts/batch-files/x?versionId=1",
        "s3://enterprise-artifacts/batch-files/x#part",
        "s3://enterprise-artifacts/batch-files/../documents/x",
        "s3://enterprise-artifacts/batch-files/%2e%2e/x",
        "s3://enterprise-artifacts/batch-files/%252e%252e/x",
        "s3://enterprise-artifacts/batch-files/./x",
        "s3://enterprise-artifacts/batch-files//x",
        "s3://enterprise-artifacts/batch-files/",
        "s3://enterprise-artifacts/batch-files",
        "s3:///batch-files/x",
        "s3://enterprise-artifacts/batch-files/a\\b",
        "s3://enterprise-artifacts/batch-files/a\x00b",
        "s3://enterprise-artifacts/batch-files/a\nb",
        "s3://enterprise-artifacts/batch-files/a\u0085b",
        "s3://enterprise-artifacts/batch-files/" + "k" * 1_024,
        "",
    ],
)
async def test_what_is_no_artifact_uri_is_refused_as_that(served: Serving, address: str) -> None:
    said = await served.ask(address)
    assert (said.status, said.code) == (400, "invalid_uri")


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    "address",
    [
        f"s3://{BUCKET}/secret-files/there",
        f"s3://{BUCKET}/secret-files/not-there",
        f"s3://{BUCKET}/batch-filesX/x",
        f"s3://{BUCKET}/batch-files-2/x",
        f"s3://{BUCKET}/batch/x",
        f"s3://{BUCKET}/BATCH-FILES/2025/001/batch-123.json",
        f"s3://{BUCKET}-2/batch-files/2025/001/batch-123.json",
        "s3://enterprise-artifact/batch-files/2025/001/batch-123.json",
        "s3://plant-a-artifacts/batch-files/2025/001/batch-123.json",
        "s3://enterprise-artif\u0430cts/batch-files/2025/001/batch-123.json",
    ],
)
async def test_what_is_not_allowed_looks_the_same_present_or_not(
    served: Serving, address: str, method: str
) -> None:
    await put(served.store, b"secret", uri("there", "secret-files", BUCKET))
    said = await served.ask(address, method)
    assert said.status == 403
    assert b"there" not in said.body
    if method == "GET":
        other = await served.ask(f"s3://{BUCKET}/none-such/x")
        assert {**said.json()["error"], "request_id": ""} == {**other.json()["error"], "request_id": ""}
        assert said.code == "artifact_denied"


async def test_only_an_allowed_type_is_not_found(served: Serving) -> None:
    said = await served.ask(f"s3://{BUCKET}/documents/none")
    assert (said.status, said.code) == (404, "artifact_not_found")


async def test_what_is_not_written_is_denied(served: Serving) -> None:
    served.sender.access.swap(policies={PLANT: allowed()})
    assert (await served.ask()).code == "artifact_denied"


@pytest.mark.parametrize(
    ("params", "code"),
    [
        ([("uri", URI), ("uri", URI)], "invalid_uri"),
        ([], "invalid_uri"),
        ([("uri", URI), ("version", "1")], "unknown_field"),
    ],
)
async def test_there_is_one_uri_and_nothing_else(served: Serving, params: Any, code: str) -> None:
    said = await served.ask(params=params)
    assert (said.status, said.code) == (400, code)


async def test_bytes_that_are_gone_from_the_folder_are_not_found(served: Serving, tmp_path: Path) -> None:
    objects = [path for path in (tmp_path / "artifacts" / "objects").rglob("*") if path.is_file()]
    objects[0].unlink()
    assert (await served.ask()).code == "artifact_not_found"


async def test_a_link_in_the_folder_leads_nowhere(served: Serving, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(CONTENT)
    objects = [path for path in (tmp_path / "artifacts" / "objects").rglob("*") if path.is_file()]
    objects[0].unlink()
    objects[0].symlink_to(outside)
    said = await served.ask()
    assert (said.status, said.code) == (503, "unavailable")
    assert str(tmp_path).encode() not in said.body


async def test_a_name_swapped_between_head_and_get_shows_in_its_digest(served: Serving) -> None:
    """Names don't change; even where the store's operator removes one and puts another, the answer says which it is."""
    head = await served.ask(method="HEAD")
    await served.store.remove(uri(bucket=BUCKET))
    await put(served.store, b"other", uri(bucket=BUCKET))
    said = await served.ask(headers={"Range": "bytes=3-", "If-Range": head.headers["Etag"]})
    assert (said.status, said.body) == (200, b"other")
    assert said.headers["Digest"] == digest_header(b"other") != head.headers["Digest"]


# Redirects


async def test_a_peer_is_sent_to_the_store_where_that_is_configured(served: Serving) -> None:
    async def presign(artifact: StoredArtifact) -> str:
        return f"https://objects.example/{artifact.reference.sha256}?signed"

    served.presign = presign
    said = await served.ask()
    assert said.status == 307
    assert said.headers["Location"] == f"https://objects.example/{hashlib.sha256(CONTENT).hexdigest()}?signed"
    assert said.headers["Digest"] == digest_header(CONTENT)
    assert (await served.ask(f"s3://{BUCKET}/secret-files/x")).code == "artifact_denied"
    assert (await served.ask(f"s3://{BUCKET}/documents/none")).code == "artifact_not_found"


# Shares, rates and changes


@asynccontextmanager
async def half_read(serving: Serving, path: str) -> AsyncIterator[asyncio.StreamReader]:
    """A request whose answer's head has been read, and nothing of its body."""
    context = ssl.create_default_context(cafile=str(serving.sender.pki.enterprise_ca.path))
    context.check_hostname = False
    own = serving.sender.pki.plant
    context.load_cert_chain(own.certificate_path, own.key_path)
    reader, writer = await asyncio.open_connection("127.0.0.1", serving.sender.port, ssl=context, limit=4_096)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert b" 200 " in await reader.readline()
    try:
        yield reader
    finally:
        writer.transport.abort()


async def ended(served: Serving, began: float) -> float:
    """How long it took until the answer that was under way ended on the listener's side."""
    while not any(operation == "artifacts" for _, operation, _ in served.sender.heard.answers):
        assert time.monotonic() - began < 15, "the answer never ended"
        await asyncio.sleep(0.02)
    return time.monotonic() - began


LARGE_PATH = f"/v1/artifacts?uri=s3://{BUCKET}/batch-files/large"


async def test_who_reads_too_slowly_is_ended(pki: Pki, tmp_path: Path) -> None:
    async with serving(pki, tmp_path, rate=PIECE_BYTES_MAX) as slow:
        await put(slow.store, bytes(LARGE), uri("large", bucket=BUCKET))
        async with half_read(slow, LARGE_PATH) as reader:
            began = time.monotonic()
            while not slow.sender.heard.answers:
                assert time.monotonic() - began < 15, "one byte a second was enough"
                await asyncio.sleep(0.25)
                await reader.read(1)
        assert (await slow.ask(f"s3://{BUCKET}/batch-files/large")).body == bytes(LARGE)


def narrow(sender: Sender) -> None:
    sender.access.swap(policies={PLANT: allowed("documents")})


def remove(sender: Sender) -> None:
    sender.access.swap(policies={})


def revoke(sender: Sender) -> None:
    sender.access.swap(trust=sender.pki.sender_trust(revoked=[sender.pki.plant]))


def cut_off(sender: Sender) -> None:
    sender.access.swap(partitions={PLANT: None})


async def test_what_the_store_takes_is_not_held_against_the_reader(
    pki: Pki, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(pki, tmp_path, rate=PIECE_BYTES_MAX * 5) as slow:
        await put(slow.store, CONTENT, uri(bucket=BUCKET))
        read = slow.store.read

        async def late(*words: Any) -> AsyncIterator[bytes]:
            await asyncio.sleep(0.5)
            async for piece in read(*words):
                yield piece[:1_000]
                await asyncio.sleep(0.5)
                yield piece[1_000:]

        monkeypatch.setattr(slow.store, "read", late)
        assert (await slow.ask()).body == CONTENT


@pytest.mark.parametrize("change", [narrow, remove, revoke, cut_off])
async def test_a_permission_that_ends_ends_the_answer(
    served: Serving, change: Callable[[Sender], None]
) -> None:
    await put(served.store, bytes(LARGE), uri("large", bucket=BUCKET))
    async with half_read(served, LARGE_PATH) as reader:
        await asyncio.sleep(0.2)
        assert not served.sender.heard.answers
        change(served.sender)
        assert await ended(served, time.monotonic()) < CHANGE_SECONDS_MAX
        received = 0
        with pytest.raises(OSError):
            while piece := await reader.read(65_536):
                received += len(piece)
            raise ConnectionResetError
        assert received < LARGE


async def test_a_change_for_somebody_else_ends_nothing(served: Serving) -> None:
    await put(served.store, bytes(LARGE), uri("large", bucket=BUCKET))
    async with half_read(served, LARGE_PATH) as reader:
        served.sender.access.swap(policies={PLANT: replace(allowed("batch-files"), streams=frozenset())})
        received = 0
        while received < LARGE:
            piece = await reader.read(65_536)
            assert piece, "the answer ended early"
            received += len(piece)


async def test_a_peer_has_its_share_and_no_more(pki: Pki, tmp_path: Path) -> None:
    async with serving(pki, tmp_path, streams=1) as narrow_door:
        await put(narrow_door.store, bytes(LARGE), uri("large", bucket=BUCKET))
        async with half_read(narrow_door, LARGE_PATH):
            said = await narrow_door.ask(f"s3://{BUCKET}/batch-files/large", headers={"Range": "bytes=0-0"})
            assert (said.status, said.code) == (429, "too_many")
            assert "Retry-After" in said.headers
        await ended(narrow_door, time.monotonic())
        await asyncio.sleep(0.1)
        said = await narrow_door.ask(f"s3://{BUCKET}/batch-files/large", headers={"Range": "bytes=0-0"})
        assert said.status == 206


async def test_a_long_answer_outlives_the_end_of_other_requests(
    served: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener_module, "REQUEST_SECONDS_MAX", 0.3)
    await put(served.store, bytes(LARGE), uri("large", bucket=BUCKET))
    async with half_read(served, LARGE_PATH) as reader:
        await asyncio.sleep(0.8)
        received = 0
        while received < LARGE:
            piece = await reader.read(65_536)
            assert piece, "the answer ended early"
            received += len(piece)
