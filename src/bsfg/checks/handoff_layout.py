"""What a handoff says to people, as blocks that Markdown and HTML both render; the words are here, the marks there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from bsfg.checks.handoff_criteria import DEFAULT_INIT_MODE
from bsfg.checks.handoff_document import CheckEntry, Criterion, Handoff, SideRecord
from bsfg.checks.model import Outcome

SIGNERS: Final = (
    "Federation Engineer",
    "Zone A Platform Lead",
    "Zone B Platform Lead",
    "Security/Compliance (if required)",
)
REFERENCES: Final = (
    ("Checklist: Cross-Zone Federation Validation", "Formal acceptance and audit"),
    ("Runbook: Triad-HA Zone Deployment", "Add more zones to federation"),
    ("Reference Interaction Pattern: Cross-Zone BSFG Federation", "Architecture reference"),
)
NOT_RECORDED: Final = "not recorded"
_MAY_BE_LISTED: Final = {
    Outcome.PASSED_WITH_EXCEPTION: "Passed with exception",
    Outcome.ATTESTED: "Attested: rests on a person's word",
    Outcome.WARNED: "Warned",
    Outcome.FAILED: "Failed",
    Outcome.SKIPPED: "Skipped",
    Outcome.NOT_RUN: "Not run",
}


@dataclass(frozen=True, slots=True)
class Heading:
    text: str
    level: int = 2


@dataclass(frozen=True, slots=True)
class Paragraph:
    text: str
    tone: str | None = None
    """``good`` or ``bad`` where it is a verdict."""


@dataclass(frozen=True, slots=True)
class Bullets:
    items: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Table:
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    status_column: int | None = None
    """The column whose words are outcomes, to be coloured."""
    is_form: bool = False
    """Its empty cells are filled in by hand."""


@dataclass(frozen=True, slots=True)
class Command:
    """A line to be typed, shown whole."""

    lines: tuple[str, ...]


Block = Heading | Paragraph | Bullets | Table | Command


def layout(document: Handoff) -> tuple[Block, ...]:
    """The whole handoff in reading order: the verdict, what it rests on, who signs, and then every detail."""
    parts: list[Iterable[Block]] = [
        _verdict(document),
        _criteria(document.criteria),
        _sign_off(document),
        *(_side(side, document.is_merged) for side in document.sides),
        _signature(document),
        [Heading("Reference documents"), Table(("Document", "Purpose"), REFERENCES)],
    ]
    return tuple(block for part in parts for block in part)


def _verdict(document: Handoff) -> Iterable[Block]:
    side = document.sides[0]
    yield Heading(f"Federation handoff: {side.zone} and {side.peer}", level=1)
    seen_by = " and ".join(each.zone for each in document.sides)
    made = f"Made {document.made_at} by {document.made_by.zone} ({document.made_by.identity})"
    yield Paragraph(f"{made}, from what {seen_by} saw.")
    if document.accepted:
        yield Paragraph("Accepted: every required criterion is met. It awaits the signatures below.", "good")
    else:
        yield Paragraph("Not accepted. What stands against it:", "bad")
        yield Bullets(document.open)
    counted = ", ".join(f"{count} {outcome}" for outcome, count in document.counts.items())
    yield Paragraph(f"Checks: {counted or 'none'}.")


def _criteria(criteria: Sequence[Criterion]) -> Iterable[Block]:
    yield Heading("Handoff criteria (runbook, section 9)")
    rows = tuple(
        (
            str(criterion.number),
            criterion.title,
            criterion.verification,
            criterion.required,
            criterion.status.value,
            _grounds(criterion),
        )
        for criterion in criteria
    )
    yield Table(("#", "Criterion", "Verification", "Required", "Status", "Rests on"), rows, status_column=4)


def _grounds(criterion: Criterion) -> str:
    cited = dict.fromkeys(f"{cited.check} ({cited.zone})" for cited in criterion.rests_on)
    return ". ".join(part for part in (criterion.reason, ", ".join(cited)) if part)


def _sign_off(document: Handoff) -> Iterable[Block]:
    yield Heading("Sign-off")
    rows = tuple((signer, "", "", "") for signer in SIGNERS)
    yield Table(("Role", "Name", "Date", "Signature"), rows, is_form=True)
    listed = [(side, check) for side in document.sides for check in side.checks]
    told = [
        f"{heading}: {_told(side, check)}"
        for outcome, heading in _MAY_BE_LISTED.items()
        for side, check in listed
        if check.outcome == outcome
    ]
    if told:
        yield Paragraph("Whoever signs has read that these were not simply passed:")
        yield Bullets(tuple(told))


def _told(side: SideRecord, check: CheckEntry) -> str:
    text = f"{check.id} ({side.zone}, section {check.section}): {check.summary}"
    if check.needs:
        text += f"; needs {check.needs}"
    if check.waiver:
        words = [check.waiver.reason, check.waiver.approver, check.waiver.reference]
        text += f"; waived: {', '.join(word for word in words if word)}"
    return text


def _side(side: SideRecord, is_merged: bool) -> Iterable[Block]:
    of_zone = f" of {side.zone}" if is_merged else ""
    yield Heading(f"Relationship and inputs{of_zone} (section 2)")
    yield Table(("Input", "Value"), _relationship(side) + _pairs(side.inputs))
    yield Heading(f"Cursor policy{of_zone} (section 5)")
    yield _cursors(side)
    yield Heading(f"Authorization matrix{of_zone} (section 4)")
    yield _authorization(side)
    yield Heading(f"Versions and certificates{of_zone}")
    yield Table(("What", "Value"), _versions(side))
    shown = {"cursors", "authorization", "certificates", "versions", "artifact_retrieval_enabled"}
    if others := {name: value for name, value in side.policies.items() if name not in shown}:
        yield Heading(f"Further policies{of_zone}")
        yield Table(("Policy", "Value"), _pairs(others))
    yield Heading(f"Checks{of_zone}")
    rows = tuple(
        (check.section, check.id, check.title, check.outcome, check.summary, check.evidence or "none")
        for check in side.checks
    )
    yield Table(("Section", "Check", "What is true when it passes", "Outcome", "Seen", "Evidence"), rows, 3)


def _relationship(side: SideRecord) -> tuple[tuple[str, str], ...]:
    return (
        ("zone", f"{side.zone}, identity {side.identity}"),
        ("peer", f"{side.peer}, identity {side.peer_identity}"),
        ("run", f"{side.run}, began {side.began}, ended {side.ended or 'not yet'}"),
        ("approver", side.approver or NOT_RECORDED),
    )


def _cursors(side: SideRecord) -> Block:
    cursors = _mappings(side.policies.get("cursors"))
    if not cursors:
        return Paragraph(f"Cursor policy: {NOT_RECORDED}.")
    rows = tuple(
        (
            _words(cursor.get("peer")),
            _words(cursor.get("stream")),
            _words(cursor.get("init_mode")),
            _words(cursor.get("init_timestamp"), "none"),
            _words(cursor.get("justification"), _default_justification(cursor)),
        )
        for cursor in cursors
    )
    return Table(("Peer", "Stream", "Initialization", "Timestamp", "Justification"), rows)


def _default_justification(cursor: Mapping[str, Any]) -> str:
    return "default mode" if cursor.get("init_mode") == DEFAULT_INIT_MODE else NOT_RECORDED


def _authorization(side: SideRecord) -> Block:
    matrix = side.policies.get("authorization")
    if not isinstance(matrix, dict):
        return Paragraph(f"Authorization matrix: {NOT_RECORDED}.")
    lines = (("here", side.peer, side.zone), ("peer", side.zone, side.peer))
    rows = tuple(
        (
            f"{reader} reads from {source}",
            _words(row.get("streams")),
            _words(row.get("artifacts"), "none"),
            _words(row.get("reference"), "none"),
        )
        for key, reader, source in lines
        if isinstance(row := matrix.get(key), dict)
    )
    return Table(("Direction", "Streams", "Artifact types", "Reference"), rows)


def _versions(side: SideRecord) -> tuple[tuple[str, str], ...]:
    versions = (
        (f"bsfg of {side.zone}", side.version),
        (f"bsfg of {side.peer}", side.peer_version or NOT_RECORDED),
    )
    certificates = side.policies.get("certificates")
    known = certificates if isinstance(certificates, dict) else {}
    return (
        *versions,
        *_pairs(side.policies.get("versions")),
        *_certificate(side.zone, known.get("here")),
        *_certificate(side.peer, known.get("peer")),
    )


def _certificate(zone: str, certificate: Any) -> tuple[tuple[str, str], ...]:
    if not isinstance(certificate, dict):
        return ((f"certificate of {zone}", NOT_RECORDED),)
    return tuple((f"certificate of {zone}: {name}", _words(value)) for name, value in certificate.items())


def _signature(document: Handoff) -> Iterable[Block]:
    yield Heading("Check the signature")
    yield Paragraph(
        "manifest.json holds the sha-256 of every file of this folder and is signed with the key of "
        f"{document.made_by.identity}. Type in this folder:"
    )
    yield Command(document.signature_check)
    yield Paragraph("bsfg handoff verify checks the same, and every file, criterion and piece of evidence:")
    yield Command(("bsfg handoff verify .",))


def _pairs(mapping: Any, prefix: str = "") -> tuple[tuple[str, str], ...]:
    """A mapping as rows; nested ones by their dotted path."""
    if not isinstance(mapping, dict):
        return ()
    rows: list[tuple[str, str]] = []
    for name, value in mapping.items():
        if isinstance(value, dict) and value:
            rows += _pairs(value, f"{prefix}{name}.")
        else:
            rows.append((f"{prefix}{name}", _words(value)))
    return tuple(rows)


def _mappings(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list | tuple) else []


def _words(value: Any, absent: str = NOT_RECORDED) -> str:
    match value:
        case None:
            return absent
        case bool():
            return "yes" if value else "no"
        case list() | tuple():
            return ", ".join(_words(item) for item in value) or absent
        case dict():
            return ", ".join(f"{name}: {_words(item)}" for name, item in value.items()) or absent
        case _:
            return str(value) or absent
