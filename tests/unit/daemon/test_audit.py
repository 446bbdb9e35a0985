"""The audit log: chained over files, private, bounded, whole after a crash; one line whatever is put into it."""

from __future__ import annotations

import errno
import json
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from bsfg.cli.main import main
from bsfg.daemon import audit as audit_module
from bsfg.daemon.audit import CUT_CHARACTERS, QUEUE_MAX, AuditLog
from bsfg.daemon.audit_files import FIRST_LINK, LINE_BYTES_MAX, all_files, link_of, verify
from bsfg.daemon.system import SystemClock
from bsfg.errors import EXIT_DONE, EXIT_FAILED, BsfgError

SMALL: Final = 16 * 1024
"""A whole bound under which a file holds 1 KiB: a few records."""


@pytest.fixture
def open_log(tmp_path: Path) -> Iterator[Callable[..., AuditLog]]:
    opened: list[AuditLog] = []

    def open_one(**settings: Any) -> AuditLog:
        opened.append(AuditLog(tmp_path / "audit.jsonl", SystemClock(), **settings))
        return opened[-1]

    yield open_one
    for log in opened:
        try:
            log.close()
        except OSError:
            continue


def lines(folder: Path) -> list[bytes]:
    return [line for file in all_files(folder) for line in file.path.read_bytes().splitlines()]


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines(folder)]


def test_each_record_names_the_one_before_it_also_over_restarts(tmp_path: Path) -> None:
    path = tmp_path / "data" / "audit.jsonl"
    for start in range(3):
        audit = AuditLog(path, SystemClock(), by=lambda: "user root")
        audit.record("admin.partition", "allowed", peer="enterprise", reason=f"drill {start}\nforged line")
        audit.record("identity_refused", "denied", source="127.0.0.1")
        audit.close()
    written = records(path.parent)
    assert written[0]["previous"] == FIRST_LINK
    assert len(written) == 6
    assert {record["by"] for record in written} == {"user root"}
    assert verify(path.parent).problems == []
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_the_chain_goes_on_over_full_files(tmp_path: Path, open_log: Callable[..., AuditLog]) -> None:
    log = open_log(bytes_max=SMALL)
    for number in range(20):
        log.record("action", "allowed", number=number)
    log.close()
    log = open_log(bytes_max=SMALL)
    for number in range(20, 30):
        log.record("action", "allowed", number=number)
    files = all_files(tmp_path)
    assert len(files) > 3
    assert [file.path.name for file in files][:2] == ["audit-00000001.jsonl", "audit-00000002.jsonl"]
    assert [record["number"] for record in records(tmp_path)] == list(range(30))
    verdict = verify(tmp_path)
    assert (verdict.problems, verdict.records, verdict.files) == ([], 30, len(files))
    assert {stat.S_IMODE(file.path.stat().st_mode) for file in files} == {0o600}


def test_it_is_bounded_and_what_was_removed_is_recorded(
    tmp_path: Path, open_log: Callable[..., AuditLog]
) -> None:
    log = open_log(bytes_max=SMALL)
    for number in range(500):
        log.record("action", "allowed", number=number)
        if number % 20 == 0:
            assert sum(file.path.stat().st_size for file in all_files(tmp_path)) <= SMALL
    files = all_files(tmp_path)
    assert files[0].serial > 10
    assert verify(tmp_path).problems == []
    files[0].path.unlink()
    [problem] = verify(tmp_path).problems
    assert problem == f"{files[1].path.name}:1: the records before it are missing"


def changed(path: Path, change: Callable[[list[bytes]], list[bytes]]) -> None:
    path.write_bytes(b"".join(change(path.read_bytes().splitlines(keepends=True))))


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (lambda ls: [ls[0], ls[1].replace(b'"number": 1', b'"number": 7'), *ls[2:]], 3),
        (lambda ls: [ls[0], *ls[2:]], 2),
        (lambda ls: [ls[0], ls[2], ls[1], *ls[3:]], 2),
        (lambda ls: [ls[0], ls[0], *ls[1:]], 2),
        (lambda ls: [ls[0], b"no record\n", *ls[1:]], 2),
        (lambda ls: [ls[0], b"\n", *ls[1:]], 2),
        (lambda ls: [*ls, b'{"torn": tr\n'], 5),
        (lambda ls: [*ls, b'["list"]\n'], 5),
    ],
)
def test_a_changed_missing_or_added_line_is_named(
    tmp_path: Path,
    open_log: Callable[..., AuditLog],
    capsys: pytest.CaptureFixture[str],
    change: Callable[[list[bytes]], list[bytes]],
    place: int,
) -> None:
    data = tmp_path / "data"
    log = AuditLog(data / "audit.jsonl", SystemClock())
    for number in range(4):
        log.record("action", "allowed", number=number)
    log.close()
    assert main(["audit", "verify", "--home", str(tmp_path)]) == EXIT_DONE
    assert "4 records" in capsys.readouterr().out
    changed(data / "audit.jsonl", change)
    assert f"audit.jsonl:{place}: " in "\n".join(verify(data).problems)
    assert main(["audit", "verify", "--home", str(tmp_path), "--output", "json"]) == EXIT_FAILED
    answer = json.loads(capsys.readouterr().out)
    assert answer["ok"] is False
    assert any(problem.startswith(f"audit.jsonl:{place}: ") for problem in answer["problems"])


