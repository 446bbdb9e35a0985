"""A stream and a link of a drill's own, both in this zone's store: made, used and removed by the drill.

The sender's rules, the state machine, its driver and the store are those of every link; only the network between them
is left out, so that a drill can make histories that don't fit without touching anybody's.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from bsfg.core.conversation import Event
from bsfg.core.link_state import Link, LinkSettings
from bsfg.daemon.driver import LinkDriver
from bsfg.daemon.gateway import Gateway
from bsfg.daemon.stream_operations import LocalStore
from bsfg.errors import BsfgError, Code, PeerRefused
from bsfg.model.cursor import Cursor, LinkName, LinkState, parse_init_mode
from bsfg.model.names import StreamName, ZoneId, inbound_physical, physical
from bsfg.model.page import FetchRequest, Page, PageLimits
from bsfg.model.policy import ReadStream
from bsfg.ports import Confirmed, ExportedLog
from bsfg.substrates.stream_configs import StreamSpec, local_config
from bsfg.tasks import end_tasks
from bsfg.transport.fetch_service import FetchService
from bsfg.transport.wire import ConfirmCall

STATE_SECONDS_MAX: Final = 20.0
POLL_WAIT_SECONDS: Final = 0.5
GENERATION: Final = 1


@dataclass
class _Caller:
    """The drill, as the sender's rules see it."""

    peer: ZoneId
    streams: frozenset[StreamName]

    def demand(self, wish: ReadStream) -> None:
        """It reads its own stream and no other."""
        if wish.stream not in self.streams:
            raise BsfgError(Code.STREAM_DENIED, f"a drill does not read {wish.stream}")

    async def changed(self) -> None:
        await asyncio.Event().wait()


class _Confirmations:
    """``ports.Confirmations`` for as long as the drill takes."""

    def __init__(self) -> None:
        self._confirmed: dict[tuple[ZoneId, StreamName], Confirmed] = {}

    async def load(self, peer: ZoneId, stream: StreamName) -> Confirmed | None:
        return self._confirmed.get((peer, stream))

    async def save(self, peer: ZoneId, stream: StreamName, confirmed: Confirmed) -> None:
        self._confirmed[(peer, stream)] = confirmed


@dataclass
class _LoopbackClient:
    """``ports.PageSource`` that is this zone's own store."""

    service: FetchService
    caller: _Caller

    async def fetch(self, request: FetchRequest) -> Page:
        try:
            return await self.service.fetch(self.caller, request)
        except BsfgError as error:
            raise PeerRefused(error.code, error.message, **error.details) from error

    async def pages(self, request: FetchRequest, count: int) -> AsyncGenerator[Page, None]:
        yield await self.fetch(request)

    async def confirm(self, stream: StreamName, cursor: Cursor) -> int:
        assert cursor.sequence is not None
        assert cursor.digest is not None
        call = ConfirmCall(stream, cursor.epoch, cursor.sequence, cursor.digest)
        return await self.service.confirm(self.caller, call)


class _Silent:
    """``LinkObserver`` of a link that is nobody's: it is in no log and no metric."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *words: None


@dataclass
class ScratchLink:
    """A scratch stream, and the link that reads it."""

    gateway: Gateway
    store: LocalStore
    log: ExportedLog
    stream: StreamName
    driver: LinkDriver | None = None
    _driving: asyncio.Task[None] | None = field(default=None)

    @property
    def name(self) -> LinkName:
        return LinkName(self.gateway.configuration.zone.zone, self.stream)

    @property
    def inbound(self) -> str:
        return inbound_physical(self.name.peer, self.stream, GENERATION)

    async def make_stream(self) -> None:
        """The stream exists, empty, with a history of its own."""
        control = self.store.control
        config = local_config(
            StreamSpec(self.stream),
            self.name.peer,
            self.store.replicas,
            atomic=control.has_batches,
        )
        await control.api(f"STREAM.CREATE.{config['name']}", config)
        await self.log.describe(self.stream)

    async def drop_stream(self) -> None:
        await _deleted(self.store, physical(self.stream))

    async def purge_below(self, sequence: int) -> None:
        """Facts below this sequence are gone, as by retention."""
        await self.store.control.api(f"STREAM.PURGE.{physical(self.stream)}", {"seq": sequence})

    async def append(self, count: int) -> int:
        """So many facts; the last sequence."""
        facts = [
            {"subject": "test", "data": f'{{"test": "drill", "number": {number}}}'} for number in range(count)
        ]
        return int((await self.store.appends.append(self.stream, facts))["last_sequence"])

    async def start(self) -> None:
        """The link runs, from what is durable."""
        parts, means = self.gateway.parts, self.gateway.parts.generations.means
        service = FetchService(self.log, _Confirmations(), parts.clock)
        client = _LoopbackClient(service, _Caller(self.name.peer, frozenset({self.stream})))
        settings = LinkSettings(
            parse_init_mode("full_backfill"), limits=PageLimits(wait_seconds=POLL_WAIT_SECONDS)
        )
        await means.inbound.provision(self.name)
        self.driver = LinkDriver(
            Link(self.name, settings),
            client,
            means.inbound,
            means.quarantine,
            parts.clock,
            _Silent(),
        )
        self._driving = asyncio.create_task(self.driver.run(), name=f"scratch link {self.name}")

    async def stop(self) -> None:
        if self._driving is not None:
            await end_tasks(self._driving)
            self._driving = None

    def tell(self, event: Event) -> None:
        assert self.driver is not None
        self.driver.tell(event)

    async def reaches(self, state: LinkState, through: int = 0) -> bool:
        """Wait until the link is in this state and has scanned so far; False if that does not come in time."""
        assert self.driver is not None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STATE_SECONDS_MAX):
                while True:
                    cursor = self.driver.link.cursor
                    if self.driver.state is state and (cursor is None or cursor.scanned_through >= through):
                        return True
                    await self.driver.changed()
        return False

    async def held(self) -> dict[str, Any]:
        """What the inbound stream holds."""
        found = await self.store.control.api(f"STREAM.INFO.{self.inbound}")
        state = found["state"]
        return {
            "created": found["created"],
            "messages": state["messages"],
            "first_sequence": state["first_seq"],
            "last_sequence": state["last_seq"],
        }


@asynccontextmanager
async def scratch_link(
    gateway: Gateway, store: LocalStore, log: ExportedLog, stream: StreamName
) -> AsyncIterator[ScratchLink]:
    """A scratch link that is gone with all that it made at the end of the block."""
    link = ScratchLink(gateway, store, log, stream)
    try:
        await link.make_stream()
        yield link
    finally:
        await link.stop()
        await remove_scratch(gateway, store, stream)


async def remove_scratch(gateway: Gateway, store: LocalStore, stream: StreamName) -> None:
    """Nothing of the scratch stream and its link is left; what is gone already is gone."""
    name = LinkName(gateway.configuration.zone.zone, stream)
    await _deleted(store, physical(stream))
    await _deleted(store, inbound_physical(name.peer, stream, GENERATION))
    await gateway.parts.generations.store.forget(name)


async def _deleted(store: LocalStore, jetstream: str) -> None:
    try:
        await store.control.api(f"STREAM.DELETE.{jetstream}")
    except BsfgError as error:
        if error.code is not Code.NOT_FOUND:
            raise
