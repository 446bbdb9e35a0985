"""Names what is wrong with the local store, and heals what can be healed without a human (I26, I28).

Measured with nats-server 2.15.1: a write that finds the disk full leaves that stream wedged. It answers questions and
refuses fences as ever, but stores nothing and acknowledges nothing, also when there is space again, until the server
is started anew; then all that was acknowledged is there. So: before the disk is full our own appends are refused,
with a definite error; and once a write is known to have failed and there is space, the embedded server is restarted.
A server that others run is named in health and in the log instead.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from structlog.typing import FilteringBoundLogger

from bsfg.daemon.audit import AuditLog
from bsfg.errors import BsfgError, Code, OutcomeUnknown, StoreFull, SubstrateUnavailable
from bsfg.model.cursor import Fence, LinkName, LinkRecord, LocalPosition
from bsfg.model.fact import Fact
from bsfg.ports import Clock, InboundLog

CHECK_SECONDS: Final = 1.0
LINKS_CHECK_SECONDS: Final = 5.0
"""A link is stalled after a minute; hundreds of links are not looked through every second for that."""
ANSWER_SECONDS: Final = 3.0
SILENT_SECONDS: Final = 5.0
"""How long the server may leave a question unanswered before health names it."""
RESTART_SECONDS_MIN: Final = 30.0
RESTART_SECONDS_MAX: Final = 480.0
"""The pause after a restart doubles from the first to the second while restarts don't help."""
HELPED_SECONDS: Final = 900.0
"""A restart that was followed by this much peace has helped."""
FAILED_APPENDS_MIN: Final = 3
FAILING_SECONDS: Final = 15.0
"""Appends to one stream that fail for this long, without one that succeeds, while the server answers, are a wedge."""
RESERVE_SHARE: Final = 0.05
RESERVE_BYTES_MIN: Final = 2 * 1024 * 1024
RESERVE_BYTES_MAX: Final = 256 * 1024 * 1024
EXHAUSTED_BYTES: Final = 256 * 1024
"""With less than this free, the server has met the end of the disk or may have."""
RESERVE_FILES: Final = 32
LOG_BYTES_MAX: Final = 256 * 1024
"""The most that is read of the server's log at once."""
_WRITE_ERROR: Final = re.compile(
    rb"\[ERR\] (?:Filestore \[[^\]]*\] Critical write error"
    rb"|JetStream stream '[^']*' critical write error"
    rb"|JetStream failed to store a msg on stream '[^']*': \w+ /)"
)
"""What the server says of a write that the file system refused; a limit of a stream is not said like this."""


@dataclass(frozen=True, slots=True)
class Space:
    """What is free where ``data/`` lies, at one moment."""

    free_bytes: int
    total_bytes: int
    free_files: int | None = None
    """None where the file system does not count files."""

    @classmethod
    def of(cls, path: Path) -> Space | None:
        """None if the file system can't be asked or has no size."""
        try:
            found = os.statvfs(path)
        except OSError:
            return None
        if not found.f_blocks:
            return None
        is_root = os.geteuid() == 0
        free, files = (found.f_bfree, found.f_ffree) if is_root else (found.f_bavail, found.f_favail)
        return cls(free * found.f_frsize, found.f_blocks * found.f_frsize, files if found.f_files else None)

    @property
    def reserve_bytes(self) -> int:
        """What our own appends leave free, so that the server never meets the end of the disk through us."""
        return max(RESERVE_BYTES_MIN, min(RESERVE_BYTES_MAX, int(self.total_bytes * RESERVE_SHARE)))

    @property
    def is_full(self) -> bool:
        return self.free_bytes < self.reserve_bytes or self._lacks_files

    @property
    def is_exhausted(self) -> bool:
        return self.free_bytes < EXHAUSTED_BYTES or self._lacks_files

    @property
    def _lacks_files(self) -> bool:
        return self.free_files is not None and self.free_files < RESERVE_FILES

    def __str__(self) -> str:
        if self._lacks_files:
            return f"{self.free_files} files may still be made"
        return f"{self.free_bytes / 2**20:.1f} MiB of {self.total_bytes / 2**20:.0f} MiB are free"


