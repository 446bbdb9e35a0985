"""Files below one folder, none of which is reached through a symbolic link; nothing here knows what they hold.

Every step down is taken from the descriptor of the folder above, so that a link that somebody puts into the folder
is an error and never a way out of it. A path is a tuple of names.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from bsfg.errors import BsfgError, StoreFull, SubstrateUnavailable
from bsfg.substrates.private_files import FOLDER_MODE, PRIVATE_MODE, private_folder

_ENTER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE: Final = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
Names = tuple[str, ...]


class ArtifactFolder:
    """The folder, held open. Raises ``StoreFull`` and ``SubstrateUnavailable``, and ``FileNotFoundError`` and
    ``FileExistsError`` where a file is not, or is, there."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            private_folder(path)
            self._root = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise _failed("open", path, error) from error

    @property
    def path(self) -> Path:
        return self._path

    def close(self) -> None:
        with suppress(OSError):
            os.close(self._root)

    def open(self, names: Names, flags: int = os.O_RDONLY) -> int:
        """The descriptor of a plain file; folders above it are made where the flags create it."""
        with self._errors("open", names), self._above(names, create=bool(flags & os.O_CREAT)) as above:
            descriptor = os.open(names[-1], flags | _FILE, PRIVATE_MODE, dir_fd=above)
            if stat.S_ISREG(os.fstat(descriptor).st_mode):
                return descriptor
            os.close(descriptor)
            raise OSError(errno.EINVAL, "not a plain file")

    def size(self, names: Names) -> int | None:
        """Bytes of a plain file; None if there is none."""
        try:
            descriptor = self.open(names)
        except FileNotFoundError:
            return None
        try:
            return os.fstat(descriptor).st_size
        finally:
            os.close(descriptor)

    def read(self, names: Names, bytes_max: int) -> bytes:
        descriptor = self.open(names)
        with self._errors("read", names), os.fdopen(descriptor, "rb") as file:
            return file.read(bytes_max)

    def move(self, source: Names, target: Names) -> None:
        """Put a file in another place, whatever is there; durable on return."""
        with (
            self._errors("move", target),
            self._above(source) as old,
            self._above(target, create=True) as new,
        ):
            os.rename(source[-1], target[-1], src_dir_fd=old, dst_dir_fd=new)
            os.fsync(new)

    def publish(self, draft: Names, target: Names) -> None:
        """Give a finished draft its name, durably; ``FileExistsError`` if the name is taken. The draft is gone."""
        with (
            self._errors("publish", target),
            self._above(draft) as old,
            self._above(target, create=True) as new,
        ):
            try:
                os.link(draft[-1], target[-1], src_dir_fd=old, dst_dir_fd=new, follow_symlinks=False)
                os.fsync(new)
            finally:
                os.unlink(draft[-1], dir_fd=old)

    def remove(self, names: Names) -> None:
        """The file is gone, durably; nothing happens if it is not there."""
        with self._errors("remove", names), suppress(FileNotFoundError), self._above(names) as above:
            os.unlink(names[-1], dir_fd=above)
            os.fsync(above)

    def files(self, names: Names) -> Iterator[tuple[Names, os.stat_result]]:
        """Every plain file below a folder; of anything else nothing is told."""
        try:
            with self._errors("list", names), self._enter(names) as folder:
                entries = sorted(os.listdir(folder))  # noqa: PTH208
                found = [(name, os.stat(name, dir_fd=folder, follow_symlinks=False)) for name in entries]
        except FileNotFoundError:
            return
        for name, state in found:
            if stat.S_ISDIR(state.st_mode):
                yield from self.files((*names, name))
            elif stat.S_ISREG(state.st_mode):
                yield (*names, name), state

    @contextmanager
    def _above(self, names: Names, *, create: bool = False) -> Iterator[int]:
        with self._enter(names[:-1], create=create) as descriptor:
            yield descriptor

    @contextmanager
    def _enter(self, names: Names, *, create: bool = False) -> Iterator[int]:
        current = os.dup(self._root)
        try:
            for name in names:
                below = _step(current, name, create=create)
                os.close(current)
                current = below
            yield current
        finally:
            os.close(current)

    @contextmanager
    def _errors(self, operation: str, names: Names) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, FileExistsError):
            raise
        except OSError as error:
            raise _failed(operation, self._path.joinpath(*names), error) from error


def _step(folder: int, name: str, *, create: bool) -> int:
    try:
        return os.open(name, _ENTER, dir_fd=folder)
    except FileNotFoundError:
        if not create:
            raise
    with suppress(FileExistsError):
        os.mkdir(name, FOLDER_MODE, dir_fd=folder)
        os.fsync(folder)
    return os.open(name, _ENTER, dir_fd=folder)


def _failed(operation: str, path: Path, error: OSError) -> BsfgError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreFull(
            f"artifact store: {operation} {path}: the disk is full",
            hint="free space; nothing half-written shows",
        )
    if error.errno in (errno.ELOOP, errno.ENOTDIR):
        return SubstrateUnavailable(
            f"artifact store: {operation} {path}: there is a symbolic link on the way, or something that is no folder",
            hint="only the gateway writes below this folder; remove what it did not make",
        )
    return SubstrateUnavailable(f"artifact store: {operation} {path}: {error.strerror}")
