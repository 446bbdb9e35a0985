"""What a gateway and its workers say to each other: whole, bounded, and nothing but words of ours."""

from __future__ import annotations

import asyncio
import os
import pickle
import socket
import struct
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.support.certificates import TestAuthority, peer, trust_of
from tests.support.patience import patience
from tests.support.twin_link import NAME, SOURCE

from bsfg.core.conversation import Woken
from bsfg.core.link_state import Flight, Link, LinkSettings
from bsfg.daemon import worker_channel
from bsfg.daemon.running_link import InHand
from bsfg.daemon.worker_channel import Channel, decode, encode
from bsfg.daemon.worker_reports import CALLS_MAX, ReportingGuard, Reports
from bsfg.daemon.worker_spread import spread
from bsfg.daemon.worker_words import Report, Snapshot, Tell, without_facts
from bsfg.errors import BsfgError, Code, ConfigurationError, OutcomeUnknown, PeerRefused, Problem, StoreFull
from bsfg.model.cursor import Cursor, Fence, LinkName, LinkState, parse_init_mode
from bsfg.model.fact import Fact
from bsfg.model.names import StreamName, ZoneId
from bsfg.transport.trust import TrustStore

LINK = Link(NAME, LinkSettings(parse_init_mode("full_backfill")))


@asynccontextmanager
async def pair() -> AsyncIterator[tuple[Channel, Channel]]:
    ends = socket.socketpair()
    channels = await Channel.over(ends[0]), await Channel.over(ends[1])
    try:
        yield channels
    finally:
        for channel in channels:
            await channel.close()


# Words


