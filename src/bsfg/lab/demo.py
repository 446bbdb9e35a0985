"""The main job in one command: a lab, facts both ways, denials, drills, and a comparison of both zones.

Each line has a title that is true when it passes, gathers evidence, and can be made to fail by its sabotage.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bsfg.errors import EXIT_DONE, EXIT_FAILED, BsfgError
from bsfg.lab import (
    demo_artifacts,
    demo_bringup,
    demo_compare,
    demo_flow,
    demo_sabotage,
    demo_trouble,
    demo_trust,
    processes,
    stores,
)
from bsfg.lab.demo_report import Outcome, Result, summary_line, ways_to_play
from bsfg.lab.demo_stage import Evidence, NotHeld, Sizes, Stage
from bsfg.lab.homes import ZONE_NAMES

FULL: Final = Sizes()
LINE_SECONDS_MAX: Final = 60.0
EVERYTHING: Final = "*"


@dataclass(frozen=True, slots=True)
class Line:
    """One thing that the demo shows."""

    id: str
    title: str
    """True when the line passes."""
    probe: Callable[[Stage, Evidence], Awaitable[str]]
    """Fills in the evidence, returns its essence, raises where the title is not true."""
    needs: str | None
    """The line without which this one can't be judged; ``EVERYTHING`` for all before it."""
    seconds_max: float = LINE_SECONDS_MAX


LINES: Final = (
    Line("health", "Both zones answer over mutual TLS", demo_trust.health, None),
    Line("wrong-ca", "A wrong CA is denied", demo_trust.wrong_ca, "health"),
    Line("no-certificate", "No certificate is denied", demo_trust.no_certificate, "health"),
    Line("unlisted-identity", "An unlisted identity is denied", demo_trust.unlisted_identity, "health"),
    Line("unlisted-stream", "An unlisted stream is denied", demo_trust.unlisted_stream, "health"),
    Line("first-fetch", "First fetch by the default mode", demo_flow.first_fetch, "health"),
    Line("durable-append", "Appended durably, cursor follows", demo_flow.durable_append, "first-fetch"),
    Line("duplicate-replay", "Duplicate replay is harmless", demo_flow.duplicate_replay, "durable-append"),
    Line("artifacts", "Artifacts come by themselves", demo_artifacts.come_by_themselves, "duplicate-replay"),
    Line("artifact-missing", "A missing artifact is awaited", demo_artifacts.missing_is_awaited, "artifacts"),
    Line("artifact-spoilt", "A spoilt artifact is set aside", demo_artifacts.spoilt_is_set_aside, "artifacts"),
    Line(
        "kill-resume", "Killed with -9, resumed, nothing lost", demo_trouble.kill_resume, "duplicate-replay"
    ),
    Line("partition", "Partitioned, both zones work on", demo_trouble.partition, "kill-resume"),
    Line("reconciliation", "Reconciled, caught up by themselves", demo_trouble.reconciliation, "partition"),
    Line("comparison", "Both zones equal, fact by fact", demo_compare.comparison, "reconciliation"),
    Line(
        "bring-up",
        "The runbook holds on both zones",
        demo_bringup.bring_up,
        EVERYTHING,
        2 * demo_bringup.BRING_UP_SECONDS_MAX,
    ),
    Line("handoff", "One handoff, signed by both zones", demo_bringup.handoff, "bring-up"),
)
SABOTAGES: Final = tuple(demo_sabotage.SABOTAGES)


def run(
    *,
    directory: Path | None,
    keep: bool,
    sabotage: str | None,
    output: str,
    write: Callable[[str], None],
    sizes: Sizes = FULL,
) -> int:
    """Play the demo in a lab of its own; ``EXIT_DONE`` only if every line held.

    The lab goes down again and a temporary folder is removed, also on an interruption; with ``keep`` both stay.
    Raises BsfgError where the lab itself does not come up.
    """
    began = time.monotonic()
    is_temporary = directory is None
    place = Path(tempfile.mkdtemp(prefix="bsfg-demo-")) if directory is None else directory.absolute()
    is_kept = False
    with _terminated_as_interrupted():
        try:
            if output != "json":
                write(f"Two zones on this machine, in {place}")
            processes.build(place, manual_start=[demo_flow.STREAM])
            processes.start(place)
            results = asyncio.run(_play(place, sabotage, sizes, _teller(output, write)))
            is_kept = keep
        finally:
            if not is_kept:
                _clear(place, is_temporary)
    _report(place, results, output, write, seconds=time.monotonic() - began, sabotage=sabotage, keep=keep)
    return EXIT_DONE if all(result.outcome is Outcome.PASSED for result in results) else EXIT_FAILED


