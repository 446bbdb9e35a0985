"""The example facts and artifacts: which file feeds which stream of which zone of the lab."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bsfg.errors import BsfgError, Code
from bsfg.lab.homes import ENTERPRISE, PLANT_A

FEW_FACTS: Final = 20
"""How many facts a lab's stream begins with."""


@dataclass(frozen=True, slots=True)
class ExampleFile:
    """One NDJSON file: each line is the payload of a fact."""

    zone: str
    stream: str
    tail: str
    """What follows the stream's name in the facts' subject."""
    name: str

    def lines(self, count_max: int | None = None) -> list[bytes]:
        """The payloads in the file's order, at most that many."""
        path = examples_directory() / self.name
        return path.read_bytes().splitlines()[:count_max]


@dataclass(frozen=True, slots=True)
class ExampleArtifact:
    """One file of ``examples/artifacts``, and the fact that refers to it."""

    zone: str
    stream: str
    tail: str
    name: str
    artifact_type: str
    key: str
    fact: bytes

    @property
    def path(self) -> Path:
        return examples_directory() / ARTIFACTS / self.name


ARTIFACTS: Final = "artifacts"
BATCH_EVENTS: Final = ExampleFile(ENTERPRISE.zone, "facts.operational", "batch", "batch_events.ndjson")
TELEMETRY: Final = ExampleFile(ENTERPRISE.zone, "facts.telemetry", "line", "telemetry.ndjson")
ORDERS: Final = ExampleFile(PLANT_A.zone, "facts.orders", "order", "orders.ndjson")
EXPORTED: Final = (
    BATCH_EVENTS,
    ExampleFile(ENTERPRISE.zone, "facts.batch_completed", "batch", "batch_completed.ndjson"),
    ExampleFile(ENTERPRISE.zone, "facts.audit", "record", "audit.ndjson"),
    ORDERS,
    ExampleFile(PLANT_A.zone, "facts.shipments", "dock", "shipments.ndjson"),
)
"""One for every stream that the lab exports."""

EXAMPLE_ARTIFACTS: Final = (
    ExampleArtifact(
        ENTERPRISE.zone,
        "facts.batch_completed",
        "record",
        "batch-2025-001.json",
        "batch-files",
        "2025/001/batch-2025-001.json",
        b'{"batch":"2025-001","record":"batch record"}',
    ),
    ExampleArtifact(
        ENTERPRISE.zone,
        "facts.batch_completed",
        "release",
        "release-2025-001.txt",
        "documents",
        "releases/release-2025-001.txt",
        b'{"batch":"2025-001","released_by":"qa-1"}',
    ),
    ExampleArtifact(
        PLANT_A.zone,
        "facts.orders",
        "positions",
        "PO-70277.csv",
        "order-files",
        "PO-70277.csv",
        b'{"order":"PO-70277","positions":3}',
    ),
)


def examples_directory() -> Path:
    """Where the files are: beside this module when installed, in the root of a source checkout otherwise."""
    here = Path(__file__).resolve()
    for folder in (here.with_name("examples"), *(parent / "examples" for parent in here.parents[2:4])):
        if (folder / BATCH_EVENTS.name).is_file():
            return folder
    raise BsfgError(
        Code.CONFIGURATION,
        "the example facts are not installed with bsfg",
        hint="install bsfg again, or run it from its source checkout",
    )
