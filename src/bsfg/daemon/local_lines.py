"""Answers of the local API that are streams of JSON lines."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Final

from aiohttp import web

from bsfg.daemon.local_requests import Answer
from bsfg.errors import BsfgError
from bsfg.tasks import end_tasks

HEARTBEAT_SECONDS: Final = 10.0
"""Within this time a stream of lines says something, be it an empty line."""
OPENING_SECONDS: Final = 1.0
"""How long an error may take to become an answer of its own rather than the last line of a stream."""
READER_PAUSE_SECONDS_MAX: Final = 3600.0
"""How long a reader of lines may stop reading; a person with a pager does."""


async def answer_lines(request: web.Request, facts: AsyncGenerator[Answer, None]) -> web.StreamResponse:
    """Facts as JSON, one a line; an error before the first line is an answer of its own, a later one the last line."""
    lines = _Lines(request)
    tasks = [asyncio.create_task(_send_all(lines, facts)), asyncio.create_task(_keep_alive(lines))]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    except BsfgError as error:
        if not lines.response.prepared:
            raise
        await lines.write(error.as_json())
    except ConnectionError:
        pass  # The reader has left, which is how most of them end.
    finally:
        await end_tasks(*tasks)
        await facts.aclose()
    return lines.response


async def _send_all(lines: _Lines, facts: AsyncGenerator[Answer, None]) -> None:
    async for fact in facts:
        await lines.write(fact)
    await lines.open()


async def _keep_alive(lines: _Lines) -> None:
    await asyncio.sleep(OPENING_SECONDS)
    while True:
        await lines.write(None)
        await asyncio.sleep(HEARTBEAT_SECONDS)


class _Lines:
    """A response of JSON lines that two tasks write to; it is opened by the first line."""

    def __init__(self, request: web.Request) -> None:
        self.response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        self._request = request
        self._turn = asyncio.Lock()

    async def open(self) -> None:
        async with self._turn:
            await self._open()

    async def write(self, line: Answer | None) -> None:
        """Send one line, an empty one for None; raises ConnectionError where nobody reads any more."""
        encoded = b"\n" if line is None else json.dumps(line).encode() + b"\n"
        async with self._turn:
            await self._open()
            try:
                async with asyncio.timeout(READER_PAUSE_SECONDS_MAX):
                    await self.response.write(encoded)
            except TimeoutError:
                raise ConnectionAbortedError("the reader of the lines has stopped reading") from None

    async def _open(self) -> None:
        if not self.response.prepared:
            await self.response.prepare(self._request)
