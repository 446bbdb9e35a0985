"""How often each process of a side calls fsync or fdatasync, counted by strace."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

ATTACH_SECONDS_MAX: Final = 10.0
STOP_SECONDS_MAX: Final = 10.0
POLL_SECONDS: Final = 0.02
CALLS: Final = ("fsync", "fdatasync")
_ROW: Final = re.compile(r"^\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)\s+(?:\d+\s+)?(\w+)\s*$", re.MULTILINE)


def is_available() -> bool:
    return shutil.which("strace") is not None


def calls(summary: str) -> int:
    """How many syncs a summary of ``strace -c`` counts."""
    return sum(int(count) for count, name in _ROW.findall(summary) if name in CALLS)


class FsyncCount:
    """A ``with`` block in which the syncs of processes are counted; slows them, so nothing else is measured then."""

    def __init__(self, folder: Path, pids: Mapping[str, Iterable[int]]) -> None:
        self._folder, self._pids = folder, pids
        self._tracers: dict[str, subprocess.Popen[bytes]] = {}
        self.counts: dict[str, int] = {}

    def __enter__(self) -> FsyncCount:
        for name, pids in self._pids.items():
            self._tracers[name] = self._attach(name, pids)
        return self

    def __exit__(self, *_: object) -> None:
        for tracer in self._tracers.values():
            tracer.send_signal(signal.SIGINT)
        for name, tracer in self._tracers.items():
            try:
                tracer.wait(STOP_SECONDS_MAX)
            except subprocess.TimeoutExpired:
                tracer.kill()
                tracer.wait()
            summary = self._path(name, "count")
            self.counts[name] = calls(summary.read_text(encoding="utf-8")) if summary.exists() else 0

    def _path(self, name: str, kind: str) -> Path:
        return self._folder / f"{name.replace(' ', '-')}.{kind}"

    def _attach(self, name: str, pids: Iterable[int]) -> subprocess.Popen[bytes]:
        said, wanted = self._path(name, "strace"), 0
        command = [
            "strace",
            "-c",
            "-f",
            "-e",
            f"trace={','.join(CALLS)}",
            "-o",
            str(self._path(name, "count")),
        ]
        for pid in pids:
            command += ["-p", str(pid)]
            wanted += 1
        with said.open("wb") as output:
            tracer = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stderr=output, start_new_session=True
            )
        deadline = time.monotonic() + ATTACH_SECONDS_MAX
        while said.read_text(encoding="utf-8").count("attached") < wanted:
            if tracer.poll() is not None or time.monotonic() > deadline:
                tracer.kill()
                raise RuntimeError(
                    f"strace can't follow {name}: {said.read_text(encoding='utf-8').strip()[-200:]}"
                )
            time.sleep(POLL_SECONDS)
        return tracer
