"""Where each link began, told by files beside the store (I8, I21).

A store that has lost a link's inbound stream and its record whole, as a power cut can under ``lazy``, looks as if the
link had never been. ``data/links/<peer>.<stream>.json`` says where it began, from when that is on record until the
link is forgotten.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

from bsfg.errors import SubstrateUnavailable
from bsfg.model.cursor import Begun, Init, LinkName
from bsfg.model.names import link_key
from bsfg.substrates.private_files import private_folder, replace_private, sync_folder
from bsfg.substrates.stored_records import decode_begun, encode_begun

Report = Callable[[str], None]


class BegunLinks:
    """The files in one folder, which is made when the first link begins."""

    def __init__(self, folder: Path, report: Report) -> None:
        """``report`` is told of a file that can't be written, which is tried again whenever the link is looked at, and
        of one that can't be understood."""
        self._folder = folder
        self._report = report
        self._noted: dict[LinkName, Init | None] = {}

    async def read(self, link: LinkName) -> Begun | None:
        """What was noted last; None where nothing was. ``SubstrateUnavailable`` if that can't be seen."""
        file = self._file(link)
        try:
            return decode_begun(await asyncio.to_thread(file.read_bytes))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise SubstrateUnavailable(f"link {link}: reading {file}: {error.strerror}") from error
        except ValueError as error:
            self._report(f"link {link}: where it began can't be read from {file}: {error}")
            return Begun(None)

    async def note(self, link: LinkName, init: Init | None) -> None:
        """The link has begun so, durably on return unless that was reported to fail; None leaves what is known."""
        if link in self._noted and (init is None or init == self._noted[link]):
            return
        file = self._file(link)
        try:
            known = await self.read(link)
            if known is None or (init is not None and init != known.init):
                known = Begun(init)
                await asyncio.to_thread(self._write, file, encode_begun(known))
        except SubstrateUnavailable as error:
            self._report(error.message)
        except OSError as error:
            self._report(f"link {link}: where it began can't be written to {file}: {error.strerror}")
        else:
            self._noted[link] = known.init

    async def forget(self, link: LinkName) -> None:
        """The link is as one that never began, durably on return; ``SubstrateUnavailable`` where that fails."""
        self._noted.pop(link, None)
        file = self._file(link)
        try:
            await asyncio.to_thread(self._remove, file)
        except OSError as error:
            raise SubstrateUnavailable(f"link {link}: removing {file}: {error.strerror}") from error

    def _file(self, link: LinkName) -> Path:
        return self._folder / f"{link_key(link.peer, link.stream)}.json"

    def _write(self, file: Path, content: bytes) -> None:
        private_folder(self._folder)
        replace_private(file, content)

    def _remove(self, file: Path) -> None:
        if file.exists():
            file.unlink(missing_ok=True)
            sync_folder(self._folder)
