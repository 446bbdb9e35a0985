"""``bsfg artifact``: put artifacts into this zone's store, list them, and remove what no fact refers to."""

from __future__ import annotations

from io import BufferedReader
from pathlib import Path

import click

from bsfg.cli import artifact_fetch, artifact_screens, render
from bsfg.cli.artifact_input import key_option, media_type_option, put, type_option
from bsfg.cli.local_client import LONG_DEADLINE_SECONDS, LocalClient, route
from bsfg.cli.options import ZONE, common_options
from bsfg.errors import BsfgError, Code
from bsfg.model.artifact import ArtifactState


@click.group("artifact")
def command() -> None:
    """Artifacts: put, fetch, list, retry, clean up."""


@command.command("put")
@click.argument("file", type=click.File("rb"))
@type_option(required=True)
@key_option
@media_type_option
@common_options
def put_file(
    home: Path, output: str, file: BufferedReader, artifact_type: str, key: str | None, media_type: str | None
) -> None:
    """Store a file, or standard input, as an artifact.

    Prints {uri, sha256, size, media_type}. For standard input give - as the file.
    The key is the file's name unless --key gives another. What is stored never changes: the same bytes under the same
    key are done, other bytes are refused (conflicting_duplicate), and --key gives them a place of their own.
    """
    render.json_line(put(LocalClient(home), file, artifact_type, key, media_type))


@command.command("list")
@click.option("--peer", type=ZONE, help="Only what we want from this peer.")
@click.option(
    "--state", type=click.Choice([state.value for state in ArtifactState]), help="Only those of peers in this state."
)
@common_options
def list_artifacts(home: Path, output: str, peer: str | None, state: str | None) -> None:
    """Our artifacts and those of peers, each with its state.

    With --peer or --state only those of peers.
    """
    answer = LocalClient(home).get(route("artifacts"), peer=peer, state=state)
    is_all = peer is None and state is None
    render.show(answer, output, artifact_screens.both if is_all else artifact_fetch.listed)


@command.command("gc")
@click.option("--dry-run", is_flag=True, help="Only say what no retained fact refers to.")
@click.option("--reason", help="Why; it is audited. Needed without --dry-run.")
@click.option(
    "--older-than",
    "older_than_hours",
    type=click.IntRange(min=0),
    metavar="HOURS",
    help="Leave what is younger: its fact may be about to come. Default 24.",
)
@common_options
def collect(home: Path, output: str, dry_run: bool, reason: str | None, older_than_hours: int | None) -> None:
    """Find artifacts that no retained fact refers to, and remove them.

    The facts of all local and inbound streams are searched first; where one stream can't be read, nothing is removed.
    """
    if not dry_run and not reason:
        raise BsfgError(
            Code.INVALID_REQUEST,
            "artifact gc removes bytes",
            hint="give --dry-run to look first, or --reason",
        )
    older_than = None if older_than_hours is None else older_than_hours * 3600
    wanted = {"dry_run": dry_run, "reason": reason, "older_than_seconds": older_than}
    answer = LocalClient(home).post(route("artifacts", "gc"), wanted, deadline_seconds=LONG_DEADLINE_SECONDS)
    render.show(answer, output, artifact_screens.orphans)


command.add_command(artifact_fetch.fetch)
command.add_command(artifact_fetch.retry)
