"""Files of the gateway's own that are old or new, never mixed, and that only their owner reads (I6, I38)."""

from __future__ import annotations

import os
import secrets
from pathlib import Path
from typing import Final

PRIVATE_MODE: Final = 0o600
FOLDER_MODE: Final = 0o700


def private_folder(path: Path) -> None:
    """The folder exists, with all above it, and only its owner enters it if it is new."""
    path.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)


def write_draft(path: Path, content: bytes) -> Path:
    """A new file beside ``path``, 0600 from its first byte and durable, to be renamed or linked by the caller."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE_MODE)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    return draft


def replace_private(path: Path, content: bytes) -> None:
    """Put the content in place of the file's; durable on return."""
    draft = write_draft(path, content)
    try:
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Names made, replaced or removed in the folder are durable on return."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
