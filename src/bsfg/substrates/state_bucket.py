"""A key-value bucket of JetStream for the gateway's own small records.

Every value is read from the stream's leader by sequence of storage, never by a direct get, which any replica may
answer with what it had a while ago.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from bsfg.errors import BsfgError, Code, SubstrateUnavailable
from bsfg.substrates.control import Control, answer_of
from bsfg.substrates.jetstream_answers import stored_message
from bsfg.substrates.stream_configs import bucket_config

EXPECTED_REVISION: Final = "Nats-Expected-Last-Subject-Sequence"
DELETED: Final[Mapping[str, str]] = {"KV-Operation": "DEL"}
_OPERATION_LINE: Final = b"\r\nKV-Operation: "


class StateBucket:
    """One bucket with history 1 on disk; it is made when it is first written to."""

    def __init__(self, control: Control, bucket: str, *, replicas: int) -> None:
        self._control = control
        self._bucket = bucket
        self._replicas = replicas

    async def get(self, key: str) -> bytes | None:
        """The value; None if there is none or it was deleted."""
        return (await self.entry(key))[0]

    async def entry(self, key: str) -> tuple[bytes | None, int]:
        """The value, None if there is none or it was deleted, and its revision, 0 if there never was one."""
        try:
            answer = await self._control.api(
                f"STREAM.MSG.GET.KV_{self._bucket}", {"last_by_subj": self._subject(key)}
            )
        except BsfgError as error:
            if error.code is Code.NOT_FOUND:
                return None, 0
            raise
        message = stored_message(answer["message"])
        return None if _OPERATION_LINE in message.headers else message.payload, message.sequence

    async def put(self, key: str, value: bytes, revision: int | None = None) -> int:
        """The value is durable on return, and its revision is returned.

        Raises ``Fenced`` if the value there has another revision than this one; None stands for any.
        """
        headers = None if revision is None else {EXPECTED_REVISION: str(revision)}
        return await self._write(key, value, headers)

    async def delete(self, key: str) -> None:
        """The deletion is durable on return; nothing happens where there is no value."""
        if await self.get(key) is not None:
            await self._write(key, b"", DELETED)

    async def erase(self, key: str) -> None:
        """The key is gone durably as if it had never had a value, its revision with it."""
        try:
            await self._control.api(f"STREAM.PURGE.KV_{self._bucket}", {"filter": self._subject(key)})
        except BsfgError as error:
            if error.code is not Code.NOT_FOUND:
                raise

    async def keys(self) -> list[str]:
        """Every key that ever had a value, in order; some may be deleted by now."""
        try:
            answer = await self._control.api(
                f"STREAM.INFO.KV_{self._bucket}", {"subjects_filter": f"$KV.{self._bucket}.>"}
            )
        except BsfgError as error:
            if error.code is Code.NOT_FOUND:
                return []
            raise
        found: dict[str, Any] = answer["state"].get("subjects") or {}
        return sorted(subject.removeprefix(self._subject("")) for subject in found)

    async def _write(self, key: str, value: bytes, headers: Mapping[str, str] | None) -> int:
        subject = self._subject(key)
        try:
            message = await self._control.request(subject, value, headers=headers)
        except SubstrateUnavailable as error:
            if not error.details.get("no_responders"):
                raise
            # No stream listens to the subject: the bucket was never made, or has been deleted.
            config = bucket_config(self._bucket, self._replicas)
            await self._control.api(f"STREAM.CREATE.{config['name']}", config)
            message = await self._control.request(subject, value, headers=headers)
        answer = answer_of(f"put {self._bucket} {key}", message.data)
        if answer.get("stream") != f"KV_{self._bucket}":
            raise SubstrateUnavailable(f"put {self._bucket} {key}: acknowledged by stream {answer.get('stream')}")
        return int(answer["seq"])

    def _subject(self, key: str) -> str:
        return f"$KV.{self._bucket}.{key}"
