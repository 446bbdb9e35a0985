"""Facts that the inbound stream can't take, kept as files where an operator finds their bytes (contract, section 3).

``data/quarantine/<peer>/<stream>/<epoch>-<sequence>`` holds the payload, and the same name with ``.json`` what else
was known of the fact. The whole folder is bounded.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bsfg.errors import BsfgError, Code, StoreFull
from bsfg.model.cursor import LinkName
from bsfg.model.fact import Fact, digest, header_pairs
from bsfg.model.moment import format_time
from bsfg.substrates.private_files import private_folder, replace_private


class FileQuarantine:
    """``ports.Quarantine`` in a folder of at most ``bytes_max`` bytes."""

    def __init__(self, folder: Path, bytes_max: int) -> None:
        self._folder = folder
        self._bytes_max = bytes_max

    async def put(self, link: LinkName, epoch: str, fact: Fact) -> None:
        """The fact's bytes are durable on return; putting it again changes nothing.

        Raises ``QUOTA_EXCEEDED`` when the quarantine has no room for it, ``StoreFull`` when the disk has none.
        """
        await asyncio.to_thread(self._put, link, epoch, fact)

    def _put(self, link: LinkName, epoch: str, fact: Fact) -> None:
        folder = self._folder / link.peer / link.stream
        path = folder / f"{epoch}-{fact.sequence}"
        description = json.dumps(_description(link, epoch, fact)).encode()
        if path.exists() and path.with_name(path.name + ".json").exists():
            return
        try:
            for part in (self._folder, self._folder / link.peer, folder):
                private_folder(part)
            with _one_at_a_time(self._folder):
                self._demand_room(len(fact.payload) + len(description), link, fact)
                replace_private(path, fact.payload)
                replace_private(path.with_name(path.name + ".json"), description)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StoreFull(f"quarantine of {link}: the disk is full") from error
            raise BsfgError(
                Code.INTERNAL, f"quarantine of {link}: writing {path} failed: {error.strerror}"
            ) from error

    def _demand_room(self, size: int, link: LinkName, fact: Fact) -> None:
        held = sum(path.stat().st_size for path in self._folder.rglob("*") if path.is_file())
        if held + size > self._bytes_max:
            raise BsfgError(
                Code.QUOTA_EXCEEDED,
                f"quarantine of {link}: fact {fact.sequence} does not fit: {held} of {self._bytes_max} bytes are taken",
                hint=f"look at {self._folder}, remove what is settled, or raise limits.quarantine_bytes",
            )


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """The room is the whole zone's, and worker processes put facts there beside each other."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _description(link: LinkName, epoch: str, fact: Fact) -> dict[str, object]:
    return {
        "zone": link.peer,
        "stream": link.stream,
        "epoch": epoch,
        "sequence": fact.sequence,
        "subject": fact.subject,
        "time": format_time(fact.time),
        "headers": [list(pair) for pair in header_pairs(fact.headers)],
        "payload_bytes": len(fact.payload),
        "digest": digest(fact),
    }
