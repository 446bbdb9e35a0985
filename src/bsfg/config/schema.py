"""The keys of the three files (contract, section 3), each with the type of its value.

Every key is optional here: which ones are required, and how values go together, is in ``rules``, so that one bad value
never hides another. ``None`` therefore means that a key is not there or was reported already.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any, Final

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, create_model

from bsfg.config import fields
from bsfg.config.address import BadValue
from bsfg.config.limits import LimitRange, limit_ranges
from bsfg.config.scalars import did_you_mean, parse_path, parse_size
from bsfg.config.values import PRIORITY_DEFAULT, FileStore

REPLICAS_MAX: Final = 5
ARTIFACTS_QUOTA_DEFAULT: Final = 50 * 1024**3
ARTIFACTS_QUOTA_PER_PEER_DEFAULT: Final = 10 * 1024**3


class Section(BaseModel):
    """A mapping in a file: unknown keys and values of another type are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class EmbeddedSection(Section):
    port: Annotated[int, Field(ge=1, le=65_535)] | None = None


class SubstrateSection(Section):
    embedded: EmbeddedSection | None = None
    url: fields.ServersField | None = None
    credentials: fields.PathField | None = None
    ca: fields.PathField | None = None
    replicas: Annotated[int, Field(ge=1, le=REPLICAS_MAX)] | None = None
    monitor: list[fields.HttpUrlField] | None = None
    system_credentials: fields.PathField | None = None
    inbound_exclusive: bool | None = None


def _substrate_from_word(value: Any) -> Any:
    if value == "embedded":
        return {"embedded": {}}
    if isinstance(value, str):
        raise fields.refused(
            f"must be embedded or a mapping, not {fields.shown(value)}",
            did_you_mean(value, ["embedded"]) or 'an external one is {url: "tls://host:4222"}',
        )
    return value


class StreamSection(Section):
    name: fields.StreamField | None = None
    max_age: fields.SecondsField | None = None
    max_bytes: fields.SizeField | None = None


def _parse_store(text: str) -> FileStore | str:
    if text == "s3":
        return text
    scheme, _, rest = text.partition(":")
    if scheme != "file" or not rest or (rest.startswith("//") and not rest.startswith("///")):
        raise ValueError(f"must be s3 or file:PATH, not {fields.shown(text)}")
    path = parse_path(rest.removeprefix("//"))
    if PurePosixPath(path) == PurePosixPath("."):
        raise ValueError("needs a directory of its own, for example file:data/artifacts")
    return FileStore(path)


class ArtifactsSection(Section):
    store: Annotated[FileStore | str, fields.from_text(_parse_store)] | None = None
    bucket: fields.BucketField | None = None
    quota: fields.SizeField = ARTIFACTS_QUOTA_DEFAULT
    quota_per_peer: fields.SizeField = ARTIFACTS_QUOTA_PER_PEER_DEFAULT
    redirect: fields.RedirectField | None = None
    endpoint: fields.HttpUrlField | None = None
    region: fields.RegionField | None = None
    credentials_file: fields.PathField | None = None


class RevocationSection(Section):
    crl: fields.PathField | None = None
    crl_expired: fields.CrlExpiredField | None = None
    ocsp: fields.OcspField | None = None


class LogSection(Section):
    format: fields.LogFormatField | None = None
    file: fields.PathField | None = None


def _limit_validator(limit: LimitRange) -> PlainValidator:
    def check(value: float, written: str) -> float:
        if not limit.low <= value <= limit.high:
            low, high = (format_limit(number, limit) for number in (limit.low, limit.high))
            raise BadValue(f"must be from {low} to {high}, not {written}", f"it bounds {limit.bounds}")
        return value

    def count(value: Any) -> float:
        if not isinstance(value, int) or isinstance(value, bool):
            raise fields.refused(f"must be a whole number, not {fields.shown(value)}")
        try:
            return check(value, str(value))
        except BadValue as error:
            raise fields.refused(error.message, error.hint) from error

    if limit.kind == "count":
        return PlainValidator(count)
    is_size = limit.kind == "bytes"
    parse = parse_size if is_size else fields.duration_seconds
    wanted, _ = fields.A_SIZE if is_size else fields.A_DURATION
    example = f"for example {format_limit(limit.default, limit)}"
    return fields.from_text(lambda text: check(parse(text), text), wanted, example)


