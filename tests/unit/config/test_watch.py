"""A change of content is seen once, after it has settled, however it was made; nothing else is a change."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bsfg.config import watch as watch_module
from bsfg.config.watch import SETTLE_SECONDS, ChangeWatch

STEP = 0.25


@pytest.fixture
def home(tmp_path: Path) -> Path:
    for folder in ("config", "certs"):
        (tmp_path / folder).mkdir()
    (tmp_path / "config/zone.yaml").write_text("one")
    (tmp_path / "certs/server.crt").write_text("one")
    return tmp_path


class Polls:
    """A watch and the time that its polls say it is."""

    def __init__(self, watch: ChangeWatch) -> None:
        self.watch = watch
        self.now = 100.0

    def for_seconds(self, seconds: float) -> int:
        """Poll in steps for so long; how often a change was reported."""
        end = self.now + seconds
        found = 0
        while self.now < end:
            self.now += STEP
            found += self.watch.poll(self.now)
        return found


def settled(home: Path, *further: Path) -> Polls:
    polls = Polls(ChangeWatch(home, further))
    assert polls.for_seconds(3) == 0
    return polls


def test_nothing_changes(home: Path) -> None:
    assert settled(home).for_seconds(10) == 0


def test_a_change_is_reported_once_and_not_before_it_has_settled(home: Path) -> None:
    polls = settled(home)
    (home / "config/zone.yaml").write_text("two")
    assert polls.for_seconds(SETTLE_SECONDS) == 0
    assert polls.for_seconds(2 * STEP) == 1
    assert polls.for_seconds(10) == 0


def test_a_change_that_goes_on_waits_until_it_stands(home: Path) -> None:
    polls = settled(home)
    for number in range(10):
        (home / "config/zone.yaml").write_text("x" * (number + 5))
        assert polls.for_seconds(2 * STEP) == 0
    assert polls.for_seconds(2) == 1


@pytest.mark.parametrize(
    "path",
    ["config/peers.yaml", "config/cursors.yaml", "config/bringup.yaml", "certs/ca.crt", "certs/crl.pem"],
)
def test_a_new_file_and_its_removal_are_changes(home: Path, path: str) -> None:
    polls = settled(home)
    (home / path).write_text("new")
    assert polls.for_seconds(2) == 1
    (home / path).unlink()
    assert polls.for_seconds(2) == 1


@pytest.mark.parametrize("path", ["config/notes.txt", "config/.zone.yaml.swp", "certs/.hidden", "data"])
def test_other_files_are_not_watched(home: Path, path: str) -> None:
    polls = settled(home)
    (home / path).write_text("new")
    assert polls.for_seconds(3) == 0


def test_a_touched_or_rewritten_file_is_no_change(home: Path) -> None:
    polls = settled(home)
    (home / "config/zone.yaml").touch()
    (home / "certs/new").write_text("one")
    (home / "certs/new").replace(home / "certs/server.crt")
    assert polls.for_seconds(3) == 0


def test_a_change_of_the_same_size_and_time_is_seen(home: Path) -> None:
    polls = settled(home)
    path = home / "config/zone.yaml"
    before = path.stat()
    path.write_text("two")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert polls.for_seconds(2) == 1


def test_a_swapped_link_is_seen(home: Path) -> None:
    """As Kubernetes mounts a volume: the files are links through a directory link that is replaced."""
    for version in ("one", "two", "three"):
        folder = home / f"versions/{version}"
        folder.mkdir(parents=True)
        (folder / "ca.crt").write_text(version.replace("three", "two"))
    data = home / "certs/..data"
    data.symlink_to(home / "versions/one")
    (home / "certs/ca.crt").symlink_to("..data/ca.crt")
    polls = settled(home)
    for version, reports in (("two", 1), ("three", 0), ("one", 1)):
        (home / "new").symlink_to(home / "versions" / version)
        (home / "new").replace(data)
        assert polls.for_seconds(2) == reports


def test_further_files_are_watched_and_can_be_exchanged(home: Path) -> None:
    first, second = home / "first.crl", home / "second.crl"
    polls = settled(home, first)
    first.write_text("one")
    assert polls.for_seconds(2) == 1
    polls.watch.accept([second])
    assert polls.for_seconds(2) == 0
    first.write_text("two")
    assert polls.for_seconds(2) == 0
    second.write_text("two")
    assert polls.for_seconds(2) == 1


def test_what_was_accepted_is_no_change_any_more(home: Path) -> None:
    polls = settled(home)
    (home / "config/zone.yaml").write_text("two")
    polls.watch.accept()
    assert polls.for_seconds(3) == 0
    (home / "config/zone.yaml").write_text("one")
    assert polls.for_seconds(3) == 1


def test_a_change_back_after_a_report_is_a_change(home: Path) -> None:
    polls = settled(home)
    (home / "config/zone.yaml").write_text("bad")
    assert polls.for_seconds(2) == 1
    (home / "config/zone.yaml").write_text("one")
    assert polls.for_seconds(2) == 1


def test_a_write_in_the_same_tick_as_accept_is_found(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The signature that a coarse clock of the file system leaves unchanged is looked behind once."""
    monkeypatch.setattr(watch_module, "_signature", lambda path: (str(path),))
    polls = Polls(ChangeWatch(home))
    (home / "config/zone.yaml").write_text("two")
    assert polls.for_seconds(2) == 1


def test_files_are_read_only_when_their_signature_changes(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    polls = settled(home)
    read: list[Path] = []
    really = watch_module._content_digest

    def noted(path: Path) -> bytes | None:
        read.append(path)
        return really(path)

    monkeypatch.setattr(watch_module, "_content_digest", noted)
    assert polls.for_seconds(10) == 0
    assert read == []
    (home / "certs/server.crt").touch()
    assert polls.for_seconds(10) == 0
    assert len(read) == 2


def test_an_empty_folder_is_no_change(home: Path) -> None:
    polls = settled(home)
    (home / "certs/folder").mkdir()
    assert polls.for_seconds(3) == 0


def test_no_descriptor_is_left_open(home: Path) -> None:
    watch = ChangeWatch(home)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        watch.accept()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_odd_things_do_not_stop_the_watch(home: Path) -> None:
    polls = settled(home)
    os.mkfifo(home / "certs/pipe")
    (home / "certs/loop").symlink_to("loop")
    (home / "certs/endless").symlink_to("/dev/zero")
    (home / "certs/folder").mkdir()
    assert polls.for_seconds(3) == 1
    (home / "certs/folder/inside").write_text("x")
    assert polls.for_seconds(3) == 0
    (home / "certs/pipe").unlink()
    assert polls.for_seconds(3) == 1
    (home / "certs").rename(home / "gone")
    assert polls.for_seconds(3) == 1
