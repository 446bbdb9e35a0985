"""The artifact store in an S3 bucket. What comes in is staged and checked on the node before a byte of it goes there.

``objects/<sha256>`` holds bytes, ``names/<sha256 of the URI>`` the record of one name, created only if it is not there
(``If-None-Match``). No S3 server that was tried verifies a checksum, so the content is hashed here; of an upload the
size is read back.
"""

from __future__ import annotations

import asyncio
import configparser
import os
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import S3Store

from bsfg.errors import BsfgError, Code, SubstrateUnavailable
from bsfg.model.names import ZoneId
from bsfg.ports import Clock, StoredArtifact
from bsfg.substrates.artifact_catalog import ArtifactQuotas
from bsfg.substrates.artifact_folder import ArtifactFolder
from bsfg.substrates.artifact_staging import StagedFile
from bsfg.substrates.staged_artifacts import Report, StagedArtifactStore

OBJECTS: Final = "objects"
NAMES: Final = "names"
RANGE_BYTES: Final = 4 * 1024 * 1024
PART_BYTES: Final = 8 * 1024 * 1024
PARTS_MAX: Final = 9_000
PARTS_AT_ONCE: Final = 2
NAMES_AT_ONCE: Final = 16
LEFTOVER_SECONDS: Final = 86_400
"""Bytes without a name may be another gateway's that is about to name them; after so long they are not."""
ERROR_CHARACTERS_MAX: Final = 300
_PROXIES: Final = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
_CLIENT: Final[Any] = {"connect_timeout": "3s", "timeout": "60s"}
_RETRY: Final[Any] = {
    "max_retries": 2,
    "retry_timeout": timedelta(seconds=10),
    "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=2), "base": 2},
}


@dataclass(frozen=True, slots=True)
class S3Keys:
    """What signs our requests; never shown."""

    access_key_id: str
    secret_access_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class S3Place:
    """Where the bucket is."""

    endpoint: str
    region: str
    bucket: str


def read_keys(credentials_file: Path | None, environment: Mapping[str, str]) -> S3Keys:
    """From the file, an AWS credentials file with one profile, or from the environment; nowhere else is asked."""
    names = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
    if credentials_file is None:
        where, values = "the environment", [environment.get(name.upper()) for name in names]
    else:
        where, values = str(credentials_file), _read_profile(credentials_file, names)
    if not values[0] or not values[1]:
        raise BsfgError(
            Code.CONFIGURATION,
            f"artifacts: {where} has no aws_access_key_id or no aws_secret_access_key",
            hint="name a credentials_file (0600) in zone.yaml, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        )
    return S3Keys(values[0], values[1], values[2])


def _read_profile(path: Path, names: tuple[str, ...]) -> list[str | None]:
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, configparser.Error) as error:
        raise BsfgError(
            Code.CONFIGURATION,
            f"artifacts: {path} can't be read as an AWS credentials file: {type(error).__name__}",
            hint="it looks like [default], aws_access_key_id = ..., aws_secret_access_key = ...",
        ) from None
    profile = parser.sections()[0] if parser.sections() else ""
    return [parser.get(profile, name, fallback=None) for name in names]


