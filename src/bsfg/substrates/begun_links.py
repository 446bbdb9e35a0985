"""Which links have begun, told by files beside the store (I8, I21).

A store that has lost a link's inbound stream and its record whole, as a power cut can under ``lazy``, looks as if the
link had never been. ``data/links/<peer>.<stream>`` is there from when the link's start is on record until the link is
forgotten.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from bsfg.errors import SubstrateUnavailable
from bsfg.model.cursor import LinkName
from bsfg.model.names import link_key
from bsfg.substrates.private_files import private_folder, replace_private, sync_folder

Report = Callable[[str], None]


class BegunLinks:
    """The files in one folder, which is made when the first link begins."""

    def __init__(self, folder: Path, report: Report) -> None:
        """``report`` is told of a file that can't be written; it is tried again whenever the link is looked at."""
        self._folder = folder
        self._report = report
        self._known: set[LinkName] = set()

    async def has_begun(self, link: LinkName) -> bool:
        """Whether the link was noted and not forgotten; ``SubstrateUnavailable`` if that can't be seen."""
        file = self._file(link)
        try:
            return link in self._known or await asyncio.to_thread(file.exists)
        except OSError as error:
            raise SubstrateUnavailable(f"link {link}: looking for {file}: {error.strerror}") from error

    async def note(self, link: LinkName) -> None:
        """The link has begun, durably on return, unless that was reported to fail."""
        if link in self._known:
            return
        file = self._file(link)
        try:
            await asyncio.to_thread(self._note, file)
        except OSError as error:
            self._report(f"link {link}: that it has begun can't be written to {file}: {error.strerror}")
        else:
            self._known.add(link)

    async def forget(self, link: LinkName) -> None:
        """The link is as one that never began, durably on return; ``SubstrateUnavailable`` where that fails."""
        self._known.discard(link)
        file = self._file(link)
        try:
            await asyncio.to_thread(self._forget, file)
        except OSError as error:
            raise SubstrateUnavailable(f"link {link}: removing {file}: {error.strerror}") from error

    def _file(self, link: LinkName) -> Path:
        return self._folder / link_key(link.peer, link.stream)

    def _note(self, file: Path) -> None:
        if not file.exists():
            private_folder(self._folder)
            replace_private(file, b"")

    def _forget(self, file: Path) -> None:
        if file.exists():
            file.unlink(missing_ok=True)
            sync_folder(self._folder)
