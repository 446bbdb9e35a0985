"""``bsfg stream``: logical and physical names, epochs, sequences, durability."""

from __future__ import annotations

from pathlib import Path

import click

from bsfg.cli import decision_screens, render, screens
from bsfg.cli.local_client import LONG_DEADLINE_SECONDS, LocalClient, route
from bsfg.cli.options import STREAM, ZONE, common_options, dry_run_option, peer_option, reason_option


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


@command.command("new-epoch")
@click.argument("stream", type=STREAM)
@reason_option
@dry_run_option
@common_options
def new_epoch(home: Path, output: str, stream: str, reason: str, dry_run: bool) -> None:
    """Begin a new epoch of a local stream.

    After its history was restored or rewritten: whoever reads it halts as diverged until its operator accepts; audited.
    """
    wanted = {"reason": reason, "dry_run": dry_run}
    answer = LocalClient(home).post(
        route("streams", stream, "new-epoch"), wanted, deadline_seconds=LONG_DEADLINE_SECONDS
    )
    render.show(answer, output, decision_screens.epoch_begun)


@command.command("drop")
@click.argument("stream", type=STREAM, required=False)
@click.option("--peer", type=ZONE, help="The peer whose inbound stream is meant; without it a local one.")
@click.option("--stream", "named", type=STREAM, help="The same as the argument.")
@click.option("--generation", type=click.IntRange(min=1), help="Of an inbound stream: an old one.")
@reason_option
@dry_run_option
@common_options
def drop(
    home: Path,
    output: str,
    stream: str | None,
    peer: str | None,
    named: str | None,
    generation: int | None,
    reason: str,
    dry_run: bool,
) -> None:
    """Remove a stream that is no longer in use.

    An old generation of an inbound stream, never the one in force; or a local stream that zone.yaml no longer has;
    with all its facts; audited.
    """
    if (stream is None) == (named is None):
        raise click.UsageError("name the stream once")
    if (peer is None) != (generation is None):
        raise click.UsageError("--peer and --generation go together")
    wanted = {
        "stream": stream or named,
        "peer": peer,
        "generation": generation,
        "reason": reason,
        "dry_run": dry_run,
    }
    answer = LocalClient(home).post(route("streams", "drop"), wanted, deadline_seconds=LONG_DEADLINE_SECONDS)
    render.show(answer, output, decision_screens.dropped)
