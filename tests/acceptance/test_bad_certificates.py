"""Certificates that are not a peer's are refused by a running gateway, whoever shows them (I32, I33, I35, I36)."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID
from tests.support.certificates import DAY, HOUR, Issued, TestAuthority
from tests.support.lab_zones import ENTERPRISE, OPERATIONAL, PLANT, Lab, Zone, eventually
from tests.support.peer_caller import Said, ask_once, calling

from bsfg.transport.development_ca import Authority

IDENTITY: Final = "plant-a-bsfg"
ACTS_SECONDS_MAX: Final = 10.0
HEALS_SECONDS_MAX: Final = 20.0
# What is asked of plant-a's own CA, and how the refusal is counted: in the handshake, or after it.
BAD: Final[dict[str, tuple[dict[str, Any], str]]] = {
    "expired": ({"dns": [IDENTITY], "begins": -2 * DAY, "ends": -DAY}, "expired"),
    "not yet valid": ({"dns": [IDENTITY], "begins": DAY, "ends": 2 * DAY}, "not_yet_valid"),
    "CN only": ({}, "unknown_identity"),
    "two unlisted SANs": ({"dns": [IDENTITY, "other-bsfg"]}, "unknown_identity"),
    "a second identity": ({"dns": [IDENTITY, "enterprise-bsfg"]}, "unknown_identity"),
    "identity as a URI": ({"uri": [f"spiffe://{IDENTITY}"]}, "unknown_identity"),
    "wildcard": ({"dns": ["*-bsfg"]}, "unknown_identity"),
    "unlisted identity": ({"dns": ["plant-b-bsfg"]}, "unknown_identity"),
    "server only": ({"dns": [IDENTITY], "purposes": [ExtendedKeyUsageOID.SERVER_AUTH]}, "wrong_purpose"),
    "a CA's": ({"dns": [IDENTITY], "is_authority": True}, "ca_certificate"),
    "self-signed": ({"dns": [IDENTITY], "self_signed": True}, "self_signed"),
}


@pytest.fixture(scope="module")
def plants_ca(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> TestAuthority:
    """Plant-a's own CA, so that nothing but the certificate itself is wrong."""
    authority = TestAuthority(tmp_path_factory.mktemp("issued"))
    authority.authority = Authority.load(lab.plant.place.ca_cert, lab.plant.place.ca_key)
    return authority


def _shown_to_enterprise(lab: Lab, shown: Issued) -> Said:
    return ask_once(lab.enterprise, lab.plant.paths.anchors, shown.certificate_path, shown.key_path)


def _counted(zone: Zone, reason: str) -> float:
    """Refusals with this reason, during handshakes and after them."""
    return sum(
        zone.metric(name, reason=reason) or 0.0
        for name in ("bsfg_tls_handshake_errors_total", "bsfg_auth_failures_total")
    )


@pytest.mark.parametrize("name", BAD)
def test_a_bad_client_certificate_is_refused_and_counted(lab: Lab, plants_ca: TestAuthority, name: str) -> None:
    wanted, reason = BAD[name]
    before = _counted(lab.enterprise, reason)
    said = _shown_to_enterprise(lab, plants_ca.issue(IDENTITY, **wanted))
    assert said.is_refused, said
    assert said.code in (None, "identity_rejected", "peer_unknown")
    eventually(f"counted as {reason}", 5, lambda: _counted(lab.enterprise, reason) > before)
    good = _shown_to_enterprise(lab, plants_ca.issue(IDENTITY, dns=[IDENTITY]))
    assert good.status == 200


def test_a_certificate_of_another_ca_is_refused(lab: Lab, tmp_path: Path) -> None:
    """A stranger's, even of the same name; and the other zone's, which is an anchor but not this peer's (I33)."""
    stranger = TestAuthority(tmp_path / "stranger", "plant-a development CA").issue(IDENTITY, dns=[IDENTITY])
    before = _counted(lab.enterprise, "unknown_ca")
    assert _shown_to_enterprise(lab, stranger).status is None
    eventually("counted", 5, lambda: _counted(lab.enterprise, "unknown_ca") > before)
    enterprises = TestAuthority(tmp_path / "enterprise")
    enterprises.authority = Authority.load(lab.enterprise.place.ca_cert, lab.enterprise.place.ca_key)
    said = _shown_to_enterprise(lab, enterprises.issue(IDENTITY, dns=[IDENTITY]))
    assert (said.status, said.code) == (403, "identity_rejected")


def test_no_certificate_is_refused(lab: Lab) -> None:
    said = ask_once(lab.enterprise, lab.plant.paths.anchors, None, None)
    assert said.status is None


def test_a_strangers_refusal_says_nothing_of_paths_and_peers(lab: Lab, plants_ca: TestAuthority) -> None:
    """An unknown path, a known one and any stream look alike to who is not let in."""
    stranger = plants_ca.issue("plant-b-bsfg", dns=["plant-b-bsfg"])
    answers = []
    for path in ("/health", "/v1/streams", "/nosuch", "/v1/view"):
        anchors = lab.plant.paths.anchors
        said = ask_once(lab.enterprise, anchors, stranger.certificate_path, stranger.key_path, path)
        error = said.body["error"]
        answers.append((said.status, error["code"], error["message"], error["hint"], len(said.content)))
    assert len(set(answers)) == 1
    assert answers[0][:2] == (403, "peer_unknown")
    assert ENTERPRISE not in answers[0][2]
    assert PLANT not in answers[0][2]


