"""The audit log's files: their order, and whether the chain through all of them holds (I48).

``audit.jsonl`` is written; full ones lie beside it as ``audit-00000001.jsonl`` and so on. Each line carries the sha-256
of the line before it, over the files' borders too.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final

from bsfg.errors import BsfgError, Code

FIRST_LINK: Final = "0" * 64
CURRENT: Final = "audit.jsonl"
LINE_BYTES_MAX: Final = 64 * 1024
TORN: Final = "audit.torn"
"""The action of the record behind a line that a crash cut."""
REMOVED: Final = "audit.removed"
"""The action of the record that names the last link of a file that was removed to keep the bound."""
_FULL_FILE: Final = re.compile(r"audit-(\d{8,})\.jsonl", re.ASCII)
_TAIL_BYTES: Final = 2 * LINE_BYTES_MAX
_LOOK_BACK_BYTES: Final = 4 * 1024 * 1024
_READING_ATTEMPTS: Final = 5


@dataclass(frozen=True, slots=True, order=True)
class AuditFile:
    """One file of the log; ``serial`` orders them, the written one has the highest."""

    serial: int
    path: Path


@dataclass
class AuditVerdict:
    """What ``bsfg audit verify`` found."""

    files: int = 0
    records: int = 0
    problems: list[str] = field(default_factory=list)
    unfinished: str | None = None
    """The last line has no end yet: it is being written, or was cut by a crash."""

    def as_json(self) -> dict[str, Any]:
        return {
            "ok": not self.problems,
            "files": self.files,
            "records": self.records,
            "problems": self.problems,
            "unfinished": self.unfinished,
        }


def full_files(folder: Path) -> list[AuditFile]:
    """The files that are written no more, the oldest first."""
    found = ((path, _FULL_FILE.fullmatch(path.name)) for path in folder.glob("audit-*.jsonl"))
    return sorted(AuditFile(int(match[1]), path) for path, match in found if match)


def all_files(folder: Path) -> list[AuditFile]:
    """Every file in the order of its records."""
    full = full_files(folder)
    current = folder / CURRENT
    serial = full[-1].serial + 1 if full else 1
    return [*full, *([AuditFile(serial, current)] if current.exists() else [])]


def full_name(serial: int) -> str:
    """How a file is called once it is full."""
    return f"audit-{serial:08d}.jsonl"


def link_of(line: bytes) -> str:
    """What the next line must name as its ``previous``; the line without its newline."""
    return hashlib.sha256(line).hexdigest()


def last_line(path: Path) -> bytes | None:
    """The last line of a file, whole or torn, without its newline; None if there is none."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - _TAIL_BYTES))
        lines = file.read().splitlines()
    return lines[-1] if lines else None


def last_record(folder: Path, action: str, outcome: str) -> dict[str, Any] | None:
    """The newest record of this kind near the log's end; None where there is none so near."""
    for file in reversed(all_files(folder)[-2:]):
        with file.path.open("rb") as stream:
            size = stream.seek(0, 2)
            stream.seek(max(0, size - _LOOK_BACK_BYTES))
            lines = stream.read().splitlines()
        for line in reversed(lines):
            record = _record(line)
            if record and (record["action"], record.get("outcome")) == (action, outcome):
                return record
    return None


def verify(folder: Path) -> AuditVerdict:
    """Follow the chain through every file, the oldest first; every break is named with its file and line.

    What can't be seen is that the newest records were cut off: compare with the audit stream, or with an earlier look.
    Raises ``NOT_FOUND`` where there is no log.
    """
    verdict, chain = AuditVerdict(), _Chain()
    for path, file in _opened(folder):
        with file:
            verdict.files += 1
            verdict.records += _follow(path.name, file, chain, verdict)
    if chain.begins_with not in (None, FIRST_LINK, *chain.removed):
        verdict.problems.insert(0, f"{chain.first_place}: the records before it are missing")
    if chain.torn_at is not None:
        verdict.problems.append(f"{chain.torn_at}: it is no record")
    return verdict


@dataclass
class _Chain:
    """How far the chain was followed."""

    previous: str | None = None
    begins_with: str | None = None
    first_place: str = ""
    removed: set[str] = field(default_factory=set)
    torn_at: str | None = None
    """A line that is no record, excused only by the record behind it."""


def _opened(folder: Path) -> Iterator[tuple[Path, BinaryIO]]:
    """Every file, all opened before the first is read, so that none moves away meanwhile."""
    for _ in range(_READING_ATTEMPTS):
        files = all_files(folder)
        if not files:
            raise BsfgError(
                Code.NOT_FOUND, f"there is no audit log in {folder}", hint="is this a zone's data folder?"
            )
        opened: list[tuple[Path, BinaryIO]] = []
        try:
            for each in files:
                opened.append((each.path, each.path.open("rb")))
        except FileNotFoundError:
            _close(opened)
            continue
        except OSError as error:
            _close(opened)
            raise BsfgError(Code.CHECK_FAILED, f"{error.filename} can't be read: {error.strerror}") from error
        if all_files(folder) == files:
            yield from opened
            return
        _close(opened)
    raise BsfgError(Code.UNAVAILABLE, f"the audit log in {folder} is rotated faster than it can be read")


def _close(opened: list[tuple[Path, BinaryIO]]) -> None:
    for _, file in opened:
        file.close()


def _follow(name: str, file: BinaryIO, chain: _Chain, verdict: AuditVerdict) -> int:
    records = 0
    for number, line in enumerate(_lines(file), 1):
        place = f"{name}:{number}"
        if not line.endswith(b"\n"):
            if len(line) > LINE_BYTES_MAX:
                verdict.problems.append(f"{place}: a line of more than {LINE_BYTES_MAX} bytes")
            verdict.unfinished = place
            return records
        line = line[:-1]
        record = _record(line)
        if record is None:
            if chain.torn_at is not None:
                verdict.problems.append(f"{chain.torn_at}: it is no record")
            chain.torn_at = place
        else:
            records += 1
            verdict.problems += _link(place, record, chain)
        chain.previous = link_of(line)
    return records


def _lines(file: BinaryIO) -> Iterator[bytes]:
    while line := file.readline(LINE_BYTES_MAX + 2):
        yield line


def _link(place: str, record: dict[str, Any], chain: _Chain) -> Iterator[str]:
    stated = record["previous"]
    if chain.previous is None:
        chain.begins_with, chain.first_place = stated, place
    elif stated != chain.previous:
        yield f"{place}: the chain breaks: the record before it was changed, removed or put in"
    if chain.torn_at is not None and record["action"] != TORN:
        yield f"{chain.torn_at}: it is no record"
    chain.torn_at = None
    if record["action"] == REMOVED and isinstance(record.get("last"), str):
        chain.removed.add(record["last"])


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        record: Any = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict):
        return None
    return record if all(isinstance(record.get(name), str) for name in ("previous", "action")) else None
