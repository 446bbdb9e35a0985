"""The embedded nats-server of a zone: one on its store, outliving its gateway, watched and restarted (decision 11)."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from bsfg.core.backoff import Backoff
from bsfg.errors import BsfgError, SubstrateUnavailable
from bsfg.model.names import StreamName, ZoneId
from bsfg.substrates.embedded_configuration import PORT_DEFAULT
from bsfg.substrates.embedded_launch import EmbeddedPaths, ServerEnded, ServerLauncher
from bsfg.substrates.embedded_process import find_program
from bsfg.substrates.server_version import format_version

START_SECONDS: Final = 10.0
CRASH_WINDOW_SECONDS: Final = 60.0
CRASHES_MAX: Final = 5
CANCEL_SECONDS: Final = 0.5
_BACKOFF: Final = Backoff(delay_seconds_min=0.2, delay_seconds_max=8.0)


class EmbeddedState(StrEnum):
    """What the embedded server is doing, for health."""

    STARTING = "starting"
    RUNNING = "running"
    RESTARTING = "restarting"
    CRASH_LOOPING = "crash_looping"
    STOPPED = "stopped"
    FAILED = "failed"


class ServerTakesLong(SubstrateUnavailable):
    """The server is not ready within the deadline, and goes on starting."""


def _unheard(*_: object) -> None:
    """An observer that does not care."""


@dataclass(frozen=True, slots=True)
class EmbeddedObserver:
    """Who wants to know; called in the event loop, and must neither block nor raise."""

    on_state: Callable[[EmbeddedState, str], None] = _unheard
    """The new state and its problem."""
    on_restart: Callable[[str], None] = _unheard
    """The server is ready again after this happened: connections to it are gone."""
    on_notice: Callable[[str], None] = _unheard
    """Worth a line in the log: an adoption, a version with known defects."""


class EmbeddedServer:
    """Supervises the one nats-server on a zone's store. To be used in one event loop."""

    def __init__(
        self,
        home: Path,
        zone: ZoneId,
        port: int | None,
        streams: Sequence[StreamName],
        *,
        durability_strict: bool = True,
        observer: EmbeddedObserver | None = None,
        program: Path | None = None,
    ) -> None:
        """``port`` None is 4222; ``program`` None is that of the installed wheel, ``configuration`` if missing."""
        self.paths: Final = EmbeddedPaths.of(home)
        self.port: Final = PORT_DEFAULT if port is None else port
        self._observer = observer or EmbeddedObserver()
        self._launcher = ServerLauncher(
            self.paths,
            zone,
            self.port,
            durability_strict,
            program or find_program(),
            self._observer.on_notice,
        )
        self._streams = tuple(streams)
        self._state = EmbeddedState.STOPPED
        self._problem = ""
        self._supervisor: asyncio.Task[None] | None = None
        self._outcome: asyncio.Future[None] | None = None
        self._reloading = asyncio.Lock()
        self._failures: deque[tuple[float, bool]] = deque(maxlen=64)
        self._asked = ""

    @property
    def url(self) -> str:
        """Where it listens; on loopback only."""
        return self._launcher.url

    @property
    def state(self) -> EmbeddedState:
        return self._state

    @property
    def problem(self) -> str:
        """Why it is not running, in one line; "" while it is."""
        return self._problem

    @property
    def pid(self) -> int | None:
        process = self._launcher.process
        return None if process is None or process.has_ended else process.pid

    @property
    def version(self) -> str | None:
        """The running server's version."""
        return None if self._launcher.version is None else format_version(self._launcher.version)

    async def start(self, *, keep_trying: bool = False) -> None:
        """Start the server or adopt the one that runs; it is ready, and supervised, on return.

        Raises ``configuration`` where an operator must act (a foreign lock, a seed that others can read, a store of
        a newer server), ``unavailable`` where the port is taken or the server ends or is not ready within 10 s. With
        ``keep_trying``, or when it only takes long (a large store after a crash), the attempts go on after the error
        and ``state`` follows them; else nothing is left behind.
        """
        outcome = self._expect()
        if self._supervisor is None:
            self._failures.clear()
            self._become(EmbeddedState.STARTING, "nats-server is starting")
            self._supervisor = asyncio.get_running_loop().create_task(self._supervise())
        try:
            await self._await_outcome(outcome)
        except ServerTakesLong:
            raise
        except BsfgError as error:
            if not keep_trying:
                await self._end_supervision()
                self._become(EmbeddedState.FAILED, error.message)
            raise

    async def stop(self) -> None:
        """End the server in order, by force after 8 s; it is gone, and the store unlocked, on return."""
        await self._end_supervision()
        process, self._launcher.process = self._launcher.process, None
        if process is not None:
            await process.terminate()
            process.release()
        self._become(EmbeddedState.STOPPED, "nats-server was stopped")

    async def detach(self) -> None:
        """Leave the server running for the next gateway, and supervise it no longer."""
        await self._end_supervision()
        process, self._launcher.process = self._launcher.process, None
        if process is not None:
            process.release()
        self._become(EmbeddedState.STOPPED, "nats-server was left running")

    async def restart(self, reason: str) -> None:
        """End the server and start it again, as a wedged JetStream needs (I28); it is ready on return.

        Raises ``unavailable`` if it is not ready in time; the attempts go on.
        """
        if self._supervisor is None:
            raise SubstrateUnavailable(f"cannot restart nats-server: {self._problem or 'it was not started'}")
        outcome = self._expect(again=True)
        process = self._launcher.process
        if process is not None and not process.has_ended:
            self._asked = reason
            await process.terminate()
        await self._await_outcome(outcome)

    async def apply_streams(self, streams: Sequence[StreamName]) -> None:
        """Local applications may publish to these streams, and to no others; checked with the server on return.

        Raises ``unavailable`` if the server does not run or does not take it; it then has them when it next starts.
        """
        async with self._reloading:
            self._streams = tuple(streams)
            process = self._launcher.process
            if self._supervisor is not None and process is not None and self._state is EmbeddedState.RUNNING:
                await self._launcher.reload(process, self._streams)
                return
        if self._supervisor is not None:
            await self._await_outcome(self._expect())

    async def _supervise(self) -> None:
        happened = ""
        try:
            while True:
                try:
                    await self._run_once(happened)
                except (BsfgError, OSError) as error:
                    happened = await self._recover(error)
        except Exception as error:
            self._become(EmbeddedState.FAILED, f"nats-server is not supervised any more: {error!r}")
            raise

    async def _run_once(self, happened: str) -> None:
        """Bring the server up and stay with it; raises ``ServerEnded`` when it ends."""
        streams = self._streams
        process = await self._launcher.obtain(streams)
        await self._launcher.wait_ready(process)
        async with self._reloading:
            if streams != self._streams:
                await self._launcher.reload(process, self._streams)
            self._become(EmbeddedState.RUNNING, "")
        self._settle(None)
        if happened:
            self._observer.on_restart(happened)
        await process.wait()
        raise self._launcher.ended(process)

    async def _recover(self, error: BsfgError | OSError) -> str:
        """Say what happened, and wait before the next attempt unless the end was asked for."""
        if self._asked:
            reason, self._asked = self._asked, ""
            self._become(EmbeddedState.RESTARTING, f"nats-server is restarting: {reason}")
            return reason
        failure = (
            error
            if isinstance(error, BsfgError)
            else SubstrateUnavailable(f"cannot start nats-server: {error}")
        )
        now = asyncio.get_running_loop().time()
        self._failures.append((now, isinstance(failure, ServerEnded)))
        recent = [ended for when, ended in self._failures if when > now - CRASH_WINDOW_SECONDS]
        looping = sum(recent) >= CRASHES_MAX
        self._become(EmbeddedState.CRASH_LOOPING if looping else EmbeddedState.RESTARTING, failure.message)
        self._settle(failure)
        await asyncio.sleep(_BACKOFF.delay(len(recent), random.random()))
        return failure.message

    async def _end_supervision(self) -> None:
        supervisor, self._supervisor = self._supervisor, None
        while supervisor is not None and not supervisor.done():
            # A library that is being awaited may swallow a cancellation (seen), and then it must be told again.
            supervisor.cancel()
            await asyncio.wait({supervisor}, timeout=CANCEL_SECONDS)
        self._asked = ""
        self._settle(SubstrateUnavailable("nats-server is not supervised any more"))

    def _become(self, state: EmbeddedState, problem: str) -> None:
        if (state, problem) != (self._state, self._problem):
            self._state, self._problem = state, problem
            self._observer.on_state(state, problem)

    def _expect(self, *, again: bool = False) -> asyncio.Future[None]:
        """What becomes of the present attempt, or of the next one if the server runs and must come up again."""
        if self._outcome is None or self._outcome.done():
            self._outcome = asyncio.get_running_loop().create_future()
        if self._state is EmbeddedState.RUNNING and not again:
            self._settle(None)
        return self._outcome

    def _settle(self, failure: BsfgError | None) -> None:
        if self._outcome is None or self._outcome.done():
            return
        if failure is None:
            self._outcome.set_result(None)
        else:
            self._outcome.set_exception(failure)
            # Nobody need wait for it: the state tells it, too.
            self._outcome.exception()

    async def _await_outcome(self, outcome: asyncio.Future[None]) -> None:
        waited_for: set[asyncio.Future[None]] = {outcome}
        if self._supervisor is not None:
            waited_for.add(self._supervisor)
        done, _ = await asyncio.wait(waited_for, timeout=START_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        if not done:
            raise ServerTakesLong(
                f"nats-server is not ready after {START_SECONDS:.0f} s",
                hint=f"it may be reading a large store; its log is {self.paths.log}",
            )
        for future in done:
            future.result()
