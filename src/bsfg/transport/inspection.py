"""What a certificate file says, for people and scripts: ``bsfg cert inspect`` (runbook 3.1)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa
from cryptography.x509.oid import AuthorityInformationAccessOID

from bsfg.model.moment import format_time
from bsfg.transport.certificates import (
    Anchors,
    alternative_names,
    days_left,
    is_authority,
    load_certificates,
    view_of,
    why_no_chain,
)
from bsfg.transport.revocation import RevocationList

_NAME_KINDS: Final = {
    x509.DNSName: "DNS",
    x509.UniformResourceIdentifier: "URI",
    x509.IPAddress: "IP",
    x509.RFC822Name: "email",
}


def inspect(path: Path, anchors_path: Path | None, crl_path: Path | None, now: int) -> dict[str, Any]:
    """What a certificate file says, for ``bsfg cert inspect``; the first certificate is the zone's, others its chain.

    ``chain`` is ``{"verdict": "ok" | "failed" | "not_checked", ...}``, ``revocation`` likewise; ``not_checked`` where
    no anchors or no CRL were given. ``days_left`` is whole days, negative after the end. Raises ``CONFIGURATION`` for a
    file that can't be read.
    """
    leaf, *intermediates = load_certificates(path)
    view = view_of(leaf)
    anchors = Anchors.load(anchors_path) if anchors_path else None
    chain = anchors.chain(leaf, now, intermediates) if anchors else None
    return {
        "file": str(path),
        "subject": leaf.subject.rfc4514_string(),
        "san": [_shown(name) for name in alternative_names(leaf)],
        "issuer": view.issuer,
        "serial": f"{view.serial:x}",
        "not_before": format_time(view.not_before),
        "not_after": format_time(view.not_after),
        "days_left": days_left(view, now),
        "key_type": key_type(leaf),
        "is_ca": is_authority(leaf),
        "fingerprint_sha256": view.fingerprint,
        "ocsp": ocsp_addresses(leaf),
        "crl_distribution_points": _crl_addresses(leaf),
        "chain": _chain_verdict(leaf, anchors, chain, now),
        "revocation": _revocation_verdict(anchors, chain, crl_path, now),
    }


def key_type(certificate: x509.Certificate) -> str:
    """The public key's kind and size for people, for example ``ECDSA secp256r1`` or ``RSA 2048``."""
    key = certificate.public_key()
    if isinstance(key, ec.EllipticCurvePublicKey):
        return f"ECDSA {key.curve.name}"
    if isinstance(key, rsa.RSAPublicKey | dsa.DSAPublicKey):
        return f"{'RSA' if isinstance(key, rsa.RSAPublicKey) else 'DSA'} {key.key_size}"
    if isinstance(key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey):
        return "Ed25519" if isinstance(key, ed25519.Ed25519PublicKey) else "Ed448"
    return type(key).__name__


def _chain_verdict(
    leaf: x509.Certificate, anchors: Anchors | None, chain: list[x509.Certificate] | None, now: int
) -> dict[str, str]:
    if anchors is None:
        return {"verdict": "not_checked", "detail": "no trust anchors were given"}
    if chain is not None:
        return {
            "verdict": "ok",
            "anchor": chain[-1].subject.rfc4514_string(),
            "detail": f"{len(chain)} certificates",
        }
    return {"verdict": "failed", "detail": why_no_chain(leaf, anchors, now)}


def _revocation_verdict(
    anchors: Anchors | None, chain: list[x509.Certificate] | None, crl_path: Path | None, now: int
) -> dict[str, str]:
    if crl_path is None or anchors is None or chain is None:
        return {"verdict": "not_checked", "detail": "needs a CRL and a chain to a trust anchor"}
    refusal = RevocationList.load(crl_path, anchors.certificates).check_chain(chain, now)
    if refusal:
        return {"verdict": "failed", "reason": refusal.reason, "detail": refusal.detail}
    return {"verdict": "ok", "detail": "not on its issuer's CRL"}


def _shown(name: x509.GeneralName) -> str:
    return f"{_NAME_KINDS.get(type(name), type(name).__name__)}:{name.value}"


def ocsp_addresses(certificate: x509.Certificate) -> list[str]:
    """The URLs of the responders that the certificate names."""
    try:
        access = certificate.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
    except x509.ExtensionNotFound:
        return []
    return [
        str(entry.access_location.value)
        for entry in access
        if entry.access_method == AuthorityInformationAccessOID.OCSP
    ]


def _crl_addresses(certificate: x509.Certificate) -> list[str]:
    try:
        points = certificate.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    except x509.ExtensionNotFound:
        return []
    return [str(name.value) for point in points for name in point.full_name or ()]
