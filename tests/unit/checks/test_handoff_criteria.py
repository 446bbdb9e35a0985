"""The eleven criteria: what meets each, what leaves it open, and that nothing is met without evidence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
from tests.support.run_records import CHECK_IDS, MADE_AT, check_result, run_record

from bsfg.checks.handoff import compose
from bsfg.checks.handoff_criteria import CRITERIA
from bsfg.checks.handoff_document import CriterionStatus, Handoff
from bsfg.checks.model import CheckResult, Outcome, RunRecord, Severity, Waiver


def document(record: RunRecord) -> Handoff:
    return compose(record, MADE_AT, ["openssl cms"]).document


def changed(changes: Mapping[str, CheckResult | None]) -> Handoff:
    return document(run_record(changed=changes))


def statuses(handoff: Handoff) -> list[CriterionStatus]:
    return [criterion.status for criterion in handoff.criteria]


def test_a_run_in_which_everything_passed_is_accepted() -> None:
    handoff = document(run_record())
    assert statuses(handoff) == [CriterionStatus.MET] * 11
    assert handoff.accepted
    assert handoff.open == ()


@pytest.mark.parametrize("name", CHECK_IDS)
@pytest.mark.parametrize("outcome", [Outcome.FAILED, Outcome.WARNED])
def test_each_check_of_a_criterion_can_unmeet_it(name: str, outcome: Outcome) -> None:
    handoff = changed({name: check_result(name, outcome)})
    expected = [
        CriterionStatus.NOT_MET if name in (*rule.needs, *rule.supports) else CriterionStatus.MET
        for rule in CRITERIA
    ]
    assert statuses(handoff) == expected
    assert not handoff.accepted


@pytest.mark.parametrize("name", sorted({name for rule in CRITERIA for name in rule.needs}))
def test_a_needed_check_that_left_no_result_unmeets_its_criterion(name: str) -> None:
    handoff = changed({name: None})
    unmet = [
        rule.title for rule, status in zip(CRITERIA, statuses(handoff), strict=True) if status == "not met"
    ]
    assert unmet == [rule.title for rule in CRITERIA if name in rule.needs]
    assert any(f"there is no result of the check {name}" in line for line in handoff.open)


@pytest.mark.parametrize("name", CHECK_IDS)
@pytest.mark.parametrize("outcome", [Outcome.PASSED, Outcome.PASSED_WITH_EXCEPTION, Outcome.ATTESTED])
def test_no_criterion_is_met_without_evidence(name: str, outcome: Outcome) -> None:
    handoff = changed({name: check_result(name, outcome, evidence=())})
    assert CriterionStatus.NOT_MET in statuses(handoff)
    assert any("left no evidence" in line for line in handoff.open)


def test_exception_and_word_meet_a_criterion_and_show() -> None:
    handoff = changed(
        {
            "cursor.matches-stream": check_result("cursor.matches-stream", Outcome.PASSED_WITH_EXCEPTION),
            "preconditions.monitoring": check_result("preconditions.monitoring", Outcome.ATTESTED),
        }
    )
    assert handoff.criteria[3].status == CriterionStatus.MET_WITH_EXCEPTION
    assert handoff.criteria[7].status == CriterionStatus.ATTESTED
    assert handoff.accepted


def test_an_empty_source_leaves_replay_open() -> None:
    handoff = changed(
        {"fetch.first": check_result("fetch.first", Outcome.PASSED_WITH_EXCEPTION, summary="no facts")}
    )
    assert handoff.criteria[2].status == CriterionStatus.OPEN
    assert handoff.criteria[1].status == CriterionStatus.MET_WITH_EXCEPTION
    assert handoff.open == ("Replay works: open (no facts)",)


def test_not_run_is_excused_only_where_it_supports_and_nothing_halts_on_it() -> None:
    name = "denial.unlisted-identity"
    missing_means = check_result(name, Outcome.NOT_RUN, summary="no --denial-cert", evidence=())
    assert changed({name: missing_means}).accepted
    halting = changed({name: replace(missing_means, severity=Severity.HALT)})
    assert halting.criteria[0].status == CriterionStatus.NOT_MET
    needed = changed({"partition": check_result("partition", Outcome.NOT_RUN, evidence=())})
    assert needed.criteria[5].status == CriterionStatus.NOT_MET


def test_a_halting_check_of_no_criterion_stands_against_acceptance() -> None:
    for outcome in (Outcome.FAILED, Outcome.NOT_RUN):
        result = check_result("trust.clock", outcome, severity=Severity.HALT)
        handoff = changed({"trust.clock": result})
        assert statuses(handoff) == [CriterionStatus.MET] * 11
        assert not handoff.accepted
        assert changed({"trust.clock": replace(result, severity=Severity.WARN)}).accepted


def test_the_duplicate_replay_drill_may_be_deferred_and_the_harm_is_then_not_disproved() -> None:
    waiver = Waiver("on the validation checklist", "Approver", "CHG-7")
    handoff = changed(
        {"replay.duplicates": check_result("replay.duplicates", Outcome.SKIPPED, waiver=waiver, evidence=())}
    )
    assert handoff.criteria[10].status == CriterionStatus.DEFERRED
    assert handoff.criteria[10].reason == "replay.duplicates skipped: on the validation checklist"
    assert handoff.criteria[4].status == CriterionStatus.NOT_MET


@pytest.mark.parametrize(
    ("enabled", "status"), [(False, "not enabled"), (True, "not met"), (None, "not met")]
)
def test_artifacts_are_asked_for_where_policy_enables_them(enabled: bool | None, status: str) -> None:
    record = run_record(changed={"artifact.fetched": None, "artifact.verified": None})
    handoff = document(replace(record, policies=record.policies | {"artifact_retrieval_enabled": enabled}))
    assert handoff.criteria[6].status == status
    assert handoff.accepted is (enabled is False)


def test_what_is_not_recorded_is_not_documented() -> None:
    record = run_record()
    for name, number in (("cursors", 9), ("authorization", 10)):
        without = {key: value for key, value in record.policies.items() if key != name}
        handoff = document(replace(record, policies=without))
        assert handoff.criteria[number - 1].status == CriterionStatus.NOT_MET
    unjustified = [{"peer": "plant-a", "stream": "facts.orders", "init_mode": "start_now"}]
    handoff = document(replace(record, policies=record.policies | {"cursors": unjustified}))
    assert handoff.criteria[8].reason == "no justification is recorded for facts.orders"


def test_a_check_of_each_stream_counts_under_the_check_s_name() -> None:
    failed = check_result("fetch.first.facts.orders", Outcome.FAILED)
    assert changed({failed.id: failed}).criteria[2].status == CriterionStatus.NOT_MET
    other = check_result("fetch.firstling", Outcome.FAILED)
    assert changed({other.id: other}).criteria[2].status == CriterionStatus.MET


def test_a_run_that_has_not_ended_is_not_accepted() -> None:
    handoff = document(run_record(ended=None))
    assert handoff.open == ("the run of enterprise has not ended",)
