"""Asking the OCSP responders that a certificate names whether it is revoked (runbook 3.3; RFC 6960).

A responder is whoever the certificate's issuer lets answer, and is believed only by a signature: the issuer's own, or
that of a certificate which the issuer made for signing OCSP answers. The request travels in the clear, as OCSP does.
"""

from __future__ import annotations

import http.client
import secrets
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa
from cryptography.x509 import ocsp
from cryptography.x509.oid import ExtendedKeyUsageOID

from bsfg.errors import BsfgError, Code
from bsfg.model.moment import NANOSECONDS
from bsfg.model.names import printable
from bsfg.transport.certificates import issued_by

ANSWER_SECONDS: Final = 5.0
ANSWER_BYTES_MAX: Final = 64 * 1024
NONCE_BYTES: Final = 16
SKEW: Final = timedelta(minutes=5)
"""How far a responder's clock may be from ours."""


@dataclass(frozen=True, slots=True)
class OcspAnswer:
    """A responder's word that was verified."""

    status: str
    """``good``, ``revoked`` or ``unknown``."""
    responder: str
    detail: str


def ask_responders(
    leaf: x509.Certificate, issuer: x509.Certificate, addresses: list[str], now: int
) -> OcspAnswer:
    """The first answer that is verified; ``unavailable`` naming what each responder did where none is."""
    failures = []
    for address in addresses:
        try:
            return _ask(leaf, issuer, address, datetime.fromtimestamp(now // NANOSECONDS, UTC))
        except (OSError, ValueError, http.client.HTTPException, x509.UnsupportedGeneralNameType) as error:
            failures.append(f"{printable(address)}: {error or type(error).__name__}")
    raise BsfgError(
        Code.UNAVAILABLE,
        f"no OCSP responder answered: {'; '.join(failures) or 'the certificate names none'}",
        hint="look again when it answers; openssl ocsp shows what it says",
    )


def _ask(leaf: x509.Certificate, issuer: x509.Certificate, address: str, now: datetime) -> OcspAnswer:
    nonce = secrets.token_bytes(NONCE_BYTES)
    builder = ocsp.OCSPRequestBuilder().add_certificate(leaf, issuer, hashes.SHA1())
    question = builder.add_extension(x509.OCSPNonce(nonce), critical=False).build()
    response = ocsp.load_der_ocsp_response(_post(address, question.public_bytes(serialization.Encoding.DER)))
    if response.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
        raise ValueError(f"it answers {response.response_status.name.lower()}")
    _check(response, question, leaf, issuer, now)
    if response.certificate_status is ocsp.OCSPCertStatus.REVOKED:
        reason = response.revocation_reason.value if response.revocation_reason else "no reason given"
        return OcspAnswer("revoked", address, f"revoked at {response.revocation_time_utc}: {reason}")
    status = "good" if response.certificate_status is ocsp.OCSPCertStatus.GOOD else "unknown"
    return OcspAnswer(status, address, f"{status}, as of {response.this_update_utc}")


def _check(
    response: ocsp.OCSPResponse,
    question: ocsp.OCSPRequest,
    leaf: x509.Certificate,
    issuer: x509.Certificate,
    now: datetime,
) -> None:
    """Raises ValueError unless the answer is about this certificate, of this time, and signed by who may."""
    about = (response.serial_number, response.issuer_key_hash, response.issuer_name_hash)
    if about != (leaf.serial_number, question.issuer_key_hash, question.issuer_name_hash):
        raise ValueError("its answer is about another certificate")
    if response.this_update_utc > now + SKEW:
        raise ValueError("its answer is from the future")
    if response.next_update_utc is not None and response.next_update_utc < now - SKEW:
        raise ValueError(f"its answer was good until {response.next_update_utc}")
    if _nonce(response) not in (None, _nonce(question)):
        raise ValueError("its answer is to another question")
    if not any(_may_sign(each, issuer, now) and _signed(response, each) for each in (issuer, *response.certificates)):
        raise ValueError("its answer is signed by nobody who may")


def _nonce(message: ocsp.OCSPResponse | ocsp.OCSPRequest) -> bytes | None:
    try:
        return message.extensions.get_extension_for_class(x509.OCSPNonce).value.nonce
    except x509.ExtensionNotFound:
        return None


def _may_sign(signer: x509.Certificate, issuer: x509.Certificate, now: datetime) -> bool:
    if signer == issuer:
        return True
    try:
        purposes = signer.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return False
    is_valid = signer.not_valid_before_utc <= now <= signer.not_valid_after_utc
    return is_valid and ExtendedKeyUsageOID.OCSP_SIGNING in purposes and issued_by(signer, issuer)


def _signed(response: ocsp.OCSPResponse, signer: x509.Certificate) -> bool:
    key, algorithm = signer.public_key(), response.signature_hash_algorithm
    signature, content = response.signature, response.tbs_response_bytes
    try:
        if isinstance(key, rsa.RSAPublicKey) and algorithm is not None:
            key.verify(signature, content, padding.PKCS1v15(), algorithm)
        elif isinstance(key, ec.EllipticCurvePublicKey) and algorithm is not None:
            key.verify(signature, content, ec.ECDSA(algorithm))
        elif isinstance(key, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey):
            key.verify(signature, content)
        else:
            return False
    except InvalidSignature:
        return False
    return True


def _post(address: str, question: bytes) -> bytes:
    """The responder's answer; ValueError for an address that can't be asked and an answer that is none."""
    parts = urlsplit(address)
    if parts.scheme != "http" or not parts.hostname:
        raise ValueError("only http:// addresses are asked")
    connection = http.client.HTTPConnection(parts.hostname, parts.port or 80, timeout=ANSWER_SECONDS)
    try:
        connection.request(
            "POST", parts.path or "/", question, {"Content-Type": "application/ocsp-request", "Connection": "close"}
        )
        response = connection.getresponse()
        content = _read(response)
    finally:
        connection.close()
    if response.status != http.client.OK:
        raise ValueError(f"it answers with status {response.status}")
    return content


def _read(response: http.client.HTTPResponse) -> bytes:
    ends, content = time.monotonic() + ANSWER_SECONDS, b""
    while piece := response.read1(ANSWER_BYTES_MAX):
        content += piece
        if len(content) > ANSWER_BYTES_MAX:
            raise ValueError(f"its answer is longer than {ANSWER_BYTES_MAX} bytes")
        if time.monotonic() > ends:
            raise ValueError(f"its answer is not whole within {ANSWER_SECONDS:.0f} s")
    return content
