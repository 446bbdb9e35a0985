"""What evidence means, by its values alone: every judgement of the catalog, on both of its sides."""

from __future__ import annotations

from typing import Any, Final

import pytest

from bsfg.checks import access, artifacts, cursors, denial, health, inputs, preconditions, trust
from bsfg.checks.model import Judgement, Outcome
from bsfg.checks.surroundings import PresentedCertificate, Reply
from bsfg.config.address import Address
from bsfg.config.bringup import Inputs, NamedZone, Word
from bsfg.config.values import Durability, LinkConfig
from bsfg.errors import BsfgError, Code
from bsfg.model.cursor import LinkName, parse_init_mode
from bsfg.model.identity import CertificateView, IdentityFrom, IdentityRule
from bsfg.model.moment import NANOSECONDS, format_time
from bsfg.model.names import StreamName, ZoneId

DAY: Final = 86_400 * NANOSECONDS
NOW: Final = 20_000 * DAY
P, E, F, A, N = (
    Outcome.PASSED, Outcome.PASSED_WITH_EXCEPTION, Outcome.FAILED, Outcome.ATTESTED, Outcome.NOT_RUN,
)  # fmt: skip
WORD: Final = Word("Ann", "CHG-1")
RULE: Final = IdentityRule("plant-a-bsfg")


def is_(outcome: Outcome, judgement: Judgement) -> None:
    """The outcome, and for a failure what was found and expected."""
    assert judgement.outcome is outcome, judgement
    assert judgement.summary
    assert (judgement.found is not None and judgement.expected is not None) == (outcome is F), judgement


def view(**changed: Any) -> CertificateView:
    values: dict[str, Any] = {
        "version": 3, "common_name": "plant-a-bsfg", "dns": ("plant-a-bsfg",), "uri": (), "serial": 1,
        "issuer": "CN=CA", "not_before": NOW - DAY, "not_after": NOW + 60 * DAY, "fingerprint": "f" * 64,
    }  # fmt: skip
    return CertificateView(**values | changed)


def shown(**changed: Any) -> PresentedCertificate:
    values: dict[str, Any] = {
        "view": view(), "tls_version": "TLSv1.3", "chain_problem": None, "chain": ("a" * 64,), "is_authority": False,
        "serves": True, "revoked": None,
    }  # fmt: skip
    return PresentedCertificate(**values | changed)


def reply(status: int | None = 200, *, code: str | None = None, cut: str | None = None, body: Any = None) -> Reply:
    return Reply(status, code, body, cut, "TLSv1.3")


def refused(reason: str) -> BsfgError:
    return BsfgError(Code.IDENTITY_REJECTED, "the certificate is refused", reason=reason)


# Section 1


def test_words_are_attested_and_never_passed() -> None:
    is_(A, preconditions.attested({"zone_a": Word("Ann", "C-1", "Passed"), "zone_b": WORD}, "bringup.yaml:3", "x"))
    is_(F, preconditions.attested({"zone_a": WORD, "zone_b": None}, "bringup.yaml:3", "commissioning"))


def test_a_gateway_needs_its_store_and_names_other_problems() -> None:
    status: dict[str, Any] = {"zone": "plant-a", "version": "1", "problems": [], "substrate": {"connected": True}}
    is_(P, preconditions.judge_gateway(status))
    is_(E, preconditions.judge_gateway(status | {"problems": ["link x is halted"]}))
    is_(F, preconditions.judge_gateway(status | {"substrate": {"connected": False, "problem": None}}))


def test_metrics_of_both_zones() -> None:
    is_(P, preconditions.judge_metrics(None, True, "2026-01-01T00:00:00Z"))
    is_(F, preconditions.judge_metrics("status 500", None, None))
    is_(F, preconditions.judge_metrics(None, False, None))
    is_(N, preconditions.judge_metrics(None, None, None))


def test_a_key_that_can_not_be_used() -> None:
    is_(P, preconditions.judge_key(None))
    is_(F, preconditions.judge_key("can be read by others"))


