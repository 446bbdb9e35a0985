"""The marks of all inbound streams by few questions, so that many links that rest cost the server next to nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, Final

import msgspec

from bsfg.errors import BsfgError, Code
from bsfg.model.cursor import Fence, LinkName, StreamMark
from bsfg.model.names import StreamName, ZoneId, inbound_physical
from bsfg.substrates.control import Control
from bsfg.substrates.jetstream_answers import refusal

STREAMS_MAX: Final = 100_000
"""More than a server holds; an answer that never ends is no answer."""
_SUBJECT: Final = re.compile(r"in\.([a-z][a-z0-9-]*)\.(.+)\.g([0-9]+)", re.ASCII)


class _State(msgspec.Struct):
    messages: int
    first_seq: int
    last_seq: int
    num_deleted: int = 0


class _Config(msgspec.Struct):
    name: str
    subjects: list[str] = []


class _Stream(msgspec.Struct):
    config: _Config
    created: str
    state: _State


class _Page(msgspec.Struct):
    """One answer to STREAM.LIST, which has at most 256 streams."""

    total: int = 0
    streams: list[_Stream] | None = None
    error: dict[str, Any] | None = None


class JetStreamInboundMarks:
    """``ports.InboundMarks`` over JetStream: one request for each 256 streams."""

    def __init__(self, control: Control) -> None:
        self._control = control

    async def marks(self) -> Mapping[LinkName, StreamMark]:
        """See ``ports.InboundMarks.marks``."""
        streams: list[_Stream] = []
        while len(streams) < STREAMS_MAX:
            page = await self._page(len(streams))
            streams += page.streams or ()
            if not page.streams or len(streams) >= page.total:
                break
        return marks_of(stream for stream in map(_marked, streams) if stream is not None)

    async def _page(self, offset: int) -> _Page:
        question = json.dumps({"subject": "in.>", "offset": offset}).encode()
        answer = await self._control.request("$JS.API.STREAM.LIST", question)
        try:
            page = msgspec.json.decode(answer.data, type=_Page)
        except msgspec.MsgspecError as error:
            raise BsfgError(Code.BAD_ANSWER, f"JetStream STREAM.LIST: {error}") from None
        if page.error is not None:
            raise refusal("STREAM.LIST", page.error)
        return page


def marks_of(generations: Iterable[tuple[LinkName, StreamMark]]) -> dict[LinkName, StreamMark]:
    """By link, without those that have several: which of them counts stands in the link's record."""
    found: dict[LinkName, StreamMark] = {}
    several: set[LinkName] = set()
    for link, mark in generations:
        if link in found:
            several.add(link)
        found[link] = mark
    return {link: mark for link, mark in found.items() if link not in several}


def _marked(stream: _Stream) -> tuple[LinkName, StreamMark] | None:
    """The link and the mark of an inbound stream; None for any other."""
    subjects = stream.config.subjects
    named = _named(stream.config.name, subjects[0]) if subjects else None
    if named is None:
        return None
    link, generation = named
    state = stream.state
    fence = Fence(generation, stream.created, state.last_seq)
    return link, StreamMark(fence, state.first_seq, state.messages, state.num_deleted)


@lru_cache(maxsize=4096)
def _named(physical: str, subject: str) -> tuple[LinkName, int] | None:
    """The link and the generation of an inbound stream of this name and subject; None for any other."""
    parts = _SUBJECT.fullmatch(subject)
    if parts is None:
        return None
    link, generation = LinkName(ZoneId(parts[1]), StreamName(parts[2])), int(parts[3])
    return (link, generation) if physical == inbound_physical(link.peer, link.stream, generation) else None
