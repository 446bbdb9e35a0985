"""``bsfg consumer``: what a local application sees of a stream."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import click

from bsfg.cli import render, screens
from bsfg.cli.local_client import LocalClient, route
from bsfg.cli.options import common_options, peer_option, stream_option

WAIT_SECONDS: Final = 2.0
COUNT_MAX: Final = 1000

_CONSUMER_HELP: Final = "The durable consumer.  [default: the one that BSFG made on this stream]"


@click.group("consumer")
def command() -> None:
    """A local application's view of a stream."""


@command.command("info")
@stream_option
@peer_option(required=False)
@click.option("--consumer", help=_CONSUMER_HELP)
@common_options
def info(home: Path, output: str, stream: str, peer: str | None, consumer: str | None) -> None:
    """Delivered, acknowledged, pending."""
    answer = LocalClient(home).get(route("consumers"), stream=stream, peer=peer, consumer=consumer)
    render.show(answer, output, render.tree)


@command.command("next")
@stream_option
@peer_option(required=False)
@click.option("--consumer", help=_CONSUMER_HELP)
@click.option("--count", type=click.IntRange(1, COUNT_MAX), default=1, show_default=True, help="At most so many facts.")
@click.option("--no-ack", is_flag=True, help="Do not acknowledge: the facts are delivered again later.")
@common_options
def next_facts(
    home: Path, output: str, stream: str, peer: str | None, consumer: str | None, count: int, no_ack: bool
) -> None:
    """Read the next facts and acknowledge them; none is no error."""
    wanted = {
        "stream": stream,
        "peer": peer,
        "consumer": consumer,
        "count": count,
        "ack": not no_ack,
        "wait_seconds": WAIT_SECONDS,
    }
    render.show(LocalClient(home).post(route("consumers", "next"), wanted), output, screens.facts)
