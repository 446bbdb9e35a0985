"""Where a zone's home is and what lies in it; addresses and what they say."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bsfg.config.address import Address, BadValue
from bsfg.config.home import Home, resolve_home
from bsfg.config.scalars import parse_redirect_host


@pytest.mark.parametrize(
    ("option", "variable", "expected"),
    [
        (None, None, "/opt/bsfg"),
        (None, "", "/opt/bsfg"),
        (None, "/srv/zone", "/srv/zone"),
        ("/home/zone", "/srv/zone", "/home/zone"),
        ("zone", None, f"{os.getcwd()}/zone"),  # noqa: PTH109
    ],
)
def test_the_home(option: str | None, variable: str | None, expected: str) -> None:
    environment = {} if variable is None else {"BSFG_HOME": variable}
    assert resolve_home(option, environment) == Path(expected)


def test_the_environment_of_the_process_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BSFG_HOME", "/srv/zone")
    assert resolve_home() == Path("/srv/zone")


def test_what_lies_where() -> None:
    home = Home(Path("/h"))
    assert [
        str(path.relative_to("/h"))
        for path in (
            home.zone_file,
            home.peers_file,
            home.cursors_file,
            home.bringup_file,
            home.local_seed,
            home.admin_seed,
            home.server_certificate,
            home.server_key,
            home.anchors,
            home.crl,
            home.data,
            home.run,
            home.socket,
        )
    ] == [
        "config/zone.yaml",
        "config/peers.yaml",
        "config/cursors.yaml",
        "config/bringup.yaml",
        "config/nats-local.nk",
        "config/nats-admin.nk",
        "certs/server.crt",
        "certs/server.key",
        "certs/ca.crt",
        "certs/crl.pem",
        "data",
        "run",
        "run/bsfg.sock",
    ]
    assert home.resolve(Path("a/b")) == Path("/h/a/b")
    assert home.resolve(Path("/a/b")) == Path("/a/b")


@pytest.mark.parametrize(
    ("text", "address", "is_loopback", "is_wildcard"),
    [
        ("10.1.1.10:9443", Address("10.1.1.10", 9443), False, False),
        ("127.3.1.10:1", Address("127.3.1.10", 1), True, False),
        ("0.0.0.0:65535", Address("0.0.0.0", 65535), False, True),
        ("[::1]:9443", Address("::1", 9443), True, False),
        ("[::]:9443", Address("::", 9443), False, True),
        ("[2001:DB8:0::1]:9443", Address("2001:db8::1", 9443), False, False),
        ("[fe80::1%eth0]:9443", Address("fe80::1%eth0", 9443), False, False),
        ("localhost:80", Address("localhost", 80), True, False),
        ("gateway.plant-a.example.org:9443", Address("gateway.plant-a.example.org", 9443), False, False),
    ],
)
def test_addresses(text: str, address: Address, is_loopback: bool, is_wildcard: bool) -> None:
    parsed = Address.parse(text)
    assert parsed == address
    assert (parsed.is_loopback, parsed.is_wildcard) == (is_loopback, is_wildcard)
    assert Address.parse(str(parsed)) == parsed


@pytest.mark.parametrize(
    "text",
    [
        *("", ":", "a", "a:", "a:0", "a:65536", "a:+1", "a: 1", "a:1 ", " a:1", "a:123456", ":1"),
        *(
            "[::1]",
            "::1",
            "::1:80",
            "[a]:80",
            "[10.0.0.1]:80",
            "[]:80",
            "[::1:80",
            "::1]:80",
            "[fe80::1%e/0]:80",
        ),
        *("1.2.3:80", "256.1.1.1:80", "a_b:80", "-a:80", "a-:80", "a..b:80", "a.:80", "*.a:80", "\u0430:80"),
        f"{'a' * 64}:80",
        f"{'.'.join(['a' * 60] * 5)}:80",
        "a\n:80",
    ],
)
def test_bad_addresses(text: str) -> None:
    with pytest.raises(BadValue):
        Address.parse(text)


@pytest.mark.parametrize(
    ("one", "other", "overlaps"),
    [
        ("0.0.0.0:1", "127.0.0.1:1", True),
        ("127.0.0.1:1", "[::]:1", True),
        ("10.0.0.1:1", "10.0.0.1:1", True),
        ("10.0.0.1:1", "10.0.0.2:1", False),
        ("0.0.0.0:1", "0.0.0.0:2", False),
    ],
)
def test_overlap(one: str, other: str, overlaps: bool) -> None:
    assert Address.parse(one).overlaps(Address.parse(other)) is overlaps


@pytest.mark.parametrize(
    "text", ["s3.example.org", "10.0.0.1", "10.0.0.1:9000", "s3:9000", "[::1]", "[::1]:9000"]
)
def test_redirect_hosts(text: str) -> None:
    assert parse_redirect_host(text) == text


@pytest.mark.parametrize("text", ["", "::1", "a/b", "a:0", "[a]", "[::1", "*", "a b"])
def test_bad_redirect_hosts(text: str) -> None:
    with pytest.raises(BadValue):
        parse_redirect_host(text)
