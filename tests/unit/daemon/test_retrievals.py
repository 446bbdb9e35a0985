"""Wanted artifacts of peers: transfers, retries, restarts and the list, over a real store and a peer of any will."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.artifacts import content_of, file_store, memory_store
from tests.support.listener import eventually

from bsfg.core.backoff import Backoff
from bsfg.core.retrieval import Patience, PolicyChanged, Retrieval
from bsfg.daemon.artifact_scan import ReferenceScan
from bsfg.daemon.artifact_transfers import ArtifactTransfers, Progress
from bsfg.daemon.retrieval_operations import failure_of, wanted_row
from bsfg.daemon.retrievals import Entry, RetrievalLimits, Retrievals
from bsfg.daemon.system import SystemClock
from bsfg.daemon.telemetry import Telemetry
from bsfg.errors import ArtifactCorrupt, BsfgError, Code, PeerRefused, PeerUnreachable, SubstrateUnavailable
from bsfg.model.artifact import ArtifactReference, ArtifactState, ArtifactUri
from bsfg.model.cursor import Fence, LinkName
from bsfg.model.fact import Fact
from bsfg.model.names import StreamName, ZoneId
from bsfg.model.page import LogSlice, PageLimits
from bsfg.model.wanted import WantedArtifact
from bsfg.ports import ArtifactStore
from bsfg.substrates.artifact_catalog import ArtifactQuotas
from bsfg.substrates.memory_wanted import MemoryWantedArtifacts

PEER, BUCKET = ZoneId("enterprise"), "enterprise-bsfg-artifacts"
LINK = LinkName(PEER, StreamName("facts.operational"))
QUICK = Patience(Backoff(0.01, 0.05), Backoff(0.01, 0.02))


def uri(key: str = "1.json", artifact_type: str = "batch-files") -> ArtifactUri:
    return ArtifactUri(BUCKET, artifact_type, key)


def wanted(content: bytes, name: ArtifactUri | None = None) -> WantedArtifact:
    return WantedArtifact(PEER, name or uri(), hashlib.sha256(content).hexdigest(), len(content))


@dataclass
class Peer:
    """A peer's artifacts, and what it does instead of giving them."""

    has: dict[ArtifactUri, bytes] = field(default_factory=dict)
    gives: dict[ArtifactUri, bytes] = field(default_factory=dict)
    """Other bytes than it says."""
    denied_types: set[str] = field(default_factory=set)
    cuts: list[int] = field(default_factory=list)
    """After so many bytes the next transfers end."""
    asked: list[tuple[ArtifactUri, int]] = field(default_factory=list)
    at_once: int = 0
    at_once_most: int = 0
    piece_bytes: int = 100_000
    delay_seconds: float = 0.0

    def _find(self, name: ArtifactUri) -> bytes:
        if name.artifact_type in self.denied_types:
            raise PeerRefused(Code.ARTIFACT_DENIED, "not available to this peer")
        if name not in self.has:
            raise PeerRefused(Code.ARTIFACT_NOT_FOUND, "it is not there")
        return self.has[name]

    async def describe(self, name: ArtifactUri) -> ArtifactReference:
        content = self._find(name)
        return ArtifactReference(name, hashlib.sha256(content).hexdigest(), len(content), "text/plain")

    async def pieces(self, reference: ArtifactReference, start: int) -> AsyncGenerator[bytes, None]:
        self.asked.append((reference.uri, start))
        content = self.gives.get(reference.uri, self._find(reference.uri))
        cut = self.cuts.pop(0) if self.cuts else None
        self.at_once += 1
        self.at_once_most = max(self.at_once_most, self.at_once)
        try:
            end = len(content) if cut is None else min(len(content), start + cut)
            for place in range(start, end, self.piece_bytes):
                await asyncio.sleep(self.delay_seconds)
                yield content[place : min(place + self.piece_bytes, end)]
            if cut is not None:
                raise PeerUnreachable("the connection was closed", reason="reset")
        finally:
            self.at_once -= 1


