"""Certificates as files and as verdicts: reading, viewing, building a chain to an anchor (runbook 3.1)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509 import verification
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from bsfg.errors import BsfgError, Code
from bsfg.model.identity import CertificateView
from bsfg.model.moment import NANOSECONDS, format_time

CERTIFICATE_FILE_BYTES_MAX: Final = 4 * 1024 * 1024
CHAIN_LENGTH_MAX: Final = 8
_NANOSECONDS_A_DAY: Final = 86_400 * NANOSECONDS
_PARSE_ERRORS: Final = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.ExtensionNotFound,
    x509.DuplicateExtension,
)


def read_file(path: Path, what: str, bytes_max: int = CERTIFICATE_FILE_BYTES_MAX) -> bytes:
    """The bytes of a file; ``CONFIGURATION`` naming the file if it can't be read or is longer than the limit."""
    try:
        with path.open("rb") as file:
            content = file.read(bytes_max + 1)
    except OSError as error:
        raise BsfgError(
            Code.CONFIGURATION,
            f"{what} {path} can't be read: {error.strerror}",
            hint=f"put the {what} there, readable by the gateway's user",
        ) from error
    if len(content) > bytes_max:
        raise BsfgError(Code.CONFIGURATION, f"{what} {path} is longer than {bytes_max} bytes")
    return content


def load_certificates(path: Path, what: str = "certificate file") -> list[x509.Certificate]:
    """Every certificate of a PEM or DER file, at least one, in order; else ``CONFIGURATION`` with cause and hint."""
    return parse_certificates(read_file(path, what), f"{what} {path}")


def parse_certificates(content: bytes, origin: str) -> list[x509.Certificate]:
    """Every certificate in PEM or DER bytes, at least one; ``origin`` names them in the error."""
    try:
        if b"-----BEGIN" in content:
            certificates = x509.load_pem_x509_certificates(content)
        else:
            certificates = [x509.load_der_x509_certificate(content)]
        for certificate in certificates:
            view_of(certificate)
    except _PARSE_ERRORS as error:
        raise BsfgError(
            Code.CONFIGURATION,
            f"{origin} holds no readable certificate: {_first_line(error)}",
            hint="it must be a certificate in PEM or DER; 'openssl x509 -in FILE -noout -text' shows one",
        ) from error
    return certificates


def view_of(certificate: x509.Certificate) -> CertificateView:
    """What identity decisions need of a certificate. A malformed extension is a ``ValueError``.

    A subject with several common names has none: it must not be a matter of order which of them counts.
    """
    common_names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    names = alternative_names(certificate)
    return CertificateView(
        version=certificate.version.value + 1,
        common_name=str(common_names[0].value) if len(common_names) == 1 else None,
        dns=tuple(name.value for name in names if isinstance(name, x509.DNSName)),
        uri=tuple(name.value for name in names if isinstance(name, x509.UniformResourceIdentifier)),
        serial=certificate.serial_number,
        issuer=certificate.issuer.rfc4514_string(),
        not_before=nanoseconds_of(certificate.not_valid_before_utc),
        not_after=nanoseconds_of(certificate.not_valid_after_utc),
        fingerprint=fingerprint(certificate),
    )


