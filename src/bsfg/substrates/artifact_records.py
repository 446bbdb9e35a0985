"""The record that stands behind an artifact's name: JSON that says whose it is and which bytes are meant."""

from __future__ import annotations

import json
from typing import Final

from bsfg.model.artifact import SHA256_PATTERN, ArtifactReference, parse_artifact_uri
from bsfg.model.names import ZoneId, parse_zone
from bsfg.ports import StoredArtifact
from bsfg.substrates.artifact_catalog import OwnedArtifact

RECORD_VERSION: Final = 1
RECORD_BYTES_MAX: Final = 16 * 1024


def encode_record(owned: OwnedArtifact) -> bytes:
    """``{"version", "owner", "uri", "sha256", "size", "media_type", "stored_at"}``, one line."""
    reference = owned.stored.reference
    record = {
        "version": RECORD_VERSION,
        "owner": owned.owner,
        "uri": str(reference.uri),
        "sha256": reference.sha256,
        "size": reference.size,
        "media_type": reference.media_type,
        "stored_at": owned.stored.stored_at,
    }
    return json.dumps(record).encode() + b"\n"


def decode_record(content: bytes) -> OwnedArtifact:
    """The record. Raises ``ValueError`` for anything that :func:`encode_record` does not write."""
    try:
        record = json.loads(content)
        owner, uri = parse_zone(record["owner"]), parse_artifact_uri(record["uri"])
        sha256, size, media_type, stored_at = (
            record[name] for name in ("sha256", "size", "media_type", "stored_at")
        )
        has_right_types = (
            record["version"] == RECORD_VERSION
            and SHA256_PATTERN.fullmatch(sha256)
            and (type(size), type(stored_at)) == (int, int)
            and size >= 0
            and (media_type is None or isinstance(media_type, str))
        )
    except Exception as error:
        raise ValueError(f"{type(error).__name__}: {error}") from None
    if not has_right_types:
        raise ValueError("a field has a wrong type or value")
    return OwnedArtifact(
        ZoneId(owner), StoredArtifact(ArtifactReference(uri, sha256, size, media_type), stored_at)
    )
