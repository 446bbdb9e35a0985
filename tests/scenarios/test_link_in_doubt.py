"""Conversations with a link whose store is not, or may not be, what the link last knew."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.scenarios.test_link import CREATED, SETTINGS, Conversation, at, empty, fact, gap, level_at, page

from bsfg.core.conversation import (
    Append,
    Fetch,
    GapAccepted,
    Locate,
    Looked,
    PartitionBegan,
    Quarantine,
    Reconfigured,
    SaveRecord,
    SetAside,
    StartChosen,
    Started,
    StoreDoubted,
)
from bsfg.core.link_state import Phase
from bsfg.errors import (
    BsfgError,
    Code,
    Fenced,
    OutcomeUnknown,
    PeerRefused,
    PeerUnreachable,
    SubstrateUnavailable,
)
from bsfg.model.cursor import Cursor, Fence, Gap, HaltReason, Init, LinkRecord, LocalPosition
from bsfg.model.fact import digest

CHOSEN = Init("start_now", None, "the source was restored", "e2", 4, 9_000)


def looked(talk: Conversation, position: LocalPosition, since: int | None = None) -> object:
    """A look beside the steps, asked when the link's fence was the present one or at ``since``."""
    fence = talk.link.fence
    assert fence is not None
    asked = fence if since is None else replace(fence, local_sequence=since)
    return talk.tell(Looked(asked, position))


def halted(talk: Conversation) -> HaltReason | None:
    return talk.link.halt.reason if talk.link.phase is Phase.HALTED and talk.link.halt else None


# The store was away.


def test_a_store_that_returns_is_read_before_anything_else_by_a_level_link_too() -> None:
    talk = level_at(6)
    assert isinstance(talk.tell(StoreDoubted()), Locate)
    fetch = talk.located(at(4, 4))
    assert isinstance(fetch, Fetch) and fetch.request.after is not None
    assert fetch.request.after.sequence == 4, "what was lost is asked for again"


def test_what_is_under_way_when_the_store_returns_is_taken_back() -> None:
    talk = level_at(6)
    talk.fetched(page(7, start=7))
    tickets = talk.link.tickets
    assert isinstance(talk.tell(StoreDoubted()), Locate)
    assert not tickets & talk.link.tickets and not talk.link.flights


@pytest.mark.parametrize("phase", [Phase.RESTING, Phase.PARTITIONED, Phase.HALTED])
def test_a_link_that_waits_for_an_outside_word_is_not_moved_by_its_store(phase: Phase) -> None:
    talk = level_at(6)
    talk.link = talk.link._replace(phase=phase, step=None, fetch=None)
    assert talk.tell(StoreDoubted()) is None
    assert talk.link.phase is phase


def test_a_link_that_waits_looks_at_once_when_its_store_returns() -> None:
    talk = level_at(6)
    talk.fetch_fails(PeerUnreachable("no answer"))
    assert isinstance(talk.tell(StoreDoubted()), Locate)


# A look beside the steps.


def test_a_look_that_finds_what_the_link_believes_changes_nothing() -> None:
    talk = level_at(6)
    before = talk.link
    assert looked(talk, at(6, 6)) is None
    assert talk.link is before


def test_a_look_may_see_any_part_of_what_is_in_flight() -> None:
    talk = level_at(6)
    talk.fetched(page(7, 8, start=7))
    before = talk.link
    for stored in (6, 7, 8):
        assert looked(talk, at(stored, stored)) is None
    assert talk.link is before


def test_a_look_that_was_asked_before_the_last_append_changes_nothing() -> None:
    talk = level_at(6)
    talk.fetched(page(7, start=7))
    talk.appended()
    before = talk.link
    assert looked(talk, at(6, 6), since=6) is None
    assert talk.link is before


OTHER_FACT = LocalPosition(Fence(1, CREATED, 6), 6, Cursor("e1", 6, "0" * 64, 6), None)
MADE_AGAIN = replace(at(6, 6), fence=Fence(1, "later", 6))
ANOTHER_GENERATION = replace(at(6, 6), fence=Fence(2, CREATED, 6))


@pytest.mark.parametrize(
    "found",
    [
        pytest.param(at(5, 5), id="its tail is lost"),
        pytest.param(at(7, 7), id="somebody else has appended"),
        pytest.param(OTHER_FACT, id="another fact stands at the end"),
        pytest.param(MADE_AGAIN, id="it was made again"),
        pytest.param(ANOTHER_GENERATION, id="another generation is in force"),
        pytest.param(replace(at(6, 6), foreign="message 6 is foreign"), id="somebody else has written"),
        pytest.param(
            replace(at(6, 6), removed="messages 1 to 3 were removed"), id="its beginning was purged"
        ),
        pytest.param(LocalPosition(Fence(1, CREATED, 6), 0, None, None), id="it was emptied"),
    ],
)
def test_a_look_that_finds_anything_else_is_looked_into(found: LocalPosition) -> None:
    assert isinstance(looked(level_at(6), found), Locate)


