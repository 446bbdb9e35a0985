"""OCSP asked of a real responder, openssl's: good, revoked, unknown, silent, and answers that nobody may believe."""

from __future__ import annotations

import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import AuthorityInformationAccessOID, NameOID

from bsfg.errors import BsfgError, Code
from bsfg.lab.homes import LOOPBACK, free_port
from bsfg.transport import ocsp
from bsfg.transport.ocsp import ask_responders

NOW = datetime.now(UTC)


@dataclass
class Ca:
    folder: Path
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    def issue(self, name: str, responder: str) -> x509.Certificate:
        access = x509.AccessDescription(AuthorityInformationAccessOID.OCSP, x509.UniformResourceIdentifier(responder))
        key = ec.generate_private_key(ec.SECP256R1())
        made = _builder(name, self.certificate.subject, key).add_extension(
            x509.AuthorityInformationAccess([access]), critical=False
        )
        return made.sign(self.key, hashes.SHA256())

    def lists(self, *rows: tuple[x509.Certificate, bool]) -> None:
        """What the responder knows: each certificate, and whether it is revoked."""
        lines = []
        for certificate, is_revoked in rows:
            end, when = (moment.strftime("%y%m%d%H%M%SZ") for moment in (NOW + timedelta(days=9), NOW))
            head = f"R\t{end}\t{when}" if is_revoked else f"V\t{end}\t"
            lines.append(f"{head}\t{certificate.serial_number:X}\tunknown\t/CN=x\n")
        (self.folder / "index.txt").write_text("".join(lines))


def _builder(name: str, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - timedelta(days=1))
        .not_valid_after(NOW + timedelta(days=9))
    )


def make_ca(folder: Path, name: str) -> Ca:
    folder.mkdir()
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    certificate = (
        _builder(name, subject, key)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "ca.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "ca.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return Ca(folder, certificate, key)


@contextmanager
def responding(ca: Ca, port: int, signer: Ca | None = None) -> Iterator[None]:
    """openssl's responder for this CA; signed by the CA itself, or by somebody else."""
    by = signer or ca
    command = [
        "openssl", "ocsp", "-port", str(port), "-index", str(ca.folder / "index.txt"), "-CA", str(ca.folder / "ca.crt"),
        "-rkey", str(by.folder / "ca.key"), "-rsigner", str(by.folder / "ca.crt"), "-nmin", "5",
    ]  # fmt: skip
    # One connection at a time: a probe that says nothing would keep it busy, so its own word is waited for.
    said = ca.folder / "responder.log"
    with said.open("wb") as log:
        responder = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
    try:
        ends = time.monotonic() + 10
        while b"ACCEPT" not in said.read_bytes() and time.monotonic() < ends:
            time.sleep(0.02)
        yield
    finally:
        responder.kill()
        responder.wait()


@pytest.fixture
def ca(tmp_path: Path) -> Ca:
    return make_ca(tmp_path / "ca", "a CA")


def test_what_a_responder_says(ca: Ca) -> None:
    port = free_port(LOOPBACK, set())
    address = f"http://127.0.0.1:{port}/"
    good, revoked, unknown = (ca.issue(name, address) for name in ("good", "revoked", "unknown"))
    ca.lists((good, False), (revoked, True))
    with responding(ca, port):
        for certificate, status in ((good, "good"), (revoked, "revoked"), (unknown, "unknown")):
            answer = ask_responders(certificate, ca.certificate, [address], time.time_ns())
            assert (answer.status, answer.responder) == (status, address)
            assert status in answer.detail
        # A responder that is away does not keep the next one from being asked.
        away = f"http://127.0.0.1:{free_port(LOOPBACK, set())}/"
        assert ask_responders(good, ca.certificate, [away, address], time.time_ns()).status == "good"


@pytest.mark.parametrize("case", ["signer", "certificate", "old", "early"])
def test_an_answer_that_proves_nothing_is_none(ca: Ca, tmp_path: Path, case: str) -> None:
    port = free_port(LOOPBACK, set())
    address = f"http://127.0.0.1:{port}/"
    leaf = ca.issue("leaf", address)
    ca.lists((leaf, False))
    other = make_ca(tmp_path / "other", "another CA")
    ages = {"old": timedelta(hours=1), "early": -timedelta(hours=1)}
    now = time.time_ns() + int(ages.get(case, timedelta()).total_seconds() * 10**9)
    asked = other.issue("elsewhere", address) if case == "certificate" else leaf
    issuer = other.certificate if case == "certificate" else ca.certificate
    words = {
        "signer": "signed by nobody who may",
        "certificate": "signed by nobody who may|another certificate|unauthorized",
        "old": "was good until",
        "early": "from the future",
    }
    with responding(ca, port, other if case == "signer" else None), pytest.raises(BsfgError, match=words[case]) as no:
        ask_responders(asked, issuer, [address], now)
    assert no.value.code is Code.UNAVAILABLE


def test_without_an_answer_nothing_is_known(ca: Ca, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ocsp, "ANSWER_SECONDS", 0.3)
    leaf = ca.issue("leaf", "http://127.0.0.1:1/")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        addresses = [f"http://127.0.0.1:{silent.getsockname()[1]}/", "ldap://127.0.0.1/", "http://127.0.0.1:1/"]
        with pytest.raises(BsfgError, match=r"timed out.*only http.*refused") as no:
            ask_responders(leaf, ca.certificate, addresses, time.time_ns())
    assert no.value.code is Code.UNAVAILABLE
    with pytest.raises(BsfgError, match="names none"):
        ask_responders(leaf, ca.certificate, [], time.time_ns())


def test_an_answer_that_trickles_or_never_ends_is_given_up(ca: Ca, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ocsp, "ANSWER_SECONDS", 0.5)
    leaf = ca.issue("leaf", "http://127.0.0.1:1/")

    def serve(listener: socket.socket, piece: bytes, pause: float) -> None:
        connection, _ = listener.accept()
        with connection:
            connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            try:
                while True:
                    connection.sendall(piece)
                    time.sleep(pause)
            except OSError:
                return

    for piece, pause, words in ((b"x", 0.1, "not whole within"), (b"x" * 65_536, 0.0, "longer than")):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            threading.Thread(target=serve, args=(listener, piece, pause), daemon=True).start()
            address = f"http://127.0.0.1:{listener.getsockname()[1]}/"
            with pytest.raises(BsfgError, match=words):
                ask_responders(leaf, ca.certificate, [address], time.time_ns())