class Sink:
    """Keeps the lines of a log."""

    def __init__(self, lines: list[dict[str, Any]]) -> None:
        self.lines = lines

    def msg(self, line: str) -> None:
        self.lines.append(json.loads(line))

    info = warning = error = msg


@dataclass
class Desk:
    """A zone's retrievals over a store and a list that outlive them."""

    store: ArtifactStore
    peer: Peer
    shelf: MemoryWantedArtifacts = field(default_factory=MemoryWantedArtifacts)
    lines: list[dict[str, Any]] = field(default_factory=list)
    limits: RetrievalLimits = field(default_factory=lambda: RetrievalLimits(2, 50, QUICK))
    is_open: bool = True
    rate: int | None = None
    retrievals: Retrievals = field(init=False)

    def __post_init__(self) -> None:
        self.telemetry = Telemetry()

    async def start(self) -> None:
        transfers = ArtifactTransfers(self.store, lambda _: self.peer, SystemClock(), lambda _: self.rate)

        journal = structlog.wrap_logger(
            Sink(self.lines),
            wrapper_class=structlog.make_filtering_bound_logger("info"),
            processors=[structlog.processors.add_log_level, structlog.processors.JSONRenderer()],
        )
        self.retrievals = Retrievals(
            self.shelf,
            transfers,
            SystemClock(),
            journal,
            self.telemetry,
            lambda: self.limits,
            lambda _: self.is_open,
        )
        await self.retrievals.load()
        self.retrievals.apply({PEER: False})

    async def restart(self) -> None:
        await self.retrievals.stop()
        await self.start()

    async def want(self, *artifacts: WantedArtifact, count: int = 1) -> None:
        await self.retrievals.want(Counter(dict.fromkeys(artifacts, count)))

    def said(self, event: str) -> int:
        return sum(line["event"] == event for line in self.lines)

    def state(self, name: ArtifactUri | None = None) -> str:
        (entry,) = self.retrievals.of(PEER, name or uri())
        return entry.artifact.state.value

    @property
    def is_done(self) -> bool:
        return not self.retrievals.of()

    def fetches(self, result: str) -> float:
        value = self.telemetry.registry.get_sample_value("bsfg_artifact_fetches_total", {"result": result})
        return value or 0.0


@asynccontextmanager
async def desk(store: ArtifactStore | None = None, **peer: Any) -> AsyncIterator[Desk]:
    made = Desk(store or memory_store(ArtifactQuotas(10**9, 10**9)), Peer(**peer))
    await made.start()
    try:
        yield made
    finally:
        await made.retrievals.stop()


async def test_what_facts_name_comes_and_leaves_the_list() -> None:
    async with desk(has={uri(): b"bytes"}) as at:
        await at.want(wanted(b"bytes"))
        await eventually(lambda: at.is_done)
        assert await content_of(at.store, uri()) == b"bytes"
        await eventually(lambda: at.fetches("verified") == 1)
        assert await at.shelf.load() == []
        assert at.lines == []


async def test_the_same_object_referenced_a_thousand_times_moves_once() -> None:
    content = b"x" * 300_000
    names = [uri(f"{number}.json") for number in range(20)]
    async with desk(has=dict.fromkeys(names, content), delay_seconds=0.01) as at:
        for _ in range(10):
            await at.want(*[wanted(content, name) for name in names], count=5)
        await eventually(lambda: at.is_done)
        assert len(at.peer.asked) == 1
        assert [await content_of(at.store, name) for name in names] == [content] * 20
        await at.want(wanted(content, names[0]))
        assert at.is_done


async def test_few_transfers_of_a_peer_run_at_once() -> None:
    names = [uri(f"{number}.json") for number in range(10)]
    async with desk(has={name: str(name).encode() for name in names}, delay_seconds=0.02) as at:
        await at.want(*[wanted(str(name).encode(), name) for name in names])
        await eventually(lambda: at.is_done)
        assert at.peer.at_once_most == 2


