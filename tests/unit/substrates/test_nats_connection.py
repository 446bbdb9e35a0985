"""One connection: who it talks to, how it proves who it is, and that it fails as a whole and in time."""

from __future__ import annotations

import asyncio
import base64
import datetime
import ipaddress
import json
import os
import signal
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import nkeys
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from tests.support.nats import NatsServer, running_nats
from tests.support.patience import patience

from bsfg.errors import BsfgError, Code, SubstrateUnavailable
from bsfg.substrates import nats_connection
from bsfg.substrates.nats_connection import NatsConnection, NatsTarget
from bsfg.substrates.nats_frames import Frame


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    with running_nats(tmp_path_factory.mktemp("nats")) as running:
        yield running


@pytest.fixture
async def connection(server: NatsServer) -> AsyncIterator[NatsConnection]:
    opened = await NatsConnection.connect(server.target, name="test")
    yield opened
    opened.close()


Speaker = Callable[[bytes], Awaitable[NatsTarget]]


@pytest.fixture
async def listener() -> AsyncIterator[Speaker]:
    """Starts servers on loopback that say the given bytes and then nothing; gives their targets."""
    servers: list[asyncio.Server] = []

    async def speak(greeting: bytes) -> NatsTarget:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(greeting)
            while await reader.read(1024):
                pass
            writer.close()

        servers.append(await asyncio.start_server(serve, "127.0.0.1", 0))
        return NatsTarget((f"nats://127.0.0.1:{servers[-1].sockets[0].getsockname()[1]}",))

    yield speak
    for server in servers:
        server.close()


async def test_a_message_goes_round_with_its_headers(connection: NatsConnection) -> None:
    got: list[Frame] = []
    arrived = connection.waiter()

    def answer(frames: list[Frame]) -> None:
        got.extend(frames)
        arrived.set_result(None)

    connection.subscribe("echo.*", answer)
    with pytest.raises(SubstrateUnavailable, match="nobody listens"):
        await connection.request("nobody.there")
    other = await NatsConnection.connect(NatsTarget((f"nats://{connection.server}",)), name="other")
    asked = other.ask("echo.a", b"\r\nMSG a 1 2\r\n", headers=b"A: b\r\n")
    async with asyncio.timeout(2 * patience()):
        await arrived
    assert got[0].subject == b"echo.a"
    assert got[0].payload == b"\r\nMSG a 1 2\r\n"
    assert got[0].header == b"NATS/1.0\r\nA: b\r\n\r\n"
    connection.write(b"PUB %b 2\r\nok\r\n" % got[0].reply)
    assert (await other.answer(asked, "echo.a")).payload == b"ok"
    other.close()


async def test_the_servers_word_is_at_hand(connection: NatsConnection) -> None:
    assert connection.server_info["version"].startswith("2.")
    assert connection.server_info["max_payload"] == 1024 * 1024


async def test_an_unsubscribed_handler_hears_nothing_more(
    server: NatsServer, connection: NatsConnection
) -> None:
    heard: list[bytes] = []
    first = connection.subscribe("hear.a", lambda frames: heard.extend(frame.payload for frame in frames))
    connection.subscribe("hear.b", lambda frames: heard.extend(frame.payload for frame in frames))
    other = await NatsConnection.connect(server.target, name="other")
    await connection.request("$JS.API.INFO")
    connection.unsubscribe(first)
    await connection.request("$JS.API.INFO")
    other.write(b"PUB hear.a 1\r\na\r\nPUB hear.b 1\r\nb\r\n")
    await other.request("$JS.API.INFO")
    await connection.request("$JS.API.INFO")
    assert heard == [b"b"]
    other.close()


async def test_no_answer_ends_in_time(server: NatsServer, connection: NatsConnection) -> None:
    connection.subscribe("silent", lambda frames: None)
    other = await NatsConnection.connect(server.target, name="other")
    await connection.request("$JS.API.INFO")
    with pytest.raises(SubstrateUnavailable, match=r"no answer to silent within 0\.05 s"):
        await other.request("silent", timeout_seconds=0.05)
    assert not other.is_closed
    other.close()


