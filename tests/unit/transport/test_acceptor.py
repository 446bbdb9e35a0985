from __future__ import annotations

import asyncio
import resource
import socket
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, closing
from pathlib import Path

import aiohttp
import pytest
from tests.support.certificates import Issued, TestAuthority, peer, trust_of
from tests.support.listener import Listener, ask, eventually, listening
from tests.support.patience import patience

from bsfg.errors import BsfgError, Code
from bsfg.model.names import ZoneId
from bsfg.transport.acceptor import Acceptor, AcceptorLimits
from bsfg.transport.revocation import RevocationList
from bsfg.transport.trust import TrustStore

PLANT_A = ZoneId("plant-a")


@pytest.fixture
def authority(tmp_path: Path) -> TestAuthority:
    return TestAuthority(tmp_path / "ca")


@pytest.fixture
def own(authority: TestAuthority) -> Issued:
    return authority.zone("plant-a-bsfg")


@pytest.fixture
def caller(authority: TestAuthority) -> Issued:
    return authority.zone("enterprise-bsfg")


@pytest.fixture
def context(authority: TestAuthority, caller: Issued) -> ssl.SSLContext:
    """What the enterprise dials with."""
    return trust_of(
        caller, "enterprise-bsfg", authority.path, {"plant-a": peer("plant-a-bsfg")}
    ).client_context(PLANT_A)


def plant(
    authority: TestAuthority, own: Issued, anchors: Path | None = None, crls: RevocationList | None = None
) -> TrustStore:
    peers = {"enterprise": peer("enterprise-bsfg")}
    return trust_of(own, "plant-a-bsfg", anchors or authority.path, peers, crls)


@pytest.fixture
def trust(authority: TestAuthority, own: Issued) -> TrustStore:
    return plant(authority, own)


@pytest.fixture
def silent() -> Iterator[ExitStack]:
    """Holds connections that say nothing."""
    with ExitStack() as stack:
        yield stack


def connect_silently(silent: ExitStack, listener: Listener, count: int) -> list[socket.socket]:
    address = ("127.0.0.1", listener.acceptor.port)
    return [silent.enter_context(socket.create_connection(address, timeout=5)) for _ in range(count)]


async def until(listener: Listener, connections: int) -> None:
    await eventually(lambda: listener.acceptor.connections == connections)


@asynccontextmanager
async def held(port: int, context: ssl.SSLContext) -> AsyncIterator[aiohttp.ClientSession]:
    """A session whose one connection stays open between requests."""
    connector = aiohttp.TCPConnector(ssl=context, limit=1)
    timeout = aiohttp.ClientTimeout(total=5)
    async with aiohttp.ClientSession(
        f"https://127.0.0.1:{port}", connector=connector, timeout=timeout
    ) as session:
        async with session.get("/who") as answer:
            assert (await answer.json())["zone"] == "enterprise"
        yield session


async def asked(session: aiohttp.ClientSession) -> str:
    async with session.get("/who") as answer:
        said = await answer.json()
    return str(said.get("zone") or said["reason"])


# --- the current snapshot -------------------------------------------------------------------------------------------


async def test_a_new_snapshot_takes_effect_without_closing_the_listener(
    tmp_path: Path, authority: TestAuthority, own: Issued, trust: TrustStore, context: ssl.SSLContext
) -> None:
    other = TestAuthority(tmp_path / "other", "other CA")
    async with listening(trust) as listener:
        port = listener.acceptor.port
        assert await ask(port, context) == {"zone": "enterprise"}
        listener.trust = plant(authority, own, anchors=other.path)
        with pytest.raises(aiohttp.ClientError):
            await ask(port, context)
        assert await listener.reason() == "unknown_ca"
        listener.trust = trust
        assert await ask(port, context) == {"zone": "enterprise"}
        assert listener.acceptor.port == port


async def test_a_new_certificate_of_ours_is_shown_at_once(
    authority: TestAuthority, trust: TrustStore, caller: Issued
) -> None:
    renewed = authority.zone("plant-a-bsfg")
    async with listening(trust) as listener:
        before = await _served(listener.acceptor.port, authority, caller)
        listener.trust = plant(authority, renewed)
        assert await _served(listener.acceptor.port, authority, caller) == renewed.der != before


