"""The in-memory twin of a zone's store: the same observable behaviour as JetStream's, for tests and simulation.

It is deterministic: times come from the injected clock, identifiers are derived from them. Nothing outlives the
process. It passes the same suite in ``tests/contract`` as the real adapter.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import hashlib
from collections.abc import Callable, Sequence

from bsfg.errors import BsfgError, Code, Fenced
from bsfg.model.cursor import Begun, Fence, Init, InitMode, LinkName, LinkRecord, LocalPosition, StartKind
from bsfg.model.fact import ORIGIN_HEADER, Fact, Origin, inbound_block, is_allowed_block
from bsfg.model.moment import format_time
from bsfg.model.names import (
    StreamName,
    ZoneId,
    inbound_physical,
    inbound_subject,
    physical,
    subjects,
    tail_of,
)
from bsfg.model.page import LogDescription, LogSlice, PageLimits
from bsfg.ports import Clock, Confirmed
from bsfg.substrates.epochs import EPOCH_CREATED_KEY, EPOCH_KEY, EpochBegan
from bsfg.substrates.inbound_log import BUILDING_KEY
from bsfg.substrates.inbound_tip import Tip, read_tip
from bsfg.substrates.jetstream_answers import fact_of
from bsfg.substrates.memory_stream import MemoryStream, raw_header
from bsfg.substrates.nats_stream_api import StoredMessage
from bsfg.substrates.stored_records import decode_link, encode_link


def _no_epoch_began(stream: StreamName, old: str | None, new: str, why: str) -> None:
    """Nobody listens."""


def _no_report(text: str) -> None:
    """Nobody listens."""


class MemoryZone:
    """A zone's store in memory: ``ExportedLog``, ``InboundLog`` and ``Confirmations`` in one.

    The methods that no port has stand for what happens to a store from outside: producers, operators, other tools.
    They take physical names, as JetStream does.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        durability: str = "strict",
        epoch_began: EpochBegan = _no_epoch_began,
        report: Callable[[str], None] = _no_report,
    ) -> None:
        self._clock = clock
        self._durability = durability
        self._epoch_began = epoch_began
        self._report = report
        self._streams: dict[str, MemoryStream] = {}
        self._confirms: dict[tuple[ZoneId, StreamName], Confirmed] = {}
        self._last_created = 0
        self.records: dict[LinkName, bytes] = {}
        """The stored link records, as bytes, so that a test can spoil or delete them."""
        self._begun: dict[LinkName, Begun] = {}
        """Where links began; what happens to the store from outside does not reach this."""
        self._revisions: dict[LinkName, tuple[bytes | None, int]] = {}
        """The record as it was last seen, and its revision."""
        self._build_records: dict[LinkName, bytes] = {}
        self._build_revisions: dict[LinkName, tuple[bytes | None, int]] = {}
        self._built: int | None = None

    # What happens to a store from outside.

    def create(self, stream: StreamName, *, max_bytes: int | None = None) -> None:
        """A local stream exists, empty."""
        self._create(physical(stream), max_bytes)

    def publish(self, stream: StreamName, tail: str = "", headers: bytes = b"", payload: bytes = b"") -> int:
        """A local producer's message; returns its sequence. ``headers`` is a block of header lines."""
        subject = f"{stream}.{tail}" if tail else str(stream)
        return self.put(physical(stream), subject, raw_header(headers), payload)

    def put(self, jetstream_stream: str, subject: str, headers: bytes, payload: bytes) -> int:
        """Any message in any stream, with its raw NATS header; returns its sequence."""
        return self.stream(jetstream_stream).put(subject, headers, payload, self._clock.now())

    def messages(self, jetstream_stream: str) -> list[StoredMessage]:
        """Everything that a stream holds, in order."""
        return list(self.stream(jetstream_stream).messages.values())

    def delete(self, jetstream_stream: str, sequence: int) -> None:
        self.stream(jetstream_stream).delete(sequence)

    def purge(self, jetstream_stream: str, below: int | None = None) -> None:
        self.stream(jetstream_stream).purge(below)

    def forget_record(self, link: LinkName) -> None:
        """The link record is gone, as if it never was."""
        self.records.pop(link, None)
        self._revisions.pop(link, None)

    def lose_tail(self, jetstream_stream: str, last: int) -> None:
        """A power cut: what lies behind ``last`` was never written, and its sequences will be used again."""
        stream = self.stream(jetstream_stream)
        for sequence in [found for found in stream.messages if found > last]:
            stream.delete(sequence)
        stream.last_sequence = min(stream.last_sequence, last)

    def limit(self, jetstream_stream: str, max_bytes: int | None) -> None:
        """The stream takes no more than this."""
        self.stream(jetstream_stream).max_bytes = max_bytes

    def drop(self, jetstream_stream: str) -> None:
        """The stream is gone, with all that it held."""
        del self._streams[jetstream_stream]

    def recreate(self, jetstream_stream: str) -> None:
        """The stream is made again, empty, from its saved configuration: its metadata is carried over."""
        old = self._streams.pop(jetstream_stream)
        self._create(jetstream_stream, old.max_bytes).metadata.update(old.metadata)

    # ExportedLog

    async def describe(self, stream: StreamName) -> LogDescription:
        log = self._local(stream)
        first = log.first
        return LogDescription(
            stream=stream,
            created=log.created,
            epoch=self._epoch_of(stream, log),
            first_sequence=log.first_sequence,
            last_sequence=log.last_sequence,
            first_time=first.time if first else None,
            last_time=log.last_time,
            messages=len(log.messages),
            bytes=log.total_bytes,
            replicas=1,
            durability=self._durability,
        )

    async def fact_at(self, stream: StreamName, sequence: int) -> Fact | None:
        message = self._local(stream).messages.get(sequence)
        return fact_of(message) if message else None

    async def resolve_start(self, stream: StreamName, mode: InitMode, sender_now: int) -> int:
        log = self._local(stream)
        if mode.kind is StartKind.FULL_BACKFILL:
            return max(1, log.first_sequence)
        wanted = mode.from_time(sender_now)
        if wanted is not None:
            for message in log.messages.values():
                if message.time >= wanted:
                    return message.sequence
        return log.last_sequence + 1

    async def read(self, stream: StreamName, after: int, limits: PageLimits) -> LogSlice:
        deadline = self._clock.monotonic() + limits.wait_seconds
        while True:
            log = self._local(stream)
            found = _slice(log, after, limits)
            left_seconds = deadline - self._clock.monotonic()
            if found.facts or left_seconds <= 0:
                return found
            await self._wait(log.grown, left_seconds)

    # Confirmations

    async def load(self, peer: ZoneId, stream: StreamName) -> Confirmed | None:
        return self._confirms.get((peer, stream))

    async def save(self, peer: ZoneId, stream: StreamName, confirmed: Confirmed) -> None:
        self._confirms[peer, stream] = confirmed

    # InboundLog

    def building(self, generation: int) -> MemoryZone:
        """The same store bound to a generation that is being built, with a link record of its own."""
        bound = copy.copy(self)
        bound.records, bound._revisions, bound._built = self._build_records, self._build_revisions, generation
        bound._begun = {}
        return bound

    async def in_force(self, link: LinkName) -> int | None:
        """The generation that counts; None where the link has no complete one."""
        return self._generation(link, self._record(link))

    async def generations(self, link: LinkName) -> list[int]:
        """The generations of the link that exist, complete or not, in order."""
        return self._generations(link)

    async def record(self, link: LinkName) -> LinkRecord | None:
        """The link record; None without one, or if it can't be read, which is reported."""
        return self._record(link)

    async def provision(self, link: LinkName) -> None:
        record = self._record(link)
        if self._generation(link, record) is None:
            generation = self._built or (record.generation if record else 1)
            made = self._create(inbound_physical(link.peer, link.stream, generation), None)
            if self._built is not None:
                made.metadata[BUILDING_KEY] = "yes"

    async def locate(self, link: LinkName) -> LocalPosition:
        record = self._record(link)
        generation = self._generation(link, record)
        if generation is None:
            raise BsfgError(Code.NOT_FOUND, f"link {link}: it has no inbound stream")
        log = self.stream(inbound_physical(link.peer, link.stream, generation))
        tip = read_tip(log.last, link, generation) if log.last else Tip()
        if record is not None or tip.cursor is not None:
            self._note_begun(link, record.init if record else None)
        is_shown = log.last_sequence > 0 or (record is not None and record.init is not None)
        return LocalPosition(
            fence=Fence(generation, log.created, log.last_sequence),
            messages=len(log.messages),
            tip=tip.cursor,
            record=record,
            foreign=tip.foreign,
            removed=log.removed,
            revision=self._revision(link),
            begun=None if is_shown else self._begun.get(link),
        )

    async def append(self, link: LinkName, fence: Fence, epoch: str, facts: Sequence[Fact]) -> Fence:
        name = inbound_physical(link.peer, link.stream, fence.generation)
        log = self._streams.get(name)
        if log is None or log.created != fence.created:
            raise Fenced(f"append to {name}: it is not the stream that was created {fence.created}")
        _check_storable(link, facts)
        expected = fence.local_sequence
        for fact in facts:
            origin = Origin(link.peer, link.stream, epoch, fact.sequence, fact.time)
            subject = inbound_subject(link.peer, link.stream, fence.generation)
            subject += fact.subject.removeprefix(link.stream)
            line = f"{ORIGIN_HEADER}: {origin.header_value()}\r\n".encode()
            headers = raw_header(inbound_block(fact.headers) + line)
            expected = log.put(subject, headers, fact.payload, self._clock.now(), expected)
        return Fence(fence.generation, fence.created, expected)

    async def save_record(self, link: LinkName, record: LinkRecord, revision: int | None = None) -> int:
        if revision is not None and revision != self._revision(link):
            raise Fenced(f"link record of {link}: its revision is {self._revision(link)}, not {revision}")
        self.records[link] = encode_link(record)
        self._note_begun(link, record.init)
        return self._revision(link)

    async def forget(self, link: LinkName) -> None:
        """The link is as one that never was."""
        self.forget_record(link)
        self._begun.pop(link, None)

    # Parts of the above.

    def _note_begun(self, link: LinkName, init: Init | None) -> None:
        if init is not None or link not in self._begun:
            self._begun[link] = Begun(init)

    def _create(self, name: str, max_bytes: int | None) -> MemoryStream:
        self._last_created = max(self._clock.now(), self._last_created + 1)
        stream = self._streams[name] = MemoryStream(name, format_time(self._last_created), max_bytes)
        return stream

    def stream(self, name: str) -> MemoryStream:
        """The stream of this name; ``NOT_FOUND`` without one."""
        try:
            return self._streams[name]
        except KeyError:
            raise BsfgError(Code.NOT_FOUND, f"stream {name}: stream not found") from None

    def _local(self, stream: StreamName) -> MemoryStream:
        return self.stream(physical(stream))

    def _epoch_of(self, stream: StreamName, log: MemoryStream) -> str:
        old = log.metadata.get(EPOCH_KEY)
        if old is None or log.metadata.get(EPOCH_CREATED_KEY) != log.created:
            new = hashlib.sha256(f"{subjects(stream)} {log.created}".encode()).hexdigest()[:16]
            log.metadata |= {EPOCH_KEY: new, EPOCH_CREATED_KEY: log.created}
            self._epoch_began(stream, old, new, f"the stream was created {log.created}")
        return log.metadata[EPOCH_KEY]

    def _record(self, link: LinkName) -> LinkRecord | None:
        value = self.records.get(link)
        if value is None:
            return None
        try:
            return decode_link(value)
        except ValueError as error:
            self._report(f"link record of {link} can't be read: {error}")
            return None

    def _revision(self, link: LinkName) -> int:
        """Another one whenever the record is another one, whoever has changed it."""
        seen, revision = self._revisions.get(link, (None, 0))
        if self.records.get(link) is not seen:
            revision += 1
            self._revisions[link] = (self.records.get(link), revision)
        return revision

    def _generations(self, link: LinkName) -> list[int]:
        prefix = inbound_physical(link.peer, link.stream, 0)[:-1]
        tails = [name.removeprefix(prefix) for name in self._streams if name.startswith(prefix)]
        return sorted(int(tail) for tail in tails if tail.isdecimal())

    def _generation(self, link: LinkName, record: LinkRecord | None) -> int | None:
        """As the real log: the record's generation if it exists, else the highest that is complete."""
        existing = self._generations(link)
        if self._built is not None:
            return self._built if self._built in existing else None
        if record is not None and record.generation in existing:
            return record.generation
        for generation in reversed(existing):
            log = self.stream(inbound_physical(link.peer, link.stream, generation))
            if log.metadata.get(BUILDING_KEY) != "yes":
                return generation
        return None

    async def _wait(self, grown: asyncio.Event, seconds: float) -> None:
        waits = [asyncio.ensure_future(grown.wait()), asyncio.ensure_future(self._clock.sleep(seconds))]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await wait


def _check_storable(link: LinkName, facts: Sequence[Fact]) -> None:
    """As the real writer: ``BAD_ANSWER`` names the fact that no honest peer sends, before anything is stored."""
    for fact in facts:
        if tail_of(fact.subject, link.stream) is None or not is_allowed_block(fact.headers):
            raise BsfgError(
                Code.BAD_ANSWER,
                f"appending {link}: fact {fact.sequence} has a subject or headers that no peer may send",
                sequence=fact.sequence,
            )


def _slice(log: MemoryStream, after: int, limits: PageLimits) -> LogSlice:
    facts: list[Fact] = []
    total_bytes, pending = 0, 0
    first_pending: StoredMessage | None = None
    for message in log.behind(after):
        fact = fact_of(message)
        total_bytes += len(fact.subject) + len(fact.headers) + len(fact.payload)
        if first_pending is None and (
            not facts or (len(facts) < limits.facts and total_bytes <= limits.bytes)
        ):
            facts.append(fact)
            continue
        first_pending = first_pending or message
        pending += 1
    return LogSlice(
        facts=facts,
        scanned_through=facts[-1].sequence if facts else max(after, log.last_sequence),
        head=log.last_sequence,
        pending=pending,
        next_time=first_pending.time if first_pending else None,
    )
