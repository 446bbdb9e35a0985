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
from typing import Final, NamedTuple, cast

from bsfg.errors import SubstrateUnavailable
from bsfg.model.cursor import LinkName
from bsfg.model.fact import ORIGIN_HEADER, Fact
from bsfg.model.facts import Facts
from bsfg.model.names import inbound_physical
from bsfg.substrates.control import Control
from bsfg.substrates.inbound_tip import origin_fact
from bsfg.substrates.nats_connection import NatsConnection
from bsfg.substrates.nats_frames import Frame, Messages
from bsfg.substrates.nats_stream_api import StoredMessage
from bsfg.substrates.pull_consumer import (
    OVER_BYTES,
    SUBJECTS_CACHED_MAX,
    ConsumerLost,
    PullConsumer,
    delivered,
)

PAGE_FACTS: Final = 10_000
PAGE_BYTES: Final = 4 * 1024 * 1024
ATTEMPTS_MAX: Final = 3
RETRY_SECONDS: Final = 0.1

_BEGINNING: Final = rb"(?:\A|(?<=\r\n\r\n))NATS/1\.0\r\n(?:Nats-.*+(?<=\r)\n)*+"
"""The beginning of a raw header, and what the server leaves in it; an empty line ends each header and is in none."""
_END: Final = rb"([0-9]++) [0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]++Z\r\n\r\n"
NO_FACTS: Final = Facts([], [], [], [], [])


class Foreign(NamedTuple):
    """A message that is no fact of the link's history, and why."""

    local_sequence: int
    why: str


@dataclass(frozen=True, slots=True)
class HeldPage:
    """Messages in a row of an inbound stream."""

    facts: Facts
    """As their origin stored them, but for ``times``: these are the places here, local sequences."""
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
        self._reading = PageReading(link, generation, epoch, frozenset(earlier_epochs))

    async def state(self) -> InboundState:
        """The stream now; ``NOT_FOUND`` if it does not exist."""
        found = await self._control.api(f"STREAM.INFO.{self._name}")
        state = found["state"]
        return InboundState(
            found["created"], state["first_seq"], state["last_seq"], state["messages"], state["bytes"]
        )

    async def first_fact(self) -> int | None:
        """The origin's sequence of the first fact of the epoch that is held; None if none is."""
        state = await self.state()
        if not state.messages:
            return None
        async with contextlib.aclosing(self.pages(state.first_sequence, state.last_sequence)) as pages:
            async for page in pages:
                if page.facts:
                    return page.facts.sequences[0]
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
        consumer = await _RunConsumer.create(connection, self._name, reading.link.stream, position + 1)
        assert isinstance(consumer, _RunConsumer)
        coming = asyncio.ensure_future(consumer.next_messages(last - position))
        try:
            while messages := await coming:
                _, reached, _ = places_of(messages[-1])
                if reached < last:
                    coming = asyncio.ensure_future(consumer.next_messages(last - reached))
                for run in messages:
                    yield await asyncio.to_thread(reading.page, run, last)
                if reached >= last:
                    return
            await consumer.check_nothing_lost()
            yield HeldPage(NO_FACTS, through=last)
        finally:
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)
            consumer.delete()


class _RunConsumer(PullConsumer):
    """A pull consumer that gives messages as they are."""

    async def next_messages(self, count: int) -> list[Messages]:
        """The next messages, at least one if there is one; :class:`ConsumerLost` if any was lost on its way.

        All of one pull in one piece, or in a few where some have headers and others have none.
        """
        limits = {"batch": min(count, PAGE_FACTS), "max_bytes": PAGE_BYTES}
        runs, status = await self._exchange(limits, 0.0)
        if not runs and status is not None and status[1] == OVER_BYTES:
            runs, status = await self._exchange({"batch": 1}, 0.0)
        self._judge(status)
        if runs:
            self._consumer_sequence += self._came
            if places_of(runs[-1]).consumer_sequence != self._consumer_sequence:
                raise ConsumerLost("a message was lost on its way from the server")
        return joined(runs)


