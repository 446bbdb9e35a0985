"""The support archive: everything that explains a zone, and no byte of a secret, whatever it stands in."""

from __future__ import annotations

import base64
import json
import re
import tarfile
from pathlib import Path

import pytest

from bsfg.cli.main import main
from bsfg.cli.redaction import REMOVED, Redaction
from bsfg.lab.homes import build

SEED = "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY"
SHAPES = [
    f"nkey {SEED} was used",
    "tls://user:hunter2pass@10.3.1.11:4222",
    "Authorization: Bearer abcdefgh12345678",
    "http://127.0.0.1:9480/page/login?token=Zm9vYmFyYmF6",
    "jwt eyJhbGciOiJFZDI1NTE5.eyJqdGkiOiJBQkNERUY.c2lnbmF0dXJl ends",
    "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEEIB\nabc\n-----END EC PRIVATE KEY-----",
    "-----BEGIN PRIVATE KEY-----\nMHcCAQEEIB cut off",
    'password: "correct-horse"',
    "secret_access_key = wJalrXUtnFEMI",
]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A zone's home as a lab makes it, with a token, and with every secret of it in log and audit."""
    build(tmp_path / "lab")
    home = tmp_path / "lab" / "plant-a"
    (home / "config" / "local.token").write_text("a-token-of-the-local-api\n")
    (home / "config" / "local.token").chmod(0o600)
    with (home / "config" / "zone.yaml").open("a") as file:
        file.write("local_token_file: config/local.token\n")
    spilled = "\n".join(secret for secret in secrets_of(home))
    (home / "data" / "bsfg.log").write_text(json.dumps({"message": spilled}) + f"\n{spilled}\nkept\n")
    (home / "data" / "audit.jsonl").write_text(spilled + "\n")
    return home


def secrets_of(home: Path) -> list[str]:
    files = [home / "certs" / "server.key", *(home / "config").glob("*.nk"), home / "config" / "local.token"]
    lines = [line.strip() for path in files for line in path.read_text().splitlines()]
    found = [line for line in lines if len(line) > 8 and not line.startswith("-----")]
    assert len(found) >= 4
    return found


def made(home: Path, folder: Path) -> dict[str, str]:
    archive = folder / "bundle.tar.gz"
    assert main(["bundle", "--home", str(home), "--out", str(archive), "--output", "json"]) == 0
    assert archive.stat().st_mode & 0o777 == 0o600
    with tarfile.open(archive) as opened:
        members = {entry.name.partition("/")[2]: opened.extractfile(entry) for entry in opened.getmembers()}
        return {name: content.read().decode() for name, content in members.items() if content}


def test_no_secret_of_the_home_is_in_the_archive(home: Path, tmp_path: Path) -> None:
    parts = made(home, tmp_path)
    everything = "\n".join(parts.values())
    for secret in secrets_of(home):
        assert secret not in everything
        assert base64.b64encode(secret.encode()).decode() not in everything
    assert "PRIVATE KEY" not in everything and not re.search(r"\bS[UAOC][A-Z2-7]{56}", everything)
    assert REMOVED in parts["gateway.log"] and "kept" in parts["gateway.log"]


def test_without_a_gateway_there_is_all_that_the_disk_has_and_the_manifest_says_what_is_missing(
    home: Path, tmp_path: Path
) -> None:
    parts = made(home, tmp_path)
    assert {"manifest.json", "configuration.json", "gateway.log", "audit.jsonl"} <= set(parts)
    manifest = json.loads(parts["manifest.json"])
    assert "no gateway is up" in manifest["missing"]["status.json"]
    assert manifest["packages"]["aiohttp"]
    assert json.loads(parts["configuration.json"])["zone"]["zone"] == "plant-a"


def test_a_configuration_that_does_not_load_is_no_hindrance(home: Path, tmp_path: Path) -> None:
    (home / "config" / "zone.yaml").write_text("zone: [")
    parts = made(home, tmp_path)
    assert "zone.yaml" in json.loads(parts["manifest.json"])["missing"]["configuration.json"]
    for secret in secrets_of(home):
        assert secret not in "\n".join(parts.values())


def test_an_existing_file_is_not_overwritten(home: Path, tmp_path: Path) -> None:
    (tmp_path / "bundle.tar.gz").write_text("mine")
    assert main(["bundle", "--home", str(home), "--out", str(tmp_path / "bundle.tar.gz")]) == 2
    assert (tmp_path / "bundle.tar.gz").read_text() == "mine"


@pytest.mark.parametrize("text", SHAPES)
def test_what_looks_like_a_secret_is_taken_out_wherever_it_comes_from(text: str) -> None:
    redacted = Redaction([])(text)
    assert REMOVED in redacted
    for secret in (SEED, "hunter2", "abcdefgh12345678", "Zm9vYmFyYmF6", "eyJhbG", "MHcCAQ", "correct-horse", "wJalr"):
        assert secret not in redacted


def test_ordinary_text_is_left_as_it_is() -> None:
    text = '{"message": "peer enterprise unreachable: tls://10.3.1.11:4222 refused", "token_count": 3}'
    assert Redaction(["another"])(text) == text


