"""Conversations with a link: what it is told, what it orders, and what it then believes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bsfg.core.conversation import (
    Announce,
    Append,
    Appended,
    Command,
    Confirm,
    Confirmed,
    ConfirmFailed,
    Event,
    Fetch,
    GapAccepted,
    Locate,
    Located,
    PageFetched,
    PartitionBegan,
    PartitionEnded,
    Quarantine,
    Reconfigured,
    RecordSaved,
    SaveRecord,
    SetAside,
    StartChosen,
    Started,
    StepFailed,
    StoreDoubted,
    Wait,
    Waited,
    Woken,
)
from bsfg.core.link import advance
from bsfg.core.link_state import FLIGHTS_MAX, Link, LinkSettings, Phase, StepFailure, state_of
from bsfg.errors import (
    BsfgError,
    Code,
    Fenced,
    OutcomeUnknown,
    PeerRefused,
    PeerUnreachable,
    StoreFull,
    SubstrateUnavailable,
)
from bsfg.model.cursor import (
    Cursor,
    Fence,
    HaltReason,
    Init,
    LinkName,
    LinkRecord,
    LinkState,
    LocalPosition,
    parse_init_mode,
)
from bsfg.model.fact import Fact, digest
from bsfg.model.names import parse_stream, parse_zone
from bsfg.model.page import Agreement, Page

NAME = LinkName(parse_zone("enterprise"), parse_stream("facts.operational"))
SETTINGS = LinkSettings(parse_init_mode("full_backfill"))
CREATED = "2026-01-01T00:00:00Z"


def fact(sequence: int) -> Fact:
    return Fact(sequence, f"{NAME.stream}.batch", 1_000 + sequence, b"", b'{"n": %d}' % sequence)


def page(
    *sequences: int, start: int = 1, scanned: int | None = None, pending: int = 0, epoch: str = "e1"
) -> Page:
    facts = [fact(sequence) for sequence in sequences]
    through = scanned if scanned is not None else (sequences[-1] if sequences else start - 1)
    return Page(
        NAME.stream, epoch, Agreement.EXACT, start, through, through + pending, pending, 9_000, None, facts
    )


class Conversation:
    """A link that is told events; ``said`` keeps the announcements, ``orders`` the rest of the last answer."""

    def __init__(self, settings: LinkSettings = SETTINGS) -> None:
        self.link = Link(NAME, settings)
        self.said: list[str] = []
        self.confirms: list[int | None] = []
        self.orders: list[Command] = []

    def tell(self, event: Event) -> Command | None:
        """Tell it; the first thing that it orders, if any."""
        self.link, commands = advance(self.link, event)
        self.said += [command.message for command in commands if isinstance(command, Announce)]
        self.confirms += [command.cursor.sequence for command in commands if isinstance(command, Confirm)]
        self.orders = [command for command in commands if not isinstance(command, Announce | Confirm)]
        return self.orders[0] if self.orders else None

    def step_fails(self, error: BsfgError) -> Command | None:
        """Locating, saving or waiting fails."""
        assert self.link.step is not None
        return self.tell(StepFailed(self.link.step, StepFailure(error, 0.5, 77)))

    def fetch_fails(self, error: BsfgError) -> Command | None:
        assert self.link.fetch is not None
        return self.tell(StepFailed(self.link.fetch, StepFailure(error, 0.5, 77)))

    def append_fails(self, error: BsfgError, flight: int = 0) -> Command | None:
        return self.tell(StepFailed(self.link.flights[flight].ticket, StepFailure(error, 0.5, 77)))

    def waited(self) -> Command | None:
        assert self.link.step is not None
        return self.tell(Waited(self.link.step))

    def located(self, position: LocalPosition) -> Command | None:
        assert self.link.step is not None
        return self.tell(Located(self.link.step, position))

    def fetched(self, answer: Page) -> Command | None:
        assert self.link.fetch is not None
        return self.tell(PageFetched(self.link.fetch, answer))

    def saved(self, revision: int = 0) -> Command | None:
        assert self.link.step is not None
        return self.tell(RecordSaved(self.link.step, revision))

    def appended(self, flight: int = 0) -> Command | None:
        stored = self.link.flights[flight]
        return self.tell(Appended(stored.ticket, stored.fence))

    def state(self) -> LinkState:
        return state_of(self.link)


def empty() -> LocalPosition:
    return LocalPosition(Fence(1, CREATED, 0), 0, None, None)


def at(sequence: int, local: int, record: LinkRecord | None = None, epoch: str = "e1") -> LocalPosition:
    tip = Cursor(epoch, sequence, digest(fact(sequence)), sequence)
    return LocalPosition(Fence(1, CREATED, local), local, tip, record)


def level_at(sequence: int) -> Conversation:
    """A link that has stored this sequence, is level behind it and asks for what comes next."""
    talk = Conversation()
    talk.tell(Started())
    talk.located(at(sequence - 1, sequence - 1))
    talk.fetched(page(sequence, start=sequence))
    talk.appended()
    talk.fetched(page(start=sequence + 1))
    assert talk.state() is LinkState.LEVEL
    return talk


def test_a_new_link_resolves_its_start_and_saves_it_before_the_first_append() -> None:
    talk = Conversation()
    assert isinstance(talk.tell(Started()), Locate)
    fetch = talk.located(empty())
    assert (
        isinstance(fetch, Fetch) and fetch.request.start == SETTINGS.init_mode and fetch.request.after is None
    )
    save = talk.fetched(page(5, 6, start=5))
    assert isinstance(save, SaveRecord)
    assert save.record.cursor == Cursor("e1", None, None, 4)
    assert save.record.init == Init("full_backfill", None, None, "e1", 5, 9_000)
    append = talk.saved()
    assert isinstance(append, Append) and [each.sequence for each in append.facts] == [5, 6]
    assert talk.link.cursor == Cursor("e1", None, None, 4), "the cursor waits for the durable append"
    assert talk.confirms == []
    following = talk.appended()
    assert talk.link.cursor == Cursor("e1", 6, digest(fact(6)), 6)
    assert isinstance(following, Fetch) and following.request.after == talk.link.cursor
    assert talk.confirms == [6]


def test_facts_at_or_below_the_cursor_are_dropped() -> None:
    talk = level_at(6)
    append = talk.fetched(page(5, 6, 7, start=5))
    assert isinstance(append, Append) and [each.sequence for each in append.facts] == [7]
    assert talk.link.facts_duplicate == 2


def test_an_answer_to_what_is_not_out_changes_nothing() -> None:
    talk = level_at(6)
    late = PageFetched(talk.link.ticket + 1, page(7, start=7))
    before = talk.link
    assert talk.tell(late) is None
    assert talk.link is before


@pytest.mark.parametrize("error", [OutcomeUnknown("no ack"), Fenced("wrong last sequence")])
def test_after_a_doubtful_append_the_stream_is_read_before_anything_else(error: BsfgError) -> None:
    talk = level_at(6)
    talk.fetched(page(7, 8, start=7))
    assert isinstance(talk.append_fails(error), Locate)
    assert talk.link.cursor is not None and talk.link.cursor.sequence == 6
    fetch = talk.located(at(7, 7))
    assert isinstance(fetch, Fetch) and fetch.request.after is not None
    assert fetch.request.after.sequence == 7, "what the stream holds decides, not what was sent"


def test_a_link_that_is_fenced_again_and_again_slows_down() -> None:
    talk = level_at(6)
    talk.fetched(page(7, start=7))
    talk.append_fails(Fenced("first"))
    talk.located(at(6, 6))
    talk.fetched(page(7, start=7))
    wait = talk.append_fails(Fenced("second"))
    assert isinstance(wait, Wait) and wait.seconds > 0


def test_a_full_store_is_named_and_tried_again() -> None:
    talk = level_at(6)
    talk.fetched(page(7, start=7))
    assert isinstance(talk.append_fails(StoreFull("full")), Wait)
    assert talk.state() is LinkState.LOCAL_FULL
    assert isinstance(talk.waited(), Locate)


def test_a_store_that_is_away_is_named() -> None:
    talk = Conversation()
    talk.tell(Started())
    assert isinstance(talk.step_fails(SubstrateUnavailable("away")), Wait)
    assert talk.state() is LinkState.LOCAL_UNAVAILABLE


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (PeerUnreachable("no route"), LinkState.BACKING_OFF),
        (PeerRefused(Code.UNAVAILABLE, "store away"), LinkState.BACKING_OFF),
        (PeerRefused(Code.PARTITIONED, "cut off"), LinkState.PARTITIONED),
        (PeerRefused(Code.STREAM_DENIED, "no"), LinkState.DENIED),
        (PeerRefused(Code.PEER_UNKNOWN, "who"), LinkState.DENIED),
        (BsfgError(Code.IDENTITY_REJECTED, "an impostor"), LinkState.DENIED),
        (BsfgError(Code.BAD_ANSWER, "garbage"), LinkState.BACKING_OFF),
    ],
)
def test_trouble_with_the_peer_waits_in_a_named_state(error: BsfgError, state: LinkState) -> None:
    talk = level_at(6)
    assert isinstance(talk.fetch_fails(error), Wait)
    assert talk.state() is state
    talk.waited()
    talk.located(at(6, 6))
    talk.fetched(page(start=7))
    assert talk.state() is LinkState.LEVEL


def test_delays_grow_to_the_cap_and_start_over_after_a_page() -> None:
    talk = level_at(6)
    delays = []
    for _ in range(12):
        wait = talk.fetch_fails(PeerUnreachable("no"))
        assert isinstance(wait, Wait)
        delays.append(wait.seconds)
        talk.waited()
        talk.located(at(6, 6))
    assert delays == sorted(delays) and delays[-1] <= SETTINGS.backoff.delay_seconds_max
    talk.fetched(page(start=7))
    wait = talk.fetch_fails(PeerUnreachable("no"))
    assert isinstance(wait, Wait) and wait.seconds == delays[0]


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (Code.HISTORY_MISMATCH, HaltReason.DIVERGED),
        (Code.AHEAD_OF_SOURCE, HaltReason.AHEAD_OF_SOURCE),
        (Code.INIT_REJECTED, HaltReason.INIT_REJECTED),
    ],
)
def test_histories_that_disagree_halt_the_link(code: Code, reason: HaltReason) -> None:
    talk = level_at(6)
    assert talk.fetch_fails(PeerRefused(code, "no")) is None
    assert talk.state() is LinkState.HALTED and talk.link.halt is not None
    assert talk.link.halt.reason is reason
    assert talk.tell(Woken(by_operator=True)) is None, "only an operator's decision leads on, not a wake-up"


def test_a_page_of_another_epoch_halts_the_link_and_appends_nothing() -> None:
    talk = level_at(6)
    assert talk.fetched(page(7, start=7, epoch="e2")) is None
    assert talk.link.halt is not None and talk.link.halt.reason is HaltReason.DIVERGED


def gap(first: int, last: int) -> PeerRefused:
    return PeerRefused(Code.GAP, "gone", **{"from": first, "to": last})


def test_a_gap_halts_by_default() -> None:
    talk = level_at(6)
    assert talk.fetch_fails(gap(7, 9)) is None
    assert talk.link.halt is not None and talk.link.halt.reason is HaltReason.GAP


def test_a_gap_is_durable_before_the_first_fact_behind_it_where_policy_says_so() -> None:
    talk = Conversation(replace(SETTINGS, records_gaps=True))
    talk.tell(Started())
    talk.located(at(6, 6))
    assert isinstance(talk.fetch_fails(gap(7, 9)), Locate), "first it reads where it is"
    save = talk.located(at(6, 6))
    assert isinstance(save, SaveRecord)
    assert [(each.first, each.last, each.reason) for each in save.record.gaps] == [(7, 9, "retention")]
    fetch = talk.saved()
    assert isinstance(fetch, Fetch) and fetch.request.accept_gap == (7, 9)
    append = talk.fetched(page(10, start=7))
    assert isinstance(append, Append) and append.facts[0].sequence == 10


def test_a_gap_whose_record_was_not_saved_is_not_passed() -> None:
    talk = Conversation(replace(SETTINGS, records_gaps=True))
    talk.tell(Started())
    talk.located(at(6, 6))
    talk.fetch_fails(gap(7, 9))
    assert isinstance(talk.located(at(6, 6)), SaveRecord)
    assert isinstance(talk.step_fails(SubstrateUnavailable("away")), Wait)
    assert isinstance(talk.waited(), Locate)
    fetch = talk.located(at(6, 6))
    assert isinstance(fetch, Fetch) and fetch.request.accept_gap is None
    talk.fetch_fails(gap(7, 9))
    assert isinstance(talk.located(at(6, 6)), SaveRecord), "the record comes first, however often it takes"


def test_a_gap_that_does_not_begin_behind_the_cursor_is_not_believed() -> None:
    talk = Conversation(replace(SETTINGS, records_gaps=True))
    talk.tell(Started())
    talk.located(at(6, 6))
    assert isinstance(talk.fetch_fails(gap(5, 9)), Wait)
    assert talk.link.gaps == ()


def test_a_scan_past_the_last_fact_is_saved_once_when_level() -> None:
    talk = level_at(6)
    save = talk.fetched(page(start=7, scanned=9))
    assert isinstance(save, SaveRecord) and save.record.cursor.scanned_through == 9
    fetch = talk.saved()
    assert isinstance(fetch, Fetch)
    assert isinstance(talk.fetched(page(start=10, scanned=9)), Fetch), "what is saved is not saved again"


def test_a_level_link_asks_the_peer_to_hold_its_answer_and_a_behind_one_does_not() -> None:
    talk = Conversation(replace(SETTINGS, limits=replace(SETTINGS.limits, wait_seconds=5.0)))
    talk.tell(Started())
    first = talk.located(at(6, 6))
    assert isinstance(first, Fetch) and first.request.limits.wait_seconds == 0
    talk.fetched(page(7, start=7, pending=3))
    behind = talk.appended()
    assert isinstance(behind, Fetch) and behind.request.limits.wait_seconds == 0
    assert talk.state() is LinkState.CATCHING_UP
    talk.fetched(page(8, 9, 10, start=8))
    level = talk.orders[1]
    assert isinstance(level, Fetch) and level.request.limits.wait_seconds == 5.0
    assert talk.state() is LinkState.CATCHING_UP, "what is fetched and not yet stored is not level"
    talk.appended()
    assert talk.state() is LinkState.LEVEL


def test_waking_only_makes_the_next_look_earlier() -> None:
    talk = Conversation(replace(SETTINGS, limits=replace(SETTINGS.limits, wait_seconds=5.0)))
    talk.tell(Started())
    talk.located(at(6, 6))
    talk.fetched(page(start=7))
    cursor = talk.link.cursor
    fetch = talk.tell(Woken())
    assert isinstance(fetch, Fetch) and fetch.request.limits.wait_seconds == 0
    assert talk.link.cursor == cursor
    talk.fetch_fails(PeerUnreachable("no"))
    assert isinstance(talk.tell(Woken()), Locate)


def test_confirms_go_one_at_a_time_and_the_latest_only() -> None:
    talk = level_at(6)
    assert talk.confirms == [6]
    talk.fetched(page(7, start=7, pending=1))
    talk.appended()
    talk.fetched(page(8, start=8))
    talk.appended()
    assert talk.confirms == [6]
    talk.tell(Confirmed(6))
    assert talk.confirms == [6, 8]
    talk.tell(ConfirmFailed())
    talk.fetched(page(start=9))
    assert talk.confirms == [6, 8, 8]
    talk.tell(Confirmed(8))
    talk.fetched(page(start=9))
    assert talk.confirms == [6, 8, 8]


def test_a_partition_lets_an_append_end_and_asks_for_nothing_new() -> None:
    talk = level_at(6)
    talk.fetched(page(7, start=7, pending=2))
    assert talk.tell(PartitionBegan()) is None
    assert talk.state() is LinkState.PARTITIONED
    assert talk.appended() is None
    assert talk.link.phase is Phase.PARTITIONED
    assert talk.link.cursor is not None and talk.link.cursor.sequence == 7
    assert isinstance(talk.tell(PartitionEnded()), Locate)


def test_a_partition_during_a_long_poll_takes_the_poll_back() -> None:
    talk = level_at(6)
    ticket = talk.link.fetch
    assert ticket is not None
    talk.tell(PartitionBegan())
    assert talk.link.phase is Phase.PARTITIONED
    before = talk.link
    talk.tell(PageFetched(ticket, page(7, start=7)))
    assert talk.link is before


def test_a_link_that_starts_by_hand_rests_until_an_operator_asks() -> None:
    talk = Conversation(replace(SETTINGS, starts_on_load=False))
    talk.tell(Started())
    assert talk.located(empty()) is None
    assert talk.state() is LinkState.STARTING
    assert talk.tell(Woken()) is None
    assert isinstance(talk.tell(Woken(by_operator=True)), Locate)
    assert isinstance(talk.located(empty()), Fetch)


def test_a_recovery_is_told_in_the_words_and_order_of_the_contract() -> None:
    talk = level_at(6)
    talk.said.clear()
    talk.fetch_fails(PeerUnreachable("gone"))
    talk.waited()
    talk.located(at(6, 6))
    talk.fetched(page(7, 8, start=7, pending=2))
    assert talk.said == [
        "cursor comparison: local=6, peer=10",
        "backfill required: 4 facts",
        "replay initiated",
    ]
    talk.appended()
    talk.fetched(page(9, 10, start=9))
    talk.appended()
    assert talk.said[3:] == ["cursor advanced to 10"]


def test_a_recovery_with_nothing_to_do_says_so_too() -> None:
    talk = level_at(6)
    talk.said.clear()
    talk.tell(PartitionBegan())
    talk.tell(PartitionEnded())
    talk.located(at(6, 6))
    talk.fetched(page(start=7))
    assert talk.said == [
        "cursor comparison: local=6, peer=6",
        "backfill required: 0 facts",
        "replay initiated",
        "cursor advanced to 6",
    ]


def busy() -> Conversation:
    """A link behind 6 with the window full: 7, 8 and 9 are being stored, in a page each."""
    talk = level_at(6)
    for sequence in (7, 8, 9):
        talk.fetched(page(sequence, start=sequence, pending=5))
    assert len(talk.link.flights) == FLIGHTS_MAX == 3
    return talk


def test_pages_are_stored_behind_each_other_and_fetched_meanwhile() -> None:
    talk = level_at(6)
    first = talk.fetched(page(7, 8, start=7, pending=5))
    assert isinstance(first, Append) and first.fence.local_sequence == 6
    fetch = talk.orders[1]
    assert isinstance(fetch, Fetch) and fetch.request.after == Cursor("e1", 8, digest(fact(8)), 8)
    second = talk.fetched(page(9, start=9, pending=4))
    assert isinstance(second, Append) and second.fence.local_sequence == 8, (
        "by arithmetic, not by another read"
    )
    assert talk.link.cursor is not None and talk.link.cursor.sequence == 6


def test_a_full_window_asks_for_nothing_until_a_page_is_stored() -> None:
    talk = busy()
    assert talk.link.fetch is None
    fetch = talk.appended()
    assert isinstance(fetch, Fetch) and fetch.request.after is not None and fetch.request.after.sequence == 9


def test_the_cursor_moves_only_over_what_is_stored_without_a_hole() -> None:
    talk = busy()
    talk.appended(1)
    assert talk.link.cursor is not None and talk.link.cursor.sequence == 6
    talk.appended(0)
    assert talk.link.cursor.sequence == 8
    assert talk.link.fence is not None and talk.link.fence.local_sequence == 8
    assert talk.link.facts_appended == 1 + 2


@pytest.mark.parametrize("flight", [0, 1, 2])
def test_one_failed_append_takes_back_everything_behind_it(flight: int) -> None:
    talk = busy()
    tickets = talk.link.tickets
    assert isinstance(talk.append_fails(Fenced("no"), flight), Locate)
    assert not talk.link.tickets & tickets
    talk.located(at(7, 7))
    assert talk.link.cursor_ahead is not None and talk.link.cursor_ahead.sequence == 7
    assert talk.link.fence_ahead is not None and talk.link.fence_ahead.local_sequence == 7


def test_a_peer_that_fails_does_not_disturb_what_is_being_stored() -> None:
    talk = level_at(6)
    talk.fetched(page(7, start=7, pending=5))
    assert talk.fetch_fails(PeerUnreachable("gone")) is None
    assert isinstance(talk.appended(), Wait)
    assert talk.link.cursor is not None and talk.link.cursor.sequence == 7
    assert talk.state() is LinkState.BACKING_OFF


def test_a_scan_without_facts_behind_pages_in_flight_moves_with_the_last_of_them() -> None:
    talk = level_at(6)
    talk.fetched(page(7, start=7, pending=1))
    talk.fetched(page(start=8, scanned=9))
    talk.appended()
    assert talk.link.cursor == Cursor("e1", 7, digest(fact(7)), 9)


def test_an_inbound_stream_that_was_made_again_halts_even_if_its_record_is_lost_too() -> None:
    talk = level_at(6)
    talk.fetch_fails(PeerUnreachable("gone"))
    talk.waited()
    assert talk.located(LocalPosition(Fence(1, "later", 0), 0, None, None)) is None
    assert talk.link.halt is not None and talk.link.halt.reason is HaltReason.LOCAL_RESET


def test_a_fence_that_was_just_read_is_proved_by_one_page_before_others_follow() -> None:
    """Late bytes of a connection that is gone may still land: a page behind one that was refused must not fit."""
    talk = Conversation()
    talk.tell(Started())
    talk.located(at(6, 6))
    talk.fetched(page(7, start=7, pending=5))
    assert talk.link.fetch is None and not talk.link.has_room
    assert isinstance(talk.appended(), Fetch)
    talk.fetched(page(8, start=8, pending=4))
    assert talk.link.has_room


def test_several_pages_are_asked_for_only_behind_a_proved_fence() -> None:
    talk = Conversation(replace(SETTINGS, pages_max=4))
    talk.tell(Started())
    talk.located(at(6, 6))
    talk.fetched(page(7, start=7, pending=50))
    fetch = talk.appended()
    assert isinstance(fetch, Fetch) and fetch.pages == 4
    talk.tell(StoreDoubted())
    fetch = talk.located(at(7, 7))
    assert isinstance(fetch, Fetch) and fetch.pages == 1, "late bytes may still meet the fence that was just read"


def test_the_pages_of_one_answer_are_taken_in_one_after_the_other() -> None:
    talk = level_at(6)
    ticket = talk.link.fetch
    assert ticket is not None
    talk.tell(PageFetched(ticket, page(7, start=7, pending=2), is_last=False))
    assert talk.link.fetch == ticket
    talk.tell(PageFetched(ticket, page(8, start=8, pending=1)))
    assert talk.link.fetch != ticket
    assert [flight.cursor.sequence for flight in talk.link.flights] == [7, 8]


def test_an_operator_lets_a_gap_go_and_it_is_durable_before_the_facts_behind_it() -> None:
    talk = level_at(6)
    assert talk.tell(GapAccepted(5)) is None, "where there is no gap there is nothing to accept"
    talk.fetch_fails(gap(7, 9))
    assert isinstance(talk.tell(GapAccepted(5)), Locate)
    save = talk.located(at(6, 6))
    assert isinstance(save, SaveRecord) and [(each.first, each.last) for each in save.record.gaps] == [(7, 9)]
    fetch = talk.saved()
    assert isinstance(fetch, Fetch) and fetch.request.accept_gap == (7, 9)
    assert talk.link.halt is None and talk.state() is not LinkState.HALTED


def test_an_operator_accepts_another_epoch_from_a_start_and_the_old_facts_stay() -> None:
    talk = level_at(6)
    chosen = Init("start_now", None, "the source was restored", "e2", 4, 9_000)
    assert talk.tell(StartChosen(chosen)) is None, "a link that is not halted is not moved"
    talk.fetch_fails(PeerRefused(Code.HISTORY_MISMATCH, "another epoch"))
    assert isinstance(talk.tell(StartChosen(chosen)), Locate)
    save = talk.located(at(6, 6))
    assert isinstance(save, SaveRecord)
    assert save.record.cursor == Cursor("e2", None, None, 3) and save.record.local_sequence == 6
    fetch = talk.saved()
    assert isinstance(fetch, Fetch) and fetch.request.after == Cursor("e2", None, None, 3)
    append = talk.fetched(page(4, 5, start=4, epoch="e2"))
    assert isinstance(append, Append) and append.fence.local_sequence == 6
    restarted = Conversation()
    restarted.tell(Started())
    again = restarted.located(at(6, 6, save.record))
    assert isinstance(again, Fetch) and again.request.after == Cursor("e2", None, None, 3)


def test_a_gap_that_was_accepted_and_recorded_is_not_asked_about_again() -> None:
    talk = level_at(6)
    talk.fetch_fails(gap(7, 9))
    talk.tell(GapAccepted(5))
    save = talk.located(at(6, 6))
    assert isinstance(save, SaveRecord)
    restarted = Conversation()
    restarted.tell(Started())
    restarted.located(at(6, 6, save.record))
    restarted.fetch_fails(gap(7, 9))
    again = restarted.located(at(6, 6, save.record))
    assert isinstance(again, SaveRecord) and again.record.gaps == save.record.gaps
    fetch = restarted.saved()
    assert isinstance(fetch, Fetch) and fetch.request.accept_gap == (7, 9)


def test_a_gap_that_has_grown_since_is_asked_about_again() -> None:
    talk = level_at(6)
    talk.fetch_fails(gap(7, 9))
    talk.tell(GapAccepted(5))
    talk.located(at(6, 6))
    talk.saved()
    assert talk.fetch_fails(gap(7, 12)) is None
    assert talk.link.halt is not None and talk.link.halt.gap == (7, 12)


def test_a_peer_that_names_a_gap_again_and_again_is_not_asked_in_a_tight_loop() -> None:
    talk = Conversation(replace(SETTINGS, records_gaps=True))
    talk.tell(Started())
    talk.located(at(6, 6))
    talk.fetch_fails(gap(7, 9))
    talk.located(at(6, 6))
    talk.saved()
    assert isinstance(talk.fetch_fails(gap(7, 9)), Wait)


def test_a_changed_setting_lets_a_halted_link_look_again() -> None:
    talk = level_at(6)
    talk.fetch_fails(gap(7, 9))
    assert talk.state() is LinkState.HALTED
    assert isinstance(talk.tell(Reconfigured(replace(SETTINGS, records_gaps=True))), Locate)
    assert talk.link.halt is None
    talk.located(at(6, 6))
    talk.fetch_fails(gap(7, 9))
    save = talk.located(at(6, 6))
    assert isinstance(save, SaveRecord) and save.record.gaps[0].last == 9


def test_another_epoch_begins_without_the_gaps_of_the_one_before() -> None:
    """A fact of the new epoch at the sequence of one that was set aside is not left out."""
    talk = Conversation(replace(SETTINGS, sets_aside=True))
    talk.tell(Started())
    talk.located(at(6, 6))
    talk.fetched(page(7, 8, start=7))
    order = talk.append_fails(unstorable(8))
    assert isinstance(order, Quarantine)
    talk.tell(SetAside(order.ticket, 8, 33))
    talk.located(at(7, 7))
    talk.saved()
    talk.fetch_fails(PeerRefused(Code.HISTORY_MISMATCH, "another epoch"))
    talk.tell(StartChosen(Init("sequence:8", None, "restored", "e2", 8, 9_000)))
    save = talk.located(at(7, 7))
    assert isinstance(save, SaveRecord) and save.record.gaps == ()
    talk.saved()
    append = talk.fetched(page(8, 9, start=8, epoch="e2"))
    assert isinstance(append, Append) and [each.sequence for each in append.facts] == [8, 9]


def test_a_store_that_does_not_say_which_fact_is_too_large_is_looked_at_again_once() -> None:
    talk = level_at(6)
    talk.fetched(page(7, 8, start=7))
    assert isinstance(talk.append_fails(BsfgError(Code.TOO_LARGE, "too large")), Locate)
    talk.located(at(6, 6))
    talk.fetched(page(7, 8, start=7))
    assert talk.append_fails(BsfgError(Code.TOO_LARGE, "too large")) is None
    assert talk.link.halt is not None and talk.link.halt.reason is HaltReason.UNSTORABLE_FACT


def unstorable(sequence: int) -> BsfgError:
    return BsfgError(Code.TOO_LARGE, "too large", sequence=sequence)


def test_a_fact_that_can_not_be_stored_halts_by_default() -> None:
    talk = level_at(6)
    talk.fetched(page(7, 8, start=7))
    assert talk.append_fails(unstorable(8)) is None
    assert talk.link.halt is not None and talk.link.halt.reason is HaltReason.UNSTORABLE_FACT


def test_where_policy_says_so_it_is_set_aside_and_named_and_the_link_goes_on() -> None:
    talk = Conversation(replace(SETTINGS, sets_aside=True))
    talk.tell(Started())
    talk.located(at(6, 6))
    talk.fetched(page(7, 8, 9, start=7))
    order = talk.append_fails(unstorable(8))
    assert isinstance(order, Quarantine) and order.fact == fact(8)
    assert isinstance(talk.tell(SetAside(order.ticket, 8, 33)), Locate)
    save = talk.located(at(7, 7))
    assert isinstance(save, SaveRecord)
    assert [(each.first, each.reason) for each in save.record.gaps] == [(8, "unstorable_fact")]
    talk.saved()
    append = talk.fetched(page(8, 9, start=8))
    assert isinstance(append, Append) and [each.sequence for each in append.facts] == [9]
    assert talk.link.facts_duplicate == 0, "what was set aside is no duplicate"


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (BsfgError(Code.QUOTA_EXCEEDED, "the quarantine is full"), LinkState.HALTED),
        (StoreFull("the disk is full"), LinkState.LOCAL_FULL),
    ],
)
def test_a_fact_that_can_not_even_be_set_aside_stops_the_link_in_a_named_state(
    error: BsfgError, state: LinkState
) -> None:
    talk = Conversation(replace(SETTINGS, sets_aside=True))
    talk.tell(Started())
    talk.located(at(6, 6))
    talk.fetched(page(7, start=7))
    talk.append_fails(unstorable(7))
    talk.step_fails(error)
    assert talk.state() is state


def test_a_fact_that_no_page_may_carry_halts_the_link() -> None:
    talk = level_at(6)
    talk.fetch_fails(BsfgError(Code.BAD_ANSWER, "fact 7 has reserved headers", sequence=7))
    assert talk.link.halt is not None and talk.link.halt.reason is HaltReason.UNSTORABLE_FACT
