"""What one line of the runbook is as a value, and what its probe gets and gives (docs/adding-a-check.md).

A probe looks through the context's surroundings and gives a :class:`Finding`: a judgement, made by a pure function of
what was seen, and the evidence. A drill does the same for several lines at once. Both raise only ``BsfgError``, which
stands for "could not look" and never for a failure.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from bsfg.checks.model import Evidence, Judgement, Outcome, Severity, Side
from bsfg.checks.surroundings import Credentials, Surroundings
from bsfg.config.bringup import Inputs
from bsfg.config.values import Configuration, LinkConfig, PeerConfig
from bsfg.model.names import ZoneId

PROBE_SECONDS: Final = 30.0
FRESH_SECONDS: Final = 3600.0


@dataclass(frozen=True, slots=True)
class Finding:
    """What a probe brings back."""

    judgement: Judgement
    evidence: tuple[Evidence, ...] = ()


@dataclass(frozen=True, slots=True)
class Options:
    """What the operator said on the command line."""

    confirm_window: str | None = None
    """The change window's reference; drills outside a lab need one."""
    denial: Credentials | None = None
    """An identity of a trusted CA that the peer has not listed."""


@dataclass
class Context:
    """One run as its probes see it."""

    peer: PeerConfig
    configuration: Configuration
    """As the files say now; ``active`` is what the gateway runs."""
    inputs: Inputs
    surroundings: Surroundings
    options: Options = field(default_factory=Options)
    memory: dict[str, Any] = field(default_factory=dict)
    """What one probe of this run leaves for later ones, by names that begin with the check's id."""

    @property
    def zone(self) -> ZoneId:
        return self.configuration.zone.zone

    @property
    def is_lab(self) -> bool:
        return self.configuration.zone.lab

    @property
    def home(self) -> Path:
        return self.configuration.home

    @property
    def links(self) -> list[LinkConfig]:
        """What we read from this peer."""
        return [link for link in self.configuration.links.values() if link.name.peer == self.peer.id]

    def evidence(self, what: str, seen: Any, source: str) -> Evidence:
        """Something that was seen just now."""
        return Evidence(what, seen, self.surroundings.now(), source)


Probe = Callable[[Context], Awaitable[Finding]]
Drill = Callable[[Context], Awaitable[Mapping[str, Finding]]]
"""Findings by the id of each check that the drill decides; restores everything itself, also when cancelled."""


@dataclass(frozen=True, slots=True)
class Check:
    """One numbered step of the runbook, or a part of one that can fail for a reason of its own."""

    id: str
    section: str
    title: str
    """A sentence that is true when it passes."""
    severity: Severity
    side: Side
    probe: Probe | Drill
    hint: str
    """What a tired operator does next when it fails."""
    requires: tuple[str, ...] = ()
    changes: bool = False
    """It changes something somewhere: it also needs every halting check of the sections before its own."""
    drill: str | None = None
    """The checks of one drill share its name and its probe, which then is a :data:`Drill` and runs once."""
    seconds: float = PROBE_SECONDS
    """How long the probe, or the whole drill, may take."""
    fresh_seconds: float = FRESH_SECONDS
    """How long its result may stand for a later run's."""


def step(
    section: str,
    identifier: str,
    title: str,
    probe: Probe,
    hint: str,
    requires: tuple[str, ...],
    severity: Severity = Severity.WARN,
    side: Side = Side.HERE,
    *,
    changes: bool = False,
    seconds: float = PROBE_SECONDS,
) -> Check:
    """A check in the order in which the runbook is read; a warning about this zone unless it says otherwise."""
    return Check(identifier, section, title, severity, side, probe, hint, requires, changes, seconds=seconds)


def passed(summary: str) -> Judgement:
    return Judgement(Outcome.PASSED, summary)


def excepted(summary: str) -> Judgement:
    """It holds, with a reservation that the handoff names."""
    return Judgement(Outcome.PASSED_WITH_EXCEPTION, summary)


def failed(summary: str, found: str, expected: str, hint: str | None = None) -> Judgement:
    """Not as it should be; where the runbook has no "Halt if", the runner makes it a warning."""
    return Judgement(Outcome.FAILED, summary, found, expected, hint)


def not_run(summary: str, hint: str | None = None) -> Judgement:
    """Its means are missing, or nothing could be seen."""
    return Judgement(Outcome.NOT_RUN, summary, hint=hint)
