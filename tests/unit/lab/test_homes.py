"""The homes of a lab: what the contract says of them, and that a gateway could start from each."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest
from cryptography import x509
from ruamel.yaml import YAML
from tests.support import own_ports

from bsfg.bootstrap.trust import build_trust
from bsfg.config.load import load
from bsfg.config.values import Configuration
from bsfg.errors import BsfgError, Code
from bsfg.lab import homes, processes
from bsfg.lab.homes import ENTERPRISE, PLANT_A, ZONES, given_ports, peer_of
from bsfg.lab.templates import ZoneSpec


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("labs") / "lab"
    processes.build(directory)
    return directory


def links_of(configuration: Configuration) -> dict[str, tuple[str, str | None]]:
    return {
        f"{name.peer}/{name.stream}": (link.init_mode.text, link.justification)
        for name, link in configuration.links.items()
    }


def test_the_zones_are_those_of_the_contract(lab: Path) -> None:
    enterprise, plant = load(lab / "enterprise"), load(lab / "plant-a")
    assert [stream.name for stream in enterprise.zone.streams] == [
        "facts.operational", "facts.batch_completed", "facts.audit", "facts.telemetry",
    ]  # fmt: skip
    assert [stream.name for stream in plant.zone.streams] == [
        "facts.orders",
        "facts.shipments",
        "facts.operational",
    ]
    to_plant, to_enterprise = (next(iter(each.peers.values())) for each in (enterprise, plant))
    assert (to_plant.id, to_plant.authorized, to_plant.rule.identity) == ("plant-a", True, "plant-a-bsfg")
    assert to_plant.streams == ("facts.operational", "facts.batch_completed", "facts.audit")
    assert to_plant.artifacts == ("batch-files", "documents")
    assert to_enterprise.streams == ("facts.orders", "facts.shipments")
    assert to_enterprise.artifacts == ("order-files",)
    assert enterprise.zone.lab and plant.zone.lab
    assert enterprise.zone.log.file == lab / "enterprise" / "data" / "bsfg.log"


def test_each_imports_all_that_the_other_exports(lab: Path) -> None:
    default = ("bounded_backfill_24h", None)
    ours = links_of(load(lab / "plant-a"))
    assert ours.pop("enterprise/facts.audit") == (
        "full_backfill",
        "compliance: the audit trail has to be complete",
    )
    assert ours == {"enterprise/facts.operational": default, "enterprise/facts.batch_completed": default}
    assert links_of(load(lab / "enterprise")) == {
        "plant-a/facts.orders": default,
        "plant-a/facts.shipments": default,
    }


@pytest.mark.parametrize("spec", ZONES, ids=lambda spec: spec.zone)
def test_a_gateway_accepts_certificates_and_anchors(lab: Path, spec: ZoneSpec) -> None:
    configuration = load(lab / spec.zone)
    build_trust(configuration, None)
    peer = next(iter(configuration.peers.values()))
    assert peer.trust_anchor == lab / spec.zone / "certs" / f"{peer.id}-ca.crt"
    own_ca, peer_ca = ((lab / "ca" / zone / "ca.crt").read_bytes() for zone in (spec.zone, peer.id))
    assert peer.trust_anchor.read_bytes() == peer_ca
    assert configuration.paths.anchors.read_bytes() == own_ca + peer_ca
    certificate = x509.load_pem_x509_certificate(configuration.paths.server_certificate.read_bytes())
    certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(own_ca))
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [spec.identity]
    assert [str(address) for address in names.get_values_for_type(x509.IPAddress)] == [spec.host]
    assert len(list(names)) == 2
    assert certificate.subject.rfc4514_string() == f"CN={spec.identity}"


def test_keys_and_seeds_are_private_and_folders_closed(lab: Path) -> None:
    for path in lab.rglob("*"):
        mode = stat.S_IMODE(path.stat().st_mode)
        if path.is_dir():
            assert mode == 0o700, path
        elif path.suffix in (".key", ".nk"):
            assert mode == 0o600, path
    assert len(list(lab.rglob("*.key"))) == 4
    assert len(list(lab.rglob("*.nk"))) == 4


@pytest.mark.parametrize("spec", ZONES, ids=lambda spec: spec.zone)
def test_nothing_in_one_home_names_a_file_of_the_other(lab: Path, spec: ZoneSpec) -> None:
    other = os.fsencode(lab / peer_of(spec).zone)
    files = [path for path in (lab / spec.zone).rglob("*") if path.is_file()]
    assert files and not [path for path in files if other in path.read_bytes()]


@pytest.mark.parametrize("spec", ZONES, ids=lambda spec: spec.zone)
def test_the_bring_up_inputs_equal_the_configuration(lab: Path, spec: ZoneSpec) -> None:
    inputs = YAML(typ="safe", pure=True).load((lab / spec.zone / "config" / "bringup.yaml").read_text())
    zones = {zone.zone: load(lab / zone.zone) for zone in ZONES}
    assert inputs["zone_a_identity"] == {"zone": "enterprise", "identity": "enterprise-bsfg"}
    assert inputs["zone_b_identity"] == {"zone": "plant-a", "identity": "plant-a-bsfg"}
    assert inputs["zone_a_endpoint"] == str(zones["enterprise"].zone.listen)
    assert inputs["zone_b_endpoint"] == str(zones["plant-a"].zone.listen)
    assert inputs["trust_chain"] == str(lab / spec.zone / "certs" / "ca.crt")
    assert inputs["exported_streams"] == list(ENTERPRISE.exports)
    assert inputs["cursor_init_mode"] == "bounded_backfill_24h"
    assert inputs["artifact_access_rules"] == {"batch-files": "read", "documents": "read"}
    assert inputs["authorization_matrix"]["enterprise"]["streams"] == list(PLANT_A.exports)
    for name in (
        "commissioning",
        "artifact_policy",
        "message_catalog",
        "monitoring",
        "required_history",
        "approver",
    ):
        assert inputs[name], name


def test_another_port_is_taken_where_9443_is_not_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(homes.PORTS_VARIABLE)
    with socket.socket() as occupant:
        occupant.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        occupant.bind((ENTERPRISE.host, 0 if not homes.is_free(ENTERPRISE.host, 9443) else 9443))
        occupant.listen()
        homes.build(tmp_path / "lab")
        listen = load(tmp_path / "lab" / "enterprise").zone.listen
    assert listen.host == ENTERPRISE.host and listen.port != 9443
    peer = next(iter(load(tmp_path / "lab" / "plant-a").peers.values()))
    assert peer.endpoint == listen


def test_the_environment_says_which_ports_a_lab_may_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ports = given_ports()
    assert ports is not None, "each test process has ports of its own"
    few = ports[-20:]
    monkeypatch.setenv(homes.PORTS_VARIABLE, f"{few.start}-{few.stop - 1}")
    homes.build(tmp_path / "lab")
    for spec in ZONES:
        zone = load(tmp_path / "lab" / spec.zone).zone
        assert zone.listen.port == few.start
        assert {zone.local.port, processes.nats_port(load(tmp_path / "lab" / spec.zone))} <= set(few)
    monkeypatch.setenv(homes.PORTS_VARIABLE, str(few.start))
    with pytest.raises(BsfgError, match="is no range of ports") as caught:
        given_ports()
    assert caught.value.code is Code.CONFIGURATION


def test_two_processes_that_run_tests_have_different_ports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(homes.PORTS_VARIABLE, "")
    found = []
    held = []
    for _ in range(2):
        held.append(own_ports.claim(tmp_path / "locks"))
        found.append(given_ports())
    os.close(held[0])
    held[0] = own_ports.claim(tmp_path / "locks")
    assert given_ports() == found[0], "what a process held is free behind it"
    for descriptor in held:
        os.close(descriptor)
    one, two = found
    assert one is not None and two is not None and not set(one) & set(two)


def test_a_taken_port_is_not_free() -> None:
    with socket.socket() as occupant:
        occupant.bind(("127.0.0.1", 0))
        occupant.listen()
        assert not homes.is_free("127.0.0.1", occupant.getsockname()[1])


def test_a_manual_start_is_written_for_that_link_alone(tmp_path: Path) -> None:
    homes.build(tmp_path / "lab", manual_start=["facts.operational"])
    links = load(tmp_path / "lab" / "plant-a").links
    assert {name.stream: link.start.value for name, link in links.items()} == {
        "facts.operational": "manual", "facts.batch_completed": "load", "facts.audit": "load",
    }  # fmt: skip


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(BsfgError, match="is not empty and holds no lab") as caught:
        processes.up(tmp_path, empty=True)
    assert caught.value.code is Code.CONFIGURATION
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_down_needs_a_lab_and_a_zone_of_it(lab: Path, tmp_path: Path) -> None:
    with pytest.raises(BsfgError, match="holds no lab"):
        processes.down(tmp_path)
    with pytest.raises(BsfgError, match="has no zone plant-z"):
        processes.down(lab, "plant-z")
    assert processes.down(lab, "plant-a")["stopped"] == {"plant-a": {"gateway": None, "nats_server": None}}
