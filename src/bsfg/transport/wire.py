"""Requests between gateways as JSON: strict to read, plain to write (contract, section 4).

Everything here is about bytes and values: who may ask, and what is answered, is decided elsewhere. A body that
is not exactly what the contract says raises ``invalid_request``, ``unknown_field``, ``invalid_stream`` or
``init_rejected``; where the contract clamps, a larger number is clamped, and one below the smallest is
``invalid_request``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from bsfg.errors import BsfgError, Code
from bsfg.model.cursor import Cursor, InitMode, parse_init_mode
from bsfg.model.digests import PARTS_MAX, DigestCall
from bsfg.model.moment import format_time
from bsfg.model.names import StreamName, parse_stream, printable
from bsfg.model.page import (
    BYTES_DEFAULT,
    BYTES_MAX,
    FACTS_DEFAULT,
    FACTS_MAX,
    PAGES_MAX,
    WAIT_MILLISECONDS_MAX,
    FetchRequest,
    PageLimits,
)

PROTOCOL_VERSIONS: Final = (1,)
REQUEST_BYTES_MAX: Final = 16 * 1024
SEQUENCE_MAX: Final = 2**63 - 1
EPOCH_PATTERN: Final = re.compile(r"[0-9A-Za-z_-]{1,64}", re.ASCII)
DIGEST_PATTERN: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)

CODES_TO_PEERS: Final = frozenset(
    {
        Code.INVALID_REQUEST,
        Code.UNKNOWN_FIELD,
        Code.INVALID_STREAM,
        Code.INVALID_URI,
        Code.INIT_REJECTED,
        Code.IDENTITY_REJECTED,
        Code.PEER_UNKNOWN,
        Code.STREAM_DENIED,
        Code.ARTIFACT_DENIED,
        Code.ARTIFACT_NOT_FOUND,
        Code.NOT_FOUND,
        Code.HISTORY_MISMATCH,
        Code.AHEAD_OF_SOURCE,
        Code.GAP,
        Code.TOO_LARGE,
        Code.TOO_MANY,
        Code.UNAVAILABLE,
        Code.PARTITIONED,
        Code.INTERNAL,
    }
)
"""What a sender says, and all that a receiver takes from one: a peer can't claim that our own store is full."""

_FETCH_FIELDS: Final = frozenset(
    {
        "stream",
        "cursor_policy",
        "init_timestamp",
        "after",
        "accept_gap",
        "max_facts",
        "max_bytes",
        "wait_ms",
        "pages",
    }
)
_AFTER_FIELDS: Final = frozenset({"epoch", "sequence", "digest", "scanned_through"})
_GAP_FIELDS: Final = frozenset({"from", "to"})
_CONFIRM_FIELDS: Final = frozenset({"stream", "epoch", "sequence", "digest"})
_NOTIFY_FIELDS: Final = frozenset({"stream", "head"})
_DIGESTS_FIELDS: Final = frozenset({"stream", "epoch", "from", "to", "parts"})


@dataclass(frozen=True, slots=True)
class FetchCall:
    """A fetch as a peer asked for it: the request, and how many pages one answer may hold."""

    request: FetchRequest
    pages: int = 1


@dataclass(frozen=True, slots=True)
class ConfirmCall:
    """What a peer says that it holds durably."""

    stream: StreamName
    epoch: str
    sequence: int
    digest: str


@dataclass(frozen=True, slots=True)
class NotifyCall:
    """A peer's advice that its stream has reached this head."""

    stream: StreamName
    head: int


def parse_fetch(body: bytes) -> FetchCall:
    """The fetch in this body, with its numbers clamped to the contract's largest."""
    fields = _object(_parse_json(body), "the request", _FETCH_FIELDS)
    stream = _stream(fields)
    start, after = _position(fields)
    accept_gap = _accept_gap(fields)
    if accept_gap is not None and after is None:
        raise _invalid("accept_gap is only for a request with after")
    limits = PageLimits(
        facts=_clamped(fields, "max_facts", FACTS_DEFAULT, 1, FACTS_MAX),
        bytes=_clamped(fields, "max_bytes", BYTES_DEFAULT, 1, BYTES_MAX),
        wait_seconds=_clamped(fields, "wait_ms", 0, 0, WAIT_MILLISECONDS_MAX) / 1000,
    )
    request = FetchRequest(stream, limits, start=start, after=after, accept_gap=accept_gap)
    return FetchCall(request, _clamped(fields, "pages", 1, 1, PAGES_MAX))


