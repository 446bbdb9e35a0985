"""``bsfg drill``: one drill with its evidence (runbook, section 8 and 9)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import click

from bsfg.cli import render
from bsfg.cli.local_client import LocalClient, route
from bsfg.cli.options import STREAM, common_options, peer_option
from bsfg.config.load import load
from bsfg.errors import EXIT_DONE, EXIT_FAILED, BsfgError, Code

DENIAL: Final = "denial"
KINDS: Final = ("partition", "duplicate-replay", DENIAL, "incompatible-history", "large-gap")
_MARKS: Final = {
    "passed": ("✓", "green"),
    "passed with exception": ("✓", "yellow"),
    "failed": ("✗", "red"),
    "not run": ("-", "yellow"),
}


@click.command("drill")
@click.argument("kind", type=click.Choice(KINDS))
@peer_option(required=True)
@click.option("--stream", type=STREAM, help="Where its facts go; the first exported stream without it.")
@click.option("--confirm-window", metavar="REF", help="The agreed change window; needed outside a lab.")
@common_options
def command(
    home: Path, output: str, kind: str, peer: str, stream: str | None, confirm_window: str | None
) -> int:
    """Run one drill and say what it has shown.

    What it turns on ends with it, with this command, or by a timer in the gateway, whichever comes first.
    """
    if kind == DENIAL:
        return _denial(home, output, peer, confirm_window)
    order = {"kind": kind, "peer": peer, "stream": stream, "confirm_window": confirm_window}
    lines, done = list[dict[str, Any]](), None
    for group in LocalClient(home).post_lines(route("drills"), order):
        for text in group:
            row = json.loads(text)
            if "line" in row:
                lines.append(row["line"])
            done = row.get("done", done)
            if output == "text":
                render.lines(_shown(row))
        render.flush()
    if done is None:
        raise BsfgError(
            Code.UNAVAILABLE, "the gateway ended in the drill", hint="when it is back it ends what is left on"
        )
    if output == "json":
        render.show({"kind": kind, "peer": peer, **done, "lines": lines}, output, lambda _: [])
    return EXIT_DONE if done["passed"] else EXIT_FAILED


def _denial(home: Path, output: str, peer: str, confirm_window: str | None) -> int:
    """The checks of the runbook's section 4.3, anew; nothing is turned on, but the peer's alerts will tell of it."""
    from bsfg.checks.check import Options
    from bsfg.cli.bringup import Wishes, start

    if confirm_window is None and not load(home).zone.lab:
        raise BsfgError(
            Code.CONFIGURATION,
            "drill denial outside a lab needs a change window: the peer's alerts will tell of it",
            hint="give --confirm-window REF",
        )
    options = Options(confirm_window)
    return start(home, peer, Wishes((), (), (), True, 0.0, options, output, only="denial."))


def _shown(row: dict[str, Any]) -> Iterator[str]:
    if "rollback" in row:
        yield f"rollback: {render.printable(row['rollback'])}"
        if row.get("ends_at"):
            yield f"  ends by itself at {row['ends_at']}"
    elif "step" in row:
        yield f"  {render.printable(row['step'])}"
    elif "line" in row:
        yield from shown_line(row["line"])
    elif "done" in row:
        yield f"drill {row['done']['kind']}: {'passed' if row['done']['passed'] else 'FAILED'}"


def shown_line(line: dict[str, Any]) -> Iterator[str]:
    """One line of a drill, with found, expected and hint below it where it is not met."""
    judgement = line["judgement"]
    mark, colour = _MARKS.get(judgement["outcome"], ("?", "yellow"))
    yield f"{click.style(mark, fg=colour)} {line['section']:<4} {line['title']}"
    yield f"       {render.printable(judgement['summary'])}"
    for name in ("found", "expected", "hint"):
        if judgement.get(name):
            yield f"       {name}: {render.printable(judgement[name])}"
