"""What an operator can ask of the running gateway: the functions behind the local API and the command line.

Each returns plain JSON values and raises only BsfgError. Streams, consumers, append and read are in
``stream_operations``.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

from bsfg import __version__
from bsfg.config.describe import describe
from bsfg.core.conversation import Woken
from bsfg.core.link_state import Link, Phase
from bsfg.daemon.decisions import Decisions
from bsfg.daemon.gateway import Gateway
from bsfg.daemon.links import require
from bsfg.daemon.reload import Reloader
from bsfg.daemon.running_link import RunningLink
from bsfg.daemon.stream_decisions import StreamDecisions
from bsfg.daemon.stream_operations import LocalStore, StreamOperations
from bsfg.daemon.timeline import Timeline
from bsfg.daemon.views import time_or_none
from bsfg.daemon.warnings import warnings_of
from bsfg.errors import BsfgError, Code
from bsfg.model.cursor import InitMode, LinkName, LinkState, parse_init_mode
from bsfg.model.moment import format_time
from bsfg.model.names import ZoneId, parse_stream, parse_zone
from bsfg.model.page import FetchRequest, Page, PageLimits
from bsfg.substrates.generations import Kept

ROUND_SECONDS_MAX: Final = 90.0
PREVIEWED_MODES: Final = ("bounded_backfill_24h", "start_now", "full_backfill")

_PEER_CHECKS: Final = (
    ("configured", "the peer has an authorized entry in peers.yaml"),
    ("reachable", "the peer's endpoint answers"),
    ("authenticated", "the answer comes from the peer's identity over mutual TLS"),
    ("authorized", "the peer lets us read every stream that we import"),
    ("flowing", "every link from the peer is level or catching up"),
)


class Operations(StreamOperations):
    """Everything the local API serves."""

    def __init__(
        self, gateway: Gateway, store: LocalStore, reloader: Reloader, timeline: Timeline
    ) -> None:
        super().__init__(gateway, store)
        self._reloader, self._timeline = reloader, timeline
        self._decisions = Decisions(gateway, self._driver, gateway.cursor_row)
        self._stream_decisions = StreamDecisions(gateway, store)

    # The gateway as a whole.

    async def status(self) -> dict[str, Any]:
        gateway, zone = self.gateway, self.gateway.configuration.zone
        problems = gateway.problems()
        return {
            "zone": zone.zone,
            "identity": zone.identity_rule.identity,
            "health": "degraded" if problems else "ok",
            "problems": problems + gateway.parts.artifacts.notices(),
            "reload_error": gateway.reload_error,
            "warnings": warnings_of(gateway, self._timeline),
            "version": __version__,
            "started_at": format_time(gateway.started_at),
            "durability": zone.durability.value,
            "substrate": gateway.parts.substrate_state(),
            "certificate_days_left": int(gateway.certificate_seconds_left() // 86_400),
            "artifacts": await gateway.parts.artifact_room(),
            "peers": (await self.peers())["peers"],
            "disk_fill_ratio": gateway.disk_fill_ratio(),
            "links": gateway.link_rows(),
            "exports": [row.as_json() for row in gateway.parts.exports.rows],
            "partitions": [partition.as_json() for partition in gateway.parts.partitions.in_force.values()],
        }

    async def health(self) -> dict[str, Any]:
        problems = self.gateway.problems()
        return health_answer(self.gateway) | {"problems": problems + self.gateway.parts.artifacts.notices()}

    async def active_configuration(self) -> dict[str, Any]:
        return describe(self.gateway.configuration)

    async def reload(self) -> dict[str, Any]:
        return await self._reloader.reload()

    # Peers.

    async def peers(self) -> dict[str, Any]:
        return {"peers": [self._peer_row(peer) for peer in self.gateway.configuration.peers]}

    def _peer_row(self, peer: ZoneId) -> dict[str, Any]:
        config = self.gateway.configuration.peers[peer]
        monitor = self.gateway.parts.peers.monitor(peer)
        return {
            "id": peer,
            "identity": config.rule.identity,
            "endpoint": str(config.endpoint),
            "authorized": config.authorized,
            "reachable": monitor.reachable if monitor else None,
            "reason": monitor.reason or None if monitor else "not authorized, so not dialled",
            "last_contact": time_or_none(monitor.answered_at) if monitor else None,
            "clock_skew_seconds": monitor.skew_seconds if monitor else None,
            "streams": list(config.streams),
            "artifacts": list(config.artifacts),
        }

    async def peer_exports(self, peer: str) -> dict[str, Any]:
        """What we let the peer read, and how far it has confirmed."""
        zone = self._known_peer(peer)
        config = self.gateway.configuration.peers[zone]
        rows = [row.as_json() for row in self.gateway.parts.exports.rows if row.peer == zone]
        return {
            "peer": zone,
            "authorized": config.authorized,
            "streams": list(config.streams),
            "artifacts": list(config.artifacts),
            "exports": rows,
        }

    async def peer_streams(self, peer: str) -> dict[str, Any]:
        """What the peer lets us read, by its own word."""
        zone = self._known_peer(peer)
        self._refuse_partitioned(zone)
        return {"peer": zone, "streams": await self.gateway.parts.peers.client(zone).streams()}

    async def peer_check(self, peer: str) -> dict[str, Any]:
        """Configured, reachable, authenticated, authorized, flowing: each stands on the ones before it."""
        zone = self._known_peer(peer)
        problem = await self._first_problem(zone)
        rows = []
        for index, (identifier, title) in enumerate(_PEER_CHECKS):
            outcome, found, hint = "passed", "", ""
            if problem is not None and index == problem[0]:
                outcome, found, hint = "failed", problem[1], problem[2]
            elif problem is not None and index > problem[0]:
                outcome, found = "not run", f"needs {_PEER_CHECKS[problem[0]][0]}"
            rows.append({"id": identifier, "title": title, "outcome": outcome, "found": found, "hint": hint})
        return {"peer": zone, "checks": rows, "ok": problem is None}

    async def _first_problem(self, peer: ZoneId) -> tuple[int, str, str] | None:
        if not self.gateway.configuration.peers[peer].authorized:
            return 0, "authorized is not true", "set authorized: true in config/peers.yaml, if that is wanted"
        client = self.gateway.parts.peers.client(peer)
        try:
            self._refuse_partitioned(peer)
            await client.health()
            offered = {row["stream"] for row in await client.streams()}
        except BsfgError as error:
            is_identity = error.code in (Code.IDENTITY_REJECTED, Code.PEER_UNKNOWN)
            return (2 if is_identity else 1), error.message, error.hint
        links = [driver for driver in self.gateway.parts.links.drivers if driver.name.peer == peer]
        missing = sorted(driver.name.stream for driver in links if driver.name.stream not in offered)
        if missing:
            return 3, f"the peer does not let us read {', '.join(missing)}", "the peer's peers.yaml decides"
        stuck = [str(row["stream"]) + " is " + str(row["state"]) for row in self._stuck_rows(peer)]
        if stuck:
            return 4, ", ".join(stuck), "bsfg cursor query says why"
        return None

    def _stuck_rows(self, peer: ZoneId) -> list[dict[str, Any]]:
        moving = (LinkState.LEVEL.value, LinkState.CATCHING_UP.value)
        return [
            row for row in self.gateway.cursor_rows() if row["peer"] == peer and row["state"] not in moving
        ]

    # Cursors and fetch.

    async def cursors(self) -> dict[str, Any]:
        return {"cursors": self.gateway.cursor_rows()}

    async def cursor(self, peer: str, stream: str) -> dict[str, Any]:
        return self.gateway.cursor_row(self._driver(peer, stream))

    async def fetch(
        self, *, peer: str, stream: str, cursor_init: str | None, init_timestamp: str | None, dry_run: bool
    ) -> dict[str, Any]:
        """One round of the link now: fetch, append durably, advance (runbook 6.3 and 6.4)."""
        driver = self._driver(peer, stream)
        self._refuse_partitioned(driver.name.peer)
        mode = _parse_mode(cursor_init, init_timestamp)
        if dry_run:
            return await self._preview(driver, mode)
        self._refuse_contradiction(driver, mode)
        before = await self._one_round(driver)
        link = driver.link
        return {
            "peer": driver.name.peer,
            "stream": driver.name.stream,
            "appended": link.facts_appended - before.facts_appended,
            "duplicates_dropped": link.facts_duplicate - before.facts_duplicate,
            "cursor": self.gateway.cursor_row(driver),
        }

    async def _one_round(self, driver: RunningLink) -> Link:
        """The link as it was before the round."""
        before = await driver.instruct(Woken(by_operator=True))
        try:
            async with asyncio.timeout(ROUND_SECONDS_MAX):
                while driver.link.rounds == before.rounds:
                    await driver.changed()
                    _raise_trouble(driver)
        except TimeoutError:
            raise BsfgError(
                Code.TIMED_OUT,
                f"fetch {driver.name}: no page was applied within {ROUND_SECONDS_MAX:.0f} s",
                hint="bsfg cursor query shows the link's state; what is under way goes on",
            ) from None
        return before

    async def _preview(self, driver: RunningLink, mode: InitMode | None) -> dict[str, Any]:
        """What each mode would replay, by the sender's word; nothing is stored."""
        configured = driver.link.settings.init_mode
        modes = {each.text: each for each in (configured, mode) if each is not None}
        for text in PREVIEWED_MODES:
            modes.setdefault(text, parse_init_mode(text))
        client = self.gateway.parts.peers.client(driver.name.peer)
        rows = []
        for each in modes.values():
            request = FetchRequest(driver.name.stream, PageLimits(facts=1, bytes=1), start=each)
            rows.append(_preview_row(each, await client.fetch(request), is_configured=each == configured))
        return {"peer": driver.name.peer, "stream": driver.name.stream, "modes": rows, "dry_run": True}

    def _refuse_contradiction(self, driver: RunningLink, mode: InitMode | None) -> None:
        """A start is resolved once: a mode that says otherwise is refused, never obeyed (I21)."""
        if mode is None:
            return
        init, configured = driver.link.init, driver.link.settings.init_mode
        if init is not None and (init.mode, init.timestamp) != (mode.text, mode.timestamp):
            raise BsfgError(
                Code.INIT_REJECTED,
                f"link {driver.name} has a cursor: it started by {init.mode} at sequence {init.start_sequence}",
                hint="a start is resolved once; to read again from an earlier fact use bsfg cursor rewind",
            )
        if init is None and driver.link.cursor is None and mode != configured:
            raise BsfgError(
                Code.INIT_REJECTED,
                f"config/cursors.yaml starts link {driver.name} by {configured.text}, not by {mode.text}",
                hint="change init_mode there first, with a justification",
            )

    # Partitions.

    async def partition(self, peer: str, reason: str, seconds: float | None) -> dict[str, Any]:
        zone = self._known_peer(peer)
        partition = await self.gateway.parts.partitions.begin(zone, reason, seconds)
        self.gateway.parts.audit.record("admin.partition", "allowed", **partition.as_json())
        return {"partition": partition.as_json()}

    async def reconcile(self, peer: str) -> dict[str, Any]:
        """End a partition; the links reconcile by themselves. Ending none is done already."""
        zone = self._known_peer(peer)
        partition = await self.gateway.parts.partitions.end(zone, "operator")
        self.gateway.parts.audit.record(
            "admin.reconcile", "allowed", peer=zone, was_partitioned=partition is not None
        )
        return {"peer": zone, "was_partitioned": partition is not None}

    # Decisions about histories.

    async def accept_gap(self, peer: str, stream: str, *, reason: str, dry_run: bool) -> dict[str, Any]:
        self._refuse_partitioned(self._known_peer(peer))
        return await self._decisions.accept_gap(peer, stream, reason, dry_run)

    async def accept_epoch(
        self, peer: str, stream: str, *, start: str, init_timestamp: str | None, reason: str, dry_run: bool
    ) -> dict[str, Any]:
        self._refuse_partitioned(self._known_peer(peer))
        return await self._decisions.accept_epoch(peer, stream, start, init_timestamp, reason, dry_run)

    async def rewind(
        self,
        peer: str,
        stream: str,
        *,
        to: int,
        reason: str,
        accept_differences: bool,
        dry_run: bool,
        purpose: str = "rewind",
        kept: Kept | None = None,
    ) -> dict[str, Any]:
        self._refuse_partitioned(self._known_peer(peer))
        return await self._decisions.rewind(peer, stream, to, reason, accept_differences, dry_run, purpose, kept)

    async def abort_rewind(self, peer: str, stream: str, *, reason: str) -> dict[str, Any]:
        return await self._decisions.abort_rewind(peer, stream, reason)

    async def new_epoch(self, stream: str, *, reason: str, dry_run: bool) -> dict[str, Any]:
        return await self._stream_decisions.new_epoch(stream, reason, dry_run)

    async def drop_stream(
        self, stream: str, *, peer: str | None, generation: int | None, reason: str, dry_run: bool
    ) -> dict[str, Any]:
        if peer is None:
            return await self._stream_decisions.drop_local(stream, reason, dry_run)
        if generation is None:
            raise BsfgError(
                Code.INVALID_REQUEST, "stream drop: an inbound stream needs its generation beside its peer"
            )
        return await self._stream_decisions.drop_generation(peer, stream, generation, reason, dry_run)

    async def stream_info(self, stream: str, peer: str | None = None) -> dict[str, Any]:
        row = await super().stream_info(stream, peer)
        if peer is not None:
            row["generations"] = await self._stream_decisions.generations(peer, stream)
        return row

    # Advice.

    async def notify(self, peer: str, stream: str) -> dict[str, Any]:
        """Tell a peer now that one of our streams has more (runbook 6.6); a refusal is raised."""
        zone, name = self._known_peer(peer), parse_stream(stream)
        config = self.gateway.configuration.peers[zone]
        if name not in config.streams:
            raise BsfgError(
                Code.CONFIGURATION,
                f"config/peers.yaml does not let {zone} read {name}, so it is not told of it"
                f" (there: {', '.join(config.streams) or 'none'})",
                hint="only a zone that exports a stream gives advice on it",
            )
        client = self.gateway.parts.peers.client(zone)
        self._refuse_partitioned(zone)
        head = (await self.gateway.parts.exports.log.describe(name)).last_sequence
        await client.notify(name, head)
        return {"peer": zone, "stream": name, "head": head, "taken": True}

    # Helpers.

    def _known_peer(self, peer: str) -> ZoneId:
        zone = parse_zone(peer)
        if zone not in self.gateway.configuration.peers:
            known = ", ".join(self.gateway.configuration.peers) or "none"
            raise BsfgError(
                Code.CONFIGURATION,
                f"no peer {zone} in config/peers.yaml (there: {known})",
                hint="add it, then reload",
            )
        return zone

    def _driver(self, peer: str, stream: str) -> RunningLink:
        name = LinkName(self._known_peer(peer), parse_stream(stream))
        return require(self.gateway.parts.links, name, self.gateway.configuration.links)

    def _refuse_partitioned(self, peer: ZoneId) -> None:
        partition = self.gateway.parts.partitions.in_force.get(peer)
        if partition is not None:
            raise BsfgError(
                Code.PARTITIONED,
                f"peer {peer} is cut off by an operator: {partition.reason}",
                hint=f"bsfg admin reconcile --peer {peer} ends it",
            )


