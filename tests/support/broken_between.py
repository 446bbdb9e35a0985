"""Broken things between the zones, at the peer, and in what is stored: sections 1 and 3 to 7."""

from __future__ import annotations

import asyncio
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest
from nats.js.api import AckPolicy, ConsumerConfig
from tests.support.broken_lab import Break, Row, both, configured, inputs, kept, reload
from tests.support.certificates import made_again
from tests.support.lab_zones import ENTERPRISE, INBOUND_STREAM, OPERATIONAL, PLANT, Lab, Zone, eventually
from tests.support.middleman import Carelessness, between

from bsfg.checks.denial import ABSENT_KEY, UNLISTED_STREAM, UNLISTED_TYPE
from bsfg.daemon.peer_view import METRICS_KNOWN_SECONDS
from bsfg.lab import homes
from bsfg.transport.certificates import load_certificates
from bsfg.transport.development_ca import Authority, issue, write_certificates
from bsfg.transport.strangers import UNLISTED

FAKETIME: Final = next(iter(sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))), None)
SKEW: Final = "+600s"
CONSUMER: Final = f"{ENTERPRISE}-from-{PLANT}"
INBOUND_SUBJECT: Final = "in.enterprise.facts.operational.g1"


def through_a_middleman(**care: bool) -> Break:
    """plant-a reaches enterprise through something that takes TLS apart."""

    @contextmanager
    def broken(lab: Lab) -> Iterator[None]:
        endpoint = lab.enterprise.place.endpoint
        with between(lab.plant, lab.enterprise, Carelessness(**care)) as address:
            changes = ((endpoint, address),)
            with both(inputs(*changes), configured(PLANT, "peers_file", *changes))(lab):
                eventually("plant-a is level", 20, lambda: lab.plant.cursor()["state"] == "level")
                yield

    return broken


