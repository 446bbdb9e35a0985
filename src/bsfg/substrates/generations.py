"""The generations of inbound streams: which exist, which is being built, and what each holds (contract, section 2).

A link's history is never rewritten in place. A new generation is a stream beside the one in force, marked as being
built until it is complete; what it is to become stands in a plan that outlives the gateway. The link record in
``bsfg_links`` alone decides which generation is in force.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

import msgspec

from bsfg.errors import BsfgError, Code
from bsfg.model.cursor import Cursor, Init, LinkName, LinkRecord
from bsfg.model.fact import digest
from bsfg.model.moment import NANOSECONDS
from bsfg.model.names import inbound_physical, link_key, parse_stream, parse_zone
from bsfg.ports import InboundLog
from bsfg.substrates.control import Control
from bsfg.substrates.epochs import write_metadata
from bsfg.substrates.inbound_log import BUCKET_BUILDS, BUILDING_KEY, JetStreamInboundLog, is_building
from bsfg.substrates.inbound_tip import origin_fact
from bsfg.substrates.jetstream_answers import is_no_message, stored_message
from bsfg.substrates.local_messages import local_message, pull_frames
from bsfg.substrates.nats_connection import NatsConnection
from bsfg.substrates.nats_stream_api import StoredMessage
from bsfg.substrates.state_bucket import StateBucket

VERSION: Final = 1
PAGE_BYTES: Final = 1024 * 1024
INACTIVE_SECONDS: Final = 30
EPOCHS_KEY: Final = "bsfg_past_epochs"
"""Metadata of an inbound stream: the epochs whose facts it holds beside those of the present one."""
EPOCHS_MAX: Final = 32
FOREIGN_MAX: Final = 100
"""Messages in a row that somebody else wrote, before a search gives up."""
_PLAN_PREFIX: Final = "plan."
_RECORD_PREFIX: Final = "record."


@dataclass(frozen=True, slots=True)
class Kept:
    """What a generation that is being built takes over from another one instead of fetching it."""

    generation: int
    """Where the facts are."""
    through: int
    """The last sequence of the origin that was compared; all behind it is fetched."""
    damaged: tuple[tuple[int, int], ...]
    """What is fetched, too: ranges of the origin's sequences, both ends included."""
    left_out: tuple[int, ...] = ()
    """What the sender does not have."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a generation that is being built shall hold: everything from a sequence of the sender's present epoch on."""

    generation: int
    purpose: str
    """``rewind``, and what else is built the same way."""
    epoch: str
    start_sequence: int
    reason: str
    began: int
    """Nanoseconds since 1970."""
    resolved_at: int
    """The sender's time when the start was looked up."""
    accepts_differences: bool = False
    """Whether it may come into force even where its facts differ from those of the generation before."""
    kept: Kept | None = None
    """None where everything is fetched."""

    def record(self, created: str) -> LinkRecord:
        """The link record that the generation begins with."""
        init = Init(
            mode=f"sequence:{self.start_sequence}",
            timestamp=None,
            justification=self.reason,
            epoch=self.epoch,
            start_sequence=self.start_sequence,
            resolved_at=self.resolved_at,
        )
        return LinkRecord(
            self.generation, created, 0, Cursor(self.epoch, None, None, self.start_sequence - 1), init
        )


class InboundFact(NamedTuple):
    """One message of a generation by its coordinates at the origin, which are None where somebody else wrote it."""

    local_sequence: int
    epoch: str | None
    sequence: int | None
    digest: str | None


@dataclass(frozen=True, slots=True)
class GenerationRow:
    """One generation as operators see it."""

    generation: int
    jetstream: str
    is_building: bool
    created: str
    messages: int
    bytes: int
    first_sequence: int
    last_sequence: int


class _StoredPlan(msgspec.Struct):
    version: Literal[1]
    highest: int
    """No number is used twice: a server may keep files of a deleted stream for a while."""
    plan: Plan | None


