"""Sections 5 and 6.3 to 6.5 of the runbook: where links start, the first fetch, and what a cursor stands for."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

from bsfg.checks import looks
from bsfg.checks.check import Check, Context, Finding, excepted, failed, passed, step
from bsfg.checks.model import Judgement, Outcome, Severity
from bsfg.config.values import LinkConfig
from bsfg.errors import BsfgError, Code
from bsfg.model.cursor import InitMode, StartKind, parse_init_mode
from bsfg.model.moment import NANOSECONDS, parse_time

DEFAULT_MODE: Final = "bounded_backfill_24h"
LOOKS_MAX: Final = 20
LOOK_SECONDS: Final = 0.25
FETCH_SECONDS: Final = 100.0
BEFORE: Final = "fetch.first: cursors before"
_REFUSALS: Final = frozenset(
    {
        Code.STREAM_DENIED, Code.PEER_UNKNOWN, Code.IDENTITY_REJECTED, Code.NOT_FOUND, Code.INIT_REJECTED,
        Code.HALTED, Code.CONFIGURATION, Code.HISTORY_MISMATCH, Code.AHEAD_OF_SOURCE, Code.GAP,
    }
)  # fmt: skip
"""What the runbook halts on at the first fetch; anything else is an absence."""

Row = Mapping[str, Any]


def judge_policy(granted: Collection[str], links: Collection[str]) -> Judgement:
    """Every stream that we were granted has its cursor policy."""
    lacking = sorted(set(granted) - set(links))
    if lacking:
        return failed(
            f"no cursor policy for {', '.join(lacking)}",
            f"config/cursors.yaml has {looks.listed(links)}",
            looks.listed(granted),
            f"add to config/cursors.yaml: {{peer: P, stream: {lacking[0]}, init_mode: {DEFAULT_MODE}}}",
        )
    return passed(f"{len(set(links))} links" if links else "nothing is imported from this peer")


def judge_required_history(
    links: Sequence[LinkConfig], required: Mapping[str, int], inits: Mapping[str, Row]
) -> Judgement:
    """No link starts later than the history that is required of it; a start that is resolved counts as resolved."""
    named = [link for link in links if link.name.stream in required]
    for link in named:
        stream, init = link.name.stream, inits.get(link.name.stream)
        mode, resolved_at = link.init_mode, None
        if init is not None:
            mode = _mode_of(init) or mode
            resolved_at = parse_time(init["resolved_at"])
        reached = reach_seconds(mode, resolved_at)
        if reached is not None and reached < required[stream]:
            return failed(
                f"{stream} starts too late",
                f"{mode.text} reaches back {_hours(reached)}",
                f"required_history: {_hours(required[stream])}",
                "a longer init_mode before the first fetch; afterwards bsfg cursor rewind",
            )
    return passed(f"{len(named)} streams reach back far enough" if named else "no history is required")


def reach_seconds(mode: InitMode, resolved_at: int | None) -> float | None:
    """How far before its resolution a start lies; None for the beginning, or while nobody knows."""
    match mode.kind:
        case StartKind.FULL_BACKFILL:
            return None
        case StartKind.START_NOW:
            return 0.0
        case StartKind.BOUNDED_BACKFILL:
            return float((mode.hours or 0) * 3600)
        case _:
            if resolved_at is None or mode.timestamp is None:
                return None
            return max(0.0, (resolved_at - mode.timestamp) / NANOSECONDS)


def judge_overrides(links: Sequence[LinkConfig], default: str) -> Judgement:
    """Whatever starts otherwise than the inputs say has its justification (runbook 5.3)."""
    others = [link for link in links if link.init_mode.text != default]
    for link in others:
        if not link.justification:
            return failed(
                f"{link.name.stream} starts otherwise, without a justification",
                link.init_mode.text,
                f"{default}, or a justification",
            )
    if not others:
        return passed("no overrides")
    return passed("; ".join(f"{link.name.stream}: {link.init_mode.text}, {link.justification}" for link in others))


def judge_preview(rows: Mapping[str, Row]) -> Judgement:
    """What each link would replay from its configured start, by the sender's word."""
    if not rows:
        return passed("nothing is imported from this peer")
    return passed("; ".join(f"{stream}: {row['facts']:,} facts" for stream, row in rows.items()))


