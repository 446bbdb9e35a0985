"""Log sinks that hang, fail and come back; floods of one event: the gateway goes on, and what was lost is counted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Final

import pytest
import structlog
from tests.support.patience import patience

from bsfg.config.values import LogConfig
from bsfg.daemon.journal import open_journal
from bsfg.daemon.log_allowance import LINES_PER_MINUTE, LineAllowance
from bsfg.daemon.log_sinks import QUEUE_BYTES_MAX, QueuedSink, QueuedSinks, RotatedFile

BLOCKED_SECONDS_MAX: Final = 1.0


class Pipe:
    """A target at whose other end nobody reads until ``open`` is set."""

    def __init__(self) -> None:
        self.open, self.lines = threading.Event(), list[bytes]()

    def write(self, content: bytes) -> None:
        self.open.wait()
        self.lines.append(content)


class FullDisk:
    def __init__(self) -> None:
        self.is_full = True
        self.lines: list[bytes] = []

    def write(self, content: bytes) -> None:
        if self.is_full:
            raise OSError(28, "No space left on device")
        self.lines.append(content)


def test_a_sink_that_hangs_takes_no_time_of_the_caller_and_says_later_what_it_lost() -> None:
    pipe, lost, recovered = Pipe(), list[int](), list[int]()
    sink = QueuedSink(pipe, lambda: lost.append(1), recovered.append, "pipe")
    line = "x" * 10_000
    began = time.monotonic()
    for _ in range(1_000):
        sink.write(line)
    assert time.monotonic() - began < BLOCKED_SECONDS_MAX
    assert not sink.flush(0.05)
    kept = 1_000 - len(lost)
    assert lost and kept * len(line) <= QUEUE_BYTES_MAX + 2 * len(line)
    pipe.open.set()
    assert sink.flush(10)
    assert len(pipe.lines) == kept
    deadline = time.monotonic() + 5 * patience()
    while not recovered and time.monotonic() < deadline:
        time.sleep(0.01)
    assert sum(recovered) == len(lost)


def test_lines_that_a_disk_refuses_are_counted_and_the_sink_goes_on() -> None:
    disk, lost, recovered = FullDisk(), list[int](), list[int]()
    sink = QueuedSink(disk, lambda: lost.append(1), recovered.append, "disk")
    for number in range(3):
        sink.write(str(number))
    assert sink.flush(5) and len(lost) == 3 and not disk.lines
    disk.is_full = False
    sink.write("again")
    assert sink.flush(5) and disk.lines == [b"again\n"]
    deadline = time.monotonic() + 5 * patience()
    while not recovered and time.monotonic() < deadline:
        time.sleep(0.01)
    assert recovered == [3]


def test_a_full_pipe_on_stderr_stops_neither_the_program_nor_its_log_file(tmp_path: Path) -> None:
    """A real pipe that nobody reads, and far more lines than it holds."""
    program = f"""
import time
from pathlib import Path
from bsfg.config.values import LogConfig, LogFormat
from bsfg.daemon.journal import open_journal
from bsfg.daemon.log_sinks import QueuedSinks
file = Path({str(tmp_path / "bsfg.log")!r})
sinks = QueuedSinks(file, lambda: None, lambda lines: None)
journal = open_journal(LogConfig(LogFormat.JSON, file), "plant-a", sinks)
began = time.monotonic()
for number in range(2000):
    journal.info("link_state", peer=f"p{{number}}", message="y" * 500)
took = time.monotonic() - began
sinks.flush(3)
print(took)
"""
    reader, writer = os.pipe()
    try:
        done = subprocess.run(
            [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=writer, timeout=30, check=True
        )
    finally:
        os.close(reader)
        os.close(writer)
    assert float(done.stdout) < 5
    assert len((tmp_path / "bsfg.log").read_text().splitlines()) == 2000


def test_the_log_file_is_kept_bounded(tmp_path: Path) -> None:
    file = RotatedFile(tmp_path / "log" / "bsfg.log", bytes_max=1_000)
    for _ in range(50):
        file.write(b"z" * 99 + b"\n")
    sizes = [path.stat().st_size for path in sorted((tmp_path / "log").iterdir())]
    assert len(sizes) == 2 and max(sizes) <= 1_100


def test_a_flood_of_one_event_of_one_peer_leaves_the_others_their_lines(
    capsys: pytest.CaptureFixture[str],
) -> None:
    lost: list[int] = []
    journal = open_journal(LogConfig(), "plant-a", lost=lambda: lost.append(1))
    for _ in range(1_000):
        journal.info("notify_available", peer="enterprise", stream="facts.a")
    journal.info("notify_available", peer="plant-b", stream="facts.a")
    journal.info("link_state", peer="enterprise", stream="facts.a")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert len(lines) == LINES_PER_MINUTE + 2
    assert len(lost) == 1_000 - LINES_PER_MINUTE


def test_the_next_line_of_its_kind_says_how_many_were_dropped() -> None:
    now = [0.0]
    allowance = LineAllowance(now=lambda: now[0])
    for _ in range(LINES_PER_MINUTE):
        allowance(None, "", {"event": "e", "peer": "p"})
    for _ in range(7):
        with pytest.raises(structlog.DropEvent):
            allowance(None, "", {"event": "e", "peer": "p"})
    now[0] = 61.0
    assert allowance(None, "", {"event": "e", "peer": "p"})["lines_dropped"] == 7
    assert "lines_dropped" not in allowance(None, "", {"event": "e", "peer": "p"})


def test_values_that_are_no_text_are_bounded_too(capsys: pytest.CaptureFixture[str]) -> None:
    class Odd:
        def __str__(self) -> str:
            return "line\nbreak"

    open_journal(LogConfig(), "plant-a").info("link_state", many=["x" * 100] * 1_000, odd=Odd(), one=["a"])
    text = capsys.readouterr().err
    line = json.loads(text)
    assert text.count("\n") == 1 and len(text) < 10_000
    assert line["one"] == ["a"] and line["many"].endswith("…")


def test_queued_sinks_write_everything_before_the_program_ends(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    sinks = QueuedSinks(tmp_path / "bsfg.log", lambda: None, lambda lines: None)
    for number in range(100):
        sinks.write(f"line {number}")
    assert sinks.flush(5)
    assert len((tmp_path / "bsfg.log").read_text().splitlines()) == 100
    assert len(capfd.readouterr().err.splitlines()) == 100
