"""The receiver's NATS as a model that misbehaves: one inbound stream, the link record beside it, and a full disk.

Every message is held against its fence when it arrives, and nothing else: there is no window that remembers what was
stored before, so nothing here relies on one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Final

from tests.simulation.ledger import Ledger
from tests.simulation.source_store import OVERSIZED

from bsfg.errors import BsfgError, Code, Fenced, StoreFull
from bsfg.model.cursor import Begun, Cursor, Fence, LinkRecord, LocalPosition
from bsfg.model.fact import Fact, digest

FOREIGN = ("foreign", Fact(0, "foreign", 0, b"", b""))

IN_ORDER_SECONDS: Final = 1e-6
"""Timers of one moment need not go off in their order; what waits in one queue must."""

Answer = Fence | BsfgError | None
"""What the store says to an append; None stands for no answer at all."""


@dataclass
class Kept:
    """What outlives a power cut: how much of the stream is synced, and the record as it is on disk."""

    messages: int = 0
    record: LinkRecord | None = None
    revision: int = 0


class ReceiverStore:
    """What the receiver's NATS holds."""

    def __init__(self, ledger: Ledger, random: Random, *, is_strict: bool) -> None:
        self.ledger = ledger
        self.random = random
        self.is_strict = is_strict
        self.stream: list[tuple[str, Fact]] = []
        self.created = 1
        self.purged = 0
        """Messages that were purged from the front; sequences go on behind them."""
        self.record: LinkRecord | None = None
        self.revision = 0
        """Another one whenever the record is another one, whoever has changed it."""
        self.kept = Kept()
        self.begun: Begun | None = None
        """What the gateway has noted outside its store, durably."""
        self.taken_by_hand: set[tuple[str, int]] = set()
        """What was here until an operator took it away."""
        self.is_up = True
        self.is_wedged = False
        """The disk was full: appends are not answered until the server is restarted, room or not (measured)."""
        self.has_room = True
        self.die_in_append = False
        self._queued_until = 0.0

    @property
    def last_sequence(self) -> int:
        return self.purged + len(self.stream)

    # What the gateway asks.

    def queue(self, arrives_at: float) -> float:
        """When a publish is stored that arrives then: a stream takes them in one by one, whoever sent them.

        What reads the stream's end does not stand in this queue, so it can overtake what is under way.
        """
        self._queued_until = max(self._queued_until + IN_ORDER_SECONDS, arrives_at)
        return self._queued_until

    def take(self, fence: Fence, epoch: str, facts: Sequence[Fact]) -> Answer:
        """An append arrives: all of it, a prefix of it, or nothing is stored."""
        if not self.is_up or self.is_wedged:
            return None
        for fact in facts:
            if fact.payload.startswith(OVERSIZED):
                return BsfgError(Code.TOO_LARGE, f"fact {fact.sequence} is too large", sequence=fact.sequence)
        if fence.local_sequence != self.last_sequence:
            return Fenced(f"the last sequence is {self.last_sequence}, not {fence.local_sequence}")
        count = len(facts)
        if self.die_in_append or not self.has_room:
            count = 0 if self.is_strict else self.random.randrange(count + 1)
        for fact in facts[:count]:
            tip = self.stream[-1] if self.stream else None
            self.ledger.appending(tip if tip is not FOREIGN else None, epoch, fact, int(fact.payload))
            self.stream.append((epoch, fact))
        if self.is_strict:
            self.sync()
        if self.die_in_append:
            self.die_in_append, self.is_up = False, False
            return None
        if not self.has_room and count < len(facts):
            return StoreFull("the inbound stream is full")
        return Fence(fence.generation, fence.created, fence.local_sequence + count)

    def position(self, record: LinkRecord | None, revision: int) -> LocalPosition:
        """The end of the stream, beside the record as it was read before."""
        fence = Fence(1, str(self.created), self.last_sequence)
        removed = f"messages 1 to {self.purged} were removed" if self.purged else None
        if record is not None or (self.stream and self.stream[-1] is not FOREIGN):
            self.note_begun(record)
        is_shown = self.last_sequence or (record is not None and record.init is not None)
        begun = None if is_shown else self.begun
        position = LocalPosition(fence, len(self.stream), None, record, None, removed, revision, begun)
        if not self.stream:
            return position
        epoch, fact = self.stream[-1]
        if self.stream[-1] is FOREIGN:
            return replace(position, foreign=f"message {fence.local_sequence} is foreign")
        return replace(position, tip=Cursor(epoch, fact.sequence, digest(fact), fact.sequence))

    def save(self, record: LinkRecord, revision: int | None) -> int:
        if revision is not None and revision != self.revision:
            raise Fenced(f"the record has revision {self.revision}, not {revision}")
        self.put_record(record)
        if record.init is not None:
            self.ledger.began(record.init.epoch, record.init.start_sequence)
        if self.is_strict:
            self.sync_record()
        return self.revision

    def note_begun(self, record: LinkRecord | None) -> None:
        init = record.init if record is not None else None
        if init is not None or self.begun is None:
            self.begun = Begun(init)

    def put_record(self, record: LinkRecord | None) -> None:
        self.record = record
        self.revision += 1

    # What happens to it.

    def sync(self) -> None:
        self.kept = Kept(self.last_sequence, self.record, self.revision)

    def sync_stream(self) -> None:
        self.kept.messages = self.last_sequence

    def sync_record(self) -> None:
        self.kept.record, self.kept.revision = self.record, self.revision

    def restart(self) -> None:
        self.is_up, self.is_wedged = True, False

    def lose_power(self) -> int:
        """Everything that was not synced is gone, stream and record each by its own; returns how many messages."""
        self.is_up = False
        lost = self.last_sequence - max(self.kept.messages, self.purged)
        if lost > 0:
            del self.stream[len(self.stream) - lost :]
            self.ledger.tails_lost += 1
        self.ledger.records_lost += self.record != self.kept.record
        self.record, self.revision = self.kept.record, self.kept.revision
        return max(0, lost)

    def recreate(self) -> None:
        self.purge()
        self.created, self.purged, self.kept.messages = self.created + 1, 0, 0

    def purge(self) -> None:
        self.taken_by_hand |= {(epoch, fact.sequence) for epoch, fact in self.stream}
        self.ledger.tails_lost += 1
        self.purged = self.last_sequence
        self.stream.clear()
        self.sync_stream()

    def write_foreign(self) -> None:
        self.stream.append(FOREIGN)
