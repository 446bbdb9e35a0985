"""config/bringup.yaml: the runbook's inputs and what only people know (runbook, section 2; contract, section 7).

A key that is not there is None here: what is missing for which step is for the checks to say, so that one missing line
never hides the others. What is there is checked like every other file, with its line and column.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import ConfigDict

from bsfg.config import fields
from bsfg.config.address import Address
from bsfg.config.files import read_source
from bsfg.config.home import Home
from bsfg.config.scalars import did_you_mean
from bsfg.config.schema import Section
from bsfg.config.source import Source
from bsfg.config.validate import validate
from bsfg.errors import BsfgError, ConfigurationError
from bsfg.model.cursor import StartKind, parse_init_mode
from bsfg.model.names import StreamName, ZoneId, parse_stream, parse_zone, printable

BRINGUP_FILE: Final = "config/bringup.yaml"
RESULTS: Final = ("Passed", "Passed with Exception")
KEYS: Final = (
    "zone_a_identity",
    "zone_b_identity",
    "zone_a_endpoint",
    "zone_b_endpoint",
    "trust_chain",
    "authorization_matrix",
    "exported_streams",
    "cursor_init_mode",
    "artifact_access_rules",
)
"""The nine inputs of the runbook's section 2."""


def _word_of(*words: str) -> Any:
    def parse(text: str) -> str:
        if text not in words:
            raise ValueError(f"must be one of {', '.join(words)}, not {printable(text)}")
        return text

    return fields.from_text(parse)


ResultField = Annotated[str, _word_of(*RESULTS)]
ReadField = Annotated[str, _word_of("read")]


class NamedZoneSection(Section):
    zone: fields.ZoneIdField | None = None
    identity: fields.WordField | None = None


class WordSection(Section):
    """A person's word: who gave it, and where it is written."""

    by: fields.TextField | None = None
    reference: fields.TextField | None = None


class CommissionedSection(WordSection):
    result: ResultField | None = None


class CommissioningSection(Section):
    zone_a: CommissionedSection | None = None
    zone_b: CommissionedSection | None = None


class MonitoringSection(Section):
    zone_a: WordSection | None = None
    zone_b: WordSection | None = None


class GrantSection(Section):
    streams: list[fields.StreamField] | None = None
    artifacts: list[fields.SegmentField] | None = None


class MatrixSection(WordSection):
    """Beside whose word it is, an entry a zone: what that zone may read."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)
    __pydantic_extra__: dict[str, GrantSection]


class BringupFile(Section):
    """bringup.yaml."""

    zone_a_identity: NamedZoneSection | None = None
    zone_b_identity: NamedZoneSection | None = None
    zone_a_endpoint: fields.AddressField | None = None
    zone_b_endpoint: fields.AddressField | None = None
    trust_chain: fields.PathField | None = None
    authorization_matrix: MatrixSection | None = None
    exported_streams: list[fields.StreamField] | None = None
    cursor_init_mode: fields.ModeField | None = None
    artifact_access_rules: dict[str, ReadField] | None = None
    commissioning: CommissioningSection | None = None
    artifact_policy: WordSection | None = None
    message_catalog: WordSection | None = None
    monitoring: MonitoringSection | None = None
    required_history: dict[str, fields.SecondsField] | None = None
    approver: WordSection | None = None


@dataclass(frozen=True, slots=True)
class Word:
    """What rests on a person's word: attested, never passed."""

    by: str
    reference: str
    result: str | None = None
    """``Passed`` or ``Passed with Exception``, of a commissioning."""


@dataclass(frozen=True, slots=True)
class NamedZone:
    zone: ZoneId
    identity: str


@dataclass(frozen=True, slots=True)
class Grant:
    """What one zone may read of the other."""

    streams: tuple[StreamName, ...] = ()
    artifacts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Matrix:
    """The approved authorization matrix: grants by the zone that reads."""

    word: Word
    grants: Mapping[ZoneId, Grant]


@dataclass(frozen=True, slots=True)
class Inputs:
    """The file as values; None is what is not there. Zones are a and b as the runbook calls them."""

    file: str = BRINGUP_FILE
    identities: Mapping[str, NamedZone] = field(default_factory=dict)
    """By ``a`` and ``b``, as the others."""
    endpoints: Mapping[str, Address] = field(default_factory=dict)
    trust_chain: Path | None = None
    authorization_matrix: Matrix | None = None
    exported_streams: tuple[StreamName, ...] | None = None
    cursor_init_mode: str | None = None
    artifact_access_rules: tuple[str, ...] | None = None
    commissioning: Mapping[str, Word] = field(default_factory=dict)
    artifact_policy: Word | None = None
    message_catalog: Word | None = None
    monitoring: Mapping[str, Word] = field(default_factory=dict)
    required_history: Mapping[StreamName, int] = field(default_factory=dict)
    """Seconds that must be within reach of each link's start."""
    approver: Word | None = None
    lines: Mapping[str, int] = field(default_factory=dict)
    """Line of each key of the file."""
    sha256: str | None = None

    def place(self, key: str) -> str:
        """Where the key stands, or the file in which it is missing."""
        return f"{self.file}:{self.lines[key]}" if key in self.lines else self.file


