"""Requests: what is taken, what is clamped, and which code each wrong one gets."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bsfg.errors import BsfgError, Code
from bsfg.model.cursor import Cursor, parse_init_mode
from bsfg.model.names import StreamName
from bsfg.model.page import FetchRequest, PageLimits
from bsfg.transport.wire import (
    ConfirmCall,
    FetchCall,
    confirm_body,
    fetch_body,
    parse_confirm,
    parse_fetch,
)

STREAM = StreamName("facts.operational")
DIGEST = "a" * 64
AFTER = {"epoch": "e1", "sequence": 5, "digest": DIGEST, "scanned_through": 7}
NULL_AFTER = AFTER | {"sequence": None, "digest": None}


def body(**changes: Any) -> bytes:
    """A good first fetch with these changes; ``...`` leaves a field out."""
    fields: dict[str, Any] = {"stream": "facts.operational", "cursor_policy": "full_backfill"} | changes
    return json.dumps({name: value for name, value in fields.items() if value is not ...}).encode()


def after(**changes: Any) -> bytes:
    fields = {name: value for name, value in (AFTER | changes).items() if value is not ...}
    return body(cursor_policy=..., after=fields)


def code_of(raw: bytes) -> str:
    with pytest.raises(BsfgError) as caught:
        parse_fetch(raw)
    assert caught.value.message.isprintable()
    return caught.value.code.label


def test_the_runbooks_own_request_is_taken() -> None:
    call = parse_fetch(b'{"stream":"facts.operational","cursor_policy":"bounded_backfill_24h"}')
    start = parse_init_mode("bounded_backfill_24h")
    assert call == FetchCall(FetchRequest(STREAM, PageLimits(1_000, 1024 * 1024, 0.0), start=start), 1)


def test_larger_is_clamped() -> None:
    call = parse_fetch(body(max_facts=10**9, max_bytes=10**12, wait_ms=10**30, pages=10**6))
    assert call.request.limits == PageLimits(10_000, 4 * 1024 * 1024, 30.0)
    assert call.pages == 16


def test_the_smallest_is_taken() -> None:
    call = parse_fetch(body(max_facts=1, max_bytes=1, wait_ms=0, pages=1))
    assert call.request.limits == PageLimits(1, 1, 0.0)


@pytest.mark.parametrize(
    ("name", "value"), [("max_facts", 0), ("max_bytes", 0), ("wait_ms", -1), ("pages", 0)]
)
def test_below_the_smallest_is_refused(name: str, value: int) -> None:
    assert code_of(body(**{name: value})) == "invalid_request"


@pytest.mark.parametrize("name", ["max_facts", "max_bytes", "wait_ms", "pages"])
@pytest.mark.parametrize("value", [1.0, 1.5, True, False, "1", None, [], {}])
def test_only_whole_numbers_are_numbers(name: str, value: Any) -> None:
    assert code_of(body(**{name: value})) == "invalid_request"


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"not json",
        b"[]",
        b"null",
        b'"text"',
        b"1",
        b'{"stream":"facts.operational","cursor_policy":"full_backfill"',
        b'{"stream":"facts.operational","cursor_policy":"full_backfill","max_facts":NaN}',
        b'{"stream":"facts.operational","cursor_policy":"full_backfill","max_facts":Infinity}',
        b'{"stream":"facts.operational","stream":"facts.other","cursor_policy":"full_backfill"}',
        b'{"stream":"\xff","cursor_policy":"full_backfill"}',
        b"[" * 100_000,
        b'{"max_facts":' + b"9" * 10_000 + b"}",
    ],
)
def test_what_is_not_one_json_object_is_refused(raw: bytes) -> None:
    assert code_of(raw) == "invalid_request"


@pytest.mark.parametrize(
    "raw",
    [
        body(colour="red"),
        body(Stream="x"),
        after(extra=1),
        body(cursor_policy=..., after=AFTER, accept_gap={"from": 1, "to": 2, "why": 3}),
    ],
)
def test_unknown_fields_are_named_so(raw: bytes) -> None:
    assert code_of(raw) == "unknown_field"


@pytest.mark.parametrize(
    "name",
    [
        "",
        "facts.*",
        "facts.>",
        "facts..operational",
        "Facts",
        "facts-x",
        "in.enterprise.x",
        "f\u0430cts",
        "a b",
        "x" * 65,
    ],
)
def test_stream_names_are_checked(name: str) -> None:
    assert code_of(body(stream=name)) == "invalid_stream"


@pytest.mark.parametrize("value", [..., 5, None, ["facts"], True])
def test_a_stream_that_is_no_text_is_an_invalid_request(value: Any) -> None:
    assert code_of(body(stream=value)) == "invalid_request"


def test_exactly_one_of_policy_and_after() -> None:
    assert code_of(body(after=AFTER)) == "invalid_request"
    assert code_of(body(cursor_policy=...)) == "invalid_request"
    assert parse_fetch(after()).request.after == Cursor("e1", 5, DIGEST, 7)


def test_sequence_and_digest_are_null_together() -> None:
    parsed = parse_fetch(body(cursor_policy=..., after=NULL_AFTER)).request
    assert parsed.after == Cursor("e1", None, None, 7)
    assert code_of(after(sequence=None)) == "invalid_request"
    assert code_of(after(digest=None)) == "invalid_request"
    assert code_of(after(sequence=..., digest=...)) == "invalid_request"


@pytest.mark.parametrize(
    "changes",
    [
        {"sequence": 0},
        {"sequence": -1},
        {"sequence": 8},
        {"sequence": 5.0},
        {"sequence": True},
        {"scanned_through": -1},
        {"scanned_through": 2**63},
        {"scanned_through": "7"},
        {"scanned_through": ...},
        {"epoch": ""},
        {"epoch": "a b"},
        {"epoch": "x" * 65},
        {"epoch": None},
        {"digest": "A" * 64},
        {"digest": "a" * 63},
        {"digest": 5},
    ],
)
def test_a_malformed_after_is_refused(changes: dict[str, Any]) -> None:
    assert code_of(after(**changes)) == "invalid_request"


def test_accept_gap() -> None:
    def with_gap(gap: Any) -> bytes:
        return body(cursor_policy=..., after=AFTER, accept_gap=gap)

    assert parse_fetch(with_gap({"from": 8, "to": 9})).request.accept_gap == (8, 9)
    for wrong in (
        None,
        [8, 9],
        {"from": 8},
        {"from": 9, "to": 8},
        {"from": 0, "to": 8},
        {"from": 8, "to": 9.0},
    ):
        assert code_of(with_gap(wrong)) == "invalid_request"
    assert code_of(body(accept_gap={"from": 8, "to": 9})) == "invalid_request"


@pytest.mark.parametrize(
    "changes",
    [
        {"cursor_policy": "bounded_backfill_0h"},
        {"cursor_policy": "bounded_backfill_24"},
        {"cursor_policy": "everything"},
        {"cursor_policy": "explicit_timestamp"},
        {"cursor_policy": "explicit_timestamp", "init_timestamp": "2025-01-15T10:00:00"},
        {"cursor_policy": "explicit_timestamp", "init_timestamp": "yesterday"},
        {"cursor_policy": "start_now", "init_timestamp": "2025-01-15T10:00:00Z"},
    ],
)
def test_a_start_that_can_not_be_is_rejected(changes: dict[str, Any]) -> None:
    assert code_of(body(**changes)) == "init_rejected"


def test_start_fields_of_a_wrong_type_are_invalid() -> None:
    assert code_of(body(cursor_policy=24)) == "invalid_request"
    assert code_of(body(cursor_policy="explicit_timestamp", init_timestamp=0)) == "invalid_request"
    assert (
        code_of(body(cursor_policy=..., after=AFTER, init_timestamp="2025-01-15T10:00:00Z"))
        == "invalid_request"
    )


@pytest.mark.parametrize(
    "request_",
    [
        FetchRequest(STREAM, PageLimits(5, 6, 1.5), start=parse_init_mode("start_now")),
        FetchRequest(
            STREAM,
            PageLimits(),
            start=parse_init_mode("explicit_timestamp", "2025-01-15T10:00:00.000000001Z"),
        ),
        FetchRequest(STREAM, PageLimits(), after=Cursor("e1", 5, DIGEST, 7), accept_gap=(8, 9)),
        FetchRequest(STREAM, PageLimits(), after=Cursor("e1", None, None, 0)),
    ],
)
def test_what_a_client_writes_a_listener_reads(request_: FetchRequest) -> None:
    parsed = parse_fetch(fetch_body(request_, 3))
    assert parsed.pages == 3
    again = parsed.request
    assert (again.stream, again.limits, again.after, again.accept_gap) == (
        request_.stream,
        request_.limits,
        request_.after,
        request_.accept_gap,
    )
    moments = [start and start.timestamp for start in (again.start, request_.start)]
    assert moments[0] == moments[1]


def test_confirm() -> None:
    assert parse_confirm(confirm_body(STREAM, "e1", 5, DIGEST)) == ConfirmCall(STREAM, "e1", 5, DIGEST)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"sequence": 0}, Code.INVALID_REQUEST),
        ({"sequence": None}, Code.INVALID_REQUEST),
        ({"sequence": 2**64}, Code.INVALID_REQUEST),
        ({"digest": None}, Code.INVALID_REQUEST),
        ({"epoch": "a b"}, Code.INVALID_REQUEST),
        ({"scanned_through": 5}, Code.UNKNOWN_FIELD),
        ({"stream": "facts.*"}, Code.INVALID_STREAM),
    ],
)
def test_a_malformed_confirm_is_refused(changes: dict[str, Any], code: Code) -> None:
    fields = {"stream": STREAM, "epoch": "e1", "sequence": 5, "digest": DIGEST} | changes
    with pytest.raises(BsfgError) as caught:
        parse_confirm(json.dumps(fields).encode())
    assert caught.value.code is code


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from([*AFTER, "stream", "after", "x"]), inner),
    max_leaves=10,
)
_FIELDS = [
    "stream",
    "cursor_policy",
    "init_timestamp",
    "after",
    "accept_gap",
    "max_facts",
    "wait_ms",
    "pages",
]


@given(st.binary() | _JSON.map(json.dumps).map(str.encode))
def test_any_bytes_are_taken_or_refused(raw: bytes) -> None:
    for parse in (parse_fetch, parse_confirm):
        try:
            parse(raw)
        except BsfgError as error:
            assert error.code.http_status == 400


@given(st.dictionaries(st.sampled_from(_FIELDS), _JSON | st.just("facts.operational") | st.just(AFTER)))
def test_any_values_are_taken_or_refused(fields: dict[str, Any]) -> None:
    try:
        call = parse_fetch(json.dumps(fields).encode())
    except BsfgError as error:
        assert error.code.http_status == 400
    else:
        assert (call.request.start is None) != (call.request.after is None)
