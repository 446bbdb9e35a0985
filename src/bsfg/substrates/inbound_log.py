"""The inbound streams of a zone in JetStream: one for each link and generation, written by this gateway alone."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from bsfg.errors import BsfgError, Code, Fenced, SubstrateUnavailable
from bsfg.model.cursor import Begun, Fence, LinkName, LinkRecord, LocalPosition
from bsfg.model.fact import Fact
from bsfg.model.names import (
    BUCKET_LINKS,
    ZoneId,
    inbound_consumer,
    inbound_physical,
    inbound_subject,
    link_key,
)
from bsfg.substrates.append_plan import AppendPlan, Exclusivity, plan_appends
from bsfg.substrates.begun_links import BegunLinks
from bsfg.substrates.control import Control
from bsfg.substrates.inbound_tip import Tip, read_tip
from bsfg.substrates.jetstream_answers import is_no_message, stored_message
from bsfg.substrates.nats_connection import NatsConnection
from bsfg.substrates.nats_stream_api import StoredMessage
from bsfg.substrates.page_writer import PageWriter, Strategy
from bsfg.substrates.provisioning import ensure_consumer
from bsfg.substrates.state_bucket import StateBucket
from bsfg.substrates.stored_records import decode_link, encode_link
from bsfg.substrates.stream_configs import REMOVED_KEY, inbound_config

READS_MAX: Final = 5
NAMES_MAX: Final = 1024
"""Names in one answer of STREAM.NAMES; a link has a handful of generations."""
BUCKET_BUILDS: Final = "bsfg_builds"
"""Generations that are being built: what is planned, and the link record of each (``substrates.generations``)."""
BUILDING_KEY: Final = "bsfg_building"
"""Metadata of an inbound stream: ``yes`` until the generation is complete; only then may it come into force."""

Report = Callable[[str], None]


@dataclass(slots=True)
class _Writer:
    """The writer of one link's generation, and how many appends it has under way."""

    writer: PageWriter
    generation: int
    in_flight: int = 0
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


