"""The memory that pages have in one process, shared by all links that catch up at the same time.

A link that catches up has about six pages in hand: being read, decoded, waiting, and up to three being stored. Alone
it has large ones, which cost the least for each fact; a zone that catches up with twenty plants after an outage must
not hold twenty times as much.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

SHARED_BYTES: Final = 2_560 * 1024
"""Of one page of each link, where several catch up."""
PAGE_BYTES_MIN: Final = 256 * 1024
"""Smaller pages cost more than they spare."""
LOOK_BYTES: Final = 1024 * 1024
"""Of a page that is asked for alone: links that begin at the same time don't know of each other yet."""


class PageRoom:
    """How many links catch up, and how large their pages may be. Used from the event loop alone."""

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

    def page_bytes(self, wanted: int, pages: int) -> int:
        """The most bytes of each page of the next answer, for a link that would like so many in so many pages."""
        most = wanted if pages > 1 else LOOK_BYTES
        if self._links > 1:
            most = min(most, max(PAGE_BYTES_MIN, SHARED_BYTES // self._links))
        return min(wanted, most)
