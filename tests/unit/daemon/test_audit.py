"""The audit log: chained, private, and whole after a torn write."""

from __future__ import annotations

import hashlib
import json
import stat
from pathlib import Path

from bsfg.daemon.audit import FIRST_LINK, AuditLog
from bsfg.daemon.system import SystemClock


def chain_is_whole(path: Path) -> bool:
    previous = FIRST_LINK
    for line in path.read_bytes().splitlines():
        if json.loads(line)["previous"] != previous:
            return False
        previous = hashlib.sha256(line).hexdigest()
    return True


def test_each_record_names_the_one_before_it_also_over_restarts(tmp_path: Path) -> None:
    path = tmp_path / "data" / "audit.jsonl"
    for start in range(3):
        audit = AuditLog(path, SystemClock())
        audit.record("admin.partition", "allowed", peer="enterprise", reason=f"drill {start}\nforged line")
        audit.record("identity_refused", "denied", source="127.0.0.1")
        audit.close()
    assert len(path.read_bytes().splitlines()) == 6
    assert chain_is_whole(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_changed_or_missing_line_breaks_the_chain(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    audit = AuditLog(path, SystemClock())
    for number in range(4):
        audit.record("action", "allowed", number=number)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], lines[1].replace(b"1", b"7", 1), *lines[2:]]))
    assert not chain_is_whole(path)
    path.write_bytes(b"".join([*lines[:1], *lines[2:]]))
    assert not chain_is_whole(path)


def test_a_line_torn_by_a_crash_stays_one_line_and_the_chain_goes_on_from_it(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    path.write_bytes(b'{"torn": tr')
    audit = AuditLog(path, SystemClock())
    audit.record("action", "allowed")
    torn, record = path.read_bytes().splitlines()
    assert json.loads(record)["previous"] == hashlib.sha256(torn).hexdigest()
