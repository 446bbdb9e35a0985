"""A zone's store with its three ports, in memory or in a real nats-server, and what may happen to it from outside."""

from __future__ import annotations

import asyncio
import json
import secrets
import shutil
import time
from pathlib import Path
from typing import Any, Protocol

from bsfg.model.cursor import LinkName
from bsfg.model.names import BUCKET_LINKS, StreamName, ZoneId, inbound_physical, link_key, physical, subjects
from bsfg.ports import Confirmations, ExportedLog, InboundLog
from bsfg.substrates.begun_links import BegunLinks
from bsfg.substrates.control import Control
from bsfg.substrates.generations import JetStreamGenerations
from bsfg.substrates.jetstream import JetStreamConfirmations, JetStreamExportedLog, JetStreamInboundLog
from bsfg.substrates.memory import MemoryZone
from bsfg.substrates.memory_generations import MemoryGenerations
from bsfg.substrates.memory_stream import raw_header
from bsfg.substrates.nats_connection import NatsConnection, NatsTarget
from bsfg.substrates.state_bucket import StateBucket

ZONE = ZoneId("plant-a")
PEER = ZoneId("enterprise")
STREAM = StreamName("facts.operational")
LINK = LinkName(PEER, STREAM)
LOCAL = physical(STREAM)
INBOUND = inbound_physical(PEER, STREAM, 1)
SUBJECT = f"in.{PEER}.{STREAM}.g1"


ANCHOR = "anchor"
"""A stream that stays: a server without any removes the folder of all, even while the next one is made in it."""


class SystemClock:
    """Real time."""

    def now(self) -> int:
        return time.time_ns()

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class Store(Protocol):
    """The ports under test, and the hands of producers, operators and other tools."""

    exported: ExportedLog
    inbound: InboundLog
    generations: MemoryGenerations | JetStreamGenerations
    confirmations: Confirmations
    began: list[tuple[StreamName, str | None, str, str]]
    problems: list[str]

    async def create(self, stream: StreamName) -> None: ...

    async def put(self, name: str, subject: str, block: bytes = b"", payload: bytes = b"") -> int: ...

    async def delete(self, name: str, sequence: int) -> None: ...

    async def purge(self, name: str, below: int | None = None) -> None: ...

    async def limit(self, name: str, max_bytes: int) -> None: ...

    async def drop(self, name: str) -> None: ...

    async def recreate(self, name: str) -> None: ...

    async def set_record(self, link: LinkName, value: bytes) -> None: ...

    async def delete_record(self, link: LinkName) -> None: ...

    async def lose_record(self, link: LinkName) -> None:
        """As if it never was."""


class MemoryStore:
    """The in-memory twin."""

    def __init__(self) -> None:
        self.began: list[tuple[StreamName, str | None, str, str]] = []
        self.problems: list[str] = []
        self.zone = MemoryZone(
            SystemClock(), epoch_began=lambda *words: self.began.append(words), report=self.problems.append
        )
        self.exported = self.inbound = self.confirmations = self.zone
        self.generations = MemoryGenerations(self.zone)

    async def create(self, stream: StreamName) -> None:
        self.zone.create(stream)

    async def put(self, name: str, subject: str, block: bytes = b"", payload: bytes = b"") -> int:
        return self.zone.put(name, subject, raw_header(block), payload)

    async def delete(self, name: str, sequence: int) -> None:
        self.zone.delete(name, sequence)

    async def purge(self, name: str, below: int | None = None) -> None:
        self.zone.purge(name, below)

    async def limit(self, name: str, max_bytes: int) -> None:
        self.zone.limit(name, max_bytes)

    async def drop(self, name: str) -> None:
        self.zone.drop(name)

    async def recreate(self, name: str) -> None:
        self.zone.recreate(name)

    async def set_record(self, link: LinkName, value: bytes) -> None:
        self.zone.records[link] = value

    async def delete_record(self, link: LinkName) -> None:
        self.zone.records.pop(link, None)

    async def lose_record(self, link: LinkName) -> None:
        self.zone.forget_record(link)


