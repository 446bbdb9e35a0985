"""What only an operator may decide about streams: begin a new epoch of a local one, drop what is no longer in use.

Each says first who is affected and what would be lost, is recorded in the audit with its reason before it acts, and
changes nothing with ``dry_run`` (contract, section 6).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from bsfg.daemon.decisions import Row, check_reason
from bsfg.daemon.gateway import Gateway
from bsfg.daemon.stream_operations import LocalStore
from bsfg.errors import BsfgError, Code
from bsfg.model.cursor import LinkName
from bsfg.model.names import StreamName, parse_stream, parse_zone, physical
from bsfg.substrates.epochs import begin_epoch
from bsfg.substrates.generations import GenerationRow, JetStreamGenerations
from bsfg.substrates.provisioning import drop_local, owned_stream


@dataclass
class StreamDecisions:
    """The decisions about streams of this zone."""

    gateway: Gateway
    store: LocalStore

    @property
    def _generations(self) -> JetStreamGenerations:
        return self.gateway.parts.generations.store

    # Epochs.

    async def new_epoch(self, stream: str, reason: str, dry_run: bool) -> Row:
        """Begin a new epoch of a local stream: whoever reads it halts as ``diverged`` until its operator accepts."""
        name = parse_stream(stream)
        check_reason(reason)
        if name not in self._local_streams():
            raise BsfgError(
                Code.CONFIGURATION,
                f"no stream {name} in config/zone.yaml (there: {', '.join(self._local_streams()) or 'none'})",
                hint="only the zone where a stream begins can begin a new epoch of it",
            )
        log = await self.store.exported.describe(name)
        answer: Row = {
            "stream": name,
            "dry_run": dry_run,
            "old_epoch": log.epoch,
            "epoch": None,
            "messages": log.messages,
            "last_sequence": log.last_sequence,
            "affected": self._readers(name),
        }
        if dry_run:
            return answer
        affected = [row["peer"] for row in answer["affected"]]
        self._audit("stream.new_epoch", stream=name, reason=reason, old_epoch=log.epoch, affected=affected)
        old, new = await begin_epoch(self.store.control, name)
        self.store.epoch_began(name, old, new, f"an operator began it: {reason}")
        return answer | {"epoch": new}

    def _readers(self, stream: StreamName) -> list[Row]:
        confirmed = {
            row.peer: row.confirmed.sequence
            for row in self.gateway.parts.exports.rows
            if row.stream == stream and row.confirmed is not None
        }
        readers = [peer for peer, name in self.gateway.exported() if name == stream]
        return [{"peer": peer, "confirmed": confirmed.get(peer)} for peer in readers]

    def _local_streams(self) -> list[StreamName]:
        return [config.name for config in self.gateway.configuration.zone.streams]

    # Generations.

    async def generations(self, peer: str, stream: str) -> list[Row]:
        """Every generation of a link's inbound stream, the one in force marked."""
        link = LinkName(parse_zone(peer), parse_stream(stream))
        in_force = await self._generations.inbound.in_force(link)
        return [
            asdict(row) | {"in_force": row.generation == in_force}
            for row in await self._generations.rows(link)
        ]

    async def drop_generation(
        self, peer: str, stream: str, generation: int, reason: str, dry_run: bool
    ) -> Row:
        """Remove an old generation of a link with all its facts; never the one in force."""
        link = LinkName(parse_zone(peer), parse_stream(stream))
        check_reason(reason)
        rows = await self._generations.rows(link)
        row = next((row for row in rows if row.generation == generation), None)
        if row is None:
            known = ", ".join(str(row.generation) for row in rows) or "none"
            raise BsfgError(Code.NOT_FOUND, f"link {link} has no generation {generation} (there: {known})")
        await self._refuse_in_use(link, row)
        answer = {"peer": link.peer, "stream": link.stream, "dry_run": dry_run, **_lost(asdict(row))}
        if dry_run:
            return answer
        self._audit("stream.drop", reason=reason, **answer)
        await self._generations.drop(link, generation)
        if len(rows) == 1:
            await self._generations.forget(link)
        return answer

    async def _refuse_in_use(self, link: LinkName, row: GenerationRow) -> None:
        building = self.gateway.parts.generations.building(link)
        if building is not None and building["generation"] == row.generation:
            raise BsfgError(
                Code.CHECK_FAILED,
                f"generation {row.generation} of {link} is being built",
                hint="bsfg cursor rewind --abort gives it up",
            )
        is_configured = link in self.gateway.configuration.links
        if is_configured and await self._generations.inbound.in_force(link) == row.generation:
            raise BsfgError(
                Code.CHECK_FAILED,
                f"generation {row.generation} of {link} is in force",
                hint="its facts are what local applications read; only an older generation can be dropped",
            )

    # Local streams.

    async def drop_local(self, stream: str, reason: str, dry_run: bool) -> Row:
        """Remove a local stream that is no longer configured, with all its facts."""
        name = parse_stream(stream)
        check_reason(reason)
        if name in self._local_streams():
            raise BsfgError(
                Code.CHECK_FAILED,
                f"stream {name} is in config/zone.yaml",
                hint="take it out there first; an inbound stream is named with --peer and --generation",
            )
        found = await owned_stream(self.store.control, name)
        state = found["state"]
        described = {"jetstream": physical(name), "messages": state["messages"], "bytes": state["bytes"]}
        answer: Row = {"peer": None, "stream": name, "dry_run": dry_run, "generation": None, **described}
        if dry_run:
            return answer
        self._audit("stream.drop", reason=reason, **answer)
        await drop_local(self.store.control, name)
        return answer

    def _audit(self, action: str, **details: Any) -> None:
        self.gateway.parts.audit.record(action, "allowed", **details)


def _lost(row: Row) -> Row:
    return {name: row[name] for name in ("generation", "jetstream", "messages", "bytes", "is_building")}
