"""``bsfg artifact``: what facts refer to and don't carry (runbook 7)."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

from bsfg.cli import artifact_fetch, render
from bsfg.cli.local_client import LocalClient, route
from bsfg.cli.options import ZONE, common_options

STATES: Final = ("pending", "verified", "missing", "corrupt", "forbidden")


@click.group("artifact")
def command() -> None:
    """Artifacts: fetch a peer's, list what is wanted, try again."""


@command.command("list")
@click.option("--peer", type=ZONE, help="Only this peer's.")
@click.option("--state", type=click.Choice(STATES), help="Only those in this state.")
@common_options
def list_artifacts(home: Path, output: str, peer: str | None, state: str | None) -> None:
    """Artifacts of peers: what is here, what is wanted, and when it is tried next."""
    answer = LocalClient(home).get(route("artifacts", "wanted"), peer=peer, state=state)
    render.show(answer, output, artifact_fetch.listed)


command.add_command(artifact_fetch.fetch)
command.add_command(artifact_fetch.retry)
