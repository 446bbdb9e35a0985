from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aiohttp
import pytest
from tests.support.certificates import DAY, HOUR, Issued, TestAuthority, openssl, peer, trust_of
from tests.support.listener import ask, listening
from tests.support.patience import patience

from bsfg.errors import BsfgError, Code
from bsfg.model.names import ZoneId
from bsfg.transport.handshake import REASONS, PeerNotVerified, detail_of, dialler_context, reason_of
from bsfg.transport.revocation import RevocationList
from bsfg.transport.trust import TrustStore

ENTERPRISE, PLANT_A = ZoneId("enterprise"), ZoneId("plant-a")


@pytest.fixture
def authority(tmp_path: Path) -> TestAuthority:
    return TestAuthority(tmp_path / "ca")


@pytest.fixture
def trust(authority: TestAuthority) -> TrustStore:
    """plant-a's, which listens."""
    own = authority.zone("plant-a-bsfg")
    return trust_of(own, "plant-a-bsfg", authority.path, {"enterprise": peer("enterprise-bsfg")})


def dialling(authority: TestAuthority, own: Issued, identity: str = "plant-a-bsfg") -> ssl.SSLContext:
    """The context of an enterprise with this certificate that dials plant-a under this identity."""
    zone = trust_of(own, "enterprise-bsfg", authority.path, {"plant-a": peer(identity)})
    return zone.client_context(PLANT_A)


def plain(authority: TestAuthority, issued: Issued | None) -> ssl.SSLContext:
    """A client that knows nothing of BSFG, like curl."""
    context = ssl.create_default_context(cafile=str(authority.path))
    context.check_hostname = False
    if issued is not None:
        context.load_cert_chain(issued.certificate_path, issued.key_path)
    return context


async def test_a_peer_is_served(authority: TestAuthority, trust: TrustStore) -> None:
    async with listening(trust) as listener:
        said = await ask(listener.acceptor.port, dialling(authority, authority.zone("enterprise-bsfg")))
        assert said == {"zone": "enterprise"}
        assert listener.failures == []


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("none", "no_certificate"),
        ("wrong_ca", "unknown_ca"),
        ("self_signed", "self_signed"),
        ("expired", "expired"),
        ("not_yet_valid", "not_yet_valid"),
    ],
)
async def test_a_stranger_is_refused_in_the_handshake(
    tmp_path: Path, authority: TestAuthority, trust: TrustStore, kind: str, reason: str
) -> None:
    name = ["enterprise-bsfg"]
    offers: dict[str, Callable[[], Issued | None]] = {
        "none": lambda: None,
        "wrong_ca": lambda: TestAuthority(tmp_path / "other", "other CA").zone("enterprise-bsfg"),
        "self_signed": lambda: authority.issue("x", dns=name, self_signed=True),
        "expired": lambda: authority.issue(dns=name, begins=-DAY, ends=-HOUR),
        "not_yet_valid": lambda: authority.issue(dns=name, begins=HOUR),
    }
    offered = offers[kind]()
    async with listening(trust) as listener:
        with pytest.raises(aiohttp.ClientError):
            await ask(listener.acceptor.port, plain(authority, offered))
        address, reported, detail = await listener.failure()
        assert (reported, reported in REASONS) == (reason, True)
        assert address.startswith("127.0.0.1:")
        assert detail
        assert listener.requests == 0
        good = plain(authority, authority.zone("enterprise-bsfg"))
        assert await ask(listener.acceptor.port, good) == {"zone": "enterprise"}


@pytest.mark.parametrize(
    ("dns", "reason"), [([], "unknown_identity"), (["enterprise-bsfg", "b"], "unknown_identity")]
)
async def test_an_unlisted_identity_is_refused_after_the_handshake(
    authority: TestAuthority, trust: TrustStore, dns: list[str], reason: str
) -> None:
    async with listening(trust) as listener:
        said = await ask(
            listener.acceptor.port, plain(authority, authority.issue("enterprise-bsfg", dns=dns))
        )
        assert said == {"code": "peer_unknown", "reason": reason}


async def test_the_other_side_is_told_why(
    tmp_path: Path, authority: TestAuthority, trust: TrustStore
) -> None:
    other = TestAuthority(tmp_path / "other", "other CA").zone("enterprise-bsfg")
    async with listening(trust) as listener:
        for offered, alert in ((other, "UNKNOWN_CA"), (None, "CERTIFICATE_REQUIRED")):
            with pytest.raises(ssl.SSLError, match=alert) as caught:
                await asyncio.to_thread(_send_much, listener.acceptor.port, plain(authority, offered))
            assert reason_of(caught.value) == "refused_by_peer"


