"""``bsfg stream``: logical and physical names, epochs, sequences, durability."""

from __future__ import annotations

from pathlib import Path

import click

from bsfg.cli import render, screens
from bsfg.cli.local_client import LONG_DEADLINE_SECONDS, LocalClient, route
from bsfg.cli.options import STREAM, common_options, peer_option, reason_option


@click.group("stream")
def command() -> None:
    """Streams: names, epochs, sequences, durability."""


@command.command("list")
@common_options
def list_streams(home: Path, output: str) -> None:
    """Every local and inbound stream, with its name in JetStream."""
    render.show(LocalClient(home).get(route("streams")), output, screens.streams)


@command.command("info")
@click.argument("stream", type=STREAM)
@peer_option(required=False)
@common_options
def info(home: Path, output: str, stream: str, peer: str | None) -> None:
    """Everything about one stream.

    Also how it differs from what zone.yaml wants.
    """
    render.show(LocalClient(home).get(route("streams", stream), peer=peer), output, render.tree)


@command.command("apply")
@click.argument("stream", type=STREAM)
@reason_option
@common_options
def apply(home: Path, output: str, stream: str, reason: str) -> None:
    """Give a stream the limits of zone.yaml.

    Also where that deletes facts, which a reload never does; audited.
    """
    answer = LocalClient(home).post(
        route("streams", stream, "apply"), {"reason": reason}, deadline_seconds=LONG_DEADLINE_SECONDS
    )
    render.show(answer, output, screens.applied)
