"""Facts: what of a header travels, what a peer may send, and the digest over it."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bsfg.model.fact import (
    Fact,
    Origin,
    allowed_headers,
    digest,
    header_pairs,
    inbound_block,
    is_allowed_block,
    origin_block,
    parse_origin,
)


@pytest.mark.parametrize(
    ("raw", "block"),
    [
        (b"", b""),
        (b"NATS/1.0\r\n\r\n", b""),
        (b"NATS/1.0\r\nNats-Batch-Id: x\r\nNats-Batch-Sequence: 7\r\n\r\n", b""),
        (b"NATS/1.0\r\nNats-Batch-Id: x\r\nTrace: abc\r\n\r\n", b"Trace: abc\r\n"),
        (b"NATS/1.0\r\nNats-Batch-Id: x\r\nNats-Msg-Id: 42\r\n\r\n", b"Nats-Msg-Id: 42\r\n"),
        (
            b"NATS/1.0\r\nNats-Rollup: all\r\nnats-rollup: all\r\nBSFG-Origin: forged\r\nA: 1\r\n\r\n",
            b"A: 1\r\n",
        ),
        (b"NATS/1.0\r\nA:1\r\nB:   2  \r\nA: 3\r\n\r\n", b"A: 1\r\nB: 2\r\nA: 3\r\n"),
    ],
)
def test_of_a_stored_header_only_the_producers_own_travels_in_its_order(raw: bytes, block: bytes) -> None:
    assert allowed_headers(raw) == block
    assert is_allowed_block(block)


@pytest.mark.parametrize(
    "block",
    [
        b"Nats-Rollup: all\r\n",
        b"A: 1\r\nnats-ttl: 1s\r\n",
        b"A: 1\r\nBsfg-Origin: forged\r\n",
        b"nats-msg-id: lower\r\n",
        b"A: 1",
        b"A: 1\r\n\r\n",
        b"A: 1\nB: 2\r\n",
        b"A: 1\r\nno colon\r\n",
        b"A: x\x00y\r\n",
        b" A: 1\r\n",
        b"A: " + b"x" * 40_000 + b"\r\n",
    ],
)
def test_a_block_that_no_sender_of_ours_makes_is_refused(block: bytes) -> None:
    assert not is_allowed_block(block)


def test_a_producers_message_id_keeps_its_place_under_our_name_and_comes_back() -> None:
    block = b"A: 1\r\nNats-Msg-Id: 42\r\nB: 2\r\n"
    stored = inbound_block(block)
    assert stored == b"A: 1\r\nBsfg-Message-Id: 42\r\nB: 2\r\n"
    raw = b"NATS/1.0\r\n" + stored + b"Bsfg-Origin: z s e 1 t\r\nNats-Expected-Last-Sequence: 4\r\n\r\n"
    assert origin_block(raw) == block


NAMES = st.from_regex(r"[A-Za-z][A-Za-z0-9-]{0,20}", fullmatch=True)
VALUES = st.from_regex(r"[!-~]([ -~]{0,30}[!-~])?", fullmatch=True)


@given(st.lists(st.tuples(NAMES, VALUES), max_size=8))
def test_any_header_survives_the_way_there_and_back(pairs: list[tuple[str, str]]) -> None:
    raw = b"NATS/1.0\r\n" + b"".join(f"{name}: {value}\r\n".encode() for name, value in pairs) + b"\r\n"
    block = allowed_headers(raw)
    assert is_allowed_block(block)
    assert origin_block(b"NATS/1.0\r\n" + inbound_block(block) + b"\r\n") == block
    kept = [
        pair
        for pair in pairs
        if not pair[0].lower().startswith(("nats-", "bsfg-")) or pair[0] == "Nats-Msg-Id"
    ]
    assert header_pairs(block) == kept


def test_the_digest_is_sha256_over_each_field_and_its_length() -> None:
    fields = [b"facts.a.b", b"Trace", b"abc", b"Nats-Msg-Id", b"42", b"\x00payload"]
    expected = hashlib.sha256(b"".join(len(field).to_bytes(4, "big") + field for field in fields)).hexdigest()
    fact = Fact(7, "facts.a.b", 1, b"Trace: abc\r\nNats-Msg-Id: 42\r\n", b"\x00payload")
    assert digest(fact) == expected
    assert digest(fact._replace(sequence=8, time=2)) == expected, "coordinates are not content"


@given(st.integers(1, 2**60), st.integers(0, 4_102_444_800_000_000_000))
def test_coordinates_survive_their_header(sequence: int, time: int) -> None:
    origin = Origin("enterprise", "facts.operational", "0123456789abcdef", sequence, time)
    assert parse_origin(origin.header_value()) == origin


@pytest.mark.parametrize(
    "value",
    ["", "a b c 1", "a b c x 2026-01-01T00:00:00Z", "a b c 1 yesterday", "a b c 1 2026-01-01T00:00:00"],
)
def test_what_is_no_origin_is_refused(value: str) -> None:
    with pytest.raises(ValueError):
        parse_origin(value)
