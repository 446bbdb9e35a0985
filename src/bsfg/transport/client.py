"""Asking a peer in the contract's words: health, streams, fetch, confirm (contract, section 4; runbook 6.1 to 6.4)."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from typing import Any, Final

import aiohttp

from bsfg.errors import BsfgError, Code, PeerRefused
from bsfg.model.cursor import Cursor
from bsfg.model.digests import DigestAnswer, DigestCall
from bsfg.model.moment import parse_time
from bsfg.model.names import StreamName, parse_stream, printable
from bsfg.model.page import FetchRequest, Page
from bsfg.ports import Clock
from bsfg.transport.access import Access
from bsfg.transport.client_connection import ClientLimits, PeerConnection, PeerEndpoint
from bsfg.transport.compression import ZSTD, InflatingReader, compressed_bytes_max, inflate
from bsfg.transport.digest_answer import DIGESTS_BYTES_MAX, DIGESTS_WAIT_SECONDS, parse_digest_answer
from bsfg.transport.frame_reader import Framing, cut_short
from bsfg.transport.page_check import bad_answer
from bsfg.transport.page_codec import (
    BINARY_TYPE,
    FRAME_HEADER_BYTES,
    JSON_GROWTH_MAX,
    JSON_TYPE,
    body_bytes,
    decode,
    decode_json,
    following,
    frame_bytes_max,
)
from bsfg.transport.question import IDENTITY, NO_CONTENT, Answer, Question
from bsfg.transport.resolver import NameResolver
from bsfg.transport.view_codec import VIEW_BYTES_MAX, parse_view
from bsfg.transport.wire import (
    CODES_TO_PEERS,
    EPOCH_PATTERN,
    PROTOCOL_VERSIONS,
    SEQUENCE_MAX,
    confirm_body,
    digests_body,
    fetch_body,
    notify_body,
    strict_json,
)

STREAMS_BYTES_MAX: Final = 1024 * 1024
STREAMS_MAX: Final = 1_000
MESSAGE_LENGTH_MAX: Final = 200
RETRY_AFTER_SECONDS_MAX: Final = 8
_SECONDS: Final = re.compile(r"[0-9]{1,6}", re.ASCII)
_REQUEST_ID: Final = re.compile(r"[0-9A-Za-z_-]{1,64}", re.ASCII)


class HttpPeerClient:
    """The :class:`bsfg.ports.PeerClient` over HTTP; one a peer, for all its links. ``close`` it in the end."""

    def __init__(
        self,
        endpoint: PeerEndpoint,
        access: Access,
        clock: Clock,
        limits: ClientLimits | None = None,
        resolver: NameResolver | None = None,
    ) -> None:
        self._endpoint = endpoint
        self._connection = PeerConnection(endpoint, access, clock, limits, resolver)

    async def close(self) -> None:
        """Nothing of it stays open."""
        await self._connection.close()

    async def health(self) -> dict[str, Any]:
        """Who the peer says it is and how it is: ``zone, identity, status, version, protocol, time``.

        Beside the errors of :class:`bsfg.ports.PeerClient`: ``identity_rejected`` if it names another zone or identity.
        """
        body = _json(await self._ask(Question(method="GET", path="/health")))
        shown = _health(body)
        said, wanted = (shown["zone"], shown["identity"]), (self._endpoint.peer, self._endpoint.rule.identity)
        if said != wanted:
            raise BsfgError(
                Code.IDENTITY_REJECTED,
                f"peer {wanted[0]} calls itself zone {printable(said[0])} with identity {printable(said[1])},"
                f" and not {wanted[1]}",
                hint="zone and identity in its zone.yaml must be id and identity of its entry in peers.yaml",
                side="us",
                reason="health_mismatch",
            )
        return shown

    async def streams(self) -> list[dict[str, Any]]:
        """What the peer lets us read, by its own word."""
        question = Question(method="GET", path="/v1/streams", accepts={JSON_TYPE: STREAMS_BYTES_MAX})
        rows = _json(await self._ask(question))
        if not isinstance(rows, list) or len(rows) > STREAMS_MAX:
            raise bad_answer(f"it is not a list of at most {STREAMS_MAX} streams")
        return [_stream_row(row) for row in rows]

    async def fetch(self, request: FetchRequest) -> Page:
        """One page, already held against the request and the limits of the contract."""
        frame_bytes = frame_bytes_max(request.limits)
        accepts = {
            BINARY_TYPE: _travelling_max(request, frame_bytes),
            JSON_TYPE: frame_bytes * JSON_GROWTH_MAX,
        }
        answer = await self._ask(_fetch_question(request, 1, accepts))
        if answer.content_type == BINARY_TYPE:
            frame = inflate(answer.body, frame_bytes) if answer.encoding == ZSTD else answer.body
            return decode(frame, request)[0]
        if answer.encoding != IDENTITY:
            raise bad_answer("it is a compressed page for people, and those never are")
        return decode_json(answer.body, request)

    async def pages(self, request: FetchRequest, count: int) -> AsyncGenerator[Page, None]:
        """See ``ports.PeerClient.pages``."""
        limits, frame_bytes = request.limits, frame_bytes_max(request.limits)
        inflating, reading = InflatingReader(frame_bytes), _PagesOfOneAnswer(request, count)

        async def next_frame(content: aiohttp.StreamReader, encoding: str) -> bytes | None:
            if encoding == ZSTD:
                return await inflating.next_frame(content)
            header = await _exactly(content, FRAME_HEADER_BYTES)
            return None if header is None else await _rest(content, header, body_bytes(header, limits))

        question = _fetch_question(request, count, {BINARY_TYPE: frame_bytes * count})
        framing = Framing(FRAME_HEADER_BYTES, lambda header: body_bytes(header, limits))
        async with aclosing(self._connection.parts(question, framing, next_frame, reading.page)) as parts:
            async for part in parts:
                if isinstance(part, Answer):
                    raise refusal(part, f"peer {self._endpoint.peer} refuses POST /v1/fetch")
                yield part
        if reading.came == 0:
            raise bad_answer("it has no page")

    async def confirm(self, stream: StreamName, cursor: Cursor) -> int:
        """The peer knows that everything up to the cursor's fact is durable here; returns what it has confirmed."""
        if cursor.sequence is None or cursor.digest is None:
            raise BsfgError(Code.INVALID_REQUEST, f"stream {stream} has no fact yet that could be confirmed")
        body = confirm_body(stream, cursor.epoch, cursor.sequence, cursor.digest)
        fields = _json(await self._ask(Question(method="POST", path="/v1/confirm", body=body)))
        confirmed = _whole(_fields(fields), "confirmed")
        if confirmed < cursor.sequence:
            raise bad_answer(f"it confirms {confirmed}, less than {cursor.sequence}")
        return confirmed

    async def digests(self, call: DigestCall) -> DigestAnswer:
        """See ``ports.DigestSource.digests``."""
        question = Question(
            method="POST",
            path="/v1/digests",
            body=digests_body(call),
            accepts={JSON_TYPE: DIGESTS_BYTES_MAX},
            wait_seconds=DIGESTS_WAIT_SECONDS,
        )
        return parse_digest_answer(call, _fields(_json(await self._ask(question))))

    async def notify(self, stream: StreamName, head: int) -> None:
        """See ``ports.PeerClient.notify``."""
        question = Question(method="POST", path="/v1/notify", body=notify_body(stream, head))
        answer = await self._connection.ask(question)
        if answer.status != NO_CONTENT:
            raise refusal(answer, f"peer {self._endpoint.peer} refuses POST {question.path}")

    async def view(self) -> dict[str, Any]:
        """See ``ports.PeerClient.view``."""
        question = Question(method="GET", path="/v1/view", accepts={JSON_TYPE: VIEW_BYTES_MAX})
        return parse_view(_json(await self._ask(question)))

    async def _ask(self, question: Question) -> Answer:
        answer = await self._connection.ask(question)
        if answer.status == 200:
            return answer
        raise refusal(answer, f"peer {self._endpoint.peer} refuses {question.method} {question.path}")


