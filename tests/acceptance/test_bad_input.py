"""What is wrong is refused in the contract's words, and what runs goes on: files, names, bodies (I31, I43, I45)."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from tests.support.lab_zones import ENTERPRISE, OPERATIONAL, Lab, Zone, eventually, place_in_file, run
from tests.support.patience import busyness
from tests.support.peer_caller import Caller, behind, calling

from bsfg.cli.local_client import route
from bsfg.errors import BsfgError, Code
from bsfg.lab import program

SCRAPE_SECONDS: Final = 2.0
"""What /metrics answers may be a moment old."""
NOTICED_SECONDS: Final = 10.0
HELP_SECONDS_MAX: Final = 0.2
# The second letter is Cyrillic.
LOOK_ALIKE: Final = "f\u0430cts.operational"
BAD_STREAMS: Final = (
    "facts.*",
    "facts.>",
    "facts operational",
    "facts..operational",
    ".facts",
    "facts.",
    "Facts.operational",
    "facts.operational\n",
    LOOK_ALIKE,
    "facts/operational",
    "in.plant-a.facts",
    "bsfg_links",
    "a" * 65,
    "",
)
BAD_ZONES: Final = ("plant a", "plant-*", "PLANT-A", "plant.a", "pl\u0430nt-a", "a" * 33, "", "-a")

PEERS: Final = "config/peers.yaml"
CURSORS: Final = "config/cursors.yaml"
ZONE: Final = "config/zone.yaml"
# File, what is replaced by what in enterprise's home, line of the problem (None: not our matter here), words.
BAD_FILES: Final = [
    (PEERS, ("authorized:", "autorized:"), 6, "did you mean"),
    (PEERS, ("    streams:", "    authorized: true\n    streams:"), 7, "duplicate key"),
    (PEERS, ("authorized: true", "authorized: no"), 6, "must be true or false"),
    (PEERS, ("authorized: true", "authorized: 1"), 6, "must be true or false"),
    (PEERS, ("[facts.operational,", "[facts.*,"), 7, "facts.*"),
    (PEERS, ("[facts.operational,", "[in.plant-a.facts.orders.g1,"), 7, "in.plant-a"),
    (PEERS, ("[facts.operational,", "[facts.nosuch,"), 7, "facts.nosuch"),
    (PEERS, ("[facts.operational,", f"[{LOOK_ALIKE},"), 7, "u0430"),
    (PEERS, ("id: plant-a", "id: plant a"), 3, "plant a"),
    (PEERS, ("peers:", "peers: ["), None, ""),
    (CURSORS, ("bounded_backfill_24h", "bounded_backfill_0h"), 5, "bounded_backfill"),
    (CURSORS, ("bounded_backfill_24h", "everything"), 5, "everything"),
    (CURSORS, ("bounded_backfill_24h", "full_backfill"), None, "justification"),
    (
        CURSORS,
        ("bounded_backfill_24h", 'explicit_timestamp\n    init_timestamp: "2025-01-15T10:00:00"\n    justification: x'),
        6,
        "zone",
    ),
    (CURSORS, ("peer: plant-a", "peer: plant-z"), 3, "plant-z"),
    (CURSORS, ("facts.orders", "facts..orders"), 4, "facts..orders"),
    (ZONE, ("  - name: facts.operational", "  - {name: facts.operational, max_bytes: 100}"), None, "unit"),
    (ZONE, ("  - name: facts.audit", "  - name: facts.audit\n  - name: facts.audit.more"), None, "facts.audit"),
    (ZONE, ("lab: true", "lab: true\nlimits: {nosuch: 1}"), None, "nosuch"),
    (ZONE, ("lab: true", "lab: yes"), None, "lab must be true or false"),
]


@pytest.fixture
def caller(lab: Lab) -> Iterator[Caller]:
    """Plant-a on one connection to enterprise."""
    with calling(lab.plant, lab.enterprise) as opened:
        yield opened


# Files


@pytest.mark.parametrize(("name", "replacement", "line", "words"), BAD_FILES)
def test_a_bad_file_is_named_by_place_and_changes_nothing(
    lab: Lab, name: str, replacement: tuple[str, str], line: int | None, words: str
) -> None:
    enterprise = lab.enterprise
    active = enterprise.api.get(route("config"))
    with enterprise.changed(enterprise.home / name, replacement):
        checked = enterprise.bsfg("config", "check")
        assert (checked.status, checked.output) == (2, "")
        found = place_in_file(checked.errors)
        assert found is not None, checked.errors
        assert found[0] == name
        assert line in (None, found[1]), checked.errors
        assert words in checked.errors
        assert checked.errors.isascii()
        _is_refused_at_reload(enterprise, name)
        assert enterprise.api.get(route("config")) == active
    assert enterprise.api.post(route("config", "reload"), b"")["reloaded"] is True
    eventually("mended", SCRAPE_SECONDS, lambda: enterprise.metric("bsfg_config_reload_success") == 1.0)
    assert enterprise.api.get(route("status"))["health"] == "ok"


def _is_refused_at_reload(zone: Zone, name: str) -> None:
    """With the place, and for all to see: the metric, health and its problems."""
    with pytest.raises(BsfgError) as caught:
        zone.api.post(route("config", "reload"), b"")
    assert caught.value.code is Code.CONFIGURATION
    assert name in caught.value.message
    eventually("told", SCRAPE_SECONDS, lambda: zone.metric("bsfg_config_reload_success") == 0.0)
    health = zone.api.get(route("status"))
    assert health["health"] == "degraded"
    assert any("configuration" in problem for problem in health["problems"])


def test_a_trust_anchor_that_is_missing_is_refused_and_changes_nothing(lab: Lab) -> None:
    enterprise = lab.enterprise
    with enterprise.changed(enterprise.paths.peers_file, ("certs/plant-a-ca.crt", "certs/nosuch.crt")):
        _is_refused_at_reload(enterprise, "certs/nosuch.crt")
        status, code, message = enterprise.refused("config", "reload")
        assert (status, code) == (2, "configuration")
        assert "nosuch.crt:1:1" in message
        lab.level()
    assert enterprise.ask("config", "reload")["reloaded"] is True


def test_a_bad_file_is_noticed_without_being_told_and_so_is_its_repair(lab: Lab, caller: Caller) -> None:
    enterprise = lab.enterprise
    start = enterprise.log_size()
    with enterprise.changed(enterprise.paths.peers_file, ("authorized:", "autorized:")):
        eventually("noticed", NOTICED_SECONDS, lambda: enterprise.metric("bsfg_config_reload_success") == 0.0)
        rejected = [line for line in enterprise.log(start) if line["event"] == "configuration_rejected"]
        assert place_in_file(rejected[0]["message"]) == (PEERS, 6, 5)
        assert caller.health().status == 200
        assert caller.health().body["status"] == "degraded"
        lab.enterprise.append(OPERATIONAL, b'{"meanwhile":true}')
        lab.level()
    eventually("repaired", NOTICED_SECONDS, lambda: enterprise.metric("bsfg_config_reload_success") == 1.0)
    assert caller.health().body["status"] == "ok"


def test_every_problem_is_named_in_one_pass(lab: Lab) -> None:
    enterprise = lab.enterprise
    with (
        enterprise.changed(enterprise.paths.peers_file, ("authorized: true", "autorized: true\n    streems: []")),
        enterprise.changed(enterprise.paths.cursors_file, ("bounded_backfill_24h", "bounded_backfill_0h")),
    ):
        lines = enterprise.bsfg("config", "check").errors.splitlines()
    places = [place_in_file(line) for line in lines]
    assert None not in places, lines
    assert {found[0] for found in places if found} == {PEERS, CURSORS}
    assert len(lines) >= 4


# Names on the command line


@pytest.mark.parametrize("stream", BAD_STREAMS)
def test_a_bad_stream_name_is_refused_wherever_it_is_typed(lab: Lab, stream: str) -> None:
    for command in (
        ("append", "--stream", stream, "-"),
        ("read", "--stream", stream),
        ("stream", "info", stream),
        ("fetch", "--peer", ENTERPRISE, "--stream", stream),
        ("cursor", "query", "--peer", ENTERPRISE, "--stream", stream),
    ):
        status, code, message = lab.plant.refused(*command, stdin=b"{}")
        assert (status, code) in ((2, "invalid_stream"), (2, "invalid_request")), (command, code, message)
        assert message.isascii()


@pytest.mark.parametrize("zone", BAD_ZONES)
def test_a_bad_peer_name_is_refused_wherever_it_is_typed(lab: Lab, zone: str) -> None:
    for command in (
        ("peer", "check", zone),
        ("fetch", "--peer", zone, "--stream", OPERATIONAL),
        ("admin", "partition", "--peer", zone, "--reason", "test"),
        ("admin", "reconcile", "--peer", zone),
    ):
        status, code, message = lab.plant.refused(*command)
        assert (status, code) == (2, "invalid_request"), (command, code, message)
        assert message.isascii()


def test_unknown_peers_and_streams_are_named_with_those_that_are_known(lab: Lab) -> None:
    plant = lab.plant
    for command, words in [
        (("peer", "check", "plant-z"), "enterprise"),
        (("cursor", "query", "--peer", "plant-z", "--stream", OPERATIONAL), "enterprise"),
        (("cursor", "query", "--peer", ENTERPRISE, "--stream", "facts.nosuch"), "facts.operational"),
        (("fetch", "--peer", ENTERPRISE, "--stream", "facts.nosuch"), "facts.operational"),
        (("stream", "info", "facts.nosuch"), "facts.orders"),
        (("append", "--stream", "facts.nosuch", "-"), "facts.orders"),
        (("read", "--stream", "facts.nosuch", "--peer", ENTERPRISE), "facts.operational"),
        (("admin", "partition", "--peer", "plant-z", "--reason", "test"), "enterprise"),
    ]:
        status, code, message = plant.refused(*command, stdin=b"{}")
        assert (status, code) == (2, "configuration"), (command, code, message)
        assert words in message, message
    # No entry in cursors.yaml: the lines to add.
    done = plant.bsfg("fetch", "--peer", ENTERPRISE, "--stream", "facts.nosuch")
    assert "- peer: enterprise" in done.errors
    assert "stream: facts.nosuch" in done.errors


@pytest.mark.parametrize("tail", ["a..b", "a b", "*", "a.>", ".a", "a.", "x" * 300])
def test_a_bad_subject_tail_appends_nothing(lab: Lab, tail: str) -> None:
    before = lab.plant.stream("facts.orders")["last_sequence"]
    status, code, _ = lab.plant.refused("append", "--stream", "facts.orders", "--subject", tail, "-", stdin=b"{}")
    assert (status, code) == (2, "invalid_request")
    assert lab.plant.stream("facts.orders")["last_sequence"] == before


def test_reserved_headers_and_too_large_payloads_append_nothing(lab: Lab) -> None:
    plant = lab.plant
    before = plant.stream("facts.orders")["last_sequence"]
    for name in ("Nats-Rollup", "Nats-Msg-Id", "bsfg-origin", "NATS-Expected-Last-Sequence"):
        envelope = json.dumps({"data": "{}", "headers": [[name, "all"]]}).encode()
        status, code, message = plant.refused("append", "--stream", "facts.orders", "--envelope", "-", stdin=envelope)
        assert (status, code) == (2, "invalid_request"), message
    too_large = b"x" * (1024 * 1024 + 1)
    status, code, _ = plant.refused("append", "--stream", "facts.orders", "-", stdin=too_large)
    assert (status, code) == (1, "too_large")
    assert plant.stream("facts.orders")["last_sequence"] == before
    largest = plant.ask("append", "--stream", "facts.orders", "-", stdin=too_large[1:])
    assert largest["last_sequence"] == before + 1


def test_help_answers_at_once() -> None:
    seconds = min(run(*program.command_line("--help")).seconds for _ in range(5))
    print(f"bsfg --help: {seconds * 1000:.0f} ms")
    assert seconds < HELP_SECONDS_MAX * busyness()


# Bodies on the peer listener


FETCH: Final = {"stream": OPERATIONAL, "cursor_policy": "full_backfill"}
BAD_FETCHES: Final[list[tuple[dict[str, Any] | bytes, int, str]]] = [
    (b"", 400, "invalid_request"),
    (b"not json", 400, "invalid_request"),
    (b"\xff\xfe{}", 400, "invalid_request"),
    (b"[]", 400, "invalid_request"),
    (b"null", 400, "invalid_request"),
    (b"[" * 10_000, 400, "invalid_request"),
    (b'{"stream":"facts.operational","stream":"facts.audit","cursor_policy":"start_now"}', 400, "invalid_request"),
    (b'{"stream":"facts.operational","cursor_policy":"start_now","max_facts":NaN}', 400, "invalid_request"),
    (FETCH | {"surprise": 1}, 400, "unknown_field"),
    (FETCH | {"after": None}, 400, "invalid_request"),
    ({"cursor_policy": "start_now"}, 400, "invalid_request"),
    ({"stream": OPERATIONAL}, 400, "invalid_request"),
    (FETCH | {"stream": 5}, 400, "invalid_request"),
    (FETCH | {"stream": None}, 400, "invalid_request"),
    (FETCH | {"max_facts": "10"}, 400, "invalid_request"),
    (FETCH | {"max_facts": 1.5}, 400, "invalid_request"),
    (FETCH | {"max_facts": True}, 400, "invalid_request"),
    (FETCH | {"max_facts": 0}, 400, "invalid_request"),
    (FETCH | {"max_bytes": 0}, 400, "invalid_request"),
    (FETCH | {"wait_ms": -1}, 400, "invalid_request"),
    (FETCH | {"pages": 0}, 400, "invalid_request"),
    (FETCH | {"cursor_policy": "bounded_backfill_0h"}, 400, "init_rejected"),
    (FETCH | {"cursor_policy": "nosuch"}, 400, "init_rejected"),
    (FETCH | {"cursor_policy": "explicit_timestamp"}, 400, "init_rejected"),
    (
        FETCH | {"cursor_policy": "explicit_timestamp", "init_timestamp": "2025-01-15T10:00:00"},
        400,
        "init_rejected",
    ),
    (FETCH | {"accept_gap": {"from": 1, "to": 2}}, 400, "invalid_request"),
    (FETCH | {"stream": "facts.telemetry"}, 403, "stream_denied"),
    (FETCH | {"stream": "facts.nosuch"}, 403, "stream_denied"),
    (b" " * (2 * 1024 * 1024), 413, "too_large"),
]


@pytest.mark.parametrize(("body", "status", "code"), BAD_FETCHES)
def test_a_bad_fetch_gets_the_contracts_code(
    caller: Caller, body: dict[str, Any] | bytes, status: int, code: str
) -> None:
    assert caller.fetch(**FETCH).status == 200
    said = caller.say("POST", "/v1/fetch", body)
    assert (said.status, said.code) == (status, code)
    error = said.body["error"]
    assert re.fullmatch(r"[0-9a-f]{16}", error["request_id"])
    assert error["message"].isascii()
    assert "Traceback" not in said.content.decode()


@pytest.mark.parametrize("stream", BAD_STREAMS)
def test_a_bad_stream_name_of_a_peer_is_invalid(caller: Caller, stream: str) -> None:
    said = caller.fetch(**(FETCH | {"stream": stream}))
    assert (said.status, said.code) == (400, "invalid_stream")
    assert said.content.isascii()


def test_larger_numbers_are_clamped(caller: Caller) -> None:
    said = caller.fetch(**FETCH, max_facts=10**30, max_bytes=10**30, pages=10**30)
    assert said.status == 200


def test_a_bad_position_gets_the_contracts_code(lab: Lab, caller: Caller) -> None:
    lab.enterprise.append(OPERATIONAL, b"{}", b"{}")
    good = behind(lab.level())
    assert caller.fetch(stream=OPERATIONAL, after=good).body["agreement"] == "exact"
    beyond = good["scanned_through"] + 1_000
    for change, status, code in [
        ({"epoch": "0" * 16}, 409, "history_mismatch"),
        ({"digest": "0" * 64}, 409, "history_mismatch"),
        ({"sequence": beyond, "scanned_through": beyond}, 409, "ahead_of_source"),
        ({"scanned_through": good["sequence"] - 1}, 400, "invalid_request"),
        ({"digest": "A" * 64}, 400, "invalid_request"),
        ({"sequence": True}, 400, "invalid_request"),
        ({"sequence": None}, 400, "invalid_request"),
        ({"epoch": "../../etc"}, 400, "invalid_request"),
        ({"scanned_through": 2**63}, 400, "invalid_request"),
        ({"surprise": 1}, 400, "unknown_field"),
    ]:
        said = caller.fetch(stream=OPERATIONAL, after=good | change)
        assert (said.status, said.code) == (status, code), change
    confirm = {"stream": OPERATIONAL} | {name: good[name] for name in ("epoch", "sequence", "digest")}
    assert caller.say("POST", "/v1/confirm", confirm).status == 200
    for change, status, code in [
        ({"sequence": beyond}, 409, "ahead_of_source"),
        ({"epoch": "0" * 16}, 409, "history_mismatch"),
        ({"digest": "0" * 64}, 409, "history_mismatch"),
        ({"stream": "facts.telemetry"}, 403, "stream_denied"),
        ({"sequence": "1"}, 400, "invalid_request"),
        ({"scanned_through": 1}, 400, "unknown_field"),
    ]:
        said = caller.say("POST", "/v1/confirm", confirm | change)
        assert (said.status, said.code) == (status, code), change


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/metrics", 404),
        ("GET", "/v1/status", 404),
        ("POST", "/v1/append?stream=facts.operational", 404),
        ("POST", "/v1/partitions", 404),
        ("POST", "/v1/config/reload", 404),
        ("GET", "/v1/../v1/status", 404),
        ("GET", "/health/", 404),
        ("GET", "/v1/fetch", 405),
        ("DELETE", "/health", 405),
    ],
)
def test_no_other_path_exists_for_peers(caller: Caller, method: str, path: str, status: int) -> None:
    """No way leads from the peer listener to an operator's (I37)."""
    said = caller.say(method, path)
    assert said.status == status
    assert caller.health().status == 200


