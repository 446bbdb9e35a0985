from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path

import pytest
from cryptography.x509.oid import ExtendedKeyUsageOID
from tests.support.certificates import DAY, HOUR, Issued, TestAuthority, peer, trust_of

from bsfg.errors import BsfgError, Code, ConfigurationError
from bsfg.model.identity import IdentityFrom, IdentityRule
from bsfg.model.moment import NANOSECONDS
from bsfg.model.names import ZoneId
from bsfg.transport.certificates import fingerprint
from bsfg.transport.revocation import RevocationList
from bsfg.transport.trust import PeerTrust, TrustStore, load_revocation, server_name

ENTERPRISE, PLANT_A = ZoneId("enterprise"), ZoneId("plant-a")


@pytest.fixture
def authority(tmp_path: Path) -> TestAuthority:
    return TestAuthority(tmp_path / "ca")


@pytest.fixture
def own(authority: TestAuthority) -> Issued:
    return authority.zone("plant-a-bsfg")


def store(
    authority: TestAuthority, own: Issued, revocation: RevocationList | None = None, **peers: PeerTrust
) -> TrustStore:
    """plant-a's trust; without peers named, it knows the enterprise."""
    return trust_of(
        own, "plant-a-bsfg", authority.path, peers or {"enterprise": peer("enterprise-bsfg")}, revocation
    )


def caller(trust: TrustStore, issued: Issued, now: int | None = None) -> str:
    """The zone that the certificate is taken for, or the reason for refusing it."""
    try:
        return trust.verify_caller(issued.der, time.time_ns() if now is None else now).zone
    except BsfgError as error:
        assert error.code in (Code.PEER_UNKNOWN, Code.IDENTITY_REJECTED)
        assert error.hint
        return str(error.details["reason"])


# --- identity -------------------------------------------------------------------------------------------------------


def test_a_configured_peer_is_known(authority: TestAuthority, own: Issued) -> None:
    verified = store(authority, own).verify_caller(authority.zone("enterprise-bsfg").der, time.time_ns())
    assert (verified.zone, verified.view.dns) == ("enterprise", ("enterprise-bsfg",))


@pytest.mark.parametrize("name", ["Enterprise-BSFG", "enterprise-bsfg"])
def test_dns_names_compare_without_case(authority: TestAuthority, own: Issued, name: str) -> None:
    assert caller(store(authority, own), authority.issue(dns=[name])) == "enterprise"


@pytest.mark.parametrize(
    "dns",
    [[], ["other"], ["enterprise-bsfg", "plant-b-bsfg"], ["*"], ["enterprise-bsfg."], ["enterprise-bsfg.x"]],
    ids=["cn-only", "other", "two", "wildcard", "dot", "suffix"],
)
def test_what_is_not_exactly_the_identity_is_unknown(
    authority: TestAuthority, own: Issued, dns: list[str]
) -> None:
    assert caller(store(authority, own), authority.issue("enterprise-bsfg", dns=dns)) == "unknown_identity"


def test_two_entries_are_the_identity_where_both_are_listed(authority: TestAuthority, own: Issued) -> None:
    trust = store(authority, own, enterprise=peer("enterprise-bsfg", extra=("gw.enterprise",)))
    assert caller(trust, authority.issue(dns=["gw.enterprise", "enterprise-bsfg"])) == "enterprise"
    assert caller(trust, authority.issue(dns=["enterprise-bsfg"])) == "unknown_identity"


def test_a_uri_identity_is_compared_exactly(authority: TestAuthority, own: Issued) -> None:
    rule = peer("spiffe://bsfg/enterprise", identity_from=IdentityFrom.URI)
    trust = store(authority, own, enterprise=rule)
    assert caller(trust, authority.issue("x", dns=["x"], uri=["spiffe://bsfg/enterprise"])) == "enterprise"
    assert caller(trust, authority.issue("x", uri=["spiffe://bsfg/Enterprise"])) == "unknown_identity"
    assert caller(trust, authority.issue("x", dns=["enterprise"])) == "unknown_identity"


