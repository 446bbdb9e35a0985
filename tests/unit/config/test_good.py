"""A configuration with every key, and one with only the required ones, become exactly these values."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bsfg.config.address import Address
from bsfg.config.describe import describe
from bsfg.config.limits import Limits, limit_ranges
from bsfg.config.load import load
from bsfg.config.schema import CursorSection, CursorsFile, PeerSection, PeersFile, ZoneFile, format_limit
from bsfg.config.values import (
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
from bsfg.errors import ConfigurationError
from bsfg.model.cursor import InitMode, LinkName, StartKind
from bsfg.model.identity import IdentityFrom, IdentityRule
from bsfg.model.names import StreamName, ZoneId
from bsfg.model.policy import Allowed, Denied, ReadStream, decide

WriteHome = Callable[..., Path]
MINIMAL = "zone: plant-a\nidentity: plant-a-bsfg\n"
ENTERPRISE = ZoneId("enterprise")
ORDERS = StreamName("facts.orders")

ZONE = """\
# Everything that zone.yaml may say.
zone: plant-a
identity: spiffe://example.org/plant-a
identity_from: uri
identity_san_extra: ["spiffe://example.org/plant-a/standby"]
listen: "[::]:9443"
local: 10.3.1.10:9480
local_token_file: config/local.token
substrate:
  url: "tls://10.3.1.11:4222, tls://nats.example.org"
  credentials: config/nats.creds
  ca: certs/nats-ca.crt
  replicas: 3
  monitor: ["http://10.3.1.11:8222"]
  system_credentials: /etc/bsfg/system.creds
  inbound_exclusive: true
durability: lazy
streams:
  - {name: facts.orders, max_age: 7d, max_bytes: 10GiB}
  - {name: facts.audit, max_age: 90s}
  - name: facts.shipments
artifacts: {store: s3, bucket: plant-a-files, quota: 1GB, quota_per_peer: 512MiB, redirect: on,
            endpoint: "https://10.3.1.20:9000", region: eu-central-1, credentials_file: config/s3.json}
revocation: {crl: certs/crl.pem, crl_expired: grace_24h, ocsp: check}
log: {format: text, file: /var/log/bsfg/bsfg.log}
audit_stream: facts.audit
limits:
  connections_max: 100
  handshake_seconds: 2500ms
  request_body_bytes: 2MiB
lab: true
"""
PEERS = """\
peers:
  - id: enterprise
    identity: enterprise-bsfg
    identity_from: dns
    identity_san_extra: [enterprise-standby]
    endpoint: 10.1.1.10:9443
    authorized: true
    streams: [facts.orders, facts.shipments]
    artifacts: [order-files]
    trust_anchor: certs/enterprise-ca.crt
    artifact_bucket: order-bucket
    artifact_redirect_host: s3.example.org:9000
    reference: CHG-1234
  - id: plant-b
    identity: Plant.B
    identity_from: subject
    endpoint: "[2001:db8::1]:9443"
"""
CURSORS = """\
cursors:
  - peer: enterprise
    stream: facts.operational
    init_mode: explicit_timestamp
    init_timestamp: 2025-01-15T11:00:00.5+01:00
    justification: >
      compliance
      requirement
    start: manual
    on_gap: record_and_continue
    on_unstorable: quarantine
    keep: {max_age: 30d, max_bytes: 50GiB}
    artifacts: mirror
    priority: 0
    max_bytes_per_second: 5MB
    compression: zstd
    canary: 30s
  - {peer: plant-b, stream: facts.operational}