class S3Artifacts:
    """``ArtifactBackend`` in one bucket."""

    def __init__(self, place: S3Place, keys: S3Keys) -> None:
        # The library would take a proxy from the environment; the gateway connects to what is configured, only.
        for name in _PROXIES:
            os.environ.pop(name, None)
            os.environ.pop(name.lower(), None)
        self._place = place
        client: Any = {**_CLIENT, "allow_http": place.endpoint.startswith("http://")}
        options: dict[str, Any] = {} if keys.session_token is None else {"session_token": keys.session_token}
        self._store = S3Store(
            place.bucket,
            endpoint=place.endpoint,
            region=place.region,
            access_key_id=keys.access_key_id,
            secret_access_key=keys.secret_access_key,
            virtual_hosted_style_request=False,
            client_options=client,
            retry_config=_RETRY,
            **options,
        )

    async def presigned(self, artifact: StoredArtifact, seconds: int) -> str:
        """An address at which anybody reads these bytes, for so long."""
        with self._errors("sign"):
            key = _object(artifact.reference.sha256)
            return await obstore.sign_async(self._store, "GET", key, timedelta(seconds=seconds))

    async def read_name(self, name: str) -> bytes | None:
        with self._errors("read"):
            try:
                answer = await obstore.get_async(self._store, f"{NAMES}/{name}")
                return bytes(await answer.bytes_async())
            except FileNotFoundError as error:
                self._demand_bucket(error)
                return None

    async def create_name(self, name: str, record: bytes) -> bool:
        with self._errors("create"):
            try:
                await obstore.put_async(self._store, f"{NAMES}/{name}", record, mode="create")
            except (AlreadyExistsError, FileExistsError):
                return False
        return True

    async def remove_name(self, name: str) -> None:
        await self._remove(f"{NAMES}/{name}")

    async def names(self) -> AsyncIterator[tuple[str, bytes]]:
        async for rows in self._listed(NAMES):
            found = [row["path"].rpartition("/")[2] for row in rows]
            for first in range(0, len(found), NAMES_AT_ONCE):
                group = found[first : first + NAMES_AT_ONCE]
                for name, record in zip(
                    group, await asyncio.gather(*map(self.read_name, group)), strict=True
                ):
                    if record is not None:
                        yield name, record

    async def object_size(self, sha256: str) -> int | None:
        with self._errors("head"):
            try:
                return int((await obstore.head_async(self._store, _object(sha256)))["size"])
            except FileNotFoundError as error:
                self._demand_bucket(error)
                return None

    async def place(self, file: StagedFile, sha256: str) -> None:
        with self._errors("upload"), file.reader() as content:
            await obstore.put_async(
                self._store,
                _object(sha256),
                content,
                use_multipart=file.size > PART_BYTES,
                chunk_size=max(PART_BYTES, -(-file.size // PARTS_MAX)),
                max_concurrency=PARTS_AT_ONCE,
            )
        size = await self.object_size(sha256)
        if size != file.size:
            raise SubstrateUnavailable(
                f"artifact store {self._place.endpoint}: {size} bytes are there after an upload of {file.size}"
            )
        await asyncio.to_thread(file.remove)

    async def read_object(self, sha256: str, start: int, end: int) -> AsyncGenerator[bytes, None]:
        while start < end:
            with self._errors("read"):
                try:
                    piece = await obstore.get_range_async(
                        self._store, _object(sha256), start=start, end=min(end, start + RANGE_BYTES)
                    )
                except FileNotFoundError:
                    return
            if not piece:
                return
            start += len(piece)
            yield bytes(piece)

    async def remove_object(self, sha256: str) -> None:
        await self._remove(_object(sha256))

    async def leftovers(self) -> AsyncIterator[str]:
        oldest = time.time() - LEFTOVER_SECONDS
        async for rows in self._listed(OBJECTS):
            for row in rows:
                if row["last_modified"].timestamp() < oldest:
                    yield row["path"].rpartition("/")[2]

    async def _listed(self, part: str) -> AsyncIterator[Any]:
        with self._errors("list"):
            async for rows in obstore.list(self._store, prefix=part):
                yield rows

    async def _remove(self, key: str) -> None:
        with self._errors("remove"):
            try:
                await obstore.delete_async(self._store, key)
            except FileNotFoundError as error:
                self._demand_bucket(error)

    def _demand_bucket(self, error: Exception) -> None:
        if "NoSuchBucket" in str(error):
            raise SubstrateUnavailable(
                f"artifact store {self._place.endpoint}: there is no bucket {self._place.bucket}",
                hint="make it, with these credentials' owner, or correct artifacts.bucket in zone.yaml",
            ) from None

    @contextmanager
    def _errors(self, operation: str) -> Iterator[None]:
        try:
            yield
        except (BaseError, OSError) as error:
            self._demand_bucket(error)
            raise self._failed(operation, error) from None

    def _failed(self, operation: str, error: Exception) -> SubstrateUnavailable:
        text = " ".join(str(error).split())[:ERROR_CHARACTERS_MAX]
        return SubstrateUnavailable(f"artifact store {self._place.endpoint}: {operation} failed: {text}")


def open_s3_artifacts(
    backend: S3Artifacts,
    staging: Path,
    own_zone: ZoneId,
    quotas: Callable[[], ArtifactQuotas],
    clock: Clock,
    report: Report,
) -> StagedArtifactStore:
    """The store in the bucket, staging in this folder; not yet open."""
    return StagedArtifactStore(backend, ArtifactFolder(staging), own_zone, quotas, clock, report)


def _object(sha256: str) -> str:
    return f"{OBJECTS}/{sha256}"
