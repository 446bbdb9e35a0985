"""``bsfg admin``: an administrative partition and its end (runbook 8.1, 8.4), advice by hand (6.6)."""

from __future__ import annotations

from pathlib import Path

import click

from bsfg.cli import progress, render, screens
from bsfg.cli.local_client import LONG_DEADLINE_SECONDS, LocalClient, route
from bsfg.cli.options import PartitionDuration, common_options, peer_option, reason_option, stream_option
from bsfg.cli.progress import Unit


@click.group("admin")
def command() -> None:
    """Partition a peer for a time; reconcile it; advise it of facts."""


@command.command("partition")
@peer_option(required=True)
@reason_option
@click.option(
    "--for",
    "seconds",
    type=PartitionDuration(),
    default="15m",
    show_default=True,
    help="90s, 15m, 2h (24h at most), or until-reconciled.",
)
@common_options
def partition(home: Path, output: str, peer: str, reason: str, seconds: int | None) -> None:
    """Cut a peer off for a time.

    Both directions, all requests; it survives a restart and ends by itself.
    """
    answer = LocalClient(home).post(route("partitions"), {"peer": peer, "reason": reason, "seconds": seconds})
    render.show(answer, output, screens.partitioned)


@command.command("reconcile")
@peer_option(required=True)
@common_options
def reconcile(home: Path, output: str, peer: str) -> None:
    """End a peer's partition now and catch up."""
    client = LocalClient(home)
    with progress.watched(f"catching up with {peer}", Unit.FACTS, progress.backfill(client, peer)):
        answer = client.delete(route("partitions", peer), deadline_seconds=LONG_DEADLINE_SECONDS)
    render.show(answer, output, screens.reconciled)


@command.command("notify")
@peer_option(required=True)
@stream_option
@common_options
def notify(home: Path, output: str, peer: str, stream: str) -> None:
    """Advise a peer now that a stream of ours has more.

    The peer polls at once; what it gets does not depend on it.
    """
    answer = LocalClient(home).post(route("notifications"), {"peer": peer, "stream": stream})
    render.show(answer, output, screens.notified)
