"""What people see of each answer: lines made from the parts of :mod:`bsfg.cli.render`; nothing is printed here.

A value that the gateway does not know is null in its answer and ``unknown`` on the screen, never 0.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from bsfg.cli import render
from bsfg.cli.render import emphasis, fields, joined, mark, moment, number, printable, seconds, size, table

Row = Mapping[str, Any]
NONE: Final = "none"


def rows_of(answer: Any, name: str) -> list[Row]:
    """The rows of an answer that is a list, or holds it under this name."""
    rows = answer.get(name) if isinstance(answer, Mapping) else answer
    return [row for row in rows if isinstance(row, Mapping)] if isinstance(rows, list) else []


# Status


def status(answer: Row) -> Iterable[str]:
    """The whole zone on one screen."""
    health = printable(answer.get("health"))
    yield (
        f"{printable(answer.get('zone'))} ({printable(answer.get('identity'))}): "
        f"{emphasis(health, good=health == 'ok')}"
    )
    yield from fields(
        [
            ("version", f"{printable(answer.get('version'))}, up since {moment(answer.get('started_at'))}"),
            ("store", _substrate(answer)),
            ("certificate", f"{number(answer.get('certificate_days_left'))} days left"),
            ("disk", _share(answer.get("disk_fill_ratio"))),
        ],
        indent=2,
    )
    for problem in answer.get("problems") or []:
        yield from render.paragraph(printable(problem), first=f"  {mark('failed')} ", indent=4)
    for warning in answer.get("warnings") or []:
        yield from render.paragraph(printable(warning), first="  ! ", indent=4)
    for title, name, lines_of in _STATUS_PARTS:
        yield ""
        yield title
        yield from lines_of(rows_of(answer, name)) or [f"  {NONE}"]


def _share(value: Any) -> str:
    return f"{value:.0%} used" if isinstance(value, float) else printable(value)


def _substrate(answer: Row) -> str:
    substrate = answer.get("substrate")
    parts = [f"durability {printable(answer.get('durability'))}"]
    if isinstance(substrate, Mapping):
        parts += [
            f"{printable(name)} {printable(value)}"
            for name, value in substrate.items()
            if name != "durability" and value is not None and not isinstance(value, Mapping | list)
        ]
    return ", ".join(parts)


def _status_peers(rows: list[Row]) -> list[str]:
    return table(
        ["PEER", "AUTHORIZED", "REACHABLE", "LAST CONTACT", "REASON"],
        [
            [
                printable(row.get("id")),
                printable(row.get("authorized")),
                printable(row.get("reachable")),
                moment(row.get("last_contact")),
                printable(row.get("reason") or ""),
            ]
            for row in rows
        ],
        indent=2,
    ) if rows else []


def _status_links(rows: list[Row]) -> list[str]:
    return cursor_table(rows, indent=2) if rows else []


def _status_exports(rows: list[Row]) -> list[str]:
    return table(
        ["PEER", "STREAM", "HEAD", "CONFIRMED", "BACKLOG"],
        [
            [
                printable(row.get("peer")),
                printable(row.get("stream")),
                number(row.get("head")),
                "none yet" if row.get("confirmed") is None else number(row["confirmed"]),
                number(row.get("backlog_facts")),
            ]
            for row in rows
        ],
        indent=2,
    ) if rows else []


def _status_partitions(rows: list[Row]) -> list[str]:
    return table(
        ["PEER", "ENDS", "REASON"],
        [
            [
                printable(row.get("peer")),
                moment(row.get("until")) if row.get("until") else "when reconciled",
                printable(row.get("reason")),
            ]
            for row in rows
        ],
        indent=2,
    ) if rows else []


_STATUS_PARTS: Final = (
    ("PEERS", "peers", _status_peers),
    ("LINKS (what this zone reads)", "links", _status_links),
    ("EXPORTS (what peers have not confirmed)", "exports", _status_exports),
    ("PARTITIONS", "partitions", _status_partitions),
)


# Cursors and fetches


def cursors(answer: Any) -> Iterable[str]:
    rows = rows_of(answer, "cursors")
    return cursor_table(rows) if rows else ["no links: cursors.yaml has no entries"]


def cursor_table(rows: Iterable[Row], *, indent: int = 0) -> list[str]:
    return table(
        ["LINK", "STATE", "CURSOR", "HEAD", "LAG"],
        [
            [
                link_name(row),
                state(row),
                "-" if row.get("sequence") is None else number(row["sequence"]),
                number(row.get("head")),
                number(row.get("lag_facts")),
            ]
            for row in rows
        ],
        indent=indent,
    )


def link_name(row: Row) -> str:
    return f"{printable(row.get('peer'))}/{printable(row.get('stream'))}"


def state(row: Row) -> str:
    """A link's state, with the reason where it is halted."""
    reason = row.get("reason")
    return printable(row.get("state")) + (f" ({printable(reason)})" if reason else "")


