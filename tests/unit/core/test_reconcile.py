"""Where a link goes on, for every pair of an inbound stream and a link record."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bsfg.core.reconcile import Halt, NeedsStart, Resume, resume
from bsfg.model.cursor import Begun, Cursor, Fence, Gap, HaltReason, Init, LinkRecord, LocalPosition

FENCE = Fence(1, "T1", 9)
TIP = Cursor("e1", 20, "d20", 20)
INIT = Init("start_now", None, "why", "e1", 12, 5)
GAPS = (Gap(13, 14, 6, "retention"),)
RECORD = LinkRecord(1, "T1", 9, replace(TIP, scanned_through=25), INIT, GAPS)
FULL = LocalPosition(FENCE, 9, TIP, RECORD)
EMPTY = LocalPosition(Fence(1, "T1", 0), 0, None, None)


def test_a_record_that_agrees_with_the_stream_knows_how_far_the_scan_came() -> None:
    assert resume(FULL) == Resume(RECORD.cursor, INIT, GAPS)


@pytest.mark.parametrize(
    "record",
    [
        replace(RECORD, local_sequence=8),
        replace(RECORD, local_sequence=10),
        replace(RECORD, cursor=Cursor("e1", 21, "d21", 25)),
        replace(RECORD, cursor=Cursor("e1", 20, "other", 25)),
        replace(RECORD, cursor=Cursor("e0", 20, "d20", 25)),
    ],
)
def test_a_record_that_does_not_agree_gives_way_to_the_stream(record: LinkRecord) -> None:
    assert resume(replace(FULL, record=record)) == Resume(TIP, INIT, GAPS)


def test_without_a_record_the_stream_alone_decides() -> None:
    assert resume(replace(FULL, record=None)) == Resume(TIP, None, ())


def test_another_stream_of_the_same_name_is_never_gone_on_with() -> None:
    verdict = resume(replace(FULL, fence=Fence(1, "T2", 9)))
    assert isinstance(verdict, Halt) and verdict.reason is HaltReason.LOCAL_RESET
    verdict = resume(replace(EMPTY, fence=Fence(1, "T2", 0), record=RECORD))
    assert isinstance(verdict, Halt) and verdict.reason is HaltReason.LOCAL_RESET


def test_a_stream_that_was_emptied_is_never_filled_anew() -> None:
    for record in (RECORD, None):
        verdict = resume(replace(FULL, messages=0, tip=None, record=record))
        assert isinstance(verdict, Halt) and verdict.reason is HaltReason.LOCAL_RESET


def test_a_foreign_message_at_the_end_stops_the_link() -> None:
    verdict = resume(replace(FULL, foreign="published by somebody else"))
    assert isinstance(verdict, Halt) and verdict.reason is HaltReason.FOREIGN_WRITER


def test_a_link_that_never_was_needs_a_start_and_one_that_resolved_it_does_not() -> None:
    assert resume(EMPTY) == NeedsStart()
    resolved = LinkRecord(1, "T1", 0, Cursor("e1", None, None, 11), INIT)
    assert resume(replace(EMPTY, record=resolved)) == Resume(resolved.cursor, INIT, ())


@pytest.mark.parametrize("revision", [0, 3])
def test_a_link_whose_store_lost_all_begins_where_it_began_and_never_anew(revision: int) -> None:
    lost = replace(EMPTY, begun=Begun(INIT), revision=revision)
    assert resume(lost) == Resume(Cursor("e1", None, None, 11), INIT, ())
    verdict = resume(replace(lost, begun=Begun(None)))
    assert isinstance(verdict, Halt) and verdict.reason is HaltReason.CURSOR_UNKNOWN
    resolved = LinkRecord(1, "T1", 0, Cursor("e1", None, None, 14), INIT)
    assert resume(replace(lost, record=resolved)) == Resume(resolved.cursor, INIT, ())


def test_a_stream_that_lost_all_of_its_facts_goes_back_to_its_resolved_start() -> None:
    assert resume(replace(EMPTY, record=RECORD)) == Resume(Cursor("e1", None, None, 11), INIT, GAPS)
    verdict = resume(replace(EMPTY, record=replace(RECORD, init=None)))
    assert isinstance(verdict, Halt) and verdict.reason is HaltReason.CURSOR_UNKNOWN


def test_a_record_written_after_the_first_was_lost_leaves_the_start_to_what_is_known() -> None:
    written_since = replace(EMPTY, record=replace(RECORD, init=None))
    assert resume(replace(written_since, begun=Begun(INIT))) == Resume(Cursor("e1", None, None, 11), INIT, GAPS)
    verdict = resume(replace(written_since, begun=Begun(None)))
    assert isinstance(verdict, Halt) and verdict.reason is HaltReason.CURSOR_UNKNOWN


def test_an_emptied_stream_that_an_operator_decided_about_is_gone_on_with() -> None:
    """The accepted epoch had no fact here yet, so nothing of it can have been lost."""
    chosen = LinkRecord(1, "T1", 9, Cursor("e2", None, None, 3), replace(INIT, epoch="e2", start_sequence=4))
    emptied = replace(FULL, messages=0, tip=None, record=chosen)
    assert resume(emptied) == Resume(chosen.cursor, chosen.init, ())
    verdict = resume(replace(emptied, fence=Fence(1, "T1", 10)))
    assert isinstance(verdict, Halt) and verdict.reason is HaltReason.LOCAL_RESET