class Places(NamedTuple):
    """Where the messages of one run lie, as their control lines say."""

    first: int
    last: int
    consumer_sequence: int
    """Of the last of them."""


def places_of(run: Messages) -> Places:
    """Looks at the first control line and the last; ``SubstrateUnavailable`` if they can't be read."""
    try:
        first, last = (delivered(_alone(run, index)) for index in (0, -1))
    except ValueError:
        raise SubstrateUnavailable("reading: an acknowledgement subject we can't read") from None
    return Places(first.sequences[0], last.sequences[0], last.consumer_sequence)


def _alone(run: Messages, index: int) -> Messages:
    one = Messages()
    one.lines, one.headers, one.payloads = [run.lines[index]], run.headers[:1], [run.payloads[index]]
    return one


def joined(runs: list[Messages]) -> list[Messages]:
    """The same messages in as few runs as can be: a chunk of bytes from the server ends a run, too."""
    joined: list[Messages] = []
    for run in runs:
        if joined and bool(joined[-1].headers) == bool(run.headers):
            joined[-1].lines += run.lines
            joined[-1].headers += run.headers
            joined[-1].payloads += run.payloads
        else:
            joined.append(run)
    return joined


class PageReading:
    """How messages are read back as the facts that their origin stored."""

    def __init__(self, link: LinkName, generation: int, epoch: str, earlier_epochs: frozenset[str]) -> None:
        self.link = link
        self._generation = generation
        self._epoch = epoch
        self._earlier_epochs = earlier_epochs
        origin = re.escape(f"{ORIGIN_HEADER}: {link.peer} {link.stream} {epoch} ".encode())
        self._plain = re.compile(_BEGINNING + origin + _END)
        self._subjects: dict[bytes, str] = {}

    def page(self, run: Messages, last: int) -> HeldPage:
        """These messages, without those behind ``last``."""
        first, through, _ = places_of(run)
        if through <= last and run.headers:
            # Where no fact has a header of its own, one look finds the sequences of all.
            found = self._plain.findall(b"".join(run.headers))
            nats_subjects, local_sequences = _columns(run, first, through)
            subjects = list(map(self._subjects.get, nats_subjects))
            if len(found) == len(run.headers) and None not in subjects:
                headers = [b""] * len(found)
                texts = cast("list[str]", subjects)
                facts = Facts(list(map(int, found)), texts, local_sequences, headers, run.payloads)
                return HeldPage(facts, through=through)
        return self._page(run, last)

    def _page(self, run: Messages, last: int) -> HeldPage:
        facts: list[Fact] = []
        foreign: list[Foreign] = []
        earlier = through = 0
        for local_sequence, frame in zip(delivered(run).sequences, run, strict=True):
            if local_sequence > last:
                break
            through = local_sequence
            found = self._fact(local_sequence, frame)
            if isinstance(found, Fact):
                facts.append(found)
            elif isinstance(found, Foreign):
                foreign.append(found)
            else:
                earlier += 1
        return HeldPage(Facts.of(facts), foreign, earlier, through)

    def _fact(self, local_sequence: int, frame: Frame) -> Fact | Foreign | None:
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
        return fact._replace(time=local_sequence)


def _columns(run: Messages, first: int, last: int) -> tuple[list[bytes], list[int]]:
    """The subject and the local sequence of each message.

    Messages in a row without a hole, all of one subject, are told by the whole and not one by one.
    """
    count, (operation, nats_subject, _) = len(run), run.lines[0].split(b" ", 2)
    beginning = b"\r\n%b %b " % (operation, nats_subject)
    if last - first == count - 1 and b"\r\n".join([b"", *run.lines]).count(beginning) == count:
        return [nats_subject] * count, list(range(first, last + 1))
    place = delivered(run)
    return place.subjects, place.sequences
