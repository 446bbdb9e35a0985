"""The duplicate replay drill (runbook, section 9): facts on the wire again change nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from bsfg.checks.drills.line import DrillLine, failed, not_run, passed
from bsfg.checks.model import Evidence, Judgement

REPLAYED_MIN: Final = 1_000

TITLES: Final = {
    "replay.duplicates": ("9", "facts that are on the wire again are dropped"),
    "replay.stale-append": ("9", "the store refuses an append behind a stale fence"),
    "replay.unchanged": ("9", "the inbound stream is as it was, each fact once"),
}


@dataclass
class ReplaySeen:
    """What the drill has seen."""

    stream: str
    held: int = 0
    """Facts in the inbound stream."""
    fetched: int = 0
    """Held facts that the peer sent again."""
    first: int = 0
    last: int = 0
    dropped: int = 0
    """How many of them the link's state machine drops where its cursor is."""
    refusal: str | None = None
    """What the server said to the stale append; None if it took it."""
    stale_at: int = 0
    """The last local sequence that the stale append expected."""
    appended_again: int = 0
    """New facts that a further round of the link stored."""
    head_growth: int = 0
    """Facts that the peer got meanwhile."""
    repeated: int = 0
    created: tuple[str, str] = ("", "")


def judge(seen: ReplaySeen, at: int) -> list[DrillLine]:
    """Every line of the drill."""
    shown: dict[str, Any] = {name: getattr(seen, name) for name in seen.__dataclass_fields__}
    evidence = (Evidence("replay", shown, at, "gateway, duplicate replay drill"),)
    if not seen.held:
        nothing = not_run(f"no fact of {seen.stream} is held yet", hint="fetch some first: bsfg fetch")
        return [DrillLine(check, *place, nothing, evidence) for check, place in TITLES.items()]
    judged = {
        "replay.duplicates": _duplicates(seen),
        "replay.stale-append": _stale(seen),
        "replay.unchanged": _unchanged(seen),
    }
    return [DrillLine(check, *TITLES[check], judgement, evidence) for check, judgement in judged.items()]


def _duplicates(seen: ReplaySeen) -> Judgement:
    wanted = min(REPLAYED_MIN, seen.held)
    if seen.fetched < wanted:
        return failed("too few facts were sent again", f"{seen.fetched}", f"{wanted} of {seen.held} held")
    if seen.dropped != seen.fetched:
        return failed(
            "facts would be stored again", f"{seen.dropped} of {seen.fetched} dropped", "all of them"
        )
    return passed(f"{seen.fetched} facts from {seen.first} to {seen.last} again, {seen.dropped} dropped")


def _stale(seen: ReplaySeen) -> Judgement:
    if seen.refusal is None:
        return failed("a stale append was stored", f"the server took it behind {seen.stale_at}", "a refusal")
    return passed(f"refused: {seen.refusal}")


def _unchanged(seen: ReplaySeen) -> Judgement:
    if seen.created[0] != seen.created[1]:
        return failed("the stream is another one", f"created {seen.created[1]}", f"created {seen.created[0]}")
    if seen.repeated:
        return failed("facts lie twice", f"{seen.repeated}", "each once, in order")
    if seen.appended_again > seen.head_growth:
        return failed("a further fetch stored facts", f"{seen.appended_again}", f"at most {seen.head_growth}")
    return passed(f"a further fetch stored {seen.appended_again}, of {seen.head_growth} new at the peer")
