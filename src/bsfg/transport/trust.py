"""Whom a zone trusts, as one immutable snapshot: contexts for both directions and verdicts on certificates.

Identity comes from the verified certificate alone: exactly one configured peer, a chain to that peer's own anchor, in
date, not revoked (design, decision 8; I31 to I36). A change of any file or rule makes a new snapshot.
"""

from __future__ import annotations

import re
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from bsfg.errors import BsfgError, Code, ConfigurationError, Problem
from bsfg.model.identity import CertificateView, IdentityFrom, IdentityRule, carries
from bsfg.model.moment import format_time
from bsfg.model.names import ZoneId, printable
from bsfg.transport.certificates import Anchors, days_left, is_authority, serves, view_of, why_no_chain
from bsfg.transport.credentials import Credentials
from bsfg.transport.handshake import dialler_context, listener_context
from bsfg.transport.revocation import IssuerKey, RevocationList, WhenExpired, links_of

CALLERS_KEPT_MAX: Final = 1024
_Read = TypeVar("_Read")
_HOST_NAME: Final = re.compile(
    r"(?=.{1,253}\Z)[A-Za-z0-9_][A-Za-z0-9_-]{0,62}(\.[A-Za-z0-9_][A-Za-z0-9_-]{0,62})*"
)
_ADDRESS: Final = re.compile(r"[0-9.]+")
_PURPOSE_NAMES: Final = {
    ExtendedKeyUsageOID.CLIENT_AUTH: "clientAuth",
    ExtendedKeyUsageOID.SERVER_AUTH: "serverAuth",
}


@dataclass(frozen=True, slots=True)
class PeerTrust:
    """How one configured peer is recognised; without an anchor of its own it must chain to ``ca.crt``."""

    rule: IdentityRule
    anchor: Path | None = None
    authorized: bool = False


@dataclass(frozen=True, slots=True)
class Verified:
    """A certificate that was found to be a peer's, and what must still hold later: its dates and its CRLs."""

    zone: ZoneId
    view: CertificateView
    valid_until: int
    """The earliest end in the chain, nanoseconds since 1970."""
    links: tuple[tuple[int, IssuerKey], ...]


@dataclass(frozen=True, slots=True)
class TrustMaterial:
    """What a snapshot was made of, to make the very same one in another process of this gateway. It holds the key."""

    own: Credentials
    common: tuple[bytes, ...]
    """Certificates in DER, as in ``pinned``."""
    pinned: Mapping[ZoneId, tuple[bytes, ...]]
    peers: Mapping[ZoneId, PeerTrust]
    revocation: RevocationList | None


