"""Audit records as facts of ``audit_stream``, read from the log's own files (contract, section 3).

How far the stream has them is kept beside the log, and each fact's message id is its record's link: after a crash some
are appended again, which changes nothing. Two kinds of record stay in the files, so that idle zones make no audit
facts: decisions about the audit stream itself, and further connections on which a peer reads what it read already.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from structlog.typing import FilteringBoundLogger

from bsfg.daemon.audit import READ
from bsfg.daemon.audit_files import LINE_BYTES_MAX, AuditFile, all_files, link_of
from bsfg.errors import BsfgError
from bsfg.model.names import StreamName
from bsfg.substrates.private_files import replace_private

POSITION: Final = "audit-stream.json"
PERIOD_SECONDS: Final = 1.0
RETRY_SECONDS_MAX: Final = 60.0
PAGE_BYTES: Final = 512 * 1024
SUBJECT_TAIL: Final = "record"

Append = Callable[[StreamName, list[dict[str, Any]]], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class _Position:
    """Behind the last byte whose record the stream has."""

    stream: str
    serial: int
    offset: int


@dataclass
class AuditFacts:
    """Follows the audit log and appends its records to a stream; one a gateway."""

    folder: Path
    append: Append
    stream: Callable[[], StreamName | None]
    """The configured audit stream now."""
    journal: FilteringBoundLogger
    period_seconds: float = PERIOD_SECONDS
    _position: _Position | None = None

    async def run(self) -> None:
        """Append what is new, a page at a time, until cancelled; a store that is away is asked again."""
        pause = self.period_seconds
        while True:
            try:
                moved = await self.step()
                pause = 0.0 if moved else self.period_seconds
            except (BsfgError, OSError) as error:
                if pause <= self.period_seconds:
                    text = error.message if isinstance(error, BsfgError) else error.strerror
                    self.journal.warning(
                        "audit_stream_behind", message=f"audit records wait for their stream: {text}"
                    )
                pause = min(max(2 * pause, self.period_seconds), RETRY_SECONDS_MAX)
            await asyncio.sleep(pause)

    async def step(self) -> bool:
        """Append one page of records; whether there was anything to read."""
        stream = self.stream()
        if stream is None:
            self._position = None
            return False
        position = self._position
        if position is None:
            position = await asyncio.to_thread(self._load, stream)
        if position.stream != stream:
            position = await asyncio.to_thread(self._end, stream)
        records, after = await asyncio.to_thread(self._read, position)
        if facts := [_fact(line) for line in records if _becomes_fact(line, stream)]:
            await self.append(stream, facts)
        if after != position or self._position is None:
            await asyncio.to_thread(self._save, after)
        self._position = after
        return after != position

    def _load(self, stream: StreamName) -> _Position:
        """Where we were; the log's present end where nothing is known, so that no history floods a new stream."""
        try:
            kept = json.loads((self.folder / POSITION).read_bytes())
            return _Position(str(kept["stream"]), int(kept["serial"]), int(kept["offset"]))
        except (OSError, ValueError, KeyError, TypeError):
            return self._end(stream)

    def _end(self, stream: StreamName) -> _Position:
        files = all_files(self.folder)
        if not files:
            return _Position(stream, 1, 0)
        return _Position(stream, files[-1].serial, files[-1].path.stat().st_size)

    def _save(self, position: _Position) -> None:
        kept = {"stream": position.stream, "serial": position.serial, "offset": position.offset}
        replace_private(self.folder / POSITION, json.dumps(kept).encode())

    def _read(self, position: _Position) -> tuple[list[bytes], _Position]:
        """Whole lines behind the position, and the position behind them; a file that ended is followed by the next."""
        files = [file for file in all_files(self.folder) if file.serial >= position.serial]
        if not files:
            return [], position
        file = files[0]
        offset = position.offset if file.serial == position.serial else 0
        lines = _whole_lines(file, offset)
        if not lines and len(files) > 1:
            return [], _Position(position.stream, files[1].serial, 0)
        end = offset + sum(len(line) + 1 for line in lines)
        return lines, _Position(position.stream, file.serial, end)


def _whole_lines(file: AuditFile, offset: int) -> list[bytes]:
    with file.path.open("rb") as stream:
        stream.seek(offset)
        piece = stream.read(max(PAGE_BYTES, LINE_BYTES_MAX + 1))
    return piece[: piece.rfind(b"\n") + 1].split(b"\n")[:-1]


def _becomes_fact(line: bytes, stream: StreamName) -> bool:
    """Whether a record is told: none about the stream itself, and of what a peer may read only the first connection."""
    try:
        record = json.loads(line)
    except ValueError:
        return False  # A torn line: the record behind it tells of it.
    if not isinstance(record, dict) or record.get("stream") == stream:
        return False
    return not (record.get("action") == READ and record.get("connection") != 1)


def _fact(line: bytes) -> dict[str, Any]:
    return {
        "subject": SUBJECT_TAIL,
        "message_id": link_of(line),
        "headers": [["Content-Type", "application/json"]],
        "data": line.decode("ascii", "replace"),
    }
