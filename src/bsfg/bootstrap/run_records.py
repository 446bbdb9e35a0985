"""Where runs of the checks are kept: ``data/bringup/<run>/record.json``, each old or new and never mixed (I6)."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from bsfg.checks.model import RunRecord
from bsfg.checks.record import RECORD_BYTES_MAX, decode, encode
from bsfg.config.home import Home
from bsfg.daemon.handoffs import runs_with_handoff
from bsfg.errors import BsfgError, Code, StoreFull
from bsfg.model.moment import NANOSECONDS
from bsfg.substrates.private_files import private_folder, replace_private
from bsfg.substrates.store_lock import find_holder, try_lock

RECORD_NAME: Final = "record.json"
LOCK_NAME: Final = "lock"
RECENT_MAX: Final = 20
"""How many runs are looked through for what may still stand."""
KEPT_MAX: Final = 100
"""How many runs of a peer are kept, beside those that a handoff refers to."""


def folder(home: Home) -> Path:
    return home.data / "bringup"


def new_run(peer: str, now: int) -> str:
    """A name for a run that sorts by its beginning."""
    began = datetime.fromtimestamp(now // NANOSECONDS, UTC)
    return f"{began:%Y%m%dT%H%M%SZ}-{peer}-{secrets.token_hex(2)}"


def save(home: Home, record: RunRecord) -> Path:
    """The record's file, whole and durable on return; ``local_full`` where the disk has no room."""
    path = folder(home) / record.run / RECORD_NAME
    try:
        private_folder(path.parent)
        replace_private(path, encode(record))
    except OSError as error:
        raise StoreFull(
            f"the run's record {path} can't be written: {error.strerror}",
            hint="make room; what was recorded before is still there",
        ) from error
    return path


def recent(home: Home, peer: str) -> list[Path]:
    """The files of this peer's last runs, the newest first."""
    paths = [run / RECORD_NAME for run in _runs(home, peer)]
    return [path for path in paths if path.is_file()][:RECENT_MAX]


def prune(home: Home, peer: str) -> int:
    """Remove this peer's oldest runs; how many are gone.

    Those that a handoff refers to stay, and all stay while a handoff can't be read: it may refer to any of them.
    """
    old = _runs(home, peer)[KEPT_MAX:]
    try:
        referred = runs_with_handoff(home) if old else frozenset()
    except BsfgError:
        return 0
    gone = [run for run in old if run.name not in referred]
    for run in gone:
        # What can't be removed today is in nobody's way until tomorrow.
        shutil.rmtree(run, ignore_errors=True)
    return len(gone)


def _runs(home: Home, peer: str) -> list[Path]:
    """The folders of this peer's runs, the newest first."""
    try:
        found = [path for path in folder(home).iterdir() if path.is_dir() and path.name[16:-4] == f"-{peer}-"]
    except FileNotFoundError:
        return []
    return sorted(found, reverse=True)


def latest(home: Home, peer: str) -> RunRecord | None:
    """The newest record of a bring-up with this peer; ``configuration`` if it can't be used."""
    paths = recent(home, peer)
    return read(paths[0]) if paths else None


def read(path: Path) -> RunRecord:
    """The record of a file; ``configuration`` if it can't be used."""
    try:
        with path.open("rb") as file:
            content = file.read(RECORD_BYTES_MAX + 1)
    except OSError as error:
        raise BsfgError(Code.CONFIGURATION, f"the run record {path} can't be read: {error.strerror}") from error
    return decode(content, str(path))


@contextmanager
def claim(home: Home) -> Iterator[None]:
    """Inside the block this process alone runs checks of this home; ``unavailable`` naming who does already."""
    try:
        private_folder(folder(home))
        lock = try_lock(folder(home) / LOCK_NAME)
    except OSError as error:
        raise BsfgError(
            Code.CONFIGURATION, f"{folder(home)} can't be used: {error.strerror}", hint="is it this user's own?"
        ) from error
    if lock is None:
        holder = find_holder(folder(home) / LOCK_NAME)
        raise BsfgError(
            Code.UNAVAILABLE,
            f"another bring-up or drill of {home.path} is running: process {holder.pid if holder else 'unknown'}",
            hint="two at once would see each other's doings; wait for it, or stop it with Ctrl-C there",
        )
    try:
        yield
    finally:
        os.close(lock)
