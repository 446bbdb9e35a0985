"""What a fact names, read as generously as it can be."""

from __future__ import annotations

import pytest

from bsfg.core.named_artifacts import named_uris

URI = "s3://b/t/k"


@pytest.mark.parametrize(
    "payload",
    [
        b'{"artifact_uri": "s3://b/t/k"}',
        b'{"artifact_uri": "s3:\\/\\/b\\/t\\/k"}',
        b'{"\\u0061rtifact_uri": "s3://b/t/k"}',
        b'[[{"deep": {"artifact_uri": "s3://b/t/k", "artifact_sha256": "nonsense"}}]]',
        b"[" * 400 + b'{"artifact_uri": "s3://b/t/k"}' + b"]" * 400,
    ],
)
def test_a_name_is_found_wherever_it_stands(payload: bytes) -> None:
    assert list(named_uris(payload, [])) == [URI]


def test_a_name_is_found_in_headers_of_any_payload() -> None:
    assert list(named_uris(b"\xff", [("Line", "4"), ("Artifact_URI", f" {URI} ")])) == [URI]


@pytest.mark.parametrize(
    "payload",
    [b"", b"\xff artifact_uri", b'{"artifact_uri": 7}', b'{"other": "s3://b/t/k"}', b'["artifact_uri"]'],
)
def test_what_names_nothing_names_nothing(payload: bytes) -> None:
    assert list(named_uris(payload, [])) == []