def health_answer(gateway: Gateway) -> dict[str, Any]:
    """What ``GET /health`` tells a peer (contract, section 4)."""
    zone = gateway.configuration.zone
    return {
        "zone": zone.zone,
        "identity": zone.identity_rule.identity,
        "status": "degraded" if gateway.problems() else "ok",
        "version": __version__,
        "protocol": [1],
        "time": format_time(gateway.parts.clock.now()),
    }


def _parse_mode(cursor_init: str | None, init_timestamp: str | None) -> InitMode | None:
    if cursor_init is None:
        if init_timestamp is not None:
            raise BsfgError(Code.INVALID_REQUEST, "init_timestamp needs cursor_init explicit_timestamp")
        return None
    try:
        return parse_init_mode(cursor_init, init_timestamp)
    except ValueError as error:
        raise BsfgError(Code.INVALID_REQUEST, f"cursor_init {cursor_init}: {error}") from None


def _preview_row(mode: InitMode, page: Page, *, is_configured: bool) -> dict[str, Any]:
    count = page.pending + len(page.facts)
    first = page.facts[0] if page.facts else None
    size = len(first.payload) + len(first.headers) if first else 0
    return {
        "mode": mode.text,
        "is_configured": is_configured,
        "start_sequence": page.start_sequence,
        "head": page.head,
        "first_fact_time": format_time(first.time) if first else None,
        "facts": count,
        "bytes": (page.pending_bytes or 0) + size,
    }


def _raise_trouble(driver: RunningLink) -> None:
    """What hinders a round, as the error that an operator can act on."""
    link = driver.link
    if link.halt is not None and link.phase is Phase.HALTED:
        raise BsfgError(Code.HALTED, f"link {driver.name} is halted: {link.halt.reason}: {link.halt.message}")
    if link.phase is Phase.WAITING and link.error is not None:
        raise link.error
    if link.phase is Phase.PARTITIONED:
        raise BsfgError(Code.PARTITIONED, f"peer {driver.name.peer} is cut off by an operator")
