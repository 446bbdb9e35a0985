"""Facts pour in while gateways and servers die: both zones hold the same, in order, once (I1, I2, I9, I10, I13)."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import nats
import nats.errors
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from tests.support.lab_zones import (
    ENTERPRISE,
    INBOUND_STREAM,
    OPERATIONAL,
    OPERATIONAL_STREAM,
    Lab,
    Zone,
    running_lab,
)
from tests.support.patience import patience

from bsfg.lab.stores import StoredMessage

WINDOW: Final = 2_000
"""Facts that the producer has unacknowledged at most."""
RESEND_SECONDS: Final = 1.5
WAVES_AHEAD: Final = 2
EARLY_KILLS: Final = 0.25
"""The share of kills that hit a gateway by time, mostly while it starts, instead of while facts pour in."""
EARLY_SECONDS_MAX: Final = 2.0
RUN_SECONDS_MAX: Final = 150.0
CATCH_UP_SECONDS_MAX: Final = 30.0
LOOK_SECONDS: Final = 0.004
_PREFIX: Final = f"in.{ENTERPRISE}.{OPERATIONAL}.g1"


@dataclass(frozen=True)
class Course:
    """How many facts, and how often a gateway and a nats-server is killed meanwhile."""

    facts: int
    gateway_kills: int
    server_kills: int

    def __str__(self) -> str:
        return f"{self.facts} facts"


COURSES: Final = (
    Course(20_000, gateway_kills=5, server_kills=2),
    pytest.param(Course(100_000, gateway_kills=20, server_kills=5), marks=pytest.mark.slow),
)


@dataclass
class Producer:
    """An application that publishes straight to NATS and keeps a ledger of what was acknowledged.

    A fact that is not acknowledged in time, as after a lost connection, is published again under its id.
    """

    client: Client
    seed: int
    facts: int
    may_reach: int = 0
    sent: int = 0
    ledger: dict[int, int] = field(default_factory=dict)
    repeated: int = 0
    _waiting: dict[int, float] = field(default_factory=dict)
    _inbox: str = ""
    _facts: dict[int, tuple[str, dict[str, str], bytes]] = field(default_factory=dict)

    def fact(self, number: int) -> tuple[str, dict[str, str], bytes]:
        """Subject, headers and payload: from nothing to a few kilobytes, text and bytes, with and without headers."""
        if number not in self._facts:
            kind = number % 10
            headers = {"Nats-Msg-Id": f"fact-{number}"}
            if kind in (3, 4):
                headers |= {"Line": f"packaging-{number % 7}", "Trace": f"{number:032x}"}
            tail = "" if kind == 0 else f".line{number % 7}.batch"
            chance = random.Random(self.seed + number)
            body = chance.randbytes(chance.choice((0, 64, 200, 512, 3_000))) if kind == 9 else b""
            payload = b"" if kind == 8 else f'{{"number":{number}}}'.encode() + body
            self._facts[number] = f"{OPERATIONAL}{tail}", headers, payload
        return self._facts[number]

    async def run(self) -> None:
        """Until every fact is acknowledged."""
        self._inbox = self.client.new_inbox()
        await self.client.subscribe(f"{self._inbox}.*", cb=self._heard, pending_msgs_limit=-1)
        while len(self.ledger) < self.facts:
            await self._send_new()
            await self._send_again()
            await asyncio.sleep(0.001)

    async def _send_new(self) -> None:
        while self.sent < min(self.may_reach, self.facts) and len(self._waiting) < WINDOW:
            await self._publish(self.sent)
            self.sent += 1

    async def _send_again(self) -> None:
        late = time.monotonic() - RESEND_SECONDS
        for number in [number for number, sent_at in self._waiting.items() if sent_at < late]:
            self.repeated += 1
            await self._publish(number)

    async def _publish(self, number: int) -> None:
        self._waiting[number] = time.monotonic()
        subject, headers, payload = self.fact(number)
        # What can't be sent now is sent again when it is late.
        with contextlib.suppress(nats.errors.Error, OSError):
            await self.client.publish(subject, payload, f"{self._inbox}.{number}", headers)

    async def _heard(self, message: Msg) -> None:
        answer = json.loads(message.data) if message.data else {}
        if answer.get("stream") == OPERATIONAL_STREAM and "error" not in answer:
            number = int(message.subject.rpartition(".")[2])
            known = self.ledger.setdefault(number, answer["seq"])
            assert known == answer["seq"], f"fact {number} was acknowledged at {known} and at {answer['seq']}"
            self._waiting.pop(number, None)


@asynccontextmanager
async def producing(zone: Zone, seed: int, facts: int) -> AsyncIterator[Producer]:
    """A producer with the rights of a local application, which comes back whenever its server does."""

    async def ignore(_error: Exception) -> None:
        """Its connection will break, that is the point."""

    client = await nats.connect(
        zone.place.nats,
        nkeys_seed=str(zone.place.nats_credentials),
        max_reconnect_attempts=-1,
        reconnect_time_wait=0.05,
        pending_size=16 * 1024 * 1024,
        error_cb=ignore,
    )
    try:
        yield Producer(client, seed, facts)
    finally:
        await client.close()


@dataclass
class Accidents:
    """What is killed, and when."""

    lab: Lab
    course: Course
    producer: Producer
    seed: int
    stored: Callable[[], Awaitable[int]]
    gateways_killed: list[int] = field(default_factory=list)
    """How many facts were in plant-a's stream at each kill of its gateway."""
    servers_killed: list[int] = field(default_factory=list)

    async def kill_gateways(self) -> None:
        """One kill in each stretch of the flow; the producer is let on only a little further than that."""
        plant, kills, chance = self.lab.plant, self.course.gateway_kills, random.Random(f"gateway {self.seed}")
        stretch = self.course.facts // (kills + 1)
        for kill in range(kills):
            self.producer.may_reach = (kill + WAVES_AHEAD) * stretch
            began = time.monotonic()
            target = int((kill + chance.random()) * stretch)
            is_early = chance.random() < EARLY_KILLS
            if is_early:
                await asyncio.sleep(chance.uniform(0.0, EARLY_SECONDS_MAX))
            while not is_early and (await self.stored()) < target:
                assert time.monotonic() - began < 40 * patience(), f"kill {kill}: {target} facts were not reached"
                await asyncio.sleep(LOOK_SECONDS)
            await asyncio.to_thread(plant.kill_gateway)
            self.gateways_killed.append(await self.stored())
            await asyncio.to_thread(plant.start_gateway)
        self.producer.may_reach = self.course.facts

    async def kill_servers(self) -> None:
        enterprise, kills, chance = self.lab.enterprise, self.course.server_kills, random.Random(f"server {self.seed}")
        stretch = self.course.facts // kills
        for kill in range(kills):
            target = int((kill + chance.uniform(0.05, 0.95)) * stretch)
            while len(self.producer.ledger) < target:  # noqa: ASYNC110
                await asyncio.sleep(LOOK_SECONDS)
            self.servers_killed.append(len(self.producer.ledger))
            await asyncio.to_thread(enterprise.kill_server)