def cursor(row: Row) -> Iterable[str]:
    """One link's cursor."""
    before_first = "none yet" if row.get("sequence") is None else None
    yield from fields(
        [
            ("link", link_name(row)),
            ("state", state(row)),
            ("epoch", f"{printable(row.get('epoch'))}, generation {printable(row.get('generation'))}"),
            ("cursor", before_first or number(row.get("sequence"))),
            ("digest", before_first or printable(row.get("digest"))),
            ("scanned to", number(row.get("scanned_through"))),
            ("local sequence", before_first or number(row.get("local_sequence"))),
            ("head", _head(row)),
            ("lag", _lag(row)),
            ("started", _init(row.get("init"))),
        ]
    )
    if row.get("error"):
        yield from render.paragraph(printable(row["error"]), first=f"{mark('failed')} ", indent=2)
    for gap in rows_of(row, "gaps"):
        yield (
            f"gap {number(gap.get('from'))} to {number(gap.get('to'))} "
            f"at {moment(gap.get('time'))}: {printable(gap.get('reason'))}"
        )


def _head(row: Row) -> str:
    age = row.get("head_age_seconds")
    return number(row.get("head")) + ("" if age is None else f", last heard {seconds(age)} ago")


def _lag(row: Row) -> str:
    if row.get("lag_facts") is None:
        return render.UNKNOWN
    return f"{number(row['lag_facts'])} facts, {seconds(row.get('lag_seconds'))}"


def _init(init: Any) -> str:
    if not isinstance(init, Mapping):
        return "not yet"
    return ", ".join(f"{printable(name)} {moment(value)}" for name, value in init.items() if value is not None)


def fetched(answer: Row) -> Iterable[str]:
    """What one round of a link appended."""
    yield (
        f"appended {number(answer.get('appended'))} facts from "
        f"{link_name(answer)}, "
        f"dropped {number(answer.get('duplicates_dropped'))} duplicates"
    )
    if isinstance(answer.get("cursor"), Mapping):
        yield from cursor(answer["cursor"])


def previewed(answer: Row) -> Iterable[str]:
    """What each mode would replay; nothing was fetched."""
    return table(
        ["MODE", "FROM", "FIRST FACT", "FACTS", "BYTES", ""],
        [
            [
                printable(row.get("mode")),
                number(row.get("start_sequence")),
                moment(row.get("first_fact_time")) if row.get("first_fact_time") else "-",
                number(row.get("facts")),
                size(row.get("bytes")),
                "configured" if row.get("is_configured") else "",
            ]
            for row in rows_of(answer, "modes")
        ],
    )


# Peers


def peers(answer: Any) -> Iterable[str]:
    rows = rows_of(answer, "peers")
    if not rows:
        return ["no peers: peers.yaml has no entries"]
    return table(
        ["PEER", "IDENTITY", "ENDPOINT", "AUTHORIZED", "REACHABLE", "STREAMS"],
        [
            [
                *(printable(row.get(name)) for name in ("id", "identity", "endpoint", "authorized", "reachable")),
                number(len(row.get("streams") or [])),
            ]
            for row in rows
        ],
    )


def peer_check(answer: Row) -> Iterable[str]:
    """Each check with its mark and what was found; the hint only where it helps."""
    checks = rows_of(answer, "checks")
    for row in checks:
        yield from render.paragraph(printable(row.get("title")), first=f"{mark(row.get('outcome'))} ", indent=2)
        if row.get("found"):
            yield from render.paragraph(printable(row["found"]), first="    ", indent=4)
        if row.get("hint") and row.get("outcome") != "passed":
            yield from render.paragraph(f"hint: {printable(row['hint'])}", first="    ", indent=4)
    yield ""
    yield _tally(answer, checks)


