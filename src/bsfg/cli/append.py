"""``bsfg append``: facts into a local stream, in order; lines go to the gateway as the bytes that they are."""

from __future__ import annotations

import re
from functools import partial
from io import BufferedReader
from pathlib import Path
from typing import Any, Final

import click

from bsfg.cli import render
from bsfg.cli.artifact_input import key_option, media_type_option, put, refer, type_option
from bsfg.cli.fact_input import encode_fact, pieces, source_name, whole_input
from bsfg.cli.local_client import LocalClient, route
from bsfg.cli.options import common_options, stream_option
from bsfg.errors import BsfgError

_TOTALS: Final = ("appended", "first_sequence", "last_sequence", "duplicates")
_LINES: Final = re.compile(r"lines? ([0-9-]+): ")


@click.command("append")
@stream_option
@click.option("--subject", metavar="TAIL", help="What follows the stream's name in the subject.")
@click.option("--message-id", metavar="ID", help="The same id and content again is the fact that is there.")
@click.option("--ndjson", is_flag=True, help="Each line's bytes are one payload; blank lines are skipped.")
@click.option("--envelope", is_flag=True, help="Each line is {subject, message_id, headers, data or data_base64}.")
@click.option("--artifact", type=click.File("rb"), help="Put this file first; the fact then refers to it.")
@type_option(required=False)
@key_option
@media_type_option
@click.argument("file", type=click.File("rb"), default="-")
@common_options
def command(
    home: Path,
    output: str,
    stream: str,
    subject: str | None,
    message_id: str | None,
    ndjson: bool,
    envelope: bool,
    artifact: BufferedReader | None,
    artifact_type: str | None,
    key: str | None,
    media_type: str | None,
    file: BufferedReader,
) -> None:
    """Append the whole input (FILE, or - for standard input) as one fact; print what was appended, as JSON.

    With --ndjson and --envelope every line is a fact. A line that is none ends the command: the lines before it are
    appended and reported, nothing behind it is. A message id counts at any age: the same content again is the fact
    that is there, other content is refused.

    With --artifact and --type the file is stored before the fact is appended. A fact that is a JSON object gets the
    fields artifact_uri, artifact_sha256, artifact_size and artifact_media_type; any other gets headers of these names.
    """
    _check_options(subject, message_id, ndjson, envelope)
    _check_artifact(artifact, artifact_type, key or media_type, ndjson or envelope)
    client = LocalClient(home)
    try:
        if ndjson or envelope:
            answer = client.upload(
                route("append", "ndjson"),
                partial(pieces, file),
                stream=stream,
                subject=subject,
                envelope="1" if envelope else None,
            )
        else:
            payload = whole_input(file)
            headers: list[tuple[str, str]] = []
            if artifact is not None and artifact_type is not None:
                payload, headers = refer(payload, put(client, artifact, artifact_type, key, media_type))
            body = b'{"facts":[' + encode_fact(payload, subject, message_id, headers) + b"]}"
            answer = client.post(route("append"), body, stream=stream)
    except BsfgError as error:
        _report(error, source_name(file))
        raise
    render.json_line({name: answer.get(name) for name in _TOTALS})


def _check_options(subject: str | None, message_id: str | None, ndjson: bool, envelope: bool) -> None:
    if ndjson and envelope:
        raise click.UsageError("--ndjson and --envelope exclude each other")
    if envelope and (subject or message_id):
        raise click.UsageError("with --envelope each line has its own subject and message_id")
    if ndjson and message_id:
        raise click.UsageError("with --ndjson one --message-id would stand for every line; use --envelope")


def _check_artifact(
    artifact: BufferedReader | None, artifact_type: str | None, other: str | None, is_lines: bool
) -> None:
    if (artifact is None) != (artifact_type is None):
        raise click.UsageError("--artifact and --type go together")
    if artifact is None and other is not None:
        raise click.UsageError("--key and --media-type are for --artifact")
    if artifact is not None and is_lines:
        raise click.UsageError("--artifact is for one fact; --ndjson and --envelope are for many")


def _report(error: BsfgError, source: str) -> None:
    """Say where in the input it went wrong, and what was appended before that, where the gateway said it."""
    place = _LINES.match(error.message)
    if place is not None:
        error.message = f"{source}:{place[1]}: {error.message[place.end() :]}"
    if not all(name in error.details for name in _TOTALS):
        return
    total: dict[str, Any] = {name: error.details.pop(name) for name in _TOTALS}
    error.message += f"; appended before it: {total['appended']} facts, last sequence {total['last_sequence']}"
    error.details["appended_before"] = total
