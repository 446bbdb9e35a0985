"""``bsfg page``."""

from __future__ import annotations

from pathlib import Path

import click

from bsfg.cli import render, screens
from bsfg.cli.local_client import LocalClient, route
from bsfg.cli.options import common_options


@click.command("page")
@common_options
def command(home: Path, output: str) -> None:
    """The address of the operator page, with a token that is good once and for five minutes."""
    render.show(LocalClient(home).post(route("page", "login"), {}), output, screens.page_address)
