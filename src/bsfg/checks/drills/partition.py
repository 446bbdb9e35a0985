"""The partition drill (runbook, section 8): what was seen of it, and what that means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from bsfg.checks.drills.line import DrillLine, excepted, failed, not_run, passed, percentile
from bsfg.checks.model import Evidence, Judgement

LOCAL_SECONDS_MAX: Final = 2.0
"""No local append or read may take longer while the peer is away: nothing of it waits for the peer."""

TITLES: Final = {
    "partition.blocked": ("8.1", "the peer is cut off, and no fact arrives meanwhile"),
    "partition.connections": (
        "8.1",
        "no connection to the peer stays, and none of the peer's outlives its 503",
    ),
    "partition.autonomy": ("8.2", "local append and local read go on while the peer is away"),
    "partition.backlog": ("8.3", "the backlog grows by exactly what was produced"),
    "partition.restored": ("8.4", "the peer is let back"),
    "partition.reconciled": ("8.5", "the log says the recovery's five lines in order, for every link"),
    "partition.backfill": ("8.6", "both sides catch up, and the cursors go on from where they were"),
    "partition.duplicates": ("8.6", "no fact is stored twice"),
    "partition.continuity": (
        "8.7",
        "every stream is the one that it was: same creation, same epoch, nothing reset",
    ),
    "partition.configuration": ("8.7", "no configuration was changed in the window"),
}


@dataclass(frozen=True, slots=True)
class StreamSeen:
    """A stream at one moment; ``may_trim`` says that its configuration lets its first sequence move."""

    name: str
    created: str
    epoch: str | None
    first_sequence: int
    last_sequence: int
    may_trim: bool


@dataclass(frozen=True, slots=True)
class LinkSeen:
    """A link at one moment."""

    stream: str
    state: str
    sequence: int
    scanned_through: int


@dataclass
class PartitionSeen:
    """Everything that the drill has seen, in the order in which it was."""

    peer: str
    stream: str
    reason: str = ""
    until: str = ""
    links_before: list[LinkSeen] = field(default_factory=list)
    links_cut_off: list[LinkSeen] = field(default_factory=list)
    links_after: list[LinkSeen] = field(default_factory=list)
    streams_before: list[StreamSeen] = field(default_factory=list)
    streams_after: list[StreamSeen] = field(default_factory=list)
    opened_to_peer: list[str] = field(default_factory=list)
    """Connections to the peer's endpoint that this gateway still has at the end of the window."""
    told: list[str] = field(default_factory=list)
    """Far ends of connections on which the peer was told that it is partitioned."""
    outlived: list[str] = field(default_factory=list)
    """Those of them that were still open a moment later."""
    append_seconds_before: list[float] = field(default_factory=list)
    append_seconds: list[float] = field(default_factory=list)
    read_seconds: list[float] = field(default_factory=list)
    facts_read: int = 0
    head_before: int = 0
    head_cut_off: int = 0
    backlog_before: int = 0
    backlog_cut_off: int = 0
    backlog_after: int | None = None
    """None where the peer never confirmed a fact of the stream: it does not read it."""
    restored: bool = False
    log: list[dict[str, Any]] = field(default_factory=list)
    """Events of the peer and its links since it was let back."""
    seconds_to_level: float | None = None
    repeated: dict[str, int] = field(default_factory=dict)
    """Facts that lie twice or out of order, by the link's stream."""
    configuration_loads: list[dict[str, Any]] = field(default_factory=list)
    """The audit's records of the window."""


def judge(seen: PartitionSeen, at: int) -> list[DrillLine]:
    """Every line of the drill, ``at`` being the moment of the judgement."""
    judged: dict[str, tuple[Judgement, dict[str, Any]]] = {
        "partition.blocked": _blocked(seen),
        "partition.connections": _connections(seen),
        "partition.autonomy": _autonomy(seen),
        "partition.backlog": _backlog(seen),
        "partition.restored": _restored(seen),
        "partition.reconciled": _reconciled(seen),
        "partition.backfill": _backfill(seen),
        "partition.duplicates": _duplicates(seen),
        "partition.continuity": _continuity(seen),
        "partition.configuration": _configuration(seen),
    }
    return [
        DrillLine(
            check,
            *TITLES[check],
            judgement,
            tuple(Evidence(what, shown, at, "gateway, partition drill") for what, shown in evidence.items()),
        )
        for check, (judgement, evidence) in judged.items()
    ]


