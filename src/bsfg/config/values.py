"""The configuration as the rest of the program sees it: frozen values, no trace of the files' format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

from bsfg.config.address import Address
from bsfg.config.home import Home
from bsfg.config.limits import Limits
from bsfg.model.cursor import InitMode, LinkName
from bsfg.model.identity import IdentityRule
from bsfg.model.names import StreamName, ZoneId
from bsfg.model.policy import PeerPolicy

LISTEN_DEFAULT: Final = Address("0.0.0.0", 9443)
LOCAL_DEFAULT: Final = Address("127.0.0.1", 9480)
PRIORITY_DEFAULT: Final = 5


class Durability(StrEnum):
    """What an ack of the local store means (design, decision 6)."""

    STRICT = "strict"
    LAZY = "lazy"


class CrlExpired(StrEnum):
    FAIL_CLOSED = "fail_closed"
    GRACE_24H = "grace_24h"


class Ocsp(StrEnum):
    OFF = "off"
    CHECK = "check"


class LogFormat(StrEnum):
    JSON = "json"
    TEXT = "text"


class Redirect(StrEnum):
    """Whether artifact answers may send a peer to the store itself."""

    OFF = "off"
    ON = "on"


class LinkStart(StrEnum):
    LOAD = "load"
    MANUAL = "manual"


class OnGap(StrEnum):
    HALT = "halt"
    RECORD_AND_CONTINUE = "record_and_continue"


class OnUnstorable(StrEnum):
    HALT = "halt"
    QUARANTINE = "quarantine"


class LinkArtifacts(StrEnum):
    OFF = "off"
    MIRROR = "mirror"


class Compression(StrEnum):
    OFF = "off"
    ZSTD = "zstd"


@dataclass(frozen=True, slots=True)
class EmbeddedSubstrate:
    """Our own nats-server on loopback; ``port`` None is the default port 4222."""

    port: int | None = None


@dataclass(frozen=True, slots=True)
class ExternalSubstrate:
    """A NATS server or cluster that others run."""

    urls: tuple[str, ...]
    credentials: Path | None = None
    ca: Path | None = None
    replicas: int = 1
    monitor: tuple[str, ...] = ()
    system_credentials: Path | None = None
    inbound_exclusive: bool = False
    """The account lets nobody else publish to ``in.>`` (design, decision 3)."""


@dataclass(frozen=True, slots=True)
class StreamConfig:
    """A local stream; a limit that is None is not set."""

    name: StreamName
    max_age_seconds: int | None = None
    max_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class FileStore:
    path: Path


@dataclass(frozen=True, slots=True)
class S3Store:
    endpoint: str
    region: str
    credentials_file: Path | None = None


@dataclass(frozen=True, slots=True)
class ArtifactsConfig:
    """Where this zone's artifacts lie, and how much room they and each peer's may take."""

    store: FileStore | S3Store
    bucket: str
    quota_bytes: int
    quota_per_peer_bytes: int
    redirect: Redirect = Redirect.OFF


@dataclass(frozen=True, slots=True)
class RevocationConfig:
    """``crl`` None: no list is configured and none lies at ``certs/crl.pem``."""

    crl: Path | None = None
    crl_expired: CrlExpired = CrlExpired.FAIL_CLOSED
    ocsp: Ocsp = Ocsp.OFF


@dataclass(frozen=True, slots=True)
class LogConfig:
    """``file`` None: standard error only."""

    format: LogFormat = LogFormat.JSON
    file: Path | None = None


@dataclass(frozen=True, slots=True)
class ZoneConfig:
    """zone.yaml: this zone, its listeners, its store and what it exports."""

    zone: ZoneId
    identity_rule: IdentityRule
    artifacts: ArtifactsConfig
    listen: Address = LISTEN_DEFAULT
    local: Address = LOCAL_DEFAULT
    local_token_file: Path | None = None
    substrate: EmbeddedSubstrate | ExternalSubstrate = field(default_factory=EmbeddedSubstrate)
    durability: Durability = Durability.STRICT
    streams: tuple[StreamConfig, ...] = ()
    revocation: RevocationConfig = field(default_factory=RevocationConfig)
    log: LogConfig = field(default_factory=LogConfig)
    audit_stream: StreamName | None = None
    limits: Limits = field(default_factory=Limits)
    lab: bool = False


@dataclass(frozen=True, slots=True)
class PeerConfig:
    """One entry of peers.yaml: who may read what from us, and where it is reached (runbook 4.1)."""

    id: ZoneId
    rule: IdentityRule
    endpoint: Address
    artifact_bucket: str
    authorized: bool = False
    streams: tuple[StreamName, ...] = ()
    artifacts: tuple[str, ...] = ()
    trust_anchor: Path | None = None
    artifact_redirect_host: str | None = None
    reference: str | None = None

    def policy(self) -> PeerPolicy:
        """This peer's row of the allow-list."""
        return PeerPolicy(self.id, self.authorized, frozenset(self.streams), frozenset(self.artifacts))


@dataclass(frozen=True, slots=True)
class Keep:
    """What of a link's inbound facts is kept; at least one of the two is set."""

    max_age_seconds: int | None = None
    max_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class LinkConfig:
    """One entry of cursors.yaml: what we read from whom, and where it starts (runbook 5)."""

    name: LinkName
    init_mode: InitMode
    justification: str | None = None
    start: LinkStart = LinkStart.LOAD
    on_gap: OnGap = OnGap.HALT
    on_unstorable: OnUnstorable = OnUnstorable.HALT
    keep: Keep | None = None
    artifacts: LinkArtifacts = LinkArtifacts.OFF
    priority: int = PRIORITY_DEFAULT
    """9 goes first, 0 last."""
    max_bytes_per_second: int | None = None
    """Of pages before they are compressed."""
    compression: Compression = Compression.OFF
    canary_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Configuration:
    """All files of a zone, read at one time; ``file_hashes`` are sha-256 by file name below the home."""

    home: Path
    zone: ZoneConfig
    peers: Mapping[ZoneId, PeerConfig]
    links: Mapping[LinkName, LinkConfig]
    file_hashes: Mapping[str, str]

    @property
    def paths(self) -> Home:
        return Home(self.home)

    def trust_files(self) -> tuple[Path, ...]:
        """The files that trust decisions rest on and that may lie outside ``certs``: anchors of peers and the CRL."""
        anchors = [peer.trust_anchor for peer in self.peers.values()]
        return tuple(path for path in (self.zone.revocation.crl, *anchors) if path is not None)
