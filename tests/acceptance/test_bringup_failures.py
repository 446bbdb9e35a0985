"""One broken thing a row: exactly the check that stands for it fails or warns, and no other (docs/checks.md).

The rows share a lab, and each puts back what it broke; plant-a brings up its relationship with enterprise.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import pytest
from _pytest.mark.structures import ParameterSet
from tests.support.lab_zones import ENTERPRISE, PLANT, Lab, Zone, eventually, running_lab

from bsfg.config.home import Home
from bsfg.errors import BsfgError
from bsfg.lab import homes, processes
from bsfg.transport.certificates import load_certificates
from bsfg.transport.development_ca import issue, issue_crl, self_signed_authority, write_certificates

MET: Final = {"passed", "passed with exception", "attested", "not run", "skipped"}
IDENTITIES: Final = {ENTERPRISE: homes.ENTERPRISE, PLANT: homes.PLANT_A}
RUN_SECONDS: Final = 120.0

Break = Callable[[Lab], AbstractContextManager[Any]]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Two zones with facts."""
    with running_lab(tmp_path_factory.mktemp("lab") / "lab", empty=False) as running:
        yield running


@dataclass(frozen=True)
class Row:
    """What is broken, and the one check that has to say so."""

    check: str
    broken: Break
    name: str = ""
    outcome: str = "failed"

    def __str__(self) -> str:
        return self.check + (f": {self.name}" if self.name else "")


def bringup(zone: Zone, peer: str, *more: str) -> tuple[int, dict[str, Any]]:
    done = zone.bsfg("bringup", "--peer", peer, "--output", "json", *more, seconds=RUN_SECONDS)
    assert "Traceback" not in done.errors, done.errors
    assert done.output, done.errors
    return done.status, done.json


def complaints(answer: dict[str, Any]) -> dict[str, str]:
    return {row["id"]: row["outcome"] for row in answer["results"] if row["outcome"] not in MET}


# What is broken.


def inputs(*replacements: tuple[str, str]) -> Break:
    """Lines of config/bringup.yaml; nothing is reloaded, because only the command reads it."""
    return lambda lab: lab.plant.changed(lab.plant.paths.bringup_file, *replacements)


def configured(zone: str, file: str, *replacements: tuple[str, str]) -> Break:
    """A configuration file that the gateway loads."""

    @contextmanager
    def broken(lab: Lab) -> Iterator[None]:
        place = lab.zones[zone]
        try:
            with place.changed(getattr(place.paths, file), *replacements):
                reload(place)
                yield
        finally:
            reload(place)

    return broken


def both(*breaks: Break) -> Break:
    @contextmanager
    def broken(lab: Lab) -> Iterator[None]:
        with ExitStack() as stack:
            for each in breaks:
                stack.enter_context(each(lab))
            yield

    return broken


def certificate(zone: str, days: float, began_days_ago: float = 0.1) -> Break:
    """Another certificate of the zone's own CA."""

    @contextmanager
    def broken(lab: Lab) -> Iterator[None]:
        place, spec = lab.zones[zone], IDENTITIES[zone]
        with kept(place, place.paths.server_certificate, place.paths.server_key):
            issue(
                place.place.ca_cert, place.place.ca_key, spec.identity, san_dns=[spec.identity], san_ip=[spec.host],
                days=days, not_before=datetime.now(UTC) - timedelta(days=began_days_ago),
                out_cert=place.paths.server_certificate, out_key=place.paths.server_key,
            )  # fmt: skip
            reload(place)
            yield

    return broken


def other_anchor(zone: str, peer: str) -> Break:
    """A CA that never issued anything stands in the place of the peer's."""

    @contextmanager
    def broken(lab: Lab) -> Iterator[None]:
        place = lab.zones[zone]
        anchor, common = place.paths.certs / f"{peer}-ca.crt", place.paths.anchors
        with kept(place, anchor, common):
            stranger = self_signed_authority("another CA").certificate
            write_certificates(anchor, [stranger])
            write_certificates(common, [stranger, *load_certificates(place.place.ca_cert)])
            reload(place)
            yield

    return broken


@contextmanager
def no_anchor(lab: Lab) -> Iterator[None]:
    anchor = lab.plant.paths.certs / f"{ENTERPRISE}-ca.crt"
    with kept(lab.plant, anchor):
        anchor.unlink()
        yield


@contextmanager
def readable_key(lab: Lab) -> Iterator[None]:
    key = lab.plant.paths.server_key
    try:
        key.chmod(0o644)
        yield
    finally:
        key.chmod(0o600)