async def test_a_cut_is_resumed_behind_what_came() -> None:
    content = bytes(range(256)) * 2_000
    async with desk(has={uri(): content}, cuts=[300_000, 100_000]) as at:
        await at.want(wanted(content))
        await eventually(lambda: at.is_done)
        assert [start for _, start in at.peer.asked] == [0, 300_000, 400_000]
        assert await content_of(at.store, uri()) == content
        assert at.lines == []


async def test_a_restart_in_the_middle_goes_on_behind_what_came(tmp_path: Path) -> None:
    content = bytes(range(256)) * 2_000
    async with (
        file_store(tmp_path, ArtifactQuotas(10**9, 10**9)) as store,
        desk(store, has={uri(): content}, delay_seconds=0.05) as at,
    ):
        await at.want(wanted(content))
        await asyncio.sleep(0.12)
        await at.restart()
        await eventually(lambda: at.is_done)
        assert len(at.peer.asked) == 2 and at.peer.asked[1][1] > 0
        assert await content_of(store, uri()) == content


async def test_missing_is_one_alert_and_comes_when_it_is_there() -> None:
    async with desk() as at:
        await at.want(wanted(b"bytes"))
        await eventually(lambda: len(at.peer.asked) >= 5)
        assert (at.state(), at.said("artifact_missing")) == ("missing", 1)
        assert at.retrievals.problems() == ["artifacts: 1 missing; bsfg artifact list --state missing"]
        await at.restart()
        await eventually(lambda: len(at.peer.asked) >= 10)
        assert at.said("artifact_missing") == 1
        at.peer.has[uri()] = b"bytes"
        await eventually(lambda: at.is_done)
        assert at.said("artifact_recovered") == 1
        assert at.retrievals.problems() == []


async def test_other_bytes_are_set_aside_and_both_digests_named() -> None:
    async with desk(has={uri(): b"bytes"}, gives={uri(): b"BYTES"}) as at:
        await at.want(wanted(b"bytes"))
        await eventually(lambda: at.said("artifact_corrupt") == 1 and len(at.peer.asked) > 2)
        (entry,) = at.retrievals.of()
        assert entry.artifact.state is ArtifactState.CORRUPT
        assert entry.artifact.found_sha256 == hashlib.sha256(b"BYTES").hexdigest()
        error = failure_of(entry)
        assert error.details["expected_sha256"] == hashlib.sha256(b"bytes").hexdigest()
        assert error.details["found_sha256"] == hashlib.sha256(b"BYTES").hexdigest()
        assert await at.store.find(uri()) is None
        at.peer.gives.clear()
        await eventually(lambda: at.is_done)
        assert at.said("artifact_corrupt") == 1


async def test_facts_that_disagree_about_one_name_are_told_and_the_true_one_comes() -> None:
    async with desk(has={uri(): b"true"}) as at:
        await at.want(wanted(b"true"))
        await eventually(lambda: at.is_done)
        await at.want(wanted(b"false"))
        await eventually(lambda: at.said("artifact_corrupt") == 1)
        assert await content_of(at.store, uri()) == b"true"


async def test_forbidden_is_asked_for_once_until_policy_changes() -> None:
    async with desk(has={uri(): b"bytes"}, denied_types={"batch-files"}) as at:
        await at.want(wanted(b"bytes"))
        await eventually(lambda: at.said("artifact_forbidden") == 1)
        await asyncio.sleep(0.2)
        assert (len(at.peer.asked), at.state()) == (1, "forbidden")
        at.peer.denied_types.clear()
        at.retrievals.tell_peer(PEER, PolicyChanged(SystemClock().now()))
        await eventually(lambda: at.is_done)


async def test_one_of_a_type_that_comes_shows_that_its_policy_has_changed() -> None:
    other = uri("2.json")
    async with desk(has={uri(): b"one", other: b"two"}, denied_types={"batch-files"}) as at:
        await at.want(wanted(b"one"))
        await eventually(lambda: at.said("artifact_forbidden") == 1)
        at.peer.denied_types.clear()
        await at.want(wanted(b"two", other))
        await eventually(lambda: at.is_done)


