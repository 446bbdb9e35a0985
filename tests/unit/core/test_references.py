"""Which artifacts a page of facts names."""

from __future__ import annotations

import json
from typing import Any

import pytest

from bsfg.core import references
from bsfg.core.references import find_references
from bsfg.model.artifact import parse_artifact_uri
from bsfg.model.fact import Fact, join_headers
from bsfg.model.names import ZoneId
from bsfg.model.wanted import WantedArtifact

PEER, BUCKET = ZoneId("enterprise"), "enterprise-bsfg-artifacts"
URI = f"s3://{BUCKET}/batch-files/2025/001/batch-123.json"
SHA256 = "0f" * 32
WHOLE = {"artifact_uri": URI, "artifact_sha256": SHA256, "artifact_size": 5, "artifact_media_type": "text/plain"}
ARTIFACT = WantedArtifact(PEER, parse_artifact_uri(URI), SHA256, 5, "text/plain")


def fact(body: Any = None, headers: dict[str, str] | None = None, sequence: int = 1) -> Fact:
    payload = body if isinstance(body, bytes) else json.dumps(body).encode()
    block = join_headers((name.encode(), value.encode()) for name, value in (headers or {}).items())
    return Fact(sequence, "facts.operational", 5, block, payload)


def found(*facts: Fact) -> dict[WantedArtifact, int]:
    result = find_references(PEER, BUCKET, facts)
    assert result.problems == ()
    return dict(result.wanted)


def test_a_json_fact_names_its_artifact() -> None:
    assert found(fact({"batch": 7} | WHOLE)) == {ARTIFACT: 1}


def test_an_opaque_fact_names_it_in_its_headers() -> None:
    headers = {name: str(value) for name, value in WHOLE.items()}
    assert found(fact(b"\x00\xff", headers)) == {ARTIFACT: 1}


def test_it_may_stand_anywhere_in_the_fact() -> None:
    assert found(fact({"batch": {"documents": [{"x": 1}, WHOLE]}})) == {ARTIFACT: 1}


def test_a_thousand_facts_that_name_it_are_one_artifact_named_a_thousand_times() -> None:
    assert found(*[fact(WHOLE, sequence=number) for number in range(1_000)]) == {ARTIFACT: 1_000}


def test_a_fact_that_names_it_twice_is_one_fact() -> None:
    assert found(fact([WHOLE, WHOLE])) == {ARTIFACT: 1}


def test_digest_and_size_may_be_left_to_the_peer() -> None:
    assert found(fact({"artifact_uri": URI})) == {WantedArtifact(PEER, parse_artifact_uri(URI)): 1}


def test_other_bytes_under_the_same_name_are_an_entry_of_their_own() -> None:
    other = WHOLE | {"artifact_sha256": "1e" * 32}
    wanted = found(fact(WHOLE), fact(other))
    assert len(wanted) == 2
    assert len({artifact.key for artifact in wanted}) == 2


def test_what_lies_in_another_bucket_is_not_this_peers() -> None:
    assert found(fact(WHOLE | {"artifact_uri": "s3://enterprise-bsfg-artifacts-2/batch-files/1"})) == {}


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"artifact_uri": 7}, "not text"),
        ({"artifact_uri": f"https://{BUCKET}/batch-files/1"}, "does not begin"),
        ({"artifact_uri": f"s3://{BUCKET}/batch-files/../x"}, "segment"),
        ({"artifact_uri": f"s3://user@{BUCKET}/batch-files/1"}, "character"),
        ({"artifact_sha256": "AB" * 32}, "artifact_sha256"),
        ({"artifact_sha256": 7}, "artifact_sha256"),
        ({"artifact_size": -1}, "artifact_size"),
        ({"artifact_size": True}, "artifact_size"),
        ({"artifact_size": 2**63}, "artifact_size"),
        ({"artifact_size": "5"}, "artifact_size"),
    ],
)
def test_a_malformed_reference_is_reported_and_wanted_by_nobody(change: dict[str, Any], word: str) -> None:
    result = find_references(PEER, BUCKET, [fact(WHOLE | change, sequence=41), fact(WHOLE, sequence=42)])
    assert dict(result.wanted) == {ARTIFACT: 1}
    assert len(result.problems) == 1 and word in result.problems[0] and "fact 41" in result.problems[0]


def test_a_media_type_that_is_none_is_left_out() -> None:
    assert next(iter(found(fact(WHOLE | {"artifact_media_type": "a\r\nb"})))).media_type is None


@pytest.mark.parametrize("payload", [b'{"artifact_uri": ', b"artifact_uri", b"[" * 100_000 + b'"artifact_uri"'])
def test_what_is_no_json_names_nothing(payload: bytes) -> None:
    assert found(fact(payload)) == {}


def test_the_references_of_one_fact_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(references, "FACT_REFERENCES_MAX", 3)
    many = [WHOLE | {"artifact_uri": f"{URI}.{number}"} for number in range(10)]
    result = find_references(PEER, BUCKET, [fact(many)])
    assert len(result.wanted) == 3
    assert "more than 3" in result.problems[0]


def test_a_page_without_the_word_is_not_taken_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    def parse(_payload: bytes) -> Any:
        raise AssertionError("a fact was parsed")

    monkeypatch.setattr(json, "loads", parse)
    assert found(*[Fact(number, "facts.operational", 5, b"", b'{"batch": 7}') for number in range(100)]) == {}
