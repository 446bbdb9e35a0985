"""Reading an inbound stream from one place to another as its origin's facts, page by page and as fast as it goes.

For ``bsfg verify``. Whatever does not bear the coordinates that this gateway writes is handed on as what it is: a
foreign message is a finding, not an error.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from bsfg.errors import SubstrateUnavailable
from bsfg.model.cursor import LinkName
from bsfg.model.fact import ORIGIN_HEADER
from bsfg.model.names import inbound_physical
from bsfg.substrates.control import Control
from bsfg.substrates.inbound_tip import origin_fact
from bsfg.substrates.nats_connection import NatsConnection
from bsfg.substrates.nats_frames import Frame
from bsfg.substrates.nats_stream_api import StoredMessage
from bsfg.substrates.pull_consumer import SUBJECTS_CACHED_MAX, ConsumerLost, PullConsumer, ack_splits

PAGE_FACTS: Final = 10_000
PAGE_BYTES: Final = 4 * 1024 * 1024
ATTEMPTS_MAX: Final = 3
RETRY_SECONDS: Final = 0.1

_CONTROL: Final = re.compile(rb"NATS/1\.0\r\n(?:Nats-[^\r\n]*\r\n)*")
"""What the server leaves in front of a fact's own headers."""
_AFTER_SEQUENCE_BYTES: Final = len("2026-01-01T00:00:00.000000000Z\r\n\r\n")


class HeldFact(NamedTuple):
    """A fact as the inbound stream holds it: the shape of ``Fact``, with its place here where that has its time."""

    sequence: int
    subject: str
    local_sequence: int
    headers: bytes
    payload: bytes


class Foreign(NamedTuple):
    """A message that is no fact of the link's history, and why."""

    local_sequence: int
    why: str


@dataclass(frozen=True, slots=True)
class HeldPage:
    """Messages in a row of an inbound stream."""

    facts: list[HeldFact] = field(default_factory=list)
    foreign: list[Foreign] = field(default_factory=list)
    of_earlier_epochs: int = 0
    through: int = 0
    """The local sequence that the page reaches to."""


@dataclass(frozen=True, slots=True)
class InboundState:
    """An inbound stream at one moment."""

    created: str
    first_sequence: int
    last_sequence: int
    messages: int
    bytes: int


# Called once a fact: the constructor that NamedTuple makes takes twice as long.
_new_held: Final = tuple.__new__


class InboundScan:
    """One generation of one link, and the epoch whose facts are wanted."""

    def __init__(
        self,
        control: Control,
        connect: Callable[[], Awaitable[NatsConnection]],
        link: LinkName,
        generation: int,
        epoch: str,
        earlier_epochs: Collection[str] = (),
    ) -> None:
        self._control = control
        self._connect = connect
        self._name = inbound_physical(link.peer, link.stream, generation)
        self._reading = _Reading(link, generation, epoch, frozenset(earlier_epochs))

    async def state(self) -> InboundState:
        """The stream now; ``NOT_FOUND`` if it does not exist."""
        found = await self._control.api(f"STREAM.INFO.{self._name}")
        state = found["state"]
        return InboundState(found["created"], state["first_seq"], state["last_seq"], state["messages"], state["bytes"])

    async def first_fact(self) -> int | None:
        """The origin's sequence of the first fact of the epoch that is held; None if none is."""
        state = await self.state()
        if not state.messages:
            return None
        async with contextlib.aclosing(self.pages(state.first_sequence, state.last_sequence)) as pages:
            async for page in pages:
                if page.facts:
                    return page.facts[0].sequence
        return None

    async def pages(self, first: int, last: int) -> AsyncGenerator[HeldPage, None]:
        """Every message between two local sequences, both included, in the order in which they lie.

        The next page is on its way while one is being looked at. Raises ``SubstrateUnavailable`` if the store is away.
        """
        connection = await self._connect()
        try:
            attempt, position = 0, first - 1
            while position < last:
                try:
                    async for page in self._read(connection, position, last):
                        attempt, position = 0, page.through
                        yield page
                    return
                except ConsumerLost as lost:
                    attempt += 1
                    if attempt == ATTEMPTS_MAX:
                        raise SubstrateUnavailable(f"reading {self._name}: {lost}") from None
                    await asyncio.sleep(RETRY_SECONDS)
        finally:
            connection.close()

    async def _read(
        self, connection: NatsConnection, position: int, last: int
    ) -> AsyncGenerator[HeldPage, None]:
        reading = self._reading
        consumer = await _FrameConsumer.create(connection, self._name, reading.link.stream, position + 1)
        assert isinstance(consumer, _FrameConsumer)
        coming = asyncio.ensure_future(consumer.next_frames(last - position))
        try:
            while frames := await coming:
                reached = frames[-1][0]
                if reached < last:
                    coming = asyncio.ensure_future(consumer.next_frames(last - reached))
                yield await asyncio.to_thread(reading.page, frames, last)
                if reached >= last:
                    return
            await consumer.check_nothing_lost()
            yield HeldPage(through=last)
        finally:
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)
            consumer.delete()


