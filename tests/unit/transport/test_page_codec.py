"""Pages: round trips, and every way in which a page can lie."""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bsfg.errors import BsfgError, Code
from bsfg.model.cursor import Cursor, parse_init_mode
from bsfg.model.fact import HEADERS_BYTES_MAX, PAYLOAD_BYTES_MAX, Fact
from bsfg.model.names import StreamName
from bsfg.model.page import Agreement, FetchRequest, Page, PageLimits
from bsfg.transport.page_check import validate_page
from bsfg.transport.page_codec import decode, decode_json, encode, encode_json, frame_bytes_max

STREAM = StreamName("facts.operational")
FACTS = [
    Fact(
        6,
        "facts.operational.batch",
        1_700_000_000_000_000_001,
        b"Nats-Msg-Id: a\r\nLine: 4\r\n",
        b'{"a": "\xc3\xa4"}',
    ),
    Fact(9, "facts.operational", 1_700_000_000_000_000_002, b"", b"\xff\x00"),
]
AFTER = Cursor("e1", 5, "a" * 64, 5)
REQUEST = FetchRequest(STREAM, PageLimits(), after=AFTER)
FIRST = FetchRequest(STREAM, PageLimits(), start=parse_init_mode("full_backfill"))
PAGE = Page(STREAM, "e1", Agreement.EXACT, 6, 10, 12, 2, 1_700_000_000_000_000_003, 1, FACTS, 99)


def fact(**changes: Any) -> Page:
    """The page whose second fact is changed so."""
    return replace(PAGE, facts=[FACTS[0], FACTS[1]._replace(**changes)])


def refusal(run: Any) -> str:
    with pytest.raises(BsfgError) as caught:
        run()
    assert caught.value.code is Code.BAD_ANSWER
    assert caught.value.message.isprintable()
    return str(caught.value.details["reason"])


def test_a_binary_page_comes_back() -> None:
    assert decode(encode(PAGE), REQUEST) == [PAGE]


def test_a_json_page_comes_back() -> None:
    assert decode_json(encode_json(PAGE), REQUEST) == PAGE


def test_json_shows_text_as_text() -> None:
    shown = json.loads(encode_json(PAGE))
    assert shown["facts"][0] == {
        "sequence": 6,
        "subject": "facts.operational.batch",
        "time": "2023-11-14T22:13:20.000000001Z",
        "headers": [["Nats-Msg-Id", "a"], ["Line", "4"]],
        "data": '{"a": "ä"}',
    }
    assert shown["facts"][1]["data_base64"] == "/wA="
    assert set(shown) == {
        *("stream", "epoch", "agreement", "start_sequence", "scanned_through", "head", "pending"),
        *("pending_bytes", "sender_time", "next_time", "facts"),
    }


def test_header_values_that_are_not_utf8_survive_json() -> None:
    page = fact(headers=b"Line: \xff\xfe\r\n")
    assert decode_json(encode_json(page), REQUEST) == page


def test_unknown_fields_of_a_later_version_are_ignored() -> None:
    body = msgspec.msgpack.decode(encode(PAGE)[16:])
    assert decode(frame(msgspec.msgpack.encode([*body, "later", 7])), REQUEST) == [PAGE]
    shown = json.loads(encode_json(PAGE)) | {"later": 7}
    assert decode_json(json.dumps(shown).encode(), REQUEST) == PAGE


def frame(
    body: bytes, magic: bytes = b"BSFGPG\x00\x01", length: int | None = None, crc: int | None = None
) -> bytes:
    checksum = zlib.crc32(body) if crc is None else crc
    return struct.pack(">8sII", magic, len(body) if length is None else length, checksum) + body


