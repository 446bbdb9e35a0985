"""How pages are appended to an inbound stream: chosen by the configured durability and by what the server offers."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from bsfg.substrates.inbound_messages import Strategy

BATCH_MESSAGES_MAX: Final = 1_000
"""The most that nats-server takes in one atomic batch by itself; as near to it as possible is fastest."""
LARGE_BATCH_MESSAGES_MAX: Final = 5_000
"""What the embedded server is configured to take: a page of a link is one batch then, and costs one fsync."""
PIPELINED_MESSAGES_MAX: Final = 2_000
CHUNKS_IN_FLIGHT_MAX: Final = 4
"""With chunks of at most 5,000 messages and 8 MiB this stays far below the server's ingest queue (100,000, 128 MB)."""
SINGLES_IN_FLIGHT_MAX: Final = 125

_WORDS: Final = {
    Strategy.ATOMIC: "atomic batches",
    Strategy.EACH: "an acknowledgement for each message",
    Strategy.PIPELINED: "an acknowledgement for each page",
}


class Exclusivity(Enum):
    """Whether anybody else can publish to an inbound stream, a second gateway of the zone included.

    PROVED: nobody can, by the embedded server's permissions and by the lock on its home. DECLARED: the operator says
    so of an external server (``inbound_exclusive``); what that allows is done only where atomic batches do not make it
    needless.
    """

    NONE = "none"
    DECLARED = "declared"
    PROVED = "proved"


@dataclass(frozen=True, slots=True)
class AppendPlan:
    """What is written before what is acknowledged."""

    strategy: Strategy
    careful: Strategy
    """Right after a failure: the one acknowledgement of a pipelined chunk does not say why."""
    chunks_in_flight: int
    singles_in_flight: int
    """Messages of a chunk that is acknowledged message by message."""
    batch_messages: int
    """Messages of an atomic batch."""

    def messages_max(self, strategy: Strategy) -> int:
        """How many messages a chunk of this kind may hold."""
        others = {Strategy.ATOMIC: self.batch_messages, Strategy.PIPELINED: PIPELINED_MESSAGES_MAX}
        return others.get(strategy, self.singles_in_flight)

    def __str__(self) -> str:
        many = f"{self.chunks_in_flight} under way" if self.chunks_in_flight > 1 else "one at a time"
        return f"{_WORDS[self.strategy]} ({many})"


def plan_appends(preferred: Strategy, exclusivity: Exclusivity, *, has_batches: bool) -> AppendPlan:
    """The fastest way that is exact. ``has_batches``: the server and the stream take atomic batches."""
    is_atomic = has_batches and preferred is not Strategy.EACH
    is_proved, is_declared = exclusivity is Exclusivity.PROVED, exclusivity is Exclusivity.DECLARED
    is_alone = is_proved or (is_declared and not has_batches)
    careful = Strategy.ATOMIC if is_atomic else Strategy.EACH
    return AppendPlan(
        strategy=Strategy.PIPELINED if preferred is Strategy.PIPELINED and is_alone else careful,
        careful=careful,
        chunks_in_flight=CHUNKS_IN_FLIGHT_MAX if is_alone else 1,
        singles_in_flight=SINGLES_IN_FLIGHT_MAX if is_alone else 1,
        batch_messages=LARGE_BATCH_MESSAGES_MAX if is_proved else BATCH_MESSAGES_MAX,
    )
