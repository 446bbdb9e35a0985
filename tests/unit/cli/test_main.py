"""The program as a whole: how it starts, how it fails, and that it never says it with a traceback."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest
from tests.support.patience import patience
from tests.unit.cli.canned import CannedOperations
from tests.unit.cli.conftest import SOURCE, Finished, bsfg_program, start_bsfg

from bsfg.cli.main import NOUNS, main, output_wanted, program
from bsfg.errors import BsfgError, Code

HEAVY = ("aiohttp", "nats", "pydantic", "pydantic_core", "cryptography", "rich", "asyncio", "ssl", "ruamel")


def commands() -> list[list[str]]:
    """Every command of the program, by its words."""
    context = click.Context(program)
    found: list[list[str]] = []
    for noun in program.list_commands(context):
        command = program.get_command(context, noun)
        found += [[noun, verb] for verb in command.commands] if isinstance(command, click.Group) else [[noun]]
    return found


# Starting


def test_help_imports_nothing_heavy() -> None:
    code = f"""
import sys
from bsfg.cli.main import main
status = main(["--help"])
print(status, sorted(set({HEAVY!r}) & set(sys.modules)), sorted(m for m in sys.modules if m.startswith("bsfg.")))
"""
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": SOURCE}, timeout=20
    )
    cli = ["bsfg.cli", "bsfg.cli.lazy", "bsfg.cli.main", "bsfg.cli.render"]
    modules = [*cli, "bsfg.errors", "bsfg.model", "bsfg.model.units"]
    assert run.stdout.splitlines()[-1] == f"0 [] {modules}"


async def test_help_answers_quickly() -> None:
    seconds = []
    for _ in range(5):
        begin = time.monotonic()
        assert (await bsfg_program("--help")).status == 0
        seconds.append(time.monotonic() - begin)
    # The contract's 200 ms with room for a busy machine; a heavy import would add 300 to 500.
    assert min(seconds) < 0.4


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_has_home_output_and_help(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words, "--help"]) == 0
    text = capsys.readouterr().out
    assert all(option in text for option in ("--home", "--output [text|json", "--help"))


@pytest.mark.parametrize("noun", NOUNS)
def test_a_nouns_help_line_is_not_cut(noun: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([noun, "--help"]) == 0
    assert "..." not in capsys.readouterr().out.replace("[ARGS]...", "")


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    import bsfg

    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"bsfg {bsfg.__version__}\n"


# Usage


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["peeer"], "No such command 'peeer'. Did you mean 'peer'?"),
        (["peer", "chek", "enterprise"], "No such command 'chek'. Did you mean 'check'?"),
        (["peer", "check"], "Missing argument 'ID'."),
        (["status", "--hom", "/tmp"], "No such option '--hom'"),
        (["status", "--output", "xml"], "'xml' is not one of 'text', 'json'."),
        (["cursor", "query", "--peer", "enterprise"], "Missing option '--stream'"),
        (["cursor", "query", "--peer", "Plant A", "--stream", "a"], "zone id 'Plant A' is not of the form"),
        (["cursor", "query", "--peer", "a", "--stream", "a.*"], "stream name 'a.*' is not lower-case words"),
        (["cursor", "query", "--peer", "a", "--stream", "a..b"], "stream name 'a..b' is not lower-case words"),
        (["cursor", "query", "--peer", "a", "--stream", "f\u0430cts"], "stream name 'f\\u0430cts' is not lower-case"),
        (["peer", "check", ".."], "zone id '..' is not of the form"),
        (["fetch", "--peer", "a", "--stream", "a", "--cursor-init", "bounded_backfill_0h"], "init_mode is not one of"),
        (["fetch", "--peer", "a", "--stream", "a", "--init-timestamp", "2025-01-15T10:00:00Z"], "only for init_mode"),
        (
            ["fetch", "--peer", "a", "--stream", "a", "--cursor-init", "explicit_timestamp"],
            "needs init_timestamp",
        ),
        (
            [
                *("fetch", "--peer", "a", "--stream", "a", "--cursor-init", "explicit_timestamp"),
                *("--init-timestamp", "2025-01-15T10:00:00"),
            ],
            "Invalid value for --init-timestamp: not an RFC 3339 time with a zone",
        ),
        (["admin", "partition", "--peer", "a"], "Missing option '--reason'"),
        (["admin", "partition", "--peer", "a", "--reason", "r", "--for", "25h"], "25h is longer than 24h"),
        (["admin", "partition", "--peer", "a", "--reason", "r", "--for", "0m"], "'0m' is not a duration"),
        (["admin", "partition", "--peer", "a", "--reason", "r", "--for", "15"], "'15' is not a duration"),
        (["append", "--stream", "a", "/nowhere/facts"], "'/nowhere/facts': No such file or directory"),
        (["append", "--stream", "a", "--ndjson", "--envelope"], "exclude each other"),
        (["append", "--stream", "a", "--ndjson", "--message-id", "7"], "would stand for every line"),
        (["append", "--stream", "a", "--envelope", "--subject", "x"], "each line has its own"),
        (["read", "--stream", "a", "--from", "0"], "0 is not in the range"),
        (["consumer", "next", "--stream", "a", "--count", "0"], "0 is not in the range"),
    ],
)
def test_wrong_usage_is_exit_2_in_text_and_json(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    text = capsys.readouterr()
    assert text.out == ""
    assert message in text.err
    if "xml" not in arguments:
        assert main([*arguments, "--output", "json"]) == 2
        finished = Finished(2, b"", capsys.readouterr().err.encode())
        assert message in finished.error["message"]
        assert finished.error["code"] in ("invalid_request", "invalid_stream")


@pytest.mark.parametrize("arguments", [[], ["peer"]])
def test_no_command_shows_help_and_is_exit_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert "Commands:" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        (["a", "--output", "json"], "json"),
        (["a", "--output=json"], "json"),
        (["a", "--output=json", "--output", "text"], "text"),
        (["a", "--", "--output", "json"], "text"),
        (["a", "--output"], "text"),
        ([], "text"),
    ],
)
def test_the_form_of_errors_is_read_from_the_arguments(arguments: list[str], wanted: str) -> None:
    assert output_wanted(arguments) == wanted


# Failing


FAMILIES = [
    (Code.INVALID_REQUEST, 2),
    (Code.CONFIGURATION, 2),
    (Code.INIT_REJECTED, 1),
    (Code.STREAM_DENIED, 4),
    (Code.IDENTITY_REJECTED, 4),
    (Code.NOT_FOUND, 1),
    (Code.HALTED, 1),
    (Code.LOCAL_FULL, 1),
    (Code.UNAVAILABLE, 3),
    (Code.PARTITIONED, 3),
    (Code.OUTCOME_UNKNOWN, 3),
    (Code.TIMED_OUT, 5),
    (Code.INTERNAL, 1),
]


@pytest.mark.parametrize(("code", "status"), FAMILIES, ids=lambda value: getattr(value, "label", None))
async def test_an_error_of_the_gateway_keeps_its_code_and_exit_status(
    home: Path, operations: CannedOperations, code: Code, status: int
) -> None:
    operations.answers["status"] = BsfgError(code, "it went wrong", hint="mend it", place="there")
    text = await bsfg_program("status", "--home", home)
    assert (text.status, text.text, text.complaint) == (status, "", "error: it went wrong\n  hint: mend it\n")
    structured = await bsfg_program("status", "--home", home, "--output", "json")
    assert (structured.status, structured.text) == (status, "")
    assert structured.error == {"code": code.label, "message": "it went wrong", "hint": "mend it", "place": "there"}


@pytest.mark.parametrize("prepare", [lambda home: None, Path.mkdir, lambda home: (home / "run").mkdir(parents=True)])
def test_no_gateway_is_exit_3_and_says_how_to_start_one(
    home: Path, prepare: object, capsys: pytest.CaptureFixture[str]
) -> None:
    assert callable(prepare)
    prepare(home)
    assert main(["status", "--home", str(home)]) == 3
    complaint = capsys.readouterr().err
    assert f"no gateway is up for {home}" in complaint
    assert f"hint: start it: bsfg serve --home {home}" in complaint


async def test_foreign_text_moves_no_cursor(home: Path, operations: CannedOperations) -> None:
    operations.answers["status"] = BsfgError(Code.UNAVAILABLE, "peer said \x1b[2J\nerror: all is well\u202e")
    finished = await bsfg_program("status", "--home", home)
    assert finished.complaint == "error: peer said \\x1b[2J\\nerror: all is well\\u202e\n"


async def test_the_home_may_come_from_the_environment(home: Path, operations: CannedOperations) -> None:
    assert (await bsfg_program("status", env={"BSFG_HOME": str(home)})).status == 0
    assert (await bsfg_program("status", "--home", home / "other", env={"BSFG_HOME": str(home)})).status == 3


def test_what_nobody_foresaw_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def explode(*_: object) -> None:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr("bsfg.cli.local_client.LocalClient.get", explode)
    assert main(["status", "--home", str(home), "--output", "json"]) == 1
    finished = Finished(1, b"", capsys.readouterr().err.encode())
    assert finished.error["code"] == "internal"
    assert finished.error["message"] == "unexpected error: ZeroDivisionError: by zero"


# Interrupts and pipes


async def test_ctrl_c_is_exit_130_without_a_traceback(home: Path, operations: CannedOperations) -> None:
    process = await start_bsfg("read", "--stream", "facts.orders", "--follow", "--home", home)
    assert process.stdout is not None
    async with asyncio.timeout(20 * patience()):
        assert (await process.stdout.readline()).startswith(b'{"sequence": 1,')
        process.send_signal(signal.SIGINT)
        _, complaint = await process.communicate()
    assert process.returncode == 130
    assert complaint.strip() == b""


async def test_ctrl_c_while_waiting_for_an_answer(home: Path, operations: CannedOperations) -> None:
    operations.answers["status"] = operations.hold
    process = await start_bsfg("status", "--home", home)
    async with asyncio.timeout(20 * patience()):
        await operations.called.wait()
        process.send_signal(signal.SIGINT)
        _, complaint = await process.communicate()
    assert process.returncode == 130
    assert complaint.strip() == b""


@pytest.mark.parametrize("arguments", [["read", "--stream", "a"], ["status"], ["peer", "list", "--output", "json"]])
async def test_a_reader_that_leaves_is_no_error(
    home: Path, operations: CannedOperations, arguments: list[str]
) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    process = await start_bsfg(*arguments, "--home", home, stdout=writing)
    os.close(writing)
    async with asyncio.timeout(20 * patience()):
        _, complaint = await process.communicate()
    assert (process.returncode, complaint) == (0, b"")


async def test_a_terminal_without_unicode_shows_marks_escaped(home: Path, operations: CannedOperations) -> None:
    finished = await bsfg_program("status", "--home", home, env={"PYTHONIOENCODING": "iso-8859-1"})
    assert finished.status == 0
    assert "\\u2717 link enterprise" in finished.text
