"""Artifacts in the zones of a running lab: put at the source, spoilt there, named by facts, looked for elsewhere."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Final

from tests.support.lab_zones import ENTERPRISE, OPERATIONAL, Zone, eventually

from bsfg.substrates.file_artifacts import OBJECTS

BUCKET: Final = "enterprise-bsfg-artifacts"


def uri(key: str, artifact_type: str = "batch-files") -> str:
    return f"s3://{BUCKET}/{artifact_type}/{key}"


def object_path(zone: Zone, sha256: str) -> Path:
    """Where a zone's store has these bytes."""
    return zone.home / "data" / "artifacts" / OBJECTS / sha256[:2] / sha256


def put(zone: Zone, key: str, content: bytes, artifact_type: str = "batch-files") -> dict[str, Any]:
    """The zone has it from now on; what a fact says of it."""
    answer = zone.ask("artifact", "put", "-", "--type", artifact_type, "--key", key, stdin=content)
    named = {f"artifact_{name}": answer[name] for name in ("uri", "sha256", "size")}
    assert named == reference(key, content, artifact_type)
    return named


def reference(key: str, content: bytes, artifact_type: str = "batch-files") -> dict[str, Any]:
    """What a fact says of these bytes under this name, wherever they are."""
    return {
        "artifact_uri": uri(key, artifact_type),
        "artifact_sha256": hashlib.sha256(content).hexdigest(),
        "artifact_size": len(content),
    }


def tell(zone: Zone, *facts: dict[str, Any]) -> None:
    """Facts in the zone's operational stream."""
    zone.append(OPERATIONAL, *[json.dumps(fact).encode() for fact in facts])


def row(zone: Zone, name: str) -> dict[str, Any] | None:
    """The artifact's row in the receiver's list."""
    rows = zone.api.get("/v1/artifacts", peer=ENTERPRISE)["artifacts"]
    return next((row for row in rows if row["uri"] == name), None)


def reaches(zone: Zone, name: str, state: str, seconds: float = 15.0) -> dict[str, Any]:
    """Wait until the artifact is in this state; its row."""

    def asked() -> dict[str, Any] | None:
        found = row(zone, name)
        return found if found is not None and found["state"] == state else None

    found = eventually(f"{name} is {state}", seconds, asked)
    assert found is not None
    return found
