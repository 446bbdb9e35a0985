"""Names of peers: a resolver that hangs or fails costs its name two seconds, and nobody else anything (design, 16)."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from tests.support.patience import patience
from tests.support.peer_zones import Pki, receiver_access, sending

from bsfg.errors import PeerUnreachable
from bsfg.model.identity import IdentityRule
from bsfg.model.names import ZoneId
from bsfg.transport import resolver
from bsfg.transport.client import HttpPeerClient
from bsfg.transport.client_connection import ClientLimits, PeerEndpoint
from bsfg.transport.resolver import NameResolver, Place

V4 = socket.AF_INET
HANGS_SECONDS_MAX = 20.0


@dataclass
class SteeredClock:
    """The machine's clocks, which a test can put forward."""

    ahead_seconds: float = 0.0

    def now(self) -> int:
        return time.time_ns()

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead_seconds

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


@dataclass
class Directory:
    """A system resolver whose answers a test decides on; names under ``hanging`` wait for ``released``."""

    answers: dict[str, str | OSError] = field(default_factory=dict)
    hanging: set[str] = field(default_factory=set)
    asked: list[str] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)

    def __call__(self, name: str, family: socket.AddressFamily) -> list[Place]:
        self.asked.append(name)
        if name in self.hanging:
            self.released.wait(HANGS_SECONDS_MAX)
        answer = self.answers.get(name, OSError(f"no such name: {name}"))
        if isinstance(answer, OSError):
            raise answer
        return [(V4, answer)]


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Pki:
    return Pki(tmp_path_factory.mktemp("pki"))