class JetStreamGenerations:
    """Every generation of every link, over ``control`` and, for reading, connections of their own."""

    def __init__(
        self,
        control: Control,
        connect: Callable[[], Awaitable[NatsConnection]],
        inbound: JetStreamInboundLog,
        *,
        replicas: int,
        report: Callable[[str], None],
    ) -> None:
        self._control = control
        self._connect = connect
        self._bucket = StateBucket(control, BUCKET_BUILDS, replicas=replicas)
        self._report = report
        self.inbound = inbound

    # Plans.

    async def plans(self) -> dict[LinkName, Plan]:
        """Every generation that somebody wanted and that is not complete yet."""
        found = {}
        for key in await self._bucket.keys():
            link = _planned_link(key)
            stored = None if link is None else await self._stored(link)
            if link is not None and stored is not None and stored.plan is not None:
                found[link] = stored.plan
        return found

    async def plan(self, link: LinkName) -> Plan | None:
        stored = await self._stored(link)
        return stored.plan if stored else None

    async def next_number(self, link: LinkName) -> int:
        """A number that no generation of this link ever had."""
        stored, record = await self._stored(link), await self.inbound.record(link)
        existing = await self.inbound.generations(link)
        known = [*existing, stored.highest if stored else 0, record.generation if record else 0]
        return max(known) + 1

    async def save_plan(self, link: LinkName, plan: Plan) -> None:
        """The plan is durable on return."""
        await self._put(link, _StoredPlan(VERSION, plan.generation, plan))

    async def end_plan(self, link: LinkName) -> None:
        """Nothing is being built any more, durably; the numbers that were used stay known."""
        stored = await self._stored(link)
        if stored is not None:
            await self._put(link, _StoredPlan(VERSION, stored.highest, None))
        await self._bucket.delete(_RECORD_PREFIX + link_key(link.peer, link.stream))

    async def _stored(self, link: LinkName) -> _StoredPlan | None:
        value = await self._bucket.get(_PLAN_PREFIX + link_key(link.peer, link.stream))
        if value is None:
            return None
        try:
            return msgspec.json.decode(value, type=_StoredPlan)
        except ValueError as error:
            self._report(f"plan of {link} in {BUCKET_BUILDS} can't be read: {error}")
            return None

    async def _put(self, link: LinkName, stored: _StoredPlan) -> None:
        await self._bucket.put(_PLAN_PREFIX + link_key(link.peer, link.stream), msgspec.json.encode(stored))

    # Streams.

    async def open(self, link: LinkName, plan: Plan) -> JetStreamInboundLog:
        """The log of the generation that is being built; its stream exists, and its record says where it starts."""
        log = self.inbound.building(plan.generation)
        await begin_log(log, link, plan)
        return log

    async def complete(self, link: LinkName, generation: int) -> None:
        """The generation is no longer marked as being built, durably; it is in force only by the link record."""
        found = await self._control.api(f"STREAM.INFO.{inbound_physical(link.peer, link.stream, generation)}")
        await write_metadata(self._control, found, {BUILDING_KEY: "no"})

    async def rows(self, link: LinkName) -> list[GenerationRow]:
        """Every generation of the link that exists, in order."""
        return [await self._row(link, generation) for generation in await self.inbound.generations(link)]

    async def _row(self, link: LinkName, generation: int) -> GenerationRow:
        name = inbound_physical(link.peer, link.stream, generation)
        found = await self._control.api(f"STREAM.INFO.{name}")
        state = found["state"]
        return GenerationRow(
            generation=generation,
            jetstream=name,
            is_building=is_building(found),
            created=found["created"],
            messages=state["messages"],
            bytes=state["bytes"],
            first_sequence=state["first_seq"],
            last_sequence=state["last_seq"],
        )

    async def drop(self, link: LinkName, generation: int) -> None:
        """The generation is gone with all that it held; one that is not there is gone already."""
        try:
            await self._control.api(f"STREAM.DELETE.{inbound_physical(link.peer, link.stream, generation)}")
        except BsfgError as error:
            if error.code is not Code.NOT_FOUND:
                raise

    async def forget(self, link: LinkName) -> None:
        """The link is as one that never was: for one that is no longer configured and has no generation left."""
        await self.inbound.forget(link)

    # Epochs of one generation.

    async def past_epochs(self, link: LinkName, generation: int) -> list[str]:
        """The epochs that the generation holds facts of and that its link has left."""
        found = await self._control.api(f"STREAM.INFO.{inbound_physical(link.peer, link.stream, generation)}")
        return _past_epochs(found)

    async def leave_epoch(self, link: LinkName, generation: int, epoch: str) -> None:
        """From now on the generation is known to hold facts of an epoch that its link leaves; durable on return."""
        found = await self._control.api(f"STREAM.INFO.{inbound_physical(link.peer, link.stream, generation)}")
        past = _past_epochs(found)
        if epoch not in past:
            kept = [*past, epoch][-EPOCHS_MAX:]
            await write_metadata(self._control, found, {EPOCHS_KEY: " ".join(kept)})

    # Facts.

    async def facts(
        self, link: LinkName, generation: int, from_sequence: int, count: int
    ) -> list[InboundFact]:
        """At most ``count`` messages from a local sequence on, with coordinates and digest; empty at the end."""
        name = inbound_physical(link.peer, link.stream, generation)
        connection = await self._connect()
        try:
            frames = await self._frames(connection, name, from_sequence, count)
        finally:
            connection.close()
        # Hashing a page takes a while, and no link may wait for it.
        return await asyncio.to_thread(lambda: [_inbound_fact(frame, link, generation) for frame in frames])

    async def _frames(
        self, connection: NatsConnection, name: str, from_sequence: int, count: int
    ) -> list[Any]:
        consumer = f"bsfg-{secrets.token_hex(8)}"
        config = {
            "name": consumer,
            "ack_policy": "none",
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": max(1, from_sequence),
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": INACTIVE_SECONDS * NANOSECONDS,
        }
        body = {"stream_name": name, "config": config}
        await self._control.api(f"CONSUMER.CREATE.{name}.{consumer}", body)
        try:
            return await pull_frames(
                connection, name, consumer, count=count, bytes_max=PAGE_BYTES, wait_seconds=0.0
            )
        finally:
            await self._control.api(f"CONSUMER.DELETE.{name}.{consumer}")

    async def first_at(self, link: LinkName, generation: int, epoch: str, sequence: int) -> int:
        """The local sequence from which on the generation holds facts of its last epoch at an origin sequence or later.

        One behind the last message where there is none.
        """
        found = await self._control.api(f"STREAM.INFO.{inbound_physical(link.peer, link.stream, generation)}")
        low, high = max(1, int(found["state"]["first_seq"])), int(found["state"]["last_seq"]) + 1
        while low < high:
            middle = (low + high) // 2
            fact = await self._own_from(link, generation, middle)
            if fact is None or (fact.epoch == epoch and (fact.sequence or 0) >= sequence):
                high = middle
            else:
                low = fact.local_sequence + 1
        return low

    async def _own_from(self, link: LinkName, generation: int, sequence: int) -> InboundFact | None:
        """The first message from a local sequence on that this gateway wrote."""
        name = inbound_physical(link.peer, link.stream, generation)
        for _ in range(FOREIGN_MAX):
            message = await self._message_from(name, sequence)
            if message is None:
                return None
            fact = coordinates(message, link, generation)
            if fact.epoch is not None:
                return fact
            sequence = message.sequence + 1
        return None

    async def _message_from(self, name: str, sequence: int) -> StoredMessage | None:
        question = {"seq": sequence, "next_by_subj": ">"}
        try:
            answer = await self._control.api(f"STREAM.MSG.GET.{name}", question)
        except BsfgError as error:
            if is_no_message(error):
                return None
            raise
        return stored_message(answer["message"])