def _tally(answer: Row, checks: list[Row]) -> str:
    outcomes = [row.get("outcome") for row in checks]
    counts = ", ".join(f"{outcomes.count(outcome)} {outcome}" for outcome in ("passed", "failed", "not run"))
    verdict = emphasis("ok", good=True) if answer.get("ok") else emphasis("failed", good=False)
    return f"{printable(answer.get('peer'))}: {verdict} ({counts})"


# Streams and consumers


def streams(answer: Any) -> Iterable[str]:
    rows = rows_of(answer, "streams")
    if not rows:
        return ["no streams"]
    return table(
        ["STREAM", "IN JETSTREAM", "FACTS", "FIRST", "LAST", "ACKS"],
        [
            [
                printable(row.get("stream")),
                printable(row.get("jetstream")),
                *(number(row.get(name)) for name in ("messages", "first_sequence", "last_sequence")),
                printable(row.get("durability")),
            ]
            for row in rows
        ],
        whole=2,
    )


def applied(answer: Row) -> Iterable[str]:
    return render.tree(answer) or ["nothing to do"]


def facts(answer: Row) -> Iterable[str]:
    """One JSON object a line, as ``bsfg read`` shows them."""
    return (json.dumps(row) for row in rows_of(answer, "facts"))


# Configuration, certificates, partitions


def configuration_ok(answer: Row) -> Iterable[str]:
    counts = ", ".join(f"{number(answer.get(name))} {name}" for name in ("streams", "peers", "links"))
    yield f"{mark('passed')} the configuration of {printable(answer.get('zone'))} is good: {counts}"


def reloaded(answer: Row) -> Iterable[str]:
    if answer.get("reloaded"):
        yield f"reloaded; changed: {joined(answer.get('changed'))}"
    else:
        yield "nothing has changed"


def certificate(answer: Row) -> Iterable[str]:
    """What a certificate says, its chain and its revocation first of all."""
    pairs = [
        (str(name).replace("_", " "), _certificate_value(value))
        for name, value in answer.items()
        if not isinstance(value, Mapping)
    ]
    verdicts = [(str(name), _verdict(value)) for name, value in answer.items() if isinstance(value, Mapping)]
    return fields(pairs + verdicts)


def _certificate_value(value: Any) -> str:
    return joined(value) if isinstance(value, list) else moment(value)


def _verdict(value: Row) -> str:
    parts = [printable(value[name]) for name in ("anchor", "reason", "detail") if value.get(name)]
    return ": ".join([printable(value.get("verdict")).replace("_", " "), *parts])


def partitioned(answer: Row) -> Iterable[str]:
    row = answer.get("partition")
    row = row if isinstance(row, Mapping) else answer
    peer, until = printable(row.get("peer")), row.get("until")
    yield f"{peer} is partitioned " + (f"until {moment(until)}" if until else "until it is reconciled")
    yield f"end it: bsfg admin reconcile --peer {peer}"


def notified(answer: Row) -> Iterable[str]:
    stream, head = printable(answer.get("stream")), answer.get("head")
    yield f"{printable(answer.get('peer'))} took the advice that {stream} has reached {head}"


def reconciled(answer: Row) -> Iterable[str]:
    was = answer.get("was_partitioned")
    yield f"{printable(answer.get('peer'))} " + ("is back; its links catch up" if was else "was not partitioned")


def page_address(answer: Row) -> Iterable[str]:
    yield printable(answer.get("url"))
    yield f"good once, for {seconds(answer.get('seconds'))}"


def bundled(answer: Row) -> Iterable[str]:
    yield f"{printable(answer.get('path'))}, {size(answer.get('size'))}: {joined(answer.get('files'))}"
    missing = answer.get("missing")
    for name, cause in missing.items() if isinstance(missing, Mapping) else ():
        yield from render.paragraph(f"without {printable(name)}: {printable(cause)}", first="  ", indent=4)