def load_inputs(home: Home, file: Path | None = None) -> Inputs:
    """The inputs of a home, or of another file; a file that is not there gives inputs without any.

    Raises :class:`ConfigurationError` with every problem of what is there.
    """
    path, name = (home.bringup_file, BRINGUP_FILE) if file is None else (file, str(file))
    source, digest = read_source(path, name, required=file is not None)
    parsed = validate(BringupFile, source)
    if source.readable:
        _check(parsed, source)
    if source.problems:
        raise ConfigurationError(source.problems)
    return _built(parsed, home, source, digest)


def _check(file: BringupFile, source: Source) -> None:
    """What is given is given whole."""
    for key in ("zone_a_identity", "zone_b_identity"):
        _require_all(source, (key,), getattr(file, key), ("zone", "identity"))
    for key in ("authorization_matrix", "artifact_policy", "message_catalog", "approver"):
        _require_all(source, (key,), getattr(file, key), ("by", "reference"))
    for zone in ("zone_a", "zone_b"):
        commissioned, monitored = (("commissioning", zone), ("monitoring", zone))
        given = getattr(file.commissioning, zone, None)
        _require_all(source, commissioned, given, ("by", "reference", "result"))
        _require_all(source, monitored, getattr(file.monitoring, zone, None), ("by", "reference"))
    for zone in _grants(file):
        _check_name(source, ("authorization_matrix", zone), zone, parse_zone)
    for stream in file.required_history or {}:
        _check_name(source, ("required_history", stream), stream, parse_stream)
    _check_mode(file, source)


def _require_all(source: Source, path: tuple[str, ...], section: Any, keys: tuple[str, ...]) -> None:
    if section is None:
        return
    for key in keys:
        if getattr(section, key) is None and not source.was_written((*path, key)):
            source.problem(path, f"{path[-1]}: {key} is missing", f"add '{key}: ...'")


def _check_name(source: Source, path: tuple[str, ...], name: str, parse: Any) -> None:
    try:
        parse(name)
    except BsfgError as error:
        hint = did_you_mean(name, ("by", "reference")) if path[0] == "authorization_matrix" else error.hint
        source.problem_at_key(path, error.message, hint)


def _check_mode(file: BringupFile, source: Source) -> None:
    mode = file.cursor_init_mode
    if mode is None or mode == StartKind.EXPLICIT_TIMESTAMP:
        return
    try:
        parse_init_mode(mode)
    except ValueError as error:
        source.problem(("cursor_init_mode",), str(error))


def _grants(file: BringupFile) -> Mapping[str, GrantSection]:
    matrix = file.authorization_matrix
    return {} if matrix is None else matrix.__pydantic_extra__ or {}


def _built(file: BringupFile, home: Home, source: Source, digest: str | None) -> Inputs:
    matrix, root = file.authorization_matrix, source.root
    places = getattr(root, "key_places", {})
    return Inputs(
        file=source.file,
        identities={
            zone: NamedZone(ZoneId(str(given.zone)), str(given.identity))
            for zone, given in (("a", file.zone_a_identity), ("b", file.zone_b_identity))
            if given is not None
        },
        endpoints={
            zone: given
            for zone, given in (("a", file.zone_a_endpoint), ("b", file.zone_b_endpoint))
            if given is not None
        },
        trust_chain=home.resolve_optional(file.trust_chain),
        authorization_matrix=None if matrix is None else Matrix(_said(matrix), _granted(file)),
        exported_streams=_tuple(file.exported_streams),
        cursor_init_mode=file.cursor_init_mode,
        artifact_access_rules=_tuple(file.artifact_access_rules),
        commissioning=_by_zone(file.commissioning),
        artifact_policy=_word(file.artifact_policy),
        message_catalog=_word(file.message_catalog),
        monitoring=_by_zone(file.monitoring),
        required_history={StreamName(name): age for name, age in (file.required_history or {}).items()},
        approver=_word(file.approver),
        lines={key: place[0] for key, place in places.items()},
        sha256=digest,
    )


def _granted(file: BringupFile) -> Mapping[ZoneId, Grant]:
    return {
        ZoneId(zone): Grant(tuple(grant.streams or ()), tuple(grant.artifacts or ()))
        for zone, grant in _grants(file).items()
    }


def _tuple(values: Any) -> Any:
    return None if values is None else tuple(values)


def _word(section: WordSection | None) -> Word | None:
    return None if section is None else _said(section)


def _said(section: WordSection) -> Word:
    return Word(str(section.by), str(section.reference), getattr(section, "result", None))


def _by_zone(section: CommissioningSection | MonitoringSection | None) -> Mapping[str, Word]:
    given = (("a", getattr(section, "zone_a", None)), ("b", getattr(section, "zone_b", None)))
    return {zone: _said(word) for zone, word in given if word is not None}