async def begin_log(log: InboundLog, link: LinkName, plan: Plan) -> None:
    """The stream of what is being built exists, and its record says where it starts; what has begun stays as it is."""
    await log.provision(link)
    position = await log.locate(link)
    if position.record is None and position.fence.local_sequence == 0:
        await log.save_record(link, plan.record(position.fence.created))


def _planned_link(key: str) -> LinkName | None:
    """The link whose plan stands under this key; None for any other key."""
    if not key.startswith(_PLAN_PREFIX):
        return None
    peer, _, stream = key.removeprefix(_PLAN_PREFIX).partition(".")
    try:
        return LinkName(parse_zone(peer), parse_stream(stream))
    except BsfgError:
        return None


def _past_epochs(stream_info: dict[str, Any]) -> list[str]:
    return str((stream_info["config"].get("metadata") or {}).get(EPOCHS_KEY, "")).split()


def _inbound_fact(frame: Any, link: LinkName, generation: int) -> InboundFact:
    seen = local_message(frame)
    message = StoredMessage(
        seen["local_sequence"], seen["subject"], seen["time"], frame.header, frame.payload
    )
    return coordinates(message, link, generation)


def coordinates(message: StoredMessage, link: LinkName, generation: int) -> InboundFact:
    """A message by its coordinates at the origin; None for each where this gateway did not write it."""
    try:
        origin, fact = origin_fact(message, link, generation)
    except ValueError:
        return InboundFact(message.sequence, None, None, None)
    return InboundFact(message.sequence, origin.epoch, origin.sequence, digest(fact))
