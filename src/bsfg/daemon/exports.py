"""The sender's view: for each peer and stream, what the peer has confirmed and what waits for it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Final

from bsfg.errors import BsfgError
from bsfg.model.fact import Fact
from bsfg.model.moment import NANOSECONDS, format_time
from bsfg.model.names import StreamName, ZoneId
from bsfg.model.page import LogDescription, PageLimits
from bsfg.ports import Clock, Confirmations, Confirmed, ExportedLog

REFRESH_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class ExportRow:
    """One stream exported to one peer, at one moment."""

    peer: ZoneId
    stream: StreamName
    log: LogDescription
    confirmed: Confirmed | None
    oldest_seconds: float | None = None
    """Age of the oldest fact that the peer has not confirmed; None while there is none, or nobody knows."""
    max_age_seconds: float | None = None
    """After this age the stream removes a fact, confirmed or not; None: it never does."""

    @property
    def backlog_facts(self) -> int:
        """Facts that the peer has not confirmed; an upper bound where the log has holes."""
        if self.confirmed is None or self.confirmed.epoch != self.log.epoch:
            return self.log.messages
        return max(0, min(self.log.messages, self.log.last_sequence - self.confirmed.sequence))

    @property
    def first_unconfirmed(self) -> int:
        """The sequence behind what the peer has confirmed; there may be a hole."""
        if self.confirmed is None or self.confirmed.epoch != self.log.epoch:
            return self.log.first_sequence
        return self.confirmed.sequence + 1

    @property
    def headroom_seconds(self) -> float | None:
        """How long until a fact that waits for the peer is removed by age; None while none waits or none is."""
        if self.oldest_seconds is None or self.max_age_seconds is None:
            return None
        return max(0.0, self.max_age_seconds - self.oldest_seconds)

    def as_json(self) -> dict[str, Any]:
        confirmed = self.confirmed
        return {
            "peer": self.peer,
            "stream": self.stream,
            "epoch": self.log.epoch,
            "head": self.log.last_sequence,
            "confirmed": confirmed.sequence if confirmed else None,
            "confirmed_at": format_time(confirmed.time) if confirmed else None,
            "backlog_facts": self.backlog_facts,
            "backlog_oldest_seconds": self.oldest_seconds,
            "headroom_seconds": self.headroom_seconds,
            "replicas": self.log.replicas,
            "durability": self.log.durability,
        }


def _forever(stream: StreamName) -> float | None:
    """No stream removes anything."""
    return None


@dataclass
class Exports:
    """The rows as last refreshed; empty while the store can't be asked, so that nothing old is shown as new."""

    log: ExportedLog
    confirmations: Confirmations
    clock: Clock
    max_age_seconds: Callable[[StreamName], float | None] = _forever
    rows: list[ExportRow] = field(default_factory=list)
    wanted: tuple[tuple[ZoneId, StreamName], ...] = ()
    """What was asked for last, whether or not the store answered."""
    _read_at: float | None = None
    _stored: dict[tuple[ZoneId, StreamName], tuple[str, int, int]] = field(default_factory=dict)
    """The oldest unconfirmed fact as last looked up: epoch, sequence, time in nanoseconds since 1970."""

    async def refresh(self, exported: Iterable[tuple[ZoneId, StreamName]]) -> None:
        rows, described = [], dict[StreamName, LogDescription]()
        self.wanted = tuple(exported)
        try:
            for peer, stream in self.wanted:
                if stream not in described:
                    described[stream] = await self.log.describe(stream)
                rows.append(await self._row(peer, described[stream]))
        except BsfgError:
            rows = []
        else:
            self._read_at = self.clock.monotonic()
        self.rows = rows

    @property
    def age_seconds(self) -> float | None:
        """How old the rows are, or would be; None while they were never read."""
        return None if self._read_at is None else self.clock.monotonic() - self._read_at

    async def _row(self, peer: ZoneId, log: LogDescription) -> ExportRow:
        row = ExportRow(peer, log.stream, log, await self.confirmations.load(peer, log.stream))
        if row.backlog_facts == 0:
            return row
        oldest = await self._stored_at(peer, log, row.first_unconfirmed)
        return replace(
            row,
            oldest_seconds=None if oldest is None else max(0.0, (self.clock.now() - oldest) / NANOSECONDS),
            max_age_seconds=self.max_age_seconds(log.stream),
        )

    async def _stored_at(self, peer: ZoneId, log: LogDescription, sequence: int) -> int | None:
        """When this fact was stored, or the next one where it is a hole; one look-up for each new sequence."""
        if sequence <= log.first_sequence:
            return log.first_time
        if sequence == log.last_sequence:
            return log.last_time
        epoch, known, time = self._stored.get((peer, log.stream), ("", 0, 0))
        if (epoch, known) == (log.epoch, sequence):
            return time
        fact = await self.log.fact_at(log.stream, sequence) or await self._first_from(log.stream, sequence)
        if fact is None:
            return None
        self._stored[peer, log.stream] = (log.epoch, sequence, fact.time)
        return fact.time

    async def _first_from(self, stream: StreamName, sequence: int) -> Fact | None:
        found = await self.log.read(stream, sequence - 1, PageLimits(facts=1, bytes=1))
        return found.facts[0] if found.facts else None