@pytest.fixture
def restored(lab: Lab) -> Iterator[None]:
    """Plant-a's own certificate is back afterwards, and facts flow."""
    paths = lab.plant.paths
    before = paths.server_certificate.read_bytes(), paths.server_key.read_bytes()
    yield
    _install(lab.plant, *before)
    assert lab.plant.ask("config", "reload")["reloaded"] is True
    lab.enterprise.append(OPERATIONAL, b"{}")
    eventually("enterprise is served again", HEALS_SECONDS_MAX, lambda: _reachable(lab) == 1.0)
    lab.level()


def _install(zone: Zone, certificate: bytes, key: bytes) -> None:
    zone.install(zone.paths.server_key, key)
    zone.paths.server_key.chmod(0o600)
    zone.install(zone.paths.server_certificate, certificate)


def _reachable(lab: Lab) -> float | None:
    return lab.enterprise.metric("bsfg_peer_reachable", peer=PLANT)


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        ({"dns": [IDENTITY], "begins": -2 * DAY, "ends": -DAY}, "expired"),
        ({"dns": [IDENTITY], "begins": DAY, "ends": 2 * DAY}, "not_yet_valid"),
    ],
)
def test_a_peer_whose_own_certificate_is_out_of_date_is_not_believed_and_goes_on_locally(
    lab: Lab, plants_ca: TestAuthority, restored: None, wanted: dict[str, Any], reason: str
) -> None:
    assert _reachable(lab) == 1.0
    bad = plants_ca.issue(IDENTITY, ip=[lab.plant.address[0]], **wanted)
    _install(lab.plant, bad.certificate_path.read_bytes(), bad.key_path.read_bytes())
    assert lab.plant.ask("config", "reload")["reloaded"] is True
    # Connections that were open before go on until they are used up; new ones are refused on both sides.
    lab.enterprise.kill_gateway()
    lab.enterprise.start_gateway()
    eventually("enterprise refuses plant-a", ACTS_SECONDS_MAX, lambda: _asked_quietly(lab) == 0.0)
    peer = lab.enterprise.ask("peer", "list")["peers"][0]
    assert peer["reason"] == reason
    with pytest.raises(ssl.SSLError), calling(lab.enterprise, lab.plant):
        pass
    # Its own work is nobody else's business (I36).
    assert lab.plant.append("facts.orders", b"{}")["appended"] == 1
    assert any("certificate" in problem for problem in lab.plant.status()["problems"]) or reason != "expired"


def _asked_quietly(lab: Lab) -> float | None:
    """The metric while the gateway may still be starting."""
    try:
        return _reachable(lab)
    except OSError:
        return None


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({}, "does not carry this zone's identity"),
        ({"dns": ["plant-b-bsfg"]}, "does not carry this zone's identity"),
        ({"dns": [IDENTITY, "other-bsfg"]}, "does not carry this zone's identity"),
        ({"dns": [IDENTITY], "is_authority": True}, "is a CA's"),
        ({"dns": [IDENTITY], "purposes": [ExtendedKeyUsageOID.CLIENT_AUTH]}, "without serverAuth"),
    ],
)
def test_a_certificate_that_is_not_the_zones_own_is_never_taken(
    lab: Lab, plants_ca: TestAuthority, restored: None, wanted: dict[str, Any], words: str
) -> None:
    bad = plants_ca.issue(IDENTITY, **wanted)
    _install(lab.plant, bad.certificate_path.read_bytes(), bad.key_path.read_bytes())
    status, code, message = lab.plant.refused("config", "reload")
    assert (status, code) == (2, "configuration")
    assert words in message
    with calling(lab.enterprise, lab.plant) as caller:
        assert caller.health().status == 200


def test_a_key_that_others_can_read_or_that_is_another_certificates_is_never_taken(
    lab: Lab, plants_ca: TestAuthority, restored: None
) -> None:
    plant = lab.plant
    other = plants_ca.issue(IDENTITY, dns=[IDENTITY], ip=[plant.address[0]], ends=HOUR)
    _install(plant, plant.paths.server_certificate.read_bytes(), other.key_path.read_bytes())
    assert "does not belong to the certificate" in plant.refused("config", "reload")[2]
    _install(plant, other.certificate_path.read_bytes(), other.key_path.read_bytes())
    plant.paths.server_key.chmod(0o640)
    status, code, message = plant.refused("config", "reload")
    assert (status, code) == (2, "configuration")
    assert "can be read by others" in message
    plant.paths.server_key.chmod(0o600)
    assert plant.ask("config", "reload")["reloaded"] is True
    with calling(lab.enterprise, plant) as caller:
        assert caller.health().status == 200


def test_a_new_certificate_of_the_same_identity_needs_no_restart(lab: Lab, restored: None) -> None:
    """Renewal: new connections show it within seconds, without a word to the gateway."""
    plant = lab.plant
    plant.ask(
        *("cert", "issue", "--identity", IDENTITY, "--ip", plant.address[0]),
        *("--ca-cert", str(plant.place.ca_cert), "--ca-key", str(plant.place.ca_key)),
    )
    wanted = ssl.PEM_cert_to_DER_cert(plant.paths.server_certificate.read_text())
    eventually("the new one is shown", ACTS_SECONDS_MAX, lambda: _shown_by(plant) == wanted)
    assert timedelta(days=300) < timedelta(days=plant.status()["certificate_days_left"])


def _shown_by(zone: Zone) -> bytes:
    return ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate(zone.address, timeout=10))