class _FrameConsumer(PullConsumer):
    """A pull consumer that gives messages as they are, each with its sequence."""

    async def next_frames(self, count: int) -> list[tuple[int, Frame]]:
        """The next messages, at least one if there is one; :class:`ConsumerLost` if any was lost on its way."""
        limits = {"batch": min(count, PAGE_FACTS), "max_bytes": PAGE_BYTES}
        frames, status = await self._exchange(limits, 0.0)
        if not frames and status is not None and status[1] == "Message Size Exceeds MaxBytes":
            frames, status = await self._exchange({"batch": 1}, 0.0)
        self._judge(status)
        if not frames:
            return []
        splits = ack_splits(frames[0].reply)
        numbered, consumer_sequence = [], b"0"
        for frame in frames:
            _, sequence, consumer_sequence, *_ = frame.reply.rsplit(b".", splits)
            numbered.append((int(sequence), frame))
        self._consumer_sequence += len(frames)
        if int(consumer_sequence) != self._consumer_sequence:
            raise ConsumerLost("a message was lost on its way from the server")
        return numbered


class _Reading:
    """How a message is read back as the fact that its origin stored."""

    def __init__(self, link: LinkName, generation: int, epoch: str, earlier_epochs: frozenset[str]) -> None:
        self.link = link
        self._generation = generation
        self._epoch = epoch
        self._earlier_epochs = earlier_epochs
        self._marker = f"\r\n{ORIGIN_HEADER}: {link.peer} {link.stream} {epoch} ".encode()
        self._subjects: dict[bytes, str] = {}

    def page(self, frames: list[tuple[int, Frame]], last: int) -> HeldPage:
        """These messages, without those behind ``last``."""
        facts: list[HeldFact] = []
        foreign: list[Foreign] = []
        earlier = through = 0
        marker, marker_bytes, subjects = self._marker, len(self._marker), self._subjects
        for local_sequence, frame in frames:
            if local_sequence > last:
                break
            through = local_sequence
            raw_subject, _, header, payload = frame
            at = header.rfind(marker)
            control = _CONTROL.match(header)
            text = subjects.get(raw_subject)
            if at > 0 and text is not None and control is not None and control.end() == at + 2:
                # Nothing but the server's headers and ours, which end the block: a fact without any of its own.
                digits, _, rest = header[at + marker_bytes :].partition(b" ")
                if len(rest) == _AFTER_SEQUENCE_BYTES and rest.endswith(b"Z\r\n\r\n") and digits.isdigit():
                    facts.append(_new_held(HeldFact, (int(digits), text, local_sequence, b"", payload)))
                    continue
            found = self._fact(local_sequence, frame)
            if isinstance(found, HeldFact):
                facts.append(found)
            elif isinstance(found, Foreign):
                foreign.append(found)
            else:
                earlier += 1
        return HeldPage(facts, foreign, earlier, through)

    def _fact(self, local_sequence: int, frame: Frame) -> HeldFact | Foreign | None:
        """The fact, whatever its headers; None for one of an earlier epoch of the link."""
        text = frame.subject.decode("utf-8", "backslashreplace")
        message = StoredMessage(local_sequence, text, 0, frame.header, frame.payload)
        try:
            origin, fact = origin_fact(message, self.link, self._generation)
        except ValueError as error:
            return Foreign(local_sequence, str(error))
        if origin.epoch in self._earlier_epochs:
            return None
        if origin.epoch != self._epoch:
            return Foreign(local_sequence, f"its epoch is {origin.epoch}, which the link never had")
        if len(self._subjects) >= SUBJECTS_CACHED_MAX:
            self._subjects.clear()
        self._subjects[frame.subject] = fact.subject
        return HeldFact(fact.sequence, fact.subject, local_sequence, fact.headers, fact.payload)
