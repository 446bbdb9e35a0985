"""A zone's local appends over a real server, with their indexes in a folder."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.nats import NatsServer

from bsfg.model.names import StreamName
from bsfg.substrates.control import Control
from bsfg.substrates.exported_log import JetStreamExportedLog
from bsfg.substrates.index_follower import MessageIndexes
from bsfg.substrates.local_appends import LocalAppends
from bsfg.substrates.nats_connection import NatsConnection
from bsfg.substrates.new_facts import NewFact


@dataclass
class Edge:
    """What a gateway has at the producer's edge."""

    appends: LocalAppends
    indexes: MessageIndexes
    exported: JetStreamExportedLog
    folder: Path
    reports: list[str] = field(default_factory=list)

    async def append(self, stream: StreamName, *facts: NewFact) -> dict[str, int | None]:
        return await self.appends.append(stream, facts)


@asynccontextmanager
async def open_edge(server: NatsServer, control: Control, folder: Path) -> AsyncIterator[Edge]:
    async def connect() -> NatsConnection:
        return await NatsConnection.connect(server.target, name="test")

    reports: list[str] = []
    exported = JetStreamExportedLog(
        control, connect, durability=lambda: "lazy", epoch_began=lambda *_: None
    )
    indexes = MessageIndexes(folder, exported, connect, lambda _, text: reports.append(text))
    appends = LocalAppends(control, connect, exported, indexes)
    try:
        yield Edge(appends, indexes, exported, folder, reports)
    finally:
        await indexes.close()
        exported.close()


def new(
    payload: bytes, tail: str | None = "a", message_id: str | None = None, headers: list[tuple[str, str]] | None = None
) -> NewFact:
    return NewFact(tail, message_id, headers or [], payload)
