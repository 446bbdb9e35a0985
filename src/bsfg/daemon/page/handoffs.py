"""Handoff reports, as files of ``data/handoff/``: listed, and served so that nothing in them can act."""

from __future__ import annotations

import json
import os
import re
import stat
from pathlib import Path
from typing import Any, Final

from bsfg.errors import BsfgError, Code

FOLDERS_MAX: Final = 50
FILE_BYTES_MAX: Final = 8 * 1024 * 1024
SUMMARY_BYTES_MAX: Final = 2 * 1024 * 1024
_FOLDER: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9:.+-]{0,127}", re.ASCII)
FILES: Final = {
    "handoff.html": "text/html; charset=utf-8",
    "handoff.md": "text/plain; charset=utf-8",
    "handoff.json": "application/json",
    "manifest.json": "application/json",
}


def listed(directory: Path) -> list[dict[str, Any]]:
    """The newest reports first: folder, the files that it has, and what it says of itself."""
    try:
        names = sorted((entry.name for entry in directory.iterdir() if _FOLDER.fullmatch(entry.name)), reverse=True)
    except OSError:
        return []
    return [_summary(directory / name) for name in names[:FOLDERS_MAX] if (directory / name).is_dir()]


def read_file(directory: Path, folder: str, name: str) -> tuple[bytes, str]:
    """A report's file and its media type; ``not_found`` for anything that is not exactly one of them."""
    if _FOLDER.fullmatch(folder) is None or name not in FILES:
        raise BsfgError(Code.NOT_FOUND, "there is no such handoff report")
    try:
        # The folder was made by this gateway, but what lies in it may have been brought from elsewhere.
        descriptor = os.open(directory / folder / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        raise BsfgError(Code.NOT_FOUND, "there is no such handoff report") from None
    with os.fdopen(descriptor, "rb") as file:
        state = os.fstat(file.fileno())
        if not stat.S_ISREG(state.st_mode) or state.st_size > FILE_BYTES_MAX:
            raise BsfgError(Code.NOT_FOUND, "there is no such handoff report")
        return file.read(FILE_BYTES_MAX), FILES[name]


def _summary(folder: Path) -> dict[str, Any]:
    row: dict[str, Any] = {
        "folder": folder.name,
        "files": [name for name in FILES if (folder / name).is_file()],
        "accepted": None,
        "peer": folder.name.rpartition("Z-")[2] if "Z-" in folder.name else None,
    }
    try:
        content, _ = read_file(folder.parent, folder.name, "handoff.json")
        record = json.loads(content) if len(content) <= SUMMARY_BYTES_MAX else None
    except (BsfgError, ValueError, RecursionError):
        return row
    if isinstance(record, dict) and isinstance(record.get("accepted"), bool):
        row["accepted"] = record["accepted"]
    return row
