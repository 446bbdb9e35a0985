"""Two zones over real TLS on loopback: a sender with its listener over the in-memory store, and whoever asks it."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from tests.support.certificates import Issued, TestAuthority, peer, trust_of

from bsfg.errors import Code
from bsfg.model.identity import IdentityRule
from bsfg.model.names import StreamName, ZoneId
from bsfg.model.policy import PeerPolicy, ReadArtifact, ReadStream
from bsfg.substrates.memory import MemoryZone
from bsfg.transport.acceptor import Acceptor
from bsfg.transport.access import Access
from bsfg.transport.client import HttpPeerClient
from bsfg.transport.client_connection import ClientLimits, PeerEndpoint
from bsfg.transport.fetch_routes import FetchRoutes
from bsfg.transport.fetch_service import FetchService
from bsfg.transport.health_route import ZoneCard, health_route
from bsfg.transport.listener import ListenerLimits, PeerListener
from bsfg.transport.revocation import RevocationList
from bsfg.transport.routes import PeerRoute
from bsfg.transport.trust import TrustStore

ENTERPRISE = ZoneId("enterprise")
PLANT = ZoneId("plant-a")
OPERATIONAL = StreamName("facts.operational")
SECRET = StreamName("facts.telemetry")


class RealClock:
    """The machine's own clocks."""

    def now(self) -> int:
        return time.time_ns()

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


@dataclass
class Heard:
    """An observer that keeps everything it is told."""

    refused: list[tuple[str, str]] = field(default_factory=list)
    denials: list[tuple[str, str, str]] = field(default_factory=list)
    reads: list[tuple[object, str, ReadStream | ReadArtifact, str]] = field(default_factory=list)
    contacts: list[str] = field(default_factory=list)
    answers: list[tuple[str, str, int]] = field(default_factory=list)
    confirms: list[tuple[str, str, int]] = field(default_factory=list)
    faults: list[tuple[str, BaseException]] = field(default_factory=list)

    def identity_refused(self, address: str, reason: str, detail: str, request_id: str = "") -> None:
        self.refused.append((reason, detail))

    def denied(self, peer: ZoneId, code: Code, what: str, request_id: str = "") -> None:
        self.denials.append((peer, code.label, what))

    def allowed(
        self, connection: object, peer: ZoneId, wish: ReadStream | ReadArtifact, rule: str, request_id: str
    ) -> None:
        self.reads.append((connection, peer, wish, rule))

    def contact(self, peer: ZoneId) -> None:
        self.contacts.append(peer)

    def served(self, peer: ZoneId, operation: str, seconds: float, status: int) -> None:
        self.answers.append((peer, operation, status))

    def confirmed(self, peer: ZoneId, stream: StreamName, sequence: int) -> None:
        self.confirms.append((peer, stream, sequence))

    def failed_unexpectedly(
        self, peer: ZoneId | None, operation: str, request_id: str, error: BaseException
    ) -> None:
        self.faults.append((operation, error))


def policy(streams: Iterable[StreamName] = (OPERATIONAL,), zone: ZoneId = PLANT) -> PeerPolicy:
    """A zone that may read these streams."""
    return PeerPolicy(zone, True, frozenset(streams), frozenset())


@dataclass
class Pki:
    """The certificates of both zones, each from a CA of its own, and snapshots of trust made of them."""

    folder: Path
    enterprise_ca: TestAuthority = field(init=False)
    plant_ca: TestAuthority = field(init=False)
    enterprise: Issued = field(init=False)
    plant: Issued = field(init=False)

    def __post_init__(self) -> None:
        self.enterprise_ca = TestAuthority(self.folder / "enterprise-ca", "enterprise CA")
        self.plant_ca = TestAuthority(self.folder / "plant-ca", "plant CA")
        self.enterprise = self.enterprise_ca.zone("enterprise-bsfg")
        self.plant = self.plant_ca.zone("plant-a-bsfg")

    def sender_trust(self, revoked: Iterable[Issued] | None = None, *, authorized: bool = True) -> TrustStore:
        """What enterprise trusts: plant-a by plant-a's CA, with that CA's CRL where ``revoked`` is given."""
        crl = None
        if revoked is not None:
            path = self.folder / "plant.crl"
            path.write_bytes(self.plant_ca.crl(revoked))
            crl = RevocationList.load(path, [self.plant_ca.authority.certificate])
        return trust_of(
            self.enterprise,
            "enterprise-bsfg",
            self.plant_ca.path,
            {PLANT: peer("plant-a-bsfg", authorized=authorized)},
            crl,
        )

    def receiver_trust(self, own: Issued | None = None, identity: str = "enterprise-bsfg") -> TrustStore:
        """What plant-a trusts: enterprise by enterprise's CA."""
        return trust_of(
            own or self.plant, "plant-a-bsfg", self.enterprise_ca.path, {ENTERPRISE: peer(identity)}
        )