class JetStreamStore:
    """The real adapter, against a real server."""

    def __init__(self, target: NatsTarget, directory: Path, control: Control, hand: NatsConnection) -> None:
        self._streams = directory / "store" / "jetstream" / "$G" / "streams"
        self.began: list[tuple[StreamName, str | None, str, str]] = []
        self.problems: list[str] = []
        self.control = control
        self._hand = hand

        async def connect() -> NatsConnection:
            return await NatsConnection.connect(target, name="test")

        self.exported = JetStreamExportedLog(
            control, connect, durability=lambda: "strict", epoch_began=lambda *words: self.began.append(words)
        )
        begun = BegunLinks(directory / f"links-{secrets.token_hex(8)}", self.problems.append)
        self.inbound = JetStreamInboundLog(
            control, connect, ZONE, replicas=1, report=self.problems.append, begun=begun
        )
        self.confirmations = JetStreamConfirmations(control, replicas=1, report=self.problems.append)
        self.generations = JetStreamGenerations(
            control, connect, self.inbound, replicas=1, report=self.problems.append
        )

    async def open(self) -> None:
        await self.control.api(f"STREAM.CREATE.{ANCHOR}", {"name": ANCHOR})

    async def close(self) -> None:
        self.exported.close()
        self.inbound.close()
        names = (await self.control.api("STREAM.NAMES")).get("streams") or []
        for name in names:
            if name != ANCHOR:
                await self.drop(name)

    async def create(self, stream: StreamName) -> None:
        config = {"name": physical(stream), "subjects": subjects(stream), "allow_direct": True, "discard": "new"}
        await self.control.api(f"STREAM.CREATE.{physical(stream)}", config)

    async def put(self, name: str, subject: str, block: bytes = b"", payload: bytes = b"") -> int:
        frame = await self._hand.request(subject, payload, headers=block)
        answer: dict[str, Any] = json.loads(frame.payload)
        assert answer["stream"] == name, answer
        return int(answer["seq"])

    async def delete(self, name: str, sequence: int) -> None:
        await self.control.api(f"STREAM.MSG.DELETE.{name}", {"seq": sequence})

    async def purge(self, name: str, below: int | None = None) -> None:
        await self.control.api(f"STREAM.PURGE.{name}", {} if below is None else {"seq": below})

    async def limit(self, name: str, max_bytes: int) -> None:
        config = (await self.control.api(f"STREAM.INFO.{name}"))["config"]
        await self.control.api(f"STREAM.UPDATE.{name}", config | {"max_bytes": max_bytes})

    async def drop(self, name: str) -> None:
        await self.control.api(f"STREAM.DELETE.{name}")
        # The server (2.15.1, measured) removes the files after it has answered, and may leave some that it was just
        # writing: a stream of that name that is created then begins with the old messages.
        while (self._streams / name).exists():
            shutil.rmtree(self._streams / name, ignore_errors=True)
            await asyncio.sleep(0.002)

    async def recreate(self, name: str) -> None:
        config = (await self.control.api(f"STREAM.INFO.{name}"))["config"]
        await self.drop(name)
        await self.control.api(f"STREAM.CREATE.{name}", config)

    async def set_record(self, link: LinkName, value: bytes) -> None:
        await self._hand.request(f"$KV.{BUCKET_LINKS}.{link_key(link.peer, link.stream)}", value)

    async def delete_record(self, link: LinkName) -> None:
        key = f"$KV.{BUCKET_LINKS}.{link_key(link.peer, link.stream)}"
        await self._hand.request(key, headers=b"KV-Operation: DEL\r\n")

    async def lose_record(self, link: LinkName) -> None:
        await StateBucket(self.control, BUCKET_LINKS, replicas=1).erase(link_key(link.peer, link.stream))


