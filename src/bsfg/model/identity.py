"""Who a certificate says it is: verdicts on a certificate that was already parsed (contract, section 1; runbook 3)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class IdentityFrom(StrEnum):
    """Which entry of a certificate carries the identity."""

    DNS = "dns"
    URI = "uri"
    SUBJECT = "subject"


@dataclass(frozen=True, slots=True)
class IdentityRule:
    """The identity that a peer's certificate must carry, and how it is read."""

    identity: str
    identity_from: IdentityFrom = IdentityFrom.DNS
    san_extra: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CertificateView:
    """What identity decisions need of one certificate; moments are nanoseconds since 1970."""

    version: int
    common_name: str | None
    dns: tuple[str, ...]
    uri: tuple[str, ...]
    serial: int
    issuer: str
    not_before: int
    not_after: int
    fingerprint: str
    """sha-256 of the DER bytes, lower-case hex."""


@dataclass(frozen=True, slots=True)
class Mismatch:
    """Why a certificate does not carry an identity."""

    found: str
    expected: str


def carries(view: CertificateView, rule: IdentityRule) -> Mismatch | None:
    """None if the certificate carries exactly this identity (I32), else what was found instead.

    The identity must be the only SAN entry of its type, unless the rule lists the others exactly. DNS names compare
    without regard to case; nothing else does. The common name counts only where the rule says ``subject``, and only
    for an X.509 v3 certificate without DNS and URI entries.
    """
    if rule.identity_from is IdentityFrom.SUBJECT:
        return _carried_by_subject(view, rule)
    entries = view.dns if rule.identity_from is IdentityFrom.DNS else view.uri
    wanted = [rule.identity, *rule.san_extra]
    if rule.identity_from is IdentityFrom.DNS:
        entries = tuple(entry.lower() for entry in entries)
        wanted = [entry.lower() for entry in wanted]
    if sorted(entries) == sorted(wanted):
        return None
    kind = rule.identity_from.value.upper()
    found = ", ".join(f"{kind}:{entry}" for entry in entries) or f"no {kind} entry in the SAN"
    return Mismatch(found, "exactly " + ", ".join(f"{kind}:{entry}" for entry in wanted))


def _carried_by_subject(view: CertificateView, rule: IdentityRule) -> Mismatch | None:
    expected = f"CN={rule.identity} in an X.509 v3 certificate without DNS and URI entries"
    if view.version != 3:
        return Mismatch(f"an X.509 v{view.version} certificate", expected)
    if view.dns or view.uri:
        return Mismatch("a SAN with " + ", ".join((*view.dns, *view.uri)), expected)
    if view.common_name != rule.identity:
        return Mismatch(f"CN={view.common_name}", expected)
    return None