def format_limit(number: float, limit: LimitRange) -> str:
    """A limit's number as it is written in zone.yaml."""
    if limit.kind == "count":
        return str(int(number))
    if limit.kind == "seconds":
        return f"{number:g}s" if number == int(number) else f"{number * 1000:g}ms"
    for unit, size in (("GiB", 1024**3), ("MiB", 1024**2), ("KiB", 1024)):
        if number % size == 0:
            return f"{int(number) // size}{unit}"
    return f"{int(number)}B"


def _limits_section() -> type[Section]:
    definitions: dict[str, Any] = {
        limit.name: (Annotated[Any, _limit_validator(limit)], None) for limit in limit_ranges()
    }
    return create_model("LimitsSection", __base__=Section, **definitions)


if TYPE_CHECKING:

    class LimitsSection(Section): ...

else:
    LimitsSection = _limits_section()


class ZoneFile(Section):
    """zone.yaml."""

    zone: fields.ZoneIdField | None = None
    identity: fields.WordField | None = None
    identity_from: fields.IdentityFromField | None = None
    identity_san_extra: list[fields.WordField] = Field(default_factory=list)
    listen: fields.AddressField | None = None
    local: fields.AddressField | None = None
    local_token_file: fields.PathField | None = None
    substrate: Annotated[SubstrateSection, BeforeValidator(_substrate_from_word)] | None = None
    durability: fields.DurabilityField | None = None
    streams: list[StreamSection] = Field(default_factory=list)
    artifacts: ArtifactsSection = Field(default_factory=ArtifactsSection)
    revocation: RevocationSection = Field(default_factory=RevocationSection)
    log: LogSection = Field(default_factory=LogSection)
    audit_stream: fields.StreamField | None = None
    limits: LimitsSection = Field(default_factory=LimitsSection)
    lab: bool = False


class PeerSection(Section):
    id: fields.ZoneIdField | None = None
    identity: fields.WordField | None = None
    identity_from: fields.IdentityFromField | None = None
    identity_san_extra: list[fields.WordField] = Field(default_factory=list)
    endpoint: fields.AddressField | None = None
    authorized: bool = False
    streams: list[fields.StreamField] = Field(default_factory=list)
    artifacts: list[fields.SegmentField] = Field(default_factory=list)
    trust_anchor: fields.PathField | None = None
    artifact_bucket: fields.BucketField | None = None
    artifact_redirect_host: fields.RedirectHostField | None = None
    reference: fields.TextField | None = None


class PeersFile(Section):
    """peers.yaml."""

    peers: list[PeerSection] = Field(default_factory=list)


class KeepSection(Section):
    max_age: fields.SecondsField | None = None
    max_bytes: fields.SizeField | None = None


class CursorSection(Section):
    peer: fields.ZoneIdField | None = None
    stream: fields.StreamField | None = None
    init_mode: fields.ModeField | None = None
    init_timestamp: fields.ModeField | None = None
    justification: fields.TextField | None = None
    start: fields.LinkStartField | None = None
    on_gap: fields.OnGapField | None = None
    on_unstorable: fields.OnUnstorableField | None = None
    keep: KeepSection | None = None
    artifacts: fields.LinkArtifactsField | None = None
    priority: Annotated[int, Field(ge=0, le=9)] = PRIORITY_DEFAULT
    max_bytes_per_second: fields.SizeField | None = None
    compression: fields.CompressionField | None = None
    canary: fields.CanaryField = None


class CursorsFile(Section):
    """cursors.yaml."""

    cursors: list[CursorSection] = Field(default_factory=list)
