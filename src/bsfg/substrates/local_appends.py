"""Appending a zone's own facts to a local stream: in order, and once for each message id, however old it is.

The stream comes first and the index after it, so a crash between the two is harmless: the index follows the stream.
Before an id is answered, the index has caught up with all that anybody published; what is published at the very same
time by another is found by JetStream's own window, and looked at again.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from bsfg.errors import BsfgError, Code, SubstrateUnavailable
from bsfg.model.names import StreamName, physical, printable
from bsfg.ports import ExportedLog
from bsfg.substrates.control import Control
from bsfg.substrates.index_follower import MessageIndexes, StreamIndex
from bsfg.substrates.local_publisher import (
    BATCH_REFUSED_FOR_IDS,
    RUN_BYTES_MAX,
    RUN_FACTS_MAX,
    Publisher,
)
from bsfg.substrates.message_index import Entry, anchor_of, content_of_fact
from bsfg.substrates.nats_connection import NatsConnection
from bsfg.substrates.new_facts import NewFact, Outgoing, prepare

FACTS_MAX: Final = 10_000
CALL_BYTES_MAX: Final = 16 * 1024 * 1024
"""Payloads and headers of one call together."""
LOOKS_MAX: Final = 3
"""How often a run is looked up again because somebody published one of its ids meanwhile."""
NO_GENERATION: Final = -1

Result = dict[str, int | None]


class LocalAppends:
    """What a zone's own producers append through the gateway."""

    def __init__(
        self,
        control: Control,
        connect: Callable[[], Awaitable[NatsConnection]],
        source: ExportedLog,
        indexes: MessageIndexes,
    ) -> None:
        self._control = control
        self._connect = connect
        self._source = source
        self._indexes = indexes

    async def append(self, stream: StreamName, facts: Sequence[NewFact]) -> Result:
        """Append facts in order: ``{"appended", "first_sequence", "last_sequence", "duplicates"}``.

        Every fact is as durable on return as the stream's acknowledgement says. The whole call is refused, before
        anything is sent, with ``INVALID_REQUEST``, ``TOO_LARGE`` or ``TOO_MANY`` for a fact that can't be stored.
        Other errors are those of :meth:`AppendSession.append`; what was appended before that is in ``details``.
        """
        outgoing = _checked(stream, facts)
        async with self.session(stream) as session:
            await session.append(outgoing)
        return session.result

    @contextlib.asynccontextmanager
    async def session(self, stream: StreamName) -> AsyncIterator[AppendSession]:
        """A session for facts in order, of any number; leaving it in peace means that all are stored.

        A ``BsfgError`` that leaves it has the result up to there in its ``details``.
        """
        session = AppendSession(self, stream)
        try:
            try:
                yield session
            except BsfgError:
                # What is under way lies before the error: it is stored first, or it is what went wrong.
                await session.settle()
                raise
            await session.settle()
        except BsfgError as error:
            error.details |= session.result
            raise
        finally:
            session.close()

    async def publisher(
        self, stream: StreamName, stored: Callable[[Sequence[Outgoing], int], None]
    ) -> Publisher:
        found = await self._control.api(f"STREAM.INFO.{physical(stream)}")
        is_atomic = found["config"].get("allow_atomic") is True
        return Publisher(await self._connect(), stream, stored, is_atomic=is_atomic)

    def index(self, stream: StreamName) -> StreamIndex:
        return self._indexes.of(stream)

    def existing_index(self, stream: StreamName) -> StreamIndex | None:
        return self._indexes.existing(stream)

    async def content_at(self, stream: StreamName, sequence: int) -> bytes | None:
        """The content of the fact with this sequence, as an index knows it; None if it is not there any more."""
        fact = await self._source.fact_at(stream, sequence)
        return None if fact is None else content_of_fact(fact)


class _Plan(NamedTuple):
    """What a run comes to by what is known: facts to publish, sequences that are there, and where it ends early."""

    fresh: list[Outgoing]
    repeated: list[Outgoing]
    """Repetitions of a fact of this very run."""
    originals: list[int]
    conflict: tuple[Outgoing, int | None] | None
    """A fact whose id stands for other content, and where that is, unless in this very run."""


