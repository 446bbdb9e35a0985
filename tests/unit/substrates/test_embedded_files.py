"""What the embedded server needs before it starts: versions, seeds, configuration, record, lock."""

from __future__ import annotations

import fcntl
import os
import stat
import subprocess
import sys
from pathlib import Path

import nkeys
import pytest

from bsfg.errors import BsfgError, Code, SubstrateUnavailable
from bsfg.model.names import StreamName, ZoneId
from bsfg.substrates.embedded_configuration import ServerSettings, ServerUsers, publishable, render
from bsfg.substrates.embedded_launch import refuse_foreign_files
from bsfg.substrates.embedded_process import find_program, last_words, program_version
from bsfg.substrates.embedded_record import ServerRecord, load_record
from bsfg.substrates.nkey_files import ensure_seed
from bsfg.substrates.server_version import judge, parse_version, takes_batches
from bsfg.substrates.store_lock import find_holder, holder_if, try_lock

OPERATIONAL = StreamName("facts.operational")


@pytest.mark.parametrize(
    ("text", "accepted", "warned"),
    [
        ("nats-server: v2.9.10", False, False),
        ("nats-server: v2.10.23", False, False),
        ("nats-server: v2.10.24", True, True),
        ("2.12.11", True, True),
        ("2.12.12", True, False),
        ("2.14.0", True, True),
        ("2.14.3", True, True),
        ("2.14.4", True, False),
        ("nats-server: v2.15.1", True, False),
        ("v2.16.0-preview.1", True, False),
    ],
)
def test_versions_are_refused_warned_and_accepted(text: str, accepted: bool, warned: bool) -> None:
    version = parse_version(text)
    assert version is not None
    verdict = judge(version)
    assert (verdict.accepted, accepted and bool(verdict.reason)) == (accepted, warned)


def test_a_text_without_a_version_has_none() -> None:
    assert parse_version("nats-server: development") is None


@pytest.mark.parametrize(
    ("text", "takes"),
    [("2.11.9", False), ("2.12.0", True), ("3.0.0", True), ("nats-server: v2.15.1", True), ("", False)],
)
def test_atomic_batches_are_taken_since_2_12(text: str, takes: bool) -> None:
    assert takes_batches(text) is takes


async def test_the_installed_program_is_found_and_accepted() -> None:
    assert judge(await program_version(find_program())).accepted


async def test_a_program_that_is_too_old_or_silent_is_refused(tmp_path: Path) -> None:
    for name, said, part in (("old", "nats-server: v2.10.23", "refused"), ("mute", "hello", "version")):
        with pytest.raises(BsfgError, match=part) as caught:
            await program_version(script(tmp_path / name, f"echo '{said}'"))
        assert caught.value.code is Code.CONFIGURATION
    with pytest.raises(BsfgError, match="cannot be run"):
        await program_version(tmp_path / "absent")


def script(path: Path, body: str) -> Path:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def test_a_seed_is_made_once_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    path = tmp_path / "config" / "nats-local.nk"
    old_umask = os.umask(0)
    try:
        public_key = ensure_seed(path)
    finally:
        os.umask(old_umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert nkeys.from_seed(bytearray(path.read_bytes())).public_key.decode() == public_key
    assert ensure_seed(path) == public_key
    assert [entry.name for entry in path.parent.iterdir()] == ["nats-local.nk"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601])
def test_a_seed_that_others_can_reach_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "user.nk"
    ensure_seed(path)
    path.chmod(mode)
    with pytest.raises(BsfgError, match="only its owner") as caught:
        ensure_seed(path)
    assert caught.value.code is Code.CONFIGURATION
    path.chmod(0o400)
    assert ensure_seed(path).startswith("U")


@pytest.mark.parametrize(
    "content", [b"", b"SUA", b"not a seed", nkeys.encode_seed(bytes(32), nkeys.PREFIX_BYTE_ACCOUNT)]
)
def test_a_file_without_a_user_seed_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "user.nk"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(BsfgError, match="does not hold"):
        ensure_seed(path)
    assert path.read_bytes() == content