class _PagesOfOneAnswer:
    """Each is held against the request and the one before."""

    def __init__(self, request: FetchRequest, count: int) -> None:
        self.came = 0
        self._request = request
        self._count = count

    def page(self, frame: bytes | memoryview) -> Page:
        self.came += 1
        if self.came > self._count:
            raise bad_answer(f"it has more than the {self._count} pages that were asked for")
        page = decode(frame, self._request)[0]
        self._request = following(self._request, page)
        return page


def _travelling_max(request: FetchRequest, frame_bytes: int) -> int:
    return compressed_bytes_max(frame_bytes) if request.is_compressible else frame_bytes


def _fetch_question(request: FetchRequest, pages: int, accepts: Mapping[str, int]) -> Question:
    return Question(
        method="POST",
        path="/v1/fetch",
        body=fetch_body(request, pages),
        accepts=accepts,
        wait_seconds=request.limits.wait_seconds,
        encoding=ZSTD if request.is_compressible else IDENTITY,
    )


async def _exactly(content: aiohttp.StreamReader, count: int) -> bytes | None:
    """The next bytes; None where the answer has ended before them, ``ClientPayloadError`` where it ends in them."""
    try:
        return await content.readexactly(count)
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise cut_short() from error
        return None


async def _rest(content: aiohttp.StreamReader, header: bytes, count: int) -> bytes:
    """The header and what follows it, joined once: a page is large."""
    parts = [header]
    while count:
        part = await content.read(count)
        if not part:
            raise cut_short()
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def _json(answer: Answer) -> Any:
    try:
        return strict_json(answer.body)
    except ValueError as error:
        raise bad_answer(f"it is not JSON: {printable(str(error))}") from error


