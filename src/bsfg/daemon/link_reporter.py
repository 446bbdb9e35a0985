"""Turns what drivers report into metrics and log lines; the drivers may run here or in a worker process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from prometheus_client import Counter
from structlog.typing import FilteringBoundLogger

from bsfg.core.link_state import Link, state_of
from bsfg.daemon.journal import place_of
from bsfg.daemon.telemetry import Telemetry
from bsfg.errors import BsfgError
from bsfg.model.cursor import LinkName, LinkState
from bsfg.model.names import ZoneId

_IN_ORDER: Final = (LinkState.LEVEL, LinkState.CATCHING_UP)


def _nobody(name: LinkName) -> None:
    """Nobody listens."""


def _none(name: LinkName) -> int:
    """Nobody counts."""
    return 0


@dataclass(frozen=True, slots=True)
class StateChange:
    """A link's state became another; why it is halted, and what hinders it."""

    before: LinkState
    state: LinkState
    reason: str | None
    cause: str | None

    @classmethod
    def of(cls, before: LinkState, link: Link) -> StateChange:
        state = state_of(link)
        cause = link.error.message if link.error and state not in _IN_ORDER else None
        return cls(before, state, link.halt.reason.value if link.halt else None, cause)


@dataclass
class LinkReporter:
    """The observer of every link's driver (``driver.LinkObserver``)."""

    journal: FilteringBoundLogger
    telemetry: Telemetry
    peer_answered_by: Callable[[ZoneId], None]
    peer_silent_by: Callable[[ZoneId, BsfgError], None]
    became_level: Callable[[LinkName], None] = _nobody
    duplicates_of: Callable[[LinkName], int] = _none
    """How many facts a link has dropped as duplicates since it runs."""
    _duplicates: dict[LinkName, int] = field(default_factory=dict)
    _fetched: dict[tuple[LinkName, str], Counter] = field(default_factory=dict)
    """The counter of each link and result: looking one up costs more than counting, and polls are many."""

    def announced(self, name: LinkName, event: str, message: str) -> None:
        write = self.journal.error if event == "link_halted" else self.journal.info
        write(event, peer=name.peer, stream=name.stream, message=message)

    def state_changed(self, name: LinkName, before: LinkState, link: Link) -> None:
        self.changed_to(name, StateChange.of(before, link))

    def changed_to(self, name: LinkName, change: StateChange) -> None:
        if change.state is LinkState.LEVEL:
            self.became_level(name)
        if change.before in _IN_ORDER and change.state in _IN_ORDER:
            # Every fact takes a link from level to catching up and back: that is what a link does, and no news.
            return
        self.journal.info(
            "link_state",
            peer=name.peer,
            stream=name.stream,
            message=f"link is {change.state}" + (f": {change.cause}" if change.cause else ""),
            before=change.before.value,
            state=change.state.value,
            reason=change.reason,
        )

    def peer_answered(self, name: LinkName) -> None:
        self.peer_answered_by(name.peer)

    def peer_silent(self, name: LinkName, error: BsfgError) -> None:
        self.peer_silent_by(name.peer, error)

    def fetched(self, name: LinkName, seconds: float, error: BsfgError | None) -> None:
        result = error.code.label if error else "ok"
        counter = self._fetched.get((name, result))
        if counter is None:
            counter = self.telemetry.fetch_requests.labels(name.peer, name.stream, result)
            self._fetched[(name, result)] = counter
        counter.inc()
        self._count_duplicates(name)

    def _count_duplicates(self, name: LinkName) -> None:
        total = self.duplicates_of(name)
        growth = total - self._duplicates.get(name, 0)
        self._duplicates[name] = total
        if growth > 0:
            self.telemetry.facts_duplicate.labels(name.peer, name.stream).inc(growth)

    def appended(self, name: LinkName, facts: int, seconds: float, error: BsfgError | None) -> None:
        labels = (name.peer, name.stream)
        self.telemetry.append_requests.labels(*labels).inc()
        if error is not None:
            self.telemetry.append_failures.labels(*labels, error.code.label).inc()
            return
        self.telemetry.append_latency.labels(*labels).observe(seconds)
        self.telemetry.facts_appended.labels(*labels).inc(facts)

    def confirmed(self, name: LinkName, error: BsfgError | None) -> None:
        result = error.code.label if error else "ok"
        self.telemetry.confirm_requests.labels(name.peer, name.stream, result).inc()

    def set_aside(self, name: LinkName, sequence: int) -> None:
        self.journal.error(
            "fact_set_aside",
            peer=name.peer,
            stream=name.stream,
            message=f"fact {sequence} can't be stored here; its bytes are in the quarantine",
        )

    def arrived(self, name: LinkName, seconds: float) -> None:
        self.telemetry.canary.labels(name.peer, name.stream).observe(seconds)

    def failed_unexpectedly(self, name: LinkName, step: str, error: BaseException) -> None:
        self.faulted(name, f"{step} failed unexpectedly: {error!r}{place_of(error)}")

    def faulted(self, name: LinkName, message: str) -> None:
        self.journal.error("link_fault", peer=name.peer, stream=name.stream, message=message)
