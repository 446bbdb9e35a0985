"""Generations of inbound streams in the in-memory twin; as ``substrates/generations.py``, by the same suite."""

from __future__ import annotations

from bsfg.model.cursor import LinkName
from bsfg.model.names import inbound_physical
from bsfg.substrates.generations import (
    EPOCHS_KEY,
    EPOCHS_MAX,
    GenerationRow,
    InboundFact,
    Plan,
    begin_log,
    coordinates,
)
from bsfg.substrates.inbound_log import BUILDING_KEY
from bsfg.substrates.memory import MemoryZone
from bsfg.substrates.memory_stream import MemoryStream


class MemoryGenerations:
    """Every generation of every link of a zone in memory."""

    def __init__(self, zone: MemoryZone) -> None:
        self.inbound = zone
        self._plans: dict[LinkName, Plan] = {}
        self._highest: dict[LinkName, int] = {}

    # Plans.

    async def plans(self) -> dict[LinkName, Plan]:
        """Every generation that somebody wanted and that is not complete yet."""
        return dict(self._plans)

    async def plan(self, link: LinkName) -> Plan | None:
        return self._plans.get(link)

    async def next_number(self, link: LinkName) -> int:
        """A number that no generation of this link ever had."""
        record = await self.inbound.record(link)
        existing = await self.inbound.generations(link)
        return max([*existing, self._highest.get(link, 0), record.generation if record else 0]) + 1

    async def save_plan(self, link: LinkName, plan: Plan) -> None:
        self._plans[link], self._highest[link] = plan, plan.generation

    async def end_plan(self, link: LinkName) -> None:
        """Nothing is being built any more; the numbers that were used stay known."""
        self._plans.pop(link, None)
        self.inbound.building(0).records.pop(link, None)

    # Streams.

    async def open(self, link: LinkName, plan: Plan) -> MemoryZone:
        """The log of the generation that is being built; its stream exists, and its record says where it starts."""
        log = self.inbound.building(plan.generation)
        await begin_log(log, link, plan)
        return log

    async def complete(self, link: LinkName, generation: int) -> None:
        """The generation is no longer marked as being built; it is in force only by the link record."""
        self._stream(link, generation).metadata[BUILDING_KEY] = "no"

    async def rows(self, link: LinkName) -> list[GenerationRow]:
        """Every generation of the link that exists, in order."""
        return [self._row(link, generation) for generation in await self.inbound.generations(link)]

    def _row(self, link: LinkName, generation: int) -> GenerationRow:
        stream = self._stream(link, generation)
        return GenerationRow(
            generation=generation,
            jetstream=stream.name,
            is_building=stream.metadata.get(BUILDING_KEY) == "yes",
            created=stream.created,
            messages=len(stream.messages),
            bytes=stream.total_bytes,
            first_sequence=stream.first_sequence,
            last_sequence=stream.last_sequence,
        )

    async def drop(self, link: LinkName, generation: int) -> None:
        """The generation is gone with all that it held; one that is not there is gone already."""
        if generation in await self.inbound.generations(link):
            self.inbound.drop(inbound_physical(link.peer, link.stream, generation))

    async def forget(self, link: LinkName) -> None:
        """The link is as one that never was."""
        await self.inbound.forget(link)

    # Epochs of one generation.

    async def past_epochs(self, link: LinkName, generation: int) -> list[str]:
        """The epochs that the generation holds facts of and that its link has left."""
        return self._stream(link, generation).metadata.get(EPOCHS_KEY, "").split()

    async def leave_epoch(self, link: LinkName, generation: int, epoch: str) -> None:
        """From now on the generation is known to hold facts of an epoch that its link leaves."""
        past = await self.past_epochs(link, generation)
        if epoch not in past:
            self._stream(link, generation).metadata[EPOCHS_KEY] = " ".join([*past, epoch][-EPOCHS_MAX:])

    # Facts.

    async def facts(
        self, link: LinkName, generation: int, from_sequence: int, count: int
    ) -> list[InboundFact]:
        """At most ``count`` messages from a local sequence on, with coordinates and digest; empty at the end."""
        messages = list(self._stream(link, generation).behind(from_sequence - 1))[:count]
        return [coordinates(message, link, generation) for message in messages]

    async def first_at(self, link: LinkName, generation: int, epoch: str, sequence: int) -> int:
        """The local sequence from which on the generation holds facts of its last epoch at an origin sequence or later.

        One behind the last message where there is none.
        """
        stream = self._stream(link, generation)
        for message in stream.messages.values():
            fact = coordinates(message, link, generation)
            if fact.epoch == epoch and (fact.sequence or 0) >= sequence:
                return message.sequence
        return stream.last_sequence + 1

    def _stream(self, link: LinkName, generation: int) -> MemoryStream:
        return self.inbound.stream(inbound_physical(link.peer, link.stream, generation))