async def test_the_next_server_is_tried(server: NatsServer) -> None:
    target = NatsTarget(("nats://127.0.0.1:1", server.url))
    connection = await NatsConnection.connect(target, name="test")
    assert connection.server == f"127.0.0.1:{server.port}"
    connection.close()


async def test_every_refusal_is_named() -> None:
    with pytest.raises(SubstrateUnavailable, match=r"127\.0\.0\.1:1: .*127\.0\.0\.1:2: "):
        await NatsConnection.connect(NatsTarget(("127.0.0.1:1", "127.0.0.1:2")), name="test")
    with pytest.raises(SubstrateUnavailable, match="no address"):
        await NatsConnection.connect(NatsTarget(()), name="test")
    with pytest.raises(BsfgError) as refused:
        await NatsConnection.connect(NatsTarget(("http://127.0.0.1:1",)), name="test")
    assert refused.value.code is Code.CONFIGURATION


@pytest.mark.parametrize("greeting", [b"", b"INFO "])
async def test_a_silent_server_is_left_in_time(listener: Speaker, greeting: bytes) -> None:
    target = await listener(greeting)
    began = time.monotonic()
    with pytest.raises(SubstrateUnavailable, match=r"no answer within 0\.1 s"):
        await NatsConnection.connect(target, name="test", timeout_seconds=0.1)
    assert time.monotonic() - began < 1


@pytest.mark.parametrize("greeting", [b"SSH-2.0-x\r\n", b"INFO nonsense\r\n", b"INFO []\r\n", b"x" * 20_000])
async def test_a_server_of_another_kind_is_named_so(listener: Speaker, greeting: bytes) -> None:
    target = await listener(greeting)
    with pytest.raises(SubstrateUnavailable, match="broke the protocol"):
        await NatsConnection.connect(target, name="test", timeout_seconds=2)


async def test_what_waits_fails_when_the_server_dies(tmp_path: Path) -> None:
    with running_nats(tmp_path / "nats") as server:
        connection = await NatsConnection.connect(server.target, name="test")
        connection.subscribe("silent", lambda frames: None)
        waiter = connection.waiter()
        server.kill()
        async with asyncio.timeout(2 * patience()):
            with pytest.raises(SubstrateUnavailable):
                await waiter
        assert connection.is_closed
        assert connection.closed.result()
        for use in (connection.waiter, lambda: connection.write(b"PING\r\n"), lambda: connection.ask("a")):
            with pytest.raises(SubstrateUnavailable):
                use()
        with pytest.raises(SubstrateUnavailable):
            await connection.drain()


async def test_a_server_that_stops_answering_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nats_connection, "KEEPALIVE_SECONDS", 0.1)
    monkeypatch.setattr(nats_connection, "PONG_SECONDS", 0.3)
    with running_nats(tmp_path / "nats") as server:
        connection = await NatsConnection.connect(server.target, name="test")
        await asyncio.sleep(0.8)
        assert not connection.is_closed
        os.kill(server.pid, signal.SIGSTOP)
        try:
            async with asyncio.timeout(2 * patience()):
                assert "silent" in await connection.closed
        finally:
            os.kill(server.pid, signal.SIGCONT)


async def test_a_server_that_takes_nothing_does_not_hold_the_writer(tmp_path: Path) -> None:
    with running_nats(tmp_path / "nats") as server:
        connection = await NatsConnection.connect(server.target, name="test")
        os.kill(server.pid, signal.SIGSTOP)
        try:
            for _ in range(40):
                connection.write(b"PUB a 524288\r\n" + bytes(524_288) + b"\r\n")
            with pytest.raises(SubstrateUnavailable, match="took nothing"):
                await connection.drain(0.1)
        finally:
            os.kill(server.pid, signal.SIGCONT)


