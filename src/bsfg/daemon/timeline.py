"""What happened of late, for people: the log's events of recoveries, partitions, halts and decisions, the last of them.

A tap on the journal, so that the page and the log can't tell different stories. In memory and bounded; the log keeps
the rest.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

ENTRIES_MAX: Final = 200
TEXT_CHARACTERS_MAX: Final = 500
PEERS_MAX: Final = 1_000
KINDS: Final = {
    "peer_reachable": "good",
    "peer_unreachable": "bad",
    "cursor_comparison": "recovery",
    "backfill_required": "recovery",
    "replay_initiated": "recovery",
    "cursor_advanced": "good",
    "link_halted": "bad",
    "link_stalled": "bad",
    "partition_began": "bad",
    "partition_ended": "good",
    "generation_begun": "recovery",
    "generation_switched": "good",
    "generation_halted": "bad",
    "configuration_loaded": "note",
    "configuration_rejected": "bad",
    "epoch_began": "note",
    "substrate_lost": "bad",
    "substrate_back": "good",
    "substrate_healed": "good",
    "disk_full": "bad",
    "disk_freed": "good",
    "gateway_started": "note",
}
DENIALS: Final = ("request_denied",)
REFUSALS: Final = ("handshake_failed", "identity_refused", "request_denied")


Watcher = Callable[[dict[str, Any]], None]


@dataclass(frozen=True, slots=True)
class Entry:
    """One event as the log said it; ``time`` is RFC 3339."""

    time: str
    event: str
    kind: str
    peer: str | None
    stream: str | None
    message: str


@dataclass
class Timeline:
    """The last events, newest first, and the last denial of each peer; a structlog processor."""

    _entries: deque[Entry] = field(default_factory=lambda: deque(maxlen=ENTRIES_MAX))
    _denials: dict[str, Entry] = field(default_factory=dict)
    last_refusal: Entry | None = None
    """The last handshake, certificate or request that was refused, whoever it came from."""
    _watchers: list[Watcher] = field(default_factory=list)

    def __call__(self, _logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        name = str(event.get("event"))
        if name in KINDS:
            self._entries.appendleft(_entry(event, KINDS[name]))
        if name in REFUSALS:
            self.last_refusal = _entry(event, "bad")
        if name in DENIALS and event.get("peer") is not None and len(self._denials) < PEERS_MAX:
            self._denials[str(event["peer"])] = _entry(event, "bad")
        for watcher in self._watchers:
            watcher(dict(event))
        return event

    @contextmanager
    def watched(self, watcher: Watcher) -> Iterator[None]:
        """Inside the block every event that becomes a line is given to the watcher too, which must not block."""
        self._watchers.append(watcher)
        try:
            yield
        finally:
            self._watchers.remove(watcher)

    def entries(self) -> list[Entry]:
        return list(self._entries)

    def last_denial(self, peer: str) -> Entry | None:
        """The last request of a peer that policy denied, since the start; None if there was none."""
        return self._denials.get(peer)


def _entry(event: MutableMapping[str, Any], kind: str) -> Entry:
    peer, stream = event.get("peer"), event.get("stream")
    return Entry(
        time=str(event.get("ts")),
        event=str(event.get("event")),
        kind=kind,
        peer=None if peer is None else str(peer),
        stream=None if stream is None else str(stream),
        message=str(event.get("message"))[:TEXT_CHARACTERS_MAX],
    )
