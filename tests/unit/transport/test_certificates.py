from __future__ import annotations

import time
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import NameOID
from tests.support.certificates import DAY, HOUR, TestAuthority, authority_certificate, openssl

from bsfg.errors import BsfgError, Code
from bsfg.transport.certificates import (
    CERTIFICATE_FILE_BYTES_MAX,
    Anchors,
    load_certificates,
    parse_certificates,
    view_of,
)
from bsfg.transport.inspection import inspect


@pytest.fixture
def authority(tmp_path: Path) -> TestAuthority:
    return TestAuthority(tmp_path / "ca")


def test_a_view_says_what_the_certificate_says(authority: TestAuthority) -> None:
    issued = authority.issue("plant-a-bsfg", dns=["plant-a-bsfg"], uri=["spiffe://x/a"], ip=["10.3.1.10"])
    view = view_of(issued.certificate)
    assert (view.version, view.common_name, view.dns, view.uri) == (
        3,
        "plant-a-bsfg",
        ("plant-a-bsfg",),
        ("spiffe://x/a",),
    )
    assert view.issuer == "CN=test CA"
    assert view.not_before < time.time_ns() < view.not_after
    printed = openssl(authority.folder, "x509", "-in", "1.crt", "-noout", "-fingerprint", "-sha256")
    assert printed.strip().partition("=")[2].replace(":", "").lower() == view.fingerprint


def test_two_common_names_are_none(authority: TestAuthority) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    names = [x509.NameAttribute(NameOID.COMMON_NAME, name) for name in ("one", "two")]
    issued = authority.issue("one")
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name(names))
        .issuer_name(x509.Name(names))
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(issued.certificate.not_valid_before_utc)
        .not_valid_after(issued.certificate.not_valid_after_utc)
        .sign(key, SHA256())
    )
    assert view_of(certificate).common_name is None
    assert view_of(issued.certificate).common_name == "one"


def test_pem_with_several_and_der_are_read(authority: TestAuthority) -> None:
    one, two = authority.zone("a"), authority.zone("b")
    both = authority.folder / "both.pem"
    both.write_bytes(one.certificate_path.read_bytes() + two.certificate_path.read_bytes())
    assert load_certificates(both) == [one.certificate, two.certificate]
    assert parse_certificates(one.der, "x") == [one.certificate]


