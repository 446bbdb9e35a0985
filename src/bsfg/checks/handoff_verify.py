"""What is wrong with a handoff's folder, every problem at once: manifest, schema, criteria, evidence, signatures."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from bsfg import __version__
from bsfg.checks.handoff import EVIDENCE, MANIFEST, RECORD, SIGNATURE
from bsfg.checks.handoff_criteria import MET_STATUSES, judge_criteria, reasons_against
from bsfg.checks.handoff_document import (
    CheckEntry,
    Handoff,
    Manifest,
    SideRecord,
    decode_handoff,
    decode_manifest,
)
from bsfg.checks.handoff_merge import as_merged
from bsfg.checks.model import MET
from bsfg.errors import BsfgError

SignatureCheck = Callable[[bytes, bytes, Manifest], None]
"""Raises a BsfgError unless the second is the zone's signature of the first."""


@dataclass(frozen=True, slots=True)
class Inspection:
    """What came of a look at a handoff's folder; ``document`` is None where there is no readable one."""

    document: Handoff | None
    problems: tuple[str, ...]


def inspect(files: Mapping[str, bytes], check_signature: SignatureCheck) -> Inspection:
    """Hold a folder's files against its manifest, its signature and its schema."""
    problems = list(_manifest_problems(files, check_signature))
    try:
        document = decode_handoff(files[RECORD], RECORD) if RECORD in files else None
    except BsfgError as error:
        return Inspection(None, (*problems, error.message))
    if document is not None:
        problems += _record_problems(document, files)
        if document.is_merged:
            problems += _source_problems(document, files, check_signature)
    return Inspection(document, tuple(problems))


def _manifest_problems(files: Mapping[str, bytes], check_signature: SignatureCheck) -> Iterator[str]:
    missing = [name for name in (RECORD, MANIFEST, SIGNATURE) if name not in files]
    yield from (f"{name} is missing" for name in missing)
    if MANIFEST not in files:
        return
    try:
        manifest = decode_manifest(files[MANIFEST], MANIFEST)
    except BsfgError as error:
        yield error.message
        return
    if SIGNATURE in files:
        try:
            check_signature(files[MANIFEST], files[SIGNATURE], manifest)
        except BsfgError as error:
            yield f"{SIGNATURE}: {error.message}"
    for path, digest in manifest.files.items():
        if path not in files:
            if path != RECORD:
                yield f"{path} is missing"
        elif hashlib.sha256(files[path]).hexdigest() != digest:
            yield f"{path} was changed: its sha-256 is not the manifest's"
    for path in sorted(set(files) - set(manifest.files) - {MANIFEST, SIGNATURE}):
        yield f"{path} was added: the manifest does not have it"


def _record_problems(document: Handoff, files: Mapping[str, bytes]) -> Iterator[str]:
    for side in document.sides:
        for check in side.checks:
            yield from _evidence_problems(side, check, files)
    for criterion in document.criteria:
        if criterion.status in MET_STATUSES and not any(cited.evidence for cited in criterion.rests_on):
            yield f"{RECORD}: criterion {criterion.number}, {criterion.title}, is {criterion.status} without evidence"
    if document.made_by.version != __version__:
        return  # Other versions may judge by other rules.
    criteria = judge_criteria(document.sides)
    for stated, judged in zip(document.criteria, criteria, strict=True):
        if stated != judged:
            yield (
                f"{RECORD}: criterion {judged.number}, {judged.title}, says {stated.status}; "
                f"by its checks it is {judged.status}"
            )
    if document.accepted and (document.contradictions or reasons_against(document.sides, criteria)):
        yield f"{RECORD}: it says accepted; by its checks it is not"


def _evidence_problems(side: SideRecord, check: CheckEntry, files: Mapping[str, bytes]) -> Iterator[str]:
    if check.evidence is None:
        if check.outcome in MET and side.is_signed is not False:
            yield f"{RECORD}: check {check.id} of {side.zone} {check.outcome} without evidence"
        return
    if check.evidence not in files:
        yield f"{check.evidence}, the evidence of {check.id} of {side.zone}, is missing"
        return
    try:
        seen = json.loads(files[check.evidence])
        told = (seen["id"], seen["outcome"])
    except (ValueError, KeyError, TypeError, RecursionError):
        yield f"{check.evidence} is not a check's evidence"
        return
    if told != (check.id, check.outcome):
        yield f"{check.evidence} says {told[0]} {told[1]}; {RECORD} says {check.id} {check.outcome}"


def _source_problems(
    document: Handoff, files: Mapping[str, bytes], check_signature: SignatureCheck
) -> Iterator[str]:
    """Each side of a merged record must be the record that it came from, and that must hold by itself."""
    for side in document.sides:
        prefix = f"{EVIDENCE}/{side.zone}/"
        source = {path.removeprefix(prefix): files[path] for path in files if path.startswith(prefix)}
        if RECORD not in source:
            yield f"{prefix}{RECORD} is missing"
            continue
        found = _source(source, check_signature, is_signed=side.is_signed is True)
        yield from (f"{prefix}: {problem}" for problem in found.problems)
        if found.document is None:
            continue
        original = found.document.sides[0]
        if as_merged(original, source[RECORD], is_signed=side.is_signed is True) != side:
            yield f"{RECORD}: what it says of {side.zone} is not what {prefix}{RECORD} says"


def _source(source: Mapping[str, bytes], check_signature: SignatureCheck, *, is_signed: bool) -> Inspection:
    if is_signed:
        return inspect(source, check_signature)
    try:
        return Inspection(decode_handoff(source[RECORD], RECORD), ())
    except BsfgError as error:
        return Inspection(None, (error.message,))