"""


def test_every_key(write_home: WriteHome) -> None:
    home = write_home(zone=ZONE, peers=PEERS, cursors=CURSORS)
    configuration = load(home)

    assert configuration.home == home
    assert configuration.zone == ZoneConfig(
        zone=ZoneId("plant-a"),
        identity_rule=IdentityRule(
            "spiffe://example.org/plant-a", IdentityFrom.URI, ("spiffe://example.org/plant-a/standby",)
        ),
        artifacts=ArtifactsConfig(
            store=S3Store("https://10.3.1.20:9000", "eu-central-1", home / "config/s3.json"),
            bucket="plant-a-files",
            quota_bytes=1_000_000_000,
            quota_per_peer_bytes=512 * 1024**2,
            redirect=Redirect.ON,
        ),
        listen=Address("::", 9443),
        local=Address("10.3.1.10", 9480),
        local_token_file=home / "config/local.token",
        substrate=ExternalSubstrate(
            urls=("tls://10.3.1.11:4222", "tls://nats.example.org:4222"),
            credentials=home / "config/nats.creds",
            ca=home / "certs/nats-ca.crt",
            replicas=3,
            monitor=("http://10.3.1.11:8222",),
            system_credentials=Path("/etc/bsfg/system.creds"),
            inbound_exclusive=True,
        ),
        durability=Durability.LAZY,
        streams=(
            StreamConfig(ORDERS, 7 * 86_400, 10 * 1024**3),
            StreamConfig(StreamName("facts.audit"), 90, None),
            StreamConfig(StreamName("facts.shipments"), None, None),
        ),
        revocation=RevocationConfig(home / "certs/crl.pem", CrlExpired.GRACE_24H, Ocsp.CHECK),
        log=LogConfig(LogFormat.TEXT, Path("/var/log/bsfg/bsfg.log")),
        audit_stream=StreamName("facts.audit"),
        limits=Limits(connections_max=100, handshake_seconds=2.5, request_body_bytes=2 * 1024**2),
        lab=True,
    )
    assert list(configuration.peers.values()) == [
        PeerConfig(
            id=ENTERPRISE,
            rule=IdentityRule("enterprise-bsfg", IdentityFrom.DNS, ("enterprise-standby",)),
            endpoint=Address("10.1.1.10", 9443),
            artifact_bucket="order-bucket",
            authorized=True,
            streams=(ORDERS, StreamName("facts.shipments")),
            artifacts=("order-files",),
            trust_anchor=home / "certs/enterprise-ca.crt",
            artifact_redirect_host="s3.example.org:9000",
            reference="CHG-1234",
        ),
        PeerConfig(
            id=ZoneId("plant-b"),
            rule=IdentityRule("Plant.B", IdentityFrom.SUBJECT),
            endpoint=Address("2001:db8::1", 9443),
            artifact_bucket="Plant.B-artifacts",
        ),
    ]
    operational = StreamName("facts.operational")
    assert dict(configuration.links) == {
        LinkName(ENTERPRISE, operational): LinkConfig(
            name=LinkName(ENTERPRISE, operational),
            init_mode=InitMode(
                "explicit_timestamp", StartKind.EXPLICIT_TIMESTAMP, timestamp=1_736_935_200_500_000_000
            ),
            justification="compliance requirement",
            start=LinkStart.MANUAL,
            on_gap=OnGap.RECORD_AND_CONTINUE,
            on_unstorable=OnUnstorable.QUARANTINE,
            keep=Keep(30 * 86_400, 50 * 1024**3),
            artifacts=LinkArtifacts.MIRROR,
            priority=0,
            max_bytes_per_second=5_000_000,
            compression=Compression.ZSTD,
            canary_seconds=30.0,
        ),
        LinkName(ZoneId("plant-b"), operational): LinkConfig(
            name=LinkName(ZoneId("plant-b"), operational),
            init_mode=InitMode("bounded_backfill_24h", StartKind.BOUNDED_BACKFILL, hours=24),
        ),
    }
    assert configuration.file_hashes == {
        f"config/{name}.yaml": hashlib.sha256(text.encode()).hexdigest()
        for name, text in (("zone", ZONE), ("peers", PEERS), ("cursors", CURSORS))
    }
    assert configuration.trust_files() == (home / "certs/crl.pem", home / "certs/enterprise-ca.crt")


def test_the_golden_files_use_every_key() -> None:
    """Guards the test above: a key that is added to the schema has to be added there."""
    zone_keys = {key for key in ZoneFile.model_fields if f"\n{key}:" not in "\n" + ZONE}
    assert zone_keys == set()
    assert {key for key in PeerSection.model_fields if f" {key}:" not in PEERS} == set()
    assert {key for key in CursorSection.model_fields if f" {key}:" not in CURSORS} == set()
    assert [*PeersFile.model_fields, *CursorsFile.model_fields] == ["peers", "cursors"]


def test_only_the_required_keys(write_home: WriteHome) -> None:
    home = write_home(zone=MINIMAL)
    configuration = load(home)
    zone = configuration.zone
    assert zone == ZoneConfig(
        zone=ZoneId("plant-a"),
        identity_rule=IdentityRule("plant-a-bsfg"),
        artifacts=ArtifactsConfig(
            store=FileStore(home / "data/artifacts"),
            bucket="plant-a-bsfg-artifacts",
            quota_bytes=50 * 1024**3,
            quota_per_peer_bytes=10 * 1024**3,
        ),
    )
    assert (str(zone.listen), str(zone.local)) == ("0.0.0.0:9443", "127.0.0.1:9480")
    assert (zone.durability, zone.substrate, zone.lab) == (Durability.STRICT, EmbeddedSubstrate(None), False)
    assert (dict(configuration.peers), dict(configuration.links)) == ({}, {})
    assert list(configuration.file_hashes) == ["config/zone.yaml"]


@pytest.mark.parametrize(
    "nothing", ["", "# nothing yet\n", "---\n", "{}", "peers:\n", "peers: []\n", "null\n"]
)
def test_peers_that_name_nobody_allow_nothing(write_home: WriteHome, nothing: str) -> None:
    configuration = load(write_home(zone=MINIMAL, peers=nothing, cursors=nothing.replace("peers", "cursors")))
    assert (dict(configuration.peers), dict(configuration.links)) == ({}, {})


@pytest.mark.parametrize(
    ("written", "substrate"),
    [
        ("embedded", EmbeddedSubstrate(None)),
        ("{embedded: {}}", EmbeddedSubstrate(None)),
        ("{embedded: {port: 4333}}", EmbeddedSubstrate(4333)),
        ('{url: "nats://[::1]:4222"}', ExternalSubstrate(("nats://[::1]:4222",))),
    ],
)
def test_substrates(write_home: WriteHome, written: str, substrate: object) -> None:
    assert load(write_home(zone=f"{MINIMAL}substrate: {written}\n")).zone.substrate == substrate


def test_a_peer_is_denied_unless_it_says_true(write_home: WriteHome) -> None:
    def policy(line: str) -> object:
        home = write_home(
            zone=MINIMAL + "streams: [{name: facts.orders}]\n",
            peers=f"peers:\n- id: enterprise\n  identity: e\n  endpoint: e:1\n  streams: [facts.orders]\n{line}",
        )
        return decide(load(home).peers[ENTERPRISE].policy(), ReadStream(ORDERS))

    assert isinstance(policy("  authorized: true\n"), Allowed)
    assert isinstance(policy("  authorized: false\n"), Denied)
    assert isinstance(policy(""), Denied)


def test_a_peer_reads_identities_as_the_zone_says_unless_it_says_otherwise(write_home: WriteHome) -> None:
    zone = "zone: plant-a\nidentity: urn:plant:a\nidentity_from: uri\n"
    peers = (
        "peers:\n- {id: one, identity: 'urn:one', endpoint: 'h:1'}\n"
        "- {id: two, identity: two, identity_from: dns, endpoint: 'h:1'}\n"
    )
    configuration = load(write_home(zone=zone, peers=peers))
    kinds = {peer.id: peer.rule.identity_from for peer in configuration.peers.values()}
    assert kinds == {"one": IdentityFrom.URI, "two": IdentityFrom.DNS}
    # A URI can't name a bucket.
    assert configuration.zone.artifacts.bucket == "plant-a-artifacts"
    assert configuration.peers[ZoneId("one")].artifact_bucket == "one-artifacts"


def test_a_crl_in_its_place_is_obeyed_without_being_named(write_home: WriteHome) -> None:
    home = write_home(zone=MINIMAL)
    assert load(home).zone.revocation.crl is None
    (home / "certs").mkdir()
    (home / "certs/crl.pem").write_text("")
    assert load(home).zone.revocation.crl == home / "certs/crl.pem"


def test_a_small_quota_bounds_the_default_for_each_peer(write_home: WriteHome) -> None:
    artifacts = load(write_home(zone=MINIMAL + "artifacts: {quota: 1GiB}\n")).zone.artifacts
    assert (artifacts.quota_bytes, artifacts.quota_per_peer_bytes) == (1024**3, 1024**3)


def test_describe_is_json_with_units_in_its_names(write_home: WriteHome) -> None:
    home = write_home(zone=ZONE, peers=PEERS, cursors=CURSORS)
    described: dict[str, Any] = json.loads(json.dumps(describe(load(home))))
    assert described["home"] == str(home)
    assert described["zone"]["streams"][0] == {
        "name": "facts.orders",
        "max_age_seconds": 604_800,
        "max_bytes": 10 * 1024**3,
    }
    assert described["zone"]["identity_from"] == "uri"
    assert described["zone"]["substrate"]["kind"] == "external"
    assert described["zone"]["artifacts"]["store"]["credentials_file"] == str(home / "config/s3.json")
    assert described["zone"]["limits"]["handshake_seconds"] == 2.5
    assert described["peers"][0]["endpoint"] == "10.1.1.10:9443"
    assert described["peers"][0]["identity_san_extra"] == ["enterprise-standby"]
    assert described["cursors"][0]["init_timestamp"] == "2025-01-15T10:00:00.500000000Z"
    assert described["cursors"][0]["keep"] == {"max_age_seconds": 2_592_000, "max_bytes": 50 * 1024**3}
    assert described["cursors"][1]["peer"] == "plant-b"
    assert set(described["files"]) == {"config/zone.yaml", "config/peers.yaml", "config/cursors.yaml"}


@pytest.mark.parametrize("limit", list(limit_ranges()), ids=lambda limit: limit.name)
def test_each_limit_takes_its_range_and_no_more(write_home: WriteHome, limit: Any) -> None:
    def value(number: float) -> float:
        # Limits that bound each other make room for the one that is tried.
        settings = {
            "connections_max": 65_536,
            "peer_connections_max": 1 if limit.name == "connections_max" else 1_024,
            "long_polls_per_peer": 1,
            "retry_delay_seconds_min": 0.01,
        } | {limit.name: number}
        ranges = {entry.name: entry for entry in limit_ranges()}
        lines = [f"  {name}: {format_limit(setting, ranges[name])}\n" for name, setting in settings.items()]
        limits = load(write_home(zone=MINIMAL + "limits:\n" + "".join(lines))).zone.limits
        found: float = getattr(limits, limit.name)
        return found

    assert limit.low <= limit.default <= limit.high
    assert getattr(Limits(), limit.name) == limit.default
    assert value(limit.low) == limit.low
    assert value(limit.high) == limit.high
    step = 0.001 if limit.kind == "seconds" else 1
    for outside in (limit.low - step, limit.high + step):
        with pytest.raises(ConfigurationError, match=f": {limit.name}: "):
            value(outside)


def test_values_are_frozen(write_home: WriteHome) -> None:
    configuration = load(write_home(zone=ZONE, peers=PEERS, cursors=CURSORS))
    with pytest.raises(dataclasses.FrozenInstanceError):
        configuration.zone.lab = False  # type: ignore[misc]
    with pytest.raises(TypeError):
        del configuration.peers[ENTERPRISE]  # type: ignore[attr-defined]
