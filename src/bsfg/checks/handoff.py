"""From a run to its handoff: the document, its evidence files and its manifest, as values (runbook, section 9).

Nothing here touches a disk or a key: a folder and a signature are made of these values by ``daemon/handoffs.py``.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Final

from bsfg.checks.handoff_criteria import judge_criteria, reasons_against
from bsfg.checks.handoff_document import (
    FORMAT_VERSION,
    CheckEntry,
    Handoff,
    Maker,
    Manifest,
    SideRecord,
    WaiverEntry,
    encode,
)
from bsfg.checks.handoff_html import as_html
from bsfg.checks.handoff_layout import layout
from bsfg.checks.handoff_markdown import as_markdown
from bsfg.checks.model import CheckResult, RunRecord
from bsfg.errors import BsfgError, Code
from bsfg.model.moment import format_time

RECORD: Final = "handoff.json"
MANIFEST: Final = "manifest.json"
SIGNATURE: Final = "manifest.json.p7s"
EVIDENCE: Final = "evidence"
_FILE_STEM: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,199}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Bundle:
    """A document and every file of its folder but the manifest and the signature."""

    document: Handoff
    files: Mapping[str, bytes]
    """By path below the folder, ``/`` between its parts."""

    def manifest(self) -> bytes:
        """What is signed: the sha-256 of every file."""
        maker = self.document.made_by
        return encode(
            Manifest(
                format="bsfg-handoff-manifest",
                format_version=FORMAT_VERSION,
                made_at=self.document.made_at,
                zone=maker.zone,
                identity=maker.identity,
                files={path: hashlib.sha256(self.files[path]).hexdigest() for path in sorted(self.files)},
            )
        )


def compose(record: RunRecord, made_at: int, signature_check: Sequence[str]) -> Bundle:
    """The handoff of one zone's run; ``made_at`` in nanoseconds since 1970.

    ``signature_check`` is the command line that checks the signature. Raises ``INTERNAL`` for two results of one
    check, or an id that is no file name: both would make evidence ambiguous.
    """
    evidence = _evidence_files(record.results)
    maker = Maker(zone=record.zone, identity=record.identity, version=record.version)
    document = assemble(maker, [_side(record)], made_at, signature_check)
    return bundle(document, evidence)


def assemble(
    maker: Maker,
    sides: Sequence[SideRecord],
    made_at: int,
    signature_check: Sequence[str],
    contradictions: Sequence[str] = (),
) -> Handoff:
    """A document of one side or of two, its criteria judged now."""
    criteria = judge_criteria(sides)
    against = (*reasons_against(sides, criteria), *(f"contradiction: {line}" for line in contradictions))
    counts = Counter(check.outcome for side in sides for check in side.checks)
    return Handoff(
        format="bsfg-handoff",
        format_version=FORMAT_VERSION,
        made_at=format_time(made_at),
        made_by=maker,
        accepted=not against,
        open=against,
        contradictions=tuple(contradictions),
        criteria=criteria,
        counts=dict(sorted(counts.items())),
        signature_check=tuple(signature_check),
        sides=tuple(sides),
    )


def bundle(document: Handoff, evidence: Mapping[str, bytes]) -> Bundle:
    """The document in its three forms, beside its evidence."""
    blocks = layout(document)
    forms = {
        RECORD: encode(document),
        "handoff.md": as_markdown(blocks).encode(),
        "handoff.html": as_html(blocks).encode(),
    }
    return Bundle(document, forms | dict(evidence))


def evidence_path(check: str) -> str:
    """Where a check's evidence lies below the handoff's folder."""
    return f"{EVIDENCE}/{check}.json"


def _evidence_files(results: Sequence[CheckResult]) -> dict[str, bytes]:
    files: dict[str, bytes] = {}
    for result in results:
        path = evidence_path(result.id)
        if not _FILE_STEM.fullmatch(result.id) or path in files:
            cause = "was given twice" if path in files else "is no file name"
            raise BsfgError(Code.INTERNAL, f"the handoff was not made: check id {result.id!r} {cause}")
        if result.evidence:
            files[path] = _evidence_file(result)
    return files


def _evidence_file(result: CheckResult) -> bytes:
    """The whole result, with all that was seen."""
    seen = [
        {"what": item.what, "seen": item.seen, "at": format_time(item.at), "source": item.source}
        for item in result.evidence
    ]
    told = asdict(result) | {"began": format_time(result.began), "evidence": seen}
    return encode({"format": "bsfg-evidence", "format_version": FORMAT_VERSION} | told)


def _side(record: RunRecord) -> SideRecord:
    return SideRecord(
        zone=record.zone,
        identity=record.identity,
        peer=record.peer,
        peer_identity=record.peer_identity,
        run=record.run,
        began=format_time(record.began),
        ended=None if record.ended is None else format_time(record.ended),
        version=record.version,
        peer_version=record.peer_version,
        approver=record.approver,
        inputs=record.inputs,
        policies=record.policies,
        checks=tuple(_check(result) for result in record.results),
    )


def _check(result: CheckResult) -> CheckEntry:
    waiver = result.waiver
    return CheckEntry(
        id=result.id,
        section=result.section,
        title=result.title,
        severity=result.severity,
        side=result.side,
        outcome=result.outcome,
        summary=result.summary,
        began=format_time(result.began),
        seconds=round(result.seconds, 6),
        found=result.found,
        expected=result.expected,
        hint=result.hint,
        needs=result.needs,
        waiver=None if waiver is None else WaiverEntry(**asdict(waiver)),
        evidence=evidence_path(result.id) if result.evidence else None,
    )
