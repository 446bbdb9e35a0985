"""A run's record as JSON and back, checked as if somebody else had written it (issue of stale or foreign state)."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from typing import Any, Final, TypeVar

from bsfg.checks.model import CheckResult, Evidence, Outcome, RunRecord, Severity, Side, Waiver
from bsfg.errors import BsfgError, Code

FORMAT: Final = 1
RECORD_BYTES_MAX: Final = 64 * 1024 * 1024
_Value = TypeVar("_Value")


def encode(record: RunRecord) -> bytes:
    """The record as JSON, one file's content."""
    return json.dumps({"format": FORMAT} | asdict(record), indent=1).encode() + b"\n"


def decode(content: bytes, origin: str) -> RunRecord:
    """The record of such a file; ``configuration`` naming the file if it is not whole."""
    try:
        fields_of = json.loads(content)
        if fields_of.pop("format") != FORMAT:
            raise ValueError("another format")
        results = tuple(_result(each) for each in fields_of.pop("results"))
        return _made(RunRecord, fields_of | {"results": results})
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise BsfgError(
            Code.CONFIGURATION,
            f"the run record {origin} can't be used: {type(error).__name__}",
            hint="it is left as it is; bsfg bringup --again makes a new one",
        ) from error


def _result(values: dict[str, Any]) -> CheckResult:
    waiver = values.get("waiver")
    return _made(
        CheckResult,
        values
        | {
            "severity": Severity(values["severity"]),
            "side": Side(values["side"]),
            "outcome": Outcome(values["outcome"]),
            "waiver": None if waiver is None else _made(Waiver, waiver),
            "evidence": tuple(_made(Evidence, each) for each in values.get("evidence", ())),
        },
    )


def _made(kind: type[_Value], values: dict[str, Any]) -> _Value:
    """The value with these fields; what a later version added is left out."""
    known = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    made = kind(**{name: value for name, value in values.items() if name in known})
    for name in ("began", "at"):
        if name in known and type(getattr(made, name)) is not int:
            raise ValueError(f"{name} is not a time")
    return made