def judge_first_fetch(rows: Mapping[str, Row | str]) -> Judgement:
    """Facts came, or the source has none yet, which leaves "Replay works" open; a text stands for a refusal."""
    if not rows:
        return excepted("nothing is imported from this peer")
    for stream, row in rows.items():
        if isinstance(row, str):
            return failed(f"the fetch of {stream} is refused", row, "a page of facts")
    cursors = {stream: row["cursor"] for stream, row in rows.items() if not isinstance(row, str)}
    for stream, cursor in cursors.items():
        if cursor["state"] == "halted":
            return failed(f"{stream} is halted: {cursor['reason']}", str(cursor["error"]), "a link that goes on")
    empty = [stream for stream, cursor in cursors.items() if cursor["sequence"] is None]
    appended = sum(row["appended"] for row in rows.values() if not isinstance(row, str))
    if len(empty) == len(rows):
        return excepted("fetched, but the source has no facts in reach: replay is still to be shown")
    text = f"{appended} facts appended" if appended else "level: fetched before"
    return passed(text + (f"; empty: {looks.listed(empty)}" if empty else ""))


def judge_durable(before: Mapping[str, Row], after: Mapping[str, Row], inbound: Mapping[str, Row]) -> Judgement:
    """The facts behind each cursor lie in the inbound stream, and the cursor has not gone back."""
    shown = []
    for stream, row in after.items():
        last = inbound[stream]["last_sequence"]
        if row["local_sequence"] is not None and last < row["local_sequence"]:
            return failed(f"{stream} lacks what its cursor names", f"last sequence {last}", f"{row['local_sequence']}")
        earlier = before.get(stream, {})
        if _sequence(row) < _sequence(earlier) and earlier.get("epoch") == row["epoch"]:
            return failed(f"the cursor of {stream} went back", str(row["sequence"]), f"{earlier['sequence']} or more")
        if row["sequence"] is not None:
            shown.append(f"{stream}: {row['sequence']:,}")
    return passed("; ".join(shown)) if shown else excepted("no fact has come yet")


def judge_stream_match(row: Row, inbound: Row, consumer: Row) -> Judgement:
    """The inbound stream ends where the cursor says, and the local consumer has delivered or awaits all of it."""
    local, last = row["local_sequence"] or 0, inbound["last_sequence"]
    if row["sequence"] is None and inbound["messages"] == 0:
        return excepted("no fact has come yet")
    if local != last:
        return failed(
            f"{row['stream']} and its cursor differ", f"the inbound stream ends at {last}", f"local_sequence {local}"
        )
    covered = consumer["delivered"]["stream_sequence"] + consumer["pending"]
    first = inbound["first_sequence"]
    if consumer["delivered"]["stream_sequence"] < first - 1:
        covered += first - 1 - consumer["delivered"]["stream_sequence"]
    if covered != last:
        return failed(
            f"the consumer of {row['stream']} misses facts",
            f"delivered {consumer['delivered']['stream_sequence']} and pending {consumer['pending']}",
            f"{last} together",
        )
    return passed(f"{row['stream']}: {last:,}")


def judge_monotonic(seen: Mapping[str, Sequence[Row]]) -> Judgement:
    """In each look the cursor was where it had been, or further."""
    for stream, rows in seen.items():
        for earlier, later in pairwise(rows):
            if earlier["epoch"] == later["epoch"] and _sequence(later) < _sequence(earlier):
                return failed(
                    f"the cursor of {stream} went back", str(later["sequence"]), f"{earlier['sequence']} or more"
                )
    return passed(f"{len(seen)} cursors, {max(map(len, seen.values()), default=0)} looks each")