def revoked(zone: str) -> Break:
    """plant-a has a revocation list with this zone's certificate on it; a list can't be taken back while it runs."""

    @contextmanager
    def broken(lab: Lab) -> Iterator[None]:
        plant, now = lab.plant, datetime.now(UTC)
        lists = b""
        for each in lab.zones.values():
            leaf = load_certificates(each.paths.server_certificate)[0]
            serials = [leaf.serial_number] if each.place.zone == zone else []
            path = lab.directory / f"{each.place.zone}.crl"
            issue_crl(
                each.place.ca_cert, each.place.ca_key, serials, 1, now - timedelta(hours=1), now + timedelta(days=1),
                path,
            )  # fmt: skip
            lists += path.read_bytes()
        plant.install(plant.paths.crl, lists)
        try:
            reload(plant)
            yield
        finally:
            plant.stop_gateway()
            plant.paths.crl.unlink()
            start_again(lab)

    return broken


@contextmanager
def stopped_peer(lab: Lab) -> Iterator[None]:
    lab.enterprise.stop_gateway()
    try:
        yield
    finally:
        start_again(lab)


@contextmanager
def stopped_gateway(lab: Lab) -> Iterator[None]:
    lab.plant.stop_gateway()
    try:
        yield
    finally:
        start_again(lab)


@contextmanager
def halted_link(lab: Lab) -> Iterator[None]:
    """The sender's operator declares a new history; ours has not accepted it."""
    stream = "facts.batch_completed"
    lab.enterprise.ask("stream", "new-epoch", stream, "--reason", "row of a test")
    wait_state(lab, stream, "halted")
    try:
        yield
    finally:
        lab.plant.ask(
            "cursor", "accept-epoch", "--peer", ENTERPRISE, "--stream", stream, "--from", "full_backfill",
            "--reason", "row of a test",
        )  # fmt: skip


@contextmanager
def kept(zone: Zone, *paths: Path) -> Iterator[None]:
    """These files as they were, behind the block."""
    before = [(path, path.read_bytes(), path.stat().st_mode & 0o777) for path in paths]
    try:
        yield
    finally:
        for path, content, mode in before:
            path.unlink(missing_ok=True)
            path.touch(mode)
            path.write_bytes(content)
        reload(zone)


def start_again(lab: Lab) -> None:
    """Both zones are up; a machine that is busy with other tests gets another try."""
    for _ in range(2):
        with suppress(BsfgError):
            processes.start(lab.directory)
            return
    processes.start(lab.directory)


def reload(zone: Zone) -> None:
    """Whether or not it can be loaded."""
    zone.bsfg("config", "reload")


def wait_state(lab: Lab, stream: str, state: str) -> None:
    eventually(f"{stream} is {state}", 15, lambda: lab.plant.cursor(stream=stream)["state"] == state)


def without_lines(key: str, *, of: int) -> Break:
    """config/bringup.yaml without this key and the lines that belong to it."""

    @contextmanager
    def broken(lab: Lab) -> Iterator[None]:
        path = lab.plant.paths.bringup_file
        lines = path.read_text().splitlines(keepends=True)
        start = next(number for number, line in enumerate(lines) if line.startswith(f"{key}:"))
        with lab.plant.changed(path, ("".join(lines[start : start + of]), "")):
            yield

    return broken


AUDIT_LINK: Final = (
    "  - peer: enterprise\n    stream: facts.audit\n    init_mode: full_backfill\n"
    '    justification: "compliance: the audit trail has to be complete"\n'
)