def test_a_break_in_a_full_file_and_between_files_is_named(
    tmp_path: Path, open_log: Callable[..., AuditLog]
) -> None:
    log = open_log(bytes_max=SMALL)
    for number in range(20):
        log.record("action", "allowed", number=number)
    second = all_files(tmp_path)[1].path
    whole = second.read_bytes()
    changed(second, lambda ls: ls[:-1])
    third = all_files(tmp_path)[2].path
    assert verify(tmp_path).problems[0].startswith(f"{third.name}:1: the chain breaks")
    second.write_bytes(whole.replace(b"allowed", b"denied!", 1))
    assert verify(tmp_path).problems[0].startswith(f"{second.name}:2: the chain breaks")
    second.unlink()
    assert verify(tmp_path).problems[0].startswith(f"{third.name}:1: the chain breaks")


def test_a_home_without_a_log_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", "verify", "--home", str(tmp_path)]) == EXIT_FAILED
    assert "there is no audit log" in capsys.readouterr().err


def test_a_line_torn_by_a_crash_stays_one_line_and_is_told_of(
    tmp_path: Path, open_log: Callable[..., AuditLog]
) -> None:
    (tmp_path / "audit.jsonl").write_bytes(b'{"torn": tr')
    assert verify(tmp_path).unfinished == "audit.jsonl:1"
    open_log().record("action", "allowed")
    torn, told, record = lines(tmp_path)
    assert json.loads(told)["previous"] == link_of(torn)
    assert json.loads(told)["action"] == "audit.torn"
    assert json.loads(record)["previous"] == link_of(told)
    assert verify(tmp_path).problems == []


def test_a_disk_that_takes_half_a_line_leaves_no_piece(
    tmp_path: Path, open_log: Callable[..., AuditLog], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = open_log()
    log.record("action", "allowed", number=1)
    write = os.write

    def half(descriptor: int, content: bytes) -> int:
        write(descriptor, content[: len(content) // 2])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(audit_module.os, "write", half)
    with pytest.raises(BsfgError, match="writing the audit log failed"):
        log.record("action", "allowed", number=2)
    log.note("refusal", "denied")
    log.settle()
    monkeypatch.setattr(audit_module.os, "write", write)
    log.note("refusal", "denied")
    log.settle()
    assert [record.get("number") or record.get("records") for record in records(tmp_path)] == [1, None, 1]
    assert [record["action"] for record in records(tmp_path)] == ["action", "refusal", "audit.lost"]
    assert verify(tmp_path).problems == []


def test_a_disk_that_stands_still_holds_no_note_up_and_the_loss_is_counted(
    tmp_path: Path, open_log: Callable[..., AuditLog], monkeypatch: pytest.MonkeyPatch
) -> None:
    log, stuck, sync = open_log(), threading.Event(), os.fsync

    def still(descriptor: int) -> None:
        assert stuck.wait(30)
        sync(descriptor)

    monkeypatch.setattr(audit_module.os, "fsync", still)
    log.note("refusal", "denied", number=-1)
    time.sleep(0.2)
    began = time.monotonic()
    for number in range(QUEUE_MAX + 50):
        log.note("refusal", "denied", number=number)
    assert time.monotonic() - began < 1.0
    stuck.set()
    log.settle()
    written = records(tmp_path)
    assert [record["number"] for record in written[1:-1]] == list(range(QUEUE_MAX))
    assert (written[-1]["action"], written[-1]["records"]) == ("audit.lost", 50)
    assert verify(tmp_path).problems == []


def test_notes_and_records_of_many_threads_are_one_chain(
    tmp_path: Path, open_log: Callable[..., AuditLog]
) -> None:
    log = open_log(bytes_max=64 * SMALL)

    def write() -> None:
        for number in range(50):
            log.record("action", "allowed", number=number)
            log.note("refusal", "denied", number=number)

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.settle()
    assert len(records(tmp_path)) == 400
    assert verify(tmp_path).problems == []


@pytest.mark.parametrize(
    "text", ["a\nb", "\r", "\x00", "\x1b[2J", "\u2028", "\x85", '"}\n{"action": "forged"', "\ud800"]
)
def test_whatever_is_put_into_a_field_is_one_line(
    tmp_path: Path, open_log: Callable[..., AuditLog], text: str
) -> None:
    log = open_log()
    log.record("action", "denied", source=text, detail=[text], nested={text: text})
    [line] = lines(tmp_path)
    assert json.loads(line)["source"] == text
    assert line.isascii()
    assert all(32 <= byte < 127 for byte in line)
    assert verify(tmp_path).problems == []


def test_a_long_field_is_cut_and_a_line_is_never_too_long(
    tmp_path: Path, open_log: Callable[..., AuditLog]
) -> None:
    log = open_log()
    log.record("action", "denied", source="\U0001f4a9" * 100_000, plan={"x": ["y" * 100] * 10_000}, short="s")
    log.record("action", "denied", **{f"field{number}": "z" * 16_000 for number in range(20)})
    first, second = records(tmp_path)
    assert len(first["source"]) == CUT_CHARACTERS + 1
    assert first["short"] == "s"
    assert second["is_cut"] is True
    assert max(map(len, lines(tmp_path))) <= LINE_BYTES_MAX
    assert verify(tmp_path).problems == []


def test_the_last_record_of_a_kind_is_found_over_a_border(
    tmp_path: Path, open_log: Callable[..., AuditLog]
) -> None:
    log = open_log(bytes_max=SMALL)
    assert log.last("configuration.load", "allowed") is None
    log.record("configuration.load", "allowed", files={"a": "1"})
    log.record("configuration.load", "denied", cause="x")
    for number in range(4):
        log.record("action", "allowed", number=number)
    assert len(all_files(tmp_path)) == 2
    found = log.last("configuration.load", "allowed")
    assert found is not None
    assert found["files"] == {"a": "1"}


def test_closing_writes_what_was_noted(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.jsonl", SystemClock())
    for number in range(200):
        log.note("refusal", "denied", number=number)
    log.close()
    assert [record["number"] for record in records(tmp_path)] == list(range(200))