def combined(judgements: Sequence[Judgement]) -> Judgement:
    """The worst of several: the first failure, else the first exception, else all of them."""
    for outcome in (Outcome.FAILED, Outcome.NOT_RUN, Outcome.PASSED_WITH_EXCEPTION):
        for judgement in judgements:
            if judgement.outcome is outcome:
                return judgement
    return passed("; ".join(judgement.summary for judgement in judgements) or "nothing is imported from this peer")


def _sequence(row: Row) -> int:
    return -1 if row.get("sequence") is None else int(row["sequence"])


def _mode_of(init: Row) -> InitMode | None:
    try:
        return parse_init_mode(init["mode"], init["timestamp"])
    except ValueError:
        return None


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:g}h"


async def _policy(context: Context) -> Finding:
    matrix = context.inputs.authorization_matrix
    granted = matrix.grants[context.zone].streams if matrix and context.zone in matrix.grants else ()
    links = [link.name.stream for link in context.links]
    seen = {link.name.stream: link.init_mode.text for link in context.links}
    return Finding(judge_policy(granted, links), (context.evidence("cursor policy", seen, "config/cursors.yaml"),))


async def _history(context: Context) -> Finding:
    inits = {}
    for link in context.links:
        row = await looks.cursor(context, link.name)
        if row["init"] is not None:
            inits[str(link.name.stream)] = row["init"]
    required = {str(stream): age for stream, age in context.inputs.required_history.items()}
    evidence = context.evidence("starts", inits, "local API GET /v1/cursors")
    return Finding(judge_required_history(context.links, required, inits), (evidence,))


async def _overrides(context: Context) -> Finding:
    default = context.inputs.cursor_init_mode or DEFAULT_MODE
    seen = {str(link.name.stream): [link.init_mode.text, link.justification] for link in context.links}
    evidence = context.evidence("modes and justifications", seen, "config/cursors.yaml")
    return Finding(judge_overrides(context.links, default), (evidence,))


async def _preview(context: Context) -> Finding:
    rows = {}
    for link in context.links:
        body = {"peer": link.name.peer, "stream": link.name.stream, "dry_run": True}
        answer = await context.surroundings.local("POST", "/v1/fetch", body)
        rows[str(link.name.stream)] = next(row for row in answer["modes"] if row["is_configured"])
    return Finding(judge_preview(rows), (context.evidence("preview", rows, "local API POST /v1/fetch dry_run"),))


async def _first_fetch(context: Context) -> Finding:
    context.memory[BEFORE] = await _rows(context)
    rows: dict[str, Row | str] = {}
    for link in context.links:
        body = {"peer": link.name.peer, "stream": link.name.stream}
        try:
            rows[link.name.stream] = await context.surroundings.local(
                "POST", "/v1/fetch", body, seconds=FETCH_SECONDS
            )
        except BsfgError as error:
            if error.code not in _REFUSALS:
                raise
            rows[link.name.stream] = f"{error.code.label}: {error.message}"
    return Finding(judge_first_fetch(rows), (context.evidence("fetches", rows, "local API POST /v1/fetch"),))


async def _durable(context: Context) -> Finding:
    after = await _rows(context)
    inbound = {str(link.name.stream): await _inbound(context, link) for link in context.links}
    before = context.memory.get(BEFORE, {})
    evidence = (
        context.evidence("cursors", after, "local API GET /v1/cursors"),
        context.evidence("inbound streams", inbound, "local API GET /v1/streams"),
    )
    return Finding(judge_durable(before, after, inbound), evidence)


async def _matches(context: Context) -> Finding:
    judgements, evidence = [], []
    for link in context.links:
        judgement, seen = await _settled(context, link)
        judgements.append(judgement)
        evidence.append(context.evidence(str(link.name), seen, "local API GET /v1/cursors, /v1/streams, /v1/consumers"))
    return Finding(combined(judgements), tuple(evidence))


