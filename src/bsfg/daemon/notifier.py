"""Advice that a stream has more: told to peers that would not hear of it soon, and taken from them (runbook 6.6).

How the gateway learns of an append. Producers publish straight to NATS, and nothing may be paid per fact, so neither a
subscription nor a consumer of its own will do; JetStream has no advisory for an append. But a peer that follows a
stream has a fetch of it waiting here nearly always, and that fetch is woken by the append itself. So the end of a
stream is only looked at, ten times a second, while some peer that may read it has no fetch here, and has not refused
our advice: in regular work nothing at all is asked, and else one STREAM.INFO answers for all such peers and all facts
of that tenth. A peer that does not answer us is looked after every five seconds only. The look bounds the rate of
advice, too: whatever is appended in a tenth of a second is one notification.

Advice that can't be delivered is dropped: the peer's own timer finds what it missed.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

from structlog.typing import FilteringBoundLogger

from bsfg.core.backoff import Backoff
from bsfg.daemon.telemetry import Telemetry
from bsfg.errors import BsfgError, Code
from bsfg.model.cursor import LinkName
from bsfg.model.names import StreamName, ZoneId
from bsfg.ports import Clock, ExportedLog, PeerClient
from bsfg.tasks import end_tasks

LOOK_SECONDS: Final = 0.1
NOTHING_EXPORTED_SECONDS: Final = 1.0
"""Between looks while no peer may read anything."""
SILENT_LOOK_SECONDS: Final = 5.0
"""Between looks on behalf of a peer that does not answer."""
GRACE_SECONDS: Final = 1.0
"""How long a peer that we have just come to know may take to fetch by itself."""
POST_SECONDS_MAX: Final = 5.0
WAKE_SECONDS: Final = 1.0
"""Advice causes at most one poll of a link in this time (I47)."""
LINES_PER_MINUTE: Final = 10
_MINUTE_SECONDS: Final = 60.0
_UNWANTED: Final = (Code.STREAM_DENIED, Code.NOT_FOUND, Code.INVALID_REQUEST)
"""The peer does not read this stream, or does not know what advice is."""


@dataclass
class _Target:
    """One stream as one peer may want to hear of it."""

    look_at: float
    told: int = 0
    failures: int = 0
    is_unwanted: bool = False
    post: asyncio.Task[None] | None = None


@dataclass
class Notifier:
    """Tells peers of appended facts. ``exported`` gives the (peer, stream) pairs that may be told now."""

    log: ExportedLog
    clock: Clock
    telemetry: Telemetry
    exported: Callable[[], Iterable[tuple[ZoneId, StreamName]]]
    is_listening: Callable[[ZoneId, StreamName], bool]
    is_silent: Callable[[ZoneId], bool]
    """Whether the peer is known not to answer us."""
    client_of: Callable[[ZoneId], PeerClient]
    _targets: dict[tuple[ZoneId, StreamName], _Target] = field(default_factory=dict)
    _backoff: Backoff = field(default_factory=lambda: Backoff(1.0, 8.0))

    async def run(self) -> None:
        """Look and tell until cancelled."""
        try:
            while True:
                await self.look()
                await self.clock.sleep(LOOK_SECONDS if self._targets else NOTHING_EXPORTED_SECONDS)
        finally:
            posts = [target.post for target in self._targets.values() if target.post is not None]
            await end_tasks(*posts)

    async def look(self) -> None:
        """Look once at each stream that somebody must be told of, and begin to tell them."""
        due: dict[StreamName, list[ZoneId]] = {}
        exported = set(self.exported())
        for gone in self._targets.keys() - exported:
            del self._targets[gone]
        for peer, stream in sorted(exported):
            if self._is_due(peer, stream):
                due.setdefault(stream, []).append(peer)
        for stream, peers in due.items():
            try:
                head = (await self.log.describe(stream)).last_sequence
            except BsfgError:
                continue
            for peer in peers:
                self._tell(peer, stream, head)

    def _is_due(self, peer: ZoneId, stream: StreamName) -> bool:
        now = self.clock.monotonic()
        target = self._targets.setdefault((peer, stream), _Target(now + GRACE_SECONDS))
        if self.is_listening(peer, stream):
            target.is_unwanted, target.failures, target.look_at = False, 0, now
            return False
        if target.is_unwanted or target.post is not None or now < target.look_at:
            return False
        target.look_at = now + (SILENT_LOOK_SECONDS if self.is_silent(peer) else LOOK_SECONDS)
        return True

    def _tell(self, peer: ZoneId, stream: StreamName, head: int) -> None:
        target = self._targets[peer, stream]
        if head != target.told and head > 0:
            target.told = head
            post = self._post(target, peer, stream, head)
            target.post = asyncio.create_task(post, name=f"notify {peer}/{stream}")

    async def _post(self, target: _Target, peer: ZoneId, stream: StreamName, head: int) -> None:
        result = "ok"
        try:
            async with asyncio.timeout(POST_SECONDS_MAX):
                await self.client_of(peer).notify(stream, head)
            target.failures = 0
        except TimeoutError:
            result = Code.TIMED_OUT.label
        except BsfgError as error:
            result = error.code.label
            target.is_unwanted = error.code in _UNWANTED
        except Exception:
            # Advice may always be dropped; a fault of ours in giving it is counted and ends nothing.
            result = Code.INTERNAL.label
        finally:
            target.post = None
        if result != "ok":
            target.failures += 1
            target.look_at = self.clock.monotonic() + self._backoff.delay(target.failures, random.random())
        self.telemetry.notify_sent.labels(peer, stream, result).inc()


@dataclass
class _Heard:
    """What a link was told lately."""

    woken_at: float
    line_minute: float
    lines: int = 0
    wake: asyncio.TimerHandle | None = None


@dataclass
class NoticeBoard:
    """Advice that peers give us: counted, written down, and turned into at most one early poll a second and link."""

    clock: Clock
    journal: FilteringBoundLogger
    telemetry: Telemetry
    wake: Callable[[LinkName], None]
    """Let the link look now; does nothing for a link that does."""
    _heard: dict[LinkName, _Heard] = field(default_factory=dict)

    def noticed(self, peer: ZoneId, stream: StreamName, head: int) -> None:
        """A peer says that a stream which we import has reached this head. Only for links that exist."""
        name, now = LinkName(peer, stream), self.clock.monotonic()
        self.telemetry.notify_available.labels(peer, stream).inc()
        heard = self._heard.setdefault(name, _Heard(now - WAKE_SECONDS, now))
        self._write(name, heard, head, now)
        if heard.wake is None:
            delay = max(0.0, heard.woken_at + WAKE_SECONDS - now)
            heard.wake = asyncio.get_running_loop().call_later(delay, self._wake, name, heard)

    def close(self) -> None:
        """Nobody is woken any more."""
        for heard in self._heard.values():
            if heard.wake is not None:
                heard.wake.cancel()
        self._heard.clear()

    def _wake(self, name: LinkName, heard: _Heard) -> None:
        heard.wake, heard.woken_at = None, self.clock.monotonic()
        self.wake(name)

    def _write(self, name: LinkName, heard: _Heard, head: int, now: float) -> None:
        if now - heard.line_minute > _MINUTE_SECONDS:
            heard.line_minute, heard.lines = now, 0
        heard.lines += 1
        if heard.lines <= LINES_PER_MINUTE:
            self.journal.info(
                "notify_available",
                peer=name.peer,
                stream=name.stream,
                message=f"notify_available: {name.peer} says that {name.stream} has reached {head}",
            )
