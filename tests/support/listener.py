"""A real TLS listener for tests: the acceptor with an aiohttp server that says who it takes the caller for."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
from aiohttp import web
from tests.support.patience import patience

from bsfg.errors import BsfgError
from bsfg.transport.acceptor import Acceptor, AcceptorLimits
from bsfg.transport.trust import TrustStore


@dataclass
class Listener:
    """What runs, what failed, and what was asked."""

    trust: TrustStore
    acceptor: Acceptor = field(init=False)
    failures: list[tuple[str, str, str]] = field(default_factory=list)
    requests: int = 0

    def failed(self, address: str, reason: str, detail: str) -> None:
        self.failures.append((address, reason, detail))

    async def who(self, request: web.Request) -> web.Response:
        self.requests += 1
        assert request.transport is not None
        der = request.transport.get_extra_info("ssl_object").getpeercert(binary_form=True)
        try:
            return web.json_response({"zone": self.trust.verify_caller(der, time.time_ns()).zone})
        except BsfgError as error:
            body = {"code": error.code.label, "reason": error.details["reason"]}
            return web.json_response(body, status=error.code.http_status)

    async def reason(self) -> str:
        """The reason of the next failure that is reported."""
        return (await self.failure())[1]

    async def failure(self) -> tuple[str, str, str]:
        """Address, reason and words of the next failure that is reported."""
        await eventually(lambda: bool(self.failures))
        return self.failures.pop(0)


async def eventually(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    """Returns as soon as the condition holds; fails when it does not within the time."""
    end = time.monotonic() + seconds * patience()
    while not condition():
        assert time.monotonic() < end, "it did not come about in time"
        await _a_moment()


async def _a_moment() -> None:
    await asyncio.sleep(0.01)


@asynccontextmanager
async def listening(
    trust: TrustStore, limits: AcceptorLimits | None = None, host: str = "127.0.0.1"
) -> AsyncIterator[Listener]:
    """A listener on a free port until the end of the block."""
    listener = Listener(trust)
    app = web.Application()
    app.router.add_get("/who", listener.who)
    runner = web.AppRunner(app, shutdown_timeout=1)
    await runner.setup()
    assert runner.server is not None
    listener.acceptor = Acceptor(
        runner.server, lambda: listener.trust.server_context(), listener.failed, limits
    )
    await listener.acceptor.start(host, 0)
    try:
        yield listener
    finally:
        await listener.acceptor.stop()
        listener.acceptor.close_all()
        await runner.cleanup()


async def ask(port: int, context: ssl.SSLContext, host: str = "127.0.0.1") -> dict[str, str]:
    """What the listener says to one request on a connection of its own."""
    timeout = aiohttp.ClientTimeout(total=5)
    connector = aiohttp.TCPConnector(ssl=context, force_close=True)
    async with (
        aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
        session.get(f"https://{host}:{port}/who") as answer,
    ):
        said: dict[str, str] = await answer.json()
        return said
