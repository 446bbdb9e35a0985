"""The operator page's sources: what the gateway's parts offer it, and where its address is."""

from __future__ import annotations

import ipaddress

from bsfg.bootstrap.zone import Zone
from bsfg.config.address import Address
from bsfg.daemon.gateway import Gateway
from bsfg.daemon.operations import Operations
from bsfg.daemon.page.bringups import BringupRuns
from bsfg.daemon.page.routes import Page
from bsfg.daemon.page.sources import PageSources


def open_page(zone: Zone, gateway: Gateway, operations: Operations) -> Page:
    """The page of this gateway; a part that the gateway does not have is left out of it."""
    sources = PageSources(
        status=operations.status,
        series=gateway.history.series,
        timeline=zone.timeline,
        partition=operations.partition,
        reconcile=operations.reconcile,
        audit=zone.audit.record,
        handoff_directory=zone.configuration.paths.data / "handoff",
        bringups=BringupRuns(zone.configuration.paths.data / "bringup").rows,
    )
    return Page(sources, zone.configuration.zone.zone, zone.clock)


def page_address(local: Address) -> str:
    """Host and port that a browser on this machine can call, also where ``local`` is every address."""
    try:
        is_every = ipaddress.ip_address(local.host).is_unspecified
    except ValueError:
        is_every = False
    return str(Address("127.0.0.1", local.port) if is_every else local)
