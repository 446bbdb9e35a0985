"""``bsfg cursor``: how far each link is."""

from __future__ import annotations

from pathlib import Path

import click

from bsfg.cli import render, screens
from bsfg.cli.local_client import LocalClient, route
from bsfg.cli.options import common_options, peer_option, stream_option


@click.group("cursor")
def command() -> None:
    """How far each link is."""


@command.command("query")
@peer_option(required=True)
@stream_option
@common_options
def query(home: Path, output: str, peer: str, stream: str) -> None:
    """One link's cursor.

    The last fact that is durably here, how far the sender is, and what is missing.
    """
    render.show(LocalClient(home).get(route("cursors", peer, stream)), output, screens.cursor)


@command.command("list")
@common_options
def list_cursors(home: Path, output: str) -> None:
    """Every link's cursor."""
    render.show(LocalClient(home).get(route("cursors")), output, screens.cursors)
