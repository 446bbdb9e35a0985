"""``bsfg cursor``: how far each link is, and the ways out of a halt."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import click

from bsfg.cli import decision_screens, progress, render, screens
from bsfg.cli.local_client import LONG_DEADLINE_SECONDS, LocalClient, route
from bsfg.cli.options import common_options, dry_run_option, peer_option, reason_option, stream_option
from bsfg.cli.progress import Advance, Unit
from bsfg.errors import BsfgError, Code
from bsfg.model.cursor import parse_init_mode

LOOK_SECONDS: Final = 0.5


@click.group("cursor")
def command() -> None:
    """How far each link is."""


@command.command("query")
@peer_option(required=True)
@stream_option
@common_options
def query(home: Path, output: str, peer: str, stream: str) -> None:
    """One link's cursor.

    The last fact that is durably here, how far the sender is, and what is missing.
    """
    render.show(LocalClient(home).get(route("cursors", peer, stream)), output, screens.cursor)


@command.command("list")
@common_options
def list_cursors(home: Path, output: str) -> None:
    """Every link's cursor."""
    render.show(LocalClient(home).get(route("cursors")), output, screens.cursors)


@command.command("accept-gap")
@peer_option(required=True)
@stream_option
@reason_option
@dry_run_option
@common_options
def accept_gap(home: Path, output: str, peer: str, stream: str, reason: str, dry_run: bool) -> None:
    """Let go what the sender no longer has.

    For a link that is halted for a gap: says what is skipped, records it, and goes on behind it; audited.
    """
    wanted = {"reason": reason, "dry_run": dry_run}
    render.show(_decide(home, peer, stream, "accept-gap", wanted), output, decision_screens.gap_accepted)


@command.command("accept-epoch")
@peer_option(required=True)
@stream_option
@click.option(
    "--from",
    "start",
    metavar="MODE or SEQ",
    required=True,
    help="bounded_backfill_<N>h, start_now, full_backfill, explicit_timestamp, or a sequence of the sender.",
)
@click.option("--init-timestamp", metavar="TIME", help="RFC 3339 with a zone; only with explicit_timestamp.")
@reason_option
@dry_run_option
@common_options
def accept_epoch(
    home: Path,
    output: str,
    peer: str,
    stream: str,
    start: str,
    init_timestamp: str | None,
    reason: str,
    dry_run: bool,
) -> None:
    """Go on with another history of the sender.

    For a link that is halted because the sender's stream was made again, restored or rewritten: the link goes on in
    the same generation from an explicit start in the sender's present epoch; audited.
    """
    _check_start(start, init_timestamp)
    wanted = {"from": start, "init_timestamp": init_timestamp, "reason": reason, "dry_run": dry_run}
    render.show(_decide(home, peer, stream, "accept-epoch", wanted), output, decision_screens.epoch_accepted)


@command.command("rewind")
@peer_option(required=True)
@stream_option
@click.option("--to", type=click.IntRange(min=1), metavar="SEQ", help="The sender's sequence to read again from.")
@click.option("--abort", is_flag=True, help="Give up the generation that is being built.")
@click.option(
    "--accept-differences", is_flag=True, help="Let the sender's facts count where they differ from ours."
)
@reason_option
@dry_run_option
@common_options
def rewind(
    home: Path,
    output: str,
    peer: str,
    stream: str,
    to: int | None,
    abort: bool,
    accept_differences: bool,
    reason: str,
    dry_run: bool,
) -> None:
    """Read again from an earlier fact, into a new generation.

    The generation in force serves local applications until the new one has caught up and was compared with it; then
    the link switches. The old one stays until bsfg stream drop. Interrupted, it goes on in the gateway; audited.
    """
    if abort == (to is not None):
        raise click.UsageError("give either --to SEQ or --abort")
    wanted: dict[str, Any] = {"reason": reason, "abort": True} if abort else {"reason": reason, "to": to}
    if not abort:
        wanted |= {"accept_differences": accept_differences, "dry_run": dry_run}
    answer = _decide(home, peer, stream, "rewind", wanted)
    if abort or dry_run:
        screen = decision_screens.rewind_aborted if abort else decision_screens.rewind_planned
        render.show(answer, output, screen)
        return
    if output == "text":
        render.lines(decision_screens.rewind_planned(answer))
    try:
        answer |= {"cursor": follow(home, peer, stream, int(answer["generation"]), output)}
    except KeyboardInterrupt:
        render.usage("the gateway goes on with it; bsfg cursor query shows how far it is")
        raise
    render.show(answer, output, decision_screens.rewound)


def _decide(home: Path, peer: str, stream: str, verb: str, wanted: dict[str, Any]) -> dict[str, Any]:
    answer: dict[str, Any] = LocalClient(home).post(
        route("cursors", peer, stream, verb), wanted, deadline_seconds=LONG_DEADLINE_SECONDS
    )
    return answer


def follow(home: Path, peer: str, stream: str, generation: int, output: str) -> dict[str, Any]:
    """The cursor once the generation is in force; an error says why it will not be. Tells progress to people."""
    with progress.shown(f"building generation {generation}", Unit.FACTS) as advance:
        return _follow(home, peer, stream, generation, advance, tells=output == "text" and not progress.is_shown())


def _follow(
    home: Path, peer: str, stream: str, generation: int, advance: Advance, *, tells: bool
) -> dict[str, Any]:
    told = ""
    began: int | None = None
    for row in _rows(home, peer, stream):
        building = row.get("rewinding")
        if building is None:
            if row.get("generation") == generation:
                return row
            if row.get("generation") is not None:
                raise BsfgError(
                    Code.HALTED, f"generation {generation} was given up; {row['generation']} is in force"
                )
            continue
        line = decision_screens.progress(building)
        if tells and line != told:
            render.line(line)
            told = line
        if building.get("scanned_through") is not None and building.get("pending") is not None:
            began = building["scanned_through"] if began is None else began
            done = building["scanned_through"] - began
            advance(done, done + building["pending"])
        if building["state"] == "halted":
            raise BsfgError(
                Code.HALTED,
                f"generation {generation} can't be completed: {building['problem']}",
                hint="the one in force goes on; bsfg cursor rewind --abort gives the new one up",
            )
    raise AssertionError("rows do not end")


def _rows(home: Path, peer: str, stream: str) -> Iterator[dict[str, Any]]:
    while True:
        yield LocalClient(home).get(route("cursors", peer, stream))
        time.sleep(LOOK_SECONDS)


def _check_start(start: str, timestamp: str | None) -> None:
    if start.isascii() and start.isdecimal() and timestamp is None:
        return
    try:
        parse_init_mode(start, timestamp)
    except ValueError as error:
        option = "--from" if timestamp is None else "--init-timestamp"
        raise click.BadParameter(f"{error}, or a sequence", param_hint=option) from None
