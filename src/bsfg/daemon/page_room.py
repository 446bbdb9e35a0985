"""The memory that pages have in one process, shared by all links that catch up at the same time.

A link that catches up has about six pages in hand: being read, decoded, waiting, and up to three being stored. Alone
it has the largest, which cost the least for each fact; a zone that catches up with twenty plants after an outage must
not hold twenty times as much.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

ROOM_BYTES: Final = 3 * 1024 * 1024
"""Of one page of each link that catches up."""
PAGE_BYTES_MIN: Final = 256 * 1024
"""Smaller pages cost more than they spare."""


class PageRoom:
    """Which links catch up, and how large their pages may be. Used from the event loop alone."""

    def __init__(self) -> None:
        self._links = 0

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Inside the block one more link catches up."""
        self._links += 1
        try:
            yield
        finally:
            self._links -= 1

    def page_bytes(self, wanted: int) -> int:
        """The most bytes of the next page of a link that would like so many."""
        return min(wanted, max(PAGE_BYTES_MIN, ROOM_BYTES // self._links)) if self._links else wanted