# Section 2

GIVEN: Final = Inputs(
    identities={"a": NamedZone(ZoneId("hq"), "hq-bsfg"), "b": NamedZone(ZoneId("plant-a"), "plant-a-bsfg")},
    endpoints={"a": Address("10.1.1.10", 9443), "b": Address("10.3.1.10", 9443)},
    lines={key: number for number, key in enumerate(("zone_a_identity", "zone_b_identity", "zone_a_endpoint",
           "zone_b_endpoint", "exported_streams"), start=2)},
)  # fmt: skip


def test_identities_are_those_that_run() -> None:
    own, peer = ("plant-a", "plant-a-bsfg"), ("hq", "hq-bsfg")
    is_(P, inputs.judge_identities(GIVEN, own, peer))
    is_(P, inputs.judge_identities(GIVEN, peer, own))
    is_(F, inputs.judge_identities(GIVEN, own, ("hq", "other")))
    is_(F, inputs.judge_identities(GIVEN, ("plant-a", "other"), peer))
    is_(F, inputs.judge_identities(GIVEN, ("plant-b", "x"), peer))
    is_(F, inputs.judge_identities(Inputs(), own, peer))
    contradiction = inputs.judge_identities(GIVEN, own, ("hq", "other"))
    assert contradiction.expected is not None and contradiction.found is not None
    assert contradiction.expected.startswith("config/bringup.yaml:2: hq as hq-bsfg")
    assert contradiction.found.startswith("config/peers.yaml: hq as other")


def test_endpoints_are_those_that_run() -> None:
    peer = Address("10.1.1.10", 9443)
    is_(P, inputs.judge_endpoints(GIVEN, "b", Address("0.0.0.0", 9443), peer))
    is_(P, inputs.judge_endpoints(GIVEN, "b", Address("10.3.1.10", 9443), peer))
    is_(F, inputs.judge_endpoints(GIVEN, "b", Address("0.0.0.0", 9444), peer))
    is_(F, inputs.judge_endpoints(GIVEN, "b", Address("10.3.1.11", 9443), peer))
    is_(F, inputs.judge_endpoints(GIVEN, "b", Address("0.0.0.0", 9443), Address("10.1.1.10", 9444)))
    is_(F, inputs.judge_endpoints(Inputs(), "b", Address("0.0.0.0", 9443), peer))


def test_named_anchors_contain_those_that_vouch() -> None:
    is_(P, inputs.judge_trust_chain("x:6", {"a", "b"}, {"a"}))
    is_(F, inputs.judge_trust_chain("x:6", {"b"}, {"a"}))


def test_sets_are_equal_or_contained() -> None:
    assert inputs.judge_set("x:1", ["a", "b"], "y", ["b", "a"]) is None
    assert inputs.judge_set("x:1", ["a", "b"], "y", ["b"], exact=False) is None
    assert inputs.judge_set("x:1", ["a", "b"], "y", ["b"]) is not None
    assert inputs.judge_set("x:1", ["a"], "y", ["b"], exact=False) is not None


def test_a_missing_input_names_the_file() -> None:
    absent = inputs.missing(GIVEN, "trust_chain", "exported_streams")
    assert absent is not None and absent.found == "config/bringup.yaml has no trust_chain"
    assert inputs.missing(GIVEN, "exported_streams") is None


def test_the_mode_is_that_of_a_link() -> None:
    is_(P, inputs.judge_mode("x:1", "start_now", ["start_now", "full_backfill"]))
    is_(P, inputs.judge_mode("x:1", "start_now", []))
    is_(F, inputs.judge_mode("x:1", "start_now", ["full_backfill"]))


# Section 3


