"""``bsfg config``: the files as they are, and as they run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from bsfg.cli import render, screens
from bsfg.cli.local_client import LocalClient, route
from bsfg.cli.options import common_options


@click.group("config")
def command() -> None:
    """Check, show and reload the configuration."""


@command.command("check")
@common_options
def check(home: Path, output: str) -> None:
    """Print every problem of the configuration files.

    Reads zone.yaml, peers.yaml and cursors.yaml in one pass; each problem has its file, line and column.
    """
    from bsfg.config.load import load

    configuration = load(home.absolute())
    summary = {
        "ok": True,
        "zone": configuration.zone.zone,
        "streams": len(configuration.zone.streams),
        "peers": len(configuration.peers),
        "links": len(configuration.links),
    }
    render.show(summary, output, screens.configuration_ok)


@command.command("show")
@click.option("--active", is_flag=True, help="What the gateway runs, instead of what the files say.")
@common_options
def show(home: Path, output: str, active: bool) -> None:
    """Print the configuration with every default filled in."""
    answer = LocalClient(home).get(route("config")) if active else _described(home)
    render.show(answer, output, render.tree)


def _described(home: Path) -> Any:
    from bsfg.config.describe import describe
    from bsfg.config.load import load

    return describe(load(home.absolute()))


@command.command("reload")
@common_options
def reload(home: Path, output: str) -> None:
    """Take the files as they are now.

    All or nothing: on any error the running configuration stays.
    """
    render.show(LocalClient(home).post(route("config", "reload"), b""), output, screens.reloaded)
