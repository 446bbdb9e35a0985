"""What links work with, in the gateway as in its worker processes: the inbound streams, and clients of the peers."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable

from structlog.typing import FilteringBoundLogger

from bsfg.config.home import Home
from bsfg.config.values import Durability, EmbeddedSubstrate, ExternalSubstrate, PeerConfig, ZoneConfig
from bsfg.ports import Clock
from bsfg.substrates.append_plan import Exclusivity
from bsfg.substrates.begun_links import BegunLinks
from bsfg.substrates.control import Control
from bsfg.substrates.inbound_log import JetStreamInboundLog
from bsfg.substrates.inbound_messages import Strategy
from bsfg.substrates.nats_connection import NatsConnection
from bsfg.substrates.nats_target import NatsTarget
from bsfg.transport.access import Access
from bsfg.transport.client import HttpPeerClient
from bsfg.transport.client_connection import ClientLimits, PeerEndpoint
from bsfg.transport.resolver import NameResolver


def make_client(
    config: PeerConfig, access: Access, clock: Clock, connect_seconds: float, names: NameResolver
) -> HttpPeerClient:
    """A client of one peer, under the access in force."""
    endpoint = PeerEndpoint(config.id, config.rule, config.endpoint.host, config.endpoint.port)
    return HttpPeerClient(endpoint, access, clock, ClientLimits(connect_seconds=connect_seconds), names)


def loss_report(journal: FilteringBoundLogger) -> Callable[[str], None]:
    """Says in the journal, a line each, what of the store is not as it was."""

    def report(text: str) -> None:
        journal.warning("substrate_lost", message=text)

    return report


def inbound_log(
    config: ZoneConfig,
    control: Control,
    connect: Callable[[], Awaitable[NatsConnection]],
    report: Callable[[str], None],
    home: Home,
) -> JetStreamInboundLog:
    """The inbound streams, written as the zone's durability and substrate want it."""
    substrate = config.substrate
    return JetStreamInboundLog(
        control,
        connect,
        zone=config.zone,
        replicas=1 if isinstance(substrate, EmbeddedSubstrate) else substrate.replicas,
        report=report,
        strategy=Strategy.PIPELINED if config.durability is Durability.LAZY else Strategy.ATOMIC,
        exclusivity=_exclusivity(substrate),
        begun=BegunLinks(home.data / "links", report),
    )


def _exclusivity(substrate: EmbeddedSubstrate | ExternalSubstrate) -> Exclusivity:
    if isinstance(substrate, EmbeddedSubstrate):
        return Exclusivity.PROVED
    return Exclusivity.DECLARED if substrate.inbound_exclusive else Exclusivity.NONE


def external_target(substrate: ExternalSubstrate) -> NatsTarget:
    """Servers that others run, and our credentials there."""
    return NatsTarget(substrate.urls, None, substrate.credentials, _nats_tls(substrate))


def _nats_tls(substrate: ExternalSubstrate) -> ssl.SSLContext | None:
    if substrate.ca is None and not any(url.startswith("tls://") for url in substrate.urls):
        return None
    return ssl.create_default_context(cafile=str(substrate.ca) if substrate.ca else None)
