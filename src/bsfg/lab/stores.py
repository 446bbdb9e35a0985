"""What a zone's NATS really holds, read by nats-py with the lab's credentials and not by BSFG's own code."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import nats
import nats.errors
import nats.js.errors
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from bsfg.errors import BsfgError, Code, SubstrateUnavailable
from bsfg.lab.processes import LabZone
from bsfg.model.fact import ORIGIN_HEADER, Origin, parse_origin

CONNECT_SECONDS: Final = 3
REFUSAL_SECONDS: Final = 1.0
READ_BATCH: Final = 500
READ_SECONDS: Final = 10.0
CONSUMER_IDLE_SECONDS: Final = 30.0
STALE_SEQUENCE: Final = 10071
"""JetStream's error code for an append whose expected last sequence is not the stream's."""
_TIME_TOKEN: Final = 7
_SEQUENCE_TOKEN: Final = 5


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """One message of a JetStream stream."""

    sequence: int
    subject: str
    time: int
    """When this stream stored it, nanoseconds since 1970."""
    headers: tuple[tuple[str, str], ...]
    payload: bytes

    @property
    def origin(self) -> Origin:
        """Its coordinates at the sender; ValueError for a message that has none."""
        return parse_origin(dict(self.headers).get(ORIGIN_HEADER, ""))


@dataclass(frozen=True, slots=True)
class StreamState:
    messages: int
    last_sequence: int
    created: str


@dataclass(slots=True)
class Store:
    """One zone's NATS as one of its users sees it."""

    client: Client
    refusals: list[str]
    """What the server has refused this user, in its own words."""
    refused: asyncio.Event
    """Set with each refusal."""

    async def state(self, stream: str) -> StreamState:
        found = await self.client.jetstream().stream_info(stream)
        created = found.created.isoformat() if found.created else ""
        return StreamState(found.state.messages, found.state.last_seq, created)

    async def from_beginning(self, stream: str) -> JetStreamContext.PullSubscription:
        """A reader of a stream from its first message on; unsubscribe it in the end."""
        jetstream = self.client.jetstream()
        config = ConsumerConfig(
            ack_policy=AckPolicy.NONE,
            deliver_policy=DeliverPolicy.ALL,
            mem_storage=True,
            inactive_threshold=CONSUMER_IDLE_SECONDS,
        )
        consumer = await jetstream.add_consumer(stream, config)
        return await jetstream.pull_subscribe_bind(consumer=consumer.name, stream=stream)

    async def read_all(self, stream: str) -> list[StoredMessage]:
        """Every message of a stream, in order."""
        expected = (await self.state(stream)).messages
        subscription = await self.from_beginning(stream)
        messages: list[StoredMessage] = []
        try:
            while len(messages) < expected:
                wanted = min(READ_BATCH, expected - len(messages))
                fetched = await subscription.fetch(wanted, timeout=READ_SECONDS)
                messages += [
                    _stored(each.reply, each.subject, each.headers or {}, each.data) for each in fetched
                ]
        except nats.errors.TimeoutError:
            raise SubstrateUnavailable(
                f"reading {stream}: {len(messages)} of {expected} messages came within {READ_SECONDS:.0f} s"
            ) from None
        finally:
            await subscription.unsubscribe()
        return messages

    async def last(self, stream: str) -> StoredMessage:
        """The newest message of a stream, its time left out; ``not_found`` if it was deleted."""
        sequence = (await self.state(stream)).last_sequence
        try:
            found = await self.client.jetstream().get_msg(stream, sequence)
        except nats.js.errors.NotFoundError:
            raise BsfgError(Code.NOT_FOUND, f"message {sequence}, the last of {stream}, is gone") from None
        headers = tuple((found.headers or {}).items())
        return StoredMessage(sequence, found.subject or "", 0, headers, found.data or b"")

    async def delete(self, stream: str, sequence: int) -> None:
        """Remove one message."""
        await self.client.jetstream().delete_msg(stream, sequence)

    async def publish(self, to: str, payload: bytes, headers: dict[str, str] | None = None) -> int:
        """Publish and wait for JetStream's word; the sequence."""
        acknowledged = await self.client.jetstream().publish(
            to, payload, headers=headers, timeout=READ_SECONDS
        )
        return acknowledged.seq

    async def refused_append(self, to: str, payload: bytes, headers: dict[str, str]) -> int | None:
        """Try to append; JetStream's error code, or None if it took the message."""
        try:
            await self.publish(to, payload, headers)
        except nats.js.errors.APIError as error:
            return error.err_code
        return None

    async def is_refused_publish(self, to: str, payload: bytes) -> str | None:
        """Try a plain publish; the server's words if it refused it, else None."""
        self.refused.clear()
        self.refusals.clear()
        await self.client.publish(to, payload)
        # The refusal precedes the answer to the flush on the wire, but is told by a task of its own.
        await self.client.flush(timeout=CONNECT_SECONDS)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.refused.wait(), REFUSAL_SECONDS)
        return self.refusals[0] if self.refusals else None


@asynccontextmanager
async def opened(zone: LabZone, seed: Path) -> AsyncIterator[Store]:
    """A zone's NATS as the user of this seed; raises ``unavailable`` if it can't be reached or refuses the seed."""
    refusals: list[str] = []
    refused = asyncio.Event()

    async def note(error: Exception) -> None:
        refusals.append(str(error))
        refused.set()

    try:
        client = await nats.connect(
            zone.nats,
            nkeys_seed=str(seed),
            allow_reconnect=False,
            connect_timeout=CONNECT_SECONDS,
            error_cb=note,
        )
    except (OSError, nats.errors.Error) as error:
        raise BsfgError(Code.UNAVAILABLE, f"cannot log in to {zone.nats} with {seed}: {error}") from error
    try:
        yield Store(client, refusals, refused)
    finally:
        await client.close()


def _stored(reply: str, subject: str, headers: dict[str, str], payload: bytes) -> StoredMessage:
    """A delivered message; its place and time are in the subject that acknowledges it."""
    tokens = reply.split(".")
    return StoredMessage(
        int(tokens[_SEQUENCE_TOKEN]), subject, int(tokens[_TIME_TOKEN]), tuple(headers.items()), payload
    )
