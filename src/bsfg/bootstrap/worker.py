"""A worker process of a gateway, from its first line to its last; only the gateway starts one.

Its one argument is the descriptor of its end of the channel. Everything else comes over that, so that nothing of the
configuration, and no secret, is in arguments or environment.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial

from bsfg.bootstrap.links import external_target, inbound_log, loss_report, make_client
from bsfg.bootstrap.process import WORKER_END_SECONDS_MAX, prepare_process
from bsfg.config.home import Home
from bsfg.config.values import ExternalSubstrate
from bsfg.daemon import failpoints
from bsfg.daemon.healing import HealedInboundLog
from bsfg.daemon.journal import forward_libraries
from bsfg.daemon.link_worker import LinkWorker, PeerClients
from bsfg.daemon.links import LinkMeans, LinkSupervisor
from bsfg.daemon.recent_marks import RecentMarks
from bsfg.daemon.system import SystemClock
from bsfg.daemon.worker_channel import Channel
from bsfg.daemon.worker_reports import ReportingGuard, Reports
from bsfg.daemon.worker_words import Beginning, Orders
from bsfg.substrates.control import Control
from bsfg.substrates.inbound_marks import JetStreamInboundMarks
from bsfg.substrates.nats_connection import NatsConnection
from bsfg.substrates.nats_target import NatsTarget
from bsfg.substrates.quarantine import FileQuarantine
from bsfg.transport.access import Access
from bsfg.transport.resolver import NameResolver
from bsfg.transport.trust import TrustStore


def main() -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        # A terminal and a service manager signal every process of a gateway; only the gateway decides what follows.
        signal.signal(number, signal.SIG_IGN)
    descriptor = int(sys.argv[1])
    os.set_inheritable(descriptor, False)
    prepare_process()
    asyncio.run(_run(socket.socket(fileno=descriptor)))


async def _run(end: socket.socket) -> None:
    async with AsyncExitStack() as stack:
        channel = await Channel.over(end)
        stack.push_async_callback(channel.close)
        beginning, orders = await channel.receive(), await channel.receive()
        if not isinstance(beginning, Beginning) or not isinstance(orders, Orders) or orders.trust is None:
            return
        worker = await _assemble(beginning, orders, channel, stack)
        await worker.run(replace(orders, trust=None))


async def _assemble(
    beginning: Beginning, orders: Orders, channel: Channel, stack: AsyncExitStack
) -> LinkWorker:
    config, home, clock, reports = beginning.zone, Home(beginning.home), SystemClock(), Reports()
    failpoints.arm(os.environ.get(failpoints.VARIABLE), is_lab=config.lab)
    journal = reports.journal()
    forward_libraries(journal)
    target = _target(beginning)
    name = f"bsfg-{config.zone}-worker-{beginning.index + 1}"
    # That the store is away is the gateway's to tell: it has a connection of its own.
    control = Control(target, name=name)
    control.start()
    stack.push_async_callback(control.close)
    connect = partial(NatsConnection.connect, target, name=f"{name}-data")
    report = loss_report(journal)
    log = inbound_log(config, control, connect, report, home)
    stack.callback(log.close)
    assert orders.trust is not None
    access = Access(TrustStore.from_material(orders.trust), {})
    names = NameResolver(clock)
    clients = PeerClients(
        lambda peer: make_client(peer, access, clock, orders.limits.connect_seconds, names)
    )
    means = LinkMeans(
        HealedInboundLog(log, ReportingGuard(home.data, reports)),
        FileQuarantine(home.data / "quarantine", config.limits.quarantine_bytes),
        clock,
        clients.client,
        RecentMarks(JetStreamInboundMarks(control), clock),
    )
    links = LinkSupervisor(means, reports)
    return LinkWorker(
        channel, access, clients, links, reports, clock, partial(signal.alarm, WORKER_END_SECONDS_MAX)
    )


def _target(beginning: Beginning) -> NatsTarget:
    substrate = beginning.zone.substrate
    if isinstance(substrate, ExternalSubstrate):
        return external_target(substrate)
    return NatsTarget(beginning.urls, beginning.seed_file, None, None)


if __name__ == "__main__":
    main()
