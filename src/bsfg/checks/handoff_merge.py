"""Two zones' records of one relationship as one record, and where the two disagree."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from bsfg.checks.handoff import EVIDENCE, RECORD, Bundle, assemble, bundle
from bsfg.checks.handoff_document import Handoff, Maker, SideRecord
from bsfg.errors import BsfgError, Code
from bsfg.model.names import parse_zone

SHARED_INPUTS: Final = (
    "zone_a_identity",
    "zone_b_identity",
    "zone_a_endpoint",
    "zone_b_endpoint",
    "authorization_matrix",
    "exported_streams",
    "cursor_init_mode",
    "artifact_access_rules",
)
"""Inputs of the runbook's section 2 that both zones must have been given alike; ``trust_chain`` is a local path."""
_GIVEN: Final = "given"


@dataclass(frozen=True, slots=True)
class SourceRecord:
    """One side's handoff as it was handed in."""

    document: Handoff
    files: Mapping[str, bytes]
    """Its whole folder, or ``handoff.json`` alone."""
    is_signed: bool
    """It came in its folder, and that was verified."""


def merge(
    sources: Sequence[SourceRecord], maker: Maker, made_at: int, signature_check: Sequence[str]
) -> Bundle:
    """One handoff of both sides; each source lies whole in ``evidence/<zone>``, with its own signature.

    Raises ``INVALID_REQUEST`` unless they are the records of two zones about each other.
    """
    first, second = _relationship(sources)
    sides = [_side(source) for source in sources]
    contradictions = tuple(_contradictions(first, second))
    evidence = {
        f"{_folder(source)}/{path}": content for source in sources for path, content in source.files.items()
    }
    return bundle(assemble(maker, sides, made_at, signature_check, contradictions), evidence)


def as_merged(side: SideRecord, source: bytes, *, is_signed: bool) -> SideRecord:
    """A side as the merged record has it: evidence below the side's own folder, bound to the record it came from."""
    folder = f"{EVIDENCE}/{side.zone}"
    checks = tuple(
        msgspec.structs.replace(
            check, evidence=f"{folder}/{check.evidence}" if check.evidence and is_signed else None
        )
        for check in side.checks
    )
    digest = hashlib.sha256(source).hexdigest()
    return msgspec.structs.replace(side, checks=checks, handoff_sha256=digest, is_signed=is_signed)


def _side(source: SourceRecord) -> SideRecord:
    return as_merged(source.document.sides[0], source.files[RECORD], is_signed=source.is_signed)


def _folder(source: SourceRecord) -> str:
    return f"{EVIDENCE}/{source.document.sides[0].zone}"


def _relationship(sources: Sequence[SourceRecord]) -> tuple[SideRecord, SideRecord]:
    for source in sources:
        if source.document.is_merged:
            raise BsfgError(
                Code.INVALID_REQUEST,
                f"the record made {source.document.made_at} by {source.document.made_by.zone} is merged already",
                hint="name the two records that the zones made themselves",
            )
    first, second = (source.document.sides[0] for source in sources)
    parse_zone(first.zone), parse_zone(second.zone)
    if (first.zone, first.peer) != (second.peer, second.zone):
        raise BsfgError(
            Code.INVALID_REQUEST,
            f"these are not the two sides of one relationship: one is {first.zone}'s of {first.peer}, "
            f"the other {second.zone}'s of {second.peer}",
            hint="name one record of each zone, each about the other",
        )
    return first, second


def _contradictions(first: SideRecord, second: SideRecord) -> Iterator[str]:
    for one, other in ((first, second), (second, first)):
        yield from _of_peer(one, other)
    for name in SHARED_INPUTS:
        here, there = _input(first, name), _input(second, name)
        if here != there and None not in (here, there):
            yield f"input {name}: {first.zone} has {here}, {second.zone} has {there}"


def _of_peer(one: SideRecord, other: SideRecord) -> Iterator[str]:
    """What one side says of the other, against that one's own word."""
    seen, own = one.policies, other.policies
    pairs = (
        ("identity", one.peer_identity, other.identity),
        ("version", one.peer_version, other.version),
        (
            "certificate sha-256",
            _at(seen, "certificates", "peer", "sha256"),
            _at(own, "certificates", "here", "sha256"),
        ),
        (
            f"streams that {one.zone} may read",
            _set(_at(seen, "authorization", "peer", "streams")),
            _set(_at(own, "authorization", "here", "streams")),
        ),
        (
            f"artifact types that {one.zone} may read",
            _set(_at(seen, "authorization", "peer", "artifacts")),
            _set(_at(own, "authorization", "here", "artifacts")),
        ),
    )
    for what, said, is_so in pairs:
        if said != is_so and None not in (said, is_so):
            yield f"{what} of {other.zone}: {one.zone} saw {said}, {other.zone} says {is_so}"


def _at(policies: Mapping[str, Any], *path: str) -> Any:
    value: Any = policies
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _set(value: Any) -> list[str] | None:
    return sorted(map(str, value)) if isinstance(value, list | tuple) else None


def _input(side: SideRecord, name: str) -> Any:
    given = side.inputs.get(_GIVEN)
    return (given if isinstance(given, dict) else side.inputs).get(name)