def test_validity_and_expiry() -> None:
    is_(P, trust.judge_validity(view(), NOW))
    is_(F, trust.judge_validity(view(not_after=NOW - 1), NOW))
    is_(F, trust.judge_validity(view(not_before=NOW + 1), NOW))
    is_(P, trust.judge_expiry(view(not_after=NOW + 30 * DAY), NOW))
    is_(F, trust.judge_expiry(view(not_after=NOW + 30 * DAY - 1), NOW))


def test_identity_is_exactly_the_configured_one() -> None:
    is_(P, trust.judge_identity(shown(), RULE))
    is_(F, trust.judge_identity(shown(view=view(dns=("plant-a-bsfg", "other"))), RULE))
    is_(F, trust.judge_identity(shown(is_authority=True), RULE))
    is_(F, trust.judge_identity(shown(serves=False), RULE))
    by_subject = IdentityRule("plant-a-bsfg", IdentityFrom.SUBJECT)
    is_(E, trust.judge_identity(shown(view=view(dns=())), by_subject))
    is_(F, trust.judge_identity(shown(), by_subject))


def test_chain_first_and_dates_next() -> None:
    is_(P, trust.judge_chain(shown()))
    is_(F, trust.judge_chain(shown(chain_problem="no issuer", chain=())))
    is_(F, trust.judge_chain(refused("unknown_ca")))
    for reason in ("expired", "not_yet_valid"):
        is_(P, trust.judge_chain(refused(reason)))
        is_(F, trust.judge_peer_validity(refused(reason), NOW))
    is_(P, trust.judge_peer_validity(shown(), NOW))
    is_(F, trust.judge_peer_validity(shown(view=view(not_after=NOW - 1)), NOW))


def test_anchors_compared_by_fingerprint() -> None:
    is_(P, trust.judge_anchors(shown(chain=("b", "a" * 64)), ["a" * 64, "c"]))
    is_(F, trust.judge_anchors(shown(), ["c" * 64]))
    is_(E, trust.judge_anchors(shown(chain=()), ["c" * 64]))


def test_tls_and_clock() -> None:
    is_(P, trust.judge_tls("TLSv1.3", "TLSv1.3"))
    is_(F, trust.judge_tls("TLSv1.2", "TLSv1.3"))
    is_(F, trust.judge_tls("TLSv1.3", "TLSv1.2"))
    is_(P, trust.judge_clock(-59.0, 0.0))
    is_(P, trust.judge_clock(61.0, 2.0))
    is_(F, trust.judge_clock(600.0, 0.1))
    is_(F, trust.judge_clock(-600.0, 0.1))


def test_revocation() -> None:
    is_(P, trust.judge_revocation(shown(), has_list=True, asks_ocsp=False))
    is_(F, trust.judge_revocation(shown(revoked="serial 1"), has_list=True, asks_ocsp=False))
    is_(E, trust.judge_revocation(shown(), has_list=False, asks_ocsp=False))
    is_(P, trust.judge_revocation(shown(), has_list=False, asks_ocsp=True))
    good, bad = ({"status": word, "responder": "http://x", "detail": "d"} for word in ("good", "revoked"))
    is_(P, trust.judge_ocsp({"ours": good, "theirs": good}))
    is_(F, trust.judge_ocsp({"ours": good, "theirs": bad}))
    is_(E, trust.judge_ocsp({"ours": good, "theirs": good | {"status": "unknown"}}))


# Section 4


def test_what_runs_is_what_lies_on_disk() -> None:
    is_(P, access.judge_active({"a": "1"}, {"a": "1"}, None))
    is_(F, access.judge_active({"a": "1"}, {"a": "2"}, None))
    is_(F, access.judge_active({"a": "1"}, {}, None))
    is_(F, access.judge_active({"a": "1"}, {"a": "1"}, "zone.yaml:1:1: bad"))


