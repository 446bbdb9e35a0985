"""The parts that bring peers' artifacts here."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack

from aiohttp import web

from bsfg.bootstrap.artifacts import Artifacts
from bsfg.bootstrap.store import Store
from bsfg.bootstrap.zone import Zone
from bsfg.config.values import Configuration, PeerConfig
from bsfg.core.backoff import Backoff
from bsfg.core.retrieval import Patience
from bsfg.daemon.artifact_clients import ArtifactClients
from bsfg.daemon.artifact_mirror import ArtifactMirror
from bsfg.daemon.artifact_scan import ReferenceScan
from bsfg.daemon.artifact_transfers import ArtifactTransfers
from bsfg.daemon.gateway import Gateway
from bsfg.daemon.retrieval_operations import RetrievalOperations
from bsfg.daemon.retrieval_routes import retrieval_routes
from bsfg.daemon.retrievals import RetrievalLimits, Retrievals
from bsfg.daemon.running_link import Links
from bsfg.errors import BsfgError, Code
from bsfg.model.cursor import Fence, LinkName
from bsfg.model.names import ZoneId
from bsfg.substrates.inbound_facts import JetStreamInboundFacts
from bsfg.substrates.wanted_artifacts import JetStreamWantedArtifacts
from bsfg.transport.artifact_client import HttpArtifactClient, Pace
from bsfg.transport.client_connection import ClientLimits, PeerEndpoint
from bsfg.transport.resolver import NameResolver

SILENCE_SECONDS = 15.0
"""An object store behind the peer may take a while before its first byte."""
PART_SECONDS = 60.0


def assemble_mirror(
    zone: Zone,
    store: Store,
    artifacts: Artifacts,
    links: Links,
    names: NameResolver,
    configuration: Callable[[], Configuration],
    may_ask: Callable[[ZoneId], bool],
    stack: AsyncExitStack,
) -> ArtifactMirror:
    """``may_ask`` says whether a peer may be asked at this moment."""
    clients = ArtifactClients(lambda config: _client(zone, config, names, configuration))
    wanted = JetStreamWantedArtifacts(
        store.control,
        replicas=store.replicas,
        report=lambda text: zone.journal.warning("substrate_lost", message=text),
    )
    facts = JetStreamInboundFacts(store.connect)
    stack.callback(facts.close)
    transfers = ArtifactTransfers(
        artifacts.store,
        clients.client,
        zone.clock,
        lambda _peer: configuration().zone.limits.artifact_bytes_per_second_max,
    )
    retrievals = Retrievals(
        wanted,
        transfers,
        zone.clock,
        zone.journal,
        zone.telemetry,
        lambda: _limits(configuration()),
        may_ask,
    )

    def fence_of(name: LinkName) -> Fence | None:
        driver = links.driver(name)
        return driver.link.fence if driver else None

    scan = ReferenceScan(facts, wanted, retrievals, fence_of, zone.clock, zone.journal)
    return ArtifactMirror(clients, retrievals, scan)


def open_retrieval(gateway: Gateway, artifacts: Artifacts) -> tuple[RetrievalOperations, list[web.RouteDef]]:
    """What operators can ask, and its routes for the local API."""
    parts = gateway.parts

    def refuse_unaskable(peer: ZoneId) -> None:
        parts.artifacts.clients.client(peer)
        if peer in parts.partitions.in_force:
            raise BsfgError(
                Code.PARTITIONED,
                f"peer {peer} is cut off by an operator",
                hint="bsfg admin reconcile ends that",
            )

    operations = RetrievalOperations(
        parts.artifacts.retrievals,
        artifacts.store,
        lambda: gateway.configuration,
        refuse_unaskable,
        artifacts.local_path,
    )
    return operations, retrieval_routes(operations)


def _limits(configuration: Configuration) -> RetrievalLimits:
    limits = configuration.zone.limits
    cut = Backoff(limits.retry_delay_seconds_min, limits.retry_delay_seconds_max)
    return RetrievalLimits(
        limits.artifact_transfers_per_peer,
        limits.wanted_artifacts_max,
        Patience(Backoff(1.0, limits.artifact_retry_seconds_max), cut),
    )


def _client(
    zone: Zone, config: PeerConfig, names: NameResolver, configuration: Callable[[], Configuration]
) -> HttpArtifactClient:
    endpoint = PeerEndpoint(config.id, config.rule, config.endpoint.host, config.endpoint.port)
    limits = configuration().zone.limits
    return HttpArtifactClient(
        endpoint,
        zone.access,
        zone.clock,
        ClientLimits(
            connect_seconds=limits.connect_seconds,
            silence_seconds=SILENCE_SECONDS,
            answer_seconds=PART_SECONDS,
        ),
        names,
        pace=Pace(bytes_per_second_min=limits.artifact_bytes_per_second_min),
        redirect_host=config.artifact_redirect_host,
    )
