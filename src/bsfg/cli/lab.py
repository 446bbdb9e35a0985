"""``bsfg lab``: two zones on this machine."""

from __future__ import annotations

from pathlib import Path

import click

from bsfg.cli import render
from bsfg.cli.options import ZONE, common_options

_directory_option = click.option(
    "--dir", "directory", type=click.Path(path_type=Path, file_okay=False), required=True, help="The lab's folder."
)


@click.group("lab")
def command() -> None:
    """Two zones on this machine, up and down."""


@command.command("up")
@_directory_option
@click.option("--empty", is_flag=True, help="No example facts.")
@common_options
def up(home: Path, output: str, directory: Path, empty: bool) -> None:
    """Start both zones in the background.

    Returns when they are healthy and prints where everything is, as JSON.
    """
    from bsfg.lab import processes

    render.show(processes.up(directory.absolute(), empty=empty), "json", render.tree)


@command.command("down")
@_directory_option
@click.option("--zone", type=ZONE, help="Only this zone.")
@common_options
def down(home: Path, output: str, directory: Path, zone: str | None) -> None:
    """Stop the lab's processes; its folder stays."""
    from bsfg.lab import processes

    render.show(processes.down(directory.absolute(), zone), output, render.tree)