def test_the_common_name_counts_only_by_exception(authority: TestAuthority, own: Issued) -> None:
    by_subject = store(authority, own, enterprise=peer("enterprise-bsfg", identity_from=IdentityFrom.SUBJECT))
    bare = authority.issue("enterprise-bsfg", ip=["127.0.0.1"])
    assert caller(by_subject, bare) == "enterprise"
    assert caller(store(authority, own), bare) == "unknown_identity"
    assert caller(by_subject, authority.zone("enterprise-bsfg")) == "unknown_identity"


def test_a_certificate_of_two_peers_is_neither(authority: TestAuthority, own: Issued) -> None:
    trust = store(
        authority, own, one=peer("one-bsfg"), two=peer("spiffe://two", identity_from=IdentityFrom.URI)
    )
    assert caller(trust, authority.issue(dns=["one-bsfg"], uri=["spiffe://two"])) == "ambiguous_identity"
    assert caller(trust, authority.issue(dns=["one-bsfg"], uri=["spiffe://x"])) == "one"


def test_a_peer_that_is_not_authorized_is_unknown(authority: TestAuthority, own: Issued) -> None:
    trust = store(authority, own, enterprise=peer("enterprise-bsfg", authorized=False))
    assert caller(trust, authority.zone("enterprise-bsfg")) == "not_authorized"
    with pytest.raises(BsfgError) as caught:
        trust.client_context(ENTERPRISE)
    assert caught.value.code is Code.PEER_UNKNOWN
    assert store(authority, own).client_context(ENTERPRISE)


def test_what_is_no_certificate_is_refused(authority: TestAuthority, own: Issued) -> None:
    trust = store(authority, own)
    for der, reason in ((b"", "no_certificate"), (b"garbage", "malformed")):
        with pytest.raises(BsfgError) as caught:
            trust.verify_caller(der, time.time_ns())
        assert caught.value.details["reason"] == reason


# --- chain ----------------------------------------------------------------------------------------------------------


def test_another_ca_vouches_for_nobody(tmp_path: Path, authority: TestAuthority, own: Issued) -> None:
    other = TestAuthority(tmp_path / "other", authority.common_name)
    assert caller(store(authority, own), other.zone("enterprise-bsfg")) == "wrong_anchor"
    assert caller(store(authority, own), authority.zone("enterprise-bsfg")) == "enterprise"


def test_a_self_signed_certificate_vouches_for_nobody(authority: TestAuthority, own: Issued) -> None:
    forged = authority.issue("enterprise-bsfg", dns=["enterprise-bsfg"], self_signed=True)
    assert caller(store(authority, own), forged) == "wrong_anchor"


def test_a_pinned_anchor_vouches_for_its_peer_only(
    tmp_path: Path, authority: TestAuthority, own: Issued
) -> None:
    one, two = TestAuthority(tmp_path / "one"), TestAuthority(tmp_path / "two")
    trust = store(
        authority,
        own,
        one=peer("one-bsfg", anchor=one.path),
        two=peer("two-bsfg", anchor=two.path),
        three=peer("three-bsfg"),
    )
    assert [caller(trust, ca.zone(f"{name}-bsfg")) for ca, name in ((one, "one"), (two, "two"))] == [
        "one",
        "two",
    ]
    assert caller(trust, authority.zone("three-bsfg")) == "three"
    assert caller(trust, one.zone("two-bsfg")) == "wrong_anchor"
    assert caller(trust, one.zone("three-bsfg")) == "wrong_anchor"
    assert caller(trust, authority.zone("one-bsfg")) == "wrong_anchor"
    assert trust.anchor_fingerprints(ZoneId("one")) == (fingerprint(one.authority.certificate),)
    assert trust.anchor_fingerprints(ZoneId("three")) == (fingerprint(authority.authority.certificate),)


def test_a_ca_is_no_zone(authority: TestAuthority, own: Issued) -> None:
    ca = authority.issue("enterprise-bsfg", dns=["enterprise-bsfg"], is_authority=True)
    assert caller(store(authority, own), ca) == "ca_certificate"


