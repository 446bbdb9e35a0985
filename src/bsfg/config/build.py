"""Checked sections to the values that the program uses; defaults and paths are filled in here."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TypeVar

from bsfg.config.home import Home
from bsfg.config.limits import Limits
from bsfg.config.rules import INIT_MODE_DEFAULT
from bsfg.config.scalars import default_bucket
from bsfg.config.schema import (
    ArtifactsSection,
    CursorSection,
    CursorsFile,
    PeerSection,
    PeersFile,
    RevocationSection,
    SubstrateSection,
    ZoneFile,
)
from bsfg.config.values import (
    LISTEN_DEFAULT,
    LOCAL_DEFAULT,
    ArtifactsConfig,
    Compression,
    CrlExpired,
    Durability,
    EmbeddedSubstrate,
    ExternalSubstrate,
    FileStore,
    Keep,
    LinkArtifacts,
    LinkConfig,
    LinkStart,
    LogConfig,
    LogFormat,
    Ocsp,
    OnGap,
    OnUnstorable,
    PeerConfig,
    Redirect,
    RevocationConfig,
    S3Store,
    StreamConfig,
    ZoneConfig,
)
from bsfg.model.cursor import LinkName, parse_init_mode
from bsfg.model.identity import IdentityFrom, IdentityRule
from bsfg.model.names import ZoneId

T = TypeVar("T")


def build_zone(file: ZoneFile, home: Home) -> ZoneConfig:
    """The zone's values; the file has passed every rule."""
    zone = _given(file.zone)
    rule = _identity_rule(file, file.identity_from or IdentityFrom.DNS)
    return ZoneConfig(
        zone=zone,
        identity_rule=rule,
        artifacts=_artifacts(file.artifacts, default_bucket(rule.identity, zone), home),
        listen=file.listen or LISTEN_DEFAULT,
        local=file.local or LOCAL_DEFAULT,
        local_token_file=home.resolve_optional(file.local_token_file),
        substrate=_substrate(file.substrate, home),
        durability=file.durability or Durability.STRICT,
        streams=tuple(
            StreamConfig(_given(stream.name), stream.max_age, stream.max_bytes) for stream in file.streams
        ),
        revocation=_revocation(file.revocation, home),
        log=LogConfig(file.log.format or LogFormat.JSON, home.resolve_optional(file.log.file)),
        audit_stream=file.audit_stream,
        limits=Limits(**file.limits.model_dump(exclude_none=True)),
        lab=file.lab,
    )


def build_peers(file: PeersFile, zone: ZoneConfig, home: Home) -> Mapping[ZoneId, PeerConfig]:
    """The peers by id, in the order of the file."""
    peers = (_peer(section, zone, home) for section in file.peers)
    return MappingProxyType({peer.id: peer for peer in peers})


def build_links(file: CursorsFile) -> Mapping[LinkName, LinkConfig]:
    """The links by name, in the order of the file."""
    links = (_link(section) for section in file.cursors)
    return MappingProxyType({link.name: link for link in links})


def _given(value: T | None) -> T:
    """A required value, which the rules have found to be there."""
    if value is None:
        raise AssertionError("a required key passed the rules without a value")
    return value


def _identity_rule(entry: ZoneFile | PeerSection, kind: IdentityFrom) -> IdentityRule:
    return IdentityRule(_given(entry.identity), kind, tuple(entry.identity_san_extra))


def _substrate(section: SubstrateSection | None, home: Home) -> EmbeddedSubstrate | ExternalSubstrate:
    if section is None or section.url is None:
        embedded = section.embedded if section is not None else None
        return EmbeddedSubstrate(embedded.port if embedded is not None else None)
    return ExternalSubstrate(
        urls=section.url,
        credentials=home.resolve_optional(section.credentials),
        ca=home.resolve_optional(section.ca),
        replicas=section.replicas or 1,
        monitor=tuple(section.monitor or ()),
        system_credentials=home.resolve_optional(section.system_credentials),
        inbound_exclusive=section.inbound_exclusive or False,
    )


def _artifacts(section: ArtifactsSection, bucket: str, home: Home) -> ArtifactsConfig:
    store: FileStore | S3Store
    if section.store == "s3":
        credentials = home.resolve_optional(section.credentials_file)
        store = S3Store(_given(section.endpoint), _given(section.region), credentials)
    elif isinstance(section.store, FileStore):
        store = FileStore(home.resolve(section.store.path))
    else:
        store = FileStore(home.data / "artifacts")
    return ArtifactsConfig(
        store=store,
        bucket=section.bucket or bucket,
        quota_bytes=section.quota,
        quota_per_peer_bytes=min(section.quota_per_peer, section.quota),
        redirect=section.redirect or Redirect.OFF,
    )


def _revocation(section: RevocationSection, home: Home) -> RevocationConfig:
    crl = home.resolve_optional(section.crl)
    if crl is None and home.crl.is_file():
        # A list that lies in its place is obeyed without being named.
        crl = home.crl
    return RevocationConfig(crl, section.crl_expired or CrlExpired.FAIL_CLOSED, section.ocsp or Ocsp.OFF)


def _peer(section: PeerSection, zone: ZoneConfig, home: Home) -> PeerConfig:
    peer = _given(section.id)
    rule = _identity_rule(section, section.identity_from or zone.identity_rule.identity_from)
    return PeerConfig(
        id=peer,
        rule=rule,
        endpoint=_given(section.endpoint),
        artifact_bucket=section.artifact_bucket or default_bucket(rule.identity, peer),
        authorized=section.authorized,
        streams=tuple(section.streams),
        artifacts=tuple(section.artifacts),
        trust_anchor=home.resolve_optional(section.trust_anchor),
        artifact_redirect_host=section.artifact_redirect_host,
        reference=section.reference,
    )


def _link(section: CursorSection) -> LinkConfig:
    keep = section.keep
    return LinkConfig(
        name=LinkName(_given(section.peer), _given(section.stream)),
        init_mode=parse_init_mode(section.init_mode or INIT_MODE_DEFAULT, section.init_timestamp),
        justification=section.justification,
        start=section.start or LinkStart.LOAD,
        on_gap=section.on_gap or OnGap.HALT,
        on_unstorable=section.on_unstorable or OnUnstorable.HALT,
        keep=Keep(keep.max_age, keep.max_bytes) if keep is not None else None,
        artifacts=section.artifacts or LinkArtifacts.OFF,
        priority=section.priority,
        max_bytes_per_second=section.max_bytes_per_second,
        compression=section.compression or Compression.OFF,
        canary_seconds=section.canary,
    )