async def test_tls_1_2_is_refused(authority: TestAuthority, trust: TrustStore) -> None:
    async with listening(trust) as listener:
        context = plain(authority, authority.zone("enterprise-bsfg"))
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises(aiohttp.ClientError):
            await ask(listener.acceptor.port, context)
        assert await listener.reason() == "protocol_version"
        context.maximum_version = ssl.TLSVersion.TLSv1_3
        assert await ask(listener.acceptor.port, context) == {"zone": "enterprise"}


async def test_plain_text_is_refused(trust: TrustStore) -> None:
    async with listening(trust) as listener:
        _, writer = await asyncio.open_connection("127.0.0.1", listener.acceptor.port)
        writer.write(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert await listener.reason() == "bad_protocol"
        writer.close()


async def test_no_ticket_is_offered(authority: TestAuthority, trust: TrustStore) -> None:
    issued = authority.zone("enterprise-bsfg")
    async with listening(trust) as listener:
        printed = await _s_client(listener.acceptor.port, authority, issued)
        assert "New Session Ticket" not in printed
        ticketing = trust.server_context()
        ticketing.num_tickets = 2
        assert "New Session Ticket" in await _s_client(listener.acceptor.port, authority, issued)


async def test_an_impostor_gets_not_one_byte_of_a_request(authority: TestAuthority) -> None:
    """Vouched for by the right CA, in date, but another zone."""
    impostor = trust_of(
        authority.zone("plant-b-bsfg"),
        "plant-b-bsfg",
        authority.path,
        {"enterprise": peer("enterprise-bsfg")},
    )
    own = authority.zone("enterprise-bsfg")
    async with listening(impostor) as listener:
        with pytest.raises(aiohttp.ClientConnectorCertificateError) as caught:
            await ask(listener.acceptor.port, dialling(authority, own))
        cause = caught.value.certificate_error
        assert isinstance(cause, PeerNotVerified)
        assert cause.refusal.details["reason"] == "identity_mismatch"
        assert reason_of(cause) == "identity_rejected"
        assert "plant-b-bsfg" in detail_of(cause)
        assert await listener.reason() == "reset"
        assert listener.requests == 0
        assert await ask(listener.acceptor.port, dialling(authority, own, "plant-b-bsfg")) == {
            "zone": "enterprise"
        }


@pytest.mark.parametrize("kind", ["cn_only", "two", "expired", "revoked", "pinned"])
async def test_a_server_must_be_the_peer_in_every_way(
    tmp_path: Path, authority: TestAuthority, kind: str
) -> None:
    name = "plant-a-bsfg"
    good = authority.zone(name)
    served = {
        "cn_only": lambda: authority.issue(name, ip=["127.0.0.1"]),
        "two": lambda: authority.issue(name, dns=[name, "x"]),
        "expired": lambda: authority.issue(name, dns=[name], begins=-DAY, ends=-HOUR),
        "revoked": lambda: authority.zone(name),
        "pinned": lambda: TestAuthority(tmp_path / "other", "other").zone(name),
    }[kind]()
    crls = RevocationList.parse(authority.crl([served]), "CRL", [authority.authority.certificate])
    own = authority.zone("enterprise-bsfg")
    dialler = trust_of(
        own, "enterprise-bsfg", authority.path, {"plant-a": peer(name, anchor=authority.path)}, crls
    ).client_context(PLANT_A)
    async with _bare_server(served) as port, asyncio.timeout(5 * patience()):
        with pytest.raises(ssl.SSLCertVerificationError):
            await asyncio.open_connection("127.0.0.1", port, ssl=dialler, server_hostname=name)
    async with _bare_server(good) as port, asyncio.timeout(5 * patience()):
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=dialler, server_hostname=name)
        writer.transport.abort()


async def test_a_plain_socket_is_held_to_the_same(authority: TestAuthority) -> None:
    own = authority.zone("enterprise-bsfg")
    async with _bare_server(authority.zone("plant-a-bsfg")) as port:
        await asyncio.to_thread(_connect, port, dialling(authority, own))
        with pytest.raises(PeerNotVerified):
            await asyncio.to_thread(_connect, port, dialling(authority, own, "plant-b-bsfg"))


