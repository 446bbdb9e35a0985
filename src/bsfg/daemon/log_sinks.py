"""Where finished log lines go: stderr, and a file that is kept bounded. A sink that hangs never holds the gateway up.

A full pipe or a hung disk blocks whoever writes to it, and no flag of the file prevents that for a disk. So each sink
has a thread of its own behind a bounded queue: what does not fit is counted, and said once the sink takes lines again.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

FILE_BYTES_MAX: Final = 64 * 1024 * 1024
QUEUE_BYTES_MAX: Final = 4 * 1024 * 1024
QUEUE_LINES_MAX: Final = 20_000
FLUSH_SECONDS_MAX: Final = 1.0
STDERR: Final = 2


class Sinks(Protocol):
    """What a journal writes its lines to; must not block for longer than a memory write."""

    def write(self, line: str) -> None: ...


class _Target(Protocol):
    """One place for lines; may block, raises OSError where a line could not be written."""

    def write(self, content: bytes) -> None: ...


class StandardError:
    """Descriptor 2 itself: no lock of ours is held while the other end does not read."""

    def write(self, content: bytes) -> None:
        while content:
            content = content[os.write(STDERR, content) :]


class RotatedFile:
    """A log file and the one before it, each at most ``bytes_max``."""

    def __init__(self, path: Path, bytes_max: int = FILE_BYTES_MAX) -> None:
        self._path, self._bytes_max = path, bytes_max
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("ab", buffering=0)

    def write(self, content: bytes) -> None:
        self._file.write(content)
        if self._file.tell() >= self._bytes_max:
            self._file.close()
            self._path.replace(self._path.with_name(self._path.name + ".1"))
            self._file = self._path.open("ab", buffering=0)


class QueuedSink:
    """One target behind a bounded queue and a thread.

    ``lost`` is called in the caller's thread for each line that was not taken, ``recovered`` in the sink's own thread
    with the count of lost lines, once it writes again.
    """

    def __init__(
        self, target: _Target, lost: Callable[[], None], recovered: Callable[[int], None], name: str
    ) -> None:
        self._target, self._lost, self._recovered = target, lost, recovered
        self._lines: deque[bytes] = deque()
        self._bytes = 0
        self._dropped = 0
        self._is_writing = False
        self._change = threading.Condition()
        # As a daemon thread it does not keep the process, whatever its target waits for.
        threading.Thread(target=self._run, name=f"log to {name}", daemon=True).start()

    def write(self, line: str) -> None:
        """Take the line, or count it as lost; never waits for the target."""
        content = line.encode("utf-8", "backslashreplace") + b"\n"
        with self._change:
            is_full = self._bytes + len(content) > QUEUE_BYTES_MAX or len(self._lines) >= QUEUE_LINES_MAX
            if not is_full:
                self._lines.append(content)
                self._bytes += len(content)
                self._change.notify_all()
            else:
                self._dropped += 1
        if is_full:
            self._lost()

    def flush(self, seconds: float = FLUSH_SECONDS_MAX) -> bool:
        """Wait until everything is written, no longer than this; whether it is."""
        with self._change:
            return self._change.wait_for(lambda: not self._lines and not self._is_writing, seconds)

    def _run(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: bool(self._lines))
                content = self._lines.popleft()
                self._bytes -= len(content)
                self._is_writing = True
            is_written = self._wrote(content)
            with self._change:
                self._is_writing = False
                self._change.notify_all()
                dropped = self._dropped if is_written else 0
                self._dropped -= dropped
            if dropped:
                self._recovered(dropped)

    def _wrote(self, content: bytes) -> bool:
        try:
            self._target.write(content)
        except (OSError, ValueError):
            with self._change:
                self._dropped += 1
            self._lost()
            return False
        return True


class QueuedSinks:
    """stderr, and the file where one is configured; :class:`Sinks`."""

    def __init__(
        self, file: Path | None, lost: Callable[[], None], recovered: Callable[[int], None]
    ) -> None:
        self._sinks = [QueuedSink(StandardError(), lost, recovered, "stderr")]
        if file is not None:
            self._sinks.append(QueuedSink(RotatedFile(file), lost, recovered, "file"))

    def write(self, line: str) -> None:
        for sink in self._sinks:
            sink.write(line)

    def flush(self, seconds: float = FLUSH_SECONDS_MAX) -> bool:
        """Wait for all of them together, no longer than this; whether everything is written."""
        ends = time.monotonic() + seconds
        return all(sink.flush(max(0.0, ends - time.monotonic())) for sink in self._sinks)
