"""The operator page's sources: what the gateway's parts offer it, and where its address is."""

from __future__ import annotations

import ipaddress
from typing import Any, Final

from bsfg.bootstrap.zone import Zone
from bsfg.config.address import Address
from bsfg.daemon.gateway import Gateway
from bsfg.daemon.operations import Operations
from bsfg.daemon.page.bringups import BringupRuns
from bsfg.daemon.page.routes import Page
from bsfg.daemon.page.sources import Artifacts, PageSources
from bsfg.daemon.retrieval_operations import RetrievalOperations, row_of

ARTIFACT_ROWS_MAX: Final = 200


def open_page(
    zone: Zone, gateway: Gateway, operations: Operations, retrieval: RetrievalOperations
) -> Page:
    """The page of this gateway."""
    sources = PageSources(
        status=operations.status,
        series=gateway.history.series,
        timeline=zone.timeline,
        partition=operations.partition,
        reconcile=operations.reconcile,
        audit=zone.audit.record,
        handoff_directory=zone.configuration.paths.data / "handoff",
        artifacts=_artifacts(gateway, retrieval),
        bringups=BringupRuns(zone.configuration.paths.data / "bringup").rows,
    )
    return Page(sources, zone.configuration.zone.zone, zone.clock)


def _artifacts(gateway: Gateway, retrieval: RetrievalOperations) -> Artifacts:
    """What is wanted of peers and not here yet; what is here can be listed by ``bsfg artifact list``."""

    async def rows() -> list[dict[str, Any]]:
        entries = retrieval.retrievals.of(None) if retrieval.retrievals.is_loaded else []
        wanted = [row_of(entry.artifact) for entry in entries[:ARTIFACT_ROWS_MAX]]
        return [row | {"error": row.get("problem") or row.get("cause")} for row in wanted]

    return Artifacts(rows, gateway.parts.artifacts.counts, lambda uri: retrieval.retry(uri, None))


def page_address(local: Address) -> str:
    """Host and port that a browser on this machine can call, also where ``local`` is every address."""
    try:
        is_every = ipaddress.ip_address(local.host).is_unspecified
    except ValueError:
        is_every = False
    return str(Address("127.0.0.1", local.port) if is_every else local)
