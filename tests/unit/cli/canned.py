"""A gateway's operations as the command line's tests need them: each answers what its table holds, or raises it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from bsfg.errors import BsfgError

LINK = {
    "peer": "enterprise",
    "stream": "facts.operational",
    "state": "catching_up",
    "reason": None,
    "epoch": "5f2c9f0e61d24c2b",
    "generation": 1,
    "sequence": 120345,
    "digest": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "scanned_through": 120350,
    "local_sequence": 119870,
    "head": 1203450,
    "head_age_seconds": 0.412,
    "lag_facts": 1083100,
    "lag_seconds": 5400.25,
    "init": {
        "mode": "bounded_backfill_24h",
        "timestamp": None,
        "justification": None,
        "epoch": "5f2c9f0e61d24c2b",
        "start_sequence": 475,
        "resolved_at": "2025-01-15T10:00:00.000000001Z",
    },
    "gaps": [{"from": 600, "to": 625, "time": "2025-01-16T08:00:00.000000000Z", "reason": "gap"}],
}
SILENT_LINK = LINK | {
    "stream": "facts.batch_completed",
    "state": "halted",
    "reason": "diverged",
    "sequence": None,
    "digest": None,
    "local_sequence": None,
    "head": None,
    "head_age_seconds": 86_523.0,
    "lag_facts": None,
    "lag_seconds": None,
    "gaps": [],
}
PEER = {
    "id": "enterprise",
    "identity": "enterprise-bsfg",
    "endpoint": "10.1.1.10:9443",
    "authorized": True,
    "reachable": True,
    "reason": None,
    "last_contact": "2025-01-16T09:59:59.250000000Z",
    "streams": ["facts.orders", "facts.shipments"],
    "artifacts": ["order-files"],
}
LOST_PEER = PEER | {
    "id": "plant-b",
    "identity": "plant-b-bsfg",
    "endpoint": "10.4.1.10:9443",
    "reachable": None,
    "reason": "connection refused \x1b[2J by 10.4.1.10",
    "last_contact": None,
    "streams": [],
}
STATUS = {
    "zone": "plant-a",
    "identity": "plant-a-bsfg",
    "health": "degraded",
    "problems": [
        "link enterprise/facts.batch_completed is halted: diverged: the fact at sequence 17 is another one than ours",
        "peer plant-b: connection refused",
    ],
    "version": "0.1.0",
    "started_at": "2025-01-15T09:58:00.123456789Z",
    "durability": "strict",
    "substrate": {"kind": "embedded", "state": "running"},
    "peers": [PEER, LOST_PEER],
    "links": [LINK, SILENT_LINK],
    "exports": [
        {"peer": "enterprise", "stream": "facts.orders", "head": 9120, "confirmed": 9000, "backlog_facts": 120},
        {"peer": "plant-b", "stream": "facts.orders", "head": 9120, "confirmed": None, "backlog_facts": None},
    ],
    "partitions": [{"peer": "plant-b", "reason": "drill", "began": "2025-01-16T09:50:00.000000000Z", "until": None}],
    "certificate_days_left": 88,
    "disk_fill_ratio": 0.85,
}
PEER_CHECK = {
    "peer": "enterprise",
    "checks": [
        {
            "id": "configured",
            "title": "the peer has an authorized entry in peers.yaml",
            "outcome": "passed",
            "found": "",
            "hint": "",
        },
        {
            "id": "reachable",
            "title": "the peer's endpoint answers",
            "outcome": "failed",
            "found": "health of enterprise: 10.1.1.10:9443 refused the connection; it was last reached an hour ago",
            "hint": "is its gateway up, and does a firewall stand between?",
        },
        {
            "id": "flowing",
            "title": "every link from the peer is level or catching up",
            "outcome": "not run",
            "found": "needs reachable",
            "hint": "",
        },
    ],
    "ok": False,
}
STREAM = {
    "stream": "facts.orders",
    "jetstream": "facts_orders",
    "direction": "local",
    "peer": None,
    "epoch": "5f2c9f0e61d24c2b",
    "messages": 9120,
    "first_sequence": 1,
    "last_sequence": 9120,
    "bytes": 4_300_000,
    "replicas": 1,
    "durability": "strict",
    "adopted": False,
    "differences": [],
    "exported_to": ["enterprise"],
}
FACT = {
    "sequence": 1,
    "subject": "facts.orders.created",
    "time": "2025-01-15T10:00:00.000000001Z",
    "headers": [["Content-Type", "application/json"]],
    "data": '{"order": "Ä-1"}',
}
BINARY_FACT = {"sequence": 2, "subject": "facts.orders", "time": FACT["time"], "headers": [], "data_base64": "AP8="}


class CannedOperations:
    """Keeps what it was called with; ``answers`` has, by method, what it returns or the error that it raises."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.appended: list[dict[str, Any]] = []
        self.received = b""
        """The bytes of lines to append."""
        self.facts: list[dict[str, Any] | BsfgError] = [FACT, BINARY_FACT]
        self.called = asyncio.Event()
        self.hold = asyncio.Event()
        self.reading_ended = asyncio.Event()
        self.answers: dict[str, Any] = {
            "status": STATUS,
            "health": {"zone": "plant-a", "status": "ok", "problems": []},
            "peers": {"peers": [PEER, LOST_PEER]},
            "peer_check": PEER_CHECK,
            "peer_exports": {"peer": "enterprise", "authorized": True, "streams": ["facts.orders"], "artifacts": []},
            "peer_streams": {"peer": "enterprise", "streams": [{"stream": "facts.operational", "last_sequence": 7}]},
            "streams": {"streams": [STREAM]},
            "stream_info": STREAM,
            "stream_apply": {"stream": "facts.orders", "changed": ["max_age"]},
            "consumer_info": {"stream": "facts.orders", "consumer": "local-consumer", "pending": 3},
            "consumer_next": {"facts": [FACT | {"local_sequence": 1}]},
            "fetch": {
                "peer": "enterprise",
                "stream": "facts.operational",
                "appended": 1200,
                "duplicates_dropped": 3,
                "cursor": LINK,
            },
            "cursors": {"cursors": [LINK, SILENT_LINK]},
            "cursor": LINK,
            "active_configuration": {"zone": {"zone": "plant-a", "lab": False}, "peers": []},
            "reload": {"reloaded": True, "changed": ["config/peers.yaml"]},
            "partition": {
                "partition": {"peer": "enterprise", "reason": "drill", "until": "2025-01-16T10:15:00.000000000Z"}
            },
            "reconcile": {"peer": "enterprise", "was_partitioned": True},
            "notify": {"peer": "enterprise", "stream": "facts.orders", "head": 41, "taken": True},
        }

    async def _answer(self, method: str, asked: Any = None) -> dict[str, Any]:
        self.calls.append((method, asked))
        self.called.set()
        answer = self.answers[method]
        if isinstance(answer, BaseException):
            raise answer
        if answer is self.hold:
            await self.hold.wait()
        return dict(answer)

    async def status(self) -> dict[str, Any]:
        return await self._answer("status")

    async def health(self) -> dict[str, Any]:
        return await self._answer("health")

    async def peers(self) -> dict[str, Any]:
        return await self._answer("peers")

    async def peer_check(self, peer: str, /) -> dict[str, Any]:
        return await self._answer("peer_check", peer)

    async def peer_exports(self, peer: str, /) -> dict[str, Any]:
        return await self._answer("peer_exports", peer)

    async def peer_streams(self, peer: str, /) -> dict[str, Any]:
        return await self._answer("peer_streams", peer)

    async def streams(self) -> dict[str, Any]:
        return await self._answer("streams")

    async def stream_info(self, stream: str, peer: str | None, /) -> dict[str, Any]:
        return await self._answer("stream_info", (stream, peer))

    async def stream_apply(self, stream: str, reason: str, /) -> dict[str, Any]:
        return await self._answer("stream_apply", (stream, reason))

    async def consumer_info(self, stream: str, peer: str | None, consumer: str | None, /) -> dict[str, Any]:
        return await self._answer("consumer_info", (stream, peer, consumer))

    async def consumer_next(self, **wanted: Any) -> dict[str, Any]:
        return await self._answer("consumer_next", wanted)

    async def append(self, stream: str, facts: list[dict[str, Any]], /) -> dict[str, Any]:
        self.calls.append(("append", len(facts)))
        if isinstance(self.answers.get("append"), BaseException):
            raise self.answers["append"]
        first = len(self.appended) + 1
        self.appended += facts
        return {
            "appended": len(facts),
            "first_sequence": first,
            "last_sequence": len(self.appended),
            "duplicates": 0,
        }

    async def append_lines(
        self, stream: str, pieces: AsyncIterator[bytes], subject: str | None, is_envelope: bool, /
    ) -> dict[str, Any]:
        self.calls.append(("append_lines", (stream, subject, is_envelope)))
        async for piece in pieces:
            self.received += piece
            if isinstance(self.answers.get("append_lines"), BaseException):
                raise self.answers["append_lines"]
        count = len(self.received.splitlines())
        return {"appended": count, "first_sequence": 1, "last_sequence": count, "duplicates": 0}

    async def read(self, **wanted: Any) -> AsyncGenerator[dict[str, Any], None]:
        self.calls.append(("read", wanted))
        try:
            for fact in self.facts:
                if isinstance(fact, BsfgError):
                    raise fact
                yield fact
            if wanted["follow"]:
                await self.hold.wait()
        finally:
            self.reading_ended.set()

    async def fetch(self, **wanted: Any) -> dict[str, Any]:
        return await self._answer("fetch", wanted)

    async def cursors(self) -> dict[str, Any]:
        return await self._answer("cursors")

    async def cursor(self, peer: str, stream: str, /) -> dict[str, Any]:
        return await self._answer("cursor", (peer, stream))

    async def active_configuration(self) -> dict[str, Any]:
        return await self._answer("active_configuration")

    async def reload(self) -> dict[str, Any]:
        return await self._answer("reload")

    async def partition(self, peer: str, reason: str, seconds: float | None, /) -> dict[str, Any]:
        return await self._answer("partition", (peer, reason, seconds))

    async def reconcile(self, peer: str, /) -> dict[str, Any]:
        return await self._answer("reconcile", peer)

    async def notify(self, peer: str, stream: str, /) -> dict[str, Any]:
        return await self._answer("notify", (peer, stream))
