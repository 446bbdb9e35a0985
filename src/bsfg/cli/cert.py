"""``bsfg cert``: what certificates say, and development ones. Production has its own PKI."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

import click

from bsfg.cli import render, screens
from bsfg.cli.options import common_options
from bsfg.errors import EXIT_DONE, EXIT_FAILED
from bsfg.model.moment import format_time

ISSUED_DAYS: Final = 365.0

_FILE = click.Path(path_type=Path, dir_okay=False)
_FOLDER = click.Path(path_type=Path, file_okay=False)


@click.group("cert")
def command() -> None:
    """Inspect certificates; make development ones."""


@command.command("inspect")
@click.argument("file", type=_FILE, required=False)
@click.option("--ca", type=_FILE, help="Trust anchors for the chain.  [default: the home's certs/ca.crt]")
@click.option("--crl", type=_FILE, help="Revocation list.  [default: the home's certs/crl.pem where it exists]")
@common_options
def inspect(home: Path, output: str, file: Path | None, ca: Path | None, crl: Path | None) -> int:
    """Show a certificate, its chain and its end.

    FILE is the home's certs/server.crt if omitted. Exits 1 where its chain or its revocation check fails.
    """
    from bsfg.transport.inspection import inspect as inspected

    certs = home / "certs"
    anchors, revoked = ca or _existing(certs / "ca.crt"), crl or _existing(certs / "crl.pem")
    answer = inspected(file or certs / "server.crt", anchors, revoked, time.time_ns())
    render.show(answer, output, screens.certificate)
    failed = "failed" in (answer["chain"]["verdict"], answer["revocation"]["verdict"])
    return EXIT_FAILED if failed else EXIT_DONE


def _existing(path: Path) -> Path | None:
    return path if path.exists() else None


@command.command("dev-ca")
@click.option("--dir", "directory", type=_FOLDER, required=True, help="Where ca.crt and ca.key go.")
@click.option("--name", "common_name", default="BSFG development CA", show_default=True, help="The CA's common name.")
@click.option("--days", type=click.IntRange(1, 36_500), default=3650, show_default=True)
@common_options
def dev_ca(home: Path, output: str, directory: Path, common_name: str, days: int) -> None:
    """Make a CA for labs and trials; an existing one is never replaced."""
    from bsfg.transport.development_ca import create_authority

    paths = create_authority(directory, common_name, days=days)
    render.show({"ca_cert": str(paths.certificate), "ca_key": str(paths.key)}, output, render.tree)


@command.command("issue")
@click.option("--ca-cert", type=_FILE, required=True, help="The CA's certificate.")
@click.option("--ca-key", type=_FILE, required=True, help="The CA's key.")
@click.option("--identity", required=True, help="The zone's identity; also the common name.")
@click.option("--uri", is_flag=True, help="The identity is a URI entry of the SAN, not a DNS one.")
@click.option("--dns", multiple=True, help="A further DNS entry (the peer lists it as identity_san_extra).")
@click.option("--ip", multiple=True, help="An IP entry, for tools that check the address.")
@click.option("--days", type=click.FloatRange(0, 3650, min_open=True), default=ISSUED_DAYS, show_default=True)
@click.option("--out-cert", type=_FILE, help="[default: the home's certs/server.crt]")
@click.option("--out-key", type=_FILE, help="[default: the home's certs/server.key]")
@common_options
def issue(
    home: Path,
    output: str,
    ca_cert: Path,
    ca_key: Path,
    identity: str,
    uri: bool,
    dns: tuple[str, ...],
    ip: tuple[str, ...],
    days: float,
    out_cert: Path | None,
    out_key: Path | None,
) -> None:
    """Issue a certificate from a development CA.

    A new key (0600) and a certificate for both directions, its end cut to the CA's own.
    """
    from bsfg.transport.certificates import view_of
    from bsfg.transport.development_ca import issue as issued

    certificate_file, key_file = out_cert or home / "certs" / "server.crt", out_key or home / "certs" / "server.key"
    certificate = issued(
        ca_cert,
        ca_key,
        identity,
        san_dns=dns if uri else (identity, *dns),
        san_uri=(identity,) if uri else (),
        san_ip=ip,
        days=days,
        out_cert=certificate_file,
        out_key=key_file,
    )
    ends = format_time(view_of(certificate).not_after)
    answer = {"cert": str(certificate_file), "key": str(key_file), "identity": identity, "not_after": ends}
    render.show(answer, output, render.tree)
