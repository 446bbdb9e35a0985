"""What an artifact is called, and what a fact says of it (contract, section 4; runbook 7).

A URI is parsed once, here, and from then on is a bucket, a type and a key; nothing later takes it apart again (I40).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from bsfg.errors import BsfgError, Code

SCHEME: Final = "s3://"
URI_BYTES_MAX: Final = 1_024
_FORBIDDEN: Final = re.compile(r"[%?#@:\\\x00-\x1f\x7f-\x9f]")
_MEDIA_TYPE: Final = re.compile(r"[A-Za-z0-9!#$&^_.+-]{1,64}/[A-Za-z0-9!#$&^_.+-]{1,64}", re.ASCII)
SHA256_PATTERN: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True, slots=True, order=True)
class ArtifactUri:
    """``s3://<bucket>/<type>/<key>``; the key may have further segments."""

    bucket: str
    artifact_type: str
    key: str

    def __str__(self) -> str:
        return f"{SCHEME}{self.bucket}/{self.artifact_type}/{self.key}"


@dataclass(frozen=True, slots=True)
class ArtifactReference:
    """An artifact as a fact names it: what its bytes must be."""

    uri: ArtifactUri
    sha256: str
    """Lower-case hexadecimal."""
    size: int
    media_type: str | None = None


class ArtifactState(StrEnum):
    """What became of an artifact that we want from a peer (contract, section 6)."""

    PENDING = "pending"
    VERIFIED = "verified"
    MISSING = "missing"
    CORRUPT = "corrupt"
    FORBIDDEN = "forbidden"


def parse_artifact_uri(text: str) -> ArtifactUri:
    """The URI, or ``invalid_uri`` that says which rule of the contract it breaks."""
    if len(text.encode("utf-8", "surrogatepass")) > URI_BYTES_MAX:
        raise _invalid(f"it is longer than {URI_BYTES_MAX} bytes")
    if not text.startswith(SCHEME):
        raise _invalid(f"it does not begin with {SCHEME}")
    path = text.removeprefix(SCHEME)
    if found := _FORBIDDEN.search(path):
        raise _invalid(f"it has the character {found[0]!a}")
    if any("\ud800" <= character <= "\udfff" for character in path):
        raise _invalid("it is not valid Unicode")
    segments = path.split("/")
    if len(segments) < 3 or "" in segments:
        raise _invalid("it is not s3://bucket/type/key with non-empty segments")
    if "." in segments or ".." in segments:
        raise _invalid("a segment is . or ..")
    return ArtifactUri(segments[0], segments[1], "/".join(segments[2:]))


def is_media_type(text: str) -> bool:
    """Whether it is type/subtype and nothing more, as it may stand in a header of HTTP."""
    return _MEDIA_TYPE.fullmatch(text) is not None


def _invalid(reason: str) -> BsfgError:
    return BsfgError(
        Code.INVALID_URI,
        f"the artifact URI is not valid: {reason}",
        hint="it looks like s3://bucket/type/key",
    )
