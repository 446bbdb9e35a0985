"""The sender's NATS as a model that misbehaves: it loses its tail, is made again, restored, purged, deleted from.

It is the ``ExportedLog`` and the ``Confirmations`` of the real sender's rules.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left, bisect_right
from dataclasses import replace
from random import Random

from tests.simulation.ledger import Ledger
from tests.simulation.virtual_time import VirtualClock

from bsfg.errors import SubstrateUnavailable
from bsfg.model.cursor import InitMode, StartKind
from bsfg.model.fact import Fact
from bsfg.model.names import StreamName, ZoneId
from bsfg.model.page import LogDescription, LogSlice, PageLimits
from bsfg.ports import Confirmed

OVERSIZED = b"oversized "
"""What the payload of a fact begins with that the receiver's store can't take."""


class SourceStore:
    """One exported stream and the confirms beside it."""

    def __init__(self, stream: StreamName, ledger: Ledger, clock: VirtualClock, random: Random) -> None:
        self.stream = stream
        self.history = ledger.history
        self.ledger = ledger
        self.clock = clock
        self.random = random
        self.facts: dict[int, Fact] = {}
        self.order: list[int] = []
        """The sequences that the stream holds, ascending."""
        self.last_sequence = 0
        self.synced_sequence = 0
        self.created = 1
        self.epochs: list[str] = []
        self._epoch_of_created = 0
        self.confirms: dict[tuple[ZoneId, StreamName], Confirmed] = {}
        self.is_up = True
        self.is_hanging = False
        self._answers = asyncio.Event()
        self.delay_seconds = 0.004
        self._grown = asyncio.Event()
        self._lives = 0
        """Servers and histories so far: a reader that stood in another one has to begin anew."""
        self._stands = (0, -1)
        """Behind which sequence the sender's reader stands, and in which life."""

    # What happens to it.

    def publish(self, is_oversized: bool = False) -> int:
        """A local producer's fact; returns its sequence."""
        self.last_sequence += 1
        number = self.history.published(self.last_sequence)
        payload = OVERSIZED * is_oversized + b"%d" % number
        fact = Fact(self.last_sequence, f"{self.stream}.batch", self.clock.now(), b"", payload)
        self.facts[fact.sequence] = fact
        self.order.append(fact.sequence)
        self._grown.set()
        return fact.sequence

    def go_away(self, is_away: bool) -> None:
        self.is_up = not is_away
        self._lives += 1
        self._grown.set()

    def hang(self, is_hanging: bool) -> None:
        self.is_hanging = is_hanging
        if is_hanging:
            self._answers.clear()
        else:
            self._answers.set()

    def sync(self) -> None:
        self.synced_sequence = self.last_sequence

    def lose_tail(self, behind: int) -> int:
        """What lies behind is gone, and its sequences will be used again; returns how many facts that were."""
        self._lives += 1
        lost = [sequence for sequence in self.order if sequence > behind]
        for sequence in lost:
            del self.facts[sequence]
        del self.order[len(self.order) - len(lost) :]
        if self.last_sequence > behind:
            self.history.forked(behind)
            self.last_sequence = behind
        self.synced_sequence = min(self.synced_sequence, behind)
        return len(lost)

    def recreate(self) -> None:
        """Made again under the same name: empty, and its epoch in the metadata no longer belongs to it."""
        self.lose_tail(0)
        self.created += 1

    def begin_epoch(self) -> None:
        """``bsfg stream new-epoch``."""
        self._lives += 1
        self.epochs.append(f"epoch{len(self.epochs) + 1:02d}")
        self._epoch_of_created = self.created

    def delete(self, sequence: int) -> None:
        self.history.deleted.add(self._number(sequence))
        self._remove(sequence)

    def expire(self, below: int) -> None:
        """Retention or a purge took everything below; the last sequence stays."""
        for sequence in self.order[: bisect_left(self.order, below)]:
            self.history.expired.add(self._number(sequence))
            self._remove(sequence)

    def _remove(self, sequence: int) -> None:
        del self.facts[sequence]
        del self.order[bisect_left(self.order, sequence)]

    def _number(self, sequence: int) -> int:
        return int(self.facts[sequence].payload.removeprefix(OVERSIZED))

    # ExportedLog

    @property
    def epoch(self) -> str:
        """Bound to ``created``, as ``substrates/epochs.py`` has it: a new one begins where they don't agree."""
        if self._epoch_of_created != self.created:
            self.begin_epoch()
        return self.epochs[-1]

    @property
    def first_sequence(self) -> int:
        if self.order:
            return self.order[0]
        return self.last_sequence + 1 if self.last_sequence else 0

    async def describe(self, stream: StreamName) -> LogDescription:
        await self._travel()
        first = self.facts[self.order[0]].time if self.order else None
        last = self.facts[self.order[-1]].time if self.order else None
        count = len(self.order)
        return LogDescription(
            stream, str(self.created), self.epoch, self.first_sequence, self.last_sequence, first, last,
            count, count * 100, 1, "strict",
        )  # fmt: skip

    async def fact_at(self, stream: StreamName, sequence: int) -> Fact | None:
        await self._travel()
        return self.facts.get(sequence)

    async def resolve_start(self, stream: StreamName, mode: InitMode, sender_now: int) -> int:
        await self._travel()
        if mode.kind is StartKind.FULL_BACKFILL:
            return max(1, self.first_sequence)
        wanted = mode.from_time(sender_now)
        if wanted is not None:
            for sequence in self.order:
                if self.facts[sequence].time >= wanted:
                    return sequence
        return self.last_sequence + 1

    def forget_reader(self) -> None:
        """The sender's gateway is gone, and its consumer with it."""
        self._stands = (0, -1)

    async def read(self, stream: StreamName, after: int, limits: PageLimits) -> LogSlice:
        """As ``substrates/page_reader.py``: continuous where the reader has stood here since before, in this life."""
        stood, life = self._stands == (after, self._lives), self._lives
        found = await self._read(after, limits)
        self._stands = (found.scanned_through, self._lives)
        reader = f"{self._lives} {self.epochs[-1]}" if found.facts else ""
        return replace(found, is_continuous=stood and life == self._lives, reader=reader)

    async def _read(self, after: int, limits: PageLimits) -> LogSlice:
        await self._travel()
        deadline = self.clock.monotonic() + limits.wait_seconds
        while not (found := self._slice(after, limits.facts)).facts:
            left_seconds = deadline - self.clock.monotonic()
            if left_seconds <= 0:
                break
            self._grown.clear()
            try:
                async with asyncio.timeout(left_seconds):
                    await self._grown.wait()
            except TimeoutError:
                continue
            await self._travel()
        await self._travel()
        return found

    def _slice(self, after: int, count: int) -> LogSlice:
        begin = bisect_right(self.order, after)
        end = min(begin + count, len(self.order))
        facts = [self.facts[sequence] for sequence in self.order[begin:end]]
        scanned = facts[-1].sequence if facts else max(after, self.last_sequence)
        following = self.facts[self.order[end]].time if end < len(self.order) else None
        return LogSlice(facts, scanned, self.last_sequence, len(self.order) - end, following)

    # Confirmations

    async def load(self, peer: ZoneId, stream: StreamName) -> Confirmed | None:
        await self._travel()
        return self.confirms.get((peer, stream))

    async def save(self, peer: ZoneId, stream: StreamName, confirmed: Confirmed) -> None:
        await self._travel()
        self.ledger.confirmed(self.confirms.get((peer, stream)), confirmed)
        self.confirms[peer, stream] = confirmed

    async def _travel(self) -> None:
        """To the server, or back: mostly at once, sometimes with time for the world to change."""
        if self.is_hanging:
            await self._answers.wait()
        if not self.is_up:
            raise SubstrateUnavailable("the sender's NATS is away")
        if self.random.random() < 0.25:
            await asyncio.sleep(self.random.random() * self.delay_seconds)