_Judged = tuple[Judgement, dict[str, Any]]


def _blocked(seen: PartitionSeen) -> _Judged:
    evidence = {"reason": seen.reason, "ends at": seen.until, "links": _rows(seen.links_cut_off)}
    moved = [
        after.stream
        for before, after in zip(seen.links_before, seen.links_cut_off, strict=False)
        if after.sequence != before.sequence
    ]
    others = [f"{link.stream} is {link.state}" for link in seen.links_cut_off if link.state != "partitioned"]
    if others or moved:
        found = ", ".join(others) or f"the cursor of {', '.join(moved)} moved"
        return failed("not cut off", found, "every link partitioned, every cursor where it was"), evidence
    return passed(f"{len(seen.links_cut_off)} links stand; ends by itself at {seen.until}"), evidence


def _connections(seen: PartitionSeen) -> _Judged:
    evidence = {
        "to the peer, by /proc/net/tcp": seen.opened_to_peer,
        "refused with 503": seen.told,
        "open after their 503": seen.outlived,
    }
    if seen.opened_to_peer or seen.outlived:
        found = ", ".join(seen.opened_to_peer + seen.outlived)
        return failed(
            "a connection stays", found, "none of ours to the peer, none of the peer's after its 503"
        ), evidence
    return passed(f"none to the peer; {len(seen.told)} of the peer's refused and closed"), evidence


def _autonomy(seen: PartitionSeen) -> _Judged:
    appended, slowest = len(seen.append_seconds), max(seen.append_seconds + seen.read_seconds, default=0.0)
    evidence = {
        "append seconds": _latency(seen.append_seconds),
        "append seconds before": _latency(seen.append_seconds_before),
        "read seconds": _latency(seen.read_seconds),
        "facts read": seen.facts_read,
    }
    if not appended or not seen.read_seconds:
        return not_run("nothing was appended or read"), evidence
    if slowest > LOCAL_SECONDS_MAX:
        expected = f"each within {LOCAL_SECONDS_MAX:.0f} s"
        return failed("local work was slow", f"the slowest took {slowest:.3f} s", expected), evidence
    middle = percentile(seen.append_seconds, 0.5) * 1000
    late = percentile(seen.append_seconds, 0.99) * 1000
    return passed(f"{appended} appended, p50 {middle:.1f} ms, p99 {late:.1f} ms"), evidence


def _backlog(seen: PartitionSeen) -> _Judged:
    produced, grown = seen.head_cut_off - seen.head_before, seen.backlog_cut_off - seen.backlog_before
    evidence = {
        "stream": seen.stream,
        "produced": produced,
        "backlog": [seen.backlog_before, seen.backlog_cut_off],
        "head": [seen.head_before, seen.head_cut_off],
    }
    if grown != produced or produced < len(seen.append_seconds):
        return failed("the backlog does not add up", f"it grew by {grown}", f"by {produced}"), evidence
    return passed(f"{seen.backlog_before} -> {seen.backlog_cut_off}, {produced} produced"), evidence


def _restored(seen: PartitionSeen) -> _Judged:
    if not seen.restored:
        return failed(
            "not let back", "the partition was over before the drill ended it", "let back by the drill"
        ), {}
    return passed("let back, before its time was over"), {"peer let back": seen.peer, "reason": seen.reason}


def _reconciled(seen: PartitionSeen) -> _Judged:
    evidence = {"log": seen.log}
    if not seen.links_before:
        return not_run("this zone reads nothing from the peer"), evidence
    for link in seen.links_before:
        missing = missing_line(seen.log, seen.peer, link)
        if missing is not None:
            return failed(
                "the log does not say it", f"{link.stream}: no {missing!r} in its place", "all five in order"
            ), evidence
    return passed(f"five lines in order for {len(seen.links_before)} links"), evidence


