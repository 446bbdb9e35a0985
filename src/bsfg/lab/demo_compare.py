"""Both zones compared fact by fact, as their NATS servers hold them (the demo's last line, and after a kill)."""

from __future__ import annotations

from typing import Any, Final

from bsfg.lab.demo_stage import Evidence, Stage, demand, inbound_stream, local_stream
from bsfg.lab.homes import ZONES, peer_of
from bsfg.lab.stores import StoredMessage
from bsfg.lab.templates import ZoneSpec
from bsfg.model.fact import INBOUND_MESSAGE_ID_HEADER, MESSAGE_ID_HEADER

_RESERVED: Final = ("nats-", "bsfg-")


async def comparison(stage: Stage, evidence: Evidence) -> str:
    """Every exported stream: same facts, same order, no duplicate, right coordinates, in both directions."""
    total = 0
    for source in ZONES:
        for stream in source.exports:
            row = await compare_link(stage, source, stream)
            evidence[f"{source.zone} {stream}"] = row
            total += row["facts"]
    links = sum(len(source.exports) for source in ZONES)
    return f"{total:,} facts in {links} streams, order and content alike"


async def compare_link(stage: Stage, source: ZoneSpec, stream: str) -> dict[str, Any]:
    """Compare a stream with what the other zone holds of it; NotHeld names the first difference."""
    name = f"{source.zone} {stream}"
    sent = await stage.stores[source.zone].read_all(local_stream(stream))
    held = await stage.stores[peer_of(source).zone].read_all(inbound_stream(source.zone, stream))
    info = await stage.ask(stage.zones[source.zone], "stream", "info", stream)
    origins = [message.origin for message in held]
    foreign = [
        each
        for each in origins
        if (each.zone, each.stream, each.epoch) != (source.zone, stream, info["epoch"])
    ]
    demand(not foreign, f"{name}: {len(foreign)} facts have other coordinates, the first {foreign[:1]}")
    sequences = [origin.sequence for origin in origins]
    demand(
        len(set(sequences)) == len(sequences), f"{name}: {len(sequences) - len(set(sequences))} stored twice"
    )
    demand(sequences == sorted(sequences), f"{name}: not in the origin's order")
    missing = {message.sequence for message in sent} - set(sequences)
    demand(not missing, f"{name}: {len(missing)} facts are missing, the first is {min(missing, default=0)}")
    demand(len(held) == len(sent), f"{name}: {len(sent)} facts sent, {len(held)} held")
    for ours, theirs in zip(sent, held, strict=True):
        different = difference(ours, theirs, stream, inbound_prefix(source.zone, stream))
        demand(different is None, f"{name}: fact {ours.sequence} differs in its {different}")
    return {
        "facts": len(sent),
        "first": sequences[0] if sequences else None,
        "last": sequences[-1:],
        "equal": True,
    }


def difference(ours: StoredMessage, theirs: StoredMessage, stream: str, prefix: str) -> str | None:
    """In what a fact and its copy differ; None if in nothing."""
    origin = theirs.origin
    comparisons = {
        "sequence": (ours.sequence, origin.sequence),
        "time": (ours.time, origin.time),
        "subject": (ours.subject.removeprefix(stream), theirs.subject.removeprefix(prefix)),
        "headers": (producers_headers(ours), producers_headers(theirs)),
        "payload": (ours.payload, theirs.payload),
    }
    return next((what for what, (left, right) in comparisons.items() if left != right), None)


def inbound_prefix(zone: str, stream: str) -> str:
    return f"in.{zone}.{stream}.g1"


def producers_headers(message: StoredMessage) -> list[tuple[str, str]]:
    """The headers that the producer gave, its message id under one name for both zones."""
    names = {MESSAGE_ID_HEADER, INBOUND_MESSAGE_ID_HEADER}
    return [
        (MESSAGE_ID_HEADER if name in names else name, value)
        for name, value in message.headers
        if name in names or not name.lower().startswith(_RESERVED)
    ]
