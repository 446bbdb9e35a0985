"""The demo's lines about facts in flow: first fetch, durable append and cursor, duplicate replay (runbook 5 and 6)."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Final

from bsfg.core.conversation import Append, PageFetched
from bsfg.core.link import advance
from bsfg.core.link_state import Link, LinkSettings, Phase
from bsfg.lab import homes, templates
from bsfg.lab.demo_stage import (
    Evidence,
    Stage,
    credentials_of,
    demand,
    inbound_stream,
    link_name,
    wait_until,
)
from bsfg.lab.example_facts import BATCH_EVENTS, EXPORTED, ORDERS
from bsfg.lab.homes import ENTERPRISE
from bsfg.lab.stores import STALE_SEQUENCE, StoredMessage
from bsfg.model.cursor import Cursor, Fence, parse_init_mode
from bsfg.model.fact import ORIGIN_HEADER, Fact, digest, join_headers, origin_block
from bsfg.model.page import BYTES_MAX, FetchRequest, Page, PageLimits
from bsfg.transport.page_codec import decode_json
from bsfg.transport.wire import fetch_body

PEER: Final = ENTERPRISE.zone
STREAM: Final = BATCH_EVENTS.stream
INBOUND: Final = inbound_stream(PEER, STREAM)
LINK: Final = ("--peer", PEER, "--stream", STREAM)
LEVEL_SECONDS: Final = 10.0
CONSUMED: Final = 5


async def first_fetch(stage: Stage, evidence: Evidence) -> str:
    """Facts wait at enterprise; plant-a sees what each mode would replay, then fetches by the default one."""
    count = stage.sizes.first
    await stage.append(BATCH_EVENTS, count)
    preview = await stage.ask(stage.plant, "fetch", *LINK, "--dry-run")
    would = {row["mode"]: row["facts"] for row in preview["modes"]}
    evidence["dry run"] = preview["modes"]
    demand(
        would.get(templates.DEFAULT_MODE) == count, f"the default mode would replay {would} of {count} facts"
    )
    stored = (await stage.stores["plant-a"].state(INBOUND)).messages
    demand(stored == 0, f"plant-a holds {stored} facts before the first fetch")

    began = time.monotonic()
    answer = await stage.ask(stage.plant, "fetch", *LINK, "--cursor-init", templates.DEFAULT_MODE)
    await reaches(stage, count)
    seconds = time.monotonic() - began
    row = await stage.cursor(stage.plant, PEER, STREAM)
    evidence["fetch"] = answer
    evidence["cursor"] = row
    demand(row["init"]["mode"] == templates.DEFAULT_MODE, f"the link started by {row['init']['mode']}")
    demand(row["init"]["start_sequence"] == 1, f"the start was resolved to {row['init']['start_sequence']}")
    stored = (await stage.stores["plant-a"].state(INBOUND)).messages
    demand(stored == count, f"plant-a holds {stored} facts, not {count}")
    # From here on the link starts by itself, as in every lab.
    homes.write_text(stage.plant.home / "config" / "cursors.yaml", templates.cursors_yaml(ENTERPRISE))
    await stage.ask(stage.plant, "config", "reload")
    return f"{count:,} facts by {templates.DEFAULT_MODE}, {seconds:.1f} s"


async def durable_append(stage: Stage, evidence: Evidence) -> str:
    """The cursor is the last fact that is really in the inbound stream, never ahead of it, and it only grows."""
    store = stage.stores["plant-a"]
    before = await stage.cursor(stage.plant, PEER, STREAM)
    _cursor_is_last_fact(before, await store.last(INBOUND), evidence)
    producing = asyncio.create_task(_append_in_parts(stage))
    sequences = [before["sequence"]]
    try:
        while not producing.done():
            row = await stage.cursor(stage.plant, PEER, STREAM)
            state = await store.state(INBOUND)
            demand(row["local_sequence"] <= state.last_sequence, "the cursor is ahead of what is stored")
            sequences.append(row["sequence"])
    finally:
        await asyncio.gather(producing, return_exceptions=True)
    head = producing.result()
    await reaches(stage, head)
    after = await stage.cursor(stage.plant, PEER, STREAM)
    sequences.append(after["sequence"])
    evidence["cursor sequences seen"] = sequences
    demand(sequences == sorted(sequences), f"the cursor went back: {sequences}")
    demand(
        after["sequence"] == head > before["sequence"], f"the cursor is at {after['sequence']}, not {head}"
    )
    _cursor_is_last_fact(after, await store.last(INBOUND), evidence)
    evidence["local application"] = await _consume(stage)
    await _other_examples(stage)
    return f"cursor {before['sequence']:,} -> {after['sequence']:,} = last stored fact"


async def _append_in_parts(stage: Stage) -> int:
    """Some facts in four calls, so that the cursor can be watched while it moves; the head after them."""
    answer: dict[str, Any] = {}
    for _ in range(4):
        answer = await stage.append(BATCH_EVENTS, stage.sizes.more // 4)
    return int(answer["last_sequence"])


def _cursor_is_last_fact(row: dict[str, Any], last: StoredMessage, evidence: Evidence) -> None:
    origin = last.origin
    found = digest(fact_of(last))
    evidence["last stored fact"] = {"Bsfg-Origin": origin.header_value(), "digest": found}
    evidence["cursor"] = row
    demand(
        origin.sequence == row["sequence"], f"cursor {row['sequence']}, last stored fact {origin.sequence}"
    )
    demand(origin.epoch == row["epoch"], "cursor and last stored fact are of different epochs")
    demand(found == row["digest"], "the cursor's digest is not that of the last stored fact")


def fact_of(message: StoredMessage) -> Fact:
    """An inbound message as the fact that its origin stored."""
    raw = join_headers((name.encode(), value.encode()) for name, value in message.headers)
    tail = message.subject.removeprefix(f"in.{PEER}.{STREAM}.g1").lstrip(".")
    origin = message.origin
    return Fact(
        origin.sequence,
        f"{STREAM}.{tail}" if tail else STREAM,
        origin.time,
        origin_block(raw),
        message.payload,
    )


async def _consume(stage: Stage) -> dict[str, Any]:
    """A local application's own progress is apart from the cursor (runbook 6.5)."""
    taken = await stage.ask(stage.plant, "consumer", "next", *LINK, "--count", str(CONSUMED))
    demand(
        len(taken["facts"]) == CONSUMED, f"a local application got {len(taken['facts'])} of {CONSUMED} facts"
    )
    info: dict[str, Any] = await stage.ask(stage.plant, "consumer", "info", *LINK)
    return info


