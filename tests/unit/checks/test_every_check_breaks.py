"""For every check there is a lab in which it complains, or a reason why no lab of ours can make it complain alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from tests.support import broken_between, broken_configuration, broken_drills

from bsfg.checks.catalog import CATALOG

ROWS: Final = (*broken_configuration.ROWS, *broken_between.ROWS, *broken_drills.ROWS)
_LINK_HALTS: Final = "the link itself notices that its stream was changed, and halts: fetch.first complains"
_ALL_AT_ONCE: Final = "what breaks it breaks its neighbours too: the demo's sabotages partition and reconciliation"
_STORE: Final = "the store's fence and the link's own rule would have to be taken out of the program"
_TLS: Final = "no TLS library that we have lets a caller in whose chain it can't build"
WITHOUT_A_ROW: Final[Mapping[str, str]] = {
    "trust.tls-version": "neither a gateway nor the command speaks anything older",
    "streams.replicas": "a lab's one node has no fewer replicas than one",
    "denial.wrong-ca": _TLS,
    "denial.self-signed": _TLS,
    "cursors.preview": "it says what would come and judges nothing",
    "access.streams-readable": "what is imported was compared with the matrix, and the matrix with the peer's grants",
    "fetch.durable": _LINK_HALTS,
    "cursor.monotonic": _LINK_HALTS,
    "partition.blocked": _ALL_AT_ONCE,
    "partition.connections": _ALL_AT_ONCE,
    "partition.backlog": _ALL_AT_ONCE,
    "partition.restored": _ALL_AT_ONCE,
    "partition.reconciled": _ALL_AT_ONCE,
    "partition.backfill": _ALL_AT_ONCE,
    "partition.duplicates": _STORE,
    "replay.duplicates": _STORE,
    "replay.stale-append": _STORE,
    "replay.unchanged": _STORE,
    "signals.visible": "a gateway that answers at all names its metrics",
}
"""Their judgements are shown to fail in test_judgements.py and test_drills.py."""


def test_every_check_has_a_row_or_a_reason() -> None:
    known, shown = [check.id for check in CATALOG], {row.check for row in ROWS}
    assert sorted(set(known) - shown) == sorted(WITHOUT_A_ROW)
    assert shown <= set(known)


def test_no_row_stands_twice() -> None:
    names = [str(row) for row in ROWS]
    assert len(names) == len(set(names))
