"""The machine that the figures are of, in a few lines."""

from __future__ import annotations

import datetime
import os
import platform
import ssl
import subprocess
import time
from pathlib import Path
from typing import Final

from bench import native, postgres

SYNCS: Final = 300
WRITE_BYTES: Final = 600
PIECES: Final = 500
PIECE_STEPS: Final = 10_000
"""About a millisecond of arithmetic."""
TICK_SECONDS: Final = 0.01


def describe(folder: Path) -> list[str]:
    """Processor, memory, disk, versions and load."""
    lines = [
        f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC, load {os.getloadavg()[0]:.1f} before the first run",
        f"{os.cpu_count()} cores, {_processor()}, {_memory_gib():.0f} GiB, {platform.system()} {platform.release()}",
        f"stores in {folder} ({_file_system(folder)}): {syncs_per_second(folder):,.0f} writes with fsync a second",
        _steadiness(),
        f"Python {platform.python_version()}, {ssl.OPENSSL_VERSION}, {_nats_server()}",
    ]
    if (programs := postgres.programs()) is not None:
        lines.append(postgres.version(programs))
    return lines


def _steadiness() -> str:
    """How evenly the machine works when it has nothing else to do: where it stalls, so does every latency."""
    times = sorted(map(_piece_seconds, range(PIECES)))
    middle, late, longest = (times[int(PIECES * share)] * 1e3 for share in (0.5, 0.99, 1 - 1 / PIECES))
    return (
        f"the same piece of arithmetic, {PIECES} times: {middle:.2f} ms at the median, {late:.2f} ms at the 99th"
        f" percentile, {longest:.2f} ms at most"
    )


def _piece_seconds(_: int) -> float:
    began = time.perf_counter()
    sum(number * number % 7 for number in range(PIECE_STEPS))
    seconds = time.perf_counter() - began
    time.sleep(max(0.0, TICK_SECONDS - seconds))
    return seconds


def syncs_per_second(folder: Path) -> float:
    """How fast this disk is at what ``sync_interval: always`` asks of it."""
    path = folder / f"bsfg-bench-{os.getpid()}.sync"
    descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        began = time.monotonic()
        for _ in range(SYNCS):
            os.write(descriptor, bytes(WRITE_BYTES))
            os.fsync(descriptor)
        return SYNCS / (time.monotonic() - began)
    finally:
        os.close(descriptor)
        path.unlink()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def _file_system(folder: Path) -> str:
    """The kind of file system that the folder is on."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines()]
    inside = [mount for mount in mounts if folder.resolve().is_relative_to(mount[1])]
    return max(inside, key=lambda mount: len(mount[1]))[2] if inside else "unknown"


def _nats_server() -> str:
    command = [str(native.NATS_SERVER), "--version"]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