@dataclass
class Sender:
    """A running peer listener of enterprise, and all that a test turns at it."""

    pki: Pki
    zone: MemoryZone
    access: Access
    heard: Heard
    acceptor: Acceptor
    service: FetchService
    handshakes: list[tuple[str, str, str]]

    @property
    def port(self) -> int:
        return self.acceptor.port

    def endpoint(self, identity: str = "enterprise-bsfg") -> PeerEndpoint:
        return PeerEndpoint(ENTERPRISE, IdentityRule(identity), "127.0.0.1", self.port)


@asynccontextmanager
async def sending(
    pki: Pki,
    limits: ListenerLimits | None = None,
    extra_routes: Iterable[PeerRoute] = (),
    long_polls: int = 64,
) -> AsyncIterator[Sender]:
    """Enterprise's listener on a free port; plant-a may read ``facts.operational``, and not ``facts.telemetry``."""
    clock, heard = RealClock(), Heard()
    zone = MemoryZone(clock)
    zone.create(OPERATIONAL)
    zone.create(SECRET)
    access = Access(pki.sender_trust(), {PLANT: policy()})
    service = FetchService(zone, zone, clock)
    card = ZoneCard(ENTERPRISE, "enterprise-bsfg", "1.2.3", lambda: "ok")
    routes = [health_route(card, clock), *FetchRoutes(service, heard, long_polls).routes(), *extra_routes]
    listener = PeerListener(access, routes, heard, clock, limits)
    handshakes: list[tuple[str, str, str]] = []
    await listener.start()
    acceptor = Acceptor(
        listener.protocol_factory,
        lambda: access.current.trust.server_context(),
        lambda *failed: handshakes.append(failed),
    )
    await acceptor.start("127.0.0.1", 0)
    try:
        yield Sender(pki, zone, access, heard, acceptor, service, handshakes)
    finally:
        await acceptor.stop()
        await listener.stop()
        acceptor.close_all()


@asynccontextmanager
async def asking(
    sender: Sender, access: Access | None = None, limits: ClientLimits | None = None
) -> AsyncIterator[HttpPeerClient]:
    """Plant-a's client for enterprise."""
    access = access or receiver_access(sender.pki)
    client = HttpPeerClient(sender.endpoint(), access, RealClock(), limits)
    try:
        yield client
    finally:
        await client.close()


def receiver_access(pki: Pki, own: Issued | None = None) -> Access:
    """Plant-a's view: enterprise is authorized."""
    return Access(pki.receiver_trust(own), {ENTERPRISE: policy((), ENTERPRISE)})


@dataclass
class Said:
    """One answer as it came."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The contract's error code."""
        code: str = self.json()["error"]["code"]
        return code


@asynccontextmanager
async def session(sender: Sender, own: Issued | None = None) -> AsyncIterator[aiohttp.ClientSession]:
    """A plain HTTP client with this certificate, plant-a's by default, and one kept connection."""
    context = ssl.create_default_context(cafile=str(sender.pki.enterprise_ca.path))
    context.check_hostname = False
    own = own or sender.pki.plant
    context.load_cert_chain(own.certificate_path, own.key_path)
    connector = aiohttp.TCPConnector(ssl=context, limit=0)
    base = f"https://127.0.0.1:{sender.port}"
    timeout = aiohttp.ClientTimeout(total=40)
    async with aiohttp.ClientSession(base, connector=connector, timeout=timeout) as opened:
        yield opened


async def say(client: aiohttp.ClientSession, method: str, path: str, **named: Any) -> Said:
    """One request and its whole answer."""
    async with client.request(method, path, allow_redirects=False, **named) as response:
        return Said(response.status, dict(response.headers), await response.read())