async def test_a_ca_made_by_openssl_is_accepted(tmp_path: Path) -> None:
    new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    openssl(tmp_path, "req", "-x509", *new_key, "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=plain")
    issued = []
    for name in ("plant-a-bsfg", "enterprise-bsfg"):
        files = ("-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        openssl(tmp_path, "req", *new_key, *files, "-addext", f"subjectAltName=DNS:{name}")
        sign = ("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-days", "3")
        openssl(tmp_path, *sign, "-copy_extensions", "copy", "-out", f"{name}.crt")
        issued.append((tmp_path / f"{name}.crt", tmp_path / f"{name}.key"))
    (plant_crt, plant_key), (enterprise_crt, enterprise_key) = issued
    plant = TrustStore.build(
        certificate=plant_crt,
        key=plant_key,
        own=peer("plant-a-bsfg").rule,
        peers={ENTERPRISE: peer("enterprise-bsfg")},
        anchors=tmp_path / "ca.crt",
    )
    enterprise = TrustStore.build(
        certificate=enterprise_crt,
        key=enterprise_key,
        own=peer("enterprise-bsfg").rule,
        peers={PLANT_A: peer("plant-a-bsfg")},
        anchors=tmp_path / "ca.crt",
    )
    async with listening(plant) as listener:
        said = await ask(listener.acceptor.port, enterprise.client_context(PLANT_A))
        assert said == {"zone": "enterprise"}


async def test_an_intermediate_is_an_anchor(tmp_path: Path, authority: TestAuthority) -> None:
    below = authority.intermediate(tmp_path / "below")
    plant = trust_of(
        below.zone("plant-a-bsfg"), "plant-a-bsfg", below.path, {"enterprise": peer("enterprise-bsfg")}
    )
    async with listening(plant) as listener:
        said = await ask(listener.acceptor.port, dialling(below, below.zone("enterprise-bsfg")))
        assert said == {"zone": "enterprise"}


def test_the_environment_opens_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trust: TrustStore, authority: TestAuthority
) -> None:
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys"))
    own = authority.zone("plant-a-bsfg")
    fresh = trust_of(own, "plant-a-bsfg", authority.path, {"enterprise": peer("enterprise-bsfg")})
    for context in (fresh.server_context(), fresh.client_context(ENTERPRISE)):
        assert not context.keylog_filename
        assert context.verify_mode is ssl.CERT_REQUIRED
        assert context.minimum_version is ssl.TLSVersion.TLSv1_3
        assert len(context.get_ca_certs()) == 1


def test_every_error_has_a_reason() -> None:
    assert reason_of(ConnectionAbortedError("SSL handshake is taking longer than 10 seconds")) == "timeout"
    assert reason_of(TimeoutError()) == "timeout"
    assert reason_of(ConnectionResetError()) == "reset"
    assert reason_of(ValueError("x")) == "other"
    assert detail_of(ValueError("one\ntwo")) == "one"
    assert detail_of(ConnectionResetError()) == "ConnectionResetError"
    expired = PeerNotVerified(BsfgError(Code.IDENTITY_REJECTED, "ended", reason="expired"))
    assert reason_of(expired) == "expired"


def test_a_dialler_without_anchors_trusts_nobody() -> None:
    assert dialler_context(lambda der: None).get_ca_certs() == []


async def _s_client(port: int, authority: TestAuthority, issued: Issued) -> str:
    """What openssl's client prints of a connection that it holds open until all that follows a handshake is in."""
    process = await asyncio.create_subprocess_exec(
        *("openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-CAfile", str(authority.path)),
        *("-cert", str(issued.certificate_path), "-key", str(issued.key_path), "-msg", "-ign_eof"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdin is not None
    process.stdin.write(b"GET /who HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    async with asyncio.timeout(10 * patience()):
        printed, _ = await process.communicate()
    text = printed.decode(errors="replace")
    assert '"zone": "enterprise"' in text
    return text.replace("NewSessionTicket", "New Session Ticket")


@asynccontextmanager
async def _bare_server(issued: Issued) -> AsyncIterator[int]:
    """A TLS server that checks nothing, on the port that is yielded: what a dialler must hold itself against."""

    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            await reader.read()
        writer.transport.abort()

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(issued.certificate_path, issued.key_path)
    server = await asyncio.start_server(hold, "127.0.0.1", 0, ssl=context)
    yield int(server.sockets[0].getsockname()[1])
    server.close()
    await server.wait_closed()


def _send_much(port: int, context: ssl.SSLContext) -> None:
    """A request that is under way while the other side refuses: it must not destroy the alert."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=5) as bare,
        context.wrap_socket(bare) as connection,
    ):
        for _ in range(10):
            connection.sendall(b"x" * 10_000)
            time.sleep(0.01)
        connection.recv(1)


def _connect(port: int, context: ssl.SSLContext) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=5) as bare, context.wrap_socket(bare):
        pass
