"""Which certificates their issuers have taken back: decisions on CRLs that were verified once (design, decision 8).

A zone that configures a CRL fails closed: no CRL of an issuer, or one past its end, refuses every certificate of it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Final, NewType

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from bsfg.errors import BsfgError, Code
from bsfg.model.moment import NANOSECONDS, format_time
from bsfg.transport.certificates import nanoseconds_of, read_file

CRL_FILE_BYTES_MAX: Final = 16 * 1024 * 1024
GRACE_NANOSECONDS: Final = 24 * 3_600 * NANOSECONDS
_PEM_CRL: Final = re.compile(rb"-----BEGIN X509 CRL-----.+?-----END X509 CRL-----", re.DOTALL)
_PARSE_ERRORS: Final = (ValueError, TypeError, UnsupportedAlgorithm, x509.DuplicateExtension)
_UNDERSTOOD: Final = (x509.CRLNumber, x509.AuthorityKeyIdentifier)

IssuerKey = NewType("IssuerKey", bytes)
"""An issuer by name and public key, so that two CAs of one name are never confused."""


class WhenExpired(StrEnum):
    """What an expired CRL means (zone.yaml, ``revocation.crl_expired``)."""

    FAIL_CLOSED = "fail_closed"
    GRACE_24H = "grace_24h"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a certificate is not trusted: a short stable reason, and the words for people."""

    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class IssuerCrl:
    """One issuer's newest CRL, its signature verified; moments are nanoseconds since 1970."""

    issuer: str
    number: int | None
    this_update: int
    next_update: int
    serials: frozenset[int]

    def is_older_than(self, other: IssuerCrl) -> bool:
        if self.number is not None and other.number is not None and self.number != other.number:
            return self.number < other.number
        return self.this_update < other.this_update


def issuer_key(issuer: x509.Certificate) -> IssuerKey:
    """The key under which this CA's CRL is kept."""
    public_key = issuer.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return IssuerKey(sha256(issuer.subject.public_bytes() + public_key).digest())


class RevocationList:
    """An immutable store of the newest CRL of each issuer; every look-up is O(1)."""

    def __init__(
        self, crls: Mapping[IssuerKey, IssuerCrl], when_expired: WhenExpired = WhenExpired.FAIL_CLOSED
    ) -> None:
        self._crls = dict(crls)
        self._grace = GRACE_NANOSECONDS if when_expired is WhenExpired.GRACE_24H else 0

    @classmethod
    def load(
        cls,
        path: Path,
        anchors: Iterable[x509.Certificate],
        when_expired: WhenExpired = WhenExpired.FAIL_CLOSED,
    ) -> RevocationList:
        """The CRLs of a file, each signed by one of the anchors; otherwise ``CONFIGURATION`` naming file and cause."""
        return cls.parse(
            read_file(path, "CRL file", CRL_FILE_BYTES_MAX), f"CRL file {path}", anchors, when_expired
        )

    @classmethod
    def parse(
        cls,
        content: bytes,
        origin: str,
        anchors: Iterable[x509.Certificate],
        when_expired: WhenExpired = WhenExpired.FAIL_CLOSED,
    ) -> RevocationList:
        """The CRLs in PEM or DER bytes, as ``load``; of several of one issuer the newest counts."""
        known = list(anchors)
        crls: dict[IssuerKey, IssuerCrl] = {}
        for parsed in _parse(content, origin):
            try:
                key, crl = _verified(parsed, origin, known)
            except _PARSE_ERRORS as error:
                raise _unusable(origin, f"holds a malformed CRL: {error}") from error
            if key not in crls or crls[key].is_older_than(crl):
                crls[key] = crl
        return cls(crls, when_expired)

    @property
    def next_update(self) -> int | None:
        """When the first of the CRLs ends, nanoseconds since 1970, without grace; None if there is no CRL."""
        return min((crl.next_update for crl in self._crls.values()), default=None)

    def supersedes(self, previous: RevocationList) -> None:
        """Raise ``CONFIGURATION`` if any issuer's CRL here is older than in the previous store: a rollback would
        give revoked certificates their trust back."""
        for key, crl in self._crls.items():
            before = previous._crls.get(key)
            if before is not None and crl.is_older_than(before):
                raise BsfgError(
                    Code.CONFIGURATION,
                    f"the CRL of {crl.issuer} (number {crl.number}, of {format_time(crl.this_update)}) is older than "
                    f"the one in use (number {before.number}, of {format_time(before.this_update)})",
                    hint="install the issuer's newest CRL; the one in use stays in force",
                )

    def check(self, serial: int, issuer: IssuerKey, now: int) -> Refusal | None:
        """None if this issuer's CRL is there, in date, and does not hold the serial."""
        crl = self._crls.get(issuer)
        if crl is None:
            return Refusal("crl_missing", "no CRL of the certificate's issuer is installed")
        if serial in crl.serials:
            return Refusal("revoked", f"serial {serial:x} is on the CRL of {crl.issuer}")
        if now > crl.next_update + self._grace:
            return Refusal("crl_expired", f"the CRL of {crl.issuer} ended at {format_time(crl.next_update)}")
        return None

    def check_links(self, links: Sequence[tuple[int, IssuerKey]], now: int) -> Refusal | None:
        """``check`` for a chain as (serial, issuer) pairs, the leaf first.

        The leaf's issuer must have a CRL. A CA above it is checked where its own issuer has one.
        """
        for position, (serial, issuer) in enumerate(links):
            if position and issuer not in self._crls:
                continue
            if refusal := self.check(serial, issuer, now):
                return refusal
        return None

    def check_chain(self, chain: Sequence[x509.Certificate], now: int) -> Refusal | None:
        """``check_links`` for a verified chain, leaf first and anchor last."""
        return self.check_links(links_of(chain), now)


