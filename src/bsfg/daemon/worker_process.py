"""One worker process as its gateway sees it: started, watched, and started again when it ends or does not answer."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from structlog.typing import FilteringBoundLogger

from bsfg.core.backoff import Backoff
from bsfg.core.conversation import Event
from bsfg.daemon.journal import place_of
from bsfg.daemon.worker_channel import Channel
from bsfg.daemon.worker_words import Answer, Ask, Beat, Beginning, Orders, Report, Snapshot, Stop, Taken
from bsfg.errors import BsfgError, Code
from bsfg.model.cursor import LinkName
from bsfg.ports import Clock
from bsfg.tasks import end_tasks
from bsfg.transport.trust import TrustStore

TICK_SECONDS: Final = 0.5
SILENT_TICKS_MAX: Final = 10
STARTING_TICKS_MAX: Final = 120
"""A minute: on a machine that is very busy even a start takes long, and killing it would help nobody."""
ORDERS_TICKS_MAX: Final = 6
"""What was revoked must not be used for longer than five seconds (I34)."""
ASK_SECONDS: Final = 10.0
STOP_SECONDS: Final = 4.0
LAST_WORDS_SECONDS: Final = 1.0
STEADY_SECONDS: Final = 60.0
"""Having run for so long, a worker that ends is started again as soon as the first time."""
STDERR_BYTES_MAX: Final = 64 * 1024
CAUSE_CHARACTERS_MAX: Final = 300


class Owner(Protocol):
    """Who has the workers."""

    def beginning(self, index: int) -> Beginning: ...

    def orders(self, index: int, number: int, known: TrustStore | None) -> tuple[Orders, TrustStore]:
        """What the worker is to do now, and the trust that this lets it know."""

    def described(self, index: int) -> str:
        """What the worker runs, for the log."""

    def heard(self, index: int, report: Report) -> None: ...

    def lost(self, index: int, cause: str) -> None:
        """The worker is gone; nothing of what it ran runs any more."""


@dataclass(frozen=True, slots=True)
class Program:
    """How a worker process is started; its end of the channel is a descriptor, named as the last argument."""

    command: Sequence[str]
    environment: Callable[[bool], Mapping[str, str]]
    """For the first start, and for every other. Nothing secret is in it."""
    held: tuple[int, ...] = ()
    """Descriptors that stay open as long as the worker lives."""


@dataclass
class WorkerProcess:
    """One worker; :meth:`run` keeps it alive. ``problem`` says why it does not run, if it should."""

    index: int
    program: Program
    owner: Owner
    clock: Clock
    journal: FilteringBoundLogger
    backoff: Backoff = field(default_factory=Backoff)
    problem: str | None = None
    _process: asyncio.subprocess.Process | None = None
    _channel: Channel | None = None
    _is_up: bool = False
    _is_stopping: bool = False
    _starts: int = 0
    _verdict: str = ""
    """Why we ended it, if we did."""
    _silent_ticks: int = 0
    _ordered: int = 0
    _taken: int = 0
    _orders_ticks: int = 0
    _known: TrustStore | None = None
    _asked: dict[int, asyncio.Future[Snapshot | None]] = field(default_factory=dict)
    _asks: int = 0
    _moved: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def title(self) -> str:
        return f"worker {self.index + 1}" + (f" (process {self._process.pid})" if self._process else "")

    # What the gateway says.

    def order(self) -> None:
        """Let the worker know what it is to do now; one that does not take it within three seconds is ended."""
        self._ordered += 1
        if self._channel is not None:
            orders, self._known = self.owner.orders(self.index, self._ordered, self._known)
            self.send(orders)

    def send(self, word: object) -> None:
        """Say something; lost if the worker is not there, and with it if it does not read."""
        if self._channel is None:
            return
        try:
            self._channel.send(word)
        except BsfgError as error:
            # It is hung, or this can't be said to it: either way it must not go on as if it knew.
            self._kill(f"was ended: {error.message}")

    async def caught_up(self, *, also_starting: bool) -> None:
        """Wait until every order was taken, or the worker is gone."""
        while self._process is not None and self._taken < self._ordered and (self._is_up or also_starting):
            await self._moved.wait()

    async def ask(self, name: LinkName, event: Event) -> Snapshot:
        """Tell a link something that counts; the link as it was just before. ``unavailable`` if it can't be told."""
        if self._channel is None:
            raise BsfgError(Code.UNAVAILABLE, f"link {name}: {self.problem or f'{self.title} is starting'}")
        self._asks += 1
        number = self._asks
        answer: asyncio.Future[Snapshot | None] = asyncio.get_running_loop().create_future()
        self._asked[number] = answer
        try:
            self.send(Ask(number, name, event))
            async with asyncio.timeout(ASK_SECONDS):
                found = await answer
        except TimeoutError:
            raise BsfgError(Code.UNAVAILABLE, f"link {name}: {self.title} does not answer") from None
        finally:
            self._asked.pop(number, None)
        if found is None:
            raise BsfgError(Code.UNAVAILABLE, f"link {name} does not run yet in {self.title}", hint="try again")
        return found

    # Its life.

    async def run(self) -> None:
        """Start it, attend to it, and start it again, until :meth:`stop`."""
        attempt = 0
        while True:
            began = self.clock.monotonic()
            cause = await self._live()
            if self._is_stopping:
                return
            attempt = 1 if self.clock.monotonic() - began > STEADY_SECONDS else attempt + 1
            self.problem = f"{cause}; it is started again"
            self.journal.error("worker_lost", message=self.problem)
            self._forget()
            self.owner.lost(self.index, self.problem)
            await self.clock.sleep(self.backoff.delay(attempt, random.random()))

    async def stop(self) -> None:
        """The worker has ended on return: in order if it can, by force if it must."""
        self._is_stopping = True
        process = self._process
        if process is None:
            return
        self.send(Stop())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_SECONDS):
                await process.wait()
        self._kill()
        await process.wait()

    async def _live(self) -> str:
        """One life of the process; why it ended."""
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                self._process = process = await asyncio.create_subprocess_exec(
                    *self.program.command,
                    str(theirs.fileno()),
                    pass_fds=(theirs.fileno(), *self.program.held),
                    env=dict(self.program.environment(self._starts == 0)),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.DEVNULL,
                    stderr=asyncio.subprocess.PIPE,
                )
        except OSError as error:
            ours.close()
            return f"worker {self.index + 1} can't be started: {error.strerror}"
        except BaseException:
            ours.close()
            raise
        self._starts, self._verdict = self._starts + 1, ""
        complaining = asyncio.create_task(_last_words(process))
        cause = ""
        try:
            self._channel = channel = await Channel.over(ours)
            self._is_up, self._known, self._taken, self._ordered = False, None, 0, 0
            self._silent_ticks = self._orders_ticks = 0
            self.send(self.owner.beginning(self.index))
            self.order()
            cause = await self._attend(channel)
        except Exception as error:
            # The gateway's side of a worker must outlive a fault of ours, or nobody would start it again.
            cause = f"can't be attended to: {error!r}{place_of(error)}"
        finally:
            title = self.title
            await self._bury(process)
            complaint = await complaining
        return f"{title} {cause or self._verdict or _ending(process.returncode, complaint)}"

    async def _attend(self, channel: Channel) -> str:
        """Until it is lost; why, or "" if it ended by itself."""
        tasks = [asyncio.create_task(self._listen(channel)), asyncio.create_task(self._watch())]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            return next(iter(done)).result()
        finally:
            await end_tasks(*tasks)

    async def _listen(self, channel: Channel) -> str:
        try:
            while (word := await channel.receive()) is not None:
                self._silent_ticks = 0
                self._hear(word)
        except BsfgError as error:
            return f"said what can't be understood: {error.message}"
        except Exception as error:
            return f"said what can't be taken: {error!r}"
        return ""

    def _hear(self, word: object) -> None:
        match word:
            case Taken(number=number):
                self._taken, self._orders_ticks = number, 0
                if not self._is_up:
                    self._is_up, self.problem = True, None
                    self.journal.info(
                        "worker_started", message=f"{self.title} runs {self.owner.described(self.index)}"
                    )
                self._tell()
            case Answer(number=number, snapshot=snapshot):
                answer = self._asked.get(number)
                if answer is not None and not answer.done():
                    answer.set_result(snapshot)
            case Report():
                self.owner.heard(self.index, word)

    async def _watch(self) -> str:
        """Ticks are counted rather than seconds: those in which our own loop did not run prove nothing."""
        while True:
            await asyncio.sleep(TICK_SECONDS)
            self.send(Beat())
            self._silent_ticks += 1
            if self._silent_ticks >= (SILENT_TICKS_MAX if self._is_up else STARTING_TICKS_MAX):
                return f"has not answered for {self._silent_ticks * TICK_SECONDS:.0f} s"
            if self._is_up and self._taken < self._ordered:
                self._orders_ticks += 1
                if self._orders_ticks >= ORDERS_TICKS_MAX:
                    return f"has not taken its orders within {ORDERS_TICKS_MAX * TICK_SECONDS:.0f} s"

    async def _bury(self, process: asyncio.subprocess.Process) -> None:
        """It is gone on return, and nothing is sent to it any more."""
        channel, self._channel = self._channel, None
        if channel is not None:
            await channel.close()
        if process.returncode is None and not self._is_stopping:
            with contextlib.suppress(TimeoutError):
                # One that ends by itself says more by its own status.
                async with asyncio.timeout(LAST_WORDS_SECONDS):
                    await process.wait()
        if not self._is_stopping:
            self._kill()
        await process.wait()
        self._process, self._is_up = None, False
        self._tell()

    def _kill(self, verdict: str = "") -> None:
        self._verdict = self._verdict or verdict
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    def _forget(self) -> None:
        for answer in self._asked.values():
            if not answer.done():
                answer.set_exception(BsfgError(Code.UNAVAILABLE, str(self.problem)))

    def _tell(self) -> None:
        self._moved.set()
        self._moved = asyncio.Event()


async def _last_words(process: asyncio.subprocess.Process) -> str:
    """The end of what the process writes to stderr, which is nothing while all is well."""
    assert process.stderr is not None
    kept = b""
    while piece := await process.stderr.read(STDERR_BYTES_MAX):
        kept = (kept + piece)[-STDERR_BYTES_MAX:]
    lines = kept.decode("utf-8", "backslashreplace").strip().splitlines()
    return lines[-1][-CAUSE_CHARACTERS_MAX:] if lines else ""


def _ending(status: int | None, complaint: str) -> str:
    if status is not None and status < 0:
        return f"was ended by {signal.Signals(-status).name}"
    return f"ended with status {status}" + (f": {complaint}" if complaint else "")
