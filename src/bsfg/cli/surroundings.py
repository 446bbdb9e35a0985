"""The checks' surroundings as they are: the local API, the home's files, and TLS to the peer (docs/decisions/0008)."""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import json
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, TypeVar

from cryptography import x509

from bsfg.bootstrap.trust import anchors_of_every_peer, peer_trusts
from bsfg.checks.surroundings import Credentials, PresentedCertificate, Reply, Stranger
from bsfg.cli.local_client import LocalClient
from bsfg.config.values import Configuration, PeerConfig
from bsfg.errors import BsfgError, Code, SubstrateUnavailable
from bsfg.transport import presented, single_request, strangers
from bsfg.transport.certificates import Anchors, issued_by, load_certificates
from bsfg.transport.development_ca import Authority
from bsfg.transport.inspection import ocsp_addresses
from bsfg.transport.ocsp import ask_responders
from bsfg.transport.revocation import RevocationList, WhenExpired
from bsfg.transport.single_request import Listener
from bsfg.transport.trust import TrustStore, server_name

METRICS_SECONDS: Final = 5.0
METRICS_BYTES_MAX: Final = 16 * 1024 * 1024
LOG_BYTES_MAX: Final = 64 * 1024 * 1024
_PIECE_BYTES: Final = 1024 * 1024
_Found = TypeVar("_Found")