class TrustStore:
    """One snapshot. It never changes; what it keeps are its own contexts and verdicts."""

    def __init__(
        self,
        own: Credentials,
        common: Anchors,
        pinned: Mapping[ZoneId, Anchors],
        peers: Mapping[ZoneId, PeerTrust],
        revocation: RevocationList | None,
        clock: Callable[[], int],
    ) -> None:
        self._own = own
        self._common = common
        self._pinned = dict(pinned)
        self._anchors = {zone: pinned.get(zone, common) for zone in peers}
        self._every_anchor = Anchors(list(dict.fromkeys(_every(common, pinned))))
        self._peers = dict(peers)
        self._clock = clock
        self._client_contexts: dict[ZoneId, ssl.SSLContext] = {}
        self._callers: dict[bytes, Verified] = {}
        self.revocation = revocation
        self._server_context = self._make_server_context()

    @classmethod
    def build(
        cls,
        *,
        certificate: Path,
        key: Path,
        anchors: Path,
        own: IdentityRule,
        peers: Mapping[ZoneId, PeerTrust],
        revocation: RevocationList | None = None,
        clock: Callable[[], int] = time.time_ns,
    ) -> TrustStore:
        """The snapshot of these files, all read now and never again.

        Raises ``ConfigurationError`` with every problem: a file that can't be read, a key that others can read or that
        is not the certificate's, a certificate without this zone's identity, an anchor that is no CA, two peers of one
        identity. Our own certificate's dates don't matter here (I36): see ``own_days_left``.
        """
        problems: list[Problem] = _twins(peers)
        credentials = _attempt(problems, certificate, partial(Credentials.load, certificate, key, own))
        common = _attempt(problems, anchors, partial(Anchors.load, anchors))
        pinned: dict[ZoneId, Anchors] = {}
        for zone, path in _pinned_paths(peers):
            loaded = _attempt(problems, path, partial(Anchors.load, path))
            if loaded is not None:
                pinned[zone] = loaded
        if problems or credentials is None or common is None:
            raise ConfigurationError(problems)
        return cls(credentials, common, pinned, peers, revocation, clock)

    @classmethod
    def from_material(
        cls, material: TrustMaterial, clock: Callable[[], int] = time.time_ns
    ) -> TrustStore:
        """The snapshot that this was taken of; no file is read."""
        pinned = {zone: _anchors_from(ders) for zone, ders in material.pinned.items()}
        common = _anchors_from(material.common)
        return cls(material.own, common, pinned, material.peers, material.revocation, clock)

    @property
    def material(self) -> TrustMaterial:
        """See :meth:`from_material`."""
        pinned = {zone: _ders(anchors) for zone, anchors in self._pinned.items()}
        return TrustMaterial(self._own, _ders(self._common), pinned, self._peers, self.revocation)

    @property
    def own_view(self) -> CertificateView:
        """What our own certificate says."""
        return self._own.view

    def own_days_left(self, now: int) -> int:
        """Whole days until our own certificate ends; negative once it has."""
        return days_left(self._own.view, now)

    @property
    def revocation_next_update(self) -> int | None:
        """When the first of the CRLs ends, nanoseconds since 1970; None without CRLs."""
        return self.revocation.next_update if self.revocation else None

    def anchor_fingerprints(self, peer: ZoneId) -> tuple[str, ...]:
        """sha-256 of each anchor that may vouch for this peer."""
        return self._anchors_of(peer).fingerprints

    def server_context(self) -> ssl.SSLContext:
        """The context for connections that are accepted under this snapshot: any anchor, a client certificate required.

        Which peer it is, and whether that peer's own anchor vouches for it, is ``verify_caller``'s to say.
        """
        return self._server_context

    def client_context(self, peer: ZoneId) -> ssl.SSLContext:
        """The context for dialling this peer: its anchor alone is trusted, and the handshake fails with
        ``PeerNotVerified`` unless it is exactly this peer, before a byte of a request is sent (I32).

        ``PEER_UNKNOWN`` for a peer that is not configured and authorized.
        """
        if peer not in self._client_contexts:
            self._require_authorized(peer, str(peer))
            context = dialler_context(lambda der: self._verify_dialled(der, peer))
            _trust(context, self._anchors_of(peer))
            self._own.install(context)
            self._client_contexts[peer] = context
        return self._client_contexts[peer]

    def store_context(self, peer: ZoneId) -> ssl.SSLContext:
        """The context for the object store that this peer redirects to: a public anchor or one of the peer's own, the
        host's name in the certificate, and no certificate of ours.

        What comes from there is held against its digest all the same.
        """
        self._require_authorized(peer, str(peer))
        context = ssl.create_default_context()
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        _trust(context, self._anchors_of(peer))
        return context

    def verify_caller(self, der: bytes, now: int) -> Verified:
        """The configured and authorized peer whose client certificate this is; meant to be asked on every request.

        Raises ``PEER_UNKNOWN`` (reasons ``unknown_identity``, ``ambiguous_identity``, ``not_authorized``) or
        ``IDENTITY_REJECTED`` (``no_certificate``, ``malformed``, ``ca_certificate``, ``wrong_purpose``, ``expired``,
        ``not_yet_valid``, ``wrong_anchor``, ``revoked``, ``crl_missing``, ``crl_expired``); the reason is in the
        error's details and is for us, not for the caller. A certificate that this snapshot has verified before costs
        only ``recheck``.
        """
        known = self._callers.get(der)
        if known is not None:
            self.recheck(known, now)
            return known
        certificate, view = _parsed(der)
        zone = self._peer_of(view)
        self._require_authorized(zone, _described(view))
        verified = self._verify(zone, certificate, view, ExtendedKeyUsageOID.CLIENT_AUTH, now)
        if len(self._callers) >= CALLERS_KEPT_MAX:
            self._callers.clear()
        self._callers[der] = verified
        return verified

    def verify_server(self, der: bytes, peer: ZoneId, now: int) -> Verified:
        """The certificate of a server that was dialled as this peer. Raises as ``verify_caller``, with the reason
        ``identity_mismatch`` if it carries another identity."""
        self._require_authorized(peer, str(peer))
        certificate, view = _parsed(der)
        if mismatch := carries(view, self._peers[peer].rule):
            found = printable(mismatch.found)
            raise _rejected(
                "identity_mismatch", f"the server is not {peer}: it has {found}, expected {mismatch.expected}"
            )
        return self._verify(peer, certificate, view, ExtendedKeyUsageOID.SERVER_AUTH, now)

    def recheck(self, verified: Verified, now: int) -> None:
        """Raise ``IDENTITY_REJECTED`` if dates or CRLs, by this moment, take back what this snapshot verified.

        It costs two comparisons and a look-up. Another snapshot must verify anew.
        """
        if now > verified.valid_until:
            raise _rejected(
                "expired",
                f"{verified.zone}'s certificate or its CA ended at {format_time(verified.valid_until)}",
            )
        if self.revocation and (refusal := self.revocation.check_links(verified.links, now)):
            raise _rejected(refusal.reason, f"{verified.zone}'s certificate is refused: {refusal.detail}")

    def _verify(
        self,
        zone: ZoneId,
        certificate: x509.Certificate,
        view: CertificateView,
        purpose: x509.ObjectIdentifier,
        now: int,
    ) -> Verified:
        _require_leaf(zone, certificate, purpose)
        _require_in_date(zone, view, now)
        anchors = self._anchors_of(zone)
        chain = anchors.chain(certificate, now)
        if chain is None:
            raise _rejected(
                "wrong_anchor", f"{zone}'s certificate is refused: {why_no_chain(certificate, anchors, now)}"
            )
        ends = min(view_of(link).not_after for link in chain)
        verified = Verified(zone, view, ends, links_of(chain))
        self.recheck(verified, now)
        return verified

    def _peer_of(self, view: CertificateView) -> ZoneId:
        found = [zone for zone, peer in self._peers.items() if carries(view, peer.rule) is None]
        if len(found) == 1:
            return found[0]
        if not found:
            raise _unknown("unknown_identity", f"no configured peer has the identity of {_described(view)}")
        raise _unknown(
            "ambiguous_identity", f"{_described(view)} carries the identities of {', '.join(sorted(found))}"
        )

    def _require_authorized(self, peer: ZoneId, described: str) -> None:
        trust = self._peers.get(peer)
        if trust is None:
            raise _unknown("unknown_identity", f"{printable(described)} is not a configured peer")
        if not trust.authorized:
            raise _unknown("not_authorized", f"{peer} is configured but not authorized")

    def _verify_dialled(self, der: bytes, peer: ZoneId) -> None:
        self.verify_server(der, peer, self._clock())

    def _anchors_of(self, peer: ZoneId) -> Anchors:
        if peer not in self._anchors:
            raise _unknown("unknown_identity", f"{printable(peer)} is not a configured peer")
        return self._anchors[peer]

    def _make_server_context(self) -> ssl.SSLContext:
        context = listener_context()
        _trust(context, self._every_anchor)
        self._own.install(context)
        return context


