"""The running gateway: what it owns, how it starts, takes a new configuration, and stops.

Everything that a peer or a link needs is held by its own part; this module only puts the parts in order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from structlog.typing import FilteringBoundLogger

from bsfg.config.values import Configuration
from bsfg.core.conversation import Woken
from bsfg.daemon.artifact_mirror import ArtifactMirror
from bsfg.daemon.audit import AuditLog
from bsfg.daemon.configuration_changes import changed_settings, differing
from bsfg.daemon.exports import REFRESH_SECONDS, Exports
from bsfg.daemon.gauges import GaugeReadings, families
from bsfg.daemon.generations import Generations
from bsfg.daemon.healing import Healer
from bsfg.daemon.history import History
from bsfg.daemon.keep import InboundKeeper
from bsfg.daemon.loop_watch import watch_loop
from bsfg.daemon.partitions import Partition, Partitions
from bsfg.daemon.peer_table import PeerTable
from bsfg.daemon.running_link import Links, RunningLink
from bsfg.daemon.store_keeper import StoreKeeper
from bsfg.daemon.telemetry import Telemetry
from bsfg.daemon.views import cursor_row, lag_facts
from bsfg.errors import BsfgError, Code
from bsfg.model.moment import NANOSECONDS
from bsfg.model.names import StreamName, ZoneId
from bsfg.ports import Clock
from bsfg.tasks import end_tasks
from bsfg.transport.access import Access
from bsfg.transport.trust import TrustStore

FIRST_STORE_SECONDS: Final = 3.0
CERTIFICATE_WARNING_SECONDS: Final = 30 * 86_400


@dataclass
class Parts:
    """What the gateway is put together from; made by ``bsfg.bootstrap``."""

    clock: Clock
    journal: FilteringBoundLogger
    audit: AuditLog
    telemetry: Telemetry
    access: Access
    peers: PeerTable
    links: Links
    partitions: Partitions
    exports: Exports
    keeper: StoreKeeper
    healer: Healer
    generations: Generations
    keep: InboundKeeper
    artifacts: ArtifactMirror
    artifact_room: Callable[[], Awaitable[dict[str, Any]]]
    """How much of their room the artifacts take, for ``status``."""
    substrate_state: Callable[[], dict[str, Any]]
    """What the substrate says of itself, for ``status``."""
    build_trust: Callable[[Configuration], TrustStore]
    """A new trust snapshot, or ConfigurationError; nothing changes until it is swapped in."""


@dataclass
class Gateway:
    """One zone's gateway."""

    parts: Parts
    configuration: Configuration
    trust: TrustStore
    started_at: int = 0
    reload_error: str | None = None
    stream_reports: Mapping[StreamName, Any] = field(default_factory=dict)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)
    _began: float = 0.0

    def __post_init__(self) -> None:
        links, exports = self.parts.links, self.parts.exports
        self.history = History(
            self.parts.clock,
            lambda: links.drivers,
            lambda: exports.rows,
            lambda driver: lag_facts(driver, self.parts.peers.monitor(driver.name.peer)),
        )

    async def start(self) -> None:
        """Bring the parts up: the store first, then who is cut off, then links and peers."""
        parts = self.parts
        self.started_at, self._began = parts.clock.now(), parts.clock.monotonic()
        self._swap_access()
        self._spawn(parts.keeper.run(), "store keeper")
        if await parts.keeper.wait_first(FIRST_STORE_SECONDS):
            await self._load_partitions()
        else:
            self._spawn(self._load_partitions_later(), "partitions, later")
        await self._apply()
        self._spawn(parts.partitions.run(), "partitions")
        self._spawn(self._refresh_exports(), "exports")
        self._spawn(watch_loop(parts.clock, self.loop_stalled), "loop watch")
        self._spawn(parts.healer.run(), "healer")
        self._spawn(parts.generations.run(), "generations")
        self._spawn(parts.keep.run(), "keep")
        self._spawn(self.history.run(), "history")
        parts.telemetry.watch(lambda: families(self.readings()))

    def announce(self) -> None:
        """Everything is up: say so."""
        zone, files = self.configuration.zone, dict(self.configuration.file_hashes)
        before = self.parts.audit.last("configuration.load", "allowed")
        changed = None if before is None else differing(before.get("files") or {}, files)
        self.parts.audit.record("configuration.load", "allowed", files=files, changed=changed)
        self.parts.journal.info("gateway_started", message=f"zone {zone.zone} serves {zone.listen}")

    async def stop(self) -> None:
        """Stop links and peers; what is durable stays as it is."""
        self.parts.journal.info("gateway_stopping", message="stopping")
        await end_tasks(*self._tasks)
        await self.parts.generations.stop()
        await self.parts.artifacts.stop()
        await self.parts.links.stop()
        await self.parts.peers.stop()

    async def take(self, configuration: Configuration) -> None:
        """Run a new configuration, whole or not at all (I45).

        Raises ConfigurationError while everything is still as it was. Who may come in changes whether or not the
        local store answers; the store's own part, its streams, is the keeper's to bring about.
        """
        refuse_unreloadable(self.configuration, configuration)
        trust = self.parts.build_trust(configuration)
        changed = changed_files(self.configuration, configuration)
        settings = changed_settings(self.configuration, configuration)
        self.configuration, self.trust, self.reload_error = configuration, trust, None
        self._swap_access()
        await self._apply()
        self.parts.keeper.provision_soon()
        self.parts.audit.record(
            "configuration.load",
            "allowed",
            files=dict(configuration.file_hashes),
            changed=changed,
            settings=settings,
        )
        self.parts.journal.info("configuration_loaded", message="configuration reloaded", changed=changed)

    def reject(self, error: BsfgError) -> None:
        """Remember and say why a changed configuration does not run."""
        self.reload_error = error.message
        self.parts.audit.record("configuration.load", "denied", cause=error.message)
        self.parts.journal.error("configuration_rejected", message=error.message)

    def partition_changed(self, peer: ZoneId, partition: Partition | None, cause: str) -> None:
        """A partition began or ended: both directions act at once."""
        self._swap_access()
        self.parts.peers.partition(peer, partition is not None)
        self.parts.links.partition(peer, partition is not None)
        if partition is not None:
            self.parts.artifacts.clients.cut_off(peer)
        event = "partition_began" if partition else "partition_ended"
        text = f"peer {peer} cut off: {partition.reason}" if partition else f"peer {peer} let back: {cause}"
        self.parts.journal.warning(event, peer=peer, message=text, cause=cause)

    def peer_became_reachable(self, peer: ZoneId) -> None:
        self.parts.links.tell_peer(peer, Woken())
        self.parts.artifacts.peer_back(peer)

    def problems(self) -> list[str]:
        """Why health is degraded; empty if it is not (I46)."""
        found = []
        if self.parts.keeper.problem is not None:
            found.append(f"local store: {self.parts.keeper.problem}")
        found += self.parts.healer.problems()
        substrate = self.parts.substrate_state()
        if substrate.get("problem"):
            found.append(f"nats-server: {substrate['problem']}")
        if substrate.get("durability") == "unverified":
            found.append(
                f"durability of the local store is unverified: {substrate.get('durability_reason')}"
            )
        found += [
            f"stream {stream}: {report.problem}"
            for stream, report in self.stream_reports.items()
            if report.problem
        ]
        left = self.certificate_seconds_left()
        if left < CERTIFICATE_WARNING_SECONDS:
            found.append(
                f"our certificate {'has ended' if left < 0 else f'ends in {left / 86_400:.1f} days'}"
            )
        if self.reload_error is not None:
            found.append(f"the configuration on disk does not run: {self.reload_error.splitlines()[0]}")
        found += self.parts.links.problems()
        for row in self.cursor_rows():
            if row["state"] in ("halted", "stalled", "local_full", "local_unavailable"):
                found.append(
                    f"link {row['peer']}/{row['stream']} is {row['state']}: {row['reason'] or row['error']}"
                )
            building = row.get("rewinding", {})
            if building.get("state") == "halted":
                found.append(
                    f"generation {building['generation']} of {row['peer']}/{row['stream']}: {building['problem']}"
                )
        return found

    def cursor_rows(self) -> list[dict[str, Any]]:
        return [self.cursor_row(driver) for driver in self.parts.links.drivers]

    def cursor_row(self, driver: RunningLink) -> dict[str, Any]:
        """One link as ``cursor query`` prints it; ``rewinding`` is there only while a generation is being built."""
        row = cursor_row(driver, self.parts.links, self.parts.peers.monitor(driver.name.peer))
        building = self.parts.generations.building(driver.name)
        return row if building is None else row | {"rewinding": building}

    def link_rows(self) -> list[dict[str, Any]]:
        """Every link with what people want to know beside it: rate, time of arrival, bytes behind; unknown is null."""
        return [self._link_row(driver) for driver in self.parts.links.drivers]

    def _link_row(self, driver: RunningLink) -> dict[str, Any]:
        row, word, rate = self.cursor_row(driver), driver.link.word, self.history.rate(driver.name)
        is_known = row["lag_facts"] is not None and word is not None
        return row | {
            "lag_bytes": word.pending_bytes if is_known and word else None,
            "rate_facts_per_second": None if rate is None else round(rate, 1),
            "eta_seconds": self.history.arrival(driver.name, row["lag_facts"]),
        }

    def certificate_seconds_left(self) -> float:
        return (self.trust.own_view.not_after - self.parts.clock.now()) / NANOSECONDS

    def disk_fill_ratio(self) -> float | None:
        """The used share of the disk of ``data/``; None until it was looked at."""
        space = self.parts.healer.space
        return None if space is None or not space.total_bytes else 1 - space.free_bytes / space.total_bytes

    def readings(self) -> GaugeReadings:
        """What a scrape shows, at this moment."""
        revocation = self.trust.revocation
        crl_end = revocation.next_update if revocation else None
        limits = {stream.name: stream.max_bytes for stream in self.configuration.zone.streams}
        fills = {
            row.stream: row.log.bytes / maximum
            for row in self.parts.exports.rows
            if (maximum := limits.get(row.stream)) is not None
        }
        return GaugeReadings(
            cursors=self.cursor_rows(),
            exports=self.parts.exports.rows,
            reachable={monitor.peer: monitor.reachable for monitor in self.parts.peers.monitors()},
            uptime_seconds=self.parts.clock.monotonic() - self._began,
            certificate_seconds_left=self.certificate_seconds_left(),
            crl_seconds_left=None if crl_end is None else (crl_end - self.parts.clock.now()) / NANOSECONDS,
            fill_ratios=fills,
            config_reload_succeeded=self.reload_error is None,
            exported=self.parts.exports.wanted,
            exports_age_seconds=self.parts.exports.age_seconds,
            partitioned=self.parts.partitions.in_force.keys(),
            disk_fill_ratio=self.disk_fill_ratio(),
            artifacts=self.parts.artifacts.counts(),
        )

    def exported(self) -> list[tuple[ZoneId, StreamName]]:
        """Every (peer, stream) that an authorized peer may read."""
        return [
            (peer.id, stream)
            for peer in self.configuration.peers.values()
            if peer.authorized
            for stream in peer.streams
        ]

    async def _apply(self) -> None:
        in_force = self.parts.partitions.in_force
        await self.parts.peers.apply(self.configuration.peers, in_force)
        authorized = {peer.id for peer in self.configuration.peers.values() if peer.authorized}
        links = {name: link for name, link in self.configuration.links.items() if name.peer in authorized}
        await self.parts.links.apply(links, self.configuration.zone.limits, in_force)
        for name in links:
            self.parts.keep.soon(name)
        await self.parts.artifacts.apply(self.configuration)

    def _swap_access(self) -> None:
        policies = {peer.id: peer.policy() for peer in self.configuration.peers.values()}
        ends = {peer: partition.until for peer, partition in self.parts.partitions.in_force.items()}
        self.parts.access.swap(trust=self.trust, policies=policies, partitions=ends)

    async def _load_partitions(self) -> None:
        try:
            await self.parts.partitions.load()
        except BsfgError as error:
            self.parts.journal.error("substrate_lost", message=f"reading partitions failed: {error.message}")
            self._spawn(self._load_partitions_later(), "partitions, later")

    async def _load_partitions_later(self) -> None:
        while True:
            if await self.parts.keeper.wait_first(FIRST_STORE_SECONDS):
                try:
                    return await self.parts.partitions.load()
                except BsfgError:
                    await self.parts.clock.sleep(FIRST_STORE_SECONDS)

    async def _refresh_exports(self) -> None:
        while True:
            await self.parts.exports.refresh(self.exported())
            await asyncio.sleep(REFRESH_SECONDS)

    def loop_stalled(self, seconds: float, place: str = "the loop") -> None:
        """A loop of this gateway did not run for so long."""
        self.parts.telemetry.loop_stalls.inc()
        self.parts.journal.warning("loop_stalled", message=f"{place} did not run for {seconds:.1f} s")

    def _spawn(self, work: Any, name: str) -> None:
        self._tasks.append(asyncio.create_task(work, name=name))


def changed_files(before: Configuration, after: Configuration) -> list[str]:
    """The configuration files whose content differs."""
    return differing(before.file_hashes, after.file_hashes)


def refuse_unreloadable(before: Configuration, after: Configuration) -> None:
    """Some keys of zone.yaml need a restart; changing one of them keeps the whole running configuration."""
    keys = (
        "zone",
        "identity_rule",
        "listen",
        "local",
        "local_token_file",
        "substrate",
        "durability",
        "lab",
        "log",
    )
    found = [key for key in keys if getattr(before.zone, key) != getattr(after.zone, key)]
    if before.zone.limits.worker_processes != after.zone.limits.worker_processes:
        found.append("limits.worker_processes")
    places = [(each.zone.artifacts.store, each.zone.artifacts.bucket) for each in (before, after)]
    found += ["store and bucket of artifacts"] if places[0] != places[1] else []
    if found:
        names = ", ".join(key.removesuffix("_rule") for key in found)
        raise BsfgError(
            Code.CONFIGURATION,
            f"config/zone.yaml: {names} can't change while the gateway runs",
            hint="restart the gateway, or put the old value back",
        )
