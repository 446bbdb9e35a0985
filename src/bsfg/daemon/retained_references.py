"""Which artifacts the facts that this zone still has refer to, in local streams and in all generations of inbound ones.

A page that was searched is not searched again: of each stream is kept where each name was seen last. So the first
search reads every fact, and a later one what has come since.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Final, Protocol

from bsfg.core.named_artifacts import named_uris
from bsfg.errors import BsfgError, Code
from bsfg.model.page import PageLimits

PAGE: Final = PageLimits(facts=2_000, bytes=4 * 1024 * 1024, wait_seconds=0.0)
KEY_BYTES: Final = 16
NOT_FACTS: Final = ("KV_", "OBJ_")
"""Streams of JetStream's own stores hold no facts."""

ReadMessages = Callable[[str, int, PageLimits], Awaitable[Sequence[Mapping[str, Any]]]]


class JetStreamApi(Protocol):
    """JetStream's own account of its streams."""

    async def api(self, verb: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]: ...


@dataclass
class _Searched:
    """How far one history of one stream was searched, and where each name was seen last."""

    created: str
    through: int = 0
    seen: dict[bytes, int] = field(default_factory=dict)


@dataclass
class RetainedReferences:
    """``read`` gives the messages of a stream from a local sequence on, at least one if there is one."""

    control: JetStreamApi
    read: ReadMessages
    _searched: dict[str, _Searched] = field(default_factory=dict)
    _one_at_a_time: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def all(self) -> References:
        """What the facts that were here when this was called refer to. Raises, and tells nothing, if one can't be read.

        A fact that was deleted from a stream's middle still counts: in doubt an artifact stays.
        """
        async with self._one_at_a_time:
            found = set()
            names = await self._streams()
            for name in names:
                found |= await self._search(name)
            self._searched = {name: self._searched[name] for name in names if name in self._searched}
            return References(frozenset(found))

    async def _streams(self) -> list[str]:
        names: list[str] = []
        while True:
            answer = await self.control.api("STREAM.NAMES", {"offset": len(names)})
            page = answer.get("streams") or []
            names += page
            if not page or len(names) >= answer["total"]:
                return [name for name in names if not name.startswith(NOT_FACTS)]

    async def _search(self, name: str) -> set[bytes]:
        try:
            found = await self.control.api(f"STREAM.INFO.{name}")
        except BsfgError as error:
            if error.code is Code.NOT_FOUND:
                return set()
            raise
        state = found["state"]
        searched = self._searched.get(name)
        if searched is None or searched.created != found["created"] or searched.through > state["last_seq"]:
            searched = self._searched[name] = _Searched(found["created"])
        while searched.through < state["last_seq"]:
            messages = await self.read(name, searched.through + 1, PAGE)
            if not messages:
                break
            for message in messages:
                for uri in named_uris(message["payload"], message["headers"]):
                    searched.seen[_key(uri)] = message["local_sequence"]
            searched.through = messages[-1]["local_sequence"]
        searched.seen = {key: seen for key, seen in searched.seen.items() if seen >= state["first_seq"]}
        return set(searched.seen)


@dataclass(frozen=True, slots=True)
class References:
    """The names that facts refer to."""

    keys: frozenset[bytes]

    def __contains__(self, uri: str) -> bool:
        return _key(uri) in self.keys


def _key(uri: str) -> bytes:
    return blake2b(uri.encode("utf-8", "surrogatepass"), digest_size=KEY_BYTES).digest()
