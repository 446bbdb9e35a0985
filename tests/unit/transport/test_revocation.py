from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from tests.support.certificates import DAY, HOUR, Issued, TestAuthority, authority_certificate

from bsfg.errors import BsfgError, Code
from bsfg.model.moment import NANOSECONDS
from bsfg.transport.development_ca import Authority, build_crl
from bsfg.transport.revocation import RevocationList, WhenExpired, issuer_key


@pytest.fixture
def authority(tmp_path: Path) -> TestAuthority:
    return TestAuthority(tmp_path / "ca")


def listed(
    content: bytes, *authorities: TestAuthority, when: WhenExpired = WhenExpired.FAIL_CLOSED
) -> RevocationList:
    return RevocationList.parse(content, "CRL", [each.authority.certificate for each in authorities], when)


def reason(revocation: RevocationList, issued: Issued, authority: TestAuthority, now: int) -> str | None:
    refusal = revocation.check_chain([issued.certificate, authority.authority.certificate], now)
    return refusal.reason if refusal else None


def test_the_revoked_one_is_refused_and_the_other_not(authority: TestAuthority) -> None:
    bad, good = authority.zone("a"), authority.zone("b")
    revocation = listed(authority.crl([bad]), authority)
    assert reason(revocation, bad, authority, time.time_ns()) == "revoked"
    assert reason(revocation, good, authority, time.time_ns()) is None


def test_an_issuer_without_a_crl_is_refused(tmp_path: Path, authority: TestAuthority) -> None:
    other = TestAuthority(tmp_path / "other", authority.common_name)
    revocation = listed(authority.crl(), authority, other)
    assert reason(revocation, other.zone("a"), other, time.time_ns()) == "crl_missing"
    both = listed(authority.crl() + other.crl(), authority, other)
    assert reason(both, other.zone("a"), other, time.time_ns()) is None


def test_a_serial_counts_for_its_own_issuer_only(tmp_path: Path, authority: TestAuthority) -> None:
    other = TestAuthority(tmp_path / "other", authority.common_name)
    bad = authority.zone("a")
    both = listed(authority.crl([bad]) + other.crl(), authority, other)
    serial, now = bad.certificate.serial_number, time.time_ns()
    assert both.check(serial, issuer_key(other.authority.certificate), now) is None
    assert both.check(serial, issuer_key(authority.authority.certificate), now) is not None


def test_an_expired_crl_fails_closed(authority: TestAuthority) -> None:
    good = authority.zone("a")
    revocation = listed(authority.crl(age=2 * DAY, ends=-HOUR), authority)
    assert reason(revocation, good, authority, time.time_ns()) == "crl_expired"
    assert reason(revocation, good, authority, time.time_ns() - 2 * 3600 * NANOSECONDS) is None


def test_grace_lasts_a_day_and_never_covers_the_revoked(authority: TestAuthority) -> None:
    good, bad = authority.zone("a"), authority.zone("b")
    content = authority.crl([bad], age=2 * DAY, ends=-HOUR)
    revocation = listed(content, authority, when=WhenExpired.GRACE_24H)
    now, hour = time.time_ns(), 3600 * NANOSECONDS
    assert reason(revocation, good, authority, now + 22 * hour) is None
    assert reason(revocation, good, authority, now + 24 * hour) == "crl_expired"
    assert reason(revocation, bad, authority, now) == "revoked"


def test_an_older_crl_does_not_supersede(authority: TestAuthority) -> None:
    older = listed(authority.crl(number=4), authority)
    newer = listed(authority.crl(number=5), authority)
    newer.supersedes(older)
    newer.supersedes(newer)
    with pytest.raises(BsfgError, match="is older than the one in use") as caught:
        older.supersedes(newer)
    assert caught.value.code is Code.CONFIGURATION


def test_an_earlier_crl_of_the_same_number_does_not_supersede(authority: TestAuthority) -> None:
    older = listed(authority.crl(age=3 * HOUR), authority)
    newer = listed(authority.crl(age=HOUR), authority)
    newer.supersedes(older)
    with pytest.raises(BsfgError, match="older"):
        older.supersedes(newer)


def test_an_older_crl_of_another_issuer_does_not_matter(tmp_path: Path, authority: TestAuthority) -> None:
    other = TestAuthority(tmp_path / "other")
    listed(other.crl(number=1), other).supersedes(listed(authority.crl(number=9), authority))


