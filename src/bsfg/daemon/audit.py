"""The audit log: one hash-chained line for each security decision and operator action (I48).

What an operator decides is on disk before it acts. What strangers cause is written by a thread from a bounded queue,
so that a flood of refusals holds up nothing; what finds no room is counted in the record behind it.
"""

from __future__ import annotations

import errno
import json
import os
import queue
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from bsfg.daemon.audit_files import (
    CURRENT,
    FIRST_LINK,
    LINE_BYTES_MAX,
    REMOVED,
    TORN,
    full_files,
    full_name,
    last_line,
    last_record,
    link_of,
)
from bsfg.errors import BsfgError, Code
from bsfg.model.moment import format_time
from bsfg.ports import Clock
from bsfg.substrates.private_files import private_folder, sync_folder

BYTES_MAX_DEFAULT: Final = 256 * 1024 * 1024
FILES_OF_THE_BOUND: Final = 16
"""A file is full at this part of the whole bound, so that little goes at once."""
QUEUE_MAX: Final = 1_000
VALUE_CHARACTERS_MAX: Final = 16 * 1024
"""Of one detail as JSON."""
READ: Final = "read"
"""The action of a record of what a peer was allowed to read."""
CUT_CHARACTERS: Final = 1_000
"""What stays of a longer one."""
_CLOSE_SECONDS: Final = 5.0