ROWS: Final = (
    Row("preconditions.commissioned", without_lines("commissioning", of=3)),
    Row("preconditions.authorization", without_lines("authorization_matrix", of=5)),
    Row("preconditions.streams", without_lines("message_catalog", of=1)),
    Row("preconditions.streams", without_lines("exported_streams", of=1), "not named"),
    Row("preconditions.artifacts", without_lines("artifact_policy", of=1)),
    Row("preconditions.monitoring", without_lines("monitoring", of=3)),
    Row("certificates.issued", readable_key),
    Row("anchors.installed", no_anchor),
    Row("inputs.identities", inputs(("identity: enterprise-bsfg", "identity: hq-bsfg"))),
    Row("inputs.endpoints", inputs(("zone_a_endpoint: 127.1.1.10", "zone_a_endpoint: 127.1.1.11"))),
    Row("inputs.trust-chain", lambda lab: named_trust_chain(lab)),
    Row("inputs.authorization-matrix", inputs(("[facts.orders, facts.shipments], artifacts", "[], artifacts"))),
    Row("inputs.cursor-init-mode", inputs(("cursor_init_mode: bounded_backfill_24h", "cursor_init_mode: start_now"))),
    Row("inputs.artifact-access-rules", inputs(("{batch-files: read, documents: read}", "{batch-files: read}"))),
    Row("trust.own-validity", certificate(PLANT, 1, 10)),
    Row("trust.own-expiry", certificate(PLANT, 10)),
    Row("trust.peer-validity", certificate(ENTERPRISE, 1, 10)),
    Row("trust.peer-expiry", certificate(ENTERPRISE, 10)),
    Row("trust.peer-chain", other_anchor(PLANT, ENTERPRISE)),
    Row(
        "trust.peer-identity",
        both(
            inputs(("identity: enterprise-bsfg", "identity: hq-bsfg")),
            configured(PLANT, "peers_file", ("identity: enterprise-bsfg", "identity: hq-bsfg")),
        ),
    ),
    Row("access.configuration-active", configured(PLANT, "zone_file", ("lab: true", "lab: true\ndurability: lazy"))),
    Row("access.peer-listed", configured(PLANT, "peers_file", ("authorized: true", "authorized: false"))),
    Row("access.peer-grants", configured(ENTERPRISE, "peers_file", (", facts.audit]", "]")), outcome="warned"),
    Row(
        "streams.exported",
        configured(PLANT, "zone_file", ("- name: facts.orders\n", "- {name: facts.orders, max_age: 1h}\n")),
        outcome="warned",
    ),
    Row("cursors.policy", configured(PLANT, "cursors_file", (AUDIT_LINK, ""))),
    Row("cursors.required-history", inputs(("facts.operational: 24h", "facts.operational: 48h"))),
    Row(
        "cursors.overrides",
        inputs(("cursor_init_mode: bounded_backfill_24h", "cursor_init_mode: full_backfill")),
        outcome="warned",
    ),
    Row("health.peer", configured(ENTERPRISE, "peers_file", ("authorized: true", "authorized: false")), "403"),
    Row("health.peer", other_anchor(ENTERPRISE, PLANT), "our CA is not trusted"),
    Row("endpoint.reachable", stopped_peer),
    Row("gateway.healthy", stopped_gateway),
    Row("fetch.first", halted_link),
    Row("trust.own-revocation", revoked(PLANT)),
    Row("trust.peer-revocation", revoked(ENTERPRISE)),
)


@contextmanager
def named_trust_chain(lab: Lab) -> Iterator[None]:
    """The inputs name a file with another CA."""
    other = lab.directory / "other-ca.crt"
    write_certificates(other, [self_signed_authority("another CA").certificate])
    anchors = Home(lab.plant.home).anchors
    with lab.plant.changed(lab.plant.paths.bringup_file, (json.dumps(str(anchors)), json.dumps(str(other)))):
        yield


IN_EACH_RUN: Final = frozenset(
    {
        "preconditions.commissioned",
        "inputs.endpoints",
        "trust.own-expiry",
        "trust.peer-chain",
        "access.peer-listed",
        "access.peer-grants",
        "cursors.policy",
        "fetch.first",
        "trust.peer-revocation",
    }
)
"""The others take minutes, and are for ``make test-slow``."""


def _marked(row: Row) -> ParameterSet:
    return pytest.param(row, marks=() if row.check in IN_EACH_RUN else pytest.mark.slow)


@pytest.mark.parametrize("row", [_marked(row) for row in ROWS], ids=map(str, ROWS))
def test_one_broken_thing_fails_one_check(lab: Lab, row: Row) -> None:
    with row.broken(lab):
        status, answer = bringup(lab.plant, ENTERPRISE, "--again")
    found = next(result for result in answer["results"] if result["id"] == row.check)
    assert complaints(answer) == {row.check: row.outcome}, found
    assert status == 1
    assert found["found"] and found["expected"] and found["hint"], found
    assert (answer["halted_at"] is not None) == (row.outcome == "failed")


def test_nothing_broken_fails_nothing_on_either_side(lab: Lab) -> None:
    lab.healthy()
    for zone, peer in ((lab.plant, ENTERPRISE), (lab.enterprise, PLANT)):
        status, answer = bringup(zone, peer, "--again")
        assert (status, complaints(answer), answer["halted_at"]) == (0, {}, None)
        denials = {row["id"]: row["outcome"] for row in answer["results"] if row["id"].startswith("denial.")}
        assert {name for name, outcome in denials.items() if outcome == "passed"} >= {
            "denial.wrong-ca", "denial.self-signed", "denial.expired", "denial.no-certificate",
            "denial.unlisted-identity", "denial.unlisted-stream",
        }, denials  # fmt: skip
