"""What a certificate says and what the installed anchors say of it, without refusing anything (runbook 3.1 to 3.3)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, ObjectIdentifier

from bsfg.errors import BsfgError
from bsfg.model.identity import CertificateView
from bsfg.transport.certificates import (
    Anchors,
    fingerprint,
    is_authority,
    load_certificates,
    serves,
    view_of,
    why_no_chain,
)
from bsfg.transport.credentials import load_private_key
from bsfg.transport.revocation import RevocationList

SERVER: tuple[ObjectIdentifier, ...] = (ExtendedKeyUsageOID.SERVER_AUTH,)
BOTH: tuple[ObjectIdentifier, ...] = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)


@dataclass(frozen=True, slots=True)
class Presented:
    """One certificate, held against anchors and revocation list."""

    view: CertificateView
    chain: tuple[str, ...]
    """sha-256 of each certificate that vouches for it, the anchor last; none without a chain."""
    chain_problem: str | None
    is_authority: bool
    serves: bool
    revoked: str | None


def present(
    leaf: x509.Certificate,
    intermediates: Sequence[x509.Certificate],
    anchors: Anchors | None,
    purposes: Sequence[ObjectIdentifier],
    revocation: RevocationList | None,
    now: int,
    *,
    is_own: bool,
) -> Presented:
    """The chain is looked for at a moment at which the leaf is valid, so that its dates are judged apart.

    Our own issuer's revocation list need not be installed here; the peer's has to be where there is one at all.
    """
    view = view_of(leaf)
    moment = min(max(now, view.not_before), view.not_after)
    chain = None if anchors is None else anchors.chain(leaf, moment, intermediates)
    refusal = revocation.check_chain(chain, now) if revocation is not None and chain is not None else None
    if refusal is not None and is_own and refusal.reason == "crl_missing":
        refusal = None
    return Presented(
        view=view,
        chain=tuple(fingerprint(each) for each in (chain or [])[1:]),
        chain_problem=_problem(leaf, anchors, moment) if chain is None else None,
        is_authority=is_authority(leaf),
        serves=all(serves(leaf, purpose) for purpose in purposes),
        revoked=None if refusal is None else refusal.detail,
    )


def _problem(leaf: x509.Certificate, anchors: Anchors | None, moment: int) -> str:
    return "no trust anchors are installed" if anchors is None else why_no_chain(leaf, anchors, moment)


def why_key_is_not(certificate_path: Path, key_path: Path) -> str | None:
    """Why the key can't be used with the certificate; None if it can."""
    try:
        key: PrivateKeyTypes = load_private_key(key_path)
        leaf = load_certificates(certificate_path)[0]
    except BsfgError as error:
        return error.message
    if key.public_key() != leaf.public_key():
        return f"{key_path} does not belong to {certificate_path}"
    return None
