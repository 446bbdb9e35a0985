"""What the gateway shows of itself, as plain JSON values: unknown is null, never a guess (contract, section 6)."""

from __future__ import annotations

from typing import Any, Final

from bsfg.daemon.peers import PeerMonitor
from bsfg.daemon.running_link import Links, RunningLink
from bsfg.model.cursor import Gap, Init
from bsfg.model.moment import NANOSECONDS, format_time

WORD_FRESH_SECONDS: Final = 10.0


def cursor_row(driver: RunningLink, links: Links, monitor: PeerMonitor | None) -> dict[str, Any]:
    """One link as ``bsfg cursor query`` prints it."""
    link, cursor = driver.link, driver.link.cursor
    error = links.error(driver.name)
    has_fact = cursor is not None and cursor.sequence is not None
    return {
        "peer": driver.name.peer,
        "stream": driver.name.stream,
        "state": links.state(driver.name).value,
        "reason": link.halt.reason.value if link.halt else None,
        "epoch": cursor.epoch if cursor else None,
        "generation": link.fence.generation if link.fence else None,
        "sequence": cursor.sequence if cursor else None,
        "digest": cursor.digest if cursor else None,
        "scanned_through": cursor.scanned_through if cursor else None,
        "local_sequence": link.fence.local_sequence if link.fence and has_fact else None,
        **sender_word(driver, monitor),
        "init": init_row(link.init),
        "gaps": [gap_row(gap) for gap in link.gaps],
        "error": link.halt.message if link.halt else error.message if error else None,
    }


def sender_word(driver: RunningLink, monitor: PeerMonitor | None) -> dict[str, Any]:
    """Head and lag by the sender's word while it is fresh and the peer is reachable; its age always."""
    word, heard_at = driver.link.word, driver.heard_at
    age = None if heard_at is None else driver.clock.monotonic() - heard_at
    row: dict[str, Any] = {
        "head": None,
        "head_age_seconds": None if age is None else round(age, 3),
        "lag_facts": None,
        "lag_seconds": None,
    }
    if word is None or not _is_fresh(driver, monitor):
        return row
    in_hand = driver.in_hand
    oldest = word.next_time if in_hand.oldest_time is None else in_hand.oldest_time
    lag = 0.0 if oldest is None else max(0, word.sender_time - oldest) / NANOSECONDS
    facts = word.pending + in_hand.facts
    return row | {"head": word.head, "lag_facts": facts, "lag_seconds": round(lag, 6)}


def lag_facts(driver: RunningLink, monitor: PeerMonitor | None) -> int | None:
    """The lag alone, as :func:`sender_word` has it."""
    word = driver.link.word
    return None if word is None or not _is_fresh(driver, monitor) else word.pending + driver.in_hand.facts


def _is_fresh(driver: RunningLink, monitor: PeerMonitor | None) -> bool:
    """Whether the sender's word counts: it is fresh, and the peer is reachable (contract, section 8)."""
    if driver.heard_at is None or (monitor is not None and monitor.reachable is False):
        return False
    return driver.clock.monotonic() - driver.heard_at <= WORD_FRESH_SECONDS


def init_row(init: Init | None) -> dict[str, Any] | None:
    if init is None:
        return None
    return {
        "mode": init.mode,
        "timestamp": None if init.timestamp is None else format_time(init.timestamp),
        "justification": init.justification,
        "epoch": init.epoch,
        "start_sequence": init.start_sequence,
        "resolved_at": format_time(init.resolved_at),
    }


def gap_row(gap: Gap) -> dict[str, Any]:
    return {"from": gap.first, "to": gap.last, "time": format_time(gap.time), "reason": gap.reason}


def time_or_none(nanoseconds: int | None) -> str | None:
    return None if nanoseconds is None else format_time(nanoseconds)
