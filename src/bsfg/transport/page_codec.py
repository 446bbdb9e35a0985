"""Pages as bytes: binary frames between gateways, JSON for people (contract, section 4; design, section 5).

A frame is 16 bytes of header, all big-endian: the magic with the version, the body's length, the body's crc32;
then the body, a msgpack array of the page's fields in the order of :class:`_Body`, the columns of its facts last.
Fields added at the end by a later version are ignored. Several frames may follow each other, each continuing the page
before.

TLS authenticates the peer and protects the bytes; the checksum tells a bug at either end from a bad peer.
"""

from __future__ import annotations

import base64
import binascii
import json
import struct
from dataclasses import replace
from typing import Any, Final

import msgspec
from isal.isal_zlib import crc32

from bsfg.model.cursor import Cursor
from bsfg.model.fact import HEADERS_BYTES_MAX, PAYLOAD_BYTES_MAX, Fact, digest, header_pairs, join_headers
from bsfg.model.facts import NO_FACTS, Facts
from bsfg.model.moment import format_time, parse_time
from bsfg.model.names import StreamName
from bsfg.model.page import Agreement, FetchRequest, Page, PageLimits
from bsfg.transport.page_check import bad_answer, validate_page
from bsfg.transport.wire import strict_json

BINARY_TYPE: Final = "application/vnd.bsfg.page.v1"
JSON_TYPE: Final = "application/json"
FACT_OVERHEAD_BYTES: Final = 1200
"""More than one fact takes beside headers and payload: a subject of 320 characters in UTF-8, and the numbers."""
PAGE_OVERHEAD_BYTES: Final = 4096
JSON_GROWTH_MAX: Final = 7
"""A byte takes at most six characters in a JSON string; the names of the fields take the rest."""

_MAGIC: Final = b"BSFGPG\x00\x01"
_FRAME: Final = struct.Struct(">8sII")
FRAME_HEADER_BYTES: Final = _FRAME.size


class _Body(msgspec.Struct, array_like=True):
    """A page as msgpack holds it; the order is the format, and new fields go to the end."""

    stream: str
    epoch: str
    agreement: Agreement
    start_sequence: int
    scanned_through: int
    head: int
    pending: int
    pending_bytes: int | None
    sender_time: int
    next_time: int | None
    sequences: list[int]
    times: list[int]
    subjects: list[str]
    """The distinct ones, sorted, so that one page has one spelling."""
    subject_numbers: list[int]
    """Each fact's place in ``subjects``; empty where there is only one."""
    headers: list[bytes]
    """Empty where no fact has any."""
    payloads: list[bytes]


class _JsonFact(msgspec.Struct):
    sequence: int
    subject: str
    time: str
    headers: list[tuple[str, str]]
    data: str | None = None
    data_base64: str | None = None


class _JsonPage(msgspec.Struct):
    stream: str
    epoch: str
    agreement: Agreement
    start_sequence: int
    scanned_through: int
    head: int
    pending: int
    sender_time: str
    next_time: str | None
    facts: list[_JsonFact]
    pending_bytes: int | None = None


_ENCODER: Final = msgspec.msgpack.Encoder()
_DECODER: Final = msgspec.msgpack.Decoder(_Body)


def frame_bytes_max(limits: PageLimits) -> int:
    """The longest frame within these limits; a single fact may be larger than the bytes asked for."""
    facts_bytes = max(limits.bytes, PAYLOAD_BYTES_MAX + HEADERS_BYTES_MAX)
    return _FRAME.size + PAGE_OVERHEAD_BYTES + facts_bytes + limits.facts * FACT_OVERHEAD_BYTES


def encode(page: Page) -> bytearray:
    """The page as one binary frame."""
    facts = Facts.of(page.facts)
    subjects, subject_numbers = _numbered(facts.subjects)
    frame = bytearray(_FRAME.size)
    _ENCODER.encode_into(
        _Body(
            page.stream,
            page.epoch,
            page.agreement,
            page.start_sequence,
            page.scanned_through,
            page.head,
            page.pending,
            page.pending_bytes,
            page.sender_time,
            page.next_time,
            facts.sequences,
            facts.times,
            subjects,
            subject_numbers,
            facts.headers if any(facts.headers) else [],
            facts.payloads,
        ),
        frame,
        _FRAME.size,
    )
    with memoryview(frame) as view:
        checksum = crc32(view[_FRAME.size :])
    _FRAME.pack_into(frame, 0, _MAGIC, len(frame) - _FRAME.size, checksum)
    return frame


def _numbered(column: list[str]) -> tuple[list[str], list[int]]:
    distinct = sorted(set(column))
    if len(distinct) <= 1:
        return distinct, []
    places = {subject: number for number, subject in enumerate(distinct)}
    return distinct, list(map(places.__getitem__, column))


def decode(frames: bytes | bytearray | memoryview, request: FetchRequest, pages_max: int = 1) -> list[Page]:
    """The pages in these bytes, at least one, each held against the request and the page that it continues.

    Raises ``bad_answer``, which says what is wrong; nothing is then known of any of them.
    """
    pages: list[Page] = []
    view, position = memoryview(frames), 0
    while position < len(view) or not pages:
        if len(pages) == pages_max:
            raise bad_answer(f"{len(view) - position} bytes follow the last page")
        page, position = _decode_at(view, position, request)
        pages.append(page)
        if position < len(view):
            request = following(request, page)
    return pages


def following(request: FetchRequest, page: Page) -> FetchRequest:
    """What the next page of the same answer is held against."""
    return replace(request, start=None, after=continued(request.after, page), accept_gap=None)


