"""One question to a peer over HTTP, and what is taken as an answer to it: bounded, and of a type that was asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import aiohttp

from bsfg.model.names import printable
from bsfg.transport.page_check import bad_answer
from bsfg.transport.page_codec import JSON_TYPE

ERROR_BYTES_MAX: Final = 64 * 1024
NO_CONTENT: Final = 204
IDENTITY: Final = "identity"


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One request, and what answer to it is taken."""

    method: str
    path: str
    body: bytes | None = None
    accepts: Mapping[str, int] = field(default_factory=lambda: {JSON_TYPE: ERROR_BYTES_MAX})
    """Media types of the answer, best first, each with the most bytes that are read of it."""
    wait_seconds: float = 0.0
    encoding: str = IDENTITY
    """Beside identity the one that a success may come in; the most bytes then count what travels."""
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    """Beside those that every request has, or in their place."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back, whole and of a type that was asked for; nothing of it has been looked at."""

    status: int
    content_type: str
    retry_after: str | None
    body: bytes
    encoding: str = IDENTITY


def headers_of(question: Question) -> dict[str, str]:
    """The headers of the request, without those that its framing needs."""
    headers = {"Accept": ", ".join(question.accepts), "Accept-Encoding": question.encoding}
    if question.body is not None:
        headers["Content-Type"] = "application/json"
    return headers | dict(question.headers)


async def read_answer(response: aiohttp.ClientResponse, question: Question) -> Answer:
    """The whole answer; ``bad_answer`` for one of a type that was not asked for, or longer than it may be."""
    if response.status == NO_CONTENT:
        return Answer(response.status, "", None, b"")
    body = await _bounded_body(response, check_head(response, question))
    retry_after = response.headers.get("Retry-After")
    return Answer(response.status, response.content_type, retry_after, body, encoding_of(response))


def encoding_of(response: aiohttp.ClientResponse) -> str:
    """What the answer came in; identity where it does not say."""
    return response.headers.get("Content-Encoding", IDENTITY)


def request_bytes(question: Question, host: str) -> bytes:
    """The question as it travels; of the kind that has a body and nothing out of the ordinary."""
    assert question.body is not None and not question.query
    fields = {"Host": host, **headers_of(question), "Content-Length": str(len(question.body))}
    lines = [f"{question.method} {question.path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join([*lines, "", ""]).encode() + question.body


def check_head(response: aiohttp.ClientResponse, question: Question) -> int:
    """See :func:`bytes_max_of`."""
    return bytes_max_of(response.status, response.content_type, encoding_of(response), question)


def bytes_max_of(status: int, content_type: str, encoding: str, question: Question) -> int:
    """The most bytes that may follow; ``bad_answer`` for a redirect, an encoding or a type that nobody asked for."""
    if 300 <= status < 400:
        raise bad_answer(f"it redirects (status {status})")
    if encoding != IDENTITY and (encoding != question.encoding or status != 200):
        raise bad_answer(f"it is encoded as {printable(encoding)}, which was not asked for")
    accepts = question.accepts if status == 200 else {JSON_TYPE: ERROR_BYTES_MAX}
    bytes_max = accepts.get(content_type)
    if bytes_max is None:
        raise bad_answer(f"status {status} with an answer of type {printable(content_type)}")
    return bytes_max


async def _bounded_body(response: aiohttp.ClientResponse, bytes_max: int) -> bytes:
    """The whole body; ``bad_answer`` before more than the limit is held."""
    if (response.content_length or 0) > bytes_max:
        raise bad_answer(f"it announces {response.content_length} bytes, more than {bytes_max}")
    parts, length = [], 0
    async for part in response.content.iter_any():
        length += len(part)
        if length > bytes_max:
            raise bad_answer(f"it is longer than {bytes_max} bytes")
        parts.append(part)
    return b"".join(parts)