async def test_an_operator_retries_a_forbidden_one() -> None:
    async with desk(has={uri(): b"bytes"}, denied_types={"batch-files"}) as at:
        await at.want(wanted(b"bytes"))
        await eventually(lambda: at.said("artifact_forbidden") == 1)
        at.peer.denied_types.clear()
        (entry,) = at.retrievals.of()
        await at.retrievals.retry(entry)
        await eventually(lambda: at.is_done)


async def test_a_peer_that_may_not_be_asked_is_not_and_then_at_once() -> None:
    async with desk(has={uri(): b"bytes"}) as at:
        at.is_open = False
        await at.want(wanted(b"bytes"))
        await asyncio.sleep(0.2)
        assert at.peer.asked == [] and at.state() == "pending"
        at.is_open = True
        at.retrievals.peer_back(PEER)
        await eventually(lambda: at.is_done, 0.5)


async def test_no_room_is_named_and_retried() -> None:
    async with desk(memory_store(ArtifactQuotas(10, 10)), has={uri(): b"x" * 11}) as at:
        await at.want(wanted(b"x" * 11))
        await eventually(lambda: at.said("artifact_no_room") == 1 and at.fetches("quota_exceeded") > 2)
        assert at.state() == "pending"


async def test_the_list_is_bounded_and_says_so() -> None:
    async with desk() as at:
        at.limits = replace(at.limits, wanted_max=3)
        with pytest.raises(BsfgError) as caught:
            await at.want(*[wanted(b"", uri(f"{number}.json")) for number in range(4)])
        assert caught.value.code is Code.TOO_MANY
        assert len(at.retrievals.of()) == 3


async def test_a_reference_that_could_not_be_kept_is_no_entry() -> None:
    class Away(MemoryWantedArtifacts):
        async def save(self, artifact: WantedArtifact) -> None:
            raise SubstrateUnavailable("away")

    async with desk() as at:
        at.shelf.save = Away().save  # type: ignore[method-assign]
        with pytest.raises(SubstrateUnavailable):
            await at.want(wanted(b"bytes"))
        assert at.is_done


async def test_a_transfer_is_held_to_its_rate() -> None:
    content = b"x" * 100_000
    async with desk(has={uri(): content}, piece_bytes=10_000) as at:
        at.rate = 200_000
        began = asyncio.get_running_loop().time()
        await at.want(wanted(content))
        await eventually(lambda: at.is_done)
        assert 0.35 < asyncio.get_running_loop().time() - began < 2.0


async def test_one_whose_digest_nobody_said_is_what_the_peer_says() -> None:
    async with desk(has={uri(): b"bytes"}) as at:
        await at.want(WantedArtifact(PEER, uri()))
        await eventually(lambda: at.is_done)
        stored = await at.store.find(uri())
        assert stored is not None and stored.reference.media_type == "text/plain"


async def test_the_gauge_counts_states() -> None:
    async with desk() as at:
        await at.want(wanted(b"bytes"))
        await eventually(lambda: at.said("artifact_missing") == 1)
        assert {state.value: count for state, count in at.retrievals.counts().items()} == {
            "pending": 0, "missing": 1, "corrupt": 0, "forbidden": 0,
        }  # fmt: skip


def spoil(folder: Path, size: int) -> None:
    """The one file of this size loses what it held, as in a power cut."""
    (kept,) = [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size == size]
    kept.write_bytes(bytes(size))