@contextmanager
def other_clock(lab: Lab) -> Iterator[None]:
    """enterprise's gateway lives ten minutes ahead; its deadlines don't."""
    if FAKETIME is None:
        pytest.skip("needs Debian's faketime")
    faked = {"LD_PRELOAD": str(FAKETIME), "FAKETIME": SKEW, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
    lab.enterprise.stop_gateway()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in faked.items():
            patch.setenv(name, value)
        lab.enterprise.start_gateway()
    try:
        lab.healthy()
        yield
    finally:
        lab.enterprise.stop_gateway()
        lab.healthy()


@contextmanager
def other_identity(lab: Lab) -> Iterator[None]:
    """Our own CA has issued our certificate for another zone."""
    plant, spec = lab.plant, homes.PLANT_A
    with kept(plant, plant.paths.server_certificate, plant.paths.server_key):
        issue(
            plant.place.ca_cert, plant.place.ca_key, "plant-b-bsfg", san_dns=["plant-b-bsfg"], san_ip=[spec.host],
            days=90, out_cert=plant.paths.server_certificate, out_key=plant.paths.server_key,
        )  # fmt: skip
        yield


@contextmanager
def renewed_authority(lab: Lab) -> Iterator[None]:
    """Our CA has a new certificate for its old key, which vouches for us as before; the peer knows only the old one."""
    plant = lab.plant
    old = load_certificates(plant.place.ca_cert)[0]
    renewed = made_again(old, Authority.load(plant.place.ca_cert, plant.place.ca_key).key)
    with kept(plant, plant.paths.anchors):
        others = [each for each in load_certificates(plant.paths.anchors) if each != old]
        write_certificates(plant.paths.anchors, [renewed, *others])
        reload(plant)
        yield


@contextmanager
def silent_metrics(lab: Lab) -> Iterator[None]:
    """A packet filter lets nobody reach enterprise's ``/metrics``, itself neither."""
    port = lab.enterprise.place.local.rpartition(":")[2]
    table = f"bsfg_metrics_{os.getpid()}"
    chain = f"chain in {{\ntype filter hook input priority 0;\ntcp dport {port} reject\n}}"
    rules = f"table inet {table} {{\n{chain}\n}}"
    subprocess.run(["nft", rules], check=True)
    try:
        # What enterprise knows of its own metrics it knows for a while.
        time.sleep(METRICS_KNOWN_SECONDS)
        yield
    finally:
        subprocess.run(["nft", "delete", "table", "inet", table], check=True)
        time.sleep(METRICS_KNOWN_SECONDS)


def lazily_and_unapproved(zone: str) -> Break:
    """Acknowledged facts of this zone are not on disk by choice, and nobody has put that in writing."""

    @contextmanager
    def broken(lab: Lab) -> Iterator[None]:
        place = lab.zones[zone]
        unapproved = inputs(("approver: {by: Lab Operator, reference: LAB-8}\n", ""))
        place.stop_gateway()
        try:
            with (
                place.changed(place.paths.zone_file, ("lab: true", "lab: true\ndurability: lazy")),
                unapproved(lab),
            ):
                lab.healthy()
                yield
                place.stop_gateway()
        finally:
            lab.healthy()

    return broken


@contextmanager
def listed_stranger(lab: Lab) -> Iterator[None]:
    """enterprise has listed the identity that nobody should have."""
    path = lab.enterprise.paths.peers_file
    entry = (
        f"  - id: stranger\n    identity: {UNLISTED}\n    endpoint: 127.3.1.10:1\n    authorized: true\n"
        f"    streams: [{OPERATIONAL}]\n"
    )
    lab.enterprise.install(path, (before := path.read_text()) + entry)
    try:
        reload(lab.enterprise)
        yield
    finally:
        lab.enterprise.install(path, before)
        reload(lab.enterprise)


AUDIT_LINK: Final = '    justification: "compliance: the audit trail has to be complete"\n'
EXPORTED: Final = "streams: [facts.operational, facts.batch_completed, facts.audit]"
TYPES: Final = "artifacts: [batch-files, documents]"
MORE_STREAMS: Final = (EXPORTED, EXPORTED.replace("]", f", {UNLISTED_STREAM}]"))
MORE_TYPES: Final = (TYPES, TYPES.replace("]", f", {UNLISTED_TYPE}]"))


@contextmanager
def stored_artifacts(lab: Lab) -> Iterator[None]:
    """enterprise has artifacts that nobody should ever have stored."""
    file = lab.directory / "stored.bin"
    file.write_bytes(b"never stored")
    lab.enterprise.ask("artifact", "put", str(file), "--type", UNLISTED_TYPE, "--key", ABSENT_KEY)
    yield


@contextmanager
def stored_missing(lab: Lab) -> Iterator[None]:
    """enterprise has the artifact that stands for the missing ones; it can't be taken back, so this row comes last."""
    file = lab.directory / "missing.bin"
    file.write_bytes(b"not missing")
    lab.enterprise.ask("artifact", "put", str(file), "--type", "batch-files", "--key", ABSENT_KEY)
    yield


@contextmanager
def lost_artifacts(lab: Lab) -> Iterator[None]:
    """Both zones have lost the bytes of every artifact."""
    lost = {path: path.read_bytes() for zone in lab.zones.values() for path in _objects(zone)}
    for path in lost:
        path.unlink()
    try:
        yield
    finally:
        for path, content in lost.items():
            path.write_bytes(content)


@contextmanager
def spoilt_artifacts(lab: Lab) -> Iterator[None]:
    """plant-a's disk has lost a byte of every artifact since they were verified."""
    spoilt = {path: path.read_bytes() for path in _objects(lab.plant)}
    for path, content in spoilt.items():
        path.chmod(0o600)
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    try:
        yield
    finally:
        for path, content in spoilt.items():
            path.write_bytes(content)


def _objects(zone: Zone) -> list[Path]:
    found = [
        path for path in (zone.paths.data / "artifacts").rglob("*") if path.is_file() and len(path.name) == 64
    ]
    assert found, f"{zone.place.zone} has no artifact"
    return found


@contextmanager
def other_consumer(lab: Lab) -> Iterator[None]:
    """Somebody made the applications' consumer anew, for some facts only."""
    asyncio.run(_made_consumer(lab, f"{INBOUND_SUBJECT}.never"))
    try:
        yield
    finally:
        asyncio.run(_made_consumer(lab, None))


async def _made_consumer(lab: Lab, only: str | None) -> None:
    async with lab.plant.nats() as store:
        jetstream = store.client.jetstream()
        await jetstream.delete_consumer(INBOUND_STREAM, CONSUMER)
        config = ConsumerConfig(durable_name=CONSUMER, ack_policy=AckPolicy.EXPLICIT, filter_subject=only)
        await jetstream.add_consumer(INBOUND_STREAM, config)


NEW_STREAM: Final = f"  - name: facts.audit\n  - name: {UNLISTED_STREAM}\n"
NEW_LINK: Final = (
    f"{AUDIT_LINK}  - peer: enterprise\n    stream: {UNLISTED_STREAM}\n    init_mode: bounded_backfill_24h\n"
)

ROWS: Final = (
    Row("metrics.visible", silent_metrics),
    Row("trust.own-identity", other_identity),
    Row("trust.anchors-agree", renewed_authority),
    Row("trust.clock", other_clock, outcome="warned"),
    Row("streams.durability", lazily_and_unapproved(PLANT), outcome="warned"),
    Row("streams.peer-durability", lazily_and_unapproved(ENTERPRISE), outcome="warned"),
    Row("denial.no-certificate", through_a_middleman(takes_no_certificate=True), outcome="warned"),
    Row("denial.expired", through_a_middleman(takes_expired=True), outcome="warned"),
    Row("denial.unlisted-identity", listed_stranger, outcome="warned"),
    Row(
        "denial.unlisted-stream",
        both(
            configured(ENTERPRISE, "zone_file", ("  - name: facts.audit\n", NEW_STREAM)),
            configured(ENTERPRISE, "peers_file", MORE_STREAMS),
            inputs(MORE_STREAMS),
            configured(PLANT, "cursors_file", (AUDIT_LINK, NEW_LINK)),
        ),
        outcome="warned",
    ),
    Row(
        "denial.unlisted-artifact",
        both(
            configured(ENTERPRISE, "peers_file", MORE_TYPES),
            inputs(MORE_TYPES, ("documents: read}", f"documents: read, {UNLISTED_TYPE}: read}}")),
            stored_artifacts,
        ),
        outcome="warned",
    ),
    Row(
        "health.peer-reaches-us",
        configured(ENTERPRISE, "peers_file", ("endpoint: 127.3.1.10:", "endpoint: 127.3.1.9:")),
    ),
    Row("cursor.matches-stream", other_consumer, outcome="warned"),
    Row("notify.early", through_a_middleman(swallows_advice=True), outcome="warned"),
    Row(
        "artifact.referenced",
        both(
            configured(ENTERPRISE, "peers_file", (TYPES, "artifacts: []")),
            inputs((TYPES, "artifacts: []"), ("{batch-files: read, documents: read}", "{}")),
        ),
        "no type is allowed",
        "not run",
    ),
    Row("artifact.fetched", lost_artifacts, outcome="warned"),
    Row("artifact.verified", spoilt_artifacts, outcome="warned"),
    Row("artifact.missing", stored_missing, outcome="warned"),
)