def missing_line(log: Sequence[dict[str, Any]], peer: str, link: LinkSeen) -> str | None:
    """The first of the five lines that a link's recovery lacks in its order; None if all are there (contract, 8)."""
    lines = [
        str(row.get("message", ""))
        for row in log
        if row.get("peer") == peer and row.get("stream") in (None, link.stream)
    ]
    head = next(
        (line.rpartition("peer=")[2] for line in lines if line.startswith("cursor comparison: ")), "?"
    )
    wanted = [
        f"peer {peer} reachable",
        f"cursor comparison: local={link.sequence}, peer={head}",
        "backfill required: ",
        "replay initiated",
        f"cursor advanced to {head}",
    ]
    position = 0
    for text in wanted:
        places = [
            index
            for index in range(position, len(lines))
            if lines[index] == text or (text.endswith(": ") and lines[index].startswith(text))
        ]
        if not places:
            return text
        position = places[0] + 1
    return None


def _backfill(seen: PartitionSeen) -> _Judged:
    evidence = {
        "links before": _rows(seen.links_before),
        "links after": _rows(seen.links_after),
        "backlog after": seen.backlog_after,
        "seconds": seen.seconds_to_level,
    }
    back = [
        after.stream
        for before, after in zip(seen.links_before, seen.links_after, strict=False)
        if after.sequence < before.sequence or after.scanned_through < before.scanned_through
    ]
    if back:
        return failed("a cursor went back", ", ".join(back), "monotonic"), evidence
    if seen.seconds_to_level is None:
        behind = [f"{link.stream} is {link.state}" for link in seen.links_after if link.state != "level"]
        found = ", ".join(behind) or f"the peer still lacks {seen.backlog_after} facts of {seen.stream}"
        return failed("not caught up", found, "every link level, the backlog as before"), evidence
    if seen.backlog_after is None:
        return excepted(
            f"level in {seen.seconds_to_level:.1f} s; the peer does not read {seen.stream}"
        ), evidence
    return passed(f"level in {seen.seconds_to_level:.1f} s, backlog {seen.backlog_after}"), evidence


def _duplicates(seen: PartitionSeen) -> _Judged:
    evidence = {"twice or out of order, by stream": seen.repeated}
    wrong = [stream for stream, count in seen.repeated.items() if count]
    if wrong:
        return failed("facts are stored twice", ", ".join(wrong), "each once, in order"), evidence
    if not seen.repeated:
        return not_run("this zone reads nothing from the peer"), evidence
    return passed(f"{len(seen.repeated)} inbound streams looked through"), evidence


def _continuity(seen: PartitionSeen) -> _Judged:
    evidence = {"before": _rows(seen.streams_before), "after": _rows(seen.streams_after)}
    for before, after in zip(seen.streams_before, seen.streams_after, strict=True):
        problem = _discontinuity(before, after)
        if problem is not None:
            return failed(
                "a stream is not what it was", f"{before.name}: {problem}", "identity and sequences kept"
            ), evidence
    return passed(f"{len(seen.streams_after)} streams, same creation and epoch, sequences kept"), evidence


def _discontinuity(before: StreamSeen, after: StreamSeen) -> str | None:
    if after.created != before.created:
        return f"created {after.created}, was {before.created}"
    if after.epoch != before.epoch:
        return f"epoch {after.epoch}, was {before.epoch}"
    if after.last_sequence < before.last_sequence:
        return f"last sequence {after.last_sequence}, was {before.last_sequence}"
    has_moved = after.first_sequence != before.first_sequence
    if has_moved and (after.first_sequence < before.first_sequence or not before.may_trim):
        return f"first sequence {after.first_sequence}, was {before.first_sequence}, and no retention is configured"
    return None


def _configuration(seen: PartitionSeen) -> _Judged:
    evidence = {"audit": seen.configuration_loads}
    if seen.configuration_loads:
        count = len(seen.configuration_loads)
        return excepted(
            f"{count} configuration load{'s' if count != 1 else ''} in the window, quoted"
        ), evidence
    return passed("none in the audit"), evidence


def _latency(seconds: list[float]) -> dict[str, Any]:
    shown = {
        "p50": percentile(seconds, 0.5),
        "p99": percentile(seconds, 0.99),
        "max": max(seconds, default=0.0),
    }
    return {"count": len(seconds)} | {name: round(value, 6) for name, value in shown.items()}


def _rows(values: Sequence[Any]) -> list[dict[str, Any]]:
    return [{name: getattr(value, name) for name in value.__slots__} for value in values]