def refusal(answer: Answer, what: str) -> BsfgError:
    """The peer's own error; ``bad_answer`` if it has none of the contract's shape."""
    try:
        fields = _fields(_fields(strict_json(answer.body)).get("error"))
    except (ValueError, BsfgError):
        return bad_answer(f"status {answer.status} without the contract's error")
    label = fields.get("code")
    code = Code.from_label(label) if isinstance(label, str) else Code.INTERNAL
    message = f"{what}: {printable(str(fields.get('message', '')), MESSAGE_LENGTH_MAX)}"
    if code not in CODES_TO_PEERS:
        code = Code.INTERNAL
    return PeerRefused(code, message, **_details(fields, answer))


def _details(fields: dict[str, Any], answer: Answer) -> dict[str, Any]:
    """What of a peer's details is understood; the rest is dropped."""
    details: dict[str, Any] = {"status": answer.status}
    for name in ("from", "to", "head"):
        if type(fields.get(name)) is int and 0 <= fields[name] <= SEQUENCE_MAX:
            details[name] = fields[name]
    for name, pattern in (("request_id", _REQUEST_ID), ("epoch", EPOCH_PATTERN)):
        if isinstance(fields.get(name), str) and pattern.fullmatch(fields[name]):
            details[name] = fields[name]
    if answer.retry_after is not None and _SECONDS.fullmatch(answer.retry_after):
        details["retry_after_seconds"] = min(int(answer.retry_after), RETRY_AFTER_SECONDS_MAX)
    return details


def _health(body: Any) -> dict[str, Any]:
    fields = _fields(body)
    shown: dict[str, Any] = {name: _text(fields, name) for name in ("zone", "identity", "status", "version")}
    if shown["status"] not in ("ok", "degraded"):
        raise bad_answer(f"its status is {printable(shown['status'])}")
    protocol = fields.get("protocol")
    if not isinstance(protocol, list) or not set(PROTOCOL_VERSIONS) & {v for v in protocol if type(v) is int}:
        raise bad_answer(f"it speaks none of the protocol versions {list(PROTOCOL_VERSIONS)}")
    shown["protocol"] = [version for version in protocol if type(version) is int]
    shown["time"] = _time(fields, "time")
    return shown


def _stream_row(row: Any) -> dict[str, Any]:
    fields = _fields(row)
    try:
        stream = parse_stream(_text(fields, "stream"))
    except BsfgError as error:
        raise bad_answer(error.message) from error
    epoch = _text(fields, "epoch")
    if not EPOCH_PATTERN.fullmatch(epoch):
        raise bad_answer(f"epoch {printable(epoch)} is malformed")
    return {
        "stream": stream,
        "epoch": epoch,
        "first_sequence": _whole(fields, "first_sequence"),
        "last_sequence": _whole(fields, "last_sequence"),
        "first_time": None if fields.get("first_time") is None else _time(fields, "first_time"),
        "last_time": None if fields.get("last_time") is None else _time(fields, "last_time"),
    }


def _fields(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise bad_answer("it is not a JSON object")
    return value


def _text(fields: dict[str, Any], name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str) or len(value) > MESSAGE_LENGTH_MAX or not value.isprintable():
        raise bad_answer(f"its {name} is not a line of text")
    return value


def _whole(fields: dict[str, Any], name: str) -> int:
    value = fields.get(name)
    if type(value) is not int or not 0 <= value <= SEQUENCE_MAX:
        raise bad_answer(f"its {name} is not a sequence")
    return value


def _time(fields: dict[str, Any], name: str) -> str:
    text = _text(fields, name)
    try:
        parse_time(text)
    except ValueError as error:
        raise bad_answer(f"its {name} is {error}") from error
    return text
