from __future__ import annotations

import os
import stat
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from tests.support.certificates import openssl

from bsfg.errors import BsfgError, Code
from bsfg.transport.certificates import Anchors, load_certificates, view_of
from bsfg.transport.development_ca import create_authority, issue, issue_crl, write_whole


@pytest.fixture(params=[0o000, 0o022, 0o777], ids=oct)
def any_umask(request: pytest.FixtureRequest) -> object:
    before = os.umask(request.param)
    yield
    os.umask(before)


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_keys_are_private_whatever_the_umask(tmp_path: Path, any_umask: object) -> None:
    tmp_path.chmod(0o700)
    paths = create_authority(tmp_path, "lab CA")
    crt, key = tmp_path / "server.crt", tmp_path / "server.key"
    issue(paths.certificate, paths.key, "a", san_dns=["a"], days=1, out_cert=crt, out_key=key)
    assert [mode_of(path) for path in (paths.key, key)] == [0o600, 0o600]
    assert [mode_of(path) for path in (paths.certificate, crt)] == [0o644, 0o644]


def test_a_zone_certificate_is_what_openssl_and_we_accept(tmp_path: Path) -> None:
    paths = create_authority(tmp_path, "lab CA")
    crt, key = tmp_path / "server.crt", tmp_path / "server.key"
    issue(
        paths.certificate,
        paths.key,
        "plant-a-bsfg",
        san_dns=["plant-a-bsfg"],
        san_ip=["127.3.1.10"],
        days=30,
        out_cert=crt,
        out_key=key,
    )
    for purpose in ("sslclient", "sslserver"):
        verified = openssl(
            tmp_path, "verify", "-x509_strict", "-purpose", purpose, "-CAfile", "ca.crt", "server.crt"
        )
        assert verified.strip() == "server.crt: OK"
    leaf = load_certificates(crt)[0]
    view = view_of(leaf)
    assert (view.common_name, view.dns) == ("plant-a-bsfg", ("plant-a-bsfg",))
    usages = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert set(usages) == {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH}
    assert Anchors.load(paths.certificate).chain(leaf, time.time_ns()) is not None


def test_a_certificate_begins_when_asked_and_ends_no_later_than_its_ca(tmp_path: Path) -> None:
    begin = datetime(2025, 1, 15, tzinfo=UTC)
    paths = create_authority(tmp_path, "lab CA", days=40, now=begin)
    made = issue(
        paths.certificate,
        paths.key,
        "a",
        san_dns=["a"],
        days=10,
        not_before=begin,
        out_cert=tmp_path / "a.crt",
        out_key=tmp_path / "a.key",
    )
    assert (made.not_valid_before_utc, made.not_valid_after_utc) == (begin, begin + timedelta(days=10))
    longer = issue(
        paths.certificate,
        paths.key,
        "b",
        san_dns=["b"],
        days=1000,
        not_before=begin,
        out_cert=tmp_path / "b.crt",
        out_key=tmp_path / "b.key",
    )
    assert longer.not_valid_after_utc == load_certificates(paths.certificate)[0].not_valid_after_utc


def test_an_existing_authority_is_not_replaced(tmp_path: Path) -> None:
    paths = create_authority(tmp_path, "lab CA")
    before = paths.key.read_bytes()
    with pytest.raises(BsfgError, match=r"ca\.crt exists"):
        create_authority(tmp_path, "lab CA")
    assert paths.key.read_bytes() == before


def test_a_foreign_key_issues_nothing(tmp_path: Path) -> None:
    ours, theirs = create_authority(tmp_path / "a", "CA"), create_authority(tmp_path / "b", "CA")
    with pytest.raises(BsfgError, match="does not belong to"):
        issue(
            ours.certificate,
            theirs.key,
            "a",
            san_dns=["a"],
            days=1,
            out_cert=tmp_path / "a.crt",
            out_key=tmp_path / "a.key",
        )
    assert not (tmp_path / "a.key").exists()


def test_a_crl_is_what_openssl_accepts(tmp_path: Path) -> None:
    paths = create_authority(tmp_path, "lab CA")
    now = datetime.now(UTC)
    issue_crl(paths.certificate, paths.key, [0x1234], 7, now, now + timedelta(days=1), tmp_path / "crl.pem")
    shown = openssl(tmp_path, "crl", "-in", "crl.pem", "-noout", "-text", "-CAfile", "ca.crt")
    assert "Serial Number: 1234" in shown
    assert "X509v3 CRL Number: \n                7" in shown


@pytest.mark.parametrize(("dns", "ip"), [("a", "10.0.0"), ("plänt", "10.0.0.1")], ids=["ip", "dns"])
def test_a_san_entry_that_can_not_be_is_named(tmp_path: Path, dns: str, ip: str) -> None:
    paths = create_authority(tmp_path, "lab CA")
    with pytest.raises(BsfgError) as caught:
        issue(
            paths.certificate,
            paths.key,
            "a",
            san_dns=[dns],
            san_ip=[ip],
            days=1,
            out_cert=tmp_path / "a.crt",
            out_key=tmp_path / "a.key",
        )
    assert caught.value.code is Code.INVALID_REQUEST


def test_a_file_that_can_not_be_written_leaves_no_trace(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").mkdir()
    with pytest.raises(BsfgError, match=r"ca\.crt can't be written"):
        write_whole(tmp_path / "ca.crt", b"x", 0o600)
    assert [path.name for path in tmp_path.iterdir()] == ["ca.crt"]


def test_a_replaced_file_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "f"
    write_whole(target, b"old", 0o600)
    with target.open("rb") as reader:
        write_whole(target, b"new and longer", 0o600)
        assert reader.read() == b"old"
    assert target.read_bytes() == b"new and longer"
