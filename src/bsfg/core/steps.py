"""What a link does by itself, and nothing beside: locate, save its record, wait, rest, halt."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from bsfg.core.changing import changed
from bsfg.core.conversation import Announce, Commands, Locate, SaveRecord, Wait
from bsfg.core.link_state import Link, Phase, StepFailure
from bsfg.core.reconcile import Halt
from bsfg.model.cursor import Gap, LinkRecord, LinkState

RETENTION: Final = "retention"
"""Why a gap is one: the sender no longer has the facts."""


def locate(link: Link) -> tuple[Link, Commands]:
    link = next_step(forget(link), Phase.LOCATING)
    return link, (Locate(link.ticket),)


def next_step(link: Link, phase: Phase) -> Link:
    return changed(link, phase=phase, ticket=link.ticket + 1, step=link.ticket + 1)


def forget(link: Link) -> Link:
    """Take back everything that is out, and with it the leave to pass a gap: that rests on a record that was saved."""
    link = changed(link, step=None, fetch=None, is_polling=False, accept_gap=None, is_fence_proved=False)
    return changed(link, flights=(), held=None, fetch_failure=None)


def rest(link: Link, phase: Phase) -> Link:
    """Nothing is out until an outside word comes."""
    return replace(forget(link), phase=phase)


def save_record(link: Link) -> tuple[Link, Commands]:
    cursor, fence = link.cursor, link.fence
    assert cursor is not None and fence is not None and not link.flights
    record = LinkRecord(
        generation=fence.generation,
        created=fence.created,
        local_sequence=fence.local_sequence,
        cursor=cursor,
        init=link.init,
        gaps=link.gaps,
    )
    link = next_step(link, Phase.RECORDING)
    return link, (SaveRecord(link.ticket, record, link.revision),)


def pass_gap(link: Link, gap: Gap) -> tuple[Link, Commands]:
    """The gap is durable before the first fact behind it (design, decision 4)."""
    known = tuple(other for other in link.gaps if other.first != gap.first)
    return save_record(changed(link, gaps=(*known, gap), accept_gap=(gap.first, gap.last)))


def wait(link: Link, failure: StepFailure, trouble: LinkState) -> tuple[Link, Commands]:
    failures = link.failures + 1
    link = changed(link, failures=failures, trouble=trouble, error=failure.error, doubtful=())
    if link.is_partitioned:
        return rest(link, Phase.PARTITIONED), ()
    link = next_step(forget(link), Phase.WAITING)
    return link, (Wait(link.ticket, link.settings.backoff.delay(failures, failure.chance)),)


def halt_link(link: Link, halt: Halt) -> tuple[Link, Commands]:
    """Only an operator goes on from here, and what one had decided about an earlier halt is over."""
    link = replace(rest(link, Phase.HALTED), halt=halt, gap_to_record=None, start_to_take=None)
    return link, (Announce("link_halted", f"link halted: {halt.reason}: {halt.message}"),)
