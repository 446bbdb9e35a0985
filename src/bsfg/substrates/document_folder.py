"""A folder of documents that appears whole or not at all, and reading one that others may have touched (I6)."""

from __future__ import annotations

import errno
import os
import secrets
import shutil
import stat
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from bsfg.errors import BsfgError, Code, StoreFull
from bsfg.substrates.private_files import PRIVATE_MODE, private_folder, sync_folder

FILES_MAX: Final = 10_000
FOLDER_BYTES_MAX: Final = 256 * 1024 * 1024
_DRAFT_PREFIX: Final = ".draft-"
_DRAFT_SECONDS: Final = 3600
"""Older drafts are what a killed process left."""


def write_folder(path: Path, files: Mapping[str, bytes]) -> None:
    """The folder with these files is at ``path``, durable on return; it never is there in part.

    It is built beside its parent and renamed. Raises ``CONFLICTING_DUPLICATE`` if something is there already,
    ``StoreFull`` when the disk has no room, ``INTERNAL`` for any other failure; nothing is left behind by any of them.
    """
    parent = path.parent
    try:
        private_folder(parent)
        _sweep(parent.parent, parent.name)
        draft = parent.parent / f"{_DRAFT_PREFIX}{parent.name}-{secrets.token_hex(8)}"
        try:
            _fill(draft, files)
            draft.rename(path)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
        sync_folder(parent)
    except OSError as error:
        raise _failure(path, error) from error


def read_folder(path: Path) -> dict[str, bytes]:
    """Every file below the folder by its path in it; links are never followed.

    Raises ``NOT_FOUND`` if there is no such folder, ``CHECK_FAILED`` for what is neither file nor folder, and for more
    files or bytes than such a folder has.
    """
    if not path.is_dir():
        raise BsfgError(Code.NOT_FOUND, f"{path} is not a folder", hint="name a folder of data/handoff")
    files: dict[str, bytes] = {}
    room = FOLDER_BYTES_MAX
    for file in _files_below(path):
        content = _content(file, room)
        room -= len(content)
        files[file.relative_to(path).as_posix()] = content
        if len(files) > FILES_MAX:
            raise BsfgError(Code.CHECK_FAILED, f"{path} holds more than {FILES_MAX} files")
    return files


def _fill(draft: Path, files: Mapping[str, bytes]) -> None:
    private_folder(draft)
    folders = {draft: None}
    for name, content in files.items():
        file = draft.joinpath(*name.split("/"))
        for above in reversed(file.relative_to(draft).parents[:-1]):
            private_folder(draft / above)
            folders[draft / above] = None
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE_MODE)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
    for folder in folders:
        sync_folder(folder)


def _sweep(folder: Path, name: str) -> None:
    oldest = time.time() - _DRAFT_SECONDS
    for draft in folder.glob(f"{_DRAFT_PREFIX}{name}-*"):
        if draft.stat().st_mtime < oldest:
            shutil.rmtree(draft, ignore_errors=True)


def _files_below(path: Path) -> Iterator[Path]:
    for folder, names, file_names in os.walk(path, onerror=_raise):
        for name in sorted((*names, *file_names)):
            entry = Path(folder, name)
            mode = entry.lstat().st_mode
            if stat.S_ISREG(mode):
                yield entry
            elif not stat.S_ISDIR(mode):
                raise BsfgError(Code.CHECK_FAILED, f"{entry} is neither a file nor a folder")


def _raise(error: OSError) -> None:
    raise BsfgError(Code.CHECK_FAILED, f"{error.filename} can't be read: {error.strerror}") from error


def _content(file: Path, room: int) -> bytes:
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as stream:
            content = stream.read(room + 1)
    except OSError as error:
        raise BsfgError(Code.CHECK_FAILED, f"{file} can't be read: {error.strerror}") from error
    if len(content) > room:
        raise BsfgError(Code.CHECK_FAILED, f"{file}: its folder holds more than {FOLDER_BYTES_MAX} bytes")
    return content


def _failure(path: Path, error: OSError) -> BsfgError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreFull(f"{path} was not written: the disk is full", hint="free space and write it again")
    if error.errno in (errno.EEXIST, errno.ENOTEMPTY):
        return BsfgError(Code.CONFLICTING_DUPLICATE, f"{path} was not written: it exists")
    return BsfgError(
        Code.INTERNAL, f"{path} was not written: {error.strerror}", hint=f"look at {path.parent}"
    )
