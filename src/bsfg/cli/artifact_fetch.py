"""``bsfg artifact fetch`` and ``retry``: artifacts of peers, by hand (runbook 7.2 to 7.4)."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

import click

from bsfg.cli import progress, render
from bsfg.cli.local_client import LONG_DEADLINE_SECONDS, LocalClient, route
from bsfg.cli.options import ZONE, common_options
from bsfg.cli.progress import Unit
from bsfg.cli.render import fields, moment, number, paragraph, printable, size
from bsfg.errors import BsfgError, Code

Row = Mapping[str, Any]
OUT_MODE: Final = 0o666
INDENT: Final = 11


@click.command("fetch")
@click.option("--uri", required=True, help="s3://bucket/type/key, as facts name it.")
@click.option("--peer", type=ZONE, help="The peer.  [default: the one whose artifact_bucket it is]")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write a copy of the bytes to this file.")
@common_options
def fetch(home: Path, output: str, uri: str, peer: str | None, out: Path | None) -> None:
    """Fetch a peer's artifact and verify it.

    One that is here already is answered at once; one that can't be had now stays on the list and is tried again.
    """
    client = LocalClient(home)
    wanted = {"uri": uri, "peer": peer}
    with progress.watched("fetching", Unit.BYTES, progress.transfer(client, uri)):
        answer: dict[str, Any] = client.post(
            route("artifacts", "fetch"), wanted, deadline_seconds=LONG_DEADLINE_SECONDS
        )
    if out is not None:
        _copy(client, answer, out)
        answer["path"] = str(out.absolute())
    render.show(answer, output, fetched)


@click.command("retry")
@click.option("--uri", help="Only this artifact.")
@click.option("--peer", type=ZONE, help="Only what is wanted from this peer.")
@common_options
def retry(home: Path, output: str, uri: str | None, peer: str | None) -> None:
    """Try what is wanted and not here again now, forbidden artifacts too."""
    render.show(LocalClient(home).post(route("artifacts", "retry"), {"uri": uri, "peer": peer}), output, retried)


def _copy(client: LocalClient, artifact: Row, out: Path) -> None:
    """The file is there whole and verified, or not at all."""
    hasher, mask = hashlib.sha256(), os.umask(0)
    os.umask(mask)
    try:
        descriptor, name = tempfile.mkstemp(dir=out.absolute().parent, prefix=f".{out.name}.")
    except OSError as error:
        raise _not_written(out, error) from None
    draft = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file, progress.shown("copying", Unit.BYTES) as advance:
            for piece in client.download(route("artifacts", "content"), uri=artifact["uri"]):
                hasher.update(piece)
                file.write(piece)
                advance(file.tell(), artifact["size"])
            file.flush()
            os.fsync(file.fileno())
        if hasher.hexdigest() != artifact["sha256"]:
            raise BsfgError(
                Code.BAD_ANSWER,
                f"the bytes of {artifact['uri']} in the store have sha-256 {hasher.hexdigest()} and not"
                f" {artifact['sha256']}",
                hint="the store's disk has damaged them; nothing was written",
            )
        draft.chmod(OUT_MODE & ~mask)
        draft.replace(out)
    except OSError as error:
        raise _not_written(out, error) from None
    finally:
        draft.unlink(missing_ok=True)


def _not_written(out: Path, error: OSError) -> BsfgError:
    return BsfgError(
        Code.INVALID_REQUEST,
        f"{out} can't be written: {error.strerror or error}",
        hint="the artifact is in the store all the same; give another --out",
    )


def fetched(answer: Row) -> Iterable[str]:
    yield printable(answer.get("uri"))
    path = answer.get("path")
    yield from fields(
        [
            ("sha256", printable(answer.get("sha256"))),
            ("size", size(answer.get("size"))),
            ("path", "in the object store; --out writes a copy" if path is None else printable(path)),
        ],
        indent=2,
    )


def retried(answer: Row) -> Iterable[str]:
    yield f"{number(answer.get('retried'))} wanted artifacts are tried now"
    yield from listed(answer)


def listed(answer: Row) -> Iterable[str]:
    """Artifacts of peers with their states."""
    for row in answer.get("artifacts") or []:
        yield f"{printable(row.get('state')):<9}  {printable(row.get('uri'))}"
        facts = [f"from {printable(row.get('peer'))}", f"size {size(row.get('size'))}"]
        if row.get("references") is not None:
            facts.append(f"named by {number(row.get('references'))} facts")
        if row.get("state") != "verified":
            due = row.get("next_retry")
            facts.append(f"next retry {'when policy changes' if due is None else moment(due)}")
        yield from paragraph(", ".join(facts), first=" " * INDENT, indent=INDENT)
        if row.get("problem"):
            yield from paragraph(printable(row.get("problem")), first=" " * INDENT, indent=INDENT)
