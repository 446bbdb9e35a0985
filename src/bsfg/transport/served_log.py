"""The local streams as a peer is let to see them: in time, while it is allowed, and absent like denied (I31, I34)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, Final, Protocol, TypeVar

from bsfg.errors import BsfgError, Code, SubstrateUnavailable
from bsfg.model.names import StreamName, ZoneId
from bsfg.model.page import LogDescription, LogSlice, PageLimits
from bsfg.model.policy import ReadStream
from bsfg.ports import ExportedLog
from bsfg.tasks import end_tasks
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
    reading = asyncio.ensure_future(log.read(stream, after, limits))
    seconds = limits.wait_seconds + STORE_SECONDS_MAX
    try:
        return await in_time(_while_allowed(reading, caller, ReadStream(stream)), seconds)
    finally:
        await end_tasks(reading)


async def in_time(answer: Awaitable[_T], seconds: float = STORE_SECONDS_MAX) -> _T:
    """The answer, or ``unavailable`` where the store does not give it in time."""
    try:
        async with asyncio.timeout(seconds):
            return await answer
    except TimeoutError as error:
        raise SubstrateUnavailable(f"the local store did not answer within {seconds:.0f} s") from error


async def _while_allowed(reading: asyncio.Future[_T], caller: Caller, wish: ReadStream) -> _T:
    while not reading.done():
        changing = asyncio.ensure_future(caller.changed())
        waited_for: set[asyncio.Future[Any]] = {reading, changing}
        try:
            await asyncio.wait(waited_for, return_when=asyncio.FIRST_COMPLETED)
        finally:
            changing.cancel()
        caller.demand(wish)
    return await reading
