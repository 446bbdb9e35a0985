"""The audit log: one hash-chained line for each security decision and operator action (I48).

Each line carries the sha-256 of the line before it, so that a changed, missing or inserted line breaks the chain.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any, Final

from bsfg.errors import BsfgError, Code
from bsfg.model.moment import format_time
from bsfg.ports import Clock

FIRST_LINK: Final = "0" * 64
TAIL_BYTES: Final = 64 * 1024


class AuditLog:
    """An append-only file ``data/audit.jsonl``; a record is on disk when :meth:`record` returns."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self._clock = clock
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._previous = _last_hash(path)

    def record(self, action: str, outcome: str, **details: Any) -> None:
        """Write one record and fsync it; keys of ``details`` stand beside time, action and outcome."""
        entry = {
            "time": format_time(self._clock.now()),
            "action": action,
            "outcome": outcome,
            **details,
            "previous": self._previous,
        }
        line = json.dumps(entry, default=str).encode()
        try:
            os.write(self._descriptor, line + b"\n")
            os.fsync(self._descriptor)
        except OSError as cause:
            raise BsfgError(
                Code.INTERNAL,
                f"writing the audit log failed: {cause.strerror}",
                hint="free space on the disk of data/",
            ) from cause
        self._previous = hashlib.sha256(line).hexdigest()

    def close(self) -> None:
        os.close(self._descriptor)


def _last_hash(path: Path) -> str:
    """The hash of the last whole line; a torn last line, cut by a crash, is closed first so that it stays one line."""
    with path.open("r+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - TAIL_BYTES))
        tail = file.read()
        if tail and not tail.endswith(b"\n"):
            file.write(b"\n")
            tail += b"\n"
    lines = tail.splitlines()
    return hashlib.sha256(lines[-1]).hexdigest() if lines else FIRST_LINK
