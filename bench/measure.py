"""Watching the receiver's stream fill, and the arithmetic of one run."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

import nats
from nats.js import JetStreamContext
from nats.js.errors import NotFoundError

from bench.facts import payload
from bench.processes import Processes

FILL_TIMEOUT_SECONDS: Final = 180.0
POLL_SECONDS: Final = 0.01
SAMPLES: Final = 25


@dataclass(frozen=True)
class Run:
    """One transfer of all facts by one side."""

    facts: int
    seconds_to_first: float
    seconds_total: float
    cpu_seconds: float

    @property
    def facts_per_second(self) -> float:
        return self.facts / self.seconds_total

    @property
    def facts_per_second_once_started(self) -> float:
        return self.facts / max(self.seconds_total - self.seconds_to_first, POLL_SECONDS)

    @property
    def cpu_seconds_per_million(self) -> float:
        return self.cpu_seconds / self.facts * 1e6


def median(runs: list[Run], value: Callable[[Run], float]) -> float:
    return statistics.median(value(run) for run in runs)


async def transfer(
    url: str,
    stream: str,
    facts: int,
    start: Callable[[], Awaitable[None]],
    processes: Processes,
    seed: str | None = None,
) -> Run:
    """Start the transfer and wait until the receiver's stream holds all facts; fails if what arrived differs.

    The clock runs from the moment before ``start``, so whatever a side needs to get going counts against it.
    """
    client = await nats.connect(url, nkeys_seed_str=seed, allow_reconnect=False)
    try:
        jetstream = client.jetstream()
        cpu_before, began = processes.cpu_seconds(), time.monotonic()
        starting = asyncio.ensure_future(start())
        first, total = await _filled(jetstream, stream, facts, began)
        cpu_seconds = processes.cpu_seconds() - cpu_before
        await starting
        await _require_equal(jetstream, stream, facts)
        return Run(facts, first, total, cpu_seconds)
    finally:
        await client.close()


async def _filled(jetstream: JetStreamContext, stream: str, facts: int, began: float) -> tuple[float, float]:
    first: float | None = None
    while (elapsed := time.monotonic() - began) < FILL_TIMEOUT_SECONDS:
        count = await _messages(jetstream, stream)
        elapsed = time.monotonic() - began
        if count and first is None:
            first = elapsed
        if count >= facts:
            return first or elapsed, elapsed
        await asyncio.sleep(POLL_SECONDS)
    raise TimeoutError(f"{stream} holds {await _messages(jetstream, stream)} of {facts} facts after {elapsed:.0f} s")


async def _messages(jetstream: JetStreamContext, stream: str) -> int:
    try:
        return int((await jetstream.stream_info(stream)).state.messages)
    except NotFoundError:
        return 0


async def _require_equal(jetstream: JetStreamContext, stream: str, facts: int) -> None:
    """Exactly as many as were published, and a sample of them, the first and last included, byte for byte."""
    state = (await jetstream.stream_info(stream)).state
    if state.messages != facts:
        raise RuntimeError(f"{stream} holds {state.messages} facts, {facts} were published")
    for place in sorted({round(step * (facts - 1) / (SAMPLES - 1)) for step in range(SAMPLES)}):
        message = await jetstream.get_msg(stream, seq=state.first_seq + place)
        if message.data != payload(place):
            raise RuntimeError(f"{stream}: fact {place} differs from what was published")

