"""A folder of documents: whole or absent, also under kill -9 and on a full disk; and read with suspicion."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import pytest

from bsfg.errors import BsfgError, Code, StoreFull
from bsfg.substrates import document_folder
from bsfg.substrates.document_folder import read_folder, write_folder

FILES: Final = {"a.json": b"1", "evidence/b.json": b"2", "evidence/zone/evidence/c.json": b"3"}


def test_what_was_written_is_read_and_is_private(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "handoff" / "one"
    write_folder(folder, FILES)
    assert read_folder(folder) == FILES
    modes = {stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*")}
    assert modes == {0o600, 0o700}
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["handoff"]
    assert [path.name for path in folder.parent.iterdir()] == ["one"]


def test_a_folder_that_exists_is_never_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "handoff" / "one"
    write_folder(folder, FILES)
    with pytest.raises(BsfgError) as caught:
        write_folder(folder, {"a.json": b"other"})
    assert caught.value.code is Code.CONFLICTING_DUPLICATE
    assert read_folder(folder) == FILES
    assert [path.name for path in tmp_path.iterdir()] == ["handoff"]


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []

    def full(descriptor: int) -> None:
        synced.append(descriptor)
        if len(synced) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(document_folder.os, "fsync", full)
    with pytest.raises(StoreFull):
        write_folder(tmp_path / "handoff" / "one", FILES)
    assert [path.name for path in tmp_path.iterdir()] == ["handoff"]
    assert list((tmp_path / "handoff").iterdir()) == []


def test_kill_in_the_middle_leaves_no_folder_in_part(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom pathlib import Path\nfrom bsfg.substrates.document_folder import write_folder\n"
        "print('go', flush=True)\n"
        "files = {f'{i}/{j}': b'x' * 999 for i in range(5) for j in range(9)}\n"
        "for n in range(10**6): write_folder(Path(sys.argv[1], str(n)), files)\n"
    )
    for _ in range(5):
        writer = subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path / "handoff")], stdout=subprocess.PIPE
        )
        assert writer.stdout is not None
        writer.stdout.readline()
        time.sleep(0.12)
        writer.send_signal(signal.SIGKILL)
        writer.wait(10)
        writer.stdout.close()
        for folder in (tmp_path / "handoff").iterdir():
            assert len(read_folder(folder)) == 45
            folder.rename(tmp_path / f"seen-{time.monotonic_ns()}")


def test_old_drafts_of_killed_writers_are_swept_and_young_ones_left(tmp_path: Path) -> None:
    old, young = tmp_path / ".draft-handoff-old", tmp_path / ".draft-handoff-young"
    for draft in (old, young):
        draft.mkdir()
    os.utime(old, (0, 0))
    write_folder(tmp_path / "handoff" / "one", FILES)
    assert not old.exists()
    assert young.exists()


def test_links_and_other_things_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / "handoff" / "one"
    write_folder(folder, FILES)
    (folder / "link").symlink_to("/etc/passwd")
    with pytest.raises(BsfgError, match="neither a file nor a folder"):
        read_folder(folder)
    (folder / "link").unlink()
    os.mkfifo(folder / "pipe")
    with pytest.raises(BsfgError, match="neither a file nor a folder"):
        read_folder(folder)


def test_reading_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "handoff" / "one"
    write_folder(folder, FILES)
    monkeypatch.setattr(document_folder, "FOLDER_BYTES_MAX", 2)
    with pytest.raises(BsfgError, match="more than 2 bytes"):
        read_folder(folder)
    monkeypatch.setattr(document_folder, "FOLDER_BYTES_MAX", 3)
    assert read_folder(folder) == FILES
    monkeypatch.setattr(document_folder, "FILES_MAX", 2)
    with pytest.raises(BsfgError, match="more than 2 files"):
        read_folder(folder)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BsfgError) as caught:
        read_folder(tmp_path / "none")
    assert caught.value.code is Code.NOT_FOUND