async def test_revocation_reaches_an_open_connection(
    authority: TestAuthority, own: Issued, caller: Issued, trust: TrustStore, context: ssl.SSLContext
) -> None:
    anchors = [authority.authority.certificate]
    async with listening(trust) as listener, held(listener.acceptor.port, context) as session:
        assert await asked(session) == "enterprise"
        other = authority.zone("enterprise-bsfg")
        listener.trust = plant(
            authority, own, crls=RevocationList.parse(authority.crl([other]), "CRL", anchors)
        )
        assert await asked(session) == "enterprise"
        newer = authority.crl([other, caller], number=2)
        listener.trust = plant(authority, own, crls=RevocationList.parse(newer, "CRL", anchors))
        assert await asked(session) == "revoked"
        assert listener.acceptor.connections == 1


# --- limits ---------------------------------------------------------------------------------------------------------


async def test_a_silent_handshake_ends_at_its_deadline(trust: TrustStore, silent: ExitStack) -> None:
    async with listening(trust, AcceptorLimits(handshake_timeout_seconds=0.3)) as listener:
        connect_silently(silent, listener, 1)
        assert await listener.reason() == "timeout"
        await until(listener, 0)


async def test_one_connection_too_many_is_closed(trust: TrustStore, context: ssl.SSLContext) -> None:
    async with listening(trust, AcceptorLimits(connections_max=2)) as listener:
        port = listener.acceptor.port
        async with held(port, context), held(port, context):
            with pytest.raises(aiohttp.ClientError):
                await ask(port, context)
            assert await listener.reason() == "too_many"
        await until(listener, 0)
        assert await ask(port, context) == {"zone": "enterprise"}


async def test_silence_does_not_lock_a_peer_out(
    trust: TrustStore, context: ssl.SSLContext, silent: ExitStack
) -> None:
    limits = AcceptorLimits(handshakes_max=3, handshake_timeout_seconds=60, slow_handshake_seconds=0.3)
    async with listening(trust, limits) as listener:
        oldest, *_ = connect_silently(silent, listener, 3)
        await until(listener, 3)
        began = time.monotonic()
        assert await ask(listener.acceptor.port, context) == {"zone": "enterprise"}
        assert 0.1 < time.monotonic() - began < 3
        assert await listener.reason() == "timeout"
        assert await asyncio.to_thread(oldest.recv, 1) == b""


async def test_no_more_handshakes_than_allowed_run_at_a_time(trust: TrustStore, silent: ExitStack) -> None:
    limits = AcceptorLimits(handshakes_max=3, slow_handshake_seconds=60)
    async with listening(trust, limits) as listener:
        connect_silently(silent, listener, 8)
        await until(listener, 3)
        await asyncio.sleep(0.1)
        assert listener.acceptor.connections == 3


async def test_many_peers_come_back_at_once(trust: TrustStore, context: ssl.SSLContext) -> None:
    async with listening(trust, AcceptorLimits(handshakes_max=4)) as listener:
        answers = await asyncio.gather(*(ask(listener.acceptor.port, context) for _ in range(40)))
        assert answers == [{"zone": "enterprise"}] * 40
        assert listener.failures == []
        await until(listener, 0)


async def test_out_of_descriptors_it_pauses_and_recovers(
    trust: TrustStore, context: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with listening(trust) as listener:
        assert await ask(listener.acceptor.port, context) == {"zone": "enterprise"}
        await until(listener, 0)
        with closing(socket.socket()) as stranger:
            stranger.setblocking(False)
            before = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (stranger.fileno() + 1, before[1]))
            try:
                with ExitStack() as taken:
                    _take_all_descriptors(taken)
                    await asyncio.get_running_loop().sock_connect(
                        stranger, ("127.0.0.1", listener.acceptor.port)
                    )
                    spent = time.process_time()
                    await asyncio.sleep(1.5)
                    assert time.process_time() - spent < 0.7
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, before)
            reasons = [reason for _, reason, _ in listener.failures]
            assert reasons
            assert set(reasons) == {"out_of_descriptors"}
            assert len(reasons) <= 3
        assert await ask(listener.acceptor.port, context) == {"zone": "enterprise"}


