"""Facts from files and pipes: one whole input, or bytes that the gateway cuts into lines."""

from __future__ import annotations

import base64
import json
import select
import socket
from collections.abc import Iterator, Sequence
from contextlib import suppress
from io import BufferedReader
from typing import Final

from bsfg.errors import BsfgError, Code
from bsfg.model.fact import PAYLOAD_BYTES_MAX

PIECE_BYTES: Final = 1024 * 1024


def source_name(source: BufferedReader) -> str:
    name = getattr(source, "name", "-")
    return "stdin" if name in ("-", 0, "<stdin>") else str(name)


def whole_input(source: BufferedReader) -> bytes:
    """The whole input; ``too_large`` above 1 MiB, which is all that is read."""
    payload = source.read(PAYLOAD_BYTES_MAX + 1)
    if len(payload) > PAYLOAD_BYTES_MAX:
        raise BsfgError(Code.TOO_LARGE, f"{source_name(source)}: a fact has at most {PAYLOAD_BYTES_MAX} bytes")
    return payload


def pieces(source: BufferedReader, gateway: socket.socket) -> Iterator[bytes]:
    """The input as it comes, until its end or until the gateway has something to say."""
    while True:
        readable = select.select([source.fileno(), gateway.fileno()], [], [])[0]
        if gateway.fileno() in readable:
            return
        piece = source.read1(PIECE_BYTES)
        if not piece:
            return
        yield piece


def encode_fact(
    payload: bytes, subject: str | None, message_id: str | None, headers: Sequence[tuple[str, str]] = ()
) -> bytes:
    """A fact for the API: the payload as text where that is shorter than base64."""
    named = {"subject": subject, "message_id": message_id, "headers": [list(pair) for pair in headers]}
    head = json.dumps(named)[:-1].encode()
    body = b'"data_base64": "' + base64.b64encode(payload) + b'"'
    with suppress(UnicodeDecodeError):
        text = b'"data": ' + json.dumps(payload.decode("utf-8"), ensure_ascii=False).encode()
        body = min(body, text, key=len)
    return head + b", " + body + b"}"
