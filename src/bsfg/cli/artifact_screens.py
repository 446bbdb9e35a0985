"""What people see of artifacts: lines made from the parts of :mod:`bsfg.cli.render`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from bsfg.cli.render import moment, number, printable, size, table
from bsfg.cli.screens import NONE, Row, rows_of

DIGEST_SHOWN: Final = 12


def own(answer: Row) -> Iterable[str]:
    """This zone's artifacts."""
    rows = rows_of(answer, "artifacts")
    yield from _stored(rows) or [NONE]
    if answer.get("is_complete") is False:
        yield f"and more: these are the first {len(rows)}"


def wanted(answer: Row) -> Iterable[str]:
    """What we want from peers."""
    yield from table(
        ["PEER", "URI", "STATE", "SIZE", "NEXT RETRY", "PROBLEM"],
        [
            [
                printable(row.get("peer")),
                printable(row.get("uri")),
                printable(row.get("state")),
                size(row.get("size")),
                moment(row["next_retry"]) if row.get("next_retry") else "",
                printable(row.get("problem") or ""),
            ]
            for row in rows_of(answer, "artifacts")
        ],
    ) or [NONE]


def orphans(answer: Row) -> Iterable[str]:
    """What no retained fact refers to, and what was done about it."""
    yield from _stored(rows_of(answer, "orphans"))
    count = f"{number(answer.get('count'))} artifacts, {size(answer.get('bytes'))}, that no retained fact refers to"
    did = "nothing was removed" if answer.get("dry_run") else f"{number(answer.get('removed'))} removed"
    yield f"{count}; {did}"


def _stored(rows: list[Mapping[str, Any]]) -> list[str]:
    return list(
        table(
            ["URI", "SIZE", "SHA-256", "STORED"],
            [
                [
                    printable(row.get("uri")),
                    size(row.get("size")),
                    printable(row.get("sha256"))[:DIGEST_SHOWN],
                    moment(row.get("stored_at")),
                ]
                for row in rows
            ],
        )
        if rows
        else []
    )
