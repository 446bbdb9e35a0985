"""The handoff as a document: what ``handoff.json`` holds, its JSON Schema, and reading one back (runbook, section 9).

One record has one side, the zone that made it; a merged one has both. A document that is read is held against these
types strictly: an unknown key, a missing one or a wrong type is an error that names its place.
"""

from __future__ import annotations

import json
from enum import StrEnum
from importlib.resources import files
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec
from msgspec import Meta

from bsfg.checks.model import Outcome, Severity, Side
from bsfg.errors import BsfgError, Code

FORMAT_VERSION: Final = 1
DOCUMENT_BYTES_MAX: Final = 16 * 1024 * 1024
SCHEMA_FILE: Final = f"handoff-{FORMAT_VERSION}.schema.json"
SCHEMA_ID: Final = f"urn:bsfg:handoff:{FORMAT_VERSION}"
_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"

Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
ZoneName = Annotated[str, Meta(pattern="^[a-z][a-z0-9-]{0,31}$")]
Time = Annotated[str, Meta(pattern=r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?Z$")]


class CriterionStatus(StrEnum):
    """Whether a criterion of section 9 is met, the best first."""

    MET = "met"
    MET_WITH_EXCEPTION = "met with exception"
    ATTESTED = "attested"
    NOT_ENABLED = "not enabled"
    """The runbook asks for it only where policy allows it, and policy does not."""
    DEFERRED = "deferred"
    """The runbook lets it wait for the validation checklist."""
    OPEN = "open"
    """Nothing was found wrong, but it could not be shown yet."""
    NOT_MET = "not met"


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A part of the document: immutable, and nothing in it that is not declared."""


class WaiverEntry(_Part, frozen=True):
    """Why a check was skipped or passes with exception, in whose name."""

    reason: str
    approver: str | None
    reference: str | None


class CheckEntry(_Part, frozen=True):
    """One check as the record tells of it; all that was seen is in its evidence file."""

    id: str
    section: str
    title: str
    severity: Severity
    side: Side
    outcome: Outcome
    summary: str
    began: Time
    seconds: float
    found: str | None
    expected: str | None
    hint: str | None
    needs: str | None
    waiver: WaiverEntry | None
    evidence: str | None
    """Path of its evidence file below the handoff's folder; null where nothing was looked at."""


class Citation(_Part, frozen=True):
    """A check that a criterion rests on."""

    zone: ZoneName
    check: str
    outcome: Outcome
    summary: str
    evidence: str | None


class Criterion(_Part, frozen=True):
    """One row of the runbook's section 9."""

    number: Annotated[int, Meta(ge=1, le=11)]
    title: str
    verification: str
    required: str
    status: CriterionStatus
    reason: str | None
    """Why it is not simply met."""
    rests_on: tuple[Citation, ...]


class SideRecord(_Part, frozen=True):
    """What one zone's run saw, and under which inputs and policies."""

    zone: ZoneName
    identity: str
    peer: ZoneName
    peer_identity: str
    run: str
    began: Time
    ended: Time | None
    version: str
    peer_version: str | None
    approver: str | None
    inputs: dict[str, Any]
    policies: dict[str, Any]
    checks: tuple[CheckEntry, ...]
    handoff_sha256: Sha256 | None = None
    """In a merged record: of the ``handoff.json`` that this side came from."""
    is_signed: bool | None = None
    """In a merged record: whether that came in its folder and its signature held."""


class Maker(_Part, frozen=True):
    """The zone that made and signed the document."""

    zone: ZoneName
    identity: str
    version: str


class Handoff(_Part, frozen=True):
    """A handoff record of one side, or of both."""

    format: Literal["bsfg-handoff"]
    format_version: Literal[1]
    made_at: Time
    made_by: Maker
    accepted: bool
    """Whether every required criterion is met; the signatures of people come on top of that."""
    open: tuple[str, ...]
    """What stands against acceptance, one line each."""
    contradictions: tuple[str, ...]
    """Where the two sides of a merged record disagree."""
    criteria: Annotated[tuple[Criterion, ...], Meta(min_length=11, max_length=11)]
    counts: dict[str, int]
    """How many checks came out how."""
    signature_check: tuple[str, ...]
    """The command line that checks the signature, typed in the handoff's folder."""
    sides: Annotated[tuple[SideRecord, ...], Meta(min_length=1, max_length=2)]

    @property
    def is_merged(self) -> bool:
        return len(self.sides) == 2


class Manifest(_Part, frozen=True):
    """The sha-256 of every file of the folder but itself and its signature."""

    format: Literal["bsfg-handoff-manifest"]
    format_version: Literal[1]
    made_at: Time
    zone: ZoneName
    identity: str
    files: dict[str, Sha256]


_Document = TypeVar("_Document", Handoff, Manifest)


def encode(part: _Part | dict[str, Any]) -> bytes:
    """Two-space JSON that ends with a newline; the same document gives the same bytes."""
    return msgspec.json.format(msgspec.json.encode(part, enc_hook=str), indent=2) + b"\n"


def decode_handoff(content: bytes, origin: str) -> Handoff:
    """The document in these bytes, or ``CHECK_FAILED`` with what is wrong and where; ``origin`` names the file."""
    return _decode(content, origin, Handoff)


def decode_manifest(content: bytes, origin: str) -> Manifest:
    """The manifest in these bytes, or ``CHECK_FAILED`` with what is wrong and where."""
    return _decode(content, origin, Manifest)


def json_schema() -> dict[str, Any]:
    """The JSON Schema of ``handoff.json`` as the types say it; the package ships it as ``SCHEMA_FILE``."""
    return {"$schema": _DIALECT, "$id": SCHEMA_ID, "title": "BSFG handoff record"} | msgspec.json.schema(
        Handoff
    )


def shipped_schema() -> dict[str, Any]:
    """The schema that lies in the package, for tools that read handoffs."""
    schema: dict[str, Any] = json.loads(files("bsfg.checks").joinpath(SCHEMA_FILE).read_bytes())
    return schema


def _decode(content: bytes, origin: str, kind: type[_Document]) -> _Document:
    if len(content) > DOCUMENT_BYTES_MAX:
        raise BsfgError(Code.CHECK_FAILED, f"{origin} is longer than {DOCUMENT_BYTES_MAX} bytes")
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BsfgError(
            Code.CHECK_FAILED,
            f"{origin} is not what its schema says: {error}",
            hint=f"it was changed by hand, or made by another version; its schema is {SCHEMA_ID}",
        ) from error