def test_a_look_is_believed_by_a_flowing_link_only() -> None:
    talk = level_at(6)
    talk.tell(StoreDoubted())
    before = talk.link
    assert looked(talk, at(3, 3)) is None
    assert talk.link is before


def test_messages_that_somebody_removed_halt_the_link() -> None:
    talk = level_at(6)
    found = replace(at(6, 6), removed="messages 2 to 3 were removed, and not by this gateway")
    looked(talk, found)
    assert talk.located(found) is None
    assert halted(talk) is HaltReason.LOCAL_RESET
    assert talk.link.halt is not None and "messages 2 to 3" in talk.link.halt.message


# The record.


def test_a_record_that_was_there_once_is_missed_where_no_fact_can_make_it_good() -> None:
    talk = Conversation()
    talk.tell(Started())
    assert talk.located(replace(empty(), revision=3)) is None
    assert halted(talk) is HaltReason.CURSOR_UNKNOWN
    talk.tell(StartChosen(CHOSEN))
    save = talk.located(replace(empty(), revision=3))
    assert isinstance(save, SaveRecord) and save.record.cursor == Cursor("e2", None, None, 3)


def test_a_record_is_saved_in_place_of_the_one_that_was_read_or_saved_last() -> None:
    talk = Conversation(replace(SETTINGS, records_gaps=True))
    talk.tell(Started())
    talk.located(replace(at(6, 6), revision=4))
    talk.fetch_fails(gap(7, 9))
    save = talk.located(replace(at(6, 6), revision=5))
    assert isinstance(save, SaveRecord) and save.revision == 5
    talk.saved(revision=6)
    talk.fetched(page(start=7, scanned=12))
    assert isinstance(talk.orders[0], SaveRecord) and talk.orders[0].revision == 6


def test_a_record_that_another_gateway_has_written_is_read_before_anything_else() -> None:
    talk = Conversation(replace(SETTINGS, records_gaps=True))
    talk.tell(Started())
    talk.located(at(6, 6))
    talk.fetch_fails(gap(7, 9))
    talk.located(at(6, 6))
    assert isinstance(talk.step_fails(Fenced("its revision is another one")), Locate)
    fetch = talk.located(at(6, 6))
    assert isinstance(fetch, Fetch) and fetch.request.accept_gap is None


# Decisions, and what is decided about.


def test_a_gap_whose_facts_came_meanwhile_is_not_recorded() -> None:
    talk = level_at(6)
    talk.fetch_fails(gap(7, 9))
    talk.tell(GapAccepted(5))
    fetch = talk.located(at(8, 8))
    assert isinstance(fetch, Fetch) and fetch.request.accept_gap is None and talk.link.gaps == ()


def test_a_gap_is_not_recorded_where_the_store_has_lost_what_came_before_it() -> None:
    talk = level_at(6)
    talk.fetch_fails(gap(7, 9))
    talk.tell(GapAccepted(5))
    fetch = talk.located(at(4, 4))
    assert isinstance(fetch, Fetch) and fetch.request.after is not None and fetch.request.after.sequence == 4
    assert talk.link.gaps == ()


def test_a_gap_of_an_epoch_that_another_gateway_has_left_is_not_recorded() -> None:
    talk = level_at(6)
    talk.fetch_fails(gap(7, 9))
    talk.tell(GapAccepted(5))
    talk.located(at(6, 7, epoch="e2"))
    assert talk.link.gaps == ()


def test_a_fact_that_another_gateway_has_set_aside_is_recorded_once() -> None:
    talk = Conversation(replace(SETTINGS, sets_aside=True))
    talk.tell(Started())
    talk.located(at(6, 6))
    talk.fetched(page(7, 8, start=7))
    order = talk.append_fails(BsfgError(Code.TOO_LARGE, "fact 7 is too large", sequence=7))
    assert isinstance(order, Quarantine)
    talk.tell(SetAside(order.ticket, 7, 33))
    theirs = Gap(7, 7, 30, HaltReason.UNSTORABLE_FACT.value)
    record = LinkRecord(1, CREATED, 7, at(8, 7).tip or Cursor("e1", 8, None, 8), None, (theirs,))
    assert isinstance(talk.located(at(8, 7, record)), Fetch)
    assert talk.link.gaps == (theirs,)


def test_a_start_that_another_gateway_has_taken_already_is_not_taken_again() -> None:
    talk = level_at(6)
    talk.fetch_fails(PeerRefused(Code.HISTORY_MISMATCH, "another epoch"))
    talk.tell(StartChosen(CHOSEN))
    fetch = talk.located(at(9, 8, epoch="e2"))
    assert isinstance(fetch, Fetch) and fetch.request.after is not None
    assert (fetch.request.after.epoch, fetch.request.after.sequence) == ("e2", 9)