def parse_confirm(body: bytes) -> ConfirmCall:
    """The confirm in this body."""
    fields = _object(_parse_json(body), "the request", _CONFIRM_FIELDS)
    return ConfirmCall(
        stream=_stream(fields),
        epoch=_matching(fields, "epoch", EPOCH_PATTERN),
        sequence=_number(fields, "sequence", 1),
        digest=_matching(fields, "digest", DIGEST_PATTERN),
    )


def parse_notify(body: bytes) -> NotifyCall:
    """The advice in this body."""
    fields = _object(_parse_json(body), "the request", _NOTIFY_FIELDS)
    return NotifyCall(_stream(fields), _number(fields, "head", 0))


def parse_digests(body: bytes) -> DigestCall:
    """The request for digests in this body; more parts than there are at most become that many."""
    fields = _object(_parse_json(body), "the request", _DIGESTS_FIELDS)
    call = DigestCall(
        stream=_stream(fields),
        epoch=_matching(fields, "epoch", EPOCH_PATTERN),
        first=_number(fields, "from", 1),
        last=_number(fields, "to", 1),
        parts=_clamped(fields, "parts", 1, 1, PARTS_MAX),
    )
    if call.first > call.last:
        raise _invalid("the range ends before it begins")
    return call


def fetch_body(request: FetchRequest, pages: int = 1) -> bytes:
    """The body that asks for this; :func:`parse_fetch` reads it back."""
    fields: dict[str, Any] = {
        "stream": request.stream,
        "max_facts": request.limits.facts,
        "max_bytes": request.limits.bytes,
        "wait_ms": round(request.limits.wait_seconds * 1000),
        "pages": pages,
    }
    if request.start is not None:
        fields["cursor_policy"] = request.start.text
        if request.start.timestamp is not None:
            fields["init_timestamp"] = format_time(request.start.timestamp)
    if request.after is not None:
        fields["after"] = {
            "epoch": request.after.epoch,
            "sequence": request.after.sequence,
            "digest": request.after.digest,
            "scanned_through": request.after.scanned_through,
        }
    if request.accept_gap is not None:
        fields["accept_gap"] = {"from": request.accept_gap[0], "to": request.accept_gap[1]}
    return msgspec.json.encode(fields)


def confirm_body(stream: StreamName, epoch: str, sequence: int, digest: str) -> bytes:
    """The body that confirms; :func:`parse_confirm` reads it back."""
    return msgspec.json.encode({"stream": stream, "epoch": epoch, "sequence": sequence, "digest": digest})


def digests_body(call: DigestCall) -> bytes:
    """The body that asks for digests; :func:`parse_digests` reads it back."""
    fields = {
        "stream": call.stream,
        "epoch": call.epoch,
        "from": call.first,
        "to": call.last,
        "parts": call.parts,
    }
    return msgspec.json.encode(fields)


def notify_body(stream: StreamName, head: int) -> bytes:
    """The body that advises; :func:`parse_notify` reads it back."""
    return msgspec.json.encode({"stream": stream, "head": head})