async def test_the_servers_complaint_ends_the_connection(server: NatsServer) -> None:
    connection = await NatsConnection.connect(server.target, name="test")
    connection.write(b"PUB a %d\r\n" % (2 * 1024 * 1024))
    async with asyncio.timeout(2 * patience()):
        assert "Maximum Payload" in await connection.closed


async def test_the_servers_pings_are_answered(tmp_path: Path) -> None:
    with running_nats(tmp_path / "nats", extra='ping_interval: "50ms"\nping_max: 1') as server:
        connection = await NatsConnection.connect(server.target, name="test")
        await asyncio.sleep(0.6)
        assert not connection.is_closed
        connection.close()


# -- who we are


def new_seed(kind: int) -> tuple[bytes, str]:
    seed = nkeys.encode_seed(os.urandom(32), kind)
    return seed, nkeys.from_seed(bytearray(seed)).public_key.decode()


def write_seed(path: Path, seed: bytes) -> Path:
    path.write_bytes(seed + b"\n")
    path.chmod(0o600)
    return path


async def test_an_nkey_proves_who_we_are_and_another_does_not(tmp_path: Path) -> None:
    seed, public = new_seed(nkeys.PREFIX_BYTE_USER)
    foreign, _ = new_seed(nkeys.PREFIX_BYTE_USER)
    extra = f"authorization {{ users: [ {{ nkey: {public} }} ] }}"
    with running_nats(tmp_path / "nats", extra=extra) as server:
        good = NatsTarget((server.url,), seed_file=write_seed(tmp_path / "good.nk", seed))
        connection = await NatsConnection.connect(good, name="test")
        await connection.request("$JS.API.INFO")
        connection.close()
        bad = NatsTarget((server.url,), seed_file=write_seed(tmp_path / "bad.nk", foreign))
        for target in (bad, NatsTarget((server.url,))):
            with pytest.raises(SubstrateUnavailable, match="Authorization Violation"):
                await NatsConnection.connect(target, name="test")
        for content in (b"", b"SUnonsense\n", b"\xff\xff", seed[:20]):
            spoilt = NatsTarget((server.url,), seed_file=write_seed(tmp_path / "spoilt.nk", content))
            with pytest.raises(BsfgError) as refused:
                await NatsConnection.connect(spoilt, name="test")
            assert refused.value.code is Code.CONFIGURATION
            assert "SU" not in refused.value.message
        with pytest.raises(BsfgError, match="No such file"):
            await NatsConnection.connect(NatsTarget((server.url,), seed_file=tmp_path / "none"), name="test")


def new_jwt(issuer_seed: bytes, issuer: str, subject: str, claims: dict[str, object]) -> str:
    body = {"jti": "x", "iat": 1_700_000_000, "iss": issuer, "sub": subject, "name": "n", "nats": claims}
    parts = [
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=")
        for part in ({"typ": "JWT", "alg": "ed25519-nkey"}, body)
    ]
    signature = nkeys.from_seed(bytearray(issuer_seed)).sign(b".".join(parts))
    return b".".join([*parts, base64.urlsafe_b64encode(signature).rstrip(b"=")]).decode()


