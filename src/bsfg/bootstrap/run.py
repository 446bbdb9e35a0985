"""A zone's gateway from its first line to its last: `bsfg serve`."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from structlog.typing import FilteringBoundLogger

from bsfg.bootstrap.artifacts import local_routes, open_artifacts
from bsfg.bootstrap.listeners import open_appends, open_listener, open_local
from bsfg.bootstrap.page import open_page
from bsfg.bootstrap.parts import assemble
from bsfg.bootstrap.process import prepare_process
from bsfg.bootstrap.retrieval import open_retrieval
from bsfg.bootstrap.store import open_store
from bsfg.bootstrap.trust import build_trust
from bsfg.bootstrap.zone import Zone, claim, epoch_began
from bsfg.config.load import load
from bsfg.config.values import (
    Configuration,
)
from bsfg.config.watch import ChangeWatch
from bsfg.daemon import failpoints
from bsfg.daemon.audit import AuditLog, current_path
from bsfg.daemon.caller import caller
from bsfg.daemon.connections import CutOff
from bsfg.daemon.drills import Drills
from bsfg.daemon.journal import open_journal
from bsfg.daemon.log_sinks import QueuedSinks
from bsfg.daemon.operations import Operations
from bsfg.daemon.peer_view import PeerViews, Scrapes
from bsfg.daemon.reload import Reloader
from bsfg.daemon.stream_operations import LocalStore
from bsfg.daemon.system import SystemClock, notify_systemd, watchdog_seconds
from bsfg.daemon.telemetry import Telemetry
from bsfg.daemon.timeline import Timeline
from bsfg.daemon.verify_operations import Verifications
from bsfg.errors import EXIT_DONE, BsfgError, Code
from bsfg.substrates.consumers import LocalAccess
from bsfg.substrates.inbound_scan import InboundScan
from bsfg.transport.access import Access
from bsfg.transport.notify_route import Attention


def serve(home: Path, *, allow_root: bool) -> int:
    """Run the zone's gateway until SIGTERM or SIGINT; the exit status (``bsfg serve``)."""
    configuration = load(home)
    _refuse_root(configuration, allow_root=allow_root)
    failpoints.arm(os.environ.get(failpoints.VARIABLE), is_lab=configuration.zone.lab)
    prepare_process()
    asyncio.run(_run(configuration))
    return EXIT_DONE


def _refuse_root(configuration: Configuration, *, allow_root: bool) -> None:
    if os.geteuid() == 0 and not allow_root and not configuration.zone.lab:
        raise BsfgError(
            Code.CONFIGURATION,
            "the gateway refuses to run as root",
            hint="run it as its own user, as deploy/systemd/bsfg-controller.service does, or give --allow-root",
        )


async def _run(configuration: Configuration) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with _gateway(configuration) as reloader:
        loop.add_signal_handler(signal.SIGHUP, lambda: asyncio.ensure_future(reloader.reload_quietly()))
        notify_systemd("READY=1")
        await _beat_until(stop)
        notify_systemd("STOPPING=1")


async def _beat_until(stop: asyncio.Event) -> None:
    """Wait for the stop; tell systemd's watchdog meanwhile that the loop runs."""
    period = watchdog_seconds()
    while not stop.is_set():
        notify_systemd("WATCHDOG=1")
        try:
            async with asyncio.timeout(period):
                await stop.wait()
        except TimeoutError:
            continue


def _open_log(
    configuration: Configuration, telemetry: Telemetry, timeline: Timeline, stack: AsyncExitStack
) -> FilteringBoundLogger:
    """The journal on sinks that never hold the gateway up; what is lost is counted, and said when they take lines."""
    log = configuration.zone.log
    journal: FilteringBoundLogger

    def recovered(lines: int) -> None:
        journal.warning(
            "log_lines_lost",
            message=f"{lines} log lines were lost: the log was not taken in time",
            lines=lines,
        )

    sinks = QueuedSinks(log.file, telemetry.log_lines_dropped.labels("sink").inc, recovered)
    stack.callback(sinks.flush)
    lost = telemetry.log_lines_dropped.labels("allowance").inc
    journal = open_journal(log, configuration.zone.zone, sinks, lost, [timeline])
    return journal


@asynccontextmanager
async def _gateway(configuration: Configuration) -> AsyncIterator[Reloader]:
    clock = SystemClock()
    async with AsyncExitStack() as stack:
        lock = await claim(configuration.paths)
        stack.callback(os.close, lock)
        trust = build_trust(configuration, None)
        telemetry = Telemetry()
        timeline = Timeline()
        journal = _open_log(configuration, telemetry, timeline, stack)
        audit = AuditLog(
            current_path(configuration.paths.data),
            clock,
            by=caller,
            bytes_max=configuration.zone.limits.audit_bytes,
        )
        stack.callback(audit.close)
        access = Access(trust, {})
        zone = Zone(
            configuration, clock, journal, audit, telemetry, access, Attention(clock), CutOff(), timeline, lock
        )
        store = await open_store(zone, stack)
        artifacts = open_artifacts(zone, lambda: gateway.configuration, stack)
        gateway = assemble(zone, store, artifacts, trust, stack)
        local = LocalStore(
            store.control,
            LocalAccess(store.control, store.connect),
            open_appends(zone, gateway, store, stack),
            store.exported,
            store.replicas,
            lambda *words: epoch_began(zone, *words),
        )
        watch = ChangeWatch(configuration.home, configuration.trust_files())
        reloader = Reloader(gateway, lambda: load(configuration.home), watch, clock)
        operations = Operations(gateway, local, reloader, timeline)
        scrapes = Scrapes(configuration.zone.local, clock)
        views = PeerViews(gateway, scrapes)
        retrieval, retrieval_routes = open_retrieval(gateway, artifacts)
        verifications = Verifications(
            gateway, lambda *words: InboundScan(store.control, store.connect, *words), operations.rewind
        )
        gateway.parts.generations.prove = verifications.prove
        gateway.parts.generations.keeping = verifications.keeping
        drills = Drills(
            gateway, local, operations.fetch, store.inbound, verifications, zone.cut_off, timeline
        )
        further = [
            *local_routes(zone, store, artifacts, retrieval.listed),
            *retrieval_routes,
            *views.routes(),
            *verifications.routes(),
            *drills.routes(),
        ]
        page = open_page(zone, gateway, operations, retrieval)
        await open_local(zone, gateway, operations, further, scrapes, page, stack)
        await gateway.start()
        recovering = asyncio.create_task(drills.recover(), name="drills that were left on")
        stack.callback(recovering.cancel)
        stack.push_async_callback(gateway.stop)
        await open_listener(zone, gateway, store, artifacts, views, stack)
        gateway.announce()
        watching = asyncio.create_task(reloader.run(), name="reload")
        stack.callback(watching.cancel)
        yield reloader
