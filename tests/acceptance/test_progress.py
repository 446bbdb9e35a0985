"""Whoever waits at a terminal sees a bar with rate and time of arrival; a pipe and a file see nothing of it."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
from tests.support.lab_zones import ENTERPRISE, LINK, OPERATIONAL, Lab, Zone

from bsfg.lab import program

BYTES: Final = 128 * 1024 * 1024
FACTS: Final = 60_000
CONTROL: Final = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
SECONDS: Final = 120.0


@dataclass(frozen=True)
class Shown:
    """What a command printed: for programs, and for who looks on."""

    output: str
    terminal: str

    @property
    def json(self) -> Any:
        return json.loads(self.output)


def at_a_terminal(zone: Zone, *arguments: str) -> Shown:
    """A command whose standard error is a terminal of eighty columns, and whose output goes into a pipe."""
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "100"}
    line = program.command_line(*arguments, "--home", str(zone.home))
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=theirs, env=environment)
    os.close(theirs)
    pieces: list[bytes] = []
    reading = threading.Thread(target=_read_all, args=[ours, pieces])
    reading.start()
    output = process.communicate(timeout=SECONDS)[0].decode()
    reading.join(SECONDS)
    os.close(ours)
    terminal = CONTROL.sub("", b"".join(pieces).decode())
    assert process.returncode == 0, terminal
    return Shown(output, terminal)


def _read_all(terminal: int, pieces: list[bytes]) -> None:
    while True:
        try:
            piece = os.read(terminal, 65_536)
        except OSError:  # How Linux says that nobody has the other end open any more.
            return
        if not piece:
            return
        pieces.append(piece)


def quietly(zone: Zone, *arguments: str) -> Any:
    """The same command with nobody at a terminal: JSON, and not a byte more on either output."""
    done = zone.bsfg(*arguments, "--output", "json")
    assert (done.status, done.errors) == (0, "")
    return done.json


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("large") / "large.bin"
    with path.open("wb") as file:
        file.truncate(BYTES)
    return path


def test_an_artifact_on_its_way_into_the_store_and_to_the_peer(lab: Lab, large: Path, tmp_path: Path) -> None:
    put = ("artifact", "put", str(large), "--type", "batch-files")
    shown = at_a_terminal(lab.enterprise, *put)
    assert "sending large.bin" in shown.terminal
    assert re.search(r"\d+\.\d/134\.2 MB", shown.terminal) and re.search(r"\d MB/s", shown.terminal)
    assert re.search(r"\d:\d\d:\d\d", shown.terminal), "the time of arrival"
    assert quietly(lab.enterprise, *put) == shown.json

    fetch = ("artifact", "fetch", "--uri", shown.json["uri"], "--output", "json")
    out = tmp_path / "copy.bin"
    fetched = at_a_terminal(lab.plant, *fetch, "--out", str(out))
    assert "fetching" in fetched.terminal and "copying" in fetched.terminal
    assert "134.2 MB" in fetched.terminal
    assert fetched.json["size"] == BYTES == out.stat().st_size
    assert quietly(lab.plant, *fetch[:-2])["sha256"] == fetched.json["sha256"]


def test_a_backfill_and_a_comparison(lab: Lab) -> None:
    plant = lab.plant
    plant.ask("admin", "partition", "--peer", ENTERPRISE, "--reason", "to fall behind")
    lines = b"".join(b'{"number": %d, "filler": "%s"}\n' % (number, b"x" * 500) for number in range(FACTS))
    lab.enterprise.ask("append", "--stream", OPERATIONAL, "--ndjson", "-", stdin=lines)
    reconciled = at_a_terminal(plant, "admin", "reconcile", "--peer", ENTERPRISE, "--output", "json")
    assert reconciled.json and f"catching up with {ENTERPRISE}" in reconciled.terminal
    fetched = at_a_terminal(plant, "fetch", *LINK, "--output", "json")
    assert fetched.json and f"fetching {ENTERPRISE}/{OPERATIONAL}" in fetched.terminal
    lab.level(60.0)

    compared = at_a_terminal(plant, "verify", *LINK, "--output", "json")
    assert compared.json["identical"] and compared.json["facts"] >= FACTS
    assert f"comparing {ENTERPRISE}/{OPERATIONAL}" in compared.terminal
    # A rate takes two looks some time apart; a comparison on a fast machine is over by then.
    assert f"/{FACTS}" in compared.terminal
    assert quietly(plant, "verify", *LINK)["digest"] == compared.json["digest"]