@pytest.fixture
def directory() -> Iterator[Directory]:
    directory = Directory({"plant.example": "192.0.2.1"})
    yield directory
    directory.released.set()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lookup is waited for a tenth of the time."""
    monkeypatch.setattr(resolver, "LOOKUP_SECONDS", 0.2)


async def addresses(names: NameResolver, name: str = "plant.example") -> list[str]:
    return [found["host"] for found in await names.resolve(name, 9443, V4)]


async def test_the_system_knows_localhost() -> None:
    found = await NameResolver(SteeredClock()).resolve("localhost", 9443, V4)
    assert [(each["hostname"], each["host"], each["port"]) for each in found] == [
        ("localhost", "127.0.0.1", 9443)
    ]


async def test_an_answer_is_used_for_thirty_seconds_and_then_asked_for_again(directory: Directory) -> None:
    clock = SteeredClock()
    names = NameResolver(clock, directory)
    assert await addresses(names) == ["192.0.2.1"]
    directory.answers["plant.example"] = "192.0.2.2"
    clock.ahead_seconds = 29
    assert await addresses(names) == ["192.0.2.1"]
    assert directory.asked == ["plant.example"]
    clock.ahead_seconds = 31
    assert await addresses(names) == ["192.0.2.2"]


async def test_the_last_good_answer_is_kept_when_resolving_fails(directory: Directory) -> None:
    clock = SteeredClock()
    names = NameResolver(clock, directory)
    await addresses(names)
    directory.answers["plant.example"] = OSError("server failure")
    clock.ahead_seconds = 3600
    assert await addresses(names) == ["192.0.2.1"]
    assert names.age_seconds("plant.example") == pytest.approx(3600, abs=5)
    assert directory.asked == ["plant.example"] * 2


@pytest.mark.usefixtures("quick")
async def test_the_last_good_answer_is_used_when_resolving_hangs(directory: Directory) -> None:
    clock = SteeredClock()
    names = NameResolver(clock, directory)
    await addresses(names)
    directory.hanging.add("plant.example")
    clock.ahead_seconds = 60
    began = time.monotonic()
    assert await addresses(names) == ["192.0.2.1"]
    assert 0.15 < time.monotonic() - began < 2
    began = time.monotonic()
    assert await addresses(names) == ["192.0.2.1"]
    assert time.monotonic() - began < 0.1, "the lookup under way is overdue: nobody waits for it again"


@pytest.mark.usefixtures("quick")
async def test_a_late_answer_is_taken(directory: Directory) -> None:
    names = NameResolver(SteeredClock(), directory)
    directory.hanging.add("plant.example")
    with pytest.raises(OSError, match=r"not resolved within 0\.2 s"):
        await addresses(names)
    directory.released.set()
    async with asyncio.timeout(5 * patience()):
        while names.age_seconds("plant.example") is None:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert await addresses(names) == ["192.0.2.1"]
    assert directory.asked == ["plant.example"]


async def test_a_name_without_any_answer_is_an_error(directory: Directory) -> None:
    names = NameResolver(SteeredClock(), directory)
    with pytest.raises(OSError, match="no such name"):
        await addresses(names, "unknown.example")
    assert names.age_seconds("unknown.example") is None


@pytest.mark.usefixtures("quick")
async def test_one_name_has_one_lookup_whoever_asks(directory: Directory) -> None:
    names = NameResolver(SteeredClock(), directory)
    directory.hanging.add("plant.example")
    asking = [asyncio.create_task(addresses(names)) for _ in range(50)]
    await asyncio.sleep(0.05)
    asking[0].cancel()
    directory.released.set()
    found = await asyncio.gather(*asking, return_exceptions=True)
    assert isinstance(found[0], asyncio.CancelledError)
    assert found[1:] == [["192.0.2.1"]] * 49
    assert directory.asked == ["plant.example"]


@pytest.mark.usefixtures("quick")
async def test_a_name_that_hangs_leaves_the_other_threads_to_the_others(directory: Directory) -> None:
    names = NameResolver(SteeredClock(), directory)
    directory.hanging |= {"dead-1", "dead-2", "dead-3"}
    stuck = [asyncio.create_task(addresses(names, name)) for name in sorted(directory.hanging) * 20]
    await asyncio.sleep(0.05)
    assert await addresses(names) == ["192.0.2.1"]
    failed = await asyncio.gather(*stuck, return_exceptions=True)
    assert all(isinstance(error, OSError) for error in failed)


@pytest.mark.usefixtures("quick")
async def test_lookups_under_way_and_waiting_are_bounded(directory: Directory) -> None:
    names = NameResolver(SteeredClock(), directory)
    dead = [f"dead-{number}" for number in range(resolver.THREADS_MAX + resolver.WAITING_MAX)]
    directory.hanging.update(dead)
    stuck = [asyncio.create_task(addresses(names, name)) for name in dead]
    await asyncio.sleep(0.05)
    assert len(directory.asked) == resolver.THREADS_MAX
    with pytest.raises(OSError, match="16 others wait"):
        await addresses(names)
    await asyncio.gather(*stuck, return_exceptions=True)
    directory.released.set()
    async with asyncio.timeout(5 * patience()):
        while len(directory.asked) < len(dead):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert await addresses(names) == ["192.0.2.1"], "the places are free again"


@pytest.mark.usefixtures("quick")
async def test_the_loops_own_threads_are_not_used(directory: Directory) -> None:
    names = NameResolver(SteeredClock(), directory)
    directory.hanging.update(f"dead-{number}" for number in range(4))
    stuck = [asyncio.create_task(addresses(names, name)) for name in sorted(directory.hanging)]
    await asyncio.sleep(0.05)
    lookups = [thread for thread in threading.enumerate() if thread.name.startswith("resolve dead-")]
    assert len(lookups) == 4
    assert all(thread.daemon for thread in lookups), "a lookup that hangs must not hold up the program's end"
    await asyncio.gather(*stuck, return_exceptions=True)


async def test_closing_drops_what_waits(directory: Directory) -> None:
    names = NameResolver(SteeredClock(), directory)
    directory.hanging.update(f"dead-{number}" for number in range(5))
    stuck = [asyncio.create_task(addresses(names, name)) for name in sorted(directory.hanging)]
    await asyncio.sleep(0.05)
    await names.close()
    with pytest.raises(OSError, match="given up"):
        await stuck[4]
    for task in stuck:
        task.cancel()
    await asyncio.gather(*stuck, return_exceptions=True)


async def test_a_client_asks_its_peer_by_name_and_says_how_old_the_address_is(
    pki: Pki, directory: Directory
) -> None:
    clock = SteeredClock()
    names = NameResolver(clock, directory)
    directory.answers["enterprise.example"] = "127.0.0.1"
    async with sending(pki) as sender:
        rule = IdentityRule("enterprise-bsfg")
        endpoint = PeerEndpoint(ZoneId("enterprise"), rule, "enterprise.example", sender.port)
        limits = ClientLimits(connect_seconds=1.0)
        client = HttpPeerClient(endpoint, receiver_access(pki), SteeredClock(), limits, names)
        try:
            assert (await client.health())["zone"] == "enterprise"
            await sender.acceptor.stop()
            sender.acceptor.close_all()
            clock.ahead_seconds = 40
            directory.answers["enterprise.example"] = OSError("server failure")
            with pytest.raises(PeerUnreachable) as caught:
                await client.health()
        finally:
            await client.close()
    assert caught.value.details["reason"] == "refused"
    assert 40 <= caught.value.details["address_age_seconds"] < 60
    assert directory.asked == ["enterprise.example"] * 2, "no other cache lies in between"


async def test_a_client_names_a_name_that_nobody_knows(pki: Pki, directory: Directory) -> None:
    endpoint = PeerEndpoint(ZoneId("enterprise"), IdentityRule("enterprise-bsfg"), "nowhere.example", 9443)
    names = NameResolver(SteeredClock(), directory)
    client = HttpPeerClient(endpoint, receiver_access(pki), SteeredClock(), None, names)
    try:
        with pytest.raises(PeerUnreachable) as caught:
            await client.health()
    finally:
        await client.close()
    assert caught.value.details["reason"] == "dns"
    assert directory.asked == ["nowhere.example"]
