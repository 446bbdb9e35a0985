"""``bsfg read``: facts as JSON lines; nothing is acknowledged."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import click

from bsfg.cli import render
from bsfg.cli.local_client import LocalClient, route
from bsfg.cli.options import common_options, peer_option, stream_option


@click.command("read")
@stream_option
@peer_option(required=False)
@click.option("--from", "from_sequence", metavar="SEQ", type=click.IntRange(min=1), help="Begin at this sequence.")
@click.option("--follow", is_flag=True, help="Go on with what is appended, until Ctrl-C.")
@click.option("--raw", is_flag=True, help="Only the payloads, each followed by a newline.")
@common_options
def command(
    home: Path,
    output: str,
    stream: str,
    peer: str | None,
    from_sequence: int | None,
    follow: bool,
    raw: bool,
) -> None:
    """Print one JSON object a line as in a page, in order; sequences are this zone's own."""
    groups = LocalClient(home).lines(
        route("read"), stream=stream, peer=peer, from_=from_sequence, follow=int(follow)
    )
    for group in groups:
        for line in group:
            render.raw((payload(line) if raw else line) + b"\n")
        if follow:
            render.flush()
    render.flush()


def payload(line: bytes) -> bytes:
    """The payload of a fact as the API shows it."""
    fact = json.loads(line)
    if "data_base64" in fact:
        return base64.b64decode(fact["data_base64"])
    return str(fact["data"]).encode("utf-8", "surrogatepass")
