"""Authorities, certificates and trust snapshots for tests, good and bad ones alike; all real, made in milliseconds."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from bsfg.model.identity import IdentityFrom, IdentityRule
from bsfg.model.names import ZoneId
from bsfg.transport.development_ca import (
    BOTH_PURPOSES,
    Authority,
    CertificateRequest,
    alternative_names,
    build_certificate,
    build_crl,
    new_key,
    self_signed_authority,
    write_certificates,
    write_key,
)
from bsfg.transport.revocation import RevocationList
from bsfg.transport.trust import PeerTrust, TrustStore

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


@dataclass(frozen=True)
class Issued:
    """A certificate with its key, in memory and on disk."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    certificate_path: Path
    key_path: Path

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)


@dataclass
class TestAuthority:
    """A CA in a folder of its own that issues whatever a test asks for."""

    __test__ = False

    folder: Path
    common_name: str = "test CA"
    authority: Authority = field(init=False)
    _count: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.authority = self_signed_authority(self.common_name)
        write_certificates(self.path, [self.authority.certificate])
        write_key(self.key_path, self.authority.key)

    @property
    def path(self) -> Path:
        """The CA's certificate."""
        return self.folder / "ca.crt"

    @property
    def key_path(self) -> Path:
        return self.folder / "ca.key"

    def issue(
        self,
        common_name: str | None = None,
        *,
        dns: Iterable[str] = (),
        uri: Iterable[str] = (),
        ip: Iterable[str] = (),
        begins: timedelta = -HOUR,
        ends: timedelta = DAY,
        purposes: Sequence[x509.ObjectIdentifier] = BOTH_PURPOSES,
        is_authority: bool = False,
        self_signed: bool = False,
    ) -> Issued:
        """A certificate whose dates are counted from now; common name and SAN are exactly what is named here."""
        now = datetime.now(UTC)
        names = alternative_names(san_dns=dns, san_uri=uri, san_ip=ip)
        request = CertificateRequest(common_name, now + begins, now + ends, names, purposes, is_authority)
        key = new_key()
        issuer = None if self_signed else self.authority.certificate
        certificate = build_certificate(
            request, key.public_key(), issuer, key if self_signed else self.authority.key
        )
        return self._write(certificate, key)

    def zone(self, identity: str, *, ip: str = "127.0.0.1") -> Issued:
        """A zone's usual certificate: the identity as CN and as the only DNS entry, beside an address."""
        return self.issue(identity, dns=[identity], ip=[ip])

    def intermediate(self, folder: Path, common_name: str = "test intermediate CA") -> TestAuthority:
        """A CA below this one."""
        below = TestAuthority(folder, common_name)
        issued = self.issue(common_name, is_authority=True, ends=DAY * 300)
        below.authority = Authority(issued.certificate, issued.key)
        write_certificates(below.path, [issued.certificate])
        write_key(below.key_path, issued.key)
        return below

    def crl(
        self, revoked: Iterable[Issued] = (), *, number: int = 1, age: timedelta = HOUR, ends: timedelta = DAY
    ) -> bytes:
        """This CA's CRL in PEM; ``ends`` counts from now."""
        now = datetime.now(UTC)
        serials = [issued.certificate.serial_number for issued in revoked]
        return build_crl(self.authority, serials, number, now - age, now + ends).public_bytes(Encoding.PEM)

    def _write(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> Issued:
        self._count += 1
        issued = Issued(
            certificate, key, self.folder / f"{self._count}.crt", self.folder / f"{self._count}.key"
        )
        write_certificates(issued.certificate_path, [certificate])
        write_key(issued.key_path, key)
        return issued


def authority_certificate(
    key: ec.EllipticCurvePrivateKey,
    common_name: str = "odd CA",
    *,
    issuer: Authority | None = None,
    ca: bool = True,
    has_key_usage: bool = True,
    key_cert_sign: bool = True,
    crl_sign: bool = True,
) -> x509.Certificate:
    """A certificate that says of its own rights whatever a test asks for; self-signed without an issuer."""
    now = datetime.now(UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - HOUR)
        .not_valid_after(now + DAY)
        .add_extension(x509.BasicConstraints(ca, None), critical=True)
    )
    if has_key_usage:
        usage = x509.KeyUsage(True, False, False, False, False, key_cert_sign, crl_sign, False, False)
        builder = builder.add_extension(usage, critical=True)
    return builder.sign(issuer.key if issuer else key, SHA256())


def peer(
    identity: str,
    *,
    identity_from: IdentityFrom = IdentityFrom.DNS,
    extra: tuple[str, ...] = (),
    anchor: Path | None = None,
    authorized: bool = True,
) -> PeerTrust:
    """An authorized peer with this identity."""
    return PeerTrust(IdentityRule(identity, identity_from, extra), anchor, authorized)


def trust_of(
    own: Issued,
    identity: str,
    anchors: Path,
    peers: Mapping[str, PeerTrust],
    revocation: RevocationList | None = None,
) -> TrustStore:
    """The snapshot of a zone with these peers."""
    return TrustStore.build(
        certificate=own.certificate_path,
        key=own.key_path,
        anchors=anchors,
        own=IdentityRule(identity),
        peers={ZoneId(zone): trust for zone, trust in peers.items()},
        revocation=revocation,
    )


def made_again(old: x509.Certificate, key: ec.EllipticCurvePrivateKey, *more: x509.ExtensionType) -> x509.Certificate:
    """The same certificate of the same issuer, with another serial number and further extensions."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(old.subject)
        .issuer_name(old.issuer)
        .public_key(old.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(old.not_valid_before_utc)
        .not_valid_after(old.not_valid_after_utc)
    )
    for extension in old.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    for value in more:
        builder = builder.add_extension(value, critical=False)
    return builder.sign(key, SHA256())


def openssl(folder: Path, *arguments: str) -> str:
    """What the real openssl prints for these arguments, run in this folder."""
    done = subprocess.run(
        ["openssl", *arguments], cwd=folder, check=True, capture_output=True, text=True, timeout=30
    )
    return done.stdout
