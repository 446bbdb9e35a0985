"""What the page shows, and the three things that it can do: the seam between it and the gateway's other parts.

A part that this gateway does not have is None here, and the page leaves its section out.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bsfg.daemon.timeline import Timeline

Rows = Sequence[dict[str, Any]]


@dataclass(frozen=True)
class Artifacts:
    """Artifacts of peers: rows with ``uri, state, peer, error``, counts by state, and a new try."""

    rows: Callable[[], Awaitable[Rows]]
    counts: Callable[[], Mapping[str, int]]
    retry: Callable[[str], Awaitable[Any]]
    """Of one URI."""


@dataclass(frozen=True)
class PageSources:
    """Everything behind the page; each function returns plain JSON values and raises only BsfgError."""

    status: Callable[[], Awaitable[dict[str, Any]]]
    series: Callable[[], dict[str, Any]]
    timeline: Timeline
    partition: Callable[[str, str, float | None], Awaitable[Any]]
    reconcile: Callable[[str], Awaitable[Any]]
    audit: Callable[..., None]
    handoff_directory: Path
    artifacts: Artifacts | None = None
    bringups: Callable[[], Awaitable[Rows]] | None = None
    """Bring-up runs, newest first: rows with ``peer, began, outcome, passed, failed, attested, not_run, halted_at``."""