def test_each_direction_has_its_purpose(authority: TestAuthority, own: Issued) -> None:
    trust, name = store(authority, own), "enterprise-bsfg"
    server = authority.issue(dns=[name], purposes=[ExtendedKeyUsageOID.SERVER_AUTH])
    client = authority.issue(dns=[name], purposes=[ExtendedKeyUsageOID.CLIENT_AUTH])
    now = time.time_ns()
    assert caller(trust, server) == "wrong_purpose"
    assert caller(trust, client) == "enterprise"
    assert caller(trust, authority.issue(dns=[name], purposes=[])) == "enterprise"
    assert trust.verify_server(server.der, ENTERPRISE, now).zone == "enterprise"
    with pytest.raises(BsfgError) as caught:
        trust.verify_server(client.der, ENTERPRISE, now)
    assert caught.value.details["reason"] == "wrong_purpose"


def test_dates_decide(authority: TestAuthority, own: Issued) -> None:
    trust, name = store(authority, own), ["enterprise-bsfg"]
    assert caller(trust, authority.issue(dns=name, begins=-DAY, ends=-HOUR)) == "expired"
    assert caller(trust, authority.issue(dns=name, begins=HOUR, ends=DAY)) == "not_yet_valid"
    assert caller(trust, authority.issue(dns=name, begins=-HOUR, ends=HOUR)) == "enterprise"


def test_a_server_with_another_identity_is_not_the_peer(authority: TestAuthority, own: Issued) -> None:
    trust, now = (
        store(authority, own, enterprise=peer("enterprise-bsfg"), other=peer("other-bsfg")),
        time.time_ns(),
    )
    with pytest.raises(BsfgError) as caught:
        trust.verify_server(authority.zone("other-bsfg").der, ENTERPRISE, now)
    assert caught.value.details["reason"] == "identity_mismatch"
    assert trust.verify_server(authority.zone("other-bsfg").der, ZoneId("other"), now).zone == "other"


def test_hostile_names_stay_one_line(authority: TestAuthority, own: Issued) -> None:
    hostile = authority.issue("a\nb", uri=["x://a\u0007b\nc"])
    with pytest.raises(BsfgError) as caught:
        store(authority, own).verify_caller(hostile.der, time.time_ns())
    assert caught.value.message.isprintable()


# --- revocation and rechecks ----------------------------------------------------------------------------------------


def test_revocation_decides(tmp_path: Path, authority: TestAuthority, own: Issued) -> None:
    bad, good = authority.zone("enterprise-bsfg"), authority.zone("enterprise-bsfg")
    crl = tmp_path / "crl.pem"
    crl.write_bytes(authority.crl([bad]))
    trust = store(authority, own, load_revocation(crl, authority.path, {}))
    assert caller(trust, bad) == "revoked"
    assert caller(trust, good) == "enterprise"
    assert trust.revocation_next_update
    assert store(authority, own).revocation_next_update is None


def test_a_pinned_anchor_needs_its_own_crl(tmp_path: Path, authority: TestAuthority, own: Issued) -> None:
    pinned = TestAuthority(tmp_path / "pinned")
    peers = {ENTERPRISE: peer("enterprise-bsfg", anchor=pinned.path)}
    crl = tmp_path / "crl.pem"
    crl.write_bytes(authority.crl())
    issued = pinned.zone("enterprise-bsfg")
    without = store(authority, own, load_revocation(crl, authority.path, peers), enterprise=peers[ENTERPRISE])
    assert caller(without, issued) == "crl_missing"
    crl.write_bytes(authority.crl() + pinned.crl())
    with_crl = store(
        authority, own, load_revocation(crl, authority.path, peers), enterprise=peers[ENTERPRISE]
    )
    assert caller(with_crl, issued) == "enterprise"


