"""Links in worker processes, from the gateway's side: what is ordered, what is held back, what is shown of the lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import structlog
from tests.support.behaved_worker import program
from tests.support.certificates import TestAuthority, peer, trust_of
from tests.support.patience import patience
from tests.support.twin_link import NAME, SOURCE

from bsfg.config.address import Address
from bsfg.config.limits import Limits
from bsfg.config.values import LinkConfig, PeerConfig
from bsfg.core.conversation import GapAccepted
from bsfg.core.link_state import Phase
from bsfg.daemon.link_reporter import LinkReporter
from bsfg.daemon.system import SystemClock
from bsfg.daemon.telemetry import Telemetry
from bsfg.daemon.worker_links import WorkerLinks
from bsfg.daemon.worker_words import Beginning
from bsfg.errors import BsfgError, Code
from bsfg.model.cursor import LinkState, parse_init_mode
from bsfg.model.identity import IdentityRule
from bsfg.transport.access import Access

CONFIG = LinkConfig(NAME, parse_init_mode("full_backfill"), justification="test")
PEER = PeerConfig(SOURCE, IdentityRule("enterprise-bsfg"), Address("127.0.0.1", 1), "bucket", authorized=True)


def _drop(*words: Any) -> str:
    raise structlog.DropEvent


@asynccontextmanager
async def links_of(tmp_path: Path) -> AsyncIterator[tuple[WorkerLinks, Access]]:
    authority = TestAuthority(tmp_path / "ca")
    own = authority.zone("plant-a-bsfg")
    trust = trust_of(own, "plant-a-bsfg", authority.path, {SOURCE: peer("enterprise-bsfg")})
    access, journal = Access(trust, {SOURCE: PEER.policy()}), structlog.wrap_logger(None, processors=[_drop])
    unused: Any = None
    healer: Any = SimpleNamespace(append_failed=_drop, append_worked=_drop)
    reporter = LinkReporter(journal, Telemetry(), lambda peer: None, lambda peer, error: None)
    links = WorkerLinks(
        1,
        program("well"),
        lambda index: Beginning(index, tmp_path, unused, (), None),
        access,
        lambda: {SOURCE: PEER},
        reporter,
        healer,
        SystemClock(),
        journal,
        lambda seconds, place: None,
    )
    try:
        await links.apply({NAME: CONFIG}, Limits(), ())
        await until(lambda: links._workers[0]._is_up)
        yield links, access
    finally:
        await links.stop()


async def until(holds: Callable[[], Any], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds * patience()
    while not holds():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


def ordered(links: WorkerLinks) -> set[str]:
    """The links that a worker is told to run now."""
    return {str(name) for name in links.orders(0, 1, None)[0].links}


async def test_a_stopped_link_is_left_alone_by_the_next_worker_too(tmp_path: Path) -> None:
    async with links_of(tmp_path) as (links, _):
        assert ordered(links) == {str(NAME)}
        worker = links._workers[0]
        async with links.stopped(NAME):
            assert worker._taken == worker._ordered > 1
            assert ordered(links) == set()
            assert links.driver(NAME) is not None
            worker._kill()
            await until(lambda: worker._starts == 2 and worker._is_up)
            assert ordered(links) == set()
        assert ordered(links) == {str(NAME)}
        with pytest.raises(BsfgError, match="does not run"):
            async with links.stopped(NAME.__class__(SOURCE, NAME.stream.__class__("facts.none"))):
                raise AssertionError("it must not come here")


async def test_trust_is_sent_when_it_changes_and_access_always(tmp_path: Path) -> None:
    async with links_of(tmp_path) as (links, access):
        first, known = links.orders(0, 1, None)
        assert first.trust is not None
        again, _ = links.orders(0, 2, known)
        assert again.trust is None
        access.swap(policies={}, partitions={SOURCE: None})
        orders, _ = links.orders(0, 3, known)
        assert (orders.policies, orders.partitions) == ({}, {SOURCE: None})


async def test_links_of_a_lost_worker_say_so_until_there_is_another(tmp_path: Path) -> None:
    async with links_of(tmp_path) as (links, _):
        worker, link = links._workers[0], links.driver(NAME)
        assert link is not None
        waiting = asyncio.create_task(link.changed())
        await asyncio.sleep(0)
        worker._kill()
        async with asyncio.timeout(10 * patience()):
            await waiting
        assert link.state is LinkState.LOCAL_UNAVAILABLE
        assert link.link.phase is Phase.WAITING
        assert "was ended by SIGKILL" in str(links.error(NAME))
        assert "worker 1" in links.problems()[0]
        with pytest.raises(BsfgError) as caught:
            await link.instruct(GapAccepted(1))
        assert caught.value.code is Code.UNAVAILABLE
        await until(lambda: not links.problems())