def server_name(rule: IdentityRule) -> str | None:
    """What a dialler sends as SNI for this peer: the identity, or a URI's host; None if that is no host name."""
    name = rule.identity
    if rule.identity_from is IdentityFrom.URI:
        name = urlsplit(rule.identity).hostname or ""
    return name if _HOST_NAME.fullmatch(name) and not _ADDRESS.fullmatch(name) else None


def load_revocation(
    crl: Path,
    anchors: Path,
    peers: Mapping[ZoneId, PeerTrust],
    when_expired: WhenExpired = WhenExpired.FAIL_CLOSED,
    previous: RevocationList | None = None,
) -> RevocationList:
    """The CRLs of a file, each signed by an anchor of ``ca.crt`` or of a peer, none older than in ``previous``;
    else ``CONFIGURATION``, and the caller keeps what it has."""
    pinned = {zone: Anchors.load(path) for zone, path in _pinned_paths(peers)}
    revocation = RevocationList.load(crl, _every(Anchors.load(anchors), pinned), when_expired)
    if previous is not None:
        revocation.supersedes(previous)
    return revocation


def _ders(anchors: Anchors) -> tuple[bytes, ...]:
    return tuple(certificate.public_bytes(Encoding.DER) for certificate in anchors.certificates)


def _anchors_from(ders: tuple[bytes, ...]) -> Anchors:
    return Anchors([x509.load_der_x509_certificate(der) for der in ders])