@pytest.mark.parametrize(
    "content",
    [b"", b"garbage", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", b"\x30\x82"],
    ids=["empty", "text", "bad-pem", "cut-der"],
)
def test_garbage_is_named_with_its_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "server.crt"
    path.write_bytes(content)
    with pytest.raises(BsfgError) as caught:
        load_certificates(path)
    assert caught.value.code is Code.CONFIGURATION
    assert str(path) in caught.value.message
    assert "\n" not in caught.value.message
    assert caught.value.hint


def test_a_missing_file_is_named_with_its_cause(tmp_path: Path) -> None:
    with pytest.raises(BsfgError, match=r"server\.crt can't be read: No such file") as caught:
        load_certificates(tmp_path / "server.crt")
    assert caught.value.exit_status == 2


def test_a_file_without_end_is_not_read_to_the_end(tmp_path: Path) -> None:
    path = tmp_path / "server.crt"
    with path.open("wb") as file:
        file.truncate(CERTIFICATE_FILE_BYTES_MAX + 1)
    with pytest.raises(BsfgError, match="longer than"):
        load_certificates(path)


def test_a_chain_ends_at_its_anchor_and_at_no_other(tmp_path: Path, authority: TestAuthority) -> None:
    other = TestAuthority(tmp_path / "other")
    leaf = authority.zone("a").certificate
    now = time.time_ns()
    assert Anchors.load(authority.path).chain(leaf, now) == [leaf, authority.authority.certificate]
    assert Anchors.load(other.path).chain(leaf, now) is None


def test_an_intermediate_in_the_anchor_file_completes_the_chain(
    tmp_path: Path, authority: TestAuthority
) -> None:
    below = authority.intermediate(tmp_path / "below")
    leaf = below.zone("a").certificate
    now = time.time_ns()
    assert Anchors.load(authority.path).chain(leaf, now) is None
    assert Anchors.load(below.path).chain(leaf, now) == [leaf, below.authority.certificate]
    both = Anchors([authority.authority.certificate, below.authority.certificate])
    assert both.chain(leaf, now) is not None


@pytest.mark.parametrize(
    ("ca", "key_usage", "may_issue"),
    [(True, "cert_sign", True), (True, None, True), (True, "crl_sign", False), (False, "cert_sign", False)],
)
def test_only_a_ca_issues(
    tmp_path: Path, authority: TestAuthority, ca: bool, key_usage: str | None, may_issue: bool
) -> None:
    below = TestAuthority(tmp_path / "below", "below")
    middle = authority_certificate(
        below.authority.key,
        "below",
        issuer=authority.authority,
        ca=ca,
        has_key_usage=key_usage is not None,
        key_cert_sign=key_usage == "cert_sign",
    )
    leaf = below.zone("b").certificate
    chain = Anchors.load(authority.path).chain(leaf, time.time_ns(), [middle])
    assert (chain is not None) is may_issue


def test_dates_are_held_against_the_moment(authority: TestAuthority) -> None:
    anchors = Anchors.load(authority.path)
    leaf = authority.zone("a").certificate
    view = view_of(leaf)
    assert anchors.chain(leaf, view.not_after) is not None
    assert anchors.chain(leaf, view.not_after + 1_000_000_000) is None
    assert anchors.chain(leaf, view.not_before - 1_000_000_000) is None


def test_an_anchor_file_with_a_leaf_is_refused(authority: TestAuthority) -> None:
    leaf = authority.zone("a")
    with pytest.raises(BsfgError, match="which is not a CA"):
        Anchors.load(leaf.certificate_path)
    assert Anchors.load(authority.path).certificates


def test_a_ca_made_by_openssl_without_key_usage_anchors(tmp_path: Path) -> None:
    new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    openssl(tmp_path, "req", "-x509", *new_key, "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=plain")
    openssl(
        tmp_path,
        *("req", *new_key, "-keyout", "a.key", "-out", "a.csr", "-subj", "/CN=a", "-addext"),
        "subjectAltName=DNS:a",
    )
    openssl(
        tmp_path,
        *("x509", "-req", "-in", "a.csr", "-CA", "ca.crt", "-CAkey", "ca.key", "-copy_extensions", "copy"),
        *("-out", "a.crt", "-days", "3"),
    )
    anchor = load_certificates(tmp_path / "ca.crt")[0]
    with pytest.raises(x509.ExtensionNotFound):
        anchor.extensions.get_extension_for_class(x509.KeyUsage)
    leaf = load_certificates(tmp_path / "a.crt")[0]
    assert Anchors.load(tmp_path / "ca.crt").chain(leaf, time.time_ns()) == [leaf, anchor]


def test_inspect_says_everything(authority: TestAuthority) -> None:
    issued = authority.issue("plant-a-bsfg", dns=["plant-a-bsfg"], uri=["spiffe://x/a"], ip=["10.3.1.10"])
    crl = authority.folder / "crl.pem"
    crl.write_bytes(authority.crl())
    said = inspect(issued.certificate_path, authority.path, crl, time.time_ns())
    assert said["subject"] == "CN=plant-a-bsfg"
    assert said["san"] == ["DNS:plant-a-bsfg", "URI:spiffe://x/a", "IP:10.3.1.10"]
    assert said["serial"] == f"{issued.certificate.serial_number:x}"
    assert said["not_after"].endswith("Z")
    assert said["days_left"] == 0
    assert said["key_type"] == "ECDSA secp256r1"
    assert said["chain"]["verdict"] == "ok"
    assert said["chain"]["anchor"] == "CN=test CA"
    assert said["revocation"]["verdict"] == "ok"


def test_inspect_names_what_is_wrong(tmp_path: Path, authority: TestAuthority) -> None:
    issued = authority.zone("a")
    crl = authority.folder / "crl.pem"
    crl.write_bytes(authority.crl([issued]))
    now = time.time_ns()
    assert inspect(issued.certificate_path, authority.path, crl, now)["revocation"]["reason"] == "revoked"
    other = TestAuthority(tmp_path / "other", "other CA")
    wrong = inspect(issued.certificate_path, other.path, None, now)
    assert wrong["chain"]["verdict"] == "failed"
    assert "none of the trust anchors" in wrong["chain"]["detail"]
    ended = authority.issue("a", dns=["a"], begins=-DAY * 3, ends=-HOUR)
    said = inspect(ended.certificate_path, authority.path, None, now)
    assert said["days_left"] == -1
    assert "ended at" in said["chain"]["detail"]
    assert inspect(issued.certificate_path, None, None, now)["chain"]["verdict"] == "not_checked"


def test_inspect_shows_where_to_ask_for_revocation(tmp_path: Path) -> None:
    openssl(
        tmp_path,
        *(
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-keyout",
            "a.key",
            "-out",
            "a.crt",
            "-subj",
            "/CN=a",
        ),
        *("-addext", "authorityInfoAccess=OCSP;URI:http://ocsp.example/"),
        *("-addext", "crlDistributionPoints=URI:http://crl.example/a.crl"),
    )
    said = inspect(tmp_path / "a.crt", None, None, time.time_ns())
    assert said["ocsp"] == ["http://ocsp.example/"]
    assert said["crl_distribution_points"] == ["http://crl.example/a.crl"]
    assert said["key_type"] == "RSA 2048"


def test_an_anchor_past_its_end_is_named(authority: TestAuthority) -> None:
    leaf = authority.issue("a", dns=["a"], ends=DAY * 5000)
    after = view_of(authority.authority.certificate).not_after + 1_000_000_000
    said = inspect(leaf.certificate_path, authority.path, None, after)
    assert said["chain"] == {"verdict": "failed", "detail": "its CA CN=test CA is not valid now"}