async def _other_examples(stage: Stage) -> None:
    """Every other exported stream gets its facts, too, orders and shipments the other way."""
    for example in EXPORTED:
        if example is not BATCH_EVENTS:
            count = len(example.lines())
            await (
                stage.append_envelopes(example, count) if example is ORDERS else stage.append(example, count)
            )
    head = (await stage.stores["plant-a"].state("facts_orders")).last_sequence

    async def arrived() -> bool:
        row = await stage.cursor(stage.enterprise, ORDERS.zone, ORDERS.stream)
        return bool(row["sequence"] == head)

    await wait_until("orders arrive at enterprise", LEVEL_SECONDS, arrived)


async def duplicate_replay(stage: Stage, evidence: Evidence) -> str:
    """Facts that are on the wire again change nothing: the link drops them, and the server refuses a stale append."""
    store = stage.stores["plant-a"]
    before, messages = await store.state(INBOUND), await store.read_all(INBOUND)
    _demand_no_duplicate(messages)
    row = await stage.cursor(stage.plant, PEER, STREAM)
    page = await _fetched_again(stage, messages)
    dropped = _dropped_by_link(page, row, before.created)
    evidence["on the wire again"] = len(page.facts)
    evidence["dropped by the link"] = dropped
    demand(len(page.facts) == stage.sizes.replay, f"{len(page.facts)} facts were on the wire again")
    demand(
        dropped == len(page.facts), f"the link would have stored {len(page.facts) - dropped} of them again"
    )

    old = messages[-stage.sizes.replay]
    headers = {"Nats-Expected-Last-Sequence": str(old.sequence - 1), ORIGIN_HEADER: old.origin.header_value()}
    refusal = await store.refused_append(old.subject, old.payload, headers)
    evidence["stale append"] = {"expected_last_sequence": old.sequence - 1, "refused_with": refusal}
    demand(refusal == STALE_SEQUENCE, f"a stale append was not refused by its sequence, but {refusal}")
    words = await stage.local_stores["plant-a"].is_refused_publish(old.subject, old.payload)
    evidence["local application publishes to in.>"] = words
    demand(
        words is not None and "permissions violation" in words.lower(),
        "a local application may publish to in.>",
    )

    again = await stage.ask(stage.plant, "fetch", *LINK)
    evidence["fetch again"] = {key: again[key] for key in ("appended", "duplicates_dropped")}
    demand(again["appended"] == 0, f"a further fetch appended {again['appended']} facts")
    after = await store.state(INBOUND)
    demand(after == before, f"the inbound stream has changed: {before} -> {after}")
    _demand_no_duplicate(await store.read_all(INBOUND))
    return f"{len(page.facts)} again, {dropped} dropped, stale append refused"


def _demand_no_duplicate(messages: list[StoredMessage]) -> None:
    sequences = [message.origin.sequence for message in messages]
    demand(
        len(set(sequences)) == len(sequences), f"facts stored twice: {len(sequences) - len(set(sequences))}"
    )
    demand(sequences == sorted(sequences), "the facts are not in their origin's order")


async def _fetched_again(stage: Stage, messages: list[StoredMessage]) -> Page:
    """The newest facts once more, asked for with plant-a's own certificate from an earlier cursor."""
    earlier = fact_of(messages[-stage.sizes.replay - 1])
    epoch = messages[-1].origin.epoch
    request = FetchRequest(
        link_name(PEER, STREAM).stream,
        PageLimits(facts=stage.sizes.replay + 1, bytes=BYTES_MAX),
        after=Cursor(epoch, earlier.sequence, digest(earlier), earlier.sequence),
    )
    reply = await stage.request(ENTERPRISE, "/v1/fetch", credentials_of(stage.plant), fetch_body(request))
    demand(reply.status == 200, f"the page was refused: {reply}")
    return decode_json(reply.content, request)


def _dropped_by_link(page: Page, row: dict[str, Any], created: str) -> int:
    """How many of the page's facts the link drops where its cursor is now: the very rule that the gateway runs."""
    link = Link(
        link_name(PEER, STREAM),
        LinkSettings(parse_init_mode(templates.DEFAULT_MODE)),
        phase=Phase.FLOWING,
        ticket=1,
        fetch=1,
        fence=Fence(row["generation"], created, row["local_sequence"]),
        cursor=Cursor(row["epoch"], row["sequence"], row["digest"], row["scanned_through"]),
        recovery=None,
    )
    after, commands = advance(link, PageFetched(1, page))
    stored = sum(len(command.facts) for command in commands if isinstance(command, Append))
    return after.facts_duplicate if stored == 0 else len(page.facts) - stored


async def reaches(stage: Stage, head: int) -> float:
    """Wait until the link's cursor is at this sequence."""

    async def arrived() -> bool:
        row = await stage.cursor(stage.plant, PEER, STREAM)
        return bool(row["sequence"] == head)

    return await wait_until(f"the cursor reaches {head}", LEVEL_SECONDS, arrived)