class JetStreamInboundLog:
    """``ports.InboundLog`` over JetStream. Appends run over a connection for each link, all else over ``control``.

    ``report`` is told of link records that can't be read; they count as not there (I8). ``exclusivity`` says whether
    anybody else can publish to ``in.>`` (design, decision 3). ``begun`` remembers where links began.
    """

    def __init__(
        self,
        control: Control,
        connect: Callable[[], Awaitable[NatsConnection]],
        zone: ZoneId,
        *,
        replicas: int,
        report: Report,
        strategy: Strategy = Strategy.ATOMIC,
        exclusivity: Exclusivity = Exclusivity.NONE,
        begun: BegunLinks | None = None,
    ) -> None:
        self._control = control
        self._connect = connect
        self._zone = zone
        self._replicas = replicas
        self._report = report
        self._strategy = strategy
        self._exclusivity = exclusivity
        self._begun = begun
        self._records = StateBucket(control, BUCKET_LINKS, replicas=replicas)
        self._record_prefix = ""
        self._built: int | None = None
        self._writers: dict[LinkName, _Writer] = {}

    def building(self, generation: int) -> JetStreamInboundLog:
        """The same log bound to a generation that is being built: its link record is its own, and nothing of the one
        in force is touched. Close it when the generation is complete or given up.
        """
        bound = copy.copy(self)
        bound._records = StateBucket(self._control, BUCKET_BUILDS, replicas=self._replicas)
        bound._record_prefix = "record."
        bound._built = generation
        bound._begun = None
        bound._writers = {}
        return bound

    async def in_force(self, link: LinkName) -> int | None:
        """The generation that counts; None where the link has no complete one."""
        return await self._generation(link, await self.record(link))

    @property
    def plan(self) -> AppendPlan | None:
        """How the zone's inbound streams are appended to; None while there is no server."""
        if self._control.server_version is None:
            return None
        return plan_appends(self._strategy, self._exclusivity, has_batches=self._control.has_batches)

    def close(self) -> None:
        """Close the writers' connections; appends under way end with an error."""
        for held in self._writers.values():
            held.writer.close()
        self._writers.clear()

    async def provision(self, link: LinkName) -> None:
        """See ``ports.InboundLog.provision``."""
        record = await self.record(link)
        generation = await self._generation(link, record)
        if generation is None:
            generation = self._built or (record.generation if record else 1)
            config = inbound_config(
                link,
                self._zone,
                generation,
                self._replicas,
                atomic=self._control.has_batches,
            )
            if self._built is not None:
                config["metadata"][BUILDING_KEY] = "yes"
            await self._control.api(f"STREAM.CREATE.{config['name']}", config)
        name = inbound_physical(link.peer, link.stream, generation)
        await ensure_consumer(self._control, name, inbound_consumer(link.peer, self._zone))

    async def locate(self, link: LinkName) -> LocalPosition:
        """See ``ports.InboundLog.locate``; ``NOT_FOUND`` where the link has no inbound stream."""
        record, revision = await self._entry(link)
        generation = await self._generation(link, record)
        if generation is None:
            raise BsfgError(
                Code.NOT_FOUND, f"link {link}: it has no inbound stream", hint="it is made when the link starts"
            )
        name = inbound_physical(link.peer, link.stream, generation)
        found, last = await self._end(name)
        tip = read_tip(last, link, generation) if last is not None else Tip()
        fence = Fence(generation, found["created"], found["state"]["last_seq"])
        return LocalPosition(
            fence=fence,
            messages=found["state"]["messages"],
            tip=tip.cursor,
            record=record,
            foreign=tip.foreign,
            removed=removed_by_others(found),
            revision=revision,
            begun=await self._read_begun(link, record, fence, tip),
        )

    async def _read_begun(
        self, link: LinkName, record: LinkRecord | None, fence: Fence, tip: Tip
    ) -> Begun | None:
        """What is known beside a store that shows no beginning; what it does show of one is noted."""
        if self._begun is None:
            return None
        if record is not None or tip.cursor is not None:
            await self._begun.note(link, record.init if record else None)
        is_shown = record is not None and record.init is not None
        return None if is_shown or fence.local_sequence > 0 else await self._begun.read(link)

    async def append(self, link: LinkName, fence: Fence, epoch: str, facts: Sequence[Fact]) -> Fence:
        """See ``ports.InboundLog.append``. Several appends of one link may be under way, each behind the other.

        The server holds the last sequence against the fence; that the stream is the very one that the fence was read
        from is asked whenever no append is under way, for a stream made again may stand at the same sequence.
        """
        held = self._writer(link, fence.generation)
        async with held.turn:
            # Where nobody else can publish, a stream made again can't have come to the fence's sequence.
            is_proved_by_fence = self._exclusivity is Exclusivity.PROVED and fence.local_sequence > 0
            if held.in_flight == 0 and not is_proved_by_fence:
                await self._check_created(link, fence)
            held.in_flight += 1
        try:
            return await held.writer.append(
                fence,
                inbound_subject(link.peer, link.stream, fence.generation),
                link.peer,
                link.stream,
                epoch,
                facts,
            )
        finally:
            held.in_flight -= 1

    async def save_record(self, link: LinkName, record: LinkRecord, revision: int | None = None) -> int:
        """See ``ports.InboundLog.save_record``."""
        saved = await self._records.put(self._record_key(link), encode_link(record), revision)
        if self._begun is not None:
            await self._begun.note(link, record.init)
        return saved

    async def forget(self, link: LinkName) -> None:
        """The link is as one that never was: for one that is no longer configured and has no generation left."""
        await self._records.erase(self._record_key(link))
        if self._begun is not None:
            await self._begun.forget(link)

    def _writer(self, link: LinkName, generation: int) -> _Writer:
        held = self._writers.get(link)
        if held is not None and held.generation != generation:
            held.writer.close()
            held = None
        if held is None:
            name = inbound_physical(link.peer, link.stream, generation)
            held = self._writers[link] = _Writer(
                PageWriter(self._connect, name, self._strategy, exclusivity=self._exclusivity), generation
            )
        return held

    async def _check_created(self, link: LinkName, fence: Fence) -> None:
        name = inbound_physical(link.peer, link.stream, fence.generation)
        try:
            created = (await self._control.api(f"STREAM.INFO.{name}"))["created"]
        except BsfgError as error:
            if error.code is not Code.NOT_FOUND:
                raise
            created = None
        if created != fence.created:
            now = f"was created {created}" if created else "is gone"
            raise Fenced(f"append to {name}: it should be the stream of {fence.created}, and {now}")

    async def _end(self, name: str) -> tuple[dict[str, Any], StoredMessage | None]:
        """The stream's state, and the last message that it holds in just this state."""
        before: tuple[object, ...] | None = None
        for _ in range(READS_MAX):
            found = await self._control.api(f"STREAM.INFO.{name}")
            state = found["state"]
            if not state["messages"]:
                return found, None
            last = await self._message(name, {"seq": state["last_seq"]})
            if last is not None:
                return found, last
            # The last message is gone: deleted on its own, if nothing has changed since the read before this one.
            now = (found["created"], state["first_seq"], state["last_seq"], state["messages"])
            if now == before:
                last = await self._last_held(found["config"])
                if last is not None and last.sequence <= state["last_seq"]:
                    return found, last
            before = now
        raise SubstrateUnavailable(
            f"stream {name}: it changes while its end is read", hint="does something else write to or purge it?"
        )

    async def _last_held(self, config: dict[str, Any]) -> StoredMessage | None:
        """The last message that is held, by subject: asked for ``>``, the server finds none if the last is deleted."""
        messages = [
            await self._message(config["name"], {"last_by_subj": subject}) for subject in config["subjects"]
        ]
        return max((found for found in messages if found), key=lambda found: found.sequence, default=None)

    async def _message(self, name: str, which: dict[str, Any]) -> StoredMessage | None:
        try:
            answer = await self._control.api(f"STREAM.MSG.GET.{name}", which)
        except BsfgError as error:
            if is_no_message(error):
                return None
            raise
        return stored_message(answer["message"])

    async def record(self, link: LinkName) -> LinkRecord | None:
        """The link record; None without one, or if it can't be read, which is reported."""
        return (await self._entry(link))[0]

    async def _entry(self, link: LinkName) -> tuple[LinkRecord | None, int]:
        value, revision = await self._records.entry(self._record_key(link))
        if value is None:
            return None, revision
        try:
            return decode_link(value), revision
        except ValueError as error:
            self._report(f"link record of {link} in {BUCKET_LINKS} can't be read: {error}")
            return None, revision

    def _record_key(self, link: LinkName) -> str:
        return self._record_prefix + link_key(link.peer, link.stream)

    async def _generation(self, link: LinkName, record: LinkRecord | None) -> int | None:
        """The record's generation if it exists; else the highest that is complete: a later one may be half built."""
        existing = await self.generations(link)
        if self._built is not None:
            return self._built if self._built in existing else None
        if record is not None and record.generation in existing:
            return record.generation
        for generation in reversed(existing):
            name = inbound_physical(link.peer, link.stream, generation)
            if not is_building(await self._control.api(f"STREAM.INFO.{name}")):
                return generation
        return None

    async def generations(self, link: LinkName) -> list[int]:
        """The generations of the link that exist, complete or not, in order."""
        prefix = inbound_physical(link.peer, link.stream, 0)[:-1]
        answer = await self._control.api("STREAM.NAMES", {"subject": f"in.{link.peer}.{link.stream}.>"})
        names = answer.get("streams") or []
        if answer.get("total", 0) > NAMES_MAX:
            raise SubstrateUnavailable(f"link {link}: {answer['total']} streams take its subjects")
        tails = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
        return sorted(int(tail) for tail in tails if tail.isdecimal())


def is_building(stream_info: Mapping[str, Any]) -> bool:
    """Whether an inbound stream is a generation that is not complete yet."""
    return (stream_info["config"].get("metadata") or {}).get(BUILDING_KEY) == "yes"


def removed_by_others(stream_info: Mapping[str, Any]) -> str | None:
    """What of an inbound stream is gone that this gateway did not remove; None if it is all there (I20).

    A stream that was made before the gateway kept count says nothing.
    """
    config, state = stream_info["config"], stream_info["state"]
    ours = str((config.get("metadata") or {}).get(REMOVED_KEY, ""))
    if not ours.isdecimal():
        return None
    first, last, deleted = int(state["first_seq"]), int(state["last_seq"]), int(state.get("num_deleted") or 0)
    if last and first > int(ours) + 1:
        gone = f"messages {int(ours) + 1} to {first - 1}"
    elif deleted:
        gone = f"{deleted} messages between {first} and {last}"
    else:
        return None
    return f"{gone} of {config['name']} were removed, and not by this gateway"
