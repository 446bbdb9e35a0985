"""Facts from files and pipes, each as the JSON object that the local API takes."""

from __future__ import annotations

import base64
import binascii
import json
import select
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from io import BufferedReader
from typing import Any, Final

from bsfg.errors import BsfgError, Code
from bsfg.model.fact import PAYLOAD_BYTES_MAX

ENVELOPE_BYTES_MAX: Final = 8 * 1024 * 1024
"""The most that one line of ``--envelope`` may hold: a payload of 1 MiB, every byte of it escaped."""
PAUSE_SECONDS: Final = 0.2
_CHUNK_BYTES: Final = 1024 * 1024
_ENVELOPE_FIELDS: Final = {"subject", "message_id", "headers", "data", "data_base64"}


@dataclass(frozen=True, slots=True)
class InputFact:
    """One fact as the API takes it, and the line that it came from."""

    line: int
    encoded: bytes


class Pause:
    """The producer has nothing to say just now: what was read should not wait for it."""


PAUSE: Final = Pause()


def source_name(source: BufferedReader) -> str:
    name = getattr(source, "name", "-")
    return "stdin" if name in ("-", 0, "<stdin>") else str(name)


def whole_input(source: BufferedReader, subject: str | None, message_id: str | None) -> InputFact:
    """The whole input as one fact; ``too_large`` above 1 MiB, which is all that is read."""
    payload = source.read(PAYLOAD_BYTES_MAX + 1)
    if len(payload) > PAYLOAD_BYTES_MAX:
        raise BsfgError(Code.TOO_LARGE, f"{source_name(source)}: a fact has at most {PAYLOAD_BYTES_MAX} bytes")
    return InputFact(1, encode_fact(payload, subject, message_id))


def payload_lines(source: BufferedReader, subject: str | None) -> Iterator[InputFact | Pause]:
    """Each line's bytes without its newline as one fact; blank lines are skipped."""
    for line in numbered_lines(source, PAYLOAD_BYTES_MAX):
        yield line if isinstance(line, Pause) else InputFact(line[0], encode_fact(line[1], subject, None))


def envelopes(source: BufferedReader) -> Iterator[InputFact | Pause]:
    """Each line's JSON object as one fact; ``invalid_request`` with file and line for one that is none."""
    for line in numbered_lines(source, ENVELOPE_BYTES_MAX):
        if isinstance(line, Pause):
            yield line
        else:
            yield InputFact(line[0], _encode_envelope(line[1], f"{source_name(source)}:{line[0]}"))


def numbered_lines(source: BufferedReader, bytes_max: int) -> Iterator[tuple[int, bytes] | Pause]:
    """The lines that are not blank with their numbers, and a pause wherever a pipe has nothing more for now."""
    count, rest, at_end = 0, b"", False
    while not at_end:
        if not select.select([source], [], [], PAUSE_SECONDS)[0]:
            yield PAUSE
        piece = source.read1(_CHUNK_BYTES)
        at_end = not piece
        *lines, rest = (rest + piece).split(b"\n")
        for content in [*lines, rest] if at_end else lines:
            count += 1
            _check_length(content, bytes_max, source, count)
            if content.strip():
                yield count, content
        _check_length(rest, bytes_max, source, count + 1)


def _check_length(content: bytes, bytes_max: int, source: BufferedReader, line: int) -> None:
    if len(content) > bytes_max:
        place = f"{source_name(source)}:{line}"
        raise BsfgError(Code.TOO_LARGE, f"{place}: the line is longer than {bytes_max} bytes")


def encode_fact(
    payload: bytes, subject: str | None, message_id: str | None, headers: list[list[str]] | None = None
) -> bytes:
    """A fact for the API: the payload as text where that is shorter than base64."""
    head = json.dumps({"subject": subject, "message_id": message_id, "headers": headers or []})[:-1].encode()
    body = b'"data_base64": "' + base64.b64encode(payload) + b'"'
    with suppress(UnicodeDecodeError):
        text = b'"data": ' + json.dumps(payload.decode("utf-8"), ensure_ascii=False).encode()
        body = min(body, text, key=len)
    return head + b", " + body + b"}"


def _encode_envelope(content: bytes, place: str) -> bytes:
    try:
        envelope = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise _bad(place, f"not JSON: {error}") from None
    if not isinstance(envelope, dict):
        raise _bad(place, "not a JSON object")
    unknown = sorted(set(envelope) - _ENVELOPE_FIELDS)
    if unknown:
        raise BsfgError(
            Code.UNKNOWN_FIELD,
            f"{place}: {unknown[0]!a} is not a field of an envelope",
            hint="the fields are subject, message_id, headers, and data or data_base64",
        )
    names = (_text(envelope, "subject", place), _text(envelope, "message_id", place))
    return encode_fact(_payload(envelope, place), *names, _headers(envelope, place))


def _payload(envelope: dict[str, Any], place: str) -> bytes:
    text, encoded = _text(envelope, "data", place), _text(envelope, "data_base64", place)
    if (text is None) == (encoded is None):
        raise _bad(place, "needs either data or data_base64")
    try:
        payload = base64.b64decode(encoded, validate=True) if encoded is not None else str(text).encode("utf-8")
    except binascii.Error as error:
        raise _bad(place, f"data_base64 is not base64: {error}") from None
    except UnicodeError:
        raise _bad(place, "data is not valid Unicode; use data_base64") from None
    if len(payload) > PAYLOAD_BYTES_MAX:
        raise BsfgError(Code.TOO_LARGE, f"{place}: a fact has at most {PAYLOAD_BYTES_MAX} bytes")
    return payload


def _text(envelope: dict[str, Any], name: str, place: str) -> str | None:
    value = envelope.get(name)
    if value is not None and not isinstance(value, str):
        raise _bad(place, f"{name} is not text but {type(value).__name__}")
    return value


def _headers(envelope: dict[str, Any], place: str) -> list[list[str]]:
    headers = envelope.get("headers")
    if headers is None:
        return []
    if not isinstance(headers, list) or not all(map(_is_header, headers)):
        raise _bad(place, "headers is not a list of [name, value]")
    return headers


def _is_header(pair: Any) -> bool:
    return isinstance(pair, list) and len(pair) == 2 and all(isinstance(part, str) for part in pair)


def _bad(place: str, cause: str) -> BsfgError:
    return BsfgError(Code.INVALID_REQUEST, f"{place}: {cause}")
