"""A development CA for labs, tests and trials: authority, certificates, CRLs. Production has its own PKI.

Every file is written whole: a temporary file, fsync, rename, fsync of the folder. Keys are 0600 from their creation on.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from bsfg.errors import BsfgError, Code
from bsfg.transport.certificates import load_certificates, read_file

AUTHORITY_DAYS: Final = 3650
COMMON_NAME_LENGTH_MAX: Final = 64
PRIVATE_MODE: Final = 0o600
PUBLIC_MODE: Final = 0o644
BOTH_PURPOSES: Final = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
_BACKDATED: Final = timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Authority:
    """A CA's certificate and its key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def load(cls, certificate_path: Path, key_path: Path) -> Authority:
        """The authority of two PEM files; ``CONFIGURATION`` if they can't be read or the key is not P-256 and plain."""
        certificate = load_certificates(certificate_path, "CA certificate file")[0]
        content = read_file(key_path, "CA key file")
        try:
            key = load_pem_private_key(content, password=None)
        except (ValueError, TypeError) as error:
            raise _bad_key(key_path, "is not an unencrypted private key in PEM") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise _bad_key(key_path, "is not an elliptic-curve key")
        if key.public_key() != certificate.public_key():
            raise _bad_key(key_path, f"does not belong to {certificate_path}")
        return cls(certificate, key)


@dataclass(frozen=True, slots=True)
class AuthorityPaths:
    """Where an authority was written."""

    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class CertificateRequest:
    """What a certificate shall say. The defaults are a zone's; tests ask for bad ones."""

    common_name: str | None
    not_before: datetime
    not_after: datetime
    alternative_names: Sequence[x509.GeneralName] = ()
    purposes: Sequence[x509.ObjectIdentifier] = BOTH_PURPOSES
    is_authority: bool = False
    path_length: int | None = None


def create_authority(
    directory: Path, common_name: str, *, days: int = AUTHORITY_DAYS, now: datetime | None = None
) -> AuthorityPaths:
    """A new CA in ``directory`` as ``ca.crt`` and ``ca.key`` (0600), durable on return.

    Refuses to replace a CA that is there (``CONFIGURATION``): what it signed would lose its anchor.
    """
    paths = AuthorityPaths(directory / "ca.crt", directory / "ca.key")
    for path in (paths.certificate, paths.key):
        if path.exists():
            raise BsfgError(
                Code.CONFIGURATION,
                f"the development CA was not created: {path} exists",
                hint="name another folder, or remove the old CA and everything that it issued",
            )
    authority = self_signed_authority(common_name, days=days, now=now)
    write_key(paths.key, authority.key)
    write_certificates(paths.certificate, [authority.certificate])
    return paths


def self_signed_authority(
    common_name: str, *, days: int = AUTHORITY_DAYS, now: datetime | None = None
) -> Authority:
    """A new root CA in memory."""
    begin = (now or datetime.now(UTC)) - _BACKDATED
    request = CertificateRequest(common_name, begin, begin + timedelta(days=days), is_authority=True)
    key = new_key()
    return Authority(build_certificate(request, key.public_key(), None, key), key)


def issue(
    ca_cert: Path,
    ca_key: Path,
    identity: str,
    *,
    san_dns: Iterable[str] = (),
    san_uri: Iterable[str] = (),
    san_ip: Iterable[str] = (),
    days: float,
    not_before: datetime | None = None,
    out_cert: Path,
    out_key: Path,
) -> x509.Certificate:
    """A zone's certificate and new key (0600) for both directions, durable on return; the key is written first.

    The common name is the identity, for people and for old tools; only the SAN counts. The SAN is exactly what the
    arguments say: an identity read from DNS must be among ``san_dns``. An end after the CA's own end is cut to it.
    """
    authority = Authority.load(ca_cert, ca_key)
    begin = not_before or datetime.now(UTC) - _BACKDATED
    end = min(begin + timedelta(days=days), authority.certificate.not_valid_after_utc)
    request = CertificateRequest(
        identity, begin, end, alternative_names(san_dns=san_dns, san_uri=san_uri, san_ip=san_ip)
    )
    key = new_key()
    certificate = build_certificate(request, key.public_key(), authority.certificate, authority.key)
    write_key(out_key, key)
    write_certificates(out_cert, [certificate])
    return certificate


