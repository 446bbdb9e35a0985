"""What is fuzzed: everything that takes bytes from a peer or from NATS, with what must hold whatever they are.

A target takes any bytes. It returns, or it raises because a rule is broken; the only error that our decoders may raise
themselves is the one that the contract gives to bad answers, and a broken protocol on the connection to NATS.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Sequence
from typing import Final

from bsfg.errors import BsfgError, Code
from bsfg.model.cursor import Cursor
from bsfg.model.fact import HEADERS_BYTES_MAX, PAYLOAD_BYTES_MAX, header_pairs, is_allowed_block
from bsfg.model.names import StreamName, tail_of
from bsfg.model.page import FetchRequest, Page, PageLimits
from bsfg.substrates.nats_frames import Frame, FrameError, FrameParser, Operation
from bsfg.transport.compression import inflate
from bsfg.transport.page_codec import decode, decode_json, encode, encode_json, frame_bytes_max

STREAM: Final = StreamName("facts.operational")
EPOCH: Final = "e1"
LIMITS: Final = PageLimits(facts=100, bytes=64 * 1024)
REQUEST: Final = FetchRequest(STREAM, LIMITS, after=Cursor(EPOCH, 5, "a" * 64, 5))
PAGES_MAX: Final = 3
MAGIC: Final = b"BSFGPG\x00\x01"

Target = Callable[[bytes], None]


def sealed(body: bytes) -> bytes:
    """The bytes as a frame whose length and checksum are right, so that they reach what lies behind those."""
    return struct.pack(">8sII", MAGIC, len(body), zlib.crc32(body)) + body


def binary_page(raw: bytes) -> None:
    """An answer of binary pages: as it comes where the first byte is even, else as the body of a sealed frame."""
    if not raw:
        return
    frames = raw[1:] if raw[0] % 2 == 0 else sealed(raw[1:])
    pages = list(_accepted(lambda: decode(frames, REQUEST, PAGES_MAX)))
    if pages:
        again = decode(b"".join(map(encode, pages)), REQUEST, PAGES_MAX)
        assert again == pages, "pages that were taken come back as others"


def json_page(raw: bytes) -> None:
    """A page as JSON."""
    for page in _accepted(lambda: [decode_json(raw, REQUEST)]):
        assert decode_json(encode_json(page), REQUEST) == page, (
            "a page that was taken comes back as another one"
        )


def compressed_page(raw: bytes) -> None:
    """A zstd frame with a page in it, never inflated to more than a page may hold."""
    bytes_max = frame_bytes_max(LIMITS)
    try:
        frame = inflate(raw, bytes_max)
    except BsfgError as error:
        assert error.code is Code.BAD_ANSWER
        return
    assert len(frame) <= bytes_max, f"inflated to {len(frame)} bytes"
    _accepted(lambda: decode(frame, REQUEST, PAGES_MAX))


def nats_frames(raw: bytes) -> None:
    """What NATS sends: cut at any place, the bytes mean the same; the first byte says how they are cut."""
    if not raw:
        return
    step, stream = max(1, raw[0]), raw[1:]
    whole = _parsed([stream])
    pieces = _parsed([stream[start : start + step] for start in range(0, len(stream), step)])
    if whole is not None and pieces is not None:
        assert whole == pieces, f"cut into pieces of {step} bytes, other frames come out"
    else:
        assert whole is pieces is None, f"cut into pieces of {step} bytes, it is refused, or no longer is"


TARGETS: Final[dict[str, Target]] = {
    target.__name__: target for target in (binary_page, json_page, compressed_page, nats_frames)
}


def _accepted(read: Callable[[], Sequence[Page]]) -> Sequence[Page]:
    """The pages that were taken, each held against what a page must be."""
    try:
        pages = read()
    except BsfgError as error:
        assert error.code is Code.BAD_ANSWER, f"refused as {error.code}"
        assert error.message.isprintable(), "what the peer sent reaches the log as it is"
        return []
    request_floor = REQUEST.after.scanned_through if REQUEST.after else 0
    for page in pages:
        _must_be_legal(page, request_floor)
        request_floor = page.scanned_through
    return pages


def _must_be_legal(page: Page, floor: int) -> None:
    sequences = [fact.sequence for fact in page.facts]
    assert page.stream == STREAM and page.epoch == EPOCH, "of another history"
    assert len(sequences) <= LIMITS.facts, "more facts than were asked for"
    assert sequences == sorted(set(sequences)), "out of order, or twice"
    assert floor <= page.scanned_through <= page.head, "scanned back, or beyond the head"
    assert page.start_sequence == floor + 1, "not behind what was scanned"
    assert all(floor < sequence <= page.scanned_through for sequence in sequences), (
        "outside of what was scanned"
    )
    for fact in page.facts:
        assert tail_of(fact.subject, STREAM) is not None, "a subject that leaves the stream"
        assert len(fact.payload) <= PAYLOAD_BYTES_MAX and len(fact.headers) <= HEADERS_BYTES_MAX, "too large"
        if fact.headers:
            assert is_allowed_block(fact.headers), "headers that no peer may send"
            names = [name.lower() for name, _ in header_pairs(fact.headers)]
            reserved = [
                name for name in names if name.startswith(("nats-", "bsfg-")) and name != "nats-msg-id"
            ]
            assert not reserved, f"reserved headers {reserved}"


def _parsed(chunks: Sequence[bytes]) -> tuple[list[tuple[int, Frame]], list[Operation]] | None:
    """All messages and operations; None where the bytes are refused."""
    parser = FrameParser()
    messages: list[tuple[int, Frame]] = []
    operations: list[Operation] = []
    try:
        for chunk in chunks:
            runs, others = parser.feed(chunk)
            messages += [(subscription, frame) for subscription, run in runs for frame in run]
            operations += others
    except FrameError:
        return None
    return messages, operations