@pytest.mark.parametrize("course", COURSES, ids=str)
async def test_all_facts_arrive_in_order_and_once_while_gateways_and_servers_are_killed(
    course: Course, tmp_path: Path
) -> None:
    seed = int(os.environ.get("BSFG_SEED") or random.SystemRandom().randrange(10**6))
    print(f"BSFG_SEED={seed} repeats this run")
    began = time.monotonic()
    with running_lab(tmp_path / "lab") as lab:
        async with (
            asyncio.timeout(RUN_SECONDS_MAX * patience()),
            producing(lab.enterprise, seed, course.facts) as producer,
        ):
            accidents = await _run(lab, course, producer, seed)
            print(f"{course.facts} facts through all kills: {time.monotonic() - began:.1f} s")
            print(f"gateway killed at {accidents.gateways_killed}, nats-server at {accidents.servers_killed}")
            print(f"{producer.repeated} facts were published again")
            async with lab.enterprise.nats() as store:
                sent = await store.read_all(OPERATIONAL_STREAM)
            async with lab.plant.nats() as store:
                held = await store.read_all(INBOUND_STREAM)
        _is_exact(producer, sent, held)
        print(f"compared after {time.monotonic() - began:.1f} s")


async def _run(lab: Lab, course: Course, producer: Producer, seed: int) -> Accidents:
    async with lab.plant.nats() as store:

        async def stored() -> int:
            return (await store.state(INBOUND_STREAM)).messages

        accidents = Accidents(lab, course, producer, seed, stored)
        async with asyncio.TaskGroup() as group:
            group.create_task(producer.run())
            group.create_task(accidents.kill_gateways())
            group.create_task(accidents.kill_servers())
        deadline = time.monotonic() + CATCH_UP_SECONDS_MAX * patience()
        while (await stored()) < course.facts:
            left = deadline - time.monotonic()
            assert left > 0, f"plant-a holds {await stored()} of {course.facts} facts; its link: {lab.plant.cursor()}"
            await asyncio.sleep(LOOK_SECONDS)
        assert len(accidents.gateways_killed) == course.gateway_kills
        assert len(accidents.servers_killed) == course.server_kills
        return accidents


def _is_exact(producer: Producer, sent: list[StoredMessage], held: list[StoredMessage]) -> None:
    """The sender holds every acknowledged fact once, and the receiver exactly what the sender holds."""
    at_sequence = {message.sequence: message for message in sent}
    assert len(sent) == producer.facts, f"enterprise holds {len(sent)} facts"
    for number, sequence in producer.ledger.items():
        subject, headers, payload = producer.fact(number)
        kept = at_sequence[sequence]
        assert (kept.subject, dict(kept.headers), kept.payload) == (subject, headers, payload), f"fact {number}"
    assert len(held) == len(sent), f"plant-a holds {len(held)} facts"
    assert [message.sequence for message in held] == list(range(1, producer.facts + 1))
    for ours, theirs in zip(sent, held, strict=True):
        origin = theirs.origin
        assert (origin.zone, origin.stream) == (ENTERPRISE, OPERATIONAL)
        assert (origin.sequence, origin.time) == (ours.sequence, ours.time), f"fact {ours.sequence}"
        assert theirs.subject == _PREFIX + ours.subject.removeprefix(OPERATIONAL), f"fact {ours.sequence}"
        assert theirs.payload == ours.payload, f"fact {ours.sequence}"
        assert _as_produced(theirs) == dict(ours.headers), f"fact {ours.sequence}"


def _as_produced(message: StoredMessage) -> dict[str, str]:
    """The headers of an inbound message without those of gateway and server, the message id under its first name."""
    headers = {name: value for name, value in message.headers if not name.startswith(("Nats-", "Bsfg-"))}
    return {"Nats-Msg-Id": dict(message.headers)["Bsfg-Message-Id"]} | headers
