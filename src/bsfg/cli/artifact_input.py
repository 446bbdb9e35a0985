"""A file on its way into the artifact store, and into the fact that refers to it."""

from __future__ import annotations

import json
import mimetypes
import os
import socket
import stat
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from io import BufferedReader
from pathlib import PurePath
from typing import Any, Final, TypeVar

import click

from bsfg.cli import progress
from bsfg.cli.fact_input import pieces, source_name
from bsfg.cli.local_client import LocalClient, route
from bsfg.cli.progress import Advance, Unit
from bsfg.errors import BsfgError, Code

STORE_SECONDS_MAX: Final = 3_600.0
"""From the last byte to the answer: a large artifact is brought to the disk, or to an object store, meanwhile."""
MEDIA_TYPE_DEFAULT: Final = "application/octet-stream"
FIELDS: Final = {
    "artifact_uri": "uri",
    "artifact_sha256": "sha256",
    "artifact_size": "size",
    "artifact_media_type": "media_type",
}
"""What a fact says of an artifact, and where it stands in the answer to a put."""

_Function = TypeVar("_Function", bound=Callable[..., Any])


def type_option(*, required: bool) -> Callable[[_Function], _Function]:
    text = "The artifact's type: what peers are allowed by, for example batch-files."
    return click.option("--type", "artifact_type", required=required, help=text)


def key_option(function: _Function) -> _Function:
    return click.option("--key", help="Its key below the type; default: the file's name.")(function)


def media_type_option(function: _Function) -> _Function:
    text = "For example text/csv; default: what the file's name says."
    return click.option("--media-type", metavar="TYPE", help=text)(function)


def put(
    client: LocalClient, file: BufferedReader, artifact_type: str, key: str | None, media_type: str | None
) -> Any:
    """Send the file as it is read; what the gateway stored: ``{uri, sha256, size, media_type}``."""
    name = source_name(file)
    if key is None and name == "stdin":
        raise click.UsageError("standard input has no name, so it needs --key")
    guessed = mimetypes.guess_type(key or name)[0]
    with progress.shown(f"sending {PurePath(name).name}", Unit.BYTES) as advance:
        return client.upload(
            route("artifacts"),
            partial(_counted, file, advance),
            answer_seconds=STORE_SECONDS_MAX,
            type=artifact_type,
            key=key or PurePath(name).name,
            media_type=media_type or guessed or MEDIA_TYPE_DEFAULT,
        )


def _counted(file: BufferedReader, advance: Advance, gateway: socket.socket) -> Iterator[bytes]:
    """The pieces, and to who looks on how much of the file they are; a pipe has no size."""
    status, sent = os.fstat(file.fileno()), 0
    size = status.st_size if stat.S_ISREG(status.st_mode) else None
    for piece in pieces(file, gateway):
        yield piece
        sent += len(piece)
        advance(sent, size)


def refer(payload: bytes, stored: Mapping[str, Any]) -> tuple[bytes, list[tuple[str, str]]]:
    """The payload and headers of the fact that refers to a stored artifact.

    The fields are put into a JSON object, whose text otherwise stays as it is; any other payload stays, and they are
    its headers. A JSON object that has one of them with another value is refused.
    """
    body = _object_of(payload)
    named = {name: stored[field] for name, field in FIELDS.items()}
    if body is None:
        return payload, [(name, str(value)) for name, value in named.items()]
    for name, value in named.items():
        if name in body and body[name] != value:
            raise BsfgError(
                Code.INVALID_REQUEST,
                f"the fact has {name} {json.dumps(body[name])}, but what was put is {json.dumps(value)}",
                hint="leave the fields of the artifact to --artifact",
            )
    missing = {name: value for name, value in named.items() if name not in body}
    if not missing:
        return payload, []
    head, _, tail = payload.rpartition(b"}")
    between = b", " if body else b""
    return head.rstrip() + between + json.dumps(missing, ensure_ascii=False)[1:-1].encode() + b"}" + tail, []


def _object_of(payload: bytes) -> dict[str, Any] | None:
    try:
        body = json.loads(payload)
    except (ValueError, RecursionError):
        return None
    return body if isinstance(body, dict) else None
