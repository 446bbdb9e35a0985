"""The local streams as a peer is let to see them: in time, while it is allowed, and absent like denied (I31, I34)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Final, Protocol, TypeVar

from bsfg.errors import BsfgError, Code, SubstrateUnavailable
from bsfg.model.names import StreamName, ZoneId
from bsfg.model.page import LogDescription, LogSlice, PageLimits
from bsfg.model.policy import ReadStream
from bsfg.ports import ExportedLog
from bsfg.transport.access import stream_denied

STORE_SECONDS_MAX: Final = 3.0
"""How long the local store may take, beyond the wait that was asked for."""

_T = TypeVar("_T")


class Caller(Protocol):
    """The peer behind one request, whose permission can end at any moment."""

    @property
    def peer(self) -> ZoneId: ...

    @property
    def streams(self) -> frozenset[StreamName]:
        """The streams that the caller may read now."""

    def demand(self, wish: ReadStream) -> None:
        """Raises the contract's refusal unless the caller is verified, served and allowed this right now."""

    async def changed(self) -> None:
        """Returns once the access may no longer be the one that the last demand saw."""


class NotHere(BsfgError):
    """An allowed stream does not exist; to the peer this is the same as a denied one."""

    def __init__(self, stream: StreamName) -> None:
        denied = stream_denied(stream)
        super().__init__(denied.code, denied.message, hint=denied.hint, **denied.details)


async def describe(log: ExportedLog, stream: StreamName) -> LogDescription:
    """The log now; :class:`NotHere` where it does not exist."""
    try:
        return await in_time(log.describe(stream))
    except BsfgError as error:
        if error.code is Code.NOT_FOUND:
            raise NotHere(stream) from error
        raise


async def read_while_allowed(
    log: ExportedLog, caller: Caller, stream: StreamName, after: int, limits: PageLimits
) -> LogSlice:
    """The read, given up at once when a change of the access takes the permission away (I34)."""
    wish = ReadStream(stream)
    async with _WhileAllowed(caller, wish):
        seen = await in_time(log.read(stream, after, limits), limits.wait_seconds + STORE_SECONDS_MAX)
    caller.demand(wish)
    return seen


async def in_time(answer: Awaitable[_T], seconds: float = STORE_SECONDS_MAX) -> _T:
    """The answer, or ``unavailable`` where the store does not give it in time."""
    try:
        async with asyncio.timeout(seconds):
            return await answer
    except TimeoutError as error:
        raise SubstrateUnavailable(f"the local store did not answer within {seconds:.0f} s") from error


class _WhileAllowed:
    """What is awaited inside ends with the refusal as soon as there is one.

    The task itself waits inside, as under ``asyncio.timeout``: what it waits for reaches it in one turn of the loop.
    """

    def __init__(self, caller: Caller, wish: ReadStream) -> None:
        self._caller = caller
        self._wish = wish
        self._refusal: BaseException | None = None
        self._inside: tuple[asyncio.Task[object], asyncio.Task[None]] | None = None
        """The task that waits, and the watch beside it."""

    async def __aenter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._cancelled_before = task.cancelling()
        watch = asyncio.create_task(self._watch_access())
        watch.add_done_callback(self._end)
        self._inside = task, watch

    async def __aexit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        assert self._inside is not None
        task, watch = self._inside
        # The watch's cancellation refers to us by its traceback: what refers back to it, or to a task whose result is
        # a page, would keep that until the next collection.
        self._inside = None
        watch.cancel()
        if self._refusal is not None and task.uncancel() <= self._cancelled_before:
            raise self._refusal

    async def _watch_access(self) -> None:
        while True:
            await self._caller.changed()
            self._caller.demand(self._wish)

    def _end(self, watch: asyncio.Task[None]) -> None:
        refusal = None if watch.cancelled() else watch.exception()
        # A watch can end in the very turn in which what it watched has ended; then the task is elsewhere by now.
        if refusal is not None and self._inside is not None:
            self._refusal = refusal
            self._inside[0].cancel()