def _every(common: Anchors, pinned: Mapping[ZoneId, Anchors]) -> list[x509.Certificate]:
    groups = (common, *pinned.values())
    return [certificate for anchors in groups for certificate in anchors.certificates]


def _pinned_paths(peers: Mapping[ZoneId, PeerTrust]) -> list[tuple[ZoneId, Path]]:
    return [(zone, peer.anchor) for zone, peer in peers.items() if peer.anchor is not None]


def _trust(context: ssl.SSLContext, anchors: Anchors) -> None:
    context.load_verify_locations(
        cadata=b"".join(certificate.public_bytes(Encoding.DER) for certificate in anchors.certificates)
    )


def _attempt(problems: list[Problem], path: Path, read: Callable[[], _Read]) -> _Read | None:
    try:
        return read()
    except BsfgError as error:
        problems.append(Problem(str(path), 1, 1, error.message, error.hint))
        return None


def _twins(peers: Mapping[ZoneId, PeerTrust]) -> list[Problem]:
    """Two peers of one identity could never be told apart."""
    seen: dict[tuple[IdentityFrom, str], ZoneId] = {}
    problems = []
    for zone, peer in peers.items():
        dns = peer.rule.identity_from is IdentityFrom.DNS
        key = (peer.rule.identity_from, peer.rule.identity.lower() if dns else peer.rule.identity)
        other = seen.setdefault(key, zone)
        if other != zone:
            message = f"peers {other} and {zone} have the same identity {printable(peer.rule.identity)}"
            problems.append(Problem("peers.yaml", 1, 1, message, "give each zone an identity of its own"))
    return problems


def _parsed(der: bytes) -> tuple[x509.Certificate, CertificateView]:
    if not der:
        raise _rejected("no_certificate", "there is no certificate")
    try:
        certificate = x509.load_der_x509_certificate(der)
        return certificate, view_of(certificate)
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.DuplicateExtension) as error:
        raise _rejected("malformed", f"the certificate can't be read: {printable(str(error))}") from error


def _require_leaf(zone: ZoneId, certificate: x509.Certificate, purpose: x509.ObjectIdentifier) -> None:
    if is_authority(certificate):
        raise _rejected("ca_certificate", f"{zone}'s certificate is a CA's, and a CA is no zone")
    if not serves(certificate, purpose):
        raise _rejected(
            "wrong_purpose",
            f"{zone}'s certificate has an extended key usage without {_PURPOSE_NAMES[purpose]}",
        )


def _require_in_date(zone: ZoneId, view: CertificateView, now: int) -> None:
    if now > view.not_after:
        raise _rejected("expired", f"{zone}'s certificate ended at {format_time(view.not_after)}")
    if now < view.not_before:
        raise _rejected(
            "not_yet_valid", f"{zone}'s certificate begins only at {format_time(view.not_before)}"
        )


def _described(view: CertificateView) -> str:
    entries = [*(f"DNS:{name}" for name in view.dns), *(f"URI:{name}" for name in view.uri)]
    shown = ", ".join(entries) or f"CN={view.common_name}, no SAN"
    return f"the certificate with {printable(shown)}, serial {view.serial:x}"


def _rejected(reason: str, message: str) -> BsfgError:
    return BsfgError(
        Code.IDENTITY_REJECTED,
        message,
        hint="compare the certificate ('bsfg cert inspect') with the peer's entry in peers.yaml and its trust anchor",
        reason=reason,
    )


def _unknown(reason: str, message: str) -> BsfgError:
    return BsfgError(
        Code.PEER_UNKNOWN,
        message,
        hint="a peer needs an entry in peers.yaml with its identity and authorized: true",
        reason=reason,
    )