class WriteErrors:
    """Reads what an embedded server adds to its log, for the lines that say that a write failed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._position = self._size()

    def take(self) -> str:
        """The last such line since the last call; "" if there is none."""
        size = self._size()
        # A log that is shorter than it was has been rotated.
        start = max(self._position if self._position <= size else 0, size - LOG_BYTES_MAX)
        self._position = size
        if start == size:
            return ""
        with contextlib.suppress(OSError), self._path.open("rb") as file:
            file.seek(start)
            found = [line for line in file.read(size - start).splitlines() if _WRITE_ERROR.search(line)]
            return found[-1].decode("utf-8", "replace")[-400:].strip() if found else ""
        return ""

    def _size(self) -> int:
        try:
            return self._path.stat().st_size
        except OSError:
            return 0


class Restartable(Protocol):
    """The embedded server, as far as healing goes."""

    @property
    def pid(self) -> int | None: ...

    async def restart(self, reason: str) -> None: ...


@dataclass
class _Failing:
    """Appends to one stream that fail since a moment."""

    since: float
    count: int
    cause: str


@dataclass
class Healer:
    """Watches the local store; ``server`` is None where others run it, ``write_errors`` where its log is not ours."""

    data: Path
    clock: Clock
    journal: FilteringBoundLogger
    audit: AuditLog
    ask: Callable[[float], Awaitable[object]]
    """Asks the server anything, within the seconds given; raises ``BsfgError`` if it does not answer."""
    resume: Callable[[], None]
    """The store can be used again: let the links look."""
    stalled: Callable[[], Iterable[LinkName]]
    """The links whose step came to nothing for too long."""
    server: Restartable | None = None
    write_errors: WriteErrors | None = None
    space: Space | None = None
    _is_full: bool = False
    _silent_since: float | None = None
    _silence: str = ""
    _failing: dict[str, _Failing] = field(default_factory=dict)
    _wedge: str = ""
    _wedged_pid: int | None = None
    _is_wedge_told: bool = False
    _restarts: int = 0
    _restarted_at: float | None = None
    _stalled: frozenset[LinkName] = frozenset()
    _links_due: float = 0.0

    # What others see and say.

    def problems(self) -> list[str]:
        """Why health is degraded, as far as the store's own condition goes."""
        found = []
        if self._is_full:
            found.append(f"local_full: the disk of {self.data} is full: {self.space}; appends are refused")
        if self._is_silent:
            found.append(f"nats-server does not answer: {self._silence}")
        if self._wedge and not self._is_full:
            action = "it is restarted" if self.server is not None else "restart it, when its disk has space"
            found.append(f"nats-server does not store what is appended ({action}): {self._wedge}")
        return found

    def demand_room(self, operation: str) -> None:
        """Raise ``local_full`` while the disk is full: a definite refusal, of which nothing is stored."""
        space = Space.of(self.data)
        if space is not None and space.is_full:
            self._note_space(space)
            raise no_room(operation, self.data, space)

    @asynccontextmanager
    async def storing(self, operation: str, place: str) -> AsyncIterator[None]:
        """Around an append to the stream ``place``: refused while the disk is full, and its outcome is remembered."""
        self.demand_room(operation)
        try:
            yield
        except BsfgError as error:
            if may_be_wedged(error):
                self.append_failed(place, error.message)
            raise
        self.append_worked(place)

    # The watch.

    async def run(self) -> None:
        """Watch and heal until cancelled."""
        while True:
            await self.check()
            await self.clock.sleep(CHECK_SECONDS)

    async def check(self) -> None:
        """Look once at everything, and heal what is known to be wedged."""
        self._look_at_disk()
        self._look_at_log()
        self._look_at_links()
        answers = await self._asks()
        self._judge_failing(answers)
        if self._wedge and answers and not self._is_full:
            await self._heal()

    def _look_at_disk(self) -> None:
        space = Space.of(self.data)
        if space is not None:
            self._note_space(space)

    def _note_space(self, space: Space) -> None:
        was_full, self._is_full, self.space = self._is_full, space.is_full, space
        if space.is_exhausted and self.server is not None:
            self._suspect(f"the disk of {self.data} was full: {space}")
        if self._is_full and not was_full:
            self.journal.error("disk_full", message=f"the disk of {self.data} is full: {space}; appends are refused")
        elif was_full and not self._is_full:
            self.journal.info("disk_freed", message=f"the disk of {self.data} has space again: {space}")
            if not self._wedge:
                self.resume()

    def _look_at_log(self) -> None:
        said = self.write_errors.take() if self.write_errors is not None else ""
        if said:
            self._suspect(f"it said: {said}")

    def _look_at_links(self) -> None:
        now = self.clock.monotonic()
        if now < self._links_due:
            return
        self._links_due = now + LINKS_CHECK_SECONDS
        stalled = frozenset(self.stalled())
        for name in sorted(stalled - self._stalled, key=str):
            self.journal.error(
                "link_stalled",
                peer=name.peer,
                stream=name.stream,
                message=f"link {name} is stalled: for a minute it has neither moved nor been proven level",
            )
        self._stalled = stalled

    async def _asks(self) -> bool:
        """Whether the server answers; once it does again, the links need not wait for their own timers."""
        now = self.clock.monotonic()
        try:
            await self.ask(ANSWER_SECONDS)
        except BsfgError as error:
            self._silence = error.message
            if self._silent_since is None:
                self._silent_since = now
            return False
        was_silent, self._silent_since = self._silent_since is not None, None
        if was_silent:
            self.resume()
        return True

    @property
    def _is_silent(self) -> bool:
        return (
            self._silent_since is not None and self.clock.monotonic() - self._silent_since > SILENT_SECONDS
        )

    # Wedges.

    def append_failed(self, place: str, cause: str) -> None:
        """An append to the stream ``place`` failed as it does on a wedged stream."""
        failing = self._failing.setdefault(place, _Failing(self.clock.monotonic(), 0, ""))
        failing.count += 1
        failing.cause = cause

    def append_worked(self, place: str) -> None:
        """An append to the stream ``place`` was stored."""
        self._failing.pop(place, None)

    def _judge_failing(self, answers: bool) -> None:
        """Appends that keep failing though the server answers and there is space: it is wedged."""
        if not answers or self._is_full:
            # Then they fail for that reason, and are counted anew when it is gone.
            self._failing.clear()
            return
        now = self.clock.monotonic()
        for place, failing in self._failing.items():
            if failing.count >= FAILED_APPENDS_MIN and now - failing.since >= FAILING_SECONDS:
                self._suspect(f"{failing.count} appends to {place} failed in a row: {failing.cause}")
        if self.server is None and not self._failing:
            self._absolve()

    def _suspect(self, cause: str) -> None:
        self._wedge = self._wedge or cause
        if self.server is not None:
            self._wedged_pid = self.server.pid
        if self.server is None and not self._is_wedge_told:
            self._is_wedge_told = True
            self.journal.error(
                "substrate_wedged",
                message=f"the NATS server answers and does not store what is appended: {cause}; it needs a restart",
            )

    def _absolve(self) -> None:
        self._wedge, self._wedged_pid, self._is_wedge_told = "", None, False

    async def _heal(self) -> None:
        if self.server is None:
            return
        if self.server.pid != self._wedged_pid:
            # Another server runs by now; what the one before it had met is over.
            self._absolve()
            self._failing.clear()
            return
        if self._may_restart():
            await self._restart(self.server)

    def _may_restart(self) -> bool:
        if self._restarted_at is None:
            return True
        age = self.clock.monotonic() - self._restarted_at
        if age > HELPED_SECONDS:
            self._restarts = 0
        return age >= min(RESTART_SECONDS_MAX, RESTART_SECONDS_MIN * 2.0 ** max(0, self._restarts - 1))

    async def _restart(self, server: Restartable) -> None:
        cause = self._wedge
        self._restarts += 1
        self._restarted_at = self.clock.monotonic()
        # The audit log lies on the disk that was full: healing does not wait for it.
        with contextlib.suppress(BsfgError):
            self.audit.record("substrate.restart", "allowed", cause=cause)
        self.journal.warning("substrate_wedged", message=f"restarting nats-server, which stores nothing: {cause}")
        try:
            await server.restart("it did not store what was appended")
        except BsfgError as error:
            self.journal.error("substrate_lost", message=f"nats-server is not back yet: {error.message}")
            return
        if self.write_errors is not None:
            self.write_errors.take()
        self._absolve()
        self._failing.clear()
        self.journal.warning("substrate_healed", message=f"nats-server was restarted, because {cause}")
        self.resume()


