"""Bars with rate and time of arrival for somebody who waits: on stderr where that is a terminal, nowhere else."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from typing import TYPE_CHECKING, Any, Final

from bsfg.cli.local_client import LocalClient, route
from bsfg.cli.render import printable
from bsfg.errors import BsfgError

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn

LOOK_SECONDS: Final = 0.5
LOOK_DEADLINE_SECONDS: Final = 5.0
BAR_COLUMNS: Final = 20

Advance = Callable[[int, int | None], None]
"""How much is done, and how much that is of; None where nobody knows."""
Look = Callable[[], tuple[int, int | None] | None]
"""The same, asked for; None where nothing can be said."""


class Unit(Enum):
    FACTS = "facts"
    BYTES = "bytes"


def is_shown() -> bool:
    """Whether somebody looks on."""
    return sys.stderr.isatty()


@contextmanager
def shown(title: str, unit: Unit, total: int | None = None) -> Iterator[Advance]:
    """A bar inside the block, gone behind it; the block says how far it is."""
    if not is_shown():
        yield lambda done, of: None
        return
    with _bar(unit) as bar:
        task = bar.add_task(printable(title), total=total)

        def advance(done: int, of: int | None) -> None:
            bar.update(task, completed=done, total=of)

        yield advance


@contextmanager
def watched(title: str, unit: Unit, look: Look) -> Iterator[None]:
    """A bar inside the block, which waits for something else: how far that is, is asked twice a second."""
    if not is_shown():
        yield
        return
    is_over = threading.Event()

    def watch(advance: Advance) -> None:
        while not is_over.wait(LOOK_SECONDS):
            # A bar is worth no error: whoever waits in the block is told what goes wrong.
            try:
                found = look()
            except BsfgError:
                continue
            if found is not None:
                advance(*found)

    with shown(title, unit) as advance:
        watching = threading.Thread(target=watch, args=[advance], daemon=True)
        watching.start()
        try:
            yield
        finally:
            is_over.set()
            watching.join(LOOK_DEADLINE_SECONDS)


def backfill(client: LocalClient, peer: str, stream: str | None = None) -> Look:
    """How far a link of a peer is, or all of them together, of what was missing when it was looked at first."""
    most = 0

    def look() -> tuple[int, int] | None:
        nonlocal most
        rows = client.get(route("cursors"), deadline_seconds=LOOK_DEADLINE_SECONDS)["cursors"]
        lags = [row["lag_facts"] for row in rows if row["peer"] == peer and stream in (None, row["stream"])]
        if not lags or None in lags:
            return None
        most = max(most, sum(lags))
        return most - sum(lags), most

    return look


def transfer(client: LocalClient, uri: str) -> Look:
    """How far the transfer of a peer's artifact is."""

    def look() -> tuple[int, int | None] | None:
        rows: list[Mapping[str, Any]] = client.get(
            route("artifacts"), state="pending", deadline_seconds=LOOK_DEADLINE_SECONDS
        )["artifacts"]
        row = next((row for row in rows if row["uri"] == uri), None)
        return None if row is None or row["received"] is None else (row["received"], row["size"])

    return look


def _bar(unit: Unit) -> Progress:
    from rich import progress
    from rich.console import Console
    from rich.text import Text

    class FactsPerSecond(progress.ProgressColumn):
        def render(self, task: progress.Task) -> Text:
            rate = task.finished_speed or task.speed
            return Text("" if rate is None else f"{rate:,.0f} facts/s", style="progress.data.speed")

    amounts: dict[Unit, tuple[ProgressColumn, ...]] = {
        Unit.FACTS: (progress.MofNCompleteColumn(), FactsPerSecond()),
        Unit.BYTES: (progress.DownloadColumn(), progress.TransferSpeedColumn()),
    }
    return progress.Progress(
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(BAR_COLUMNS),
        *amounts[unit],
        progress.TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