async def _settled(context: Context, link: LinkConfig) -> tuple[Judgement, dict[str, Any]]:
    """The judgement of one moment: while facts come the three looks are repeated until the cursor stood still."""
    for _ in range(LOOKS_MAX):
        row = await looks.cursor(context, link.name)
        inbound = await _inbound(context, link)
        query = {"stream": link.name.stream, "peer": link.name.peer}
        consumer = await context.surroundings.local("GET", "/v1/consumers", query=query)
        judgement = judge_stream_match(row, inbound, consumer)
        again = await looks.cursor(context, link.name)
        if again["local_sequence"] == row["local_sequence"] and judgement.found is None:
            return judgement, {"cursor": row, "inbound": inbound, "consumer": consumer}
        await context.surroundings.sleep(LOOK_SECONDS)
    return judgement, {"cursor": row, "inbound": inbound, "consumer": consumer}


async def _monotonic(context: Context) -> Finding:
    looked = [context.memory.get(BEFORE) or await _rows(context)]
    for _ in range(3):
        looked.append(await _rows(context))
        await context.surroundings.sleep(LOOK_SECONDS)
    seen = {
        str(link.name.stream): [rows[link.name.stream] for rows in looked if link.name.stream in rows]
        for link in context.links
    }
    shown = {stream: [row["sequence"] for row in rows] for stream, rows in seen.items()}
    return Finding(judge_monotonic(seen), (context.evidence("sequences", shown, "local API GET /v1/cursors"),))


async def _rows(context: Context) -> dict[str, Row]:
    rows = await asyncio.gather(*(looks.cursor(context, link.name) for link in context.links))
    return {str(row["stream"]): row for row in rows}


async def _inbound(context: Context, link: LinkConfig) -> Row:
    path = looks.route("streams", link.name.stream)
    row: Row = await context.surroundings.local("GET", path, query={"peer": link.name.peer})
    return row


POLICY: Final[tuple[Check, ...]] = (
    step(
        "5.1",
        "cursors.preview",
        "what each link would replay is known",
        _preview,
        "bsfg fetch --dry-run says what each mode would replay",
        ("access.peer-grants",),
    ),
    step(
        "5.2",
        "cursors.policy",
        "every imported stream has a cursor policy",
        _policy,
        "bsfg config show",
        ("inputs.authorization-matrix",),
        Severity.HALT,
    ),
    step(
        "5.2",
        "cursors.required-history",
        "no link starts later than the required history allows",
        _history,
        "required_history: stands in config/bringup.yaml",
        ("gateway.healthy", "access.configuration-active", "access.peer-listed"),
        Severity.HALT,
    ),
    step(
        "5.3",
        "cursors.overrides",
        "every override has its justification",
        _overrides,
        "write justification: into its entry in config/cursors.yaml",
        ("inputs.cursor-init-mode",),
    ),
)
FETCH: Final[tuple[Check, ...]] = (
    step(
        "6.3",
        "fetch.first",
        "the first fetch brings facts",
        _first_fetch,
        "bsfg cursor query says what the link waits for",
        ("access.streams-readable", "cursors.policy"),
        Severity.HALT,
        changes=True,
        seconds=300.0,
    ),
    step(
        "6.4",
        "fetch.durable",
        "fetched facts are durably here and the cursor has advanced",
        _durable,
        "bsfg stream info S --peer P beside bsfg cursor query",
        ("fetch.first",),
    ),
    step(
        "6.5",
        "cursor.matches-stream",
        "cursor, inbound stream and local consumer agree",
        _matches,
        "bsfg cursor query, bsfg stream info and bsfg consumer info, each with --peer and --stream",
        ("fetch.first",),
    ),
    step(
        "6.5",
        "cursor.monotonic",
        "cursors only advance",
        _monotonic,
        "a cursor goes back only by bsfg cursor rewind; the audit log names who asked",
        ("fetch.first",),
    ),
)