async def test_a_credentials_file_proves_who_we_are_and_a_foreign_seed_does_not(tmp_path: Path) -> None:
    operator_seed, operator = new_seed(nkeys.PREFIX_BYTE_OPERATOR)
    account_seed, account = new_seed(nkeys.PREFIX_BYTE_ACCOUNT)
    user_seed, user = new_seed(nkeys.PREFIX_BYTE_USER)
    foreign_seed, _ = new_seed(nkeys.PREFIX_BYTE_USER)
    operator_jwt = new_jwt(operator_seed, operator, operator, {"type": "operator", "version": 2})
    limits = {"subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "conn": -1, "leaf": -1}
    account_jwt = new_jwt(
        operator_seed, operator, account, {"type": "account", "version": 2, "limits": limits}
    )
    user_jwt = new_jwt(
        account_seed, account, user, {"type": "user", "version": 2, "subs": -1, "data": -1, "payload": -1}
    )
    extra = (
        f"operator: {operator_jwt}\nresolver: MEMORY\nresolver_preload: {{ {account}: {account_jwt} }}\n"
        f"system_account: {account}\n"
    )

    def creds(name: str, seed: bytes) -> Path:
        path = tmp_path / name
        path.write_text(
            f"-----BEGIN NATS USER JWT-----\n{user_jwt}\n------END NATS USER JWT------\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{seed.decode()}\n------END USER NKEY SEED------\n"
        )
        return path

    with running_nats(tmp_path / "nats", extra=extra) as server:
        good = NatsTarget((server.url,), credentials_file=creds("good.creds", user_seed))
        (await NatsConnection.connect(good, name="test")).close()
        bad = NatsTarget((server.url,), credentials_file=creds("bad.creds", foreign_seed))
        with pytest.raises(SubstrateUnavailable, match="Authorization Violation"):
            await NatsConnection.connect(bad, name="test")
        empty = tmp_path / "empty.creds"
        empty.write_text("nothing\n")
        with pytest.raises(BsfgError) as refused:
            await NatsConnection.connect(NatsTarget((server.url,), credentials_file=empty), name="test")
        assert refused.value.code is Code.CONFIGURATION


# -- TLS


def new_certificate(directory: Path, name: str) -> Path:
    """A self-signed server certificate for 127.0.0.1, with its key beside it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = directory / f"{name}.crt"
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    path.with_suffix(".key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return path


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    return new_certificate(tmp_path, "server")


@pytest.fixture
def tls_server(tmp_path: Path, certificate: Path) -> Iterator[NatsServer]:
    extra = f'tls {{ cert_file: "{certificate}", key_file: "{certificate.with_suffix(".key")}" }}'
    with running_nats(tmp_path / "nats", extra=extra) as server:
        yield server


async def test_tls_is_spoken_to_a_server_whose_certificate_is_trusted(
    tls_server: NatsServer, certificate: Path
) -> None:
    trusting = ssl.create_default_context(cafile=str(certificate))
    target = NatsTarget((f"tls://127.0.0.1:{tls_server.port}",), tls=trusting)
    connection = await NatsConnection.connect(target, name="test")
    big = connection.ask("$JS.API.INFO", bytes(900_000))
    await connection.answer(big, "$JS.API.INFO")
    assert not connection.is_closed
    connection.close()


async def test_tls_to_a_server_that_is_not_trusted_is_refused(tls_server: NatsServer, tmp_path: Path) -> None:
    other = ssl.create_default_context(cafile=str(new_certificate(tmp_path, "other")))
    # Without a context of its own, a server that demands TLS is held against the system's anchors.
    for tls in (other, None):
        with pytest.raises(SubstrateUnavailable, match="certificate is refused"):
            await NatsConnection.connect(NatsTarget((tls_server.url,), tls=tls), name="test")


async def test_no_word_goes_to_a_server_without_tls_where_tls_is_configured(
    server: NatsServer, certificate: Path
) -> None:
    trusting = ssl.create_default_context(cafile=str(certificate))
    targets = (NatsTarget((server.url,), tls=trusting), NatsTarget((f"tls://127.0.0.1:{server.port}",)))
    for target in targets:
        with pytest.raises(SubstrateUnavailable, match="does not offer"):
            await NatsConnection.connect(target, name="test")


async def test_bytes_injected_before_tls_are_refused(listener: Speaker, certificate: Path) -> None:
    target = await listener(b'INFO {"tls_required": true}\r\nMSG a 1 2\r\n')
    trusting = ssl.create_default_context(cafile=str(certificate))
    with pytest.raises(SubstrateUnavailable, match="before the TLS handshake"):
        await NatsConnection.connect(NatsTarget(target.urls, tls=trusting), name="test")
