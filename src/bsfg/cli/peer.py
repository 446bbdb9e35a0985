"""``bsfg peer``: who they are, whether they answer, and what may pass."""

from __future__ import annotations

from pathlib import Path

import click

from bsfg.cli import render, screens
from bsfg.cli.local_client import LocalClient, route
from bsfg.cli.options import ZONE, common_options
from bsfg.errors import EXIT_DONE, EXIT_FAILED


@click.group("peer")
def command() -> None:
    """Peers: reachable, authenticated, authorized, flowing."""


@command.command("list")
@common_options
def list_peers(home: Path, output: str) -> None:
    """Every configured peer."""
    render.show(LocalClient(home).get(route("peers")), output, screens.peers)


@command.command("check")
@click.argument("peer", metavar="ID", type=ZONE)
@common_options
def check(home: Path, output: str, peer: str) -> int:
    """Check one relationship, step by step.

    Configured, reachable, authenticated, authorized, flowing: exits 1 if any check failed.
    """
    answer = LocalClient(home).get(route("peers", peer, "check"))
    render.show(answer, output, screens.peer_check)
    return EXIT_DONE if answer.get("ok") else EXIT_FAILED


@command.command("exports")
@click.argument("peer", metavar="ID", type=ZONE)
@common_options
def exports(home: Path, output: str, peer: str) -> None:
    """What we let this peer read, by our configuration."""
    render.show(LocalClient(home).get(route("peers", peer, "exports")), output, render.tree)


@command.command("streams")
@click.argument("peer", metavar="ID", type=ZONE)
@common_options
def streams(home: Path, output: str, peer: str) -> None:
    """What this peer lets us read, by its own word."""
    render.show(LocalClient(home).get(route("peers", peer, "streams")), output, render.tree)
