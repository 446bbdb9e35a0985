"""Whether each peer answers: one small probe a peer, and the word of every link that spoke with it.

A peer counts as unreachable as soon as anything to it fails, and as reachable as soon as anything succeeds; the probe
bounds both by its period and its deadline, together less than ten seconds (contract, section 8). Where links speak with
the peer all the time, their word is enough: it is probed only when nothing was heard for longer than a poll is held.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from bsfg.daemon.ticks import next_tick
from bsfg.errors import BsfgError, Code, PeerRefused
from bsfg.model.moment import NANOSECONDS, parse_time
from bsfg.model.names import ZoneId
from bsfg.ports import Clock, PeerClient

PROBE_SECONDS: Final = 4.0
PROBE_TIMEOUT_SECONDS: Final = 4.0
QUIET_SECONDS: Final = 5.3
"""How long a peer that answered may say nothing: polls are held for up to 5 s, and a probe after each would be idle."""
PAUSE_SECONDS_MIN: Final = 0.1
CLOCK_SECONDS: Final = 300.0
"""How often the peer's clock is looked at, which only a probe does, and mostly with a handshake of its own."""
SKEW_WARNING_SECONDS: Final = 60.0


@dataclass
class PeerMonitor:
    """What is known of one peer's presence; ``reachable`` is None until the first answer or failure."""

    peer: ZoneId
    client: PeerClient
    clock: Clock
    changed: Callable[[ZoneId, bool, str], None]
    """Called with the peer, whether it is reachable, and why not, at each change."""
    reachable: bool | None = None
    reason: str = ""
    answered_at: int | None = None
    skew_seconds: float | None = None
    is_partitioned: bool = False
    _probe_now: asyncio.Event = field(default_factory=asyncio.Event)
    _heard_at: float = 0.0
    """When anybody last got an answer; monotonic seconds."""
    _probed_at: float | None = None

    async def run(self) -> None:
        """Probe until cancelled."""
        while True:
            due = self._due_seconds()
            if due <= 0:
                self._probe_now.clear()
                self._probed_at = self.clock.monotonic()
                await self._probe()
                due = max(self._due_seconds(), PAUSE_SECONDS_MIN)
            try:
                async with asyncio.timeout(next_tick(due, self.clock.monotonic())):
                    await self._probe_now.wait()
            except TimeoutError:
                continue

    def _due_seconds(self) -> float:
        """How long until the next probe; nothing is asked of a peer that is cut off."""
        if self.is_partitioned:
            self._probe_now.clear()
            return PROBE_SECONDS
        if self._probed_at is None or self._probe_now.is_set():
            return 0.0
        now = self.clock.monotonic()
        if not self.reachable:
            return self._probed_at + PROBE_SECONDS - now
        heard = max(self._heard_at, self._probed_at)
        return min(heard + QUIET_SECONDS, self._probed_at + CLOCK_SECONDS) - now

    def probe_soon(self) -> None:
        self._probe_now.set()

    def answered(self) -> None:
        """Somebody got an answer from this peer."""
        self.answered_at, self._heard_at = self.clock.now(), self.clock.monotonic()
        if self.reachable is not True and not self.is_partitioned:
            self.reachable, self.reason = True, ""
            self.changed(self.peer, True, "")

    def silent(self, error: BsfgError) -> None:
        """Somebody got none, or one that the peer did not give."""
        reason = str(error.details.get("reason") or error.code.label)
        if self.reachable is not False:
            self.reachable, self.reason = False, reason
            self.changed(self.peer, False, error.message)
        self.reason = reason

    def partitioned(self, is_partitioned: bool) -> None:
        """An operator cut the peer off, or ended that; the next answer begins a recovery."""
        self.is_partitioned = is_partitioned
        self.reachable, self.reason = (False, "partitioned") if is_partitioned else (None, "")
        if not is_partitioned:
            self.probe_soon()

    async def _probe(self) -> None:
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_SECONDS):
                answer = await self.client.health()
        except TimeoutError:
            self.silent(
                BsfgError(Code.TIMED_OUT, f"no answer within {PROBE_TIMEOUT_SECONDS:.0f} s", reason="timeout")
            )
        except BsfgError as error:
            if isinstance(error, PeerRefused) and error.code is not Code.PARTITIONED:
                self.answered()
            else:
                self.silent(error)
        else:
            self._note_clock(answer)
            self.answered()

    def _note_clock(self, answer: dict[str, Any]) -> None:
        try:
            theirs = parse_time(str(answer.get("time")))
        except ValueError:
            return
        self.skew_seconds = (theirs - self.clock.now()) / NANOSECONDS
