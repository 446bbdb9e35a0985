"""``bsfg fetch``: one round of a link now (runbook 6.3)."""

from __future__ import annotations

from pathlib import Path

import click

from bsfg.cli import progress, render, screens
from bsfg.cli.local_client import LONG_DEADLINE_SECONDS, LocalClient, route
from bsfg.cli.options import common_options, peer_option, stream_option
from bsfg.cli.progress import Unit
from bsfg.model.cursor import parse_init_mode


@click.command("fetch")
@peer_option(required=True)
@stream_option
@click.option(
    "--cursor-init",
    metavar="MODE",
    help="bounded_backfill_<N>h, start_now, full_backfill or explicit_timestamp; must not contradict the cursor.",
)
@click.option("--init-timestamp", metavar="TIME", help="RFC 3339 with a zone; only with explicit_timestamp.")
@click.option("--dry-run", is_flag=True, help="Only say what each mode would replay.")
@common_options
def command(
    home: Path,
    output: str,
    peer: str,
    stream: str,
    cursor_init: str | None,
    init_timestamp: str | None,
    dry_run: bool,
) -> None:
    """Fetch, append durably, advance the cursor; say what was appended."""
    _check_start(cursor_init, init_timestamp)
    wanted = {
        "peer": peer,
        "stream": stream,
        "cursor_init": cursor_init,
        "init_timestamp": init_timestamp,
        "dry_run": dry_run,
    }
    client = LocalClient(home)
    with progress.watched(f"fetching {peer}/{stream}", Unit.FACTS, progress.backfill(client, peer, stream)):
        answer = client.post(route("fetch"), wanted, deadline_seconds=LONG_DEADLINE_SECONDS)
    render.show(answer, output, screens.previewed if dry_run else screens.fetched)


def _check_start(mode: str | None, timestamp: str | None) -> None:
    if mode is None and timestamp is None:
        return
    try:
        parse_init_mode(mode or "", timestamp)
    except ValueError as error:
        option = "--cursor-init" if mode is None or timestamp is None else "--init-timestamp"
        raise click.BadParameter(str(error), param_hint=option) from None
