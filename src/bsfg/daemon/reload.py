"""Takes a changed configuration: when its files have settled, on SIGHUP, and when an operator asks (I45)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from bsfg.config.values import Configuration
from bsfg.config.watch import ChangeWatch
from bsfg.daemon.gateway import Gateway, changed_files
from bsfg.errors import BsfgError
from bsfg.ports import Clock

POLL_SECONDS: Final = 0.5


@dataclass
class Reloader:
    """One reload at a time."""

    gateway: Gateway
    load: Callable[[], Configuration]
    watch: ChangeWatch
    clock: Clock
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def reload(self) -> dict[str, Any]:
        """Load and run what is on disk; raises ConfigurationError, and then the running configuration stays."""
        async with self._lock:
            before = self.gateway.configuration
            self.watch.accept()
            try:
                configuration = await asyncio.to_thread(self.load)
                await self.gateway.take(configuration)
            except BsfgError as error:
                self.gateway.reject(error)
                raise
            if configuration.trust_files() != before.trust_files():
                self.watch.accept(configuration.trust_files())
            return {"reloaded": True, "changed": changed_files(before, configuration)}

    async def run(self) -> None:
        """Poll the files until cancelled; a change that does not load is reported and waits for the next one."""
        while True:
            await asyncio.sleep(POLL_SECONDS)
            if self.watch.poll(self.clock.monotonic()):
                await self.reload_quietly()

    async def reload_quietly(self) -> None:
        """As :meth:`reload`; an error is in the log, the audit and health already."""
        try:
            await self.reload()
        except BsfgError:
            return