def test_frames_follow_each_other() -> None:
    following = replace(
        PAGE, start_sequence=11, scanned_through=12, pending=0, facts=[FACTS[0]._replace(sequence=11)]
    )
    both = encode(PAGE) + encode(following)
    assert decode(both, REQUEST, 2) == [PAGE, following]
    assert "follow the last page" in refusal(lambda: decode(both, REQUEST))
    assert "start_sequence" in refusal(lambda: decode(encode(PAGE) * 2, REQUEST, 2))
    other = encode(replace(following, epoch="e2"))
    assert "epoch" in refusal(lambda: decode(encode(PAGE) + other, REQUEST, 2))


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"", "shorter"),
        (encode(PAGE)[:15], "shorter"),
        (encode(PAGE)[:-1], "follow"),
        (encode(PAGE) + b"x", "follow the last page"),
        (frame(b"x", magic=b"BSFGPG\x00\x02"), "version 1"),
        (frame(b"x", length=2**32 - 1), "says 4294967295 bytes"),
        (frame(encode(PAGE)[16:], crc=1), "checksum"),
        (frame(b"\xc1"), "malformed"),
        (frame(b"\xdd\xff\xff\xff\xff"), "malformed"),
        (frame(b"\x91" * 5000), "malformed"),
        (frame(msgspec.msgpack.encode({"stream": "x"})), "malformed"),
        (frame(msgspec.msgpack.encode(["facts.operational"])), "malformed"),
    ],
)
def test_bytes_that_are_no_page(raw: bytes, says: str) -> None:
    assert says in refusal(lambda: decode(raw, REQUEST))


@pytest.mark.parametrize(
    ("column", "value"),
    [(11, [1]), (13, [0]), (14, [b""]), (15, [b"x"])],
    ids=["times", "subject numbers", "headers", "payloads"],
)
def test_a_column_without_facts_is_refused(column: int, value: list[Any]) -> None:
    body = msgspec.msgpack.decode(encode(replace(PAGE, facts=[]))[16:])
    body[12] = [PAGE.facts[0].subject]
    assert len(decode(frame(msgspec.msgpack.encode(body)), REQUEST)[0].facts) == 0
    body[column] = value
    assert "columns" in refusal(lambda: decode(frame(msgspec.msgpack.encode(body)), REQUEST))


def test_a_frame_longer_than_was_asked_for_is_not_unpacked() -> None:
    small = replace(REQUEST, limits=PageLimits(facts=1, bytes=1))
    body = msgspec.msgpack.encode(b"x" * frame_bytes_max(small.limits))
    assert "the page says" in refusal(lambda: decode(frame(body), small))


def test_the_largest_legal_page_fits() -> None:
    largest = Fact(
        6, STREAM + "." + "x" * 255, 2**63 - 1, b"A: " + b"b" * (HEADERS_BYTES_MAX - 5) + b"\r\n", b""
    )
    largest = largest._replace(payload=b"\xff" * PAYLOAD_BYTES_MAX)
    limits = PageLimits(facts=1, bytes=1)
    page = replace(PAGE, facts=[largest])
    assert decode(encode(page), replace(REQUEST, limits=limits)) == [page]


LIES = [
    (replace(PAGE, stream=StreamName("facts.other")), "stream"),
    (replace(PAGE, epoch=""), "epoch"),
    (replace(PAGE, epoch="e 1"), "epoch"),
    (replace(PAGE, epoch="e2"), "epoch"),
    (replace(PAGE, start_sequence=7), "start_sequence"),
    (replace(PAGE, scanned_through=4), "scanned_through"),
    (replace(PAGE, scanned_through=8), "behind scanned_through"),
    (replace(PAGE, scanned_through=13), "scanned_through"),
    (replace(PAGE, head=2**63), "scanned_through"),
    (replace(PAGE, pending=-1), "pending"),
    (replace(PAGE, pending_bytes=-1), "pending_bytes"),
    (replace(PAGE, sender_time=-1), "sender_time"),
    (replace(PAGE, next_time=-1), "next_time"),
    (fact(sequence=6), "follows"),
    (fact(sequence=5), "follows"),
    (fact(sequence=0), "follows"),
    (replace(PAGE, facts=FACTS[::-1]), "follows"),
    (replace(PAGE, facts=[FACTS[0]._replace(sequence=5)]), "follows"),
    (fact(sequence=11), "behind scanned_through"),
    (fact(subject="facts.other"), "subject"),
    (fact(subject="facts.operationalx"), "subject"),
    (fact(subject="facts.operational.*"), "subject"),
    (fact(subject="facts.operational.>"), "subject"),
    (fact(subject="facts.operational."), "subject"),
    (fact(subject="facts.operational.a..b"), "subject"),
    (fact(subject="facts.operational.a b"), "subject"),
    (fact(subject="facts.operational.a\r\nPUB x"), "subject"),
    (fact(subject="facts.operational." + "x" * 256), "subject"),
    (fact(time=-1), "time"),
    (fact(headers=b"Nats-Rollup: all\r\n"), "headers"),
    (fact(headers=b"Bsfg-Origin: x\r\n"), "headers"),
    (fact(headers=b"A: b\r\nnats-rollup: all\r\n"), "headers"),
    (fact(headers=b"A: b"), "headers"),
    (fact(headers=b"A: b\r\n\r\n"), "headers"),
    (fact(headers=b"A: " + b"b" * HEADERS_BYTES_MAX + b"\r\n"), "headers"),
    (fact(payload=b"x" * (PAYLOAD_BYTES_MAX + 1)), "payload"),
]