class AppendSession:
    """One producer's facts, in order; made by :meth:`LocalAppends.session`."""

    def __init__(self, appends: LocalAppends, stream: StreamName) -> None:
        self._appends = appends
        self._stream = stream
        self._publisher: Publisher | None = None
        self._appended = 0
        self._first: int | None = None
        self._last: int | None = None
        self._duplicates = 0
        self._originals = (0, 0)
        """The lowest and the highest sequence of an original."""
        self._of_run: dict[bytes, int] = {}
        """Where the present run's facts with ids are."""
        self._generation = 0

    @property
    def result(self) -> Result:
        """What is known to be stored; where nothing is new, the sequences are those of the originals."""
        first, last = self._first, self._last
        if not self._appended and self._duplicates:
            first, last = self._originals
        return {
            "appended": self._appended,
            "first_sequence": first,
            "last_sequence": last,
            "duplicates": self._duplicates,
        }

    @property
    def in_flight(self) -> Any:
        """A future that is done when what is under way is answered; None while nothing is."""
        return self._publisher.in_flight if self._publisher is not None else None

    async def append(self, facts: Sequence[Outgoing]) -> None:
        """Append in order; facts without ids may still be under way on return, until ``settle`` or the next call.

        Raises ``StoreFull`` when the stream takes no more, ``CONFLICTING_DUPLICATE`` for an id that stands for other
        content, ``SubstrateUnavailable``, and ``OutcomeUnknown`` when acknowledgements are missing. Everything before
        the fact that ``details["facts"]`` begins with is stored then, and nothing behind it: but where the stream has
        no batches, some of the messages behind it may be, and are counted.
        """
        for start, stop in _runs(facts):
            run = facts[start:stop]
            if run[0].key:
                await self._identified(run)
            else:
                await self._plain(run)

    async def settle(self) -> None:
        """Everything is stored, or the error says what is not."""
        if self._publisher is not None:
            await self._publisher.settle()

    def close(self) -> None:
        if self._publisher is not None:
            self._publisher.close()

    async def _ready(self) -> Publisher:
        publisher = self._publisher
        if publisher is not None and publisher.is_closed:
            await publisher.settle()
            publisher = None
        if publisher is None:
            publisher = self._publisher = await self._appends.publisher(self._stream, self._stored)
        return publisher

    async def _plain(self, facts: Sequence[Outgoing]) -> None:
        publisher = await self._ready()
        self._mark_generation()
        if publisher.fits_batch(facts):
            await publisher.batch(facts)
        elif publisher.is_atomic:
            for fact in facts:
                await publisher.single(fact)
        else:
            await publisher.together(facts)

    async def _identified(self, facts: Sequence[Outgoing]) -> None:
        """Facts with ids: those that the stream does not hold yet are published."""
        await self.settle()
        self._of_run.clear()
        index = self._appends.index(self._stream)
        async with index.turn:
            for _ in range(LOOKS_MAX):
                plan = _planned(facts, await index.known([fact.key for fact in facts]))
                try:
                    await self._carry_out(plan)
                    return
                except BsfgError as error:
                    if error.details.get("jetstream_code") not in BATCH_REFUSED_FOR_IDS:
                        raise
            # JetStream's window knows an id that the stream does not show: it says which one message by message.
            await self._carry_out(plan, singly=True)

    async def _carry_out(self, plan: _Plan, *, singly: bool = False) -> None:
        publisher = await self._ready()
        self._mark_generation()
        if plan.fresh and not singly and publisher.fits_batch(plan.fresh):
            await publisher.batch(plan.fresh)
            await publisher.settle()
        else:
            for fact in plan.fresh:
                await self._single(publisher, fact)
        self._count_originals([*plan.originals, *(self._of_run[fact.key] for fact in plan.repeated)])
        if plan.conflict is not None:
            fact, sequence = plan.conflict
            raise _conflict(self._stream, fact, sequence or self._of_run[fact.key])

    async def _single(self, publisher: Publisher, fact: Outgoing) -> None:
        sequence = await publisher.single(fact)
        if sequence is None:
            return
        content = await self._appends.content_at(self._stream, sequence)
        if content is None:
            raise SubstrateUnavailable(
                f"append to {self._stream}: JetStream remembers message id {printable(fact.message_id)} at sequence "
                f"{sequence}, but the fact is not there any more",
                hint="try again when the stream's duplicate window is over",
                facts=[fact.number, fact.number],
            )
        if content != fact.content:
            raise _conflict(self._stream, fact, sequence)
        self._of_run[fact.key] = sequence
        self._count_originals([sequence])

    def _count_originals(self, sequences: Sequence[int]) -> None:
        if sequences:
            lowest, highest = self._originals
            self._originals = (min(lowest or sequences[0], *sequences), max(highest, *sequences))
            self._duplicates += len(sequences)

    def _stored(self, facts: Sequence[Outgoing], first: int) -> None:
        """Count what was acknowledged, and let the index know, where there is one."""
        last = first + len(facts) - 1
        self._appended += len(facts)
        self._first = first if self._first is None else min(first, self._first)
        self._last = last if self._last is None else max(last, self._last)
        index = self._appends.existing_index(self._stream)
        if index is not None:
            entries = [(fact.key, Entry(first + place, fact.content)) for place, fact in enumerate(facts) if fact.key]
            self._of_run.update((key, entry.sequence) for key, entry in entries)
            index.note(self._generation, first, last, _anchor(facts[-1]), entries)

    def _mark_generation(self) -> None:
        """Facts that were published before the index began anew are not noted in it: it reads them."""
        index = self._appends.existing_index(self._stream)
        generation = index.generation if index is not None else 0
        if self.in_flight is None or generation == self._generation:
            self._generation = generation
        else:
            self._generation = NO_GENERATION


