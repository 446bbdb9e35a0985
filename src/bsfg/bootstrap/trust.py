"""The trust snapshot of a configuration."""

from __future__ import annotations

from cryptography import x509

from bsfg.config.values import (
    Configuration,
)
from bsfg.errors import BsfgError, Code
from bsfg.model.names import ZoneId
from bsfg.transport.certificates import Anchors
from bsfg.transport.revocation import WhenExpired
from bsfg.transport.trust import PeerTrust, TrustStore, load_revocation


def build_trust(configuration: Configuration, previous: TrustStore | None) -> TrustStore:
    """The trust snapshot of a configuration; raises ConfigurationError, and an older CRL than before is refused."""
    paths, revocation = configuration.paths, configuration.zone.revocation
    peers = peer_trusts(configuration)
    crls = None
    if revocation.crl is None and previous is not None and previous.revocation is not None:
        raise BsfgError(
            Code.CONFIGURATION,
            f"the revocation list {paths.crl} is gone, and without it revoked certificates would be trusted again",
            hint="put the newest list back; to do without one, restart the gateway",
        )
    if revocation.crl is not None:
        when_expired = WhenExpired(revocation.crl_expired.value)
        crls = load_revocation(
            revocation.crl, paths.anchors, peers, when_expired, previous.revocation if previous else None
        )
    return TrustStore.build(
        certificate=paths.server_certificate,
        key=paths.server_key,
        anchors=paths.anchors,
        own=configuration.zone.identity_rule,
        peers=peers,
        revocation=crls,
    )


def peer_trusts(configuration: Configuration) -> dict[ZoneId, PeerTrust]:
    """How each configured peer is recognised."""
    return {
        peer.id: PeerTrust(peer.rule, peer.trust_anchor, peer.authorized)
        for peer in configuration.peers.values()
    }


def anchors_of_every_peer(configuration: Configuration) -> list[x509.Certificate]:
    """Every CA that may sign a revocation list: those of ``ca.crt`` and of each peer."""
    pinned = [peer.trust_anchor for peer in configuration.peers.values() if peer.trust_anchor is not None]
    files = [configuration.paths.anchors, *pinned]
    return [certificate for path in files for certificate in Anchors.load(path).certificates]
