"""Types of configuration values for the schema: plain text in, checked values out.

Each is a pydantic annotation over a parser of ours; a failure carries our message and hint to the report.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import PlainValidator
from pydantic_core import PydanticCustomError

from bsfg.config import scalars
from bsfg.config.address import Address, BadValue
from bsfg.config.values import (
    Compression,
    CrlExpired,
    Durability,
    LinkArtifacts,
    LinkStart,
    LogFormat,
    Ocsp,
    OnGap,
    OnUnstorable,
    Redirect,
)
from bsfg.errors import BsfgError
from bsfg.model.identity import IdentityFrom
from bsfg.model.names import StreamName, ZoneId, parse_stream, parse_zone, printable

REFUSED: Final = "bsfg_refused"


def refused(message: str, hint: str = "") -> PydanticCustomError:
    """The error that brings a message and a hint of ours through pydantic."""
    return PydanticCustomError(REFUSED, "refused", {"message": message, "hint": hint})


def shown(value: object) -> str:
    """Any value of a file in a message: bounded, on one line."""
    match value:
        case None:
            return "nothing"
        case bool():
            return "true" if value else "false"
        case str():
            return f"the text {printable(value)}"
        case int() | float():
            return f"the number {value}"
        case dict():
            return "a mapping"
        case _:
            return "a list"


def from_text(
    parse: Callable[[str], object], wanted: str = "text", hint_for_number: str = "quote it"
) -> PlainValidator:
    """A validator that hands a text to a parser and translates what the parser says."""

    def validate(value: Any) -> object:
        if not isinstance(value, str):
            is_number = isinstance(value, int | float)
            raise refused(f"must be {wanted}, not {shown(value)}", hint_for_number if is_number else "")
        try:
            return parse(value)
        except (BadValue, BsfgError) as error:
            raise refused(error.message, error.hint) from error
        except ValueError as error:
            raise refused(str(error)) from error

    return PlainValidator(validate)


def choice(kind: type[StrEnum]) -> PlainValidator:
    """A validator for one of a few words."""
    words = [str(member) for member in kind]

    def validate(value: Any) -> StrEnum:
        if isinstance(value, str) and value in words:
            return kind(value)
        hint = scalars.did_you_mean(value, words) if isinstance(value, str) else ""
        raise refused(f"must be one of {', '.join(words)}, not {shown(value)}", hint)

    return PlainValidator(validate)


def duration_seconds(text: str) -> float:
    """Seconds, also parts of one."""
    return scalars.parse_duration_milliseconds(text) / 1_000


def _off_or_seconds(text: str) -> float | None:
    return None if text == "off" else float(scalars.parse_duration_seconds(text))


A_DURATION: Final = ("a duration with its unit", "for example 30s, 24h, 7d")
A_SIZE: Final = ("a size with its unit", "for example 512MiB, 10GiB")

ZoneIdField = Annotated[ZoneId, from_text(parse_zone)]
StreamField = Annotated[StreamName, from_text(parse_stream)]
AddressField = Annotated[Address, from_text(Address.parse)]
PathField = Annotated[Path, from_text(scalars.parse_path)]
TextField = Annotated[str, from_text(scalars.parse_text)]
WordField = Annotated[str, from_text(scalars.parse_word)]
ModeField = Annotated[str, from_text(scalars.parse_mode_word)]
SegmentField = Annotated[str, from_text(scalars.parse_segment)]
BucketField = Annotated[str, from_text(scalars.parse_bucket)]
RegionField = Annotated[str, from_text(scalars.parse_region)]
RedirectHostField = Annotated[str, from_text(scalars.parse_redirect_host)]
HttpUrlField = Annotated[str, from_text(scalars.parse_http_url)]
ServersField = Annotated[tuple[str, ...], from_text(scalars.parse_substrate_urls)]
SecondsField = Annotated[int, from_text(scalars.parse_duration_seconds, *A_DURATION)]
CanaryField = Annotated[float | None, from_text(_off_or_seconds, *A_DURATION)]
SizeField = Annotated[int, from_text(scalars.parse_size, *A_SIZE)]

IdentityFromField = Annotated[IdentityFrom, choice(IdentityFrom)]
DurabilityField = Annotated[Durability, choice(Durability)]
CrlExpiredField = Annotated[CrlExpired, choice(CrlExpired)]
OcspField = Annotated[Ocsp, choice(Ocsp)]
LogFormatField = Annotated[LogFormat, choice(LogFormat)]
RedirectField = Annotated[Redirect, choice(Redirect)]
LinkStartField = Annotated[LinkStart, choice(LinkStart)]
OnGapField = Annotated[OnGap, choice(OnGap)]
OnUnstorableField = Annotated[OnUnstorable, choice(OnUnstorable)]
LinkArtifactsField = Annotated[LinkArtifacts, choice(LinkArtifacts)]
CompressionField = Annotated[Compression, choice(Compression)]
