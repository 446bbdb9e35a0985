"""Append: what is a fact, how facts are batched, and what is said when a line is none."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import pytest
from tests.support.patience import patience
from tests.unit.cli.canned import CannedOperations
from tests.unit.cli.conftest import Finished, bsfg_program, start_bsfg

from bsfg.cli.fact_input import encode_fact
from bsfg.errors import BsfgError, Code
from bsfg.model.fact import PAYLOAD_BYTES_MAX

APPEND = ("append", "--stream", "facts.orders")
EMPTY = {"appended": 0, "first_sequence": None, "last_sequence": None, "duplicates": 0}


def fact(data: str, **others: Any) -> dict[str, Any]:
    return {"subject": None, "message_id": None, "headers": [], "data": data} | others


async def append(home: Path, *options: str | Path, stdin: bytes) -> Finished:
    return await bsfg_program(*APPEND, *options, "--home", home, stdin=stdin)


async def test_the_whole_input_is_one_fact(home: Path, operations: CannedOperations) -> None:
    finished = await append(home, "--subject", "created", "--message-id", "order-7", stdin=b"a\n\nb\n")
    assert finished.status == 0
    assert finished.json == {"appended": 1, "first_sequence": 1, "last_sequence": 1, "duplicates": 0}
    assert operations.appended == [fact("a\n\nb\n", subject="created", message_id="order-7")]


async def test_a_file_is_one_fact_and_bytes_stay_bytes(
    home: Path, operations: CannedOperations, tmp_path: Path
) -> None:
    payload = bytes(range(256))
    (tmp_path / "payload").write_bytes(payload)
    finished = await append(home, tmp_path / "payload", stdin=b"")
    assert finished.status == 0
    assert base64.b64decode(operations.appended[0]["data_base64"]) == payload


async def test_an_empty_input_is_an_empty_fact(home: Path, operations: CannedOperations) -> None:
    assert (await append(home, stdin=b"")).json["appended"] == 1
    assert operations.appended == [fact("")]


@pytest.mark.parametrize(("length", "status"), [(PAYLOAD_BYTES_MAX, 0), (PAYLOAD_BYTES_MAX + 1, 1)])
async def test_a_fact_has_at_most_a_mebibyte(
    home: Path, operations: CannedOperations, length: int, status: int
) -> None:
    finished = await append(home, "--output", "json", stdin=b"\0" * length)
    assert finished.status == status
    assert len(operations.appended) == (1 if status == 0 else 0)
    if status:
        assert finished.error["code"] == "too_large"


async def test_lines_go_to_the_gateway_as_they_are(home: Path, operations: CannedOperations) -> None:
    lines = b'{"a": 1}\n\n  \r\nnot json \r\n\xff\x00{"\xc3\xa4": "\xe2\x82\xac"}'
    finished = await append(home, "--ndjson", "--subject", "t", stdin=lines)
    assert operations.calls == [("append_lines", ("facts.orders", "t", False))]
    assert operations.received == lines
    assert finished.json == {"appended": 5, "first_sequence": 1, "last_sequence": 5, "duplicates": 0}


async def test_envelopes_are_told_apart_and_may_come_from_a_file(
    home: Path, operations: CannedOperations, tmp_path: Path
) -> None:
    (tmp_path / "facts.ndjson").write_bytes(b'{"data": "x"}\n' * 100_000)
    finished = await append(home, "--envelope", tmp_path / "facts.ndjson", stdin=b"")
    assert operations.calls == [("append_lines", ("facts.orders", None, True))]
    assert len(operations.received) == 1_400_000
    assert finished.json["appended"] == 100_000


async def test_no_lines_are_nothing_to_do(home: Path, operations: CannedOperations) -> None:
    finished = await append(home, "--ndjson", stdin=b"")
    assert (finished.status, finished.json["appended"]) == (0, 0)


async def test_a_producer_that_pauses_does_not_hold_its_facts_back(home: Path, operations: CannedOperations) -> None:
    process = await start_bsfg(*APPEND, "--ndjson", "--home", home, stdin=asyncio.subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(b"first\nsec")
    async with asyncio.timeout(20 * patience()):
        while operations.received != b"first\nsec":  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        stdout, _ = await process.communicate(b"ond\n")
    assert json.loads(stdout)["appended"] == 2
    assert operations.received == b"first\nsecond\n"


async def test_an_input_without_end_is_refused_before_its_end(home: Path, operations: CannedOperations) -> None:
    process = await start_bsfg(*APPEND, "--home", home, stdin=asyncio.subprocess.PIPE)
    assert process.stdin is not None
    assert process.stderr is not None
    async with asyncio.timeout(20 * patience()):
        process.stdin.write(b"x" * (PAYLOAD_BYTES_MAX + 2))
        assert b"1048576 bytes" in await process.stderr.readline()
        assert await process.wait() == 1
    process.stdin.close()
    assert operations.appended == []


REFUSAL = {"appended": 2, "first_sequence": 1, "last_sequence": 2, "duplicates": 0, "lines": [3, 3]}


@pytest.mark.parametrize("size", [100, 50_000_000], ids=["short", "long"])
async def test_a_refusal_names_the_line_and_what_was_appended_before_it(
    home: Path, operations: CannedOperations, tmp_path: Path, size: int
) -> None:
    operations.answers["append_lines"] = BsfgError(Code.INVALID_REQUEST, "line 3: not an envelope", **REFUSAL)
    path = tmp_path / "facts.ndjson"
    path.write_bytes(b"x" * 99 + b"\n" * size)
    finished = await append(home, "--envelope", "--output", "json", path, stdin=b"")
    assert (finished.status, finished.text) == (2, "")
    assert finished.error["message"] == (
        f"{path}:3: not an envelope; appended before it: 2 facts, last sequence 2"
    )
    assert finished.error["appended_before"] == {name: REFUSAL[name] for name in EMPTY}
    assert finished.error["lines"] == [3, 3]


async def test_a_refusal_reaches_a_producer_that_pauses(home: Path, operations: CannedOperations) -> None:
    operations.answers["append_lines"] = BsfgError(Code.LOCAL_FULL, "lines 1-7: the stream is full", **REFUSAL)
    process = await start_bsfg(*APPEND, "--ndjson", "--home", home, stdin=asyncio.subprocess.PIPE)
    assert process.stdin is not None
    assert process.stderr is not None
    process.stdin.write(b"first\n")
    async with asyncio.timeout(20 * patience()):
        assert b"stdin:1-7: the stream is full; appended before it: 2 facts" in await process.stderr.readline()
        assert await process.wait() == 1
    process.stdin.close()


async def test_a_conflict_is_exit_1_with_its_details(home: Path, operations: CannedOperations) -> None:
    operations.answers["append"] = BsfgError(
        Code.CONFLICTING_DUPLICATE, "other content", message_id="m", original_sequence=7, **EMPTY
    )
    finished = await append(home, "--message-id", "m", "--output", "json", stdin=b"x")
    assert finished.status == 1
    assert (finished.error["code"], finished.error["original_sequence"]) == ("conflicting_duplicate", 7)


async def test_without_a_gateway_nothing_is_sent(home: Path) -> None:
    finished = await append(home, "--ndjson", stdin=b"x\n" * 1_000_000)
    assert finished.status == 3
    assert "no gateway is up" in finished.complaint


@pytest.mark.parametrize("payload", [b"text", "ä€".encode(), b'"quotes"' * 50, b"\0" * 5000, b"\xff\xfe", b""])
def test_a_payload_survives_its_encoding_whichever_is_shorter(payload: bytes) -> None:
    encoded = encode_fact(payload, None, None)
    row = json.loads(encoded)
    data = row.get("data")
    assert (data.encode() if data is not None else base64.b64decode(row["data_base64"])) == payload
    assert len(encoded) < 100 + 4 * (len(payload) + 2) / 3
