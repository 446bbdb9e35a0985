"""``bsfg top``: the zone, live, until a key ends it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import click
from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from bsfg.cli.local_client import LocalClient, route
from bsfg.cli.options import common_options
from bsfg.cli.render import number, printable, seconds, size
from bsfg.errors import BsfgError, Code

REFRESH_SECONDS: Final = 1.0
BAR_COLUMNS: Final = 16
STYLES: Final = {
    "level": "green",
    "catching_up": "blue",
    "starting": "blue",
    "partitioned": "yellow",
}


@click.command("top")
@common_options
@click.option("--once", is_flag=True, help="One picture, then end.")
def command(home: Path, output: str, once: bool) -> None:
    """Links and exports, live, with rate and time of arrival; Ctrl-C ends it."""
    if output != "text":
        raise BsfgError(Code.INVALID_REQUEST, "top is for people", hint="bsfg status --output json")
    client, console = LocalClient(home), Console()
    if once or not console.is_terminal:
        console.print(_screen(client.get(route("status")), {}))
        return
    first: dict[str, int] = {}
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            live.update(_next(client, first), refresh=True)
            time.sleep(REFRESH_SECONDS)


def _next(client: LocalClient, first: dict[str, int]) -> Group:
    """The next picture; a gateway that is away is said, and asked again."""
    try:
        return _screen(client.get(route("status")), first)
    except BsfgError as error:
        return Group(Text(printable(error.message), style="red"), Text("asking again; Ctrl-C ends"))


def _screen(status: Mapping[str, Any], first: dict[str, int]) -> Group:
    health = printable(status.get("health"))
    head = Text.assemble(
        (printable(status.get("zone")), "bold"),
        f" ({printable(status.get('identity'))}) ",
        (health, "green" if health == "ok" else "bold red"),
        f"  {time.strftime('%H:%M:%S', time.gmtime())} UTC",
    )
    problems = [Text(f"  {printable(problem)}", style="red") for problem in status.get("problems") or []]
    return Group(head, *problems, _links(status.get("links") or [], first), _exports(status.get("exports") or []))


def _links(rows: list[Mapping[str, Any]], first: dict[str, int]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title="links", title_justify="left", expand=True)
    for title in ("link", "state", "progress"):
        table.add_column(title, no_wrap=title != "link", overflow="fold")
    for title in ("lag", "bytes", "rate", "level in"):
        table.add_column(title, justify="right", no_wrap=True)
    for row in rows:
        state = printable(row["state"]) + (f" ({printable(row['reason'])})" if row.get("reason") else "")
        rate = row.get("rate_facts_per_second")
        table.add_row(
            Text(f"{printable(row['peer'])}/{printable(row['stream'])}"),
            Text(state, style=STYLES.get(row["state"], "red")),
            _progress(row, first),
            number(row.get("lag_facts")),
            size(row.get("lag_bytes")),
            printable(None) if rate is None else f"{rate:,.0f}/s",
            "now" if row.get("eta_seconds") == 0 else seconds(row.get("eta_seconds")),
        )
    return table


def _progress(row: Mapping[str, Any], first: dict[str, int]) -> ProgressBar | Text:
    """How much of what was to be fetched is here, since the link fell behind; ``first`` remembers how much that was."""
    name, lag = f"{row['peer']}/{row['stream']}", row.get("lag_facts")
    if lag is None:
        return Text("unknown", style="dim")
    if lag == 0:
        first.pop(name, None)
        return ProgressBar(total=1, completed=1, width=BAR_COLUMNS)
    most = first[name] = max(lag, first.get(name, 0))
    return ProgressBar(total=most, completed=most - lag, width=BAR_COLUMNS)


def _exports(rows: list[Mapping[str, Any]]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title="exports", title_justify="left", expand=True)
    table.add_column("export", overflow="fold")
    for title in ("head", "confirmed", "backlog", "oldest", "headroom"):
        table.add_column(title, justify="right", no_wrap=True)
    for row in rows:
        is_idle = row.get("backlog_facts") == 0
        table.add_row(
            Text(f"{printable(row['peer'])}/{printable(row['stream'])}"),
            number(row.get("head")),
            "none yet" if row.get("confirmed") is None else number(row["confirmed"]),
            number(row.get("backlog_facts")),
            "-" if is_idle else seconds(row.get("backlog_oldest_seconds")),
            "-" if is_idle else seconds(row.get("headroom_seconds")),
        )
    return table
