"""This zone's own certificate and key: read once, checked, and given to contexts from memory (I36, I38)."""

from __future__ import annotations

import os
import ssl
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID

from bsfg.errors import BsfgError, Code
from bsfg.model.identity import CertificateView, IdentityRule, carries
from bsfg.transport.certificates import is_authority, load_certificates, serves, view_of

KEY_FILE_BYTES_MAX: Final = 64 * 1024
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


@dataclass(frozen=True, slots=True)
class Credentials:
    """A certificate chain and its key, held in memory so that a context never sees half of a later change."""

    view: CertificateView
    _chain_and_key: bytes = field(repr=False)

    @classmethod
    def load(cls, certificate_path: Path, key_path: Path, rule: IdentityRule) -> Credentials:
        """The credentials of two files; ``CONFIGURATION`` unless the key is private and the certificate's, and the
        certificate carries this zone's identity for both directions.

        The certificate's dates are not held against it: an expired one is refused by the peers, and local work goes on.
        """
        chain = load_certificates(certificate_path, "certificate file")
        view = view_of(chain[0])
        _require_identity(chain[0], view, rule, certificate_path)
        key = load_private_key(key_path)
        if _public_bytes(key) != _public_bytes(chain[0]):
            raise _unusable(
                f"key file {key_path} does not belong to the certificate {certificate_path}",
                "install the key that the certificate was requested with",
            )
        parts = [key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())]
        parts += [certificate.public_bytes(Encoding.PEM) for certificate in chain]
        return cls(view, b"".join(parts))

    def install(self, context: ssl.SSLContext) -> None:
        """Let the context present this certificate. OpenSSL reads files only, so it gets one that lies in memory."""
        descriptor = os.memfd_create("bsfg-credentials", os.MFD_CLOEXEC)
        try:
            os.write(descriptor, self._chain_and_key)
            context.load_cert_chain(f"/proc/self/fd/{descriptor}")
        except ssl.SSLError as error:
            raise _unusable(
                f"TLS can't use this zone's certificate (serial {self.view.serial:x}): {error.reason}",
                "use an ECDSA P-256 or an RSA key of at least 2048 bits",
            ) from error
        finally:
            os.close(descriptor)


def load_private_key(path: Path) -> PrivateKeyTypes:
    """An unencrypted key in PEM or DER from a file that nobody else can read; else ``CONFIGURATION`` (I38)."""
    content = read_private(path, "key file", KEY_FILE_BYTES_MAX)
    try:
        if b"-----BEGIN" in content:
            return load_pem_private_key(content, password=None)
        return load_der_private_key(content, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        # The library's words are left out: they could quote the key.
        cause = "is encrypted" if b"ENCRYPTED" in content else "holds no readable private key"
        raise _unusable(
            f"key file {path} {cause}", "it must be an unencrypted private key in PEM or DER"
        ) from error


def read_private(path: Path, what: str, bytes_max: int) -> bytes:
    """A secret's bytes; ``CONFIGURATION`` unless the file is this user's own and has no bits for anyone else.

    What is read is the very file that was examined, whatever happens to the path meanwhile.
    """
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            if status.st_uid != os.geteuid():
                raise _unusable(
                    f"{what} {path} belongs to another user (uid {status.st_uid})", f"chown it: {path}"
                )
            if status.st_mode & _OTHERS:
                mode = stat.S_IMODE(status.st_mode)
                raise _unusable(f"{what} {path} can be read by others (mode {mode:04o})", f"chmod 600 {path}")
            content = file.read(bytes_max + 1)
    except OSError as error:
        raise _unusable(
            f"{what} {path} can't be read: {error.strerror}",
            "put it there, readable by the gateway's user alone",
        ) from error
    if len(content) > bytes_max:
        raise _unusable(f"{what} {path} is longer than {bytes_max} bytes", "name the right file")
    return content


def _require_identity(
    certificate: x509.Certificate, view: CertificateView, rule: IdentityRule, path: Path
) -> None:
    if mismatch := carries(view, rule):
        raise _unusable(
            f"certificate {path} does not carry this zone's identity: it has {mismatch.found}, "
            f"expected {mismatch.expected}",
            "correct identity, identity_from or identity_san_extra in zone.yaml, or install the zone's certificate",
        )
    if is_authority(certificate):
        raise _unusable(f"certificate {path} is a CA's", "install the zone's own certificate")
    for purpose, name in (
        (ExtendedKeyUsageOID.SERVER_AUTH, "serverAuth"),
        (ExtendedKeyUsageOID.CLIENT_AUTH, "clientAuth"),
    ):
        if not serves(certificate, purpose):
            raise _unusable(
                f"certificate {path} has an extended key usage without {name}",
                "a gateway serves and calls: its certificate needs serverAuth and clientAuth",
            )


def _public_bytes(holder: PrivateKeyTypes | x509.Certificate) -> bytes:
    return holder.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _unusable(message: str, hint: str) -> BsfgError:
    return BsfgError(Code.CONFIGURATION, message, hint=hint)