def _planned(facts: Sequence[Outgoing], known: Mapping[bytes, Entry]) -> _Plan:
    plan = _Plan([], [], [], None)
    seen: dict[bytes, bytes] = {}
    for fact in facts:
        entry = known.get(fact.key)
        content = seen.get(fact.key) if entry is None else entry.content
        if content is None:
            plan.fresh.append(fact)
            seen[fact.key] = fact.content
        elif content != fact.content:
            return plan._replace(conflict=(fact, entry.sequence if entry is not None else None))
        elif entry is None:
            plan.repeated.append(fact)
        else:
            plan.originals.append(entry.sequence)
    return plan


def _conflict(stream: StreamName, fact: Outgoing, sequence: int) -> BsfgError:
    return BsfgError(
        Code.CONFLICTING_DUPLICATE,
        f"append to {stream}: message id {printable(fact.message_id)} stands for other content, at sequence {sequence}",
        hint="a fact never changes: other content needs an id of its own",
        facts=[fact.number, fact.number],
        message_id=fact.message_id,
        original_sequence=sequence,
    )


def _anchor(fact: Outgoing) -> bytes:
    return anchor_of(fact.subject.decode(), fact.block, fact.payload)


def _runs(facts: Sequence[Outgoing]) -> Iterator[tuple[int, int]]:
    """Stretches of facts that all have a message id, or all have none, within the limits of a run."""
    start, size = 0, 0
    for index, fact in enumerate(facts):
        fact_bytes = len(fact.payload) + len(fact.block)
        is_full = index - start >= RUN_FACTS_MAX or size + fact_bytes > RUN_BYTES_MAX
        if index > start and (is_full or bool(fact.key) != bool(facts[start].key)):
            yield start, index
            start, size = index, 0
        size += fact_bytes
    if start < len(facts):
        yield start, len(facts)


def _checked(stream: StreamName, facts: Sequence[NewFact]) -> list[Outgoing]:
    if len(facts) > FACTS_MAX:
        raise BsfgError(Code.TOO_MANY, f"append: {len(facts)} facts in one call; {FACTS_MAX} is the most")
    outgoing = [
        prepare(stream, NewFact(*fact), number, f"append: fact {number}") for number, fact in enumerate(facts, start=1)
    ]
    total = sum(len(fact.payload) + len(fact.block) for fact in outgoing)
    if total > CALL_BYTES_MAX:
        raise BsfgError(
            Code.TOO_LARGE, f"append: {total} bytes in one call; {CALL_BYTES_MAX} is the most", hint="split it"
        )
    return outgoing
