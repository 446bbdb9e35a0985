"""The lines of a recovery, in the words and the order of the contract (section 8)."""

from __future__ import annotations

from bsfg.core.changing import changed
from bsfg.core.conversation import Announce, Commands
from bsfg.core.link_state import Link, Recovery
from bsfg.model.page import Page


def announce_recovery(link: Link, page: Page) -> tuple[Link, Commands]:
    if link.recovery is None or link.recovery.target is not None or link.cursor is None:
        return link, ()
    local, missing = link.cursor.sequence or 0, page.pending + len(page.facts)
    lines = (
        Announce("cursor_comparison", f"cursor comparison: local={local}, peer={page.head}"),
        Announce("backfill_required", f"backfill required: {missing} facts"),
        Announce("replay_initiated", "replay initiated"),
    )
    return changed(link, recovery=Recovery(target=page.head)), lines


def announce_arrival(link: Link) -> tuple[Link, Commands]:
    recovery, cursor = link.recovery, link.cursor
    if recovery is None or recovery.target is None or cursor is None:
        return link, ()
    if cursor.scanned_through < recovery.target:
        return link, ()
    line = Announce("cursor_advanced", f"cursor advanced to {recovery.target}")
    return changed(link, recovery=None), (line,)
