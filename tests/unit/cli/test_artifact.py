"""The fact that brings its artifact along: its text stays, and only the artifact's fields come to it."""

from __future__ import annotations

import json

import pytest

from bsfg.cli.artifact_input import refer
from bsfg.errors import BsfgError, Code

STORED = {"uri": "s3://b/t/ä", "sha256": "0" * 64, "size": 7, "media_type": "text/csv"}
NAMED = {
    "artifact_uri": "s3://b/t/ä",
    "artifact_sha256": "0" * 64,
    "artifact_size": 7,
    "artifact_media_type": "text/csv",
}


@pytest.mark.parametrize(
    "payload",
    [b"{}", b" { } \n", b'{"a": 1.50}', b'{"a": {"b": "}"}}\n', b'{"a": 12345678901234567890.10, "a": 2}'],
)
def test_a_json_object_gets_the_fields_and_keeps_its_text(payload: bytes) -> None:
    made, headers = refer(payload, STORED)
    assert json.loads(made) == json.loads(payload) | NAMED
    assert made.startswith(payload.rstrip().removesuffix(b"}").rstrip())
    assert headers == []


def test_fields_that_are_there_already_are_left() -> None:
    payload = json.dumps({"artifact_uri": "s3://b/t/ä", "artifact_size": 7}).encode()
    made, _ = refer(payload, STORED)
    assert made.count(b"artifact_uri") == 1
    assert json.loads(made) == NAMED
    assert refer(json.dumps(NAMED).encode(), STORED) == (json.dumps(NAMED).encode(), [])


def test_a_field_that_says_otherwise_is_refused() -> None:
    with pytest.raises(BsfgError, match="artifact_size 8, but what was put is 7") as error:
        refer(b'{"artifact_size": 8}', STORED)
    assert error.value.code is Code.INVALID_REQUEST


@pytest.mark.parametrize("payload", [b"", b"\xff", b"[1]", b"text", b'"text"', b"{half"])
def test_any_other_payload_stays_and_gets_headers(payload: bytes) -> None:
    made, headers = refer(payload, STORED)
    assert made == payload
    assert dict(headers) == {name: str(value) for name, value in NAMED.items()}
