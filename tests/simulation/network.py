"""The line between the zones as a model that misbehaves, with the real sender's rules at its far end."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from bsfg.errors import BsfgError, Code, PeerRefused, PeerUnreachable
from bsfg.model.cursor import Cursor
from bsfg.model.names import StreamName, ZoneId
from bsfg.model.page import FetchRequest, Page
from bsfg.model.policy import ReadStream
from bsfg.transport.fetch_service import FetchService
from bsfg.transport.page_check import validate_page
from bsfg.transport.page_codec import continued
from bsfg.transport.wire import ConfirmCall, FetchCall

if TYPE_CHECKING:
    from tests.simulation.gateway import Gateway
    from tests.simulation.world import World

SILENCE_SECONDS: Final = 10.0
"""How long a gateway waits for an answer beyond the wait that it asked for."""
CONNECT_SECONDS: Final = 3.0


class Caller:
    """The receiver as the sender's rules see it; what it may do can change."""

    def __init__(self, peer: ZoneId, stream: StreamName) -> None:
        self.peer = peer
        self.streams = frozenset({stream})
        self.refusal: Code | None = None
        self._changed = asyncio.Event()

    def allow(self, refusal: Code | None) -> None:
        self.refusal = refusal
        self._changed.set()
        self._changed = asyncio.Event()

    def demand(self, wish: ReadStream) -> None:
        if self.refusal is not None:
            raise BsfgError(self.refusal, "the sender says no")

    async def changed(self) -> None:
        await self._changed.wait()


class Network:
    """What the line does to everybody's requests and answers."""

    def __init__(self) -> None:
        self.seconds = 0.02
        self.is_refused = False
        self.loses_requests = False
        self.loses_answers = False
        self.old_pages: deque[Page] = deque(maxlen=8)
        """Answers that some connection has carried before."""

    def heal(self) -> None:
        self.seconds = 0.02
        self.is_refused = self.loses_requests = self.loses_answers = False


class Line:
    """One gateway's ``ports.PeerClient``: as ``transport/client.py``, it holds each page against its request."""

    def __init__(self, world: World, gateway: Gateway) -> None:
        self.world = world
        self.gateway = gateway
        self.network = world.network
        self.faults = world.line_faults

    @property
    def service(self) -> FetchService:
        return self.world.service

    async def health(self) -> dict[str, Any]:
        return {}

    async def streams(self) -> list[dict[str, Any]]:
        return []

    async def notify(self, stream: StreamName, head: int) -> None:
        """The receiver exports nothing."""

    async def fetch(self, request: FetchRequest) -> Page:
        pages = [page async for page in self.pages(request, 1)]
        return pages[0]

    async def pages(self, request: FetchRequest, count: int) -> AsyncGenerator[Page, None]:
        await self.gateway.step("fetch sent")
        fault = self.faults.take("answer_late", "answer_replayed", "answer_cut")
        deadline = self.world.loop.time() + request.limits.wait_seconds + SILENCE_SECONDS
        await self._there(deadline)
        answer = self.service.pages(self.world.caller, FetchCall(request, count), _as_it_is)
        async with contextlib.aclosing(answer):
            try:
                async for page in answer:
                    page = await self._back(page, fault, deadline)
                    yield validate_page(page, request)
                    request = replace(
                        request, start=None, after=continued(request.after, page), accept_gap=None
                    )
                    if fault == "answer_cut":
                        raise PeerUnreachable("the connection broke in the middle of an answer")
            except BsfgError as error:
                if isinstance(error, PeerUnreachable) or error.code is Code.BAD_ANSWER:
                    raise
                await self._home(deadline)
                raise PeerRefused(error.code, error.message, **error.details) from None

    async def _back(self, page: Page, fault: str | None, deadline: float) -> Page:
        if fault == "answer_late":
            await self._silence(deadline)
        await self._home(deadline)
        await self.gateway.step("page arrived")
        if fault == "answer_replayed" and self.network.old_pages:
            return self.world.random.choice(self.network.old_pages)
        self.network.old_pages.append(page)
        return page

    async def confirm(self, stream: StreamName, cursor: Cursor) -> int:
        await self.gateway.step("confirm sent")
        fault = self.faults.take("confirm_lost", "confirm_late", "confirm_doubled")
        deadline = self.world.loop.time() + SILENCE_SECONDS
        await self._there(deadline)
        if fault == "confirm_lost":
            await self._silence(deadline)
        assert cursor.sequence is not None and cursor.digest is not None
        call = ConfirmCall(stream, cursor.epoch, cursor.sequence, cursor.digest)
        if fault == "confirm_late":
            self.world.later(15.0, lambda: self.world.spawn(self._confirm_again(call)))
            await self._silence(deadline)
        if fault == "confirm_doubled":
            self.world.later(8.0, lambda: self.world.spawn(self._confirm_again(call)))
        try:
            confirmed = await asyncio.shield(self.world.spawn(self.service.confirm(self.world.caller, call)))
        except BsfgError as error:
            raise PeerRefused(error.code, error.message, **error.details) from None
        await self._home(deadline)
        await self.gateway.step("confirm answered")
        return confirmed

    async def _confirm_again(self, call: ConfirmCall) -> None:
        with contextlib.suppress(BsfgError):
            await self.service.confirm(self.world.caller, call)

    async def _there(self, deadline: float) -> None:
        if self.network.is_refused or not self.world.sender_is_up:
            await asyncio.sleep(0.01)
            raise PeerUnreachable("the connection is refused")
        if self.network.loses_requests:
            await asyncio.sleep(CONNECT_SECONDS)
            raise PeerUnreachable("the peer does not answer")
        await asyncio.sleep(self.network.seconds * (0.5 + self.world.random.random()))

    async def _home(self, deadline: float) -> None:
        if self.network.loses_answers:
            await self._silence(deadline)
        if not self.world.sender_is_up:
            raise PeerUnreachable("the connection broke")
        await asyncio.sleep(self.network.seconds * (0.5 + self.world.random.random()))
        if self.world.loop.time() > deadline:
            raise PeerUnreachable("the peer was silent for too long")

    async def _silence(self, deadline: float) -> None:
        await asyncio.sleep(max(0.0, deadline - self.world.loop.time()))
        raise PeerUnreachable("the peer was silent for too long")


async def _as_it_is(page: Page) -> Page:
    return page
