"""Keeps the local store provisioned, and says when it is away (I27)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final, Protocol

from structlog.typing import FilteringBoundLogger

from bsfg.errors import BsfgError

PROBE_SECONDS: Final = 1.0
RETRY_SECONDS: Final = 2.0


class Connection(Protocol):
    """The control connection: whether it is up, and if not, why."""

    @property
    def connected(self) -> bool: ...

    @property
    def problem(self) -> str | None: ...

    @property
    def connections(self) -> int:
        """How many there have been."""


@dataclass
class StoreKeeper:
    """Provisions after each (re)connection and on request; wakes the links when the store is back."""

    connection: Connection
    provision: Callable[[], Awaitable[None]]
    came_back: Callable[[], None]
    journal: FilteringBoundLogger
    problem: str | None = "not provisioned yet"
    is_ready: bool = False
    _first: asyncio.Event = field(default_factory=asyncio.Event)
    _again: asyncio.Event = field(default_factory=asyncio.Event)
    _seen_connections: int = 0

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            self._note_loss()
            if not self.connection.connected:
                # A request waits for the connection: it stays set, so that waiting for it would never let others run.
                await asyncio.sleep(RETRY_SECONDS / 4)
                continue
            if not self.is_ready or self._again.is_set():
                await self._provision()
            try:
                async with asyncio.timeout(PROBE_SECONDS if self.is_ready else RETRY_SECONDS / 4):
                    await self._again.wait()
            except TimeoutError:
                continue

    async def wait_first(self, timeout_seconds: float) -> bool:
        """Whether the store was provisioned once within the time."""
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._first.wait()
        except TimeoutError:
            return False
        return True

    def provision_soon(self) -> None:
        """The configuration changed."""
        self._again.set()

    def _note_loss(self) -> None:
        if not self.connection.connected:
            if self.is_ready:
                self.journal.error(
                    "substrate_lost", message=f"the local store is away: {self.connection.problem}"
                )
            self.is_ready = False
            self.problem = self.connection.problem
        elif self.connection.connections != self._seen_connections:
            # It broke and came back between two looks; the server may be another one, or have lost its tail.
            self._seen_connections, self.is_ready = self.connection.connections, False

    async def _provision(self) -> None:
        self._again.clear()
        try:
            await self.provision()
        except BsfgError as error:
            self.problem = error.message
            await asyncio.sleep(RETRY_SECONDS)
            self._again.set()
            return
        was_ready, self.is_ready, self.problem = self.is_ready, True, None
        if not was_ready:
            if self._first.is_set():
                self.journal.info("substrate_back", message="the local store answers again")
            self._first.set()
            self.came_back()
