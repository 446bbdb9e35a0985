"""What local producers append through the local API: facts as JSON in one call, or lines without end."""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

import msgspec
from structlog.typing import FilteringBoundLogger

from bsfg.config.values import StreamConfig
from bsfg.daemon.input_lines import InputLines, Line
from bsfg.errors import BsfgError, Code
from bsfg.model.fact import PAYLOAD_BYTES_MAX
from bsfg.model.names import StreamName, physical
from bsfg.substrates.control import Control
from bsfg.substrates.local_appends import AppendSession, LocalAppends
from bsfg.substrates.new_facts import NewFact, Outgoing, prepare, subject_of

ENVELOPE_BYTES_MAX: Final = 8 * 1024 * 1024
"""The most that one line with an envelope may hold: a payload of 1 MiB, every byte of it escaped."""
FILLING: Final = 0.8
FILLING_OVER: Final = 0.75
"""Below this a stream that was filling may be warned of again."""
FILL_SECONDS: Final = 5.0

_ENVELOPE_FIELDS: Final = frozenset({"subject", "message_id", "headers", "data", "data_base64"})


class Envelope(msgspec.Struct, forbid_unknown_fields=True):
    """One line of ``--envelope``, or one fact of a call."""

    subject: str | None = None
    message_id: str | None = None
    headers: list[tuple[str, str]] | None = None
    data: str | None = None
    data_base64: str | None = None


_ENVELOPE: Final = msgspec.json.Decoder(Envelope)


class AppendService:
    """Appends for the local API, and the watch on how full the streams are."""

    def __init__(
        self,
        appends: LocalAppends,
        control: Control,
        journal: FilteringBoundLogger,
        streams: Callable[[], Sequence[StreamConfig]],
    ) -> None:
        self._appends = appends
        self._control = control
        self._journal = journal
        self._streams = streams
        self._warned: set[StreamName] = set()

    async def append(self, stream: StreamName, facts: list[dict[str, Any]]) -> dict[str, Any]:
        """Append the facts of one call; nothing is sent where one of them can't be (see ``LocalAppends.append``)."""
        new = [_from_json(number, fact) for number, fact in enumerate(facts, start=1)]
        return dict(await self._appends.append(stream, new))

    async def append_lines(
        self,
        stream: StreamName,
        pieces: AsyncIterator[bytes],
        *,
        subject: str | None,
        is_envelope: bool,
        storing: Callable[[], AbstractAsyncContextManager[None]],
    ) -> dict[str, Any]:
        """Append every line, in order, as its bytes or as the envelope that it is; durable on return.

        An error names its lines; those before it are appended and in its ``details``, and nothing behind it is. Where
        the producer pauses, what has come is appended without waiting for more. Each page is appended within
        ``storing``.
        """
        if is_envelope and subject:
            raise BsfgError(Code.INVALID_REQUEST, "append: with envelopes each line has its own subject")
        published = subject_of(stream, subject, "append")
        line_bytes_max = ENVELOPE_BYTES_MAX if is_envelope else PAYLOAD_BYTES_MAX
        try:
            async with self._appends.session(stream) as session, InputLines(pieces, line_bytes_max) as lines:
                while (page := await lines.take(session.in_flight)) is not None:
                    async with storing():
                        if not page:
                            await session.settle()
                        elif is_envelope:
                            await _append_envelopes(session, stream, page)
                        else:
                            await session.append([Outgoing(number, published, b"", line) for number, line in page])
        except BsfgError as error:
            _name_lines(error)
            raise
        return dict(session.result)

    async def watch_fill(self) -> None:
        """Warn, once each time, of a stream that comes near its limit; until cancelled."""
        while True:
            for config in self._streams():
                if config.max_bytes is not None:
                    await self._look(config.name, config.max_bytes)
            await asyncio.sleep(FILL_SECONDS)

    async def _look(self, stream: StreamName, bytes_max: int) -> None:
        try:
            found = await self._control.api(f"STREAM.INFO.{physical(stream)}")
        except BsfgError:
            return
        ratio = found["state"]["bytes"] / bytes_max
        if ratio >= FILLING and stream not in self._warned:
            self._warned.add(stream)
            self._journal.warning(
                "store_filling",
                stream=stream,
                message=f"stream {stream} holds {ratio:.0%} of its max_bytes; when it is full, appends are refused",
            )
        elif ratio < FILLING_OVER:
            self._warned.discard(stream)


async def _append_envelopes(session: AppendSession, stream: StreamName, page: list[Line]) -> None:
    """The envelopes of a page, as far as they are good."""
    outgoing: list[Outgoing] = []
    try:
        for number, line in page:
            outgoing.append(_from_envelope(stream, number, line))
    except BsfgError:
        await session.append(outgoing)
        raise
    await session.append(outgoing)


def _from_envelope(stream: StreamName, number: int, line: bytes) -> Outgoing:
    where = f"line {number}"
    try:
        envelope = _ENVELOPE.decode(line)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        raise _bad_envelope(where, str(error), number) from None
    try:
        fact = NewFact(envelope.subject, envelope.message_id, envelope.headers or (), _payload(envelope, where))
        return prepare(stream, fact, number, where)
    except BsfgError as error:
        error.details["lines"] = [number, number]
        raise


def _bad_envelope(where: str, said: str, number: int) -> BsfgError:
    if "unknown field" in said:
        return BsfgError(
            Code.UNKNOWN_FIELD,
            f"{where}: not an envelope: {said}",
            hint="the fields are subject, message_id, headers, and data or data_base64",
            lines=[number, number],
        )
    return BsfgError(Code.INVALID_REQUEST, f"{where}: not an envelope: {said}", lines=[number, number])


def _payload(envelope: Envelope, where: str) -> bytes:
    if (envelope.data is None) == (envelope.data_base64 is None):
        raise BsfgError(Code.INVALID_REQUEST, f"{where}: it needs data or data_base64, and not both")
    try:
        if envelope.data is not None:
            return envelope.data.encode()
        return base64.b64decode(str(envelope.data_base64), validate=True)
    except UnicodeEncodeError:
        raise BsfgError(Code.INVALID_REQUEST, f"{where}: data is not Unicode text; use data_base64") from None
    except (binascii.Error, ValueError) as error:
        raise BsfgError(Code.INVALID_REQUEST, f"{where}: data_base64 is not base64: {error}") from None


def _from_json(number: int, fact: dict[str, Any]) -> NewFact:
    where = f"append: fact {number}"
    unknown = sorted(set(fact) - _ENVELOPE_FIELDS)
    if unknown:
        raise BsfgError(Code.UNKNOWN_FIELD, f"{where}: unknown field {unknown[0]!a}", index=number)
    try:
        envelope = msgspec.convert(fact, Envelope)
        payload = _payload(envelope, where)
    except msgspec.ValidationError as error:
        raise BsfgError(Code.INVALID_REQUEST, f"{where}: {error}", index=number) from None
    except BsfgError as error:
        error.details["index"] = number
        raise
    return NewFact(envelope.subject, envelope.message_id, envelope.headers or (), payload)


def _name_lines(error: BsfgError) -> None:
    """An error of appending that speaks of facts by their numbers speaks of lines."""
    numbers = error.details.pop("facts", None)
    if numbers is not None:
        first, last = error.details["lines"] = numbers
        place = f"line {first}" if first == last else f"lines {first}-{last}"
        error.message = f"{place}: {error.message}"