@pytest.mark.parametrize(
    "error",
    [
        BsfgError(Code.INTERNAL, "a", hint="b", c=1),
        PeerRefused(Code.GAP, "gone", **{"from": 1, "to": 2}),
        StoreFull("full", hint="free space", place="x"),
        OutcomeUnknown("who knows", sequence=7),
        ConfigurationError([Problem("zone.yaml", 1, 2, "wrong", "right")]),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_travels_whole(error: BsfgError) -> None:
    found = decode(encode(error)[4:])
    assert isinstance(found, BsfgError)
    assert type(found) is type(error)
    assert (found.code, found.message, found.hint, found.details) == (
        error.code,
        error.message,
        error.hint,
        error.details,
    )
    assert str(found) == str(error)


def test_a_snapshot_carries_no_fact() -> None:
    fact = Fact(1, "facts.operational", 5, b"", b"x" * 100_000)
    flight = Flight(1, (fact,), Cursor("e", 1, "d", 1), Fence(1, "c", 1))
    link = without_facts(LINK._replace(flights=(flight,), doubtful=(flight,)))
    word = Report((Snapshot(NAME, link, LinkState.CATCHING_UP, None, 1.5, InHand(1, 5)),), ())
    frame = encode(word)
    assert len(frame) < 5_000
    assert decode(frame[4:]) == word


class Hostile:
    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("touch /tmp/never",)


class Sideways:
    """Another way to the same: a module of ours that happens to import what is wanted."""

    def __reduce__(self) -> tuple[object, ...]:
        return worker_channel.socket.socketpair, ()


@pytest.mark.parametrize("body", [pickle.dumps(Hostile()), pickle.dumps(Sideways()), b"", b"nonsense"])
def test_what_is_no_word_of_ours_is_refused(body: bytes) -> None:
    with pytest.raises(BsfgError, match="holds no word") as caught:
        decode(body)
    assert caught.value.code is Code.BAD_ANSWER


def test_a_name_that_a_module_of_ours_only_imports_is_refused() -> None:
    body = b"\x80\x04cbsfg.daemon.worker_channel\npickle\n."
    with pytest.raises(BsfgError, match="no word of ours"):
        decode(body)


# The channel


async def test_words_come_whole_and_in_order_until_the_other_end_is_gone() -> None:
    async with pair() as (ours, theirs):
        words = [Tell(LinkName(SOURCE, StreamName(f"facts.n{number}")), Woken()) for number in range(50)]
        for word in words:
            ours.send(word)
        assert [await theirs.receive() for _ in words] == words
        await ours.close()
        assert await theirs.receive() is None


async def test_a_frame_that_is_too_long_is_refused_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = socket.socketpair()
    channel = await Channel.over(ours)
    theirs.sendall(struct.pack(">I", worker_channel.FRAME_BYTES_MAX + 1))
    async with asyncio.timeout(2 * patience()):
        with pytest.raises(BsfgError, match="announces"):
            await channel.receive()
    theirs.close()
    await channel.close()
    monkeypatch.setattr(worker_channel, "FRAME_BYTES_MAX", 10)
    with pytest.raises(BsfgError) as caught:
        encode("x" * 100)
    assert caught.value.code is Code.TOO_LARGE


async def test_who_does_not_read_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_channel, "WAITING_BYTES_MAX", 1_000_000)
    async with pair() as (ours, _):
        with pytest.raises(BsfgError) as caught:
            for _ in range(100):
                ours.send("x" * 100_000)
        assert caught.value.code is Code.TOO_MANY


# Who has which peer


def _links(**counts: int) -> list[LinkName]:
    return [
        LinkName(ZoneId(peer), StreamName(f"facts.n{n}"))
        for peer, count in counts.items()
        for n in range(count)
    ]


def test_peers_are_spread_evenly_and_whole() -> None:
    links = _links(a=1, b=1, c=1, d=3, e=1, f=1)
    placed = spread(links, {}, 2)
    assert placed.keys() == {name.peer for name in links}
    assert Counter(placed[name.peer] for name in links) == {0: 4, 1: 4}
    assert spread(reversed(links), {}, 2) == placed
    assert len(set(spread(_links(**{f"p{n}": 1 for n in range(64)}), {}, 64).values())) == 64


def test_a_peer_stays_where_it_is_whatever_comes_and_goes() -> None:
    before = spread(_links(a=1, b=1, c=1, d=1), {}, 2)
    after = spread(_links(b=5, c=1, d=1, n=1), before, 2)
    assert {peer: after[peer] for peer in ("b", "c", "d")} == {
        peer: before[ZoneId(peer)] for peer in ("b", "c", "d")
    }
    assert "a" not in after
    assert after[ZoneId("n")] != after[ZoneId("b")]


# Reports


def test_a_peer_that_answers_is_told_once_a_report_and_again_behind_a_silence() -> None:
    reports, silence = Reports(), BsfgError(Code.UNAVAILABLE, "silent")
    for _ in range(3):
        reports.peer_answered(NAME)
    reports.announced(NAME, "cursor_comparison", "cursor comparison: local=1, peer=2")
    reports.peer_silent(NAME, silence)
    reports.peer_answered(NAME)
    assert [what for what, _ in reports.take()] == [
        "peer_answered",
        "announced",
        "peer_silent",
        "peer_answered",
    ]
    reports.peer_answered(NAME)
    assert [what for what, _ in reports.take()] == ["peer_answered"]


def test_what_nobody_takes_is_bounded_and_its_loss_is_told() -> None:
    reports = Reports()
    for _ in range(CALLS_MAX + 5):
        reports.confirmed(NAME, None)
    *calls, (what, arguments) = reports.take()
    assert len(calls) == CALLS_MAX
    assert (what, arguments[1]) == ("line", "worker_notice")
    assert "5 reports" in arguments[2]["message"]


def test_lines_of_a_worker_are_the_gateways_to_write() -> None:
    reports = Reports()
    reports.journal().warning("substrate_lost", message="gone", place=Path("/x"))
    assert reports.take() == (("line", ("warning", "substrate_lost", {"message": "gone", "place": "/x"})),)


async def test_failing_appends_and_their_end_reach_the_healer(tmp_path: Path) -> None:
    reports = Reports()
    guard = ReportingGuard(tmp_path, reports)
    async with guard.storing("appending", "link a/b"):
        pass
    assert reports.take() == ()
    with pytest.raises(OutcomeUnknown):
        async with guard.storing("appending", "link a/b"):
            raise OutcomeUnknown("no answer")
    async with guard.storing("appending", "link a/b"):
        pass
    assert reports.take() == (("append_failed", ("link a/b", "no answer")), ("append_worked", ("link a/b",)))


# Trust


def test_trust_is_the_same_in_another_process(tmp_path: Path) -> None:
    ours, theirs = TestAuthority(tmp_path / "ours"), TestAuthority(tmp_path / "theirs")
    own, other = ours.zone("plant-a-bsfg"), theirs.zone("enterprise-bsfg")
    trust = trust_of(own, "plant-a-bsfg", theirs.path, {SOURCE: peer("enterprise-bsfg")})
    found = decode(encode(trust.material)[4:])
    there = TrustStore.from_material(found)  # type: ignore[arg-type]
    now = time.time_ns()
    assert there.verify_server(other.der, SOURCE, now).zone == SOURCE
    assert there.anchor_fingerprints(SOURCE) == trust.anchor_fingerprints(SOURCE)
    assert there.own_view == trust.own_view
    with pytest.raises(BsfgError) as caught:
        there.verify_server(own.der, SOURCE, now)
    assert caught.value.code is Code.IDENTITY_REJECTED
    assert b"PRIVATE" not in repr(trust.material).encode()