@pytest.mark.parametrize(("page", "says"), LIES)
def test_a_page_that_lies_is_refused(page: Page, says: str) -> None:
    assert says in refusal(lambda: decode(encode(page), REQUEST))


# JSON can't spell a time before 1970, nor a block of headers that is not made of lines.
JSON_LIES = [
    (page, says)
    for page, says in LIES
    if page.sender_time > 0
    and page.next_time == 1
    and page.facts[-1].headers[:6] not in (b"A: b", b"A: b\r\n")
]


@pytest.mark.parametrize(("page", "says"), JSON_LIES)
def test_a_json_page_that_lies_is_refused_for_the_same_reason(page: Page, says: str) -> None:
    binary = refusal(lambda: decode(encode(page), REQUEST))
    shown = refusal(lambda: decode_json(encode_json(page), REQUEST))
    assert says in shown
    assert shown == binary or "headers" in says


def test_a_times_limit_is_the_same_in_both_forms() -> None:
    assert "time" in refusal(lambda: validate_page(fact(time=2**63), REQUEST))


def test_a_refused_fact_is_named() -> None:
    with pytest.raises(BsfgError) as caught:
        decode(encode(fact(payload=b"x" * (PAYLOAD_BYTES_MAX + 1))), REQUEST)
    assert caught.value.details["sequence"] == 9


def test_more_facts_than_asked_for_are_refused() -> None:
    limited = replace(REQUEST, limits=PageLimits(facts=1))
    assert "2 facts" in refusal(lambda: decode(encode(PAGE), limited))


def test_exact_needs_a_fact_to_agree_on() -> None:
    first = replace(PAGE, start_sequence=6)
    assert "agree on" in refusal(lambda: decode(encode(first), FIRST))
    assert decode(encode(replace(first, agreement=Agreement.EPOCH)), FIRST)[0].start_sequence == 6
    quiet = replace(REQUEST, after=Cursor("e1", None, None, 5))
    assert "agree on" in refusal(lambda: decode(encode(PAGE), quiet))


def test_facts_before_the_resolved_start_are_refused() -> None:
    page = replace(PAGE, agreement=Agreement.EPOCH, start_sequence=7)
    assert "follows" in refusal(lambda: decode(encode(page), FIRST))


@pytest.mark.parametrize("start", [0, -3])
def test_a_start_before_the_first_sequence_is_refused(start: int) -> None:
    page = replace(PAGE, agreement=Agreement.EPOCH, start_sequence=start, facts=[])
    assert "start_sequence" in refusal(lambda: decode(encode(page), FIRST))


@pytest.mark.parametrize(
    "changes",
    [
        {"sender_time": 5},
        {"sender_time": "2025-01-15T10:00:00"},
        {"agreement": "sure"},
        {"facts": None},
        {"facts": [{"sequence": 6}]},
        {"head": "12"},
        {"head": None},
    ],
)
def test_json_that_is_no_page(changes: dict[str, Any]) -> None:
    shown = json.loads(encode_json(PAGE)) | changes
    assert "malformed" in refusal(lambda: decode_json(json.dumps(shown).encode(), REQUEST))


@pytest.mark.parametrize(
    "changes",
    [
        {"data": "x", "data_base64": "eA=="},
        {"data": None},
        {"data": None, "data_base64": "!!"},
        {"data": "\ud800"},
        {"subject": "facts.operational.\ud800"},
        {"headers": [["A", "\ud800"]]},
        {"headers": [["A"]]},
        {"headers": {"A": "b"}},
        {"time": "now"},
    ],
)
def test_json_facts_that_are_none(changes: dict[str, Any]) -> None:
    shown = json.loads(encode_json(PAGE))
    shown["facts"][0] |= changes
    assert "malformed" in refusal(lambda: decode_json(json.dumps(shown).encode(), REQUEST))


