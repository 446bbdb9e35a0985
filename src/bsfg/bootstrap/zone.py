"""What everything in a zone's gateway shares, and how it tells of its streams."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any, Final

from structlog.typing import FilteringBoundLogger

from bsfg.bootstrap.process import WORKER_END_SECONDS_MAX, WORKER_MODULE
from bsfg.config.home import Home
from bsfg.config.load import PEERS_FILE
from bsfg.config.values import (
    Configuration,
)
from bsfg.daemon.audit import AuditLog
from bsfg.daemon.connections import CutOff
from bsfg.daemon.telemetry import Telemetry
from bsfg.daemon.timeline import Timeline
from bsfg.errors import BsfgError, Code
from bsfg.model.names import StreamName
from bsfg.ports import Clock
from bsfg.substrates.store_lock import find_holder, try_lock
from bsfg.transport.access import Access
from bsfg.transport.notify_route import Attention

WORKERS_SECONDS_MAX: Final = WORKER_END_SECONDS_MAX + 1.0
CLAIM_TICK_SECONDS: Final = 0.1


@dataclass
class Zone:
    """What everything in a zone's gateway shares."""

    configuration: Configuration
    clock: Clock
    journal: FilteringBoundLogger
    audit: AuditLog
    telemetry: Telemetry
    access: Access
    attention: Attention
    cut_off: CutOff
    timeline: Timeline
    lock: int
    """What :func:`claim` gave."""


def epoch_began(zone: Zone, stream: StreamName, old: str | None, new: str, why: str) -> None:
    zone.audit.record("epoch.began", "allowed", stream=stream, old=old, new=new, why=why)
    zone.journal.warning("epoch_began", stream=stream, message=f"stream {stream} begins epoch {new}: {why}")


def stream_names(configuration: Configuration) -> list[StreamName]:
    return [stream.name for stream in configuration.zone.streams]


def policy_version(configuration: Configuration) -> str:
    """Which allow-list is meant: the sha-256 of peers.yaml, cut to what tells it apart; empty without the file."""
    return configuration.file_hashes.get(PEERS_FILE, "")[:16]


def max_ages(configuration: Configuration) -> dict[StreamName, float | None]:
    """After which age each local stream removes a fact, in seconds; None where it never does."""
    return {stream.name: stream.max_age_seconds for stream in configuration.zone.streams}


def tell_differences(zone: Zone, report: Any) -> None:
    for difference in report.differences:
        zone.journal.warning(
            "stream_differs",
            stream=report.stream,
            message=f"stream {report.stream}: {difference.field} is {difference.found}, "
            f"configured {difference.expected}",
        )
    if report.problem:
        zone.journal.error("stream_differs", stream=report.stream, message=report.problem)


async def claim(home: Home) -> int:
    """The descriptor that makes this process the home's one gateway until it and its workers end, however that happens.

    Taken before anything else: a second gateway would adopt the first one's nats-server, and stop it when it fails, and
    it would write to inbound streams beside the first. Workers that a dead gateway has left are waited for.
    """
    home.run.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = home.run / "gateway.lock"
    waiting_ends = time.monotonic() + WORKERS_SECONDS_MAX
    while (lock := try_lock(path)) is None:
        holder = find_holder(path)
        is_left = holder is None or WORKER_MODULE in holder.command
        if is_left and time.monotonic() < waiting_ends:
            await asyncio.sleep(CLAIM_TICK_SECONDS)
            continue
        raise BsfgError(
            Code.CONFIGURATION,
            f"another gateway serves this home: {home.path} is held by process {holder.pid if holder else 'unknown'}",
            hint="stop it first",
        )
    return lock