def no_room(operation: str, data: Path, space: Space) -> StoreFull:
    """The definite refusal while the disk is full."""
    return StoreFull(
        f"{operation}: the disk of {data} is full: {space}",
        hint="free space there; nothing is dropped, and it goes on by itself",
    )


def may_be_wedged(error: BsfgError) -> bool:
    """Whether an append failed as it does on a wedged stream: without an answer, or for lack of space."""
    if isinstance(error, StoreFull):
        return "no space left" in error.message
    return isinstance(error, OutcomeUnknown | SubstrateUnavailable) or error.code is Code.TIMED_OUT


class AppendGuard(Protocol):
    """What stands around every append: the :class:`Healer`, or in a worker process what reports to it."""

    def storing(self, operation: str, place: str) -> AbstractAsyncContextManager[None]:
        """See :meth:`Healer.storing`."""


@dataclass
class HealedInboundLog:
    """``ports.InboundLog`` in front of another: refuses while the disk is full, and tells the healer what fails."""

    inner: InboundLog
    healer: AppendGuard

    async def provision(self, link: LinkName) -> None:
        """See ``ports.InboundLog.provision``."""
        await self.inner.provision(link)

    async def locate(self, link: LinkName) -> LocalPosition:
        """See ``ports.InboundLog.locate``."""
        return await self.inner.locate(link)

    async def append(self, link: LinkName, fence: Fence, epoch: str, facts: Sequence[Fact]) -> Fence:
        """See ``ports.InboundLog.append``."""
        async with self.healer.storing(f"appending to the inbound stream of {link}", f"link {link}"):
            return await self.inner.append(link, fence, epoch, facts)

    async def save_record(self, link: LinkName, record: LinkRecord, revision: int | None = None) -> int:
        """See ``ports.InboundLog.save_record``."""
        async with self.healer.storing(f"saving the record of {link}", f"the record of {link}"):
            return await self.inner.save_record(link, record, revision)
