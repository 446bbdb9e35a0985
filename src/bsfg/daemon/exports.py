"""The sender's view: for each peer and stream, what the peer has confirmed and what waits for it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from bsfg.errors import BsfgError
from bsfg.model.moment import format_time
from bsfg.model.names import StreamName, ZoneId
from bsfg.model.page import LogDescription
from bsfg.ports import Clock, Confirmations, Confirmed, ExportedLog

REFRESH_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class ExportRow:
    """One stream exported to one peer, at one moment."""

    peer: ZoneId
    stream: StreamName
    log: LogDescription
    confirmed: Confirmed | None

    @property
    def backlog_facts(self) -> int:
        """Facts that the peer has not confirmed; an upper bound where the log has holes."""
        if self.confirmed is None or self.confirmed.epoch != self.log.epoch:
            return self.log.messages
        return max(0, min(self.log.messages, self.log.last_sequence - self.confirmed.sequence))

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
            "replicas": self.log.replicas,
            "durability": self.log.durability,
        }


@dataclass
class Exports:
    """The rows as last refreshed; empty while the store can't be asked, so that nothing old is shown as new."""

    log: ExportedLog
    confirmations: Confirmations
    clock: Clock
    rows: list[ExportRow] = field(default_factory=list)

    async def refresh(self, exported: Iterable[tuple[ZoneId, StreamName]]) -> None:
        rows, described = [], dict[StreamName, LogDescription]()
        try:
            for peer, stream in exported:
                if stream not in described:
                    described[stream] = await self.log.describe(stream)
                rows.append(
                    ExportRow(peer, stream, described[stream], await self.confirmations.load(peer, stream))
                )
        except BsfgError:
            rows = []
        self.rows = rows