def alternative_names(
    *, san_dns: Iterable[str] = (), san_uri: Iterable[str] = (), san_ip: Iterable[str] = ()
) -> list[x509.GeneralName]:
    """SAN entries of plain texts; ``INVALID_REQUEST`` for one that can't stand there."""
    try:
        return [
            *(x509.DNSName(name) for name in san_dns),
            *(x509.UniformResourceIdentifier(name) for name in san_uri),
            *(x509.IPAddress(ip_address(name)) for name in san_ip),
        ]
    except ValueError as error:
        raise BsfgError(
            Code.INVALID_REQUEST,
            f"the SAN entry can't be made: {error}",
            hint="DNS and URI entries are ASCII, IP entries are addresses",
        ) from error


def build_certificate(
    request: CertificateRequest,
    public_key: ec.EllipticCurvePublicKey,
    issuer: x509.Certificate | None,
    issuer_key: ec.EllipticCurvePrivateKey,
) -> x509.Certificate:
    """Exactly the certificate that was asked for, signed; without an issuer it is self-signed."""
    subject = _name(request.common_name)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer else subject)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(request.not_before)
        .not_valid_after(request.not_after)
        .add_extension(x509.BasicConstraints(request.is_authority, request.path_length), critical=True)
        .add_extension(_key_usage(request.is_authority), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False
        )
    )
    if not request.is_authority and request.purposes:
        builder = builder.add_extension(x509.ExtendedKeyUsage(request.purposes), critical=False)
    if request.alternative_names:
        names = x509.SubjectAlternativeName(request.alternative_names)
        builder = builder.add_extension(names, critical=not list(subject))
    return builder.sign(issuer_key, SHA256())


def issue_crl(
    ca_cert: Path,
    ca_key: Path,
    revoked_serials: Iterable[int],
    number: int,
    last_update: datetime,
    next_update: datetime,
    out: Path,
) -> x509.CertificateRevocationList:
    """A CA's complete CRL in PEM, durable on return. Numbers must grow: a gateway refuses an older one."""
    authority = Authority.load(ca_cert, ca_key)
    crl = build_crl(authority, revoked_serials, number, last_update, next_update)
    write_whole(out, crl.public_bytes(Encoding.PEM), PUBLIC_MODE)
    return crl


def build_crl(
    authority: Authority,
    revoked_serials: Iterable[int],
    number: int,
    last_update: datetime,
    next_update: datetime,
) -> x509.CertificateRevocationList:
    """A signed CRL in memory."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(authority.certificate.subject)
        .last_update(last_update)
        .next_update(next_update)
        .add_extension(x509.CRLNumber(number), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()), critical=False
        )
    )
    for serial in revoked_serials:
        entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(last_update).build()
        builder = builder.add_revoked_certificate(entry)
    return builder.sign(authority.key, SHA256())


def new_key() -> ec.EllipticCurvePrivateKey:
    """A new P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    """The key unencrypted in PEM, 0600 from its creation on whatever the umask is; durable on return."""
    write_whole(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), PRIVATE_MODE)


def write_certificates(path: Path, certificates: Iterable[x509.Certificate]) -> None:
    """Certificates in PEM, in order; durable on return."""
    content = b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)
    write_whole(path, content, PUBLIC_MODE)


def write_whole(path: Path, content: bytes, mode: int) -> None:
    """The file is the old or the new one, never a mixture, and durable on return; the folder is made if need be."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_MODE)
        try:
            with os.fdopen(descriptor, "wb") as file:
                os.fchmod(descriptor, mode)
                file.write(content)
                file.flush()
                os.fsync(descriptor)
            temporary.replace(path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink()
            raise
        _sync_folder(path.parent)
    except OSError as error:
        raise BsfgError(
            Code.CONFIGURATION,
            f"{path} can't be written: {error.strerror}",
            hint="name a folder that this user may write to",
        ) from error


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _name(common_name: str | None) -> x509.Name:
    if common_name is None:
        return x509.Name([])
    if not 0 < len(common_name) <= COMMON_NAME_LENGTH_MAX:
        raise BsfgError(
            Code.INVALID_REQUEST,
            f"a common name has 1 to {COMMON_NAME_LENGTH_MAX} characters, this one has {len(common_name)}",
            hint="use a shorter identity",
        )
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _key_usage(is_authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=is_authority,
        crl_sign=is_authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _bad_key(path: Path, cause: str) -> BsfgError:
    return BsfgError(
        Code.CONFIGURATION, f"CA key file {path} {cause}", hint="name the key that the CA was made with"
    )
