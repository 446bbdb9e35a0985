"""Every artifact that this zone wants from its peers: a few transfers of each peer at once, and none holds up a fact.

The table in memory is the durable list as it was loaded and changed since. Whatever a state machine orders is carried
out here; a store that is away costs an attempt after the next restart, never an entry.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from structlog.typing import FilteringBoundLogger

from bsfg.core.retrieval import (
    Announce,
    Commands,
    Due,
    Event,
    Forget,
    Keep,
    Patience,
    PeerBack,
    Phase,
    PolicyChanged,
    Referenced,
    Restarted,
    Retried,
    Retrieval,
    Transfer,
    TransferFailed,
    Verified,
    advance,
)
from bsfg.daemon.artifact_transfers import ArtifactTransfers, Progress
from bsfg.daemon.journal import place_of
from bsfg.daemon.telemetry import Telemetry
from bsfg.errors import BsfgError, Code
from bsfg.model.artifact import ArtifactState, ArtifactUri
from bsfg.model.moment import NANOSECONDS
from bsfg.model.names import ZoneId
from bsfg.model.wanted import WantedArtifact
from bsfg.ports import Clock, WantedArtifacts
from bsfg.tasks import end_tasks

LOAD_RETRY_SECONDS: Final = 2.0
LOOK_SECONDS: Final = 1.0
"""How often a lane looks whether its peer may be asked again."""
SAVES_AT_ONCE: Final = 32


@dataclass(frozen=True, slots=True)
class RetrievalLimits:
    transfers_per_peer: int = 2
    wanted_max: int = 10_000
    patience: Patience = field(default_factory=Patience)


@dataclass(eq=False)
class Entry:
    """One wanted artifact: its state machine, and a bell for who waits for its next attempt."""

    retrieval: Retrieval
    attempts: int = 0
    """That have ended."""
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Of what is written to the durable list."""
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    error: BsfgError | None = None
    """Of the last attempt, while the gateway runs."""
    progress: Progress | None = None
    """Of the attempt that is under way."""

    @property
    def artifact(self) -> WantedArtifact:
        return self.retrieval.artifact

    def ring(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()


@dataclass(eq=False)
class _Lane:
    """One peer's transfers (I24): due entries in order of time, and the workers that take them."""

    waiting: list[tuple[int, int, Entry]] = field(default_factory=list)
    workers: list[asyncio.Task[None]] = field(default_factory=list)
    bell: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass
class Retrievals:
    """The wanted artifacts of this zone. ``may_ask`` says whether a peer may be asked at this moment."""

    wanted: WantedArtifacts
    transfers: ArtifactTransfers
    clock: Clock
    journal: FilteringBoundLogger
    telemetry: Telemetry
    limits: Callable[[], RetrievalLimits]
    may_ask: Callable[[ZoneId], bool]
    chance: Callable[[], float] = random.random
    is_loaded: bool = False
    _entries: dict[tuple[ZoneId, str], Entry] = field(default_factory=dict)
    _lanes: dict[ZoneId, _Lane] = field(default_factory=dict)
    _serial: int = 0
    _ready: asyncio.Event = field(default_factory=asyncio.Event)

    # Starting and stopping.

    async def load(self) -> None:
        """Take up what was wanted before the restart; waits until the store answers."""
        while True:
            try:
                found = await self.wanted.load()
                break
            except BsfgError:
                await self.clock.sleep(LOAD_RETRY_SECONDS)
        for artifact in found:
            entry = Entry(Retrieval(artifact, self.limits().patience))
            entry.retrieval, _ = advance(entry.retrieval, Restarted(self.clock.now()))
            self._entries[artifact.peer, artifact.key] = entry
            self._queue(entry)
        self.is_loaded = True
        self._ready.set()

    async def loaded(self) -> None:
        """Wait until the list is known; what is wanted meanwhile could be on it already."""
        await self._ready.wait()

    def apply(self, peers: Mapping[ZoneId, bool]) -> None:
        """Have lanes for exactly these peers; True where what is configured of the peer has changed."""
        for peer in [peer for peer in self._lanes if peer not in peers]:
            for worker in self._lanes.pop(peer).workers:
                worker.cancel()
        for peer, has_changed in peers.items():
            lane = self._lanes.setdefault(peer, _Lane())
            while len(lane.workers) < self.limits().transfers_per_peer:
                name = f"artifacts of {peer} {len(lane.workers)}"
                lane.workers.append(asyncio.create_task(self._work(peer, lane), name=name))
            for worker in lane.workers[self.limits().transfers_per_peer :]:
                worker.cancel()
            del lane.workers[self.limits().transfers_per_peer :]
            for entry in self.of(peer):
                self._queue(entry)
            if has_changed:
                self.tell_peer(peer, PolicyChanged(self.clock.now()))

    async def stop(self) -> None:
        """Cut what is under way; what came is kept."""
        workers = [worker for lane in self._lanes.values() for worker in lane.workers]
        self._lanes.clear()
        await end_tasks(*workers)

    # Asking.

    async def want(self, found: Counter[WantedArtifact]) -> None:
        """These artifacts, each with how many facts name it, are on the list or here already; durable on return.

        Raises ``TOO_MANY`` when the list is full, and what the store raises; what was taken in by then stays.
        """
        await self.loaded()
        pairs = list(found.items())
        for start in range(0, len(pairs), SAVES_AT_ONCE):
            some = pairs[start : start + SAVES_AT_ONCE]
            ended = await asyncio.gather(*[self._want(each, count) for each, count in some], return_exceptions=True)
            for error in ended:
                if isinstance(error, BaseException):
                    raise error

    async def _want(self, artifact: WantedArtifact, count: int) -> None:
        if await self._is_here(artifact):
            return
        entry = await self.enter(artifact)
        await self._carry_out(entry, self._told(entry, Referenced(count)), is_demanded=True)

    async def _is_here(self, artifact: WantedArtifact) -> bool:
        stored = await self.transfers.store.find(artifact.uri)
        return stored is not None and artifact.sha256 in (None, stored.reference.sha256)

    async def enter(self, artifact: WantedArtifact) -> Entry:
        """The entry of this artifact, durable; the one there is, or a new one. Raises as :meth:`want`."""
        await self.loaded()
        entry = self._entries.get((artifact.peer, artifact.key))
        if entry is not None:
            return entry
        if len(self._entries) >= self.limits().wanted_max:
            raise BsfgError(
                Code.TOO_MANY,
                f"{len(self._entries)} artifacts are wanted and not here, as many as the list may hold",
                hint="bsfg artifact list shows them; limits.wanted_artifacts_max in zone.yaml",
            )
        now = self.clock.now()
        entry = Entry(Retrieval(replace(artifact, due_at=now, wanted_at=now), self.limits().patience))
        self._entries[artifact.peer, artifact.key] = entry
        try:
            await self._save(entry)
        except BaseException:
            self._entries.pop((artifact.peer, artifact.key), None)
            raise
        self._queue(entry)
        return entry

    async def tell(self, entry: Entry, event: Event) -> None:
        """Give one entry an outside word; durable on return where it has to be."""
        await self._carry_out(entry, self._told(entry, event), is_demanded=True)

    def tell_peer(self, peer: ZoneId, event: Event) -> None:
        """Give every entry of this peer an outside word."""
        for entry in self.of(peer):
            self._told(entry, event)

    def peer_back(self, peer: ZoneId) -> None:
        self.tell_peer(peer, PeerBack(self.clock.now()))
        self._wake(peer)

    async def retry(self, entry: Entry) -> None:
        """An operator wants it tried now."""
        await self.tell(entry, Retried(self.clock.now()))

    # Looking.

    def of(self, peer: ZoneId | None = None, uri: ArtifactUri | None = None) -> list[Entry]:
        """The entries of a peer, or of all; of one name, or of all."""
        return [
            entry
            for (of_peer, _), entry in self._entries.items()
            if peer in (None, of_peer) and uri in (None, entry.artifact.uri)
        ]

    def counts(self) -> Mapping[ArtifactState, int]:
        """How many entries are in each state."""
        found = Counter(entry.artifact.state for entry in self._entries.values())
        return {state: found[state] for state in ArtifactState if state is not ArtifactState.VERIFIED}

    def problems(self) -> list[str]:
        """What an operator should know; a missing artifact is no reason to call the zone degraded."""
        return [
            f"artifacts: {count} {state}; bsfg artifact list --state {state}"
            for state, count in self.counts().items()
            if count and state is not ArtifactState.PENDING
        ]

    # Working.

    async def _work(self, peer: ZoneId, lane: _Lane) -> None:
        await self.loaded()
        while True:
            entry, transfer = await self._next(peer, lane)
            try:
                await self._attempt(entry, transfer)
            except Exception as error:
                # A lane must outlive a fault of ours, and its entry must not be left as if it were on its way.
                self._told(entry, self._failed(transfer, self._fault(entry.artifact, error), Progress()))

    async def _next(self, peer: ZoneId, lane: _Lane) -> tuple[Entry, Transfer]:
        """The entry whose time has come first, once the peer may be asked."""
        while True:
            may_ask = self.may_ask(peer)
            for entry in self._due(lane) if may_ask else ():
                for command in self._told(entry, Due()):
                    if isinstance(command, Transfer):
                        return entry, command
            # While nothing is wanted of the peer only the bell can change that.
            pause_seconds = self._pause_seconds(lane, may_ask) if lane.waiting else None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_seconds):
                    await lane.bell.wait()

    def _pause_seconds(self, lane: _Lane, may_ask: bool) -> float:
        due_in = max(0.0, (lane.waiting[0][0] - self.clock.now()) / NANOSECONDS) if may_ask else LOOK_SECONDS
        return min(due_in, LOOK_SECONDS)

    def _due(self, lane: _Lane) -> Iterator[Entry]:
        """Entries whose time has come; what was moved to another time since it was queued is passed over."""
        while lane.waiting and lane.waiting[0][0] <= self.clock.now():
            due_at, _, entry = heapq.heappop(lane.waiting)
            if entry.retrieval.phase is Phase.WAITING and entry.artifact.due_at == due_at:
                yield entry

    async def _attempt(self, entry: Entry, transfer: Transfer) -> None:
        entry.progress = progress = Progress()
        event: Event = Verified(transfer.ticket)
        try:
            entry.error = await self._bring(entry.artifact, progress)
        except asyncio.CancelledError:
            # Cut by ourselves: whoever is left to work takes it up again.
            stopped = BsfgError(Code.UNAVAILABLE, "the transfer was stopped")
            self._told(entry, self._failed(transfer, stopped, progress))
            raise
        finally:
            entry.progress = None
        if entry.error is None:
            result = "here" if progress.is_here else "verified"
        else:
            result, event = entry.error.code.label, self._failed(transfer, entry.error, progress)
        self.telemetry.artifact_fetches.labels(result).inc()
        await self._carry_out(entry, self._told(entry, event), is_demanded=False)
        if entry.retrieval.phase is Phase.DONE and not progress.is_here:
            await self._allowed(entry.artifact)
        entry.attempts += 1
        entry.ring()

    async def _allowed(self, given: WantedArtifact) -> None:
        """The peer gives artifacts of this type: what it forbade of it was another policy."""
        for entry in self.of(given.peer):
            is_alike = entry.artifact.uri.artifact_type == given.uri.artifact_type
            if entry.retrieval.phase is Phase.REFUSED and is_alike:
                now = self.clock.now()
                await self._carry_out(entry, self._told(entry, PolicyChanged(now)), is_demanded=False)

    async def _bring(self, artifact: WantedArtifact, progress: Progress) -> BsfgError | None:
        """Bring it here; why it did not come, if it did not."""
        try:
            await self.transfers.bring(artifact, progress)
        except BsfgError as error:
            return error
        except Exception as error:
            return self._fault(artifact, error)
        return None

    def _fault(self, artifact: WantedArtifact, error: Exception) -> BsfgError:
        """What nobody foresaw is named, and tried again as any other failure."""
        words = f"fetching {artifact.uri} failed unexpectedly: {error!r}{place_of(error)}"
        self.journal.error("artifact_fault", peer=artifact.peer, message=words)
        return BsfgError(Code.INTERNAL, words)

    def _failed(self, transfer: Transfer, error: BsfgError, progress: Progress) -> TransferFailed:
        return TransferFailed(transfer.ticket, error, progress.has_moved, self.clock.now(), self.chance())

    # Carrying out.

    def _told(self, entry: Entry, event: Event) -> Commands:
        before = entry.artifact.due_at
        entry.retrieval, commands = advance(entry.retrieval, event)
        if entry.artifact.due_at != before:
            self._queue(entry)
        return commands

    async def _carry_out(self, entry: Entry, commands: Commands, *, is_demanded: bool) -> None:
        """``is_demanded``: whoever asks must know that it did not become durable."""
        for command in commands:
            match command:
                case Announce(event=event, message=message, is_alert=is_alert):
                    write = self.journal.warning if is_alert else self.journal.info
                    write(event, peer=entry.artifact.peer, message=message)
                case Keep() | Forget():
                    try:
                        await (self._save(entry) if isinstance(command, Keep) else self._forget(entry))
                    except BsfgError:
                        if is_demanded:
                            raise

    async def _save(self, entry: Entry) -> None:
        async with entry.turn:
            if entry.retrieval.phase is not Phase.DONE:
                await self.wanted.save(entry.artifact)

    async def _forget(self, entry: Entry) -> None:
        self._entries.pop((entry.artifact.peer, entry.artifact.key), None)
        async with entry.turn:
            await self.wanted.remove(entry.artifact)

    def _queue(self, entry: Entry) -> None:
        lane = self._lanes.get(entry.artifact.peer)
        if lane is None or entry.artifact.due_at is None or entry.retrieval.phase is not Phase.WAITING:
            return
        self._serial += 1
        heapq.heappush(lane.waiting, (entry.artifact.due_at, self._serial, entry))
        self._wake(entry.artifact.peer)

    def _wake(self, peer: ZoneId) -> None:
        lane = self._lanes.get(peer)
        if lane is not None:
            lane.bell.set()
            lane.bell = asyncio.Event()
