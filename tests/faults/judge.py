"""The judge: the producer's ledger against what both zones hold, read by nats-py and not by BSFG's own code."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from nats.js.errors import NotFoundError
from tests.faults.producer import Producer, payload_of
from tests.support.lab_zones import Zone

from bsfg.lab.stores import Store
from bsfg.model.fact import ORIGIN_HEADER, parse_origin
from bsfg.model.names import inbound_physical, parse_stream, parse_zone, physical

FETCH: Final = 2_000
FETCH_SECONDS: Final = 10.0
NAMED_MAX: Final = 5

Row = tuple[int, bytes]
"""A fact in a stream: its sequence at the source, and its payload."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is wrong; nothing if the facts are exact."""

    lost: Sequence[str] = ()
    duplicate: Sequence[str] = ()
    reordered: Sequence[str] = ()
    unexpected: Sequence[str] = ()

    @property
    def is_exact(self) -> bool:
        return not (self.lost or self.duplicate or self.reordered or self.unexpected)

    def __str__(self) -> str:
        if self.is_exact:
            return "exact"
        return "; ".join(
            f"{len(found)} {name}: {', '.join(found[:NAMED_MAX])}"
            for name in ("lost", "duplicate", "reordered", "unexpected")
            if (found := getattr(self, name))
        )


@dataclass
class _Findings:
    lost: list[str] = field(default_factory=list)
    duplicate: list[str] = field(default_factory=list)
    reordered: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)

    def verdict(self) -> Verdict:
        return Verdict(self.lost, self.duplicate, self.reordered, self.unexpected)


def judge_source(
    seed: int, acknowledged: int, offered: int, rows: Sequence[Row], deleted: Collection[int] = ()
) -> Verdict:
    """The source holds every acknowledged fact once, in the producer's order, and none that was never offered.

    ``deleted`` are facts that the run itself took away.
    """
    found = _Findings()
    seen: set[int] = set()
    last = -1
    for sequence, payload in rows:
        number = _number_of(seed, payload)
        if number is None or number >= offered:
            found.unexpected.append(f"source {sequence}")
            continue
        if number in seen:
            found.duplicate.append(f"fact {number} at source {sequence}")
        elif number < last:
            found.reordered.append(f"fact {number} at source {sequence}")
        last = max(last, number)
        seen.add(number)
    accounted = seen | set(deleted)
    found.lost += [f"fact {number}" for number in range(acknowledged) if number not in accounted]
    return found.verdict()


def judge_copy(source: Sequence[Row], copy: Sequence[Row], deleted: Collection[int] = ()) -> Verdict:
    """The receiver holds what the source holds, in its order, once; ``deleted`` it may hold beyond that."""
    found = _Findings()
    expected = dict(source)
    seen: set[int] = set()
    last = 0
    for sequence, payload in copy:
        if sequence in seen:
            found.duplicate.append(f"origin {sequence}")
        elif sequence < last:
            found.reordered.append(f"origin {sequence}")
        if sequence not in deleted and expected.get(sequence) != payload:
            found.unexpected.append(f"origin {sequence}")
        last = max(last, sequence)
        seen.add(sequence)
    found.lost += [f"origin {sequence}" for sequence in expected if sequence not in seen]
    return found.verdict()


def _number_of(seed: int, payload: bytes) -> int | None:
    """The number of a fact of this run whose payload is what it has to be."""
    try:
        number = json.loads(payload)["number"]
    except (ValueError, KeyError, TypeError):
        return None
    return number if isinstance(number, int) and payload == payload_of(seed, number) else None


def inbound_name(peer: str, stream: str, generation: int = 1) -> str:
    return inbound_physical(parse_zone(peer), parse_stream(stream), generation)


def source_name(stream: str) -> str:
    return physical(parse_stream(stream))


def read_source(zone: Zone, stream: str) -> list[Row]:
    """What a zone's own stream holds."""
    return asyncio.run(_read(zone, source_name(stream), is_inbound=False))


def read_copy(zone: Zone, peer: str, stream: str, generation: int = 1) -> list[Row]:
    """What a zone holds of a peer's stream, by the coordinates of origin."""
    return asyncio.run(_read(zone, inbound_name(peer, stream, generation), is_inbound=True))


def judge(producer: Producer, receiver: Zone, deleted: Mapping[int, int] = MappingProxyType({})) -> dict[str, Verdict]:
    """Both zones of one stream; ``deleted`` are the facts that the run itself took away, by sequence."""
    zone, stream = producer.zone, producer.stream
    source = read_source(zone, stream)
    copy = read_copy(receiver, zone.place.zone, stream)
    facts = deleted.values()
    return {
        f"{stream} at {zone.place.zone}": judge_source(
            producer.seed, producer.ledger.count, producer.offered, source, facts
        ),
        f"{stream} at {receiver.place.zone}": judge_copy(source, copy, deleted.keys()),
    }


async def _read(zone: Zone, name: str, *, is_inbound: bool) -> list[Row]:
    """A stream that is not there, as after a power cut, holds nothing."""
    async with zone.nats() as store:
        try:
            return await _read_all(store, name, is_inbound)
        except NotFoundError:
            return []


async def _read_all(store: Store, name: str, is_inbound: bool) -> list[Row]:
    expected = (await store.state(name)).messages
    subscription = await store.from_beginning(name)
    rows: list[Row] = []
    while len(rows) < expected:
        for message in await subscription.fetch(min(FETCH, expected - len(rows)), timeout=FETCH_SECONDS):
            sequence = int(message.reply.split(".")[5])
            if is_inbound:
                sequence = parse_origin((message.headers or {})[ORIGIN_HEADER]).sequence
            rows.append((sequence, message.data))
    await subscription.unsubscribe()
    return rows