def links_of(chain: Sequence[x509.Certificate]) -> tuple[tuple[int, IssuerKey], ...]:
    """(serial, issuer) of each certificate of a verified chain but the anchor, the leaf first."""
    return tuple((certificate.serial_number, issuer_key(issuer)) for certificate, issuer in pairwise(chain))


def _parse(content: bytes, origin: str) -> list[x509.CertificateRevocationList]:
    try:
        if b"-----BEGIN" not in content:
            return [x509.load_der_x509_crl(content)]
        crls = [x509.load_pem_x509_crl(block) for block in _PEM_CRL.findall(content)]
    except _PARSE_ERRORS as error:
        raise _unusable(origin, f"holds no readable CRL: {error}") from error
    if not crls:
        raise _unusable(origin, "holds no CRL")
    return crls


def _verified(
    parsed: x509.CertificateRevocationList, origin: str, anchors: Sequence[x509.Certificate]
) -> tuple[IssuerKey, IssuerCrl]:
    issuer = parsed.issuer.rfc4514_string()
    signer = next((anchor for anchor in anchors if _signed_by(parsed, anchor)), None)
    if signer is None:
        raise _unusable(origin, f"holds a CRL of {issuer} that none of the trust anchors signed")
    if parsed.next_update_utc is None:
        raise _unusable(origin, f"holds a CRL of {issuer} without nextUpdate")
    return issuer_key(signer), IssuerCrl(
        issuer=issuer,
        number=_number(parsed, origin),
        this_update=nanoseconds_of(parsed.last_update_utc),
        next_update=nanoseconds_of(parsed.next_update_utc),
        serials=frozenset(entry.serial_number for entry in parsed),
    )


def _signed_by(crl: x509.CertificateRevocationList, anchor: x509.Certificate) -> bool:
    if crl.issuer != anchor.subject or not _may_sign_crls(anchor):
        return False
    try:
        return crl.is_signature_valid(anchor.public_key())  # type: ignore[arg-type]
    except _PARSE_ERRORS:
        return False


def _may_sign_crls(anchor: x509.Certificate) -> bool:
    try:
        return anchor.extensions.get_extension_for_class(x509.KeyUsage).value.crl_sign
    except x509.ExtensionNotFound:
        return True


def _number(crl: x509.CertificateRevocationList, origin: str) -> int | None:
    """The CRL's number. A critical extension that we don't know, as delta and partitioned CRLs have, makes it unusable:
    such a list does not name all that its issuer revoked."""
    number = None
    for extension in crl.extensions:
        if isinstance(extension.value, x509.CRLNumber):
            number = extension.value.crl_number
        elif extension.critical and not isinstance(extension.value, _UNDERSTOOD):
            raise _unusable(origin, f"holds a CRL with the critical extension {extension.oid.dotted_string}")
    return number


def _unusable(origin: str, cause: str) -> BsfgError:
    return BsfgError(
        Code.CONFIGURATION,
        f"{origin} {cause}",
        hint="install each issuer's complete, current CRL in PEM, and its CA among the trust anchors",
    )