class CommandSurroundings:
    """The :class:`bsfg.checks.surroundings.Surroundings` of a command. What blocks runs in threads."""

    def __init__(self, configuration: Configuration, peer: PeerConfig) -> None:
        self._configuration, self._peer = configuration, peer
        self._paths = configuration.paths
        self._client = LocalClient(configuration.home)
        self._listener = Listener(peer.endpoint.host, peer.endpoint.port, server_name(peer.rule))

    @property
    def own(self) -> Credentials:
        return Credentials(self._paths.server_certificate, self._paths.server_key)

    def now(self) -> int:
        return time.time_ns()

    def monotonic(self) -> float:
        return time.monotonic()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def local(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        query: Mapping[str, Any] | None = None,
        seconds: float = 30.0,
    ) -> Any:
        given = dict(query or {})
        match method:
            case "GET":
                call: Callable[[], Any] = lambda: self._client.get(path, deadline_seconds=seconds, **given)  # noqa: E731
            case "DELETE":
                call = lambda: self._client.delete(path, deadline_seconds=seconds)  # noqa: E731
            case _:
                call = lambda: self._client.post(path, body or {}, deadline_seconds=seconds, **given)  # noqa: E731
        return await asyncio.to_thread(call)

    async def facts(self, stream: str, peer: str, start: int, count: int) -> list[dict[str, Any]]:
        def read() -> list[dict[str, Any]]:
            groups = self._client.lines("/v1/read", stream=stream, peer=peer, from_=start, count=count)
            return [json.loads(line) for group in groups for line in group]

        return await asyncio.to_thread(read)

    async def metrics(self) -> str:
        return await asyncio.to_thread(self._metrics)

    def _metrics(self) -> str:
        address = self._configuration.zone.local
        host = "127.0.0.1" if address.is_wildcard else address.host
        connection = http.client.HTTPConnection(host, address.port, timeout=METRICS_SECONDS)
        try:
            # The gateway counts as scraped only by others.
            connection.request("GET", "/metrics", headers={"User-Agent": "bsfg", "Connection": "close"})
            response = connection.getresponse()
            text = response.read(METRICS_BYTES_MAX).decode("utf-8", "replace")
        except (OSError, http.client.HTTPException) as error:
            raise SubstrateUnavailable(f"http://{address}/metrics does not answer: {error}") from error
        finally:
            connection.close()
        if response.status != http.client.OK:
            raise BsfgError(Code.BAD_ANSWER, f"http://{address}/metrics answers with status {response.status}")
        return text

    async def log_lines(self, start: int = 0) -> tuple[list[dict[str, Any]], int]:
        return await asyncio.to_thread(self._log_lines, start)

    def _log_lines(self, start: int) -> tuple[list[dict[str, Any]], int]:
        path = self._configuration.zone.log.file
        if path is None:
            raise BsfgError(
                Code.CONFIGURATION, "config/zone.yaml names no log file", hint="set log: {file: /var/log/bsfg/bsfg.log}"
            )
        try:
            with path.open("rb") as file:
                file.seek(start)
                content = file.read(LOG_BYTES_MAX)
        except OSError as error:
            raise BsfgError(Code.CONFIGURATION, f"the log {path} can't be read: {error.strerror}") from error
        whole = content[: content.rfind(b"\n") + 1]
        return [line for line in map(_line, whole.splitlines()) if line is not None], start + len(whole)

    async def sha256(self, path: str) -> str:
        def digest() -> str:
            hashed = hashlib.sha256()
            try:
                with Path(path).open("rb") as file:
                    while piece := file.read(_PIECE_BYTES):
                        hashed.update(piece)
            except OSError as error:
                raise BsfgError(Code.NOT_FOUND, f"{path} can't be read: {error.strerror}") from error
            return hashed.hexdigest()

        return await asyncio.to_thread(digest)

    # Certificates.

    async def own_certificate(self) -> PresentedCertificate:
        def look() -> PresentedCertificate:
            leaf, *intermediates = load_certificates(self._paths.server_certificate)
            return self._shown(leaf, intermediates, self._paths.anchors, "", is_own=True)

        return await asyncio.to_thread(look)

    async def key_problem(self) -> str | None:
        return await asyncio.to_thread(
            presented.why_key_is_not, self._paths.server_certificate, self._paths.server_key
        )

    async def anchors(self, path: Path) -> tuple[str, ...]:
        return await asyncio.to_thread(lambda: Anchors.load(path).fingerprints)

    async def presented(self) -> PresentedCertificate:
        def look() -> PresentedCertificate:
            der, version = single_request.shown_certificate(
                self._listener, self._peer_anchors(), self._usable_credentials()
            )
            try:
                leaf = x509.load_der_x509_certificate(der)
            except ValueError as error:
                raise BsfgError(Code.BAD_ANSWER, f"{self._listener} shows a malformed certificate") from error
            return self._shown(leaf, [], self._anchor_file, version, is_own=False)

        return await asyncio.to_thread(look)

    def _peer_anchors(self) -> Anchors | None:
        """None where they can't be used, and nobody is trusted."""
        try:
            return Anchors.load(self._anchor_file)
        except BsfgError:
            return None

    def _usable_credentials(self) -> tuple[Path, Path] | None:
        """None where ours can't be used: the look is worth its while all the same, and the listener complains."""
        own = self.own
        is_usable = presented.why_key_is_not(own.certificate, own.key) is None
        return (own.certificate, own.key) if is_usable else None

    def _shown(
        self,
        leaf: x509.Certificate,
        intermediates: list[x509.Certificate],
        anchor_file: Path,
        version: str,
        *,
        is_own: bool,
    ) -> PresentedCertificate:
        purposes = presented.BOTH if is_own else presented.SERVER
        now = self.now()
        try:
            anchors = Anchors.load(anchor_file)
        except BsfgError as error:
            shown = presented.present(leaf, intermediates, None, purposes, None, now, is_own=is_own)
            return _certificate(shown, version, ocsp_addresses(leaf), error.message)
        shown = presented.present(leaf, intermediates, anchors, purposes, self._crl(), now, is_own=is_own)
        return _certificate(shown, version, ocsp_addresses(leaf), shown.chain_problem)

    def _crl(self) -> RevocationList | None:
        revocation = self._configuration.zone.revocation
        if revocation.crl is None:
            return None
        anchors = anchors_of_every_peer(self._configuration)
        return RevocationList.load(revocation.crl, anchors, WhenExpired(revocation.crl_expired.value))

    @property
    def _anchor_file(self) -> Path:
        return self._peer.trust_anchor or self._paths.anchors

    async def ocsp(self, peer: bool) -> Mapping[str, Any]:
        return await asyncio.to_thread(self._ocsp, peer)

    def _ocsp(self, peer: bool) -> Mapping[str, Any]:
        leaf, intermediates = self._peer_leaf() if peer else self._own_leaf()
        anchors = Anchors.load(self._anchor_file if peer else self._paths.anchors)
        authorities = (*intermediates, *anchors.certificates)
        issuer = next((each for each in authorities if issued_by(leaf, each)), None)
        if issuer is None:
            whose = "the peer's" if peer else "our"
            raise BsfgError(Code.UNAVAILABLE, f"no installed anchor has issued {whose} certificate")
        return asdict(ask_responders(leaf, issuer, ocsp_addresses(leaf), self.now()))

    def _own_leaf(self) -> tuple[x509.Certificate, list[x509.Certificate]]:
        leaf, *intermediates = load_certificates(self._paths.server_certificate)
        return leaf, intermediates

    def _peer_leaf(self) -> tuple[x509.Certificate, list[x509.Certificate]]:
        shown = single_request.shown_certificate(
            self._listener, self._peer_anchors(), self._usable_credentials()
        )
        return x509.load_der_x509_certificate(shown[0]), []

    # Requests to the peer.

    async def request(
        self, path: str, body: Mapping[str, Any] | None = None, *, caller: Credentials | Stranger | None
    ) -> Reply:
        return await asyncio.to_thread(self._request, path, body, caller)

    def _request(
        self, path: str, body: Mapping[str, Any] | None, caller: Credentials | Stranger | None
    ) -> Reply:
        anchors = Anchors.load(self._anchor_file)
        with tempfile.TemporaryDirectory(prefix="bsfg-stranger-") as folder:
            credentials = self._credentials(caller, Path(folder))
            reply = single_request.send(self._listener, anchors, self._verify, credentials, path, body)
        return Reply(reply.status, reply.code, reply.body, reply.cut, reply.tls_version)

    def _verify(self, der: bytes) -> None:
        """Raises unless this is the peer's certificate, as the gateway would see it."""
        paths, zone = self._paths, self._configuration.zone
        trust = TrustStore.build(
            certificate=paths.server_certificate,
            key=paths.server_key,
            anchors=paths.anchors,
            own=zone.identity_rule,
            peers=peer_trusts(self._configuration),
            revocation=self._crl(),
        )
        trust.verify_server(der, self._peer.id, self.now())

    def _credentials(self, caller: Credentials | Stranger | None, folder: Path) -> tuple[Path, Path] | None:
        if caller is None:
            return None
        if isinstance(caller, Credentials):
            return caller.certificate, caller.key
        rule = self._configuration.zone.identity_rule
        return strangers.write_stranger(
            folder,
            strangers.unlisted(rule) if caller is Stranger.UNLISTED else rule,
            self._authority(caller),
            has_ended=caller is Stranger.EXPIRED,
        )

    def _authority(self, stranger: Stranger) -> Authority | None:
        """Who signs: nobody, a CA that was made for this, or the lab's own."""
        if stranger is Stranger.SELF_SIGNED:
            return None
        lab = self._lab_authority()
        if stranger is Stranger.WRONG_CA or (stranger is Stranger.EXPIRED and lab is None):
            return strangers.unknown_authority()
        if lab is None:
            raise BsfgError(Code.NOT_FOUND, "only a lab has the key of a CA that the peer trusts")
        return lab

    def _lab_authority(self) -> Authority | None:
        """The CA that a lab keeps beside the homes, for this zone."""
        home = self._configuration.home
        folder = home.parent / "ca" / self._configuration.zone.zone
        if not self._configuration.zone.lab or not (folder / "ca.key").is_file():
            return None
        return Authority.load(folder / "ca.crt", folder / "ca.key")


def _line(content: bytes) -> dict[str, Any] | None:
    try:
        line = json.loads(content)
    except ValueError:
        return None
    return line if isinstance(line, dict) else None


def _certificate(
    shown: presented.Presented, version: str, ocsp: list[str], problem: str | None
) -> PresentedCertificate:
    return PresentedCertificate(
        view=shown.view,
        tls_version=version,
        chain_problem=problem,
        chain=shown.chain,
        is_authority=shown.is_authority,
        serves=shown.serves,
        revoked=shown.revoked,
        ocsp=tuple(ocsp),
    )


