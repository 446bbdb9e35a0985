"""What a worker process has to tell its gateway: collected in order, bounded, and sent together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import structlog
from structlog.typing import EventDict, FilteringBoundLogger

from bsfg.core.link_state import Link
from bsfg.daemon.healing import Space, may_be_wedged, no_room
from bsfg.daemon.journal import place_of
from bsfg.daemon.link_reporter import StateChange
from bsfg.daemon.worker_words import Call
from bsfg.errors import BsfgError
from bsfg.model.cursor import LinkName, LinkState
from bsfg.model.names import ZoneId

CALLS_MAX: Final = 10_000
"""More than that in one report means that the gateway does not read; what is beyond is counted and dropped."""


class Reports:
    """The observer of a worker's drivers: the gateway makes of it what it makes of its own drivers' words."""

    def __init__(self) -> None:
        self._calls: list[Call] = []
        self._dropped = 0
        self._answered: set[ZoneId] = set()

    def take(self) -> tuple[Call, ...]:
        """Everything since the last time."""
        calls, self._calls = self._calls, []
        self._answered.clear()
        if self._dropped:
            message = f"{self._dropped} reports of a worker process were dropped: the gateway did not take them"
            calls.append(("line", ("error", "worker_notice", {"message": message})))
            self._dropped = 0
        return tuple(calls)

    def call(self, what: str, *arguments: Any) -> None:
        if len(self._calls) >= CALLS_MAX:
            self._dropped += 1
            return
        self._calls.append((what, arguments))

    def journal(self) -> FilteringBoundLogger:
        """A logger whose lines the gateway writes."""
        journal: FilteringBoundLogger = structlog.wrap_logger(
            None, wrapper_class=structlog.make_filtering_bound_logger("info"), processors=[self._line]
        )
        return journal

    def _line(self, _logger: Any, method: str, event: EventDict) -> str:
        words = {name: _plain(value) for name, value in event.items() if name != "event"}
        self.call("line", method, str(event["event"]), words)
        raise structlog.DropEvent

    # LinkObserver

    def announced(self, name: LinkName, event: str, message: str) -> None:
        self.call("announced", name, event, message)

    def state_changed(self, name: LinkName, before: LinkState, link: Link) -> None:
        self.call("changed_to", name, StateChange.of(before, link))

    def peer_answered(self, name: LinkName) -> None:
        """Every page says so; once a report is enough."""
        if name.peer not in self._answered:
            self._answered.add(name.peer)
            self.call("peer_answered", name)

    def peer_silent(self, name: LinkName, error: BsfgError) -> None:
        self._answered.discard(name.peer)
        self.call("peer_silent", name, error)

    def fetched(self, name: LinkName, seconds: float, error: BsfgError | None) -> None:
        self.call("fetched", name, seconds, error)

    def appended(self, name: LinkName, facts: int, seconds: float, error: BsfgError | None) -> None:
        self.call("appended", name, facts, seconds, error)

    def confirmed(self, name: LinkName, error: BsfgError | None) -> None:
        self.call("confirmed", name, error)

    def set_aside(self, name: LinkName, sequence: int) -> None:
        self.call("set_aside", name, sequence)

    def arrived(self, name: LinkName, seconds: float) -> None:
        self.call("arrived", name, seconds)

    def failed_unexpectedly(self, name: LinkName, step: str, error: BaseException) -> None:
        self.call("faulted", name, f"{step} failed unexpectedly: {error!r}{place_of(error)}")


class ReportingGuard:
    """Around a worker's appends (``healing.AppendGuard``); refuses by itself, and reports to the gateway's healer."""

    def __init__(self, data: Path, reports: Reports) -> None:
        self._data = data
        self._reports = reports
        self._failing: set[str] = set()

    @asynccontextmanager
    async def storing(self, operation: str, place: str) -> AsyncIterator[None]:
        """See ``healing.Healer.storing``."""
        space = Space.of(self._data)
        if space is not None and space.is_full:
            raise no_room(operation, self._data, space)
        try:
            yield
        except BsfgError as error:
            if may_be_wedged(error):
                self._failing.add(place)
                self._reports.call("append_failed", place, error.message)
            raise
        if place in self._failing:
            self._failing.discard(place)
            self._reports.call("append_worked", place)


def _plain(value: object) -> object:
    return value if value is None or isinstance(value, bool | int | float) else str(value)