def test_an_older_crl_keeps_the_running_one(tmp_path: Path, authority: TestAuthority) -> None:
    crl = tmp_path / "crl.pem"
    crl.write_bytes(authority.crl(number=2))
    running = load_revocation(crl, authority.path, {})
    crl.write_bytes(authority.crl(number=1))
    with pytest.raises(BsfgError, match="older than the one in use"):
        load_revocation(crl, authority.path, {}, previous=running)
    crl.write_bytes(authority.crl(number=3))
    assert load_revocation(crl, authority.path, {}, previous=running)


def test_a_recheck_sees_time_pass(authority: TestAuthority, own: Issued) -> None:
    issued = authority.issue(dns=["enterprise-bsfg"], ends=HOUR)
    crls = RevocationList.parse(authority.crl(ends=HOUR / 2), "CRL", [authority.authority.certificate])
    now, minute = time.time_ns(), 60 * NANOSECONDS
    with_crl, without = store(authority, own, crls), store(authority, own)
    verified = with_crl.verify_caller(issued.der, now)
    with_crl.recheck(verified, now + 29 * minute)
    without.recheck(verified, now + 59 * minute)
    for trust, later, reason in ((with_crl, 31, "crl_expired"), (without, 61, "expired")):
        with pytest.raises(BsfgError) as caught:
            trust.recheck(verified, now + later * minute)
        assert caught.value.details["reason"] == reason


def test_a_known_caller_is_held_against_the_time_again(authority: TestAuthority, own: Issued) -> None:
    trust, issued = store(authority, own), authority.issue(dns=["enterprise-bsfg"], ends=HOUR)
    now, minute = time.time_ns(), 60 * NANOSECONDS
    first = trust.verify_caller(issued.der, now)
    assert trust.verify_caller(issued.der, now + 59 * minute) is first
    assert caller(trust, issued, now + 61 * minute) == "expired"
    assert caller(trust, authority.zone("other-bsfg")) == "unknown_identity"


def test_what_was_verified_ends_with_its_ca(tmp_path: Path, authority: TestAuthority, own: Issued) -> None:
    below = authority.intermediate(tmp_path / "below")
    issued = below.issue(dns=["enterprise-bsfg"], ends=DAY * 400)
    trust = trust_of(own, "plant-a-bsfg", below.path, {"enterprise": peer("enterprise-bsfg")})
    verified = trust.verify_caller(issued.der, time.time_ns())
    end_of_ca = below.authority.certificate.not_valid_after_utc.timestamp()
    assert verified.valid_until == int(end_of_ca) * NANOSECONDS < verified.view.not_after


# --- building -------------------------------------------------------------------------------------------------------


def test_our_own_expired_certificate_does_not_stop_us(authority: TestAuthority) -> None:
    ended = authority.issue("plant-a-bsfg", dns=["plant-a-bsfg"], begins=-3 * DAY, ends=-DAY)
    trust = store(authority, ended)
    assert trust.own_days_left(time.time_ns()) == -2
    assert caller(trust, authority.zone("enterprise-bsfg")) == "enterprise"
    assert trust.client_context(ENTERPRISE)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601])
def test_a_key_that_others_can_touch_is_refused(authority: TestAuthority, own: Issued, mode: int) -> None:
    own.key_path.chmod(mode)
    with pytest.raises(ConfigurationError, match=f"can be read by others .*{mode:o}.*chmod 600"):
        store(authority, own)
    own.key_path.chmod(0o400)
    assert store(authority, own)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_key_of_another_user_is_refused(authority: TestAuthority, own: Issued) -> None:
    os.chown(own.key_path, 12345, -1)
    with pytest.raises(ConfigurationError, match="belongs to another user"):
        store(authority, own)


def test_a_key_of_another_certificate_is_refused(authority: TestAuthority, own: Issued) -> None:
    mixed = dataclasses.replace(own, key_path=authority.zone("x").key_path)
    with pytest.raises(ConfigurationError, match="does not belong to the certificate"):
        store(authority, mixed)