async def test_what_suffered_here_is_not_blamed_on_the_peer(tmp_path: Path) -> None:
    content = bytes(range(256)) * 1_000
    quotas = ArtifactQuotas(10**9, 10**9)
    peer = Peer(has={uri(): content}, cuts=[100_000])
    artifact = wanted(content)
    async with file_store(tmp_path, quotas) as store:
        transfers = ArtifactTransfers(store, lambda _: peer, SystemClock(), lambda _: None)
        with pytest.raises(PeerUnreachable):
            await transfers.bring(artifact, Progress())
    spoil(tmp_path, 100_000)
    async with file_store(tmp_path, quotas) as store:
        transfers = ArtifactTransfers(store, lambda _: peer, SystemClock(), lambda _: None)
        await transfers.bring(artifact, Progress())
        assert await content_of(store, uri()) == content
    assert [start for _, start in peer.asked] == [0, 100_000, 0]


async def test_bytes_that_are_here_with_another_size_than_named() -> None:
    async with desk(has={uri(): b"bytes"}) as at:
        await at.want(wanted(b"bytes"))
        await eventually(lambda: at.is_done)
        lie = replace(wanted(b"bytes", uri("other.json")), size=6)
        with pytest.raises(ArtifactCorrupt):
            await at.retrievals.transfers.bring(lie, Progress())


