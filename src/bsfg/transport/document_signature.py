"""Signatures of documents: detached CMS by a zone's key, checked by OpenSSL and the chain code of the handshakes.

A zone's certificate has no signing purpose, so purposes are not asked for; whose it is comes from its identity and its
chain alone, at the moment of signing, so that a document outlives the certificate.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7

from bsfg.errors import BsfgError, Code
from bsfg.transport.certificates import Anchors, load_certificates, why_no_chain
from bsfg.transport.credentials import load_private_key

OPENSSL_SECONDS: Final = 30.0


@dataclass(frozen=True, slots=True)
class DocumentSigner:
    """A zone's certificate chain and key."""

    chain: tuple[x509.Certificate, ...]
    _key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

    @classmethod
    def load(cls, certificate_path: Path, key_path: Path) -> DocumentSigner:
        """The signer of two files; ``CONFIGURATION`` if they can't be read, don't belong together or can't sign."""
        chain, key = load_certificates(certificate_path), load_private_key(key_path)
        if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
            raise _unusable(f"key file {key_path} is neither an elliptic-curve nor an RSA key")
        if key.public_key() != chain[0].public_key():
            raise _unusable(f"key file {key_path} does not belong to the certificate {certificate_path}")
        return cls(tuple(chain), key)

    def sign(self, content: bytes) -> bytes:
        """The detached signature in DER, with the certificate and those between it and its anchor."""
        builder = pkcs7.PKCS7SignatureBuilder().set_data(content)
        builder = builder.add_signer(self.chain[0], self._key, SHA256())
        for certificate in self.chain[1:]:
            builder = builder.add_certificate(certificate)
        options = [pkcs7.PKCS7Options.DetachedSignature, pkcs7.PKCS7Options.Binary]
        return builder.sign(Encoding.DER, options)

    def chains_to(self, anchors: Path, now: int) -> bool:
        """Whether the file's anchors vouch for this certificate at this moment."""
        try:
            return Anchors.load(anchors).chain(self.chain[0], now, self.chain[1:]) is not None
        except BsfgError:
            return False


def signer_of(content: bytes, signature: bytes) -> tuple[x509.Certificate, list[x509.Certificate]]:
    """Who signed exactly these bytes, and the other certificates that came along; the chain is not looked at yet.

    Raises ``CHECK_FAILED`` if the signature is not one, or of other bytes, or of several signers, and ``CONFIGURATION``
    where there is no openssl.
    """
    try:
        carried = pkcs7.load_der_pkcs7_certificates(signature)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise BsfgError(Code.CHECK_FAILED, "it is not a CMS signature in DER") from error
    with tempfile.TemporaryDirectory(prefix="bsfg-signature-") as folder:
        parts = {name: Path(folder, name) for name in ("content", "signature", "signer")}
        parts["content"].write_bytes(content)
        parts["signature"].write_bytes(signature)
        # The chain is checked by Anchors.chain, as in handshakes; OpenSSL checks the signature itself.
        paths = {"-in": parts["signature"], "-content": parts["content"], "-signer": parts["signer"]}
        options = [text for option, path in paths.items() for text in (option, str(path))]
        _openssl(["cms", "-verify", "-noverify", "-binary", "-inform", "DER", *options, "-out", "/dev/null"])
        signers = load_certificates(parts["signer"], "signer certificate")
    if len(signers) != 1:
        raise BsfgError(Code.CHECK_FAILED, f"it has {len(signers)} signers; a zone signs alone")
    return signers[0], carried


def require_chain(
    signer: x509.Certificate, carried: Sequence[x509.Certificate], anchors: Anchors, at: int
) -> None:
    """Raise ``CHECK_FAILED`` unless the anchors vouch for the signer at this moment, nanoseconds since 1970."""
    if anchors.chain(signer, at, carried) is None:
        raise BsfgError(Code.CHECK_FAILED, f"its signer is not trusted: {why_no_chain(signer, anchors, at)}")


def _openssl(arguments: list[str]) -> None:
    try:
        done = subprocess.run(
            ["openssl", *arguments], capture_output=True, timeout=OPENSSL_SECONDS, check=False
        )
    except FileNotFoundError as error:
        raise BsfgError(
            Code.CONFIGURATION,
            "signatures can't be checked: there is no openssl on this machine",
            hint="install openssl; the runbook's own checks need it too",
        ) from error
    except subprocess.TimeoutExpired as error:
        raise BsfgError(Code.TIMED_OUT, f"openssl did not end within {OPENSSL_SECONDS:.0f} s") from error
    if done.returncode != 0:
        raise BsfgError(
            Code.CHECK_FAILED, "the signature is not one of this manifest: it or the manifest was changed"
        )


def _unusable(message: str) -> BsfgError:
    hint = "a handoff is signed with the zone's own key: an ECDSA or an RSA one"
    return BsfgError(Code.CONFIGURATION, f"the handoff can't be signed: {message}", hint=hint)