_NAMES = st.text("abcXYZ09-", min_size=1).filter(lambda name: not name.lower().startswith(("nats-", "bsfg-")))
_VALUES = st.text(st.characters(min_codepoint=33, max_codepoint=126))
_BLOCKS = st.lists(st.tuples(_NAMES, _VALUES), max_size=3).map(
    lambda pairs: b"".join(f"{name}: {value}\r\n".encode() for name, value in pairs)
)
_TAILS = st.lists(st.text("abc09-_é", min_size=1, max_size=5), max_size=4).map(
    lambda words: ".".join([STREAM, *words])
)


@st.composite
def pages(draw: st.DrawFn) -> Page:
    """Any page that a sender may send for ``REQUEST``."""
    steps = draw(st.lists(st.integers(1, 1000), max_size=5))
    facts, sequence = [], 5
    for step in steps:
        sequence += step
        time = draw(st.integers(0, 2**63 - 1))
        facts.append(Fact(sequence, draw(_TAILS), time, draw(_BLOCKS), draw(st.binary(max_size=50))))
    scanned = sequence + draw(st.integers(0, 10))
    head = scanned + draw(st.integers(0, 2**40))
    next_time = draw(st.none() | st.integers(0, 2**63 - 1))
    pending = draw(st.integers(0, 2**62))
    return Page(STREAM, "e1", Agreement.EXACT, 6, scanned, head, pending, 5, next_time, facts, None)


@given(pages())
def test_any_page_comes_back_from_both_forms(page: Page) -> None:
    assert decode(encode(page), REQUEST) == [page]
    assert decode_json(encode_json(page), REQUEST) == page


def only_bad_answers(run: Any) -> None:
    try:
        run()
    except BsfgError as error:
        assert error.code is Code.BAD_ANSWER


@given(st.binary(max_size=300))
def test_random_bytes_are_only_ever_refused(raw: bytes) -> None:
    only_bad_answers(lambda: decode(raw, REQUEST))
    only_bad_answers(lambda: decode(frame(raw), REQUEST))
    only_bad_answers(lambda: decode_json(raw, REQUEST))


@given(st.integers(0, len(encode(PAGE)) - 1), st.integers(0, 255), st.booleans())
def test_a_changed_byte_is_refused_or_still_a_page(position: int, value: int, is_resealed: bool) -> None:
    raw = bytearray(encode(PAGE))
    raw[position] = value
    changed = frame(bytes(raw[16:])) if is_resealed else bytes(raw)
    only_bad_answers(lambda: decode(changed, REQUEST))
    if not is_resealed and changed != encode(PAGE):
        refusal(lambda: decode(changed, REQUEST))


_MSGPACK = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text() | st.binary() | st.floats(),
    lambda inner: st.lists(inner, max_size=12),
    max_leaves=20,
)


@given(st.lists(_MSGPACK, min_size=11, max_size=11))
def test_any_msgpack_is_only_ever_refused(fields: list[Any]) -> None:
    only_bad_answers(lambda: decode(frame(msgspec.msgpack.encode(fields)), REQUEST))


_INTS = st.integers(-5, 20) | st.integers(-(2**63), 2**64 - 1)


@given(
    _INTS,
    _INTS,
    _INTS,
    _INTS,
    st.lists(st.tuples(_INTS, _TAILS, _INTS, st.binary(), st.binary()), max_size=3),
)
def test_whatever_passes_is_in_order(
    start: int, scanned: int, head: int, pending: int, facts: list[Any]
) -> None:
    fields = [STREAM, "e1", "exact", start, scanned, head, pending, None, 5, None, facts]
    try:
        page = decode(frame(msgspec.msgpack.encode(fields)), REQUEST)[0]
    except BsfgError as error:
        assert error.code is Code.BAD_ANSWER
        return
    sequences = [5, *(fact.sequence for fact in page.facts), page.scanned_through]
    assert sequences == sorted(sequences)
    assert len(set(sequences[:-1])) == len(sequences) - 1
    assert page.scanned_through <= page.head
