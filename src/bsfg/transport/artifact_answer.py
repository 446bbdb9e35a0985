"""What the head of an artifact's answer must say before a byte of its body is used (design, decision 9).

The peer's word is held against the reference: length, range and digest. It proves nothing about the bytes; it only
spares fetching what can't be right.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Final

from bsfg.core.references import MEDIA_TYPE_LENGTH_MAX, SIZE_MAX
from bsfg.errors import ArtifactCorrupt
from bsfg.model.artifact import ArtifactReference, ArtifactUri
from bsfg.model.names import printable
from bsfg.transport.page_check import bad_answer

SHA256_BYTES: Final = 32
_LENGTH: Final = re.compile(r"[0-9]{1,19}", re.ASCII)
_RANGE: Final = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19})", re.ASCII)
IDENTITY: Final = "identity"


def described(uri: ArtifactUri, headers: Mapping[str, str]) -> ArtifactReference:
    """What the head of a whole answer says the artifact is; ``bad_answer`` where it does not."""
    size, sha256 = length_of(headers), digest_of(headers)
    if sha256 is None:
        raise bad_answer("it has no Digest of sha-256")
    kind = headers.get("Content-Type", "")
    is_plain = kind.isascii() and kind.isprintable() and 0 < len(kind) <= MEDIA_TYPE_LENGTH_MAX
    return ArtifactReference(uri, sha256, size, kind if is_plain else None)


def check_whole(reference: ArtifactReference, headers: Mapping[str, str]) -> None:
    """``ArtifactCorrupt`` where the whole artifact, by this head, is another one than the reference names."""
    check_digest(reference, headers)
    size = length_of(headers)
    if size != reference.size:
        raise _other(reference, headers, f"it has {size} bytes, and {reference.size} were named")


def check_range(reference: ArtifactReference, start: int, headers: Mapping[str, str]) -> None:
    """The same for the rest of it from ``start``; ``bad_answer`` where the range is not the one asked for."""
    check_digest(reference, headers)
    match = _RANGE.fullmatch(headers.get("Content-Range", ""))
    if match is None:
        raise bad_answer(f"its Content-Range is {printable(headers.get('Content-Range', ''))}")
    first, last, size = (int(number) for number in match.groups())
    if size != reference.size:
        raise _other(reference, headers, f"it has {size} bytes, and {reference.size} were named")
    if (first, last) != (start, size - 1) or length_of(headers) != size - start:
        raise bad_answer(f"it brings bytes {first} to {last} where {start} to {size - 1} were asked for")


def length_of(headers: Mapping[str, str]) -> int:
    """The announced length; an answer without one may be endless and is refused."""
    if headers.get("Content-Encoding", IDENTITY) != IDENTITY:
        raise bad_answer(f"it is encoded as {printable(headers['Content-Encoding'])}, which was not asked for")
    text = headers.get("Content-Length", "")
    if not _LENGTH.fullmatch(text) or "Transfer-Encoding" in headers:
        raise bad_answer("it does not say how long it is")
    if int(text) > SIZE_MAX:
        raise bad_answer(f"it announces {text} bytes")
    return int(text)


def digest_of(headers: Mapping[str, str]) -> str | None:
    """The sha-256 in ``Digest`` (RFC 3230: base64, of the whole artifact), hexadecimal; None where there is none."""
    for part in headers.get("Digest", "").split(","):
        name, _, value = part.strip().partition("=")
        if name.lower() != "sha-256":
            continue
        try:
            raw = base64.b64decode(value, validate=True)
        except binascii.Error:
            raw = b""
        if len(raw) != SHA256_BYTES:
            raise bad_answer(f"its Digest {printable(value)} is no sha-256 in base64")
        return raw.hex()
    return None


def check_digest(reference: ArtifactReference, headers: Mapping[str, str]) -> None:
    """``ArtifactCorrupt`` where the peer names another digest than the reference; it need not name any."""
    found = digest_of(headers)
    if found is not None and found != reference.sha256:
        raise _other(reference, headers, f"its sha-256 is {found}, and {reference.sha256} was named")


def _other(reference: ArtifactReference, headers: Mapping[str, str], why: str) -> ArtifactCorrupt:
    return ArtifactCorrupt(
        f"the peer has other bytes under {reference.uri}: {why}",
        expected_sha256=reference.sha256,
        sha256=digest_of(headers),
    )
