"""The example facts are what their README says."""

from __future__ import annotations

import json
import re
from typing import Final

import pytest

from bsfg.lab.example_facts import (
    EXAMPLE_ARTIFACTS,
    EXPORTED,
    TELEMETRY,
    ExampleArtifact,
    ExampleFile,
    examples_directory,
)
from bsfg.lab.homes import ZONES

BYTES_MAX: Final = 1_500_000
ROW: Final = re.compile(r"\| `(\S+)` \| ([0-9,]+) \| (\S+) \| `(\S+)` \|")


@pytest.mark.parametrize("example", [*EXPORTED, TELEMETRY], ids=lambda example: example.name)
def test_each_line_is_a_json_object(example: ExampleFile) -> None:
    rows = [json.loads(line) for line in example.lines()]
    assert rows and all(isinstance(row, dict) for row in rows)
    assert len(example.lines(7)) == 7


def test_the_readme_counts_right() -> None:
    text = (examples_directory() / "README.md").read_text(encoding="utf-8")
    told = {
        name: (int(count.replace(",", "")), zone, stream) for name, count, zone, stream in ROW.findall(text)
    }
    examples = (*EXPORTED, TELEMETRY)
    assert told == {each.name: (len(each.lines()), each.zone, each.stream) for each in examples}


def test_they_are_small_together() -> None:
    assert sum(path.stat().st_size for path in examples_directory().rglob("*") if path.is_file()) < BYTES_MAX


def test_every_exported_stream_has_its_file() -> None:
    exported = {(spec.zone, stream) for spec in ZONES for stream in spec.exports}
    assert {(each.zone, each.stream) for each in EXPORTED} == exported


@pytest.mark.parametrize("example", EXAMPLE_ARTIFACTS, ids=lambda example: example.name)
def test_an_example_artifact_is_of_a_type_that_the_peer_may_read(example: ExampleArtifact) -> None:
    spec = next(spec for spec in ZONES if spec.zone == example.zone)
    assert example.artifact_type in spec.artifacts
    assert example.stream in spec.exports
    assert example.path.stat().st_size > 0
    assert isinstance(json.loads(example.fact), dict)
