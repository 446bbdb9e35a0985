"""The gateway's log: one JSON object a line on stderr, and in a file where one is configured (contract, section 8).

Fields are cut and escaped, so one event is one line whatever a peer put into it.
"""

from __future__ import annotations

import json
import logging
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TextIO

import structlog
from structlog.typing import EventDict, FilteringBoundLogger

from bsfg.config.values import LogConfig, LogFormat
from bsfg.model.moment import format_time

FIELD_CHARACTERS_MAX: Final = 4096
Watcher = Callable[[dict[str, Any]], None]
_WATCHERS: Final[list[Watcher]] = []
FILE_BYTES_MAX: Final = 64 * 1024 * 1024


class _Sinks:
    """Writes a finished line to every sink; a sink that fails is skipped, never waited for by the caller's logic."""

    def __init__(self, file: Path | None) -> None:
        self._path = file
        self._file: TextIO | None = None
        if file is not None:
            file.parent.mkdir(parents=True, exist_ok=True)
            self._file = file.open("a", encoding="utf-8", buffering=1)

    def msg(self, line: str) -> None:
        for sink in (sys.stderr, self._file):
            if sink is not None:
                try:
                    print(line, file=sink, flush=True)
                except (OSError, ValueError):
                    continue
        self._rotate()

    info = warning = error = debug = msg

    def _rotate(self) -> None:
        """Keep one file before the running one, so that the log is bounded."""
        if self._file is None or self._path is None or self._file.tell() < FILE_BYTES_MAX:
            return
        self._file.close()
        self._path.replace(self._path.with_name(self._path.name + ".1"))
        self._file = self._path.open("a", encoding="utf-8", buffering=1)


def open_journal(log: LogConfig, zone: str) -> FilteringBoundLogger:
    """The zone's logger; call its ``info``, ``warning`` and ``error`` with an event of ``telemetry.LOG_EVENTS``."""
    sinks = _Sinks(log.file)
    render = _as_json if log.format is LogFormat.JSON else _as_text
    journal: FilteringBoundLogger = structlog.wrap_logger(
        sinks,
        wrapper_class=structlog.make_filtering_bound_logger("info"),
        processors=[structlog.processors.add_log_level, _stamp, _show_watchers, render],
        context_class=dict,
        zone=zone,
    )
    forward_libraries(journal)
    return journal


def forward_libraries(journal: FilteringBoundLogger) -> None:
    """Warnings of the libraries that we use become lines of this journal."""
    logging.basicConfig(handlers=[_FromLibraries(journal)], level=logging.WARNING, force=True)


class _FromLibraries(logging.Handler):
    """Warnings of the libraries that we use, as lines of our own: stderr holds nothing else."""

    def __init__(self, journal: FilteringBoundLogger) -> None:
        super().__init__(logging.WARNING)
        self._journal = journal

    def emit(self, record: logging.LogRecord) -> None:
        write = self._journal.error if record.levelno >= logging.ERROR else self._journal.warning
        error = record.exc_info[1] if record.exc_info else None
        cause = f": {error!r}{place_of(error)}" if error else ""
        write("library_notice", source=record.name, message=record.getMessage() + cause)


def place_of(error: BaseException) -> str:
    """Where a fault that nobody foresaw was raised, for whoever mends it: `` (file:line)``, or empty."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return ""
    return f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})"


def _stamp(_logger: Any, _method: str, event: EventDict) -> EventDict:
    event.setdefault("message", event["event"].replace("_", " "))
    event["ts"] = format_time(time.time_ns())
    return event


@contextmanager
def watched(watcher: Watcher) -> Iterator[None]:
    """Inside the block every event of this process's journals is also given to the watcher, which must not block."""
    _WATCHERS.append(watcher)
    try:
        yield
    finally:
        _WATCHERS.remove(watcher)


def _show_watchers(_logger: Any, _method: str, event: EventDict) -> EventDict:
    for watcher in _WATCHERS:
        watcher(dict(event))
    return event


def _as_json(_logger: Any, _method: str, event: EventDict) -> str:
    first = {key: event.pop(key) for key in ("ts", "level", "event") if key in event}
    return json.dumps(first | {key: _bounded(value) for key, value in event.items()}, default=str)


def _as_text(_logger: Any, _method: str, event: EventDict) -> str:
    head = f"{event.pop('ts')} {event.pop('level'):<7} {event.pop('event')}: "
    message = json.dumps(_bounded(str(event.pop("message"))))[1:-1].replace('\\"', '"')
    fields = " ".join(f"{key}={json.dumps(_bounded(value), default=str)}" for key, value in event.items())
    return f"{head}{message} {fields}".rstrip()


def _bounded(value: Any) -> Any:
    if isinstance(value, str) and len(value) > FIELD_CHARACTERS_MAX:
        return value[:FIELD_CHARACTERS_MAX] + "…"
    return value