def strict_json(body: bytes) -> Any:
    """The JSON value in these bytes; ValueError for anything else: NaN, a key twice, bad UTF-8."""
    try:
        return json.loads(body.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
    except RecursionError as error:
        raise ValueError("the JSON is nested too deeply") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("an object has the same key twice")
    return found


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")


def _parse_json(body: bytes) -> Any:
    try:
        return strict_json(body)
    except ValueError as error:
        raise _invalid(
            f"the body is not JSON: {printable(str(error), 120)}",
            hint="send one JSON object in UTF-8",
        ) from error


def _object(value: Any, place: str, known: frozenset[str]) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise _invalid(f"{place} is {_kind(value)} and not an object")
    for name in value:
        if name not in known:
            raise BsfgError(
                Code.UNKNOWN_FIELD,
                f"{place} has the unknown field {printable(name)}",
                hint="known are " + ", ".join(sorted(known)),
            )
    return value


def _stream(fields: Mapping[str, Any]) -> StreamName:
    return parse_stream(_text(fields, "stream"))


def _position(fields: Mapping[str, Any]) -> tuple[InitMode | None, Cursor | None]:
    if ("cursor_policy" in fields) == ("after" in fields):
        raise _invalid(
            "exactly one of cursor_policy and after must be given",
            hint="cursor_policy for the first request of a link, after for all others",
        )
    if "after" in fields:
        if "init_timestamp" in fields:
            raise _invalid("init_timestamp is only for cursor_policy explicit_timestamp")
        return None, _after(_object(fields["after"], "after", _AFTER_FIELDS))
    timestamp = _text(fields, "init_timestamp") if "init_timestamp" in fields else None
    try:
        return parse_init_mode(_text(fields, "cursor_policy"), timestamp), None
    except ValueError as error:
        raise BsfgError(Code.INIT_REJECTED, f"the start of the link is refused: {error}") from error


def _after(fields: Mapping[str, Any]) -> Cursor:
    scanned_through = _number(fields, "scanned_through", 0)
    epoch = _matching(fields, "epoch", EPOCH_PATTERN)
    if fields.get("sequence", 0) is None and fields.get("digest", 0) is None:
        return Cursor(epoch, None, None, scanned_through)
    sequence = _number(fields, "sequence", 1)
    if sequence > scanned_through:
        raise _invalid("sequence is beyond scanned_through")
    return Cursor(epoch, sequence, _matching(fields, "digest", DIGEST_PATTERN), scanned_through)


def _accept_gap(fields: Mapping[str, Any]) -> tuple[int, int] | None:
    if "accept_gap" not in fields:
        return None
    gap = _object(fields["accept_gap"], "accept_gap", _GAP_FIELDS)
    first, last = _number(gap, "from", 1), _number(gap, "to", 1)
    if first > last:
        raise _invalid("accept_gap ends before it begins")
    return first, last


def _clamped(fields: Mapping[str, Any], name: str, default: int, smallest: int, largest: int) -> int:
    if name not in fields:
        return default
    return min(_whole(fields, name, smallest), largest)


def _number(fields: Mapping[str, Any], name: str, smallest: int) -> int:
    value = _whole(fields, name, smallest)
    if value > SEQUENCE_MAX:
        raise _invalid(f"{name} is larger than {SEQUENCE_MAX}")
    return value


def _whole(fields: Mapping[str, Any], name: str, smallest: int) -> int:
    value = fields.get(name)
    if type(value) is not int:
        raise _wrong(fields, name, "a whole number")
    if value < smallest:
        raise _invalid(f"{name} is smaller than {smallest}")
    return value


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str):
        raise _wrong(fields, name, "a string")
    return value


def _matching(fields: Mapping[str, Any], name: str, pattern: re.Pattern[str]) -> str:
    value = _text(fields, name)
    if not pattern.fullmatch(value):
        raise _invalid(f"{name} {printable(value)} is not of the form {pattern.pattern}")
    return value


def _wrong(fields: Mapping[str, Any], name: str, wanted: str) -> BsfgError:
    if name not in fields:
        return _invalid(f"{name} is missing")
    return _invalid(f"{name} is {_kind(fields[name])} and not {wanted}")


def _kind(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true or false"
        case int():
            return "a whole number"
        case float():
            return "a number with a fraction"
        case str():
            return "a string"
        case list():
            return "a list"
        case _:
            return "an object"


def _invalid(message: str, hint: str = "") -> BsfgError:
    return BsfgError(Code.INVALID_REQUEST, message, hint=hint)