def test_allow_list_and_grants() -> None:
    entry = {"id": "hq", "authorized": True, "streams": ["a"], "artifacts": []}
    is_(P, access.judge_listed([entry], "hq"))
    is_(F, access.judge_listed([entry | {"authorized": False}], "hq"))
    is_(F, access.judge_listed([entry], "other"))
    approved = {"streams": ["a", "b"], "artifacts": ["x"]}
    is_(P, access.judge_grants(approved, {"streams": ["b", "a"], "artifacts": ["x"]}))
    is_(F, access.judge_grants(approved, {"streams": ["a"], "artifacts": ["x"]}))
    is_(F, access.judge_grants(approved, {"streams": ["a", "b"], "artifacts": ["x", "y"]}))


def test_exported_streams_and_replicas() -> None:
    good: dict[str, Any] = {"problem": None, "differences": []}
    is_(P, access.judge_exported({"a": good}))
    is_(P, access.judge_exported({}))
    is_(F, access.judge_exported({"a": "no stream a"}))
    is_(F, access.judge_exported({"a": good | {"problem": "subjects overlap"}}))
    is_(F, access.judge_exported({"a": good | {"differences": [{"field": "x", "found": 1, "expected": 2}]}}))
    is_(P, access.judge_replicas({"a": 3}, 3, is_embedded=False))
    is_(F, access.judge_replicas({"a": 3, "b": 1}, 3, is_embedded=False))
    is_(E, access.judge_replicas({"a": 1}, 1, is_embedded=True))


def test_durability_as_configured_or_excepted_in_writing() -> None:
    strict, lazy = Durability.STRICT, Durability.LAZY
    is_(P, access.judge_durability(["strict"], strict, None, None))
    is_(F, access.judge_durability(["strict", "lazy"], strict, None, WORD))
    is_(E, access.judge_durability(["lazy"], lazy, None, WORD))
    is_(F, access.judge_durability(["lazy"], lazy, None, None))
    is_(E, access.judge_durability(["unverified"], strict, "no monitor", WORD))
    is_(F, access.judge_durability(["unverified"], strict, "no monitor", None))
    row = {"stream": "a", "replicas": 3, "durability": "strict"}
    is_(P, access.judge_peer_durability([row], 3, None))
    is_(F, access.judge_peer_durability([row | {"replicas": 1}], 3, None))
    is_(N, access.judge_peer_durability([row | {"durability": None}], 3, None))
    is_(E, access.judge_peer_durability([row | {"durability": "unverified"}], 3, WORD))


def test_what_we_import_is_offered() -> None:
    is_(P, access.judge_readable(["a", "b"], ["a"]))
    is_(F, access.judge_readable(["a"], ["a", "b"]))


def test_a_denial_stands_on_its_twin() -> None:
    is_(P, denial.judge_denial(reply(None, cut="tlsv1 alert unknown ca"), reply()))
    is_(P, denial.judge_denial(reply(403, code="peer_unknown"), reply()))
    is_(F, denial.judge_denial(reply(200), reply()))
    is_(N, denial.judge_denial(reply(403), reply(503)))
    is_(N, denial.judge_denial(reply(None, cut="reset"), reply(None, cut="reset")))
    is_(N, denial.judge_denial(reply(503), reply()))
    is_(P, denial.judge_listing(reply(403, code="stream_denied"), reply(), "stream_denied"))
    is_(F, denial.judge_listing(reply(403, code="peer_unknown"), reply(), "stream_denied"))
    is_(F, denial.judge_listing(reply(200), reply(), "stream_denied"))
    is_(P, denial.judge_unlisted(reply(403, code="peer_unknown"), reply()))
    is_(E, denial.judge_unlisted(reply(None, cut="unknown ca"), reply()))
    is_(F, denial.judge_unlisted(reply(200), reply()))
    is_(N, denial.judge_unlisted(reply(None, cut="reset"), reply(None, cut="reset")))


# Sections 5 and 6


def link(stream: str, mode: str, justification: str | None = None, timestamp: str | None = None) -> LinkConfig:
    return LinkConfig(LinkName(ZoneId("hq"), StreamName(stream)), parse_init_mode(mode, timestamp), justification)