def body_bytes(header: bytes, limits: PageLimits) -> int:
    """How many bytes follow a frame's header; ``bad_answer`` if it is none, or announces more than may come."""
    magic, length, _ = _FRAME.unpack(header)
    if magic != _MAGIC:
        raise bad_answer("it does not begin as a binary page of version 1")
    if length > frame_bytes_max(limits):
        raise bad_answer(f"the page says {length} bytes, more than may come")
    return int(length)


def continued(after: Cursor | None, page: Page) -> Cursor:
    """Where the next page begins that continues this one."""
    if page.facts:
        last = page.facts[-1]
        return Cursor(page.epoch, last.sequence, digest(last), page.scanned_through)
    if after is None:
        return Cursor(page.epoch, None, None, page.scanned_through)
    return replace(after, scanned_through=page.scanned_through)


def _decode_at(view: memoryview, position: int, request: FetchRequest) -> tuple[Page, int]:
    if len(view) - position < _FRAME.size:
        raise bad_answer("the page is shorter than its frame's header")
    magic, length, checksum = _FRAME.unpack_from(view, position)
    if magic != _MAGIC:
        raise bad_answer("it does not begin as a binary page of version 1")
    start = position + _FRAME.size
    if length > frame_bytes_max(request.limits) or length > len(view) - start:
        raise bad_answer(f"the page says {length} bytes, where {len(view) - start} follow")
    body = view[start : start + length]
    if crc32(body) != checksum:
        raise bad_answer("the page's checksum is wrong")
    return validate_page(_unpack(body), request), start + length


def _unpack(body: memoryview) -> Page:
    try:
        fields = _DECODER.decode(body)
        facts = _facts(fields)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise bad_answer(f"the page's body is malformed: {error}") from error
    except (ValueError, IndexError) as error:
        raise bad_answer("the page's columns of facts do not belong together") from error
    return Page(
        stream=StreamName(fields.stream),
        epoch=fields.epoch,
        agreement=fields.agreement,
        start_sequence=fields.start_sequence,
        scanned_through=fields.scanned_through,
        head=fields.head,
        pending=fields.pending,
        sender_time=fields.sender_time,
        next_time=fields.next_time,
        facts=facts,
        pending_bytes=fields.pending_bytes,
    )


def _facts(fields: _Body) -> Facts:
    """ValueError or IndexError where the columns are not those of one list of facts."""
    count, numbers = len(fields.sequences), fields.subject_numbers
    if not (count or numbers or fields.times or fields.headers or fields.payloads):
        return NO_FACTS
    headers = fields.headers or [b""] * count
    if numbers and min(numbers) < 0:
        raise ValueError
    subjects = list(map(fields.subjects.__getitem__, numbers)) if numbers else fields.subjects[:1] * count
    facts = Facts(fields.sequences, subjects, fields.times, headers, fields.payloads)
    if {len(getattr(facts, column)) for column in Facts.__slots__} != {count}:
        raise ValueError
    return facts


def encode_json(page: Page) -> bytes:
    """The page as JSON with a line's end, times as RFC 3339 with nanoseconds."""
    shown = {
        "stream": page.stream,
        "epoch": page.epoch,
        "agreement": page.agreement.value,
        "start_sequence": page.start_sequence,
        "scanned_through": page.scanned_through,
        "head": page.head,
        "pending": page.pending,
        "pending_bytes": page.pending_bytes,
        "sender_time": format_time(page.sender_time),
        "next_time": None if page.next_time is None else format_time(page.next_time),
        "facts": [fact_as_json(fact) for fact in page.facts],
    }
    return json.dumps(shown).encode() + b"\n"


def fact_as_json(fact: Fact) -> dict[str, Any]:
    """A fact as a JSON object; the payload is ``data`` where it is valid UTF-8, else ``data_base64``."""
    shown: dict[str, Any] = {
        "sequence": fact.sequence,
        "subject": fact.subject,
        "time": format_time(fact.time),
        "headers": [list(pair) for pair in header_pairs(fact.headers)],
    }
    try:
        shown["data"] = fact.payload.decode()
    except UnicodeDecodeError:
        shown["data_base64"] = base64.b64encode(fact.payload).decode()
    return shown


def decode_json(body: bytes, request: FetchRequest) -> Page:
    """The page in this JSON, held against the request exactly as a binary one is."""
    try:
        fields = msgspec.convert(strict_json(body), _JsonPage)
        page = Page(
            stream=StreamName(fields.stream),
            epoch=fields.epoch,
            agreement=fields.agreement,
            start_sequence=fields.start_sequence,
            scanned_through=fields.scanned_through,
            head=fields.head,
            pending=fields.pending,
            sender_time=parse_time(fields.sender_time),
            next_time=None if fields.next_time is None else parse_time(fields.next_time),
            facts=[_fact_from_json(fact) for fact in fields.facts],
            pending_bytes=fields.pending_bytes,
        )
    except (ValueError, msgspec.MsgspecError) as error:
        raise bad_answer(f"the JSON page is malformed: {error}") from error
    return validate_page(page, request)


def _fact_from_json(fact: _JsonFact) -> Fact:
    headers = join_headers(
        (name.encode("utf-8", "surrogateescape"), value.encode("utf-8", "surrogateescape"))
        for name, value in fact.headers
    )
    fact.subject.encode()
    return Fact(fact.sequence, fact.subject, parse_time(fact.time), headers, _payload(fact))


def _payload(fact: _JsonFact) -> bytes:
    if (fact.data is None) == (fact.data_base64 is None):
        raise ValueError("a fact has not exactly one of data and data_base64")
    if fact.data is not None:
        return fact.data.encode()
    assert fact.data_base64 is not None
    try:
        return base64.b64decode(fact.data_base64, validate=True)
    except binascii.Error as error:
        raise ValueError(f"data_base64 is malformed: {error}") from error