def alternative_names(certificate: x509.Certificate) -> list[x509.GeneralName]:
    """The SAN's entries, none if the certificate has no SAN."""
    try:
        return list(certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except x509.ExtensionNotFound:
        return []


def fingerprint(certificate: x509.Certificate) -> str:
    """sha-256 of the DER bytes, lower-case hex."""
    return certificate.fingerprint(SHA256()).hex()


def nanoseconds_of(moment: datetime) -> int:
    """A certificate's whole-second moment as nanoseconds since 1970."""
    return int(moment.timestamp()) * NANOSECONDS


def is_authority(certificate: x509.Certificate) -> bool:
    """Whether the certificate's basicConstraints make it a CA."""
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return False


def serves(certificate: x509.Certificate, purpose: x509.ObjectIdentifier) -> bool:
    """Whether the extended key usage allows this purpose; a certificate without one serves every purpose."""
    try:
        usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return True
    return purpose in usages or ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE in usages


class Anchors:
    """An immutable set of trusted CA certificates, roots or intermediates, that chains are built to."""

    def __init__(self, certificates: Sequence[x509.Certificate]) -> None:
        self.certificates = tuple(certificates)
        self._store = verification.Store(list(certificates))

    @classmethod
    def load(cls, path: Path) -> Anchors:
        """The anchors of a file; ``CONFIGURATION`` if it can't be read, or holds a certificate that is no CA."""
        certificates = load_certificates(path, "trust anchor file")
        for certificate in certificates:
            if not is_authority(certificate):
                raise BsfgError(
                    Code.CONFIGURATION,
                    f"trust anchor file {path} holds {certificate.subject.rfc4514_string()}, which is not a CA",
                    hint="basicConstraints must say CA:TRUE; put the issuing CA there, not a zone's certificate",
                )
        return cls(certificates)

    @property
    def fingerprints(self) -> tuple[str, ...]:
        return tuple(fingerprint(certificate) for certificate in self.certificates)

    def chain(
        self, leaf: x509.Certificate, now: int, intermediates: Sequence[x509.Certificate] = ()
    ) -> list[x509.Certificate] | None:
        """The chain from the leaf to an anchor, valid at this moment, or None.

        Signatures, dates, path lengths and name constraints are checked. The leaf's extensions are not: identity,
        purpose and CA:FALSE are the caller's to check. CAs need basicConstraints but no keyUsage, which is what
        `openssl req -x509` makes.
        """
        verifier = (
            verification.PolicyBuilder()
            .store(self._store)
            .time(datetime.fromtimestamp(now // NANOSECONDS, UTC))
            .max_chain_depth(CHAIN_LENGTH_MAX)
            .extension_policies(
                ca_policy=_AUTHORITY_POLICY, ee_policy=verification.ExtensionPolicy.permit_all()
            )
            .build_client_verifier()
        )
        try:
            return verifier.verify(leaf, list(intermediates)).chain
        except verification.VerificationError:
            return None

    def issuer_out_of_date(self, leaf: x509.Certificate, now: int) -> x509.Certificate | None:
        """An anchor that did sign the leaf but is not valid at this moment: why ``chain`` found none."""
        for anchor in self.certificates:
            valid = (
                nanoseconds_of(anchor.not_valid_before_utc)
                <= now
                <= nanoseconds_of(anchor.not_valid_after_utc)
            )
            if not valid and issued_by(leaf, anchor):
                return anchor
        return None


def issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Whether the issuer's name and key made this certificate."""
    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, ValueError, TypeError, UnsupportedAlgorithm):
        return False
    return True


def _must_sign_certificates(
    policy: verification.Policy, certificate: x509.Certificate, usage: x509.KeyUsage | None
) -> None:
    if usage is not None and not usage.key_cert_sign:
        raise ValueError("this CA's keyUsage does not allow it to sign certificates")


_AUTHORITY_POLICY: Final = (
    verification.ExtensionPolicy.permit_all()
    .require_present(x509.BasicConstraints, verification.Criticality.AGNOSTIC, None)
    .may_be_present(x509.KeyUsage, verification.Criticality.AGNOSTIC, _must_sign_certificates)
)


def days_left(view: CertificateView, now: int) -> int:
    """Whole days until the certificate ends; negative once it has ended."""
    return (view.not_after - now) // _NANOSECONDS_A_DAY


def why_no_chain(leaf: x509.Certificate, anchors: Anchors, now: int) -> str:
    """For people: why the leaf has no chain to these anchors at this moment."""
    view = view_of(leaf)
    if now > view.not_after:
        return f"the certificate ended at {format_time(view.not_after)}"
    if now < view.not_before:
        return f"the certificate begins only at {format_time(view.not_before)}"
    if stale := anchors.issuer_out_of_date(leaf, now):
        return f"its CA {stale.subject.rfc4514_string()} is not valid now"
    return f"its issuer {view.issuer} is none of the trust anchors and has no chain to one"


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