def test_every_granted_stream_has_a_policy() -> None:
    is_(P, cursors.judge_policy(["a"], ["a", "b"]))
    is_(F, cursors.judge_policy(["a", "c"], ["a", "b"]))


@pytest.mark.parametrize(
    ("mode", "hours", "outcome"),
    [("bounded_backfill_24h", 24, P), ("bounded_backfill_24h", 25, F), ("start_now", 1, F), ("full_backfill", 9999, P)],
)
def test_required_history(mode: str, hours: int, outcome: Outcome) -> None:
    is_(outcome, cursors.judge_required_history([link("a", mode)], {"a": hours * 3600}, {}))


def test_a_resolved_start_counts_as_resolved() -> None:
    init = {"mode": "start_now", "timestamp": None, "resolved_at": format_time(NOW)}
    is_(F, cursors.judge_required_history([link("a", "full_backfill")], {"a": 60}, {"a": init}))
    begun = format_time(NOW - 2 * 3600 * NANOSECONDS)
    explicit = {"mode": "explicit_timestamp", "timestamp": begun, "resolved_at": format_time(NOW)}
    links = [link("a", "explicit_timestamp", "x", begun)]
    is_(P, cursors.judge_required_history(links, {"a": 2 * 3600}, {"a": explicit}))
    is_(F, cursors.judge_required_history(links, {"a": 2 * 3600 + 1}, {"a": explicit}))
    is_(P, cursors.judge_required_history(links, {}, {}))


def test_overrides_have_their_justification() -> None:
    is_(P, cursors.judge_overrides([link("a", "start_now", "too much")], "full_backfill"))
    is_(F, cursors.judge_overrides([link("a", "start_now")], "full_backfill"))
    is_(P, cursors.judge_overrides([link("a", "start_now")], "start_now"))


def row(sequence: int | None, **more: Any) -> dict[str, Any]:
    return {
        "stream": "a", "state": "level", "reason": None, "error": None, "epoch": "e", "sequence": sequence,
        "local_sequence": sequence,
    } | more  # fmt: skip


def test_first_fetch() -> None:
    is_(P, cursors.judge_first_fetch({"a": {"appended": 3, "cursor": row(3)}}))
    level, empty = {"appended": 0, "cursor": row(3)}, {"appended": 0, "cursor": row(None)}
    is_(P, cursors.judge_first_fetch({"a": level, "b": empty}))
    is_(E, cursors.judge_first_fetch({"a": {"appended": 0, "cursor": row(None)}}))
    is_(E, cursors.judge_first_fetch({}))
    is_(F, cursors.judge_first_fetch({"a": "stream_denied: no"}))
    is_(F, cursors.judge_first_fetch({"a": {"appended": 0, "cursor": row(3, state="halted", error="gap")}}))


def test_durable_and_monotonic() -> None:
    is_(P, cursors.judge_durable({"a": row(1)}, {"a": row(3)}, {"a": {"last_sequence": 3}}))
    is_(F, cursors.judge_durable({}, {"a": row(3)}, {"a": {"last_sequence": 2}}))
    is_(F, cursors.judge_durable({"a": row(4)}, {"a": row(3)}, {"a": {"last_sequence": 9}}))
    is_(E, cursors.judge_durable({}, {"a": row(None)}, {"a": {"last_sequence": 0}}))
    is_(P, cursors.judge_monotonic({"a": [row(None), row(1), row(1), row(2)]}))
    is_(F, cursors.judge_monotonic({"a": [row(2), row(1)]}))
    is_(P, cursors.judge_monotonic({"a": [row(2), row(1, epoch="f")]}))


