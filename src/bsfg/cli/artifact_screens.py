"""What people see of artifacts: lines made from the parts of :mod:`bsfg.cli.render`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from bsfg.cli import artifact_fetch
from bsfg.cli.render import moment, number, printable, size
from bsfg.cli.screens import NONE, Row, rows_of

DIGEST_SHOWN: Final = 12


def both(answer: Row) -> Iterable[str]:
    """This zone's own artifacts, and those of its peers."""
    rows = rows_of(answer, "own")
    yield "Our own"
    yield from [f"  {line}" for line in _stored(rows) or [NONE]]
    if answer.get("is_complete") is False:
        yield f"  and more: these are the first {len(rows)}"
    yield ""
    yield "Of peers"
    yield from [f"  {line}" for line in artifact_fetch.listed(answer)] or [f"  {NONE}"]


def orphans(answer: Row) -> Iterable[str]:
    """What no retained fact refers to, and what was done about it."""
    yield from _stored(rows_of(answer, "orphans"))
    count = f"{number(answer.get('count'))} artifacts, {size(answer.get('bytes'))}, that no retained fact refers to"
    did = "nothing was removed" if answer.get("dry_run") else f"{number(answer.get('removed'))} removed"
    yield f"{count}; {did}"


def _stored(rows: list[Mapping[str, Any]]) -> list[str]:
    """Two lines each: a URI is to be copied, so it is never cut."""
    text = []
    for row in rows:
        digest = printable(row.get("sha256"))[:DIGEST_SHOWN]
        text += [
            printable(row.get("uri")),
            f"  {size(row.get('size'))}, sha-256 {digest}, stored {moment(row.get('stored_at'))}",
        ]
    return text