class AuditLog:
    """The files ``data/audit.jsonl`` and ``data/audit-*.jsonl``: at most ``bytes_max``, the oldest going first."""

    def __init__(
        self,
        path: Path,
        clock: Clock,
        *,
        bytes_max: int = BYTES_MAX_DEFAULT,
        by: Callable[[], str] = lambda: "the gateway",
    ) -> None:
        self._clock = clock
        self._path = path
        self._bytes_max = bytes_max
        self._by = by
        self._lock = threading.Lock()
        self._waiting: queue.Queue[Mapping[str, Any] | None] = queue.Queue(QUEUE_MAX)
        # Each is counted by one thread alone: the caller's, and the writer's twice.
        self._refused = self._failed = self._told = 0
        private_folder(path.parent)
        is_torn = _close_torn_line(path)
        self._descriptor, self._size = _open(path)
        self._previous = self._last_link()
        self._writer = threading.Thread(target=self._write_waiting, name="audit", daemon=True)
        self._writer.start()
        if is_torn:
            self.record(TORN, "noted", cause="a crash cut the line before this one")

    def record(self, action: str, outcome: str, **details: Any) -> None:
        """Write one record and fsync it; keys of ``details`` stand beside time, action, outcome and by.

        On disk on return. Raises ``INTERNAL`` where the disk does not take it: what is recorded must not happen then.
        """
        self._write([self._entry(action, outcome, details)])

    def note(self, action: str, outcome: str, **details: Any) -> None:
        """Write one record soon, without waiting for the disk and without an error; lost ones are counted."""
        try:
            self._waiting.put_nowait(self._entry(action, outcome, details))
        except queue.Full:
            self._refused += 1

    def last(self, action: str, outcome: str) -> dict[str, Any] | None:
        """The newest record of this kind, if it is near the end."""
        with self._lock:
            return last_record(self._path.parent, action, outcome)

    def settle(self) -> None:
        """Everything that was noted is on disk, or lost, on return."""
        self._waiting.join()

    def close(self) -> None:
        """What waits is written; a disk that does not answer is not waited for."""
        with suppress(queue.Full):
            self._waiting.put(None, timeout=_CLOSE_SECONDS)
        self._writer.join(_CLOSE_SECONDS)
        with self._lock:
            os.close(self._descriptor)

    def _entry(self, action: str, outcome: str, details: Mapping[str, Any]) -> dict[str, Any]:
        entry = {"time": format_time(self._clock.now()), "action": action, "outcome": outcome}
        return entry | {"by": self._by()} | {name: _bounded(value) for name, value in details.items()}

    def _write_waiting(self) -> None:
        while True:
            entries = [self._waiting.get()]
            with suppress(queue.Empty):
                while len(entries) < QUEUE_MAX:
                    entries.append(self._waiting.get_nowait())
            self._write_noted([entry for entry in entries if entry is not None])
            for _ in entries:
                self._waiting.task_done()
            if None in entries:
                return

    def _write_noted(self, entries: list[Mapping[str, Any]]) -> None:
        lost = self._refused + self._failed
        counted = (
            [self._entry("audit.lost", "noted", {"records": lost - self._told})] if lost > self._told else []
        )
        try:
            self._write([*entries, *counted])
            self._told = lost
        except BsfgError:
            # The disk takes none; the next record that it takes is followed by their count.
            self._failed += len(entries)

    def _write(self, entries: list[Mapping[str, Any]]) -> None:
        """Lines in one chain; the lock is not held while the disk is waited for."""
        if not entries:
            return
        try:
            with self._lock:
                for entry in entries:
                    self._append(entry)
                descriptor = os.dup(self._descriptor)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as cause:
            raise BsfgError(
                Code.INTERNAL,
                f"writing the audit log failed: {cause.strerror}",
                hint="free space on the disk of data/",
            ) from cause

    def _append(self, entry: Mapping[str, Any]) -> None:
        if self._size >= self._bytes_max // FILES_OF_THE_BOUND:
            self._rotate()
        self._append_line(entry)

    def _append_line(self, entry: Mapping[str, Any]) -> None:
        line = self._line(entry)
        if len(line) > LINE_BYTES_MAX:
            kept = ("time", "action", "outcome", "by")
            line = self._line({name: entry[name] for name in kept} | {"is_cut": True})
        try:
            written = os.write(self._descriptor, line + b"\n")
            if written <= len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            # A piece of a line would break the chain for whatever follows.
            with suppress(OSError):
                os.ftruncate(self._descriptor, self._size)
            raise
        self._size += written
        self._previous = link_of(line)

    def _line(self, entry: Mapping[str, Any]) -> bytes:
        return json.dumps({**entry, "previous": self._previous}, default=str).encode()

    def _rotate(self) -> None:
        """Go on in a new file; the oldest go when all together are too many bytes, and a record names each."""
        folder = self._path.parent
        full = full_files(folder)
        os.fsync(self._descriptor)
        self._path.rename(folder / full_name(full[-1].serial + 1 if full else 1))
        os.close(self._descriptor)
        self._descriptor, self._size = _open(self._path)
        sync_folder(folder)
        full = full_files(folder)
        sizes = {file: file.path.stat().st_size for file in full}
        file_bytes = self._bytes_max // FILES_OF_THE_BOUND
        while len(full) > 1 and sum(sizes.values()) > self._bytes_max - 2 * file_bytes:
            oldest = full.pop(0)
            del sizes[oldest]
            last = link_of(last_line(oldest.path) or b"")
            details = {"file": oldest.path.name, "last": last, "cause": "limits.audit_bytes"}
            self._append_line(self._entry(REMOVED, "noted", details))
            oldest.path.unlink()

    def _last_link(self) -> str:
        line = last_line(self._path)
        if line is None:
            full = full_files(self._path.parent)
            line = last_line(full[-1].path) if full else None
        return FIRST_LINK if line is None else link_of(line)


def current_path(data: Path) -> Path:
    """Where the log is written below a home's ``data``."""
    return data / CURRENT


def _open(path: Path) -> tuple[int, int]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    return descriptor, os.fstat(descriptor).st_size


def _close_torn_line(path: Path) -> bool:
    """End a line that a crash cut, so that it stays one line; whether there was one."""
    line = last_line(path) if path.exists() else None
    if line is None:
        return False
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        if file.read(1) == b"\n":
            return False
        file.write(b"\n")
        file.flush()
        os.fsync(file.fileno())
    return True


def _bounded(value: Any) -> Any:
    """A value that can't fill a line, whoever it comes from."""
    text = json.dumps(value, default=str)
    if len(text) <= VALUE_CHARACTERS_MAX:
        return value
    return (value if isinstance(value, str) else text)[:CUT_CHARACTERS] + "…"