def test_our_certificate_must_carry_our_identity(authority: TestAuthority) -> None:
    with pytest.raises(ConfigurationError, match="does not carry this zone's identity"):
        store(authority, authority.issue("plant-a-bsfg"))


def test_our_certificate_is_no_ca(authority: TestAuthority) -> None:
    with pytest.raises(ConfigurationError, match="is a CA's"):
        store(authority, authority.issue("plant-a-bsfg", dns=["plant-a-bsfg"], is_authority=True))


def test_a_dialler_knows_no_anchor_but_the_peers(
    tmp_path: Path, authority: TestAuthority, own: Issued
) -> None:
    pinned = TestAuthority(tmp_path / "pinned", "pinned CA")
    trust = store(authority, own, one=peer("one-bsfg", anchor=pinned.path), two=peer("two-bsfg"))
    names = {
        zone: [anchor["subject"] for anchor in trust.client_context(ZoneId(zone)).get_ca_certs()]
        for zone in ("one", "two")
    }
    assert names == {"one": [((("commonName", "pinned CA"),),)], "two": [((("commonName", "test CA"),),)]}
    assert len(trust.server_context().get_ca_certs()) == 2


@pytest.mark.parametrize("missing", ["serverAuth", "clientAuth"])
def test_our_certificate_serves_both_directions(authority: TestAuthority, missing: str) -> None:
    server, client = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH
    half = authority.issue(dns=["plant-a-bsfg"], purposes=[client if missing == "serverAuth" else server])
    with pytest.raises(ConfigurationError, match=missing):
        store(authority, half)


def test_a_garbled_or_encrypted_key_is_named(authority: TestAuthority, own: Issued) -> None:
    secret = b"-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n"
    own.key_path.write_bytes(secret)
    with pytest.raises(ConfigurationError, match="holds no readable private key") as caught:
        store(authority, own)
    assert "c2VjcmV0" not in str(caught.value)
    own.key_path.write_bytes(secret.replace(b"PRIVATE", b"ENCRYPTED PRIVATE"))
    with pytest.raises(ConfigurationError, match="is encrypted"):
        store(authority, own)


def test_every_problem_is_told_at_once(tmp_path: Path, authority: TestAuthority, own: Issued) -> None:
    own.key_path.unlink()
    peers = {
        ENTERPRISE: peer("same-bsfg", anchor=tmp_path / "missing.crt"),
        ZoneId("other"): peer("SAME-bsfg"),
    }
    with pytest.raises(ConfigurationError) as caught:
        TrustStore.build(
            certificate=own.certificate_path,
            key=own.key_path,
            anchors=tmp_path / "ca.crt",
            own=IdentityRule("plant-a-bsfg"),
            peers=peers,
        )
    messages = [problem.message for problem in caught.value.problems]
    assert len(messages) == 4
    for part in (str(own.key_path), "missing.crt", str(tmp_path / "ca.crt"), "have the same identity"):
        assert any(part in message for message in messages), part


def test_a_snapshot_does_not_look_at_its_files_again(authority: TestAuthority, own: Issued) -> None:
    trust = store(authority, own)
    for path in (own.certificate_path, own.key_path, authority.path):
        path.unlink()
    assert trust.client_context(ENTERPRISE)
    assert trust.client_context(ENTERPRISE) is trust.client_context(ENTERPRISE)


@pytest.mark.parametrize(
    ("rule", "name"),
    [
        (IdentityRule("plant-a-bsfg"), "plant-a-bsfg"),
        (IdentityRule("plant-a-bsfg", IdentityFrom.SUBJECT), "plant-a-bsfg"),
        (IdentityRule("Plant A", IdentityFrom.SUBJECT), None),
        (IdentityRule("spiffe://plant-a.example/bsfg", IdentityFrom.URI), "plant-a.example"),
        (IdentityRule("urn:plant-a", IdentityFrom.URI), None),
        (IdentityRule("https://10.1.1.10/x", IdentityFrom.URI), None),
    ],
)
def test_the_server_name_is_the_identity(rule: IdentityRule, name: str | None) -> None:
    assert server_name(rule) == name