def test_denied_and_absent_look_the_same(caller: Caller) -> None:
    """Byte for byte, but for the name that was asked for and the request's id."""

    def blurred(stream: str) -> tuple[int | None, list[tuple[str, str]], bytes]:
        said = caller.fetch(**(FETCH | {"stream": stream}))
        content = re.sub(rb'"request_id": ?"[0-9a-f]{16}"', b"", said.content).replace(stream.encode(), b"")
        return said.status, [pair for pair in said.headers if pair[0] != "Date"], content

    denied, absent = blurred("facts.telemetry"), blurred("facts.telemetrz")
    assert denied == absent
    assert denied[0] == 403


def test_nothing_of_all_this_is_an_alarm_for_the_link(lab: Lab) -> None:
    """After everything above both zones are as healthy as before, and facts flow."""
    lab.enterprise.append(OPERATIONAL, b'{"after":"all"}')
    cursor = lab.level()
    assert cursor["gaps"] == []
    for zone in (lab.enterprise, lab.plant):
        assert zone.status()["health"] == "ok"
        assert not [line for line in zone.log() if line["event"] in ("request_failed", "link_fault")]
        assert _faults(zone) == []


def _faults(zone: Zone) -> list[str]:
    said = Path(zone.home / "data" / "gateway.stderr").read_text()
    return [line for line in said.splitlines() if "Traceback" in line or "unexpected" in line]
