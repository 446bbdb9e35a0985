"""``bsfg handoff``: the record of a bring-up that others sign and check (runbook, sections 9 and 10)."""

from __future__ import annotations

import json
import time
from pathlib import Path

import click

from bsfg.cli import handoff_screens, render
from bsfg.cli.options import common_options
from bsfg.config.home import Home
from bsfg.errors import EXIT_DONE, EXIT_FAILED

_PATH = click.Path(path_type=Path, exists=True)
_FOLDER = click.Path(path_type=Path, file_okay=False)
_ca_option = click.option(
    "--ca",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Whose signatures count.  [default: by this home's configuration]",
)


@click.group("handoff")
def command() -> None:
    """Handoff records: verify, merge, list, show."""


@command.command("verify")
@click.argument("folder", metavar="DIR", type=_FOLDER)
@_ca_option
@common_options
def verify(home: Path, output: str, folder: Path, ca: Path | None) -> int:
    """Check a handoff's signature, schema, files and evidence.

    Says every problem in a line of its own, and exits 1 if there is one.
    """
    from bsfg.daemon.handoffs import verify_handoff

    verified = verify_handoff(folder.absolute(), Home(home.absolute()), ca)
    render.show(verified.as_json(), output, handoff_screens.verified)
    return EXIT_FAILED if verified.inspection.problems else EXIT_DONE


@command.command("merge")
@click.argument("first", metavar="A", type=_PATH)
@click.argument("second", metavar="B", type=_PATH)
@_ca_option
@common_options
def merge(home: Path, output: str, first: Path, second: Path, ca: Path | None) -> int:
    """Make one record of both zones' records.

    A and B are handoff folders or the handoff.json in them. Contradictions between them are named; exits 1 then.
    """
    from bsfg.daemon.handoffs import merge_handoffs

    sources = [first.absolute(), second.absolute()]
    written = merge_handoffs(Home(home.absolute()), sources, time.time_ns(), ca)
    document = written.document
    answer = {
        "path": str(written.path),
        "accepted": document.accepted,
        "open": list(document.open),
        "contradictions": list(document.contradictions),
    }
    render.show(answer, output, handoff_screens.written)
    return EXIT_FAILED if document.contradictions else EXIT_DONE


@command.command("list")
@common_options
def list_all(home: Path, output: str) -> None:
    """The handoffs of this home, the oldest first."""
    from bsfg.daemon.handoffs import list_handoffs

    answer = {"handoffs": list(list_handoffs(Home(home.absolute())))}
    render.show(answer, output, handoff_screens.listed)


@command.command("show")
@click.argument("folder", metavar="DIR", type=_FOLDER)
@common_options
def show(home: Path, output: str, folder: Path) -> None:
    """Print a handoff's record; it is not verified by this."""
    from bsfg.checks.handoff_document import encode
    from bsfg.daemon.handoffs import read_record

    render.show(json.loads(encode(read_record(folder))), output, handoff_screens.record)