def test_a_start_is_taken_behind_what_the_stream_holds_by_then() -> None:
    talk = level_at(6)
    talk.fetch_fails(PeerRefused(Code.HISTORY_MISMATCH, "another epoch"))
    talk.tell(StartChosen(CHOSEN))
    save = talk.located(at(5, 5))
    assert isinstance(save, SaveRecord) and save.record.local_sequence == 5
    talk.saved()
    append = talk.fetched(page(4, start=4, epoch="e2"))
    assert isinstance(append, Append) and append.fence.local_sequence == 5


def test_a_decision_does_not_outlive_another_halt() -> None:
    talk = level_at(6)
    talk.fetch_fails(PeerRefused(Code.HISTORY_MISMATCH, "another epoch"))
    talk.tell(StartChosen(CHOSEN))
    talk.located(replace(at(6, 6), foreign="message 6 is foreign"))
    assert halted(talk) is HaltReason.FOREIGN_WRITER
    talk.tell(Reconfigured(replace(SETTINGS, records_gaps=True)))
    fetch = talk.located(at(6, 6))
    assert isinstance(fetch, Fetch) and fetch.request.after is not None and fetch.request.after.epoch == "e1"


def test_leave_to_pass_a_gap_does_not_outlive_another_halt() -> None:
    talk = level_at(6)
    talk.fetch_fails(gap(7, 9))
    talk.tell(GapAccepted(5))
    talk.located(replace(at(6, 6), foreign="message 6 is foreign"))
    talk.tell(Reconfigured(SETTINGS))
    fetch = talk.located(at(6, 6))
    assert isinstance(fetch, Fetch) and talk.link.gaps == ()


def test_a_decision_waits_for_a_store_that_is_away() -> None:
    talk = level_at(6)
    talk.fetch_fails(gap(7, 9))
    talk.tell(GapAccepted(5))
    talk.step_fails(SubstrateUnavailable("away"))
    assert isinstance(talk.waited(), Locate)
    save = talk.located(at(6, 6))
    assert isinstance(save, SaveRecord) and save.record.gaps[0].last == 9


def test_a_decision_about_a_link_that_is_cut_off_is_durable_and_asks_for_nothing() -> None:
    talk = level_at(6)
    talk.fetch_fails(gap(7, 9))
    talk.tell(PartitionBegan())
    talk.tell(GapAccepted(5))
    assert isinstance(talk.located(at(6, 6)), SaveRecord)
    assert talk.saved() is None and talk.link.phase is Phase.PARTITIONED


# A fact that is here with other content.


def conflicting(sequence: int, local: int) -> LocalPosition:
    return LocalPosition(Fence(1, CREATED, local), local, Cursor("e1", sequence, "0" * 64, sequence), None)


@pytest.mark.parametrize("error", [Fenced("elsewhere"), OutcomeUnknown("no answer")])
def test_a_fact_that_is_here_with_other_content_is_a_conflicting_duplicate(error: BsfgError) -> None:
    talk = level_at(6)
    talk.fetched(page(7, 8, start=7))
    assert isinstance(talk.append_fails(error), Locate)
    assert talk.located(conflicting(8, 8)) is None
    assert halted(talk) is HaltReason.CONFLICTING_DUPLICATE
    assert talk.link.halt is not None and digest(fact(8)) in talk.link.halt.message
    assert talk.said[-1].startswith("link halted: conflicting_duplicate: fact 8 of epoch e1")


def test_a_fact_that_is_here_with_the_same_content_is_stored_whoever_stored_it() -> None:
    talk = level_at(6)
    talk.fetched(page(7, 8, start=7))
    talk.append_fails(Fenced("elsewhere"))
    fetch = talk.located(at(8, 8))
    assert isinstance(fetch, Fetch) and talk.link.cursor is not None and talk.link.cursor.sequence == 8


def test_another_fact_than_those_that_were_sent_is_no_conflict() -> None:
    talk = level_at(6)
    talk.fetched(page(7, 8, start=7))
    talk.append_fails(Fenced("elsewhere"))
    assert isinstance(talk.located(conflicting(9, 9)), Fetch), "the sender's agreement decides about that"


def test_the_same_sequence_in_another_epoch_is_no_conflict() -> None:
    talk = level_at(6)
    talk.fetched(page(7, 8, start=7))
    talk.append_fails(Fenced("elsewhere"))
    position = LocalPosition(Fence(1, CREATED, 8), 8, Cursor("e2", 8, "0" * 64, 8), None)
    assert isinstance(talk.located(position), Fetch)


def test_pages_in_doubt_are_let_go_when_the_link_has_to_wait() -> None:
    """They are held for one read of the stream's end, and many links may wait for their store."""
    talk = level_at(6)
    talk.fetched(page(7, 8, start=7))
    talk.append_fails(OutcomeUnknown("no answer"))
    assert talk.link.doubtful
    talk.step_fails(SubstrateUnavailable("away"))
    assert talk.link.doubtful == ()


def test_a_link_that_knows_nothing_yet_has_nothing_to_disagree_with() -> None:
    talk = Conversation()
    talk.tell(Started())
    talk.located(empty())
    before = talk.link
    assert looked(talk, empty()) is None
    assert talk.link is before
