"""One wanted artifact as a conversation: what happened, what is done about it, what people see."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from bsfg.core.backoff import Backoff
from bsfg.core.retrieval import (
    Announce,
    Command,
    Due,
    Event,
    Forget,
    Keep,
    Patience,
    PeerBack,
    Phase,
    PolicyChanged,
    Referenced,
    Restarted,
    Retried,
    Retrieval,
    Transfer,
    TransferFailed,
    Verified,
    advance,
    cause_of,
)
from bsfg.errors import ArtifactCorrupt, BsfgError, Code, PeerRefused, PeerUnreachable, StoreFull
from bsfg.model.artifact import ArtifactState, parse_artifact_uri
from bsfg.model.moment import NANOSECONDS
from bsfg.model.names import ZoneId
from bsfg.model.wanted import Cause, WantedArtifact

NAMED, OTHER = "aa" * 32, "bb" * 32
ARTIFACT = WantedArtifact(
    ZoneId("enterprise"), parse_artifact_uri("s3://enterprise-bsfg-artifacts/batch-files/1.json"), NAMED, 10
)
PATIENCE = Patience(Backoff(1.0, 300.0), Backoff(0.2, 8.0))

MISSING = PeerRefused(Code.ARTIFACT_NOT_FOUND, "it is not there")
DENIED = PeerRefused(Code.ARTIFACT_DENIED, "not available to this peer")
AWAY = PeerUnreachable("the connection was closed", reason="reset")
FULL = StoreFull("no space left")
QUOTA = BsfgError(Code.QUOTA_EXCEEDED, "the quota of this owner is used up")
SWAPPED = ArtifactCorrupt("its bytes are others", expected_sha256=NAMED, sha256=OTHER)
STRANGE = BsfgError(Code.BAD_ANSWER, "the peer's answer breaks the contract")
ERRORS = [MISSING, DENIED, AWAY, FULL, QUOTA, SWAPPED, STRANGE]


class Conversation:
    """One artifact, told of events in order; time stands still unless it is moved."""

    def __init__(self, artifact: WantedArtifact = ARTIFACT) -> None:
        self.retrieval = Retrieval(artifact, PATIENCE)
        self.now = 1_000 * NANOSECONDS
        self.kept: WantedArtifact | None = artifact
        """What is on the durable list."""
        self.said: list[str] = []

    def hear(self, event: Event) -> list[Command]:
        self.retrieval, commands = advance(self.retrieval, event)
        for command in commands:
            match command:
                case Keep():
                    self.kept = self.retrieval.artifact
                case Forget():
                    self.kept = None
                case Announce(event=name):
                    self.said.append(name)
        return list(commands)

    def begin(self) -> int:
        (transfer,) = self.hear(Due())
        assert isinstance(transfer, Transfer)
        return transfer.ticket

    def fail(self, error: BsfgError, *, has_moved: bool = False, chance: float = 0.5) -> float:
        """A transfer that ends like this; the pause behind it in seconds, -1 where there is none."""
        ticket = self.begin()
        self.hear(TransferFailed(ticket, error, has_moved, self.now, chance))
        due = self.retrieval.artifact.due_at
        return -1 if due is None else (due - self.now) / NANOSECONDS

    def restart(self) -> None:
        """The gateway is killed and comes back with what was durable."""
        assert self.kept is not None
        self.retrieval = Retrieval(self.kept, PATIENCE)
        self.hear(Restarted(self.now))

    @property
    def seen(self) -> tuple[ArtifactState, Cause | None]:
        return self.retrieval.artifact.state, self.retrieval.artifact.cause


def test_it_is_there_and_comes_and_leaves_the_list() -> None:
    talk = Conversation()
    ticket = talk.begin()
    assert talk.hear(Verified(ticket)) == [Forget()]
    assert (talk.seen, talk.kept, talk.said) == ((ArtifactState.VERIFIED, None), None, [])
    assert talk.retrieval.phase is Phase.DONE


def test_a_cut_keeps_it_pending_and_is_no_alert() -> None:
    talk = Conversation()
    assert 0.1 <= talk.fail(AWAY, has_moved=True) <= 0.2
    assert talk.seen == (ArtifactState.PENDING, Cause.UNREACHABLE)
    assert talk.said == []


def test_cuts_that_bring_bytes_do_not_lengthen_the_pause_and_those_that_bring_none_do() -> None:
    talk = Conversation()
    moved = [talk.fail(AWAY, has_moved=True) for _ in range(10)]
    assert len(set(moved)) == 1
    still = [talk.fail(AWAY) for _ in range(12)]
    assert still == sorted(still) and still[-1] <= 8.0 and still[-1] == still[-2]


def test_missing_is_told_once_and_retried_ever_more_seldom_across_restarts() -> None:
    talk = Conversation()
    pauses = []
    for _ in range(14):
        pauses.append(talk.fail(MISSING))
        talk.restart()
    assert talk.seen == (ArtifactState.MISSING, Cause.MISSING)
    assert talk.said == ["artifact_missing"]
    assert pauses[:3] == [0.75, 1.5, 3.0] and pauses[-1] == 225.0


def test_chance_spreads_the_pauses() -> None:
    assert Conversation().fail(MISSING, chance=0.0) < Conversation().fail(MISSING, chance=0.9)


def test_a_restart_waits_for_the_rest_of_the_pause_and_no_longer_than_the_longest() -> None:
    talk = Conversation()
    talk.fail(MISSING)
    due = talk.retrieval.artifact.due_at
    talk.restart()
    assert talk.retrieval.artifact.due_at == due
    talk.now -= 86_400 * NANOSECONDS
    talk.restart()
    due = talk.retrieval.artifact.due_at
    assert due is not None and (due - talk.now) / NANOSECONDS == 300.0


def test_one_that_appears_later_is_told_too() -> None:
    talk = Conversation()
    talk.fail(MISSING)
    talk.hear(Verified(talk.begin()))
    assert talk.said == ["artifact_missing", "artifact_recovered"]
    assert talk.kept is None


def test_a_peer_that_goes_away_leaves_a_missing_one_missing() -> None:
    talk = Conversation()
    talk.fail(MISSING)
    talk.fail(AWAY)
    assert talk.seen == (ArtifactState.MISSING, Cause.UNREACHABLE)


def test_other_bytes_are_named_with_their_digest_and_retried() -> None:
    talk = Conversation()
    assert talk.fail(SWAPPED) > 0
    assert talk.seen == (ArtifactState.CORRUPT, Cause.CORRUPT)
    assert talk.retrieval.artifact.found_sha256 == OTHER
    assert talk.kept == talk.retrieval.artifact
    talk.fail(SWAPPED)
    assert talk.said == ["artifact_corrupt"]


def test_forbidden_is_not_asked_for_again_until_policy_changes() -> None:
    talk = Conversation()
    assert talk.fail(DENIED) == -1
    assert talk.seen == (ArtifactState.FORBIDDEN, Cause.FORBIDDEN)
    assert talk.hear(Due()) == []
    talk.restart()
    assert talk.hear(Due()) == [] and talk.hear(PeerBack(talk.now)) == []
    talk.hear(PolicyChanged(talk.now))
    talk.hear(Verified(talk.begin()))
    assert talk.said == ["artifact_forbidden", "artifact_recovered"]


def test_an_operator_may_ask_for_a_forbidden_one() -> None:
    talk = Conversation()
    talk.fail(DENIED)
    talk.hear(Retried(talk.now))
    assert talk.begin()


def test_a_denial_of_the_policy_before_does_not_count_for_the_one_after() -> None:
    talk = Conversation()
    ticket = talk.begin()
    talk.hear(PolicyChanged(talk.now))
    talk.hear(TransferFailed(ticket, DENIED, False, talk.now, 0.5))
    assert talk.retrieval.phase is Phase.WAITING
    assert talk.begin()


def test_no_room_is_named_and_retried() -> None:
    for error in (FULL, QUOTA):
        talk = Conversation()
        assert talk.fail(error) > 0
        assert talk.seen == (ArtifactState.PENDING, Cause.NO_ROOM)
        assert talk.said == ["artifact_no_room"]


def test_what_waits_for_the_peer_goes_on_when_it_is_back_and_nothing_else_does() -> None:
    waiting, missing = Conversation(), Conversation()
    waiting.fail(AWAY)
    missing.fail(MISSING)
    due = missing.retrieval.artifact.due_at
    for talk in (waiting, missing):
        talk.hear(PeerBack(talk.now))
    assert waiting.retrieval.artifact.due_at == waiting.now
    assert missing.retrieval.artifact.due_at == due


def test_an_answer_to_another_transfer_is_dropped() -> None:
    talk = Conversation()
    ticket = talk.begin()
    assert talk.hear(Verified(ticket - 1)) == []
    assert talk.hear(TransferFailed(ticket + 1, MISSING, False, talk.now, 0.5)) == []
    assert talk.hear(Due()) == [] and talk.hear(Retried(talk.now)) == []
    assert talk.retrieval.phase is Phase.FETCHING


def test_a_thousand_facts_are_one_entry() -> None:
    talk = Conversation()
    for _ in range(1_000):
        talk.hear(Referenced(1))
    assert talk.kept == replace(ARTIFACT, references=1_000)


def test_what_nobody_foresaw_is_retried_too() -> None:
    assert cause_of(STRANGE) is Cause.REFUSED
    talk = Conversation()
    assert talk.fail(STRANGE) > 0
    assert talk.said == ["artifact_refused"]


HAPPENINGS = st.one_of(
    st.just("restart"),
    st.just("retried"),
    st.just("policy"),
    st.just("back"),
    st.just("referenced"),
    st.tuples(st.sampled_from(ERRORS), st.booleans(), st.floats(0, 0.99)),
)


@given(st.lists(HAPPENINGS, max_size=40))
def test_any_sequence_ends_in_verified_bytes_or_a_named_state(happenings: list[object]) -> None:
    """Cuts, restarts, denials and retries in any order: there is always a next attempt or a forbidden state, each
    alert comes once, the durable entry tells the same, and a peer that gives the bytes ends it."""
    talk = Conversation()
    for happening in happenings:
        match happening:
            case "restart":
                talk.restart()
            case "retried":
                talk.hear(Retried(talk.now))
            case "policy":
                talk.hear(PolicyChanged(talk.now))
            case "back":
                talk.hear(PeerBack(talk.now))
            case "referenced":
                talk.hear(Referenced(1))
            case (BsfgError() as error, bool() as has_moved, float() as chance):
                if talk.retrieval.phase is Phase.REFUSED:
                    continue
                talk.fail(error, has_moved=has_moved, chance=chance)
        artifact = talk.retrieval.artifact
        if talk.retrieval.phase is Phase.REFUSED:
            assert artifact.state is ArtifactState.FORBIDDEN and artifact.due_at is None
        else:
            assert artifact.due_at is not None and artifact.due_at <= talk.now + 300 * NANOSECONDS
        assert len(talk.said) == len(set(talk.said))
        assert talk.kept is not None
        assert (talk.kept.state, talk.kept.failures) == (artifact.state, artifact.failures)
    if talk.retrieval.phase is Phase.REFUSED:
        talk.hear(Retried(talk.now))
    talk.hear(Verified(talk.begin()))
    assert (talk.retrieval.artifact.state, talk.kept) == (ArtifactState.VERIFIED, None)