def _clear(place: Path, is_temporary: bool) -> None:
    with contextlib.suppress(BsfgError):
        processes.down(place)
    if is_temporary:
        shutil.rmtree(place, ignore_errors=True)


@contextlib.contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """A demo that is told to end clears up as it does on Ctrl-C."""
    try:
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    except ValueError:
        # Only a program's main thread may do this.
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _teller(output: str, write: Callable[[str], None]) -> Callable[[Result], None]:
    def tell(result: Result) -> None:
        if output != "json":
            for line in result.as_lines():
                write(line)

    return tell


async def _play(
    place: Path, sabotage: str | None, sizes: Sizes, tell: Callable[[Result], None]
) -> list[Result]:
    results: list[Result] = []
    async with _opened(place, sizes) as stage:
        for line in LINES:
            results.append(await _judge(line, stage, results, sabotage))
            tell(results[-1])
    return results


@contextlib.asynccontextmanager
async def _opened(place: Path, sizes: Sizes) -> AsyncIterator[Stage]:
    zones = {zone: processes.zone_of(place, zone) for zone in ZONE_NAMES}
    async with contextlib.AsyncExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bsfg-demo-certs-")))
        admins, locals_ = {}, {}
        for name, zone in zones.items():
            admins[name] = await stack.enter_async_context(stores.opened(zone, zone.nats_admin_credentials))
            locals_[name] = await stack.enter_async_context(stores.opened(zone, zone.nats_credentials))
        yield Stage(place, scratch, sizes, zones, admins, locals_)


async def _judge(line: Line, stage: Stage, results: list[Result], sabotage: str | None) -> Result:
    """Run a line unless the one that it stands on failed or was not run."""
    wanted = (result for result in results if line.needs in (EVERYTHING, result.id))
    needed = next((result for result in wanted if result.outcome is not Outcome.PASSED), None)
    if needed is not None:
        return Result(line.id, line.title, Outcome.NOT_RUN, f"not run: needs {needed.id}", 0.0, {})
    evidence: Evidence = {}
    began = time.monotonic()
    try:
        async with asyncio.timeout(line.seconds_max):
            summary = await _probe(line, stage, evidence, is_sabotaged=sabotage == line.id)
        outcome = Outcome.PASSED
    except NotHeld as error:
        outcome, summary = Outcome.FAILED, str(error)
    except BsfgError as error:
        outcome, summary = Outcome.FAILED, error.message
    except TimeoutError:
        outcome, summary = Outcome.FAILED, f"not finished within {line.seconds_max:.0f} s"
    except Exception as error:
        # Whatever stops a line, the others and the clearing up go on.
        outcome, summary = Outcome.FAILED, f"{type(error).__name__}: {error}"
    return Result(line.id, line.title, outcome, summary, time.monotonic() - began, evidence)


async def _probe(line: Line, stage: Stage, evidence: Evidence, *, is_sabotaged: bool) -> str:
    if not is_sabotaged:
        return await line.probe(stage, evidence)
    async with demo_sabotage.SABOTAGES[line.id](stage):
        return await line.probe(stage, evidence)


def _report(
    place: Path,
    results: list[Result],
    output: str,
    write: Callable[[str], None],
    *,
    seconds: float,
    sabotage: str | None,
    keep: bool,
) -> None:
    zones = {zone: processes.zone_of(place, zone) for zone in ZONE_NAMES} if keep else {}
    play = ways_to_play(place, zones) if keep else []
    if output == "json":
        answer: dict[str, Any] = {
            "ok": all(result.outcome is Outcome.PASSED for result in results),
            "seconds": round(seconds, 3),
            "sabotage": sabotage,
            "lines": [result.as_json() for result in results],
        }
        if keep:
            answer["lab"] = processes.describe(place)
            answer["play"] = play
        write(json.dumps(answer, indent=2))
        return
    write(summary_line(results, seconds))
    if keep:
        write("The lab stays up. Look around:")
        for line in play:
            write(f"  {line}")
