"""Certificates that a peer has to refuse, each made for one request (runbook 4.3). None of them is ever installed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from bsfg.model.identity import IdentityFrom, IdentityRule
from bsfg.transport.development_ca import (
    Authority,
    CertificateRequest,
    alternative_names,
    build_certificate,
    new_key,
    self_signed_authority,
    write_certificates,
    write_key,
)

VALID: Final = timedelta(hours=1)
UNLISTED: Final = "bsfg-unlisted-by-everybody"


def write_stranger(
    folder: Path, rule: IdentityRule, authority: Authority | None, *, has_ended: bool = False
) -> tuple[Path, Path]:
    """A certificate with this identity and its key (0600) in a folder; without an authority it signs itself."""
    end = datetime.now(UTC) + (-timedelta(days=1) if has_ended else VALID)
    is_uri = rule.identity_from is IdentityFrom.URI
    names = [rule.identity, *rule.san_extra]
    request = CertificateRequest(
        None if is_uri else rule.identity[:64],
        end - timedelta(days=2),
        end,
        alternative_names(san_dns=() if is_uri else names, san_uri=names if is_uri else ()),
    )
    key = new_key()
    issuer, issuer_key = (authority.certificate, authority.key) if authority else (None, key)
    certificate_path, key_path = folder / "stranger.crt", folder / "stranger.key"
    write_key(key_path, key)
    write_certificates(certificate_path, [build_certificate(request, key.public_key(), issuer, issuer_key)])
    return certificate_path, key_path


def unknown_authority() -> Authority:
    """A CA that nobody has installed."""
    return self_signed_authority("a CA that nobody installed", days=2)


def unlisted(rule: IdentityRule) -> IdentityRule:
    """An identity of the same kind that nobody lists."""
    identity = f"spiffe://{UNLISTED}/zone" if rule.identity_from is IdentityFrom.URI else UNLISTED
    return IdentityRule(identity, rule.identity_from)
