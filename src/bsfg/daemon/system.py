"""The real clock, and word to systemd: what the gateway takes from the machine itself."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import os
import socket
import sys
import time
from typing import Final

SWITCH_SECONDS: Final = 0.001
KEPT_BYTES_MAX: Final = 16 * 1024 * 1024
"""Freed memory that is kept for the next page."""
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
"""Both as mallopt(3) of glibc names them."""


class SystemClock:
    """The machine's clocks; :class:`bsfg.ports.Clock`."""

    def now(self) -> int:
        return time.time_ns()

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def notify_systemd(state: str) -> None:
    """Send one state of sd_notify(3), for example ``READY=1``; nothing happens where no systemd asked for it."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    with socket.socket(
        socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
    ) as channel:
        try:
            channel.sendto(state.encode(), "\0" + address[1:] if address.startswith("@") else address)
        except OSError:
            return


def watchdog_seconds() -> float | None:
    """How often systemd wants to hear from us at the least; None where it does not."""
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    return int(microseconds) / 2_000_000 if microseconds.isdecimal() else None


def keep_freed_memory() -> None:
    """Pages are megabytes and come one after the other: memory that each gives back to the kernel the next has to
    take again, one fault every four kilobytes. Does nothing where the C library has no such setting."""
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, KEPT_BYTES_MAX)
        mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES_MAX)


def spare_collections() -> None:
    """Pages are tens of thousands of small tuples without cycles: looking through them again and again costs a tenth
    of the time, so the collector looks seldom, and never at what was there before the start."""
    gc.enable()
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 20)


def yield_to_the_loop() -> None:
    """A thread that hashes or compares pages gives way to the event loop within a millisecond; Python's own five are
    what a link, a health check and the next page of the comparison itself would wait each time."""
    sys.setswitchinterval(SWITCH_SECONDS)
