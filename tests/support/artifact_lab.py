"""Artifacts in the zones of a running lab: put at the source, spoilt there, named by facts, looked for elsewhere."""

from __future__ import annotations

import asyncio
import hashlib
import json
from pathlib import Path
from typing import Any, Final

from tests.support.lab_zones import ENTERPRISE, OPERATIONAL, Zone, eventually

from bsfg.daemon.system import SystemClock
from bsfg.model.artifact import ArtifactUri
from bsfg.model.names import ZoneId
from bsfg.substrates.artifact_catalog import ArtifactQuotas
from bsfg.substrates.file_artifacts import OBJECTS, open_file_artifacts

BUCKET: Final = "enterprise-bsfg-artifacts"
ROOM: Final = ArtifactQuotas(2**50, 2**50)


def uri(key: str, artifact_type: str = "batch-files") -> str:
    return f"s3://{BUCKET}/{artifact_type}/{key}"


def object_path(zone: Zone, sha256: str) -> Path:
    """Where a zone's store has these bytes."""
    return zone.home / "data" / "artifacts" / OBJECTS / sha256[:2] / sha256


def put(zone: Zone, key: str, content: bytes, artifact_type: str = "batch-files") -> dict[str, Any]:
    """The zone has it from now on; what a fact says of it."""

    async def store() -> None:
        opened = open_file_artifacts(
            zone.home / "data" / "artifacts", ZoneId(ENTERPRISE), lambda: ROOM, SystemClock(), print
        )
        opened.open()
        try:
            writing = await opened.begin(ZoneId(ENTERPRISE))
            await writing.write(content)
            await writing.finish(ArtifactUri(BUCKET, artifact_type, key), media_type=None, expected=None)
        finally:
            await opened.close()

    asyncio.run(store())
    return reference(key, content, artifact_type)


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
    rows = zone.api.get("/v1/artifacts/wanted")["artifacts"]
    return next((row for row in rows if row["uri"] == name), None)


def reaches(zone: Zone, name: str, state: str, seconds: float = 15.0) -> dict[str, Any]:
    """Wait until the artifact is in this state; its row."""

    def asked() -> dict[str, Any] | None:
        found = row(zone, name)
        return found if found is not None and found["state"] == state else None

    found = eventually(f"{name} is {state}", seconds, asked)
    assert found is not None
    return found