# --- starting and stopping ------------------------------------------------------------------------------------------


async def test_a_taken_port_is_named(trust: TrustStore) -> None:
    async with listening(trust) as listener:
        second = Acceptor(asyncio.Protocol, trust.server_context, listener.failed)
        with pytest.raises(BsfgError) as caught:
            await second.start("127.0.0.1", listener.acceptor.port)
        assert caught.value.code is Code.CONFIGURATION
        assert f"127.0.0.1:{listener.acceptor.port}: Address already in use" in caught.value.message
        assert "ss -ltnp" in caught.value.hint
        assert second.port == 0


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"], ids=["foreign", "unresolvable"])
async def test_an_address_that_is_not_ours_is_named(trust: TrustStore, host: str) -> None:
    acceptor = Acceptor(asyncio.Protocol, trust.server_context, lambda *_: None)
    with pytest.raises(BsfgError, match=f"can't listen on {host}:9443"):
        await acceptor.start(host, 9443)


async def test_it_listens_on_ipv6(trust: TrustStore, context: ssl.SSLContext) -> None:
    async with listening(trust, host="::1") as listener:
        assert await ask(listener.acceptor.port, context, host="[::1]") == {"zone": "enterprise"}
        with socket.create_connection(("::1", listener.acceptor.port)) as stranger:
            stranger.sendall(b"GET / HTTP/1.0\r\n\r\n")
            await until(listener, 0)
        assert await listener.reason() == "bad_protocol"


async def test_after_stop_nobody_gets_in_and_who_is_in_stays(
    trust: TrustStore, context: ssl.SSLContext
) -> None:
    async with listening(trust) as listener:
        port = listener.acceptor.port
        async with held(port, context) as session:
            await listener.acceptor.stop()
            assert listener.acceptor.port == 0
            with (
                pytest.raises(ConnectionRefusedError),
                closing(socket.create_connection(("127.0.0.1", port))),
            ):
                pass
            assert await asked(session) == "enterprise"


async def test_stop_breaks_handshakes_off_and_does_not_call_it_a_failure(
    trust: TrustStore, silent: ExitStack
) -> None:
    async with listening(trust) as listener:
        connect_silently(silent, listener, 2)
        await until(listener, 2)
        async with asyncio.timeout(2 * patience()):
            await listener.acceptor.stop()
        assert listener.acceptor.connections == 0
        assert listener.failures == []


async def test_close_all_cuts_who_is_in(
    trust: TrustStore, context: ssl.SSLContext, silent: ExitStack
) -> None:
    async with listening(trust) as listener:
        port = listener.acceptor.port
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=context, server_hostname="plant-a-bsfg"
        )
        writer.write(b"GET /who HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readuntil(b"}")
        connect_silently(silent, listener, 1)
        await until(listener, 2)
        listener.acceptor.close_all()
        async with asyncio.timeout(2 * patience()):
            assert await _rest(reader) == b""
        await until(listener, 0)
        writer.transport.abort()
        assert await ask(port, context) == {"zone": "enterprise"}


async def test_a_context_that_fails_does_not_end_the_loop(trust: TrustStore, context: ssl.SSLContext) -> None:
    async with listening(trust) as listener:
        good, listener.trust = listener.trust, None  # type: ignore[assignment]
        with pytest.raises(aiohttp.ClientError):
            await ask(listener.acceptor.port, context)
        assert await listener.reason() == "other"
        listener.trust = good
        assert await ask(listener.acceptor.port, context) == {"zone": "enterprise"}


async def _rest(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read()
    except ConnectionError:
        return b""


def _take_all_descriptors(taken: ExitStack) -> None:
    try:
        while True:
            taken.enter_context(closing(socket.socket()))
    except OSError:
        return


async def _served(port: int, authority: TestAuthority, caller: Issued) -> bytes:
    context = ssl.create_default_context(cafile=str(authority.path))
    context.load_cert_chain(caller.certificate_path, caller.key_path)
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
    der: bytes = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.transport.abort()
    return der
