"""A producer of facts and its own ledger of what was acknowledged: a file that is on disk before it counts."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.support.lab_zones import Zone

from bsfg.cli.local_client import route
from bsfg.errors import BsfgError

BATCH: Final = 500
CALL_SECONDS: Final = 5.0
PAUSE_SECONDS: Final = 0.05
_PADDING: Final = "bsfg " * 200


def payload_of(seed: int, number: int) -> bytes:
    """What fact ``number`` of a run says; its size differs from fact to fact."""
    return json.dumps({"seed": seed, "number": number, "text": _PADDING[: number * 37 % 400]}).encode()


def fact_of(seed: int, number: int) -> dict[str, Any]:
    """As the local API takes it."""
    headers = [["Line", f"packaging-{number % 7}"]] if number % 5 == 0 else []
    return {
        "subject": f"line{number % 7}.batch",
        "message_id": f"fact-{seed}-{number}",
        "headers": headers,
        "data": payload_of(seed, number).decode(),
    }


@dataclass
class Ledger:
    """Which facts were acknowledged: numbers from 0 up to ``count``, on disk."""

    path: Path
    count: int = 0

    def note(self, count: int) -> None:
        """Durable on return."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        descriptor = os.open(self.path, flags, 0o600)
        try:
            os.write(descriptor, b"%d\n" % count)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        self.count = count

    @classmethod
    def read(cls, path: Path) -> Ledger:
        """What an earlier process noted."""
        lines = path.read_bytes().splitlines() if path.exists() else []
        return cls(path, int(lines[-1]) if lines else 0)


@dataclass
class Producer:
    """Appends facts through the zone's local API; what is not acknowledged is sent again under its ids, for ever."""

    zone: Zone
    stream: str
    seed: int
    ledger: Ledger
    facts_per_second: float = 0.0
    """0 for as fast as it goes."""
    batch: int = BATCH
    attempts: int = 0
    refusals: dict[str, int] = field(default_factory=dict)
    wanted: int = 0
    offered: int = 0
    """Facts that were ever sent; those behind the ledger's may be stored or not."""
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self, wanted: int) -> None:
        """Produce until so many facts are acknowledged in all."""
        self.wanted = wanted
        self._stop.clear()
        self._thread = threading.Thread(target=self._run, daemon=True, name=f"producer of {self.stream}")
        self._thread.start()

    def stop(self) -> None:
        """Stop between two calls; the last fact that was sent is acknowledged or not."""
        self._stop.set()
        self.join(CALL_SECONDS + 1)

    def join(self, seconds: float) -> bool:
        """Whether it has ended by then."""
        assert self._thread is not None
        self._thread.join(max(0.0, seconds))
        return not self._thread.is_alive()

    @property
    def is_done(self) -> bool:
        return self.ledger.count >= self.wanted

    def _run(self) -> None:
        began, first = time.monotonic(), self.ledger.count
        while not self.is_done and not self._stop.is_set():
            if self.facts_per_second:
                due = began + (self.ledger.count - first) / self.facts_per_second
                self._stop.wait(max(0.0, due - time.monotonic()))
            with contextlib.suppress(BsfgError):
                self._append(min(self.wanted, self.ledger.count + self.batch))

    def _append(self, until: int) -> None:
        self.attempts += 1
        self.offered = max(self.offered, until)
        facts = [fact_of(self.seed, number) for number in range(self.ledger.count, until)]
        try:
            self.zone.api.post(
                route("append"), {"facts": facts}, deadline_seconds=CALL_SECONDS, stream=self.stream
            )
        except BsfgError as error:
            self.refusals[error.code.label] = self.refusals.get(error.code.label, 0) + 1
            self._stop.wait(PAUSE_SECONDS)
            raise
        self.ledger.note(until)
