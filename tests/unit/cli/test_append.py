"""Append: what is a fact, how facts are batched, and what is said when a line is none."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import pytest
from tests.unit.cli.canned import CannedOperations
from tests.unit.cli.conftest import Finished, bsfg_program, start_bsfg

from bsfg.cli.append import FACTS_A_CALL
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


async def test_ndjson_takes_each_lines_bytes_and_skips_blank_ones(home: Path, operations: CannedOperations) -> None:
    lines = b'{"a": 1}\n\n  \r\nnot json \r\n{"\xc3\xa4": "\xe2\x82\xac"}'
    finished = await append(home, "--ndjson", "--subject", "t", stdin=lines)
    assert finished.json == {"appended": 3, "first_sequence": 1, "last_sequence": 3, "duplicates": 0}
    assert [row["data"] for row in operations.appended] == ['{"a": 1}', "not json \r", '{"ä": "€"}']
    assert {row["subject"] for row in operations.appended} == {"t"}


async def test_no_lines_are_nothing_to_do(home: Path, operations: CannedOperations) -> None:
    finished = await append(home, "--ndjson", stdin=b"\n\n")
    assert (finished.status, finished.json) == (0, EMPTY)
    assert operations.calls == []


async def test_many_lines_go_in_bounded_calls_in_order(home: Path, operations: CannedOperations) -> None:
    lines = b"".join(b"%d\n" % number for number in range(2 * FACTS_A_CALL + 1))
    finished = await append(home, "--ndjson", stdin=lines)
    assert finished.json == {"appended": 2001, "first_sequence": 1, "last_sequence": 2001, "duplicates": 0}
    assert [row["data"] for row in operations.appended] == [str(number) for number in range(2001)]
    assert max(count for _, count in operations.calls) == FACTS_A_CALL


async def test_large_lines_go_in_calls_of_few_mebibytes(home: Path, operations: CannedOperations) -> None:
    finished = await append(home, "--ndjson", stdin=(b"x" * (PAYLOAD_BYTES_MAX - 100) + b"\n") * 9)
    assert (finished.status, finished.json["appended"]) == (0, 9)
    assert max(count for _, count in operations.calls) == 4


async def test_a_producer_that_pauses_does_not_hold_its_facts_back(home: Path, operations: CannedOperations) -> None:
    process = await start_bsfg(*APPEND, "--ndjson", "--home", home, stdin=asyncio.subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(b"first\nsec")
    async with asyncio.timeout(20):
        while not operations.appended:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        assert [row["data"] for row in operations.appended] == ["first"]
        stdout, _ = await process.communicate(b"ond\n")
    assert json.loads(stdout)["appended"] == 2
    assert [row["data"] for row in operations.appended] == ["first", "second"]


@pytest.mark.parametrize("options", [[], ["--ndjson"]])
async def test_an_input_without_end_is_refused_before_its_end(
    home: Path, operations: CannedOperations, options: list[str]
) -> None:
    process = await start_bsfg(*APPEND, *options, "--home", home, stdin=asyncio.subprocess.PIPE)
    assert process.stdin is not None
    assert process.stderr is not None
    async with asyncio.timeout(20):
        process.stdin.write(b"x" * (PAYLOAD_BYTES_MAX + 2))
        assert b"1048576 bytes" in await process.stderr.readline()
        assert await process.wait() == 1
    process.stdin.close()
    assert operations.appended == []


async def test_a_line_that_is_too_long_ends_the_command(home: Path, operations: CannedOperations) -> None:
    lines = b"good\n" + b"x" * (PAYLOAD_BYTES_MAX + 1) + b"\nnever sent\n"
    finished = await append(home, "--ndjson", "--output", "json", stdin=lines)
    assert finished.status == 1
    assert finished.error["message"].startswith("stdin:2: the line is longer than 1048576 bytes; appended before it: 1")
    assert finished.error["appended_before"]["appended"] == 1
    assert [row["data"] for row in operations.appended] == ["good"]


# Envelopes


async def test_an_envelope_carries_subject_id_headers_and_payload(home: Path, operations: CannedOperations) -> None:
    envelopes = [
        {"subject": "created", "message_id": "1", "headers": [["A", "b"], ["A", "c"]], "data": "ä"},
        {"data_base64": "/w=="},
        {"data": "", "subject": None},
    ]
    finished = await append(home, "--envelope", stdin="\n".join(map(json.dumps, envelopes)).encode())
    assert finished.json["appended"] == 3
    binary = {"subject": None, "message_id": None, "headers": [], "data_base64": "/w=="}
    assert operations.appended == [
        fact("ä", subject="created", message_id="1", headers=[["A", "b"], ["A", "c"]]),
        binary,
        fact(""),
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("[]", "not a JSON object"),
        ("{}", "needs either data or data_base64"),
        ('{"data": "x", "data_base64": "eA=="}', "needs either data or data_base64"),
        ('{"data": 7}', "data is not text but int"),
        ('{"data": "\\ud800"}', "data is not valid Unicode"),
        ('{"data_base64": "e!A="}', "data_base64 is not base64"),
        ('{"data": "x", "headers": {"a": "b"}}', "headers is not a list of [name, value]"),
        ('{"data": "x", "headers": [["a", 1]]}', "headers is not a list of [name, value]"),
        ('{"data": "x", "subject": ["a"]}', "subject is not text but list"),
        ('{"data": "x", "sequence": 1}', "'sequence' is not a field of an envelope"),
    ],
)
async def test_a_bad_envelope_names_its_file_and_line_and_ends_the_command(
    home: Path, operations: CannedOperations, tmp_path: Path, line: str, message: str
) -> None:
    path = tmp_path / "facts.ndjson"
    path.write_text(f'{{"data": "one"}}\n\n{line}\n{{"data": "never sent"}}\n')
    finished = await append(home, "--envelope", path, stdin=b"")
    assert (finished.status, finished.text) == (2, "")
    assert f"{path}:3: {message}" in finished.complaint
    assert "appended before it: 1 facts, last sequence 1" in finished.complaint
    assert operations.appended == [fact("one")]


async def test_an_error_of_the_gateway_says_which_lines_are_open(
    home: Path, operations: CannedOperations, tmp_path: Path
) -> None:
    operations.answers["append"] = BsfgError(Code.LOCAL_FULL, "the stream facts.orders is full")
    path = tmp_path / "facts.ndjson"
    path.write_bytes(b"a\n" * (FACTS_A_CALL + 5))
    finished = await append(home, "--ndjson", "--output", "json", path, stdin=b"")
    assert finished.status == 1
    assert finished.error["code"] == "local_full"
    message = f"{path}:1-1000: the stream facts.orders is full; appended before it: 0 facts"
    assert finished.error["message"].startswith(message)
    assert finished.error["appended_before"] == EMPTY
    assert operations.calls == [("append", FACTS_A_CALL)]


@pytest.mark.parametrize("payload", [b"text", "ä€".encode(), b'"quotes"' * 50, b"\0" * 5000, b"\xff\xfe", b""])
def test_a_payload_survives_its_encoding_whichever_is_shorter(payload: bytes) -> None:
    encoded = encode_fact(payload, None, None)
    row = json.loads(encoded)
    data = row.get("data")
    assert (data.encode() if data is not None else base64.b64decode(row["data_base64"])) == payload
    assert len(encoded) < 100 + 4 * (len(payload) + 2) / 3
