"""Frames are cut by position and length, wherever the socket happens to split them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bsfg.substrates.nats_frames import (
    CONTROL_LINE_BYTES_MAX,
    FRAME_BYTES_MAX,
    Frame,
    FrameError,
    FrameParser,
    Operation,
    encode_publish,
    status_of,
)

LOOK_ALIKES = (
    b"\r\nMSG facts.a 1 2\r\nhi\r\n",
    b"PING\r\n",
    b"HMSG a 1 12 14\r\nNATS/1.0\r\n\r\nhi\r\n",
    b"\r\n",
    b"-ERR 'x'\r\n",
    b"",
)
tokens = st.text("abcXYZ019_.$-", min_size=1, max_size=12).map(str.encode)
payloads = st.one_of(st.binary(max_size=60), st.sampled_from(LOOK_ALIKES))
headers = st.one_of(
    st.just(b""),
    st.lists(st.sampled_from([b"A: 1\r\n", b"Nats-Msg-Id: x\r\n", b"Empty: \r\n"])).map(
        lambda lines: b"NATS/1.0\r\n" + b"".join(lines) + b"\r\n"
    ),
)
messages = st.tuples(
    st.integers(0, 3), st.builds(Frame, tokens, st.one_of(st.just(b""), tokens), headers, payloads)
)
operations = st.sampled_from(
    [
        Operation(b"PING", b""),
        Operation(b"PONG", b""),
        Operation(b"+OK", b""),
        Operation(b"INFO", b'{"a": 1}'),
    ]
)


def wire(item: tuple[int, Frame] | Operation) -> bytes:
    """An item as a server writes it."""
    if isinstance(item, Operation):
        return item.name + (b" " + item.argument if item.argument else b"") + b"\r\n"
    sid, frame = item
    reply = frame.reply + b" " if frame.reply else b""
    total = len(frame.header) + len(frame.payload)
    if frame.header:
        line = b"HMSG %b %d %b%d %d\r\n" % (frame.subject, sid, reply, len(frame.header), total)
    else:
        line = b"MSG %b %d %b%d\r\n" % (frame.subject, sid, reply, total)
    return line + frame.header + frame.payload + b"\r\n"


def parse(chunks: list[bytes]) -> tuple[list[tuple[int, Frame]], list[Operation], FrameParser]:
    parser = FrameParser()
    found: list[tuple[int, Frame]] = []
    others: list[Operation] = []
    for chunk in chunks:
        runs, operations = parser.feed(chunk)
        found += [(sid, frame) for sid, frames in runs for frame in frames]
        others += operations
    return found, others, parser


@given(st.lists(st.one_of(messages, operations), max_size=8), st.data())
def test_every_split_of_the_stream_gives_the_same_frames(
    items: list[tuple[int, Frame] | Operation], data: st.DataObject
) -> None:
    whole = b"".join(wire(item) for item in items)
    cuts = data.draw(st.lists(st.integers(0, len(whole)), max_size=6).map(sorted))
    chunks = [whole[start:end] for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
    found, others, parser = parse(chunks)
    assert found == [item for item in items if not isinstance(item, Operation)]
    assert others == [item for item in items if isinstance(item, Operation)]
    assert parser.is_empty


def test_every_byte_boundary_is_a_legal_place_to_split() -> None:
    frames = [
        (1, Frame(b"facts.a", b"$JS.ACK.s.c.1.1.1.1.0", b"NATS/1.0\r\nA: b\r\n\r\n", LOOK_ALIKES[2])),
        (1, Frame(b"facts.a.b", b"r", b"", LOOK_ALIKES[0])),
        (2, Frame(b"x", b"", b"", b"")),
    ]
    whole = b"".join(wire(frame) for frame in frames)
    for cut in range(len(whole) + 1):
        assert parse([whole[:cut], whole[cut:]])[0] == frames
    assert parse([bytes([byte]) for byte in whole])[0] == frames


def test_frames_of_one_subscription_arrive_as_one_run() -> None:
    frame = Frame(b"a", b"", b"", b"1")
    runs, _ = FrameParser().feed(b"".join(wire((sid, frame)) for sid in (1, 1, 2, 1)))
    assert [(sid, len(frames)) for sid, frames in runs] == [(1, 2), (2, 1), (1, 1)]


def test_a_large_payload_is_put_together_from_many_chunks() -> None:
    frame = Frame(b"a", b"", b"", bytes(3_000_000))
    whole = wire((1, frame))
    chunks = [whole[start : start + 65_536] for start in range(0, len(whole), 65_536)]
    assert parse(chunks)[0] == [(1, frame)]


@pytest.mark.parametrize(
    "broken",
    [
        b"MSG a 1 2\r\nhixx",
        b"MSG a 1 -2\r\nhi\r\n",
        b"MSG a 1 2_0\r\nhi\r\n",
        b"MSG a b 2\r\nhi\r\n",
        b"MSG a 2\r\nhi\r\n",
        b"MSG a 1 r s 2\r\nhi\r\n",
        b"HMSG a 1 2\r\nhi\r\n",
        b"HMSG a 1 9 2\r\nhi\r\n",
        b"MSG a 1 %d\r\n" % (FRAME_BYTES_MAX + 1),
        b"MSX a 1 2\r\nhi\r\n",
        b"HTTP/1.1 200 OK\r\n",
        b"GET / HTTP/1.1\r\n",
        b"\r\n",
        b"P" * (CONTROL_LINE_BYTES_MAX + 1),
        b"MSG " + b"a" * CONTROL_LINE_BYTES_MAX + b" 1 2\r\nhi\r\n",
    ],
)
def test_what_is_not_the_protocol_is_refused(broken: bytes) -> None:
    with pytest.raises(FrameError):
        FrameParser().feed(broken)


def test_an_info_line_may_be_longer_than_other_lines() -> None:
    argument = b'{"a": "' + b"x" * (2 * CONTROL_LINE_BYTES_MAX) + b'"}'
    assert parse([b"INFO " + argument + b"\r\n"])[1] == [Operation(b"INFO", argument)]


@pytest.mark.parametrize(
    ("header", "payload", "status"),
    [
        (b"NATS/1.0 404 No Messages\r\n\r\n", b"", (404, "No Messages")),
        (b"NATS/1.0 503\r\n\r\n", b"", (503, "")),
        (b"NATS/1.0 503\r\n\r\n", b"a payload", None),
        (b"NATS/1.0\r\nA: b\r\n\r\n", b"", None),
        (b"", b"", None),
    ],
)
def test_a_status_is_a_header_with_a_code_and_no_payload(
    header: bytes, payload: bytes, status: tuple[int, str] | None
) -> None:
    assert status_of(Frame(b"a", b"", header, payload)) == status


def test_publishing_says_the_lengths_of_header_and_whole() -> None:
    assert encode_publish(b"a", b"", b"", b"hi") == b"PUB a 2\r\nhi\r\n"
    assert encode_publish(b"a", b"r", b"", b"hi") == b"PUB a r 2\r\nhi\r\n"
    assert encode_publish(b"a", b"r", b"B: c\r\n", b"hi") == (
        b"HPUB a r 18 20\r\nNATS/1.0\r\nB: c\r\n\r\nhi\r\n"
    )
