"""A level link's poll that brings nothing new: it stays out, is asked again as it is, and nothing else changes.

Most of what a gateway with many links does while nothing happens, so it has a way of its own that is short.
"""

from __future__ import annotations

from bsfg.core.link_state import Link, Phase, SenderWord
from bsfg.model.page import Page


def still_level(link: Link, ticket: int, page: Page) -> Link | None:
    """The link after such an answer; None where ``link.advance`` has to judge it.

    It is what ``advance`` makes of the page, but that the same poll goes on under its ticket.
    """
    if link.fetch != ticket or not link.is_polling or not (_is_at_rest(link) and _says_nothing_new(link, page)):
        return None
    return link._replace(word=SenderWord.of(page), rounds=link.rounds + 1)


def _says_nothing_new(link: Link, page: Page) -> bool:
    cursor = link.cursor
    return (
        cursor is not None
        and not page.facts
        and page.pending == 0
        and page.scanned_through == cursor.scanned_through
        and page.epoch == cursor.epoch
    )


def _is_at_rest(link: Link) -> bool:
    """Whether nothing is under way, owed, or to be announced."""
    is_level = link.word is not None and link.word.pending == 0
    has_trouble = link.failures > 0 or link.trouble is not None or link.error is not None
    return (
        link.phase is Phase.FLOWING
        and not link.is_partitioned
        and is_level
        and not has_trouble
        and not link.flights
        and link.fetch_failure is None
        and link.accept_gap is None
        and link.recovery is None
        and not link.owes_confirm
        and not link.is_record_behind
    )