@settings(max_examples=30, deadline=None)
@given(
    size=st.integers(0, 500_000),
    cuts=st.lists(st.integers(0, 200_000), max_size=6),
    restarts=st.lists(st.floats(0, 0.03), max_size=2),
)
def test_any_cuts_and_restarts_end_in_verified_bytes(size: int, cuts: list[int], restarts: list[float]) -> None:
    content = (b"0123456789abcdef" * (size // 16 + 1))[:size]

    async def run() -> None:
        async with desk(has={uri(): content}, cuts=list(cuts)) as at:
            await at.want(wanted(content))
            for pause in restarts:
                await asyncio.sleep(pause)
                await at.restart()
            await eventually(lambda: at.is_done)
            assert await content_of(at.store, uri()) == content

    asyncio.run(run())


# Searching facts.


@dataclass
class Stream:
    """An inbound stream's facts."""

    facts: list[Fact] = field(default_factory=list)
    created: str = "first"
    reads: list[int] = field(default_factory=list)

    def add(self, body: Any) -> None:
        self.facts.append(Fact(len(self.facts) + 1, "in.x", 5, b"", json.dumps(body).encode()))

    async def read(self, link: LinkName, generation: int, after: int, limits: PageLimits) -> tuple[str, LogSlice]:
        self.reads.append(after)
        behind = [fact for fact in self.facts if fact.sequence > after]
        head = self.facts[-1].sequence if self.facts else 0
        if not behind:
            await asyncio.sleep(0.01)
        through = behind[-1].sequence if behind else max(after, head)
        return self.created, LogSlice(behind, through, head, 0, None)


def named(content: bytes, key: str = "1.json") -> dict[str, Any]:
    return {
        "artifact_uri": str(uri(key)),
        "artifact_sha256": hashlib.sha256(content).hexdigest(),
        "artifact_size": len(content),
    }


@asynccontextmanager
async def scanning(at: Desk, stream: Stream, fence: Fence | None = None) -> AsyncIterator[ReferenceScan]:
    fence = fence or Fence(1, stream.created, 0)
    scan = ReferenceScan(
        stream, at.shelf, at.retrievals, lambda _: fence, SystemClock(), at.retrievals.journal
    )
    scan.apply({LINK: BUCKET})
    try:
        yield scan
    finally:
        await scan.stop()


async def test_references_of_facts_are_wanted_and_the_position_follows_them() -> None:
    stream = Stream()
    async with desk(has={uri(): b"bytes"}) as at:
        stream.add({"no": "artifact"})
        stream.add(named(b"bytes"))
        async with scanning(at, stream):
            await eventually(lambda: len(at.peer.asked) == 1 and at.is_done)
            stream.add(named(b"later", "2.json"))
            await eventually(lambda: bool(at.retrievals.of(PEER, uri("2.json"))))
        position = await at.shelf.position(LINK)
        assert position is not None and position.local_sequence >= 2


async def test_a_kill_behind_the_list_and_before_the_position_loses_no_reference() -> None:
    """The order is the guard: what a page names is on the list before the position moves over it."""
    steps: list[str] = []

    class Watched(MemoryWantedArtifacts):
        async def save(self, artifact: WantedArtifact) -> None:
            steps.append("wanted")
            await super().save(artifact)

        async def save_position(self, link: LinkName, position: Any) -> None:
            steps.append("position")
            await super().save_position(link, position)

    stream = Stream()
    stream.add(named(b"bytes"))
    async with desk() as at:
        at.shelf = at.retrievals.wanted = Watched()
        async with scanning(at, stream):
            await eventually(lambda: "position" in steps)
        assert steps.index("wanted") < steps.index("position")


async def test_a_full_list_holds_the_position_and_nothing_is_lost() -> None:
    stream = Stream()
    for number in range(6):
        stream.add(named(str(number).encode(), f"{number}.json"))
    async with desk() as at:
        at.limits = replace(at.limits, wanted_max=3)
        async with scanning(at, stream):
            await eventually(lambda: at.said("artifact_reference") == 1)
            assert await at.shelf.position(LINK) is None
            at.limits = replace(at.limits, wanted_max=50)
            await eventually(lambda: len(at.retrievals.of()) == 6)


async def test_a_restart_searches_on_from_the_position() -> None:
    stream = Stream()
    for number in range(4):
        stream.add({"number": number})
    async with desk() as at:
        async with scanning(at, stream):
            await eventually(lambda: 4 in stream.reads)
        stream.reads.clear()
        async with scanning(at, stream):
            await eventually(lambda: bool(stream.reads))
        assert stream.reads[0] == 4


@pytest.mark.parametrize("fence", [Fence(1, "second", 0), Fence(2, "second", 0)])
async def test_a_stream_made_again_and_another_generation_are_searched_from_their_start(fence: Fence) -> None:
    stream = Stream()
    stream.add({"number": 1})
    async with desk() as at:
        async with scanning(at, stream):
            await eventually(lambda: 1 in stream.reads)
        again = Stream(created="second")
        again.add(named(b"bytes"))
        async with scanning(at, again, fence):
            await eventually(lambda: bool(at.retrievals.of()))


async def test_a_bad_reference_is_told_once_and_holds_nothing_up() -> None:
    stream = Stream()
    stream.add(named(b"bytes") | {"artifact_sha256": "no"})
    stream.add(named(b"bytes"))
    async with desk() as at, scanning(at, stream):
        await eventually(lambda: bool(at.retrievals.of()))
        assert at.said("artifact_reference") == 1


async def test_a_fault_of_ours_stops_no_lane_and_leaves_no_entry_behind() -> None:
    class Faulty(MemoryWantedArtifacts):
        faults = 2

        async def remove(self, artifact: WantedArtifact) -> None:
            if self.faults:
                self.faults -= 1
                raise RuntimeError("a fault of ours")
            await super().remove(artifact)

    names = [uri(f"{number}.json") for number in range(4)]
    async with desk(has={name: str(name).encode() for name in names}) as at:
        at.shelf = at.retrievals.wanted = Faulty()
        await at.want(*[wanted(str(name).encode(), name) for name in names])
        await eventually(lambda: at.is_done and at.said("artifact_fault") == 2)
        for name in names:
            assert await content_of(at.store, name) == str(name).encode()


def test_a_transfer_that_is_under_way_says_how_much_has_come() -> None:
    entry = Entry(Retrieval(WantedArtifact(PEER, uri()), QUICK))
    assert (wanted_row(entry)["received"], wanted_row(entry)["size"]) == (None, None)
    entry.progress = Progress()
    assert wanted_row(entry)["received"] is None, "nobody knows yet what comes"
    entry.progress = Progress(bytes=300, kept_bytes=200, size=1_000)
    assert (wanted_row(entry)["received"], wanted_row(entry)["size"]) == (500, 1_000)
