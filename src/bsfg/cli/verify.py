"""``bsfg verify``: are the facts that we hold of a link those that the peer has, to the byte?"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import click

from bsfg.cli import progress, render
from bsfg.cli.local_client import LocalClient, route
from bsfg.cli.options import common_options, peer_option, stream_option
from bsfg.cli.progress import Unit
from bsfg.errors import EXIT_DONE, EXIT_FAILED, BsfgError, Code

DIFFERENCES_SHOWN_MAX: Final = 50


@click.command("verify")
@peer_option(required=True)
@stream_option
@click.option("--from", "first", metavar="SEQ", type=click.IntRange(min=1), help="Begin at this origin sequence.")
@click.option("--to", "last", metavar="SEQ", type=click.IntRange(min=1), help="End at this origin sequence.")
@common_options
def command(home: Path, output: str, peer: str, stream: str, first: int | None, last: int | None) -> int:
    """Compare what we hold of a link with what the peer has, by digests of ranges.

    Differences are narrowed to single facts. Exit 1 if there is any.
    """
    if first is not None and last is not None and first > last:
        raise click.BadParameter(f"{last} lies before --from {first}", param_hint="--to")
    result = ask(LocalClient(home), peer, stream, first, last)
    render.show(result, output, verified)
    return EXIT_DONE if result["identical"] else EXIT_FAILED


def ask(client: LocalClient, peer: str, stream: str, first: int | None, last: int | None) -> dict[str, Any]:
    """The result; what the gateway says on the way is shown where a person looks on."""
    began: int | None = None
    with progress.shown(f"comparing {peer}/{stream}", Unit.FACTS) as advance:
        for group in client.lines(route("verify"), peer=peer, stream=stream, from_=first, to=last):
            for line in group:
                answer: dict[str, Any] = json.loads(line)
                if "result" in answer:
                    return dict(answer["result"])
                reached = answer["progress"]["compared_through"]
                began = reached if began is None else began
                advance(reached - began, answer["progress"]["to"] - began)
    raise BsfgError(Code.UNAVAILABLE, "the gateway ended before it had compared everything")


def verified(result: dict[str, Any]) -> Iterator[str]:
    """The answer as one line, and what is to be known beside it."""
    first, last, facts = result["from"], result["to"], result["facts"]
    if not facts and first > last:
        yield "nothing to compare: no fact of this range is on both sides"
    elif result["identical"]:
        yield f"complete and identical from {first} to {last}, {facts} facts"
        yield f"  digest {result['digest']}"
    else:
        count = len(result["differences"])
        yield f"NOT identical from {first} to {last}: {count} difference{'s' if count != 1 else ''}"
    for row in result["differences"][:DIFFERENCES_SHOWN_MAX]:
        yield "  " + _difference(row)
    if len(result["differences"]) > DIFFERENCES_SHOWN_MAX:
        yield f"  and {len(result['differences']) - DIFFERENCES_SHOWN_MAX} more (--output json shows all)"
    for row in result["unresolved"][:DIFFERENCES_SHOWN_MAX]:
        yield f"  {row['from']} to {row['to']}: differs, and was not narrowed further"
    for row in result["explained"][:DIFFERENCES_SHOWN_MAX]:
        yield f"  explained: {row['from']} to {row['to']}: {render.printable(row['reason'])}"
    for text in result["outside"]:
        yield f"  not compared: {render.printable(text)}"
    if not result["identical"]:
        yield f"  hint: bsfg repair --peer {result['peer']} --stream {result['stream']} fetches it again"


def _difference(row: dict[str, Any]) -> str:
    what = "message" if row["sequence"] is None else f"fact {row['sequence']}"
    place = f" (local {row['local_sequence']})" if row["local_sequence"] is not None else ""
    note = f": {render.printable(row['note'])}" if row.get("note") else ""
    return f"{row['kind']}: {what}{place}{note}"