def test_of_two_crls_of_one_issuer_the_newest_counts(authority: TestAuthority) -> None:
    bad = authority.zone("a")
    older, newer = authority.crl(number=1), authority.crl([bad], number=2)
    for content in (older + newer, newer + older):
        assert reason(listed(content, authority), bad, authority, time.time_ns()) == "revoked"


def test_a_crl_that_no_anchor_signed_is_refused(tmp_path: Path, authority: TestAuthority) -> None:
    impostor = TestAuthority(tmp_path / "impostor", authority.common_name)
    with pytest.raises(BsfgError, match="none of the trust anchors signed"):
        listed(impostor.crl(), authority)
    assert listed(authority.crl(), authority).next_update


def test_next_update_is_the_first_end(tmp_path: Path, authority: TestAuthority) -> None:
    other = TestAuthority(tmp_path / "other")
    revocation = listed(authority.crl(ends=DAY) + other.crl(ends=HOUR), authority, other)
    expected = time.time_ns() + 3600 * NANOSECONDS
    assert revocation.next_update is not None
    assert abs(revocation.next_update - expected) < 30 * NANOSECONDS


def test_an_intermediate_is_checked_where_its_issuer_has_a_crl(
    tmp_path: Path, authority: TestAuthority
) -> None:
    below = authority.intermediate(tmp_path / "below")
    leaf = below.zone("a")
    chain = [leaf.certificate, below.authority.certificate, authority.authority.certificate]
    now = time.time_ns()
    revoked = Issued(below.authority.certificate, below.authority.key, below.path, below.key_path)
    assert listed(below.crl(), below).check_chain(chain, now) is None
    assert listed(below.crl() + authority.crl(), below, authority).check_chain(chain, now) is None
    refusal = listed(below.crl() + authority.crl([revoked]), below, authority).check_chain(chain, now)
    assert refusal is not None
    assert refusal.reason == "revoked"


@pytest.mark.parametrize(
    "content",
    [b"", b"text", b"-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n"],
    ids=["", "text", "pem"],
)
def test_garbage_is_named_with_its_file(tmp_path: Path, authority: TestAuthority, content: bytes) -> None:
    path = tmp_path / "crl.pem"
    path.write_bytes(content)
    with pytest.raises(BsfgError, match=r"crl\.pem holds no") as caught:
        RevocationList.load(path, [authority.authority.certificate])
    assert caught.value.code is Code.CONFIGURATION


def test_der_is_read(authority: TestAuthority) -> None:
    der = x509.load_pem_x509_crl(authority.crl()).public_bytes(Encoding.DER)
    assert listed(der, authority).next_update


def test_a_delta_crl_is_refused(authority: TestAuthority) -> None:
    now = datetime.now(UTC)
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(authority.authority.certificate.subject)
        .last_update(now)
        .next_update(now + timedelta(days=1))
        .add_extension(x509.CRLNumber(2), critical=False)
    )
    whole = builder.sign(authority.authority.key, SHA256()).public_bytes(Encoding.PEM)
    assert listed(whole, authority).next_update
    delta = builder.add_extension(x509.DeltaCRLIndicator(1), critical=True)
    with pytest.raises(BsfgError, match="critical extension"):
        listed(delta.sign(authority.authority.key, SHA256()).public_bytes(Encoding.PEM), authority)


@pytest.mark.parametrize("may_sign", [True, False])
def test_a_ca_that_may_not_sign_crls_has_none(authority: TestAuthority, may_sign: bool) -> None:
    anchor = authority_certificate(authority.authority.key, crl_sign=may_sign)
    crl = build_crl(Authority(anchor, authority.authority.key), [], 1, *soon())
    content = crl.public_bytes(Encoding.PEM)
    if may_sign:
        assert RevocationList.parse(content, "CRL", [anchor]).next_update
    else:
        with pytest.raises(BsfgError, match="none of the trust anchors signed"):
            RevocationList.parse(content, "CRL", [anchor])


def test_a_crl_of_another_name_is_refused_though_the_key_is_the_same(authority: TestAuthority) -> None:
    key = authority.authority.key
    one, other = authority_certificate(key, "one"), authority_certificate(key, "other")
    content = build_crl(Authority(one, key), [], 1, *soon()).public_bytes(Encoding.PEM)
    assert RevocationList.parse(content, "CRL", [other, one]).next_update
    with pytest.raises(BsfgError, match="none of the trust anchors signed"):
        RevocationList.parse(content, "CRL", [other])


def soon() -> tuple[datetime, datetime]:
    return datetime.now(UTC), datetime.now(UTC) + timedelta(days=1)
