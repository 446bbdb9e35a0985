"""Notices when configuration or certificates have changed, by asking; nothing here waits or reads a clock."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from bsfg.config.home import Home

SETTLE_SECONDS: Final = 1.0
FILES_MAX: Final = 10_000
_CHUNK_BYTES: Final = 1024 * 1024

Signature = tuple[tuple[object, ...], ...]


class ChangeWatch:
    """Compares ``config/*.yaml``, ``certs/*`` and further files with what was last taken up.

    Files are hashed only when what ``stat`` says of them has changed, or their links lead elsewhere. A change counts
    once it has stood still for ``SETTLE_SECONDS``, and only if it is one of content: a touched file is none.
    """

    def __init__(self, home: Path, further: Iterable[Path] = ()) -> None:
        self._home = Home(home)
        self._further: tuple[Path, ...] = tuple(further)
        self._signature: Signature = ()
        self._content = b""
        self._changed_at: float | None = None
        self._is_settled = False
        self.accept()

    def accept(self, further: Iterable[Path] | None = None) -> None:
        """Take the present content as known, and from now on watch these further files (None: the same).

        Call it just before the files are read: what changes while they are read is then found by the next polls.
        """
        if further is not None:
            self._further = tuple(further)
        self._signature = self._look()
        self._content = self._digest()
        # A write within the same tick of the file system's clock would leave the signature as it is: look again.
        self._is_settled = False
        self._changed_at = None

    def poll(self, now_monotonic: float) -> bool:
        """True once for each change of content since it was last accepted or reported, when it has settled."""
        signature = self._look()
        if signature != self._signature or (self._changed_at is None and not self._is_settled):
            self._signature = signature
            self._changed_at = now_monotonic
            self._is_settled = False
        if self._is_settled or self._changed_at is None or now_monotonic - self._changed_at < SETTLE_SECONDS:
            return False
        self._is_settled = True
        content = self._digest()
        if content == self._content:
            return False
        self._content = content
        return True

    def _files(self) -> list[str]:
        """What is watched, by name; the contents of directories that can't be listed are none."""
        found = set(map(str, self._further))
        for directory, suffix in ((str(self._home.config), ".yaml"), (str(self._home.certs), "")):
            try:
                names = [entry.name for entry in os.scandir(directory)]
            except OSError:
                continue
            found.update(f"{directory}/{name}" for name in names if name.endswith(suffix) and name[0] != ".")
        return sorted(found)[:FILES_MAX]

    def _look(self) -> Signature:
        return tuple(_signature(path) for path in self._files())

    def _digest(self) -> bytes:
        total = hashlib.sha256()
        for path in self._files():
            content = _content_digest(path)
            if content is not None:
                total.update(os.fsencode(path) + b"\0" + content)
        return total.digest()


def _signature(path: str) -> tuple[object, ...]:
    """What tells a file from another and from itself before; links are followed, so a link that is swapped tells."""
    try:
        status = Path(path).stat()
    except (OSError, ValueError) as error:
        return (path, type(error).__name__)
    return (path, status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size)


def _content_digest(path: str) -> bytes | None:
    """sha-256 of a regular file's bytes; what can't be read is known by its error; directories are nothing."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        return type(error).__name__.encode()
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            return None if stat.S_ISDIR(mode) else b"not a file"
        return _hash_descriptor(descriptor)
    except OSError as error:
        return type(error).__name__.encode()
    finally:
        os.close(descriptor)


def _hash_descriptor(descriptor: int) -> bytes:
    hasher = hashlib.sha256()
    while chunk := os.read(descriptor, _CHUNK_BYTES):
        hasher.update(chunk)
    return hasher.digest()
