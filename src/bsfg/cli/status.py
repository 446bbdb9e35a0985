"""``bsfg status``."""

from __future__ import annotations

from pathlib import Path

import click

from bsfg.cli import render, screens
from bsfg.cli.local_client import LocalClient, route
from bsfg.cli.options import common_options


@click.command("status")
@common_options
def command(home: Path, output: str) -> None:
    """The zone on one screen; what nobody knows is 'unknown'."""
    render.show(LocalClient(home).get(route("status")), output, screens.status)