def test_cursor_stream_and_consumer_agree() -> None:
    inbound = {"messages": 3, "first_sequence": 1, "last_sequence": 3}
    consumer = {"delivered": {"stream_sequence": 1}, "pending": 2}
    is_(P, cursors.judge_stream_match(row(9, local_sequence=3), inbound, consumer))
    is_(F, cursors.judge_stream_match(row(9, local_sequence=2), inbound, consumer))
    is_(F, cursors.judge_stream_match(row(9, local_sequence=3), inbound, consumer | {"pending": 1}))
    purged = {"messages": 2, "first_sequence": 5, "last_sequence": 6}
    is_(P, cursors.judge_stream_match(row(9, local_sequence=6), purged, consumer))
    empty = {"messages": 0, "first_sequence": 0, "last_sequence": 0}
    is_(E, cursors.judge_stream_match(row(None), empty, consumer))


def test_the_worst_of_several() -> None:
    good, odd = Judgement(P, "a"), Judgement(E, "b")
    assert cursors.combined([good, odd]) is odd
    assert cursors.combined([odd, Judgement(F, "c", "x", "y"), good]).outcome is F
    assert cursors.combined([good, good]).summary == "a; a"


def test_health() -> None:
    body = {"zone": "hq", "identity": "hq-bsfg", "status": "ok", "version": "1"}
    is_(P, health.judge_health(reply(body=body), "hq", "hq-bsfg"))
    is_(E, health.judge_health(reply(body=body | {"status": "degraded"}), "hq", "hq-bsfg"))
    is_(F, health.judge_health(reply(body=body), "hq", "other"))
    is_(F, health.judge_health(reply(403, code="peer_unknown"), "hq", "hq-bsfg"))
    is_(F, health.judge_health(reply(None, cut="unknown ca"), "hq", "hq-bsfg"))
    is_(P, health.judge_reaches_us(True))
    is_(F, health.judge_reaches_us(False))
    is_(N, health.judge_reaches_us(None))


def test_advice_and_signals() -> None:
    is_(P, health.judge_advice([0.1, 0.5, 0.0], [3]))
    is_(P, health.judge_advice([0.1, 2.0, None, 0.5, 0.2], [3]))
    is_(F, health.judge_advice([0.1, 0.2, 0.6, 1.0, 3.0, None], [3]))
    is_(F, health.judge_advice([None] * 6, [3]))
    text = '# HELP bsfg_denied_total x\nbsfg_backlog_facts{a="b"} 1\n'
    is_(P, health.judge_signals(text, ["bsfg_denied", "bsfg_backlog_facts"]))
    is_(F, health.judge_signals("# HELP bsfg_denied_total x\n", ["bsfg_denied", "bsfg_backlog_facts"]))


# Section 7


def test_references_of_facts() -> None:
    uri, digest = "s3://hq-artifacts/batch-files/1.json", "a" * 64
    facts = [
        {"data": "not json"},
        {"data_base64": "AA=="},
        {"data": '{"x": [{"artifact_uri": "s3://other/t/k"}]}'},
        {"data": f'{{"x": [{{"artifact_uri": "{uri}", "artifact_sha256": "{digest}"}}]}}'},
        {"data": f'{{"artifact_uri": "{uri}", "artifact_sha256": "short"}}'},
        {"data": '{"artifact_uri": "s3://../x"}'},
        {"data": "[" * 5000},
    ]
    found = [(str(each), sha256) for each, sha256 in artifacts.references(facts, "hq-artifacts")]
    assert found == [(uri, digest), (uri, None)]


def test_integrity_and_absence() -> None:
    digest = "a" * 64
    is_(P, artifacts.judge_integrity(digest, digest, digest))
    is_(F, artifacts.judge_integrity(digest, digest, "b" * 64))
    is_(F, artifacts.judge_integrity(digest, "b" * 64, digest))
    is_(E, artifacts.judge_integrity(None, digest, digest))
    is_(N, artifacts.judge_integrity(digest, digest, None))
    is_(P, artifacts.judge_missing("artifact_not_found", {"state": "missing", "next_retry": "2026-01-01T00:00:00Z"}))
    is_(E, artifacts.judge_missing("artifact_not_found", None))
    is_(F, artifacts.judge_missing(None, None))
    is_(F, artifacts.judge_missing("artifact_denied", None))


