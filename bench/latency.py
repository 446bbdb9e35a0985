"""From publish at the source to delivery by a consumer of the target's stream, at a low rate."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import nats
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy

from bench.facts import INBOX, Connection, frame
from bench.pair import JetStreamPair

STREAM: Final = "facts.operational"
FACTS_PER_SECOND: Final = 100
WARM_UP_FACTS: Final = 50
"""Sent first and not counted."""
LATE_SECONDS_MAX: Final = 10.0
NUMBER_DIGITS: Final = 12


@dataclass(frozen=True)
class Latency:
    """Percentiles of one run, in milliseconds."""

    p50: float
    p99: float
    longest: float


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that this share of the values does not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


async def latency(pair: JetStreamPair, facts: int, size_bytes: int) -> Latency:
    """Publish at a steady rate and see when each fact is delivered; one clock, two plain connections."""
    await _consume_to_inbox(pair)
    seconds = await asyncio.to_thread(_send_and_receive, pair, facts + WARM_UP_FACTS, size_bytes)
    counted = [value * 1e3 for value in seconds[WARM_UP_FACTS:]]
    return Latency(percentile(counted, 0.5), percentile(counted, 0.99), max(counted))


async def _consume_to_inbox(pair: JetStreamPair) -> None:
    """A push consumer of the target's stream; it delivers once somebody listens."""
    client = await nats.connect(pair.target.url, nkeys_seed_str=pair.target.seed(), allow_reconnect=False)
    try:
        await client.jetstream().add_consumer(
            pair.target_stream(STREAM),
            ConsumerConfig(
                durable_name="bench-latency",
                deliver_subject=INBOX.decode(),
                ack_policy=AckPolicy.NONE,
                deliver_policy=DeliverPolicy.ALL,
                mem_storage=True,
            ),
        )
    finally:
        await client.close()


def _send_and_receive(pair: JetStreamPair, facts: int, size_bytes: int) -> list[float]:
    sent, received = [0.0] * facts, [0.0] * facts
    left = set(range(facts))

    def receive(until: float) -> None:
        while left and (seconds := until - time.monotonic()) > 0:
            contents = target.messages_within(seconds)
            now = time.monotonic()
            for content in contents:
                number = int(content[:NUMBER_DIGITS])
                received[number] = now
                left.discard(number)

    with Connection(pair.source) as source, Connection(pair.target) as target:
        began = time.monotonic()
        for number in range(facts):
            receive(began + number / FACTS_PER_SECOND)
            while (early := began + number / FACTS_PER_SECOND - time.monotonic()) > 0:
                time.sleep(early)
            content = frame(STREAM, number, size_bytes)
            sent[number] = time.monotonic()
            source.send(content)
        receive(time.monotonic() + LATE_SECONDS_MAX)
    if left:
        raise TimeoutError(f"{len(left)} of {facts} facts did not arrive within {LATE_SECONDS_MAX:.0f} s")
    return [there - here for here, there in zip(sent, received, strict=True)]
