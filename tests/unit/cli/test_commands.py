"""What each command asks the gateway, and what the commands do that need none."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from tests.unit.cli.canned import BINARY_FACT, FACT, CannedOperations
from tests.unit.cli.conftest import bsfg_program

from bsfg.cli.main import main

FETCH = {
    "peer": "enterprise",
    "stream": "facts.operational",
    "cursor_init": None,
    "init_timestamp": None,
    "dry_run": False,
}
NEXT = {"stream": "facts.orders", "peer": None, "consumer": None, "count": 1, "ack": True, "wait_seconds": 2.0}
READ = {"stream": "facts.orders", "peer": None, "from_sequence": None, "follow": False, "count": None}


@pytest.mark.parametrize(
    ("arguments", "call"),
    [
        ("status", ("status", None)),
        ("peer list", ("peers", None)),
        ("peer check plant-b", ("peer_check", "plant-b")),
        ("peer exports plant-b", ("peer_exports", "plant-b")),
        ("peer streams plant-b", ("peer_streams", "plant-b")),
        ("stream list", ("streams", None)),
        ("stream info facts.orders", ("stream_info", ("facts.orders", None))),
        ("stream info facts.orders --peer plant-b", ("stream_info", ("facts.orders", "plant-b"))),
        ("stream apply facts.orders --reason CHG-7", ("stream_apply", ("facts.orders", "CHG-7"))),
        ("consumer info --stream facts.orders", ("consumer_info", ("facts.orders", None, None))),
        (
            "consumer info --stream facts.orders --peer plant-b --consumer c",
            ("consumer_info", ("facts.orders", "plant-b", "c")),
        ),
        ("consumer next --stream facts.orders", ("consumer_next", NEXT)),
        (
            "consumer next --stream facts.orders --peer plant-b --consumer c --count 9 --no-ack",
            ("consumer_next", NEXT | {"peer": "plant-b", "consumer": "c", "count": 9, "ack": False}),
        ),
        ("fetch --peer enterprise --stream facts.operational", ("fetch", FETCH)),
        (
            "fetch --peer enterprise --stream facts.operational --cursor-init bounded_backfill_24h",
            ("fetch", FETCH | {"cursor_init": "bounded_backfill_24h"}),
        ),
        (
            "fetch --peer enterprise --stream facts.operational --cursor-init explicit_timestamp"
            " --init-timestamp 2025-01-15T10:00:00Z --dry-run",
            (
                "fetch",
                FETCH
                | {
                    "cursor_init": "explicit_timestamp",
                    "init_timestamp": "2025-01-15T10:00:00Z",
                    "dry_run": True,
                },
            ),
        ),
        ("cursor list", ("cursors", None)),
        ("cursor query --peer enterprise --stream facts.orders", ("cursor", ("enterprise", "facts.orders"))),
        ("config show --active", ("active_configuration", None)),
        ("config reload", ("reload", None)),
        ("admin partition --peer enterprise --reason drill", ("partition", ("enterprise", "drill", 900))),
        ("admin partition --peer enterprise --reason drill --for 90s", ("partition", ("enterprise", "drill", 90))),
        ("admin partition --peer enterprise --reason drill --for 24h", ("partition", ("enterprise", "drill", 86_400))),
        (
            "admin partition --peer enterprise --reason drill --for until-reconciled",
            ("partition", ("enterprise", "drill", None)),
        ),
        ("admin reconcile --peer enterprise", ("reconcile", "enterprise")),
        (
            "admin notify --peer enterprise --stream facts.orders",
            ("notify", ("enterprise", "facts.orders")),
        ),
        ("read --stream facts.orders", ("read", READ)),
        (
            "read --stream facts.orders --peer plant-b --from 7",
            ("read", READ | {"peer": "plant-b", "from_sequence": 7}),
        ),
    ],
)
async def test_a_command_asks_the_gateway(
    home: Path, operations: CannedOperations, arguments: str, call: tuple[str, Any]
) -> None:
    finished = await bsfg_program(*arguments.split(), "--home", home, "--output", "json")
    assert operations.calls == [call]
    assert finished.complaint == ""
    assert finished.status == (1 if call[0] == "peer_check" else 0)
    if call[0] != "read":
        assert finished.json == operations.answers[call[0]]


async def test_text_has_a_screen_for_every_answer(home: Path, operations: CannedOperations) -> None:
    for words in ("peer streams enterprise", "consumer info --stream a", "config show --active", "stream apply a"):
        options = ["--reason", "r"] if "apply" in words else []
        finished = await bsfg_program(*words.split(), *options, "--home", home)
        assert (finished.status, finished.complaint) == (0, "")
        assert ": " in finished.text
        assert "{" not in finished.text


async def test_read_prints_facts_as_lines_or_their_payloads(home: Path, operations: CannedOperations) -> None:
    lines = await bsfg_program("read", "--stream", "facts.orders", "--home", home)
    assert [json.loads(line) for line in lines.stdout.splitlines()] == [FACT, BINARY_FACT]
    assert lines.stdout.isascii()
    raw = await bsfg_program("read", "--stream", "facts.orders", "--raw", "--home", home)
    assert raw.stdout == '{"order": "Ä-1"}\n'.encode() + b"\x00\xff\n"


async def test_consumer_next_is_one_fact_a_line_in_text(home: Path, operations: CannedOperations) -> None:
    finished = await bsfg_program("consumer", "next", "--stream", "facts.orders", "--home", home)
    assert finished.json == FACT | {"local_sequence": 1}
    operations.answers["consumer_next"] = {"facts": []}
    nothing = await bsfg_program("consumer", "next", "--stream", "facts.orders", "--home", home)
    assert (nothing.status, nothing.text) == (0, "")


# Certificates


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, Any]:
    status = main([*map(str, arguments), "--output", "json"])
    captured = capsys.readouterr()
    return status, json.loads(captured.out or captured.err)


def test_a_development_ca_issues_what_inspect_finds_good(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ca = tmp_path / "ca"
    status, made = run(capsys, "cert", "dev-ca", "--dir", ca)
    assert (status, made) == (0, {"ca_cert": str(ca / "ca.crt"), "ca_key": str(ca / "ca.key")})
    issue = ("cert", "issue", "--home", home, "--ca-cert", ca / "ca.crt", "--ca-key", ca / "ca.key")
    status, issued = run(capsys, *issue, "--identity", "plant-a-bsfg", "--ip", "127.3.1.10")
    assert status == 0
    assert issued["cert"] == str(home / "certs" / "server.crt")
    assert stat.S_IMODE(os.stat(home / "certs" / "server.key").st_mode) == 0o600  # noqa: PTH116
    (home / "certs" / "ca.crt").write_bytes((ca / "ca.crt").read_bytes())
    status, seen = run(capsys, "cert", "inspect", "--home", home)
    assert (status, seen["subject"], seen["chain"]["verdict"]) == (0, "CN=plant-a-bsfg", "ok")
    assert seen["san"] == ["DNS:plant-a-bsfg", "IP:127.3.1.10"]
    assert seen["days_left"] in (364, 365)
    assert main(["cert", "inspect", "--home", str(home)]) == 0
    text = capsys.readouterr().out
    assert "CN=plant-a-bsfg" in text
    assert "chain                    ok: " in text


def test_a_certificate_of_another_ca_fails_its_inspection(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("ours", "other"):
        run(capsys, "cert", "dev-ca", "--dir", tmp_path / name)
    ours, other = tmp_path / "ours", tmp_path / "other" / "ca.crt"
    keys = ("--ca-cert", ours / "ca.crt", "--ca-key", ours / "ca.key")
    run(capsys, "cert", "issue", "--home", home, *keys, "--identity", "urn:bsfg:plant-a", "--uri")
    status, seen = run(capsys, "cert", "inspect", home / "certs" / "server.crt", "--ca", ours / "ca.crt")
    assert (status, seen["san"]) == (0, ["URI:urn:bsfg:plant-a"])
    status, seen = run(capsys, "cert", "inspect", home / "certs" / "server.crt", "--ca", other)
    assert (status, seen["chain"]["verdict"]) == (1, "failed")


def test_a_certificate_that_is_missing_is_exit_2(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, answer = run(capsys, "cert", "inspect", "--home", home)
    assert (status, answer["error"]["code"]) == (2, "configuration")
    assert "server.crt" in answer["error"]["message"]


def test_an_existing_ca_is_not_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, "cert", "dev-ca", "--dir", tmp_path)
    before = (tmp_path / "ca.crt").read_bytes()
    status, answer = run(capsys, "cert", "dev-ca", "--dir", tmp_path)
    assert (status, answer["error"]["code"]) == (2, "configuration")
    assert (tmp_path / "ca.crt").read_bytes() == before


# Configuration files


def test_config_check_and_show_need_no_gateway(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "config").mkdir(parents=True)
    (home / "config" / "zone.yaml").write_text("zone: plant-a\nidentity: plant-a-bsfg\n")
    assert main(["config", "check", "--home", str(home)]) == 0
    assert capsys.readouterr().out == "✓ the configuration of plant-a is good: 0 streams, 0 peers, 0 links\n"
    status, shown = run(capsys, "config", "show", "--home", home)
    assert (status, shown["zone"]["identity"]) == (0, "plant-a-bsfg")
    assert main(["config", "show", "--home", str(home)]) == 0
    assert "  identity: plant-a-bsfg\n" in capsys.readouterr().out
