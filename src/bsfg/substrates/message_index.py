"""The file in which a zone looks up by message id what a local stream holds: one for each stream and epoch.

It is written after the stream and can be made again from it, so it is never asked to be more durable than it is: where
it is damaged or belongs to another history, it is thrown away. SQLite, because a damaged file must end in an error:
one that is mapped into memory takes the process with it.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

from bsfg.errors import SubstrateUnavailable
from bsfg.model.fact import MESSAGE_ID_HEADER, Fact, digest
from bsfg.model.names import StreamName, physical
from bsfg.substrates.private_files import PRIVATE_MODE, private_folder

VERSION: Final = 1
KEY_BYTES: Final = 16
"""Of a sha-256: two ids that meet would have to be looked for on purpose, with 2^64 tries."""
CACHE_KIBIBYTES: Final = 8 * 1024
QUERY_KEYS_MAX: Final = 500
SUFFIX: Final = ".ids"

_ID_MARK: Final = f"{MESSAGE_ID_HEADER}: ".encode()
_SPACE: Final = b" \t"
_NOT_THE_FILES_FAULT: Final = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_READONLY,
    }
)
_TABLES: Final = """
CREATE TABLE history (version INTEGER, stream TEXT, epoch TEXT, created TEXT,
    sequence INTEGER, anchor_sequence INTEGER, anchor_time INTEGER, anchor_digest BLOB);
CREATE TABLE ids (id BLOB PRIMARY KEY, sequence INTEGER, content BLOB) WITHOUT ROWID;
"""


class Entry(NamedTuple):
    """Where the first fact with a message id stands, and what it holds."""

    sequence: int
    content: bytes


class Position(NamedTuple):
    """How far an index reaches, and the last fact below that, by which a changed history is known."""

    sequence: int = 0
    anchor_sequence: int = 0
    anchor_time: int = 0
    """When the stream stored it, nanoseconds since 1970; 0 where we don't know."""
    anchor_digest: bytes = b""


class History(NamedTuple):
    """What an index is of."""

    stream: StreamName
    epoch: str
    created: str


class IndexDamaged(Exception):
    """The file can't be believed; only a new one can go on."""


def key_of(message_id: bytes) -> bytes:
    """What an index knows a message id by."""
    return hashlib.sha256(message_id.strip(_SPACE)).digest()[:KEY_BYTES]


def content_of(fact_subject: str, others: bytes, payload: bytes) -> bytes:
    """What an index knows a fact's content by: its digest, but for the message id, whose place does not matter."""
    if others:
        return bytes.fromhex(digest(Fact(0, fact_subject, 0, others, payload)))[:KEY_BYTES]
    # The same without headers, for the many that have none: a third of what an append of facts with ids would cost.
    raw = fact_subject.encode()
    fields = (len(raw).to_bytes(4, "big"), raw, len(payload).to_bytes(4, "big"), payload)
    return hashlib.sha256(b"".join(fields)).digest()[:KEY_BYTES]


def content_of_fact(fact: Fact) -> bytes:
    """The same of a stored fact."""
    return content_of(fact.subject, split_message_id(fact.headers)[1], fact.payload)


def anchor_of(fact_subject: str, block: bytes, payload: bytes) -> bytes:
    """What an index knows the last fact below its position by: all of it, the message id too."""
    return content_of(fact_subject, block, payload)


def split_message_id(block: bytes) -> tuple[bytes, bytes]:
    """The message id in a block of headers, as JetStream finds it, and the other lines; empty and all without one."""
    start = 0 if block.startswith(_ID_MARK) else block.find(b"\r\n" + _ID_MARK) + 2
    if start == 1:
        return b"", block
    end = block.index(b"\r\n", start)
    message_id = block[start + len(_ID_MARK) : end].strip(_SPACE)
    return (message_id, block[:start] + block[end + 2 :]) if message_id else (b"", block)


