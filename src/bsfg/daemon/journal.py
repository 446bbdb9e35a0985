"""The gateway's log: one JSON object a line on stderr, and in a file where one is configured (contract, section 8).

Fields are cut and escaped, so one event is one line whatever a peer put into it.
"""

from __future__ import annotations

import json
import logging
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor

from bsfg.config.values import LogConfig, LogFormat
from bsfg.daemon.log_allowance import LineAllowance
from bsfg.daemon.log_sinks import RotatedFile, Sinks
from bsfg.model.moment import format_time

FIELD_CHARACTERS_MAX: Final = 4096


class _PlainSinks:
    """Each line is written before the call returns: for programs that nobody's traffic waits on."""

    def __init__(self, file: Path | None) -> None:
        self._file = RotatedFile(file) if file is not None else None

    def write(self, line: str) -> None:
        with suppress(OSError, ValueError):
            print(line, file=sys.stderr, flush=True)
        if self._file is not None:
            with suppress(OSError, ValueError):
                self._file.write(line.encode("utf-8", "backslashreplace") + b"\n")


class _Output:
    """What structlog calls with a finished line, whatever its level."""

    def __init__(self, sinks: Sinks) -> None:
        self.msg = self.info = self.warning = self.error = self.debug = sinks.write


def open_journal(
    log: LogConfig,
    zone: str,
    sinks: Sinks | None = None,
    lost: Callable[[], None] = lambda: None,
    taps: Sequence[Processor] = (),
) -> FilteringBoundLogger:
    """The zone's logger; call its ``info``, ``warning`` and ``error`` with an event of ``telemetry.LOG_EVENTS``.

    Lines go to ``sinks``, by default straight to stderr and the file; ``lost`` is called for each line that is beyond
    the allowance of its event, peer and stream. ``taps`` see each event before it becomes a line.
    """
    render = _as_json if log.format is LogFormat.JSON else _as_text
    journal: FilteringBoundLogger = structlog.wrap_logger(
        _Output(sinks or _PlainSinks(log.file)),
        wrapper_class=structlog.make_filtering_bound_logger("info"),
        processors=[
            structlog.processors.add_log_level,
            _stamp,
            LineAllowance(lost),
            *taps,
            render,
        ],
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


def _as_json(_logger: Any, _method: str, event: EventDict) -> str:
    first = {key: event.pop(key) for key in ("ts", "level", "event") if key in event}
    return json.dumps(first | {key: _bounded(value) for key, value in event.items()}, default=str)


def _as_text(_logger: Any, _method: str, event: EventDict) -> str:
    head = f"{event.pop('ts')} {event.pop('level'):<7} {event.pop('event')}: "
    message = json.dumps(_bounded(str(event.pop("message"))))[1:-1].replace('\\"', '"')
    fields = " ".join(f"{key}={json.dumps(_bounded(value), default=str)}" for key, value in event.items())
    return f"{head}{message} {fields}".rstrip()


def _bounded(value: Any) -> Any:
    if isinstance(value, str):
        return value if len(value) <= FIELD_CHARACTERS_MAX else value[:FIELD_CHARACTERS_MAX] + "…"
    if value is None or isinstance(value, int | float):
        return value
    # What is neither is rare and small; where it is not small, its text is cut like any other.
    text = json.dumps(value, default=str)
    return value if len(text) <= FIELD_CHARACTERS_MAX else text[:FIELD_CHARACTERS_MAX] + "…"