def test_the_configuration_depends_on_durability_and_streams(tmp_path: Path) -> None:
    def settings(strict: bool) -> ServerSettings:
        users = ServerUsers("UGATEWAY", "ULOCAL", "UADMIN")
        log = tmp_path / 'a "quoted" place' / "log"
        return ServerSettings(ZoneId("plant-a"), 4222, tmp_path, log, strict, (OPERATIONAL,), users)

    strict = render(settings(True))
    assert "sync_interval: always" in strict
    assert 'listen: "127.0.0.1:4222"' in strict
    assert "max_payload: 2097152" in strict
    assert 'a \\"quoted\\" place' in strict
    assert "http" not in strict
    assert "sync_interval" not in render(settings(False))


@pytest.mark.parametrize(("limit", "text"), [(None, ""), (5_000, "batch { max_msgs: 5000 }")])
def test_the_limit_of_a_batch_is_told_to_servers_that_know_it(
    tmp_path: Path, limit: int | None, text: str
) -> None:
    users = ServerUsers("UGATEWAY", "ULOCAL", "UADMIN")
    configuration = render(
        ServerSettings(ZoneId("plant-a"), 4222, tmp_path, tmp_path / "log", True, (OPERATIONAL,), users, limit)
    )
    assert ("limits" in configuration, text in configuration) == (limit is not None, True)


def test_local_applications_publish_to_their_streams_and_never_change_one() -> None:
    allowed = publishable([OPERATIONAL])
    assert {"facts.operational", "facts.operational.>"} <= set(allowed)
    assert not [
        subject
        for subject in allowed
        if subject.startswith(("in.", "$KV", "$JS.API.>", ">", "*"))
        or any(
            verb in subject for verb in ("STREAM.CREATE", "UPDATE", "DELETE", "PURGE", "RESTORE", "SNAPSHOT")
        )
    ]


def test_a_record_survives_and_a_broken_one_is_none(tmp_path: Path) -> None:
    path = tmp_path / "server.json"
    record = ServerRecord(1, 2, 4222, "2.15.1", "/store", True, 5_000, "abc")
    record.save(path)
    assert load_record(path) == record
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for broken in (b"", b"{}", b"[1]", path.read_bytes().replace(b"4222", b'"4222"'), b"\xff\xfe"):
        path.write_bytes(broken)
        assert load_record(path) is None
    assert load_record(tmp_path / "absent") is None


def test_the_holder_of_the_lock_is_who_has_it_not_who_has_it_open(tmp_path: Path) -> None:
    path = tmp_path / "store.lock"
    own = try_lock(path)
    assert own is not None
    assert try_lock(path) is None
    assert holder_if(path, os.getpid()) is not None
    os.close(own)
    with path.open() as merely_open:
        assert merely_open.fileno() >= 0
        assert holder_if(path, os.getpid()) is None
        assert find_holder(path) is None


def test_the_holder_is_found_when_its_parent_took_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "store.lock"
    lock = try_lock(path)
    assert lock is not None
    with subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdin.read()"], pass_fds=[lock], stdin=subprocess.PIPE
    ) as child:
        os.close(lock)
        found = find_holder(path)
        assert found is not None
        assert found.pid == child.pid
        assert found.program.startswith("python")
        assert child.stdin is not None
        child.stdin.close()
        child.wait(10)
    again = try_lock(path)
    assert again is not None
    fcntl.flock(again, fcntl.LOCK_UN)
    os.close(again)


def test_a_store_of_another_user_is_refused(tmp_path: Path) -> None:
    owner = tmp_path.stat().st_uid
    refuse_foreign_files([tmp_path], owner)
    with pytest.raises(BsfgError, match=f"belongs to user {owner}") as caught:
        refuse_foreign_files([tmp_path], owner + 1)
    assert caught.value.code is Code.CONFIGURATION
    assert not isinstance(caught.value, SubstrateUnavailable)


def test_last_words_are_the_crash_then_the_output_then_the_new_log(tmp_path: Path) -> None:
    output, log = tmp_path / "out", tmp_path / "log"
    log.write_text("of an earlier start\n")
    start = log.stat().st_size
    assert last_words(output, log, start) == ""
    with log.open("a") as file:
        file.write("[FTL] no room\n\n")
    assert last_words(output, log, start) == "[FTL] no room"
    log.write_text("[FTL] new\n")
    assert last_words(output, log, start) == "[FTL] new"
    output.write_text("panic: oh\ngoroutine 1\nexit\n")
    assert last_words(output, log, start) == "panic: oh"
    output.write_text("x" * 100_000)
    assert len(last_words(output, log, start)) <= 400