class IndexFile:
    """One open file; its calls block, and must not overlap."""

    def __init__(self, path: Path, history: History, database: sqlite3.Connection, position: Position) -> None:
        self.path = path
        self.history = history
        self.position = position
        """What was stored last."""
        self._database = database

    @classmethod
    def open(cls, folder: Path, history: History) -> IndexFile:
        """The history's file as it was left, or a new one; files of the stream's other epochs are removed.

        Raises :class:`IndexDamaged` for a file that can't be believed, ``SubstrateUnavailable`` where none can be had.
        """
        path = index_path(folder, history.stream, history.epoch)
        with _Meaning(path):
            private_folder(folder)
        for other in index_files(folder, history.stream):
            if other != path:
                remove_index(other)
        with _Meaning(path), suppress(FileExistsError):
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE_MODE))
        database: sqlite3.Connection | None = None
        try:
            with _Meaning(path):
                database = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=1.0)
                return cls(path, history, database, _begin(database, history))
        except BaseException:
            if database is not None:
                database.close()
            raise

    def find(self, keys: Sequence[bytes]) -> dict[bytes, Entry]:
        """The entries of those keys that are known."""
        found: dict[bytes, Entry] = {}
        with _Meaning(self.path):
            for start in range(0, len(keys), QUERY_KEYS_MAX):
                part = keys[start : start + QUERY_KEYS_MAX]
                marks = ",".join("?" * len(part))
                rows = self._database.execute(f"SELECT id, sequence, content FROM ids WHERE id IN ({marks})", part)
                found.update((key, Entry(sequence, content)) for key, sequence, content in rows)
        for entry in found.values():
            if type(entry.sequence) is not int or type(entry.content) is not bytes:
                raise IndexDamaged(f"{self.path} has an entry of another form")
        return found

    def store(self, entries: Iterable[tuple[bytes, Entry]], position: Position) -> None:
        """Add entries and move on, both or neither; a key that is known keeps the entry that it has."""
        rows = sorted((key, *entry) for key, entry in entries)
        with _Meaning(self.path):
            self._database.execute("BEGIN")
            try:
                self._database.executemany("INSERT OR IGNORE INTO ids VALUES (?, ?, ?)", rows)
                columns = "sequence = ?, anchor_sequence = ?, anchor_time = ?, anchor_digest = ?"
                self._database.execute(f"UPDATE history SET {columns}", position)
                self._database.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):
                    self._database.execute("ROLLBACK")
                raise
        self.position = position

    def close(self) -> None:
        with suppress(sqlite3.Error):
            self._database.close()


def index_path(folder: Path, stream: StreamName, epoch: str) -> Path:
    return folder / f"{physical(stream)}-{epoch}{SUFFIX}"


def index_files(folder: Path, stream: StreamName) -> list[Path]:
    """The files of this stream, of whatever epoch."""
    return sorted(folder.glob(f"{physical(stream)}-*{SUFFIX}"))


def remove_index(path: Path) -> None:
    """The file is gone, with what SQLite keeps beside it; ``SubstrateUnavailable`` where it can't be removed."""
    with _Meaning(path):
        for suffix in ("-wal", "-shm", "-journal", ""):
            path.with_name(path.name + suffix).unlink(missing_ok=True)


def _begin(database: sqlite3.Connection, history: History) -> Position:
    """Where the file stands; it is made into an empty index if it is new."""
    # Exclusive, so that the log's index lies in memory and not in a mapped file, and nobody else opens it.
    for setting in ("locking_mode=EXCLUSIVE", "journal_mode=WAL", "synchronous=NORMAL"):
        database.execute(f"PRAGMA {setting}").fetchall()
    database.execute(f"PRAGMA cache_size=-{CACHE_KIBIBYTES}")
    if not database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        database.execute("BEGIN")
        for statement in _TABLES.split(";"):
            database.execute(statement)
        database.execute("INSERT INTO history VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (VERSION, *history, *Position()))
        database.execute("COMMIT")
    rows = database.execute("SELECT * FROM history").fetchall()
    if len(rows) != 1 or rows[0][:4] != (VERSION, *history):
        raise IndexDamaged("it is of another history or another version")
    return _position(rows[0][4:])


def _position(values: tuple[Any, ...]) -> Position:
    if [type(value) for value in values] != [int, int, int, bytes]:
        raise IndexDamaged("its position is not of the form that it has")
    return Position(*values)


class _Meaning:
    """Gives the errors of SQLite and of the file system their meaning."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        """Nothing is to be done before."""

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, sqlite3.Error):
            number = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF
            if number not in _NOT_THE_FILES_FAULT:
                raise IndexDamaged(f"{self._path}: {error}") from None
        if isinstance(error, sqlite3.Error | OSError):
            raise SubstrateUnavailable(
                f"the index of message ids {self._path}: {error}",
                hint="is there room on its disk, and may the gateway write there? It can be deleted at any time",
            ) from None
