"""Drills in the gateway: one at a time, each with its end set before it begins (runbook, section 8; decision 14).

What a drill turns on is ended by whatever comes first: the drill itself, the end of the request that began it, which
is the operator's terminal, the timer that was set before, or, after a crash, the next gateway, which finds the drill's
note. Nobody has to remember it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from aiohttp import web

from bsfg.daemon.connections import CutOff
from bsfg.daemon.drill_histories import GapDrill, HistoryDrill
from bsfg.daemon.drill_partition import PartitionDrill
from bsfg.daemon.drill_replay import ReplayDrill
from bsfg.daemon.gateway import Gateway
from bsfg.daemon.local_api import LONG_DEADLINE_SECONDS
from bsfg.daemon.local_lines import answer_lines
from bsfg.daemon.local_requests import Parameters, answer
from bsfg.daemon.scratch_link import remove_scratch
from bsfg.daemon.stream_operations import LocalStore
from bsfg.daemon.timeline import Timeline
from bsfg.daemon.verify_operations import Verifications
from bsfg.errors import BsfgError, Code
from bsfg.model.names import StreamName, ZoneId, parse_stream, parse_zone
from bsfg.substrates.inbound_log import JetStreamInboundLog
from bsfg.substrates.private_files import replace_private

KINDS: Final = ("partition", "duplicate-replay", "incompatible-history", "large-gap")
DRILL_SECONDS_MAX: Final = 300.0
"""Whatever a drill turns on ends after this at the latest."""
SCRATCH_PREFIX: Final = "drill.run_"
RECOVER_SECONDS: Final = 1.0
WINDOW_CHARACTERS_MAX: Final = 200

Drill = PartitionDrill | ReplayDrill | HistoryDrill | GapDrill
Row = dict[str, Any]
Fetch = Callable[..., Awaitable[Row]]


@dataclass(frozen=True, slots=True)
class DrillOrder:
    """A drill as it was ordered."""

    kind: str
    peer: ZoneId
    stream: StreamName | None
    run: str
    """Unique; it stands in the reason of everything that the drill turns on."""
    window: str | None

    @property
    def scratch(self) -> StreamName:
        """The stream that a drill of histories makes and removes."""
        return StreamName(SCRATCH_PREFIX + self.run.replace("-", "_"))

    @property
    def reason(self) -> str:
        window = f", window {self.window}" if self.window else ""
        return f"drill {self.kind} {self.run}{window}"


@dataclass
class Drills:
    """The drills of this zone."""

    gateway: Gateway
    store: LocalStore
    fetch: Fetch
    inbound: JetStreamInboundLog
    verifications: Verifications
    cut_off: CutOff
    timeline: Timeline
    _running: str | None = field(default=None)

    def routes(self) -> list[web.RouteDef]:
        return [web.post("/v1/drills", self._route)]

    async def run(
        self, kind: str, peer: str, stream: str | None, window: str | None
    ) -> AsyncGenerator[Row, None]:
        """One drill as rows: ``rollback``, then ``step`` and ``waiting``, a ``line`` for each check, and ``done``.

        Closing the generator at any point restores everything. Raises what refuses the drill before anything is done.
        """
        order = self._order(kind, peer, stream, window)
        if self._running is not None:
            raise BsfgError(
                Code.CHECK_FAILED, f"a drill runs already: {self._running}", hint="one at a time; wait for it"
            )
        drill = self._drill(order)
        self._running = order.reason
        try:
            self._note(order)
            self._audit(order, "began")
            async with contextlib.aclosing(_carried_out(order, drill)) as rows:
                async for row in rows:
                    yield row
        finally:
            self._running = None
            self._note_path.unlink(missing_ok=True)
            self._audit(order, "ended")

    async def recover(self) -> None:
        """End what a drill of an earlier gateway left on, as soon as the store says what is on; then nothing more."""
        try:
            note = json.loads(self._note_path.read_text())
            reason, scratch = str(note["reason"]), parse_stream(str(note["scratch"]))
        except FileNotFoundError:
            return
        except (OSError, ValueError, KeyError, TypeError, BsfgError):
            # What it said is lost; the timer of what it left on ends that.
            self._note_path.unlink(missing_ok=True)
            return
        parts = self.gateway.parts
        while self._running is None:
            with contextlib.suppress(BsfgError):
                if scratch.startswith(SCRATCH_PREFIX):
                    await remove_scratch(self.gateway, self.store, scratch)
                stored = await parts.partitions.store.load_all()
                left = [peer for peer, value in stored.items() if value.get("reason") == reason]
                if all(peer in parts.partitions.in_force for peer in left):
                    for peer in left:
                        await parts.partitions.end(peer, "the gateway ended in a drill")
                    parts.audit.record("drill.recovered", "allowed", peers=left, reason=reason)
                    self._note_path.unlink(missing_ok=True)
                    return
            await asyncio.sleep(RECOVER_SECONDS)

    def _drill(self, order: DrillOrder) -> Drill:
        gateway, store = self.gateway, self.store
        if order.kind == "incompatible-history":
            return HistoryDrill(gateway, store, store.exported, order.scratch)
        if order.kind == "large-gap":
            return GapDrill(gateway, store, store.exported, order.scratch)
        if order.kind == "partition":
            stream = order.stream or self._first_export(order.peer)
            return PartitionDrill(
                gateway,
                store,
                self.verifications,
                self.cut_off,
                self.timeline,
                order.peer,
                stream,
                order.reason,
                DRILL_SECONDS_MAX,
            )
        return ReplayDrill(
            gateway, self.fetch, self.inbound, self.verifications, order.peer, self._import(order)
        )

    def _order(self, kind: str, peer: str, stream: str | None, window: str | None) -> DrillOrder:
        if kind not in KINDS:
            raise BsfgError(
                Code.INVALID_REQUEST, f"there is no drill {kind!a}", hint=f"there are {', '.join(KINDS)}"
            )
        zone = parse_zone(peer)
        config = self.gateway.configuration.peers.get(zone)
        if config is None or not config.authorized:
            raise BsfgError(
                Code.CONFIGURATION,
                f"peer {zone} has no authorized entry in config/peers.yaml",
                hint="bsfg peer list",
            )
        if window is not None and (not window.strip() or len(window) > WINDOW_CHARACTERS_MAX):
            raise BsfgError(Code.INVALID_REQUEST, "the reference of the change window is empty or too long")
        if window is None and not self.gateway.configuration.zone.lab:
            raise BsfgError(
                Code.CONFIGURATION,
                f"drill {kind}: this zone is no lab, so a drill needs an agreed change window",
                hint="--confirm-window REF names it; the drill is audited under that reference",
            )
        if zone in self.gateway.parts.partitions.in_force:
            raise BsfgError(
                Code.PARTITIONED,
                f"peer {zone} is cut off already: {self.gateway.parts.partitions.in_force[zone].reason}",
                hint=f"bsfg admin reconcile --peer {zone} ends that",
            )
        run = f"{self.gateway.parts.clock.now() // 1_000_000_000}-{secrets.token_hex(3)}"
        return DrillOrder(kind, zone, parse_stream(stream) if stream else None, run, window)

    def _first_export(self, peer: ZoneId) -> StreamName:
        streams = self.gateway.configuration.peers[peer].streams
        if not streams:
            raise BsfgError(
                Code.CONFIGURATION,
                f"config/peers.yaml lets {peer} read no stream of ours, so no backlog can be seen",
                hint="--stream names a local stream to append to",
            )
        return streams[0]

    def _import(self, order: DrillOrder) -> StreamName:
        streams = [name.stream for name in self.gateway.configuration.links if name.peer == order.peer]
        if order.stream is not None and order.stream in streams:
            return order.stream
        if not streams:
            raise BsfgError(
                Code.CONFIGURATION,
                f"config/cursors.yaml reads nothing from {order.peer}, so nothing can be replayed",
                hint="run it on the receiving zone",
            )
        return streams[0]

    @property
    def _note_path(self) -> Path:
        return self.gateway.configuration.paths.data / "drill.json"

    def _note(self, order: DrillOrder) -> None:
        note = {"kind": order.kind, "reason": order.reason, "scratch": order.scratch}
        try:
            replace_private(self._note_path, json.dumps(note).encode())
        except OSError as cause:
            raise BsfgError(
                Code.INTERNAL,
                f"drill {order.kind}: {self._note_path} can't be written: {cause.strerror}; nothing was begun",
                hint="free space on the disk of data/",
            ) from cause

    def _audit(self, order: DrillOrder, what: str) -> None:
        self.gateway.parts.audit.record(
            f"drill.{what}", "allowed", kind=order.kind, peer=order.peer, reason=order.reason
        )

    async def _whole(self, kind: str, peer: str, stream: str | None, window: str | None) -> Row:
        """The whole drill as one answer: what it turned on, and its lines."""
        answered: Row = {"rollback": None, "lines": [], "done": None}
        async with contextlib.aclosing(self.run(kind, peer, stream, window)) as rows:
            async for row in rows:
                if "line" in row:
                    answered["lines"].append(row["line"])
                else:
                    answered |= {name: value for name, value in row.items() if name in answered}
        return answered

    async def _route(self, request: web.Request) -> web.StreamResponse:
        body = await Parameters.of_body(request)
        kind, peer = body.text("kind"), body.text("peer")
        stream, window = body.text_or_none("stream"), body.text_or_none("confirm_window")
        is_whole = body.flag("whole", default=False)
        body.finish()
        if is_whole:
            return await answer(request, self._whole(kind, peer, stream, window), LONG_DEADLINE_SECONDS)
        return await answer_lines(request, self.run(kind, peer, stream, window))


async def _carried_out(order: DrillOrder, drill: Drill) -> AsyncGenerator[Row, None]:
    async with contextlib.aclosing(drill.run()) as rows:
        async for row in rows:
            yield row
    lines = drill.lines()
    for line in lines:
        yield {"line": line.as_json()}
    yield {"done": {"kind": order.kind, "run": order.run, "passed": all(line.is_met for line in lines)}}
